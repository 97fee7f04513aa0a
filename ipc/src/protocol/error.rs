//! What is wrong with a frame or a message.

use super::{FRAME_MAX, VERSION_MAX, VERSION_MIN};
use crate::fdpass::DESCRIPTORS_MAX;

/// What is wrong with a frame or a message.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The length of a frame is beyond the maximum.
    #[error("a frame of {0} bytes is longer than the protocol allows ({FRAME_MAX}); is the peer a sandboxd?")]
    FrameTooLong(usize),
    /// The stream ended inside a frame.
    #[error("the connection ended in the middle of a frame")]
    FrameCut,
    /// More descriptors than any message may have.
    #[error("{0} file descriptors came with one frame; at most {DESCRIPTORS_MAX} may")]
    TooManyDescriptors(usize),
    /// The first frame of a peer is no hello.
    #[error("the peer does not speak the sandboxd protocol: its first frame is no hello")]
    NotHello,
    /// The peers have no version in common.
    #[error(
        "the daemon speaks versions {theirs_min} to {theirs_max} of the job protocol, this client {VERSION_MIN} \
         to {VERSION_MAX}; update the older of the two"
    )]
    Version {
        /// Oldest version of the daemon.
        theirs_min: u16,
        /// Newest version of the daemon.
        theirs_max: u16,
    },
    /// The daemon accepted the version, but not the connection.
    #[error("the daemon refused the connection: {0}")]
    Refused(String),
    /// A frame that is no message of the agreed version.
    #[error("a frame of {bytes} bytes is no valid message: {reason}")]
    Malformed {
        /// Bytes in the frame.
        bytes: usize,
        /// What postcard says.
        reason: String,
    },
    /// A message that does not fit a frame.
    #[error(
        "a message of {0} bytes does not fit a frame ({FRAME_MAX}); arguments, environment and policy are too long"
    )]
    MessageTooLong(usize),
    /// A message names a descriptor that did not come with it.
    #[error("the message names file descriptor {index}, but {count} came with it")]
    NoSuchDescriptor {
        /// Position that was named.
        index: u8,
        /// Descriptors that came.
        count: usize,
    },
    /// A message names a descriptor twice.
    #[error("the message names file descriptor {0} twice")]
    DescriptorTwice(u8),
    /// A descriptor came that the message does not name.
    #[error("file descriptor {0} came with the message, which does not name it")]
    DescriptorUnused(usize),
}
