//! The job protocol between a host app and the daemon. `docs/protocol.md` describes it for implementers.
//!
//! A connection carries *frames* ([`framing`]): a length (`u32`, little endian), then that many bytes, at most [`FRAME_MAX`].
//! Bulk data does not travel in frames: modules, directories and stdio are file descriptors that come with the
//! first byte of the frame that speaks of them, and are named by their position ([`descriptors`]).
//!
//! The first frame in each direction has a fixed layout ([`hello`]), the same in all versions; every later frame is a
//! [`Request`] or a [`Response`] in postcard form, as of the agreed version. One request is answered by one response; a
//! connection runs one job or one operation of a session at a time. Meanwhile the daemon may have the client answer calls of
//! functions that it serves ([`imports`]).
//!
//! Either side treats the other's frames as hostile: lengths are checked before anything is allocated, a frame
//! must be used up to its last byte, every descriptor must be named exactly once.

use std::path::PathBuf;

pub mod bytes;
pub mod descriptors;
mod error;
pub mod framing;
pub mod hello;
pub mod imports;
pub mod requests;
pub mod responses;
pub mod session;
#[cfg(test)]
mod tests;
pub mod typed;

pub use bytes::Bytes;
pub use descriptors::{Descriptor, Descriptors};
pub use error::ProtocolError;
pub use framing::{Frame, FrameReader, decode, encode, frame};
pub use hello::{ClientHello, ServerHello};
pub use imports::{
    CallId, FunctionImport, HostCall, HostResult, HostReturn, ImportItem, ImportRequest, Invocation, Payload,
};
pub use requests::{
    EntryRequest, LimitsRequest, LoadRequest, ModuleFormat, ModuleId, ModuleRef, ModuleSource, PolicyRequest,
    PreopenRequest, Request, RunRequest, SetupRequest,
};
pub use responses::{ErrorKind, ErrorReply, PolicyInfo, Reloaded, Response, Status};
pub use session::{MemoryName, SessionId, SessionOperation, SessionReply, SessionRequest};
pub use typed::{HandleChanges, OpenedHandle, TypedScalar, TypedValue};

/// First bytes of both hellos.
pub const MAGIC: [u8; 8] = *b"sandboxd";
/// Oldest version of the protocol that this build speaks.
pub const VERSION_MIN: u16 = 6;
/// Newest version of the protocol that this build speaks.
pub const VERSION_MAX: u16 = 6;
/// Bytes of the largest frame, its length not counted: the strings of a job (1 MiB), a policy, and room.
pub const FRAME_MAX: usize = 2 << 20;
/// Bytes of the length before each frame.
pub const HEADER_BYTES: usize = 4;
/// Bytes that the file of a module may have. What the compiler accepts may be less.
pub const MODULE_BYTES_MAX: u64 = 1 << 30;
/// Directories that a job may have.
pub const PREOPENS_MAX: usize = 64;
/// Most sockets of one job.
pub const SOCKETS_MAX: usize = 16;
/// Imports that a client may provide for one job or session.
pub const IMPORTS_MAX: usize = 1024;
/// Interfaces of typed functions that a client may serve for one job or session.
pub const INTERFACES_MAX: usize = 16;
/// Bytes that they may have together, as they are sent.
pub const INTERFACES_BYTES_MAX: usize = 256 << 10;
/// Sessions that a connection may have open.
pub const SESSIONS_MAX: usize = 64;
/// Bytes of a memory that one message may read or write.
pub const MEMORY_BYTES_MAX: usize = 1 << 20;
/// Characters of a message in a reply; longer ones are cut.
pub const MESSAGE_MAX: usize = 4096;

/// Where a daemon of this user listens unless told otherwise: `/run/sandboxd/sandboxd.sock` for root, else
/// `sandboxd.sock` in the user's runtime directory (`XDG_RUNTIME_DIR`); `None` for a user without one.
pub fn default_socket() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/run/sandboxd/sandboxd.sock"));
    }
    let directory = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    directory.is_absolute().then(|| directory.join("sandboxd.sock"))
}

/// The text on one line and of bounded length, whatever it quotes.
pub fn one_line(text: &str) -> String {
    text.chars().take(MESSAGE_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
