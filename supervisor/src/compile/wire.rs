//! What supervisor, compile zygote and worker say to each other.

use ipc::control::Step;
use serde::{Deserialize, Serialize};

/// Name of the compile zygote's process and of its workers, and the first argument that makes this program one.
pub(super) const NAME: &std::ffi::CStr = c"sandbox-compile";

/// Descriptors that come with a request: input, output, messages, progress, the socket for replies.
pub(super) const REQUEST_FDS: usize = 5;

/// Longest request.
pub(super) const REQUEST_MAX: usize = 4096;

/// Bytes of messages (of panics, of the allocator) that a worker may write.
pub(super) const MESSAGES_MAX: usize = 16 << 10;

/// Longest answer in the place of an output.
pub(super) const ANSWER_MAX: usize = 64 << 10;

/// Bytes by which a worker tells how far it is: functions compiled, and functions to compile, as words of this machine.
pub(super) const PROGRESS_BYTES: usize = 16;

/// What a worker makes of its input.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Make {
    /// Nothing: the module is checked.
    Nothing,
    /// The list of what the host side provides, a `Vec` of [`compiler::metadata::Import`].
    Imports,
    /// An artifact.
    Artifact,
    /// A listing, as text.
    Listing(compiler::Listing),
}

/// To the zygote: fork a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) make: Make,
    /// Bytes of the input.
    pub(super) input_bytes: u64,
    pub(super) options: compiler::Options,
    pub(super) limits: WorkerLimits,
    /// What a test has the worker do instead.
    #[cfg(test)]
    pub(super) hook: Option<super::tests::Hook>,
}

impl Request {
    /// The bytes to send. First the version, so that nothing else is decoded by a zygote of another one.
    pub(super) fn to_packet(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_extend(self, version().to_vec())
    }

    /// The request in a packet of this version.
    pub(super) fn from_packet(packet: &[u8]) -> Result<Self, (Step, i32)> {
        let request = packet.strip_prefix(&version()).ok_or((Step::OtherVersion, libc::EPROTO))?;
        postcard::from_bytes(request).map_err(|_| (Step::Receive, libc::EBADMSG))
    }
}

/// What both sides must have in common: the compiler, whose artifacts are kept under its version, and the sources beside this
/// file.
fn version() -> [u8; blake3::OUT_LEN] {
    let sources = concat!(include_str!("wire.rs"), include_str!("worker.rs"), include_str!("zygote.rs"));
    *blake3::hash([&compiler::version(), sources].concat().as_bytes()).as_bytes()
}

/// Limits that a worker puts on itself.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WorkerLimits {
    pub(super) memory: u64,
    pub(super) cpu_seconds: u64,
    pub(super) output_bytes: u64,
}

/// What a worker writes when it does not write what it was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The module is refused.
    Refused(compiler::Diagnostic),
    /// A step before compilation failed: a number of [`ipc::control::Step`], and the error number.
    Step { step: u32, errno: i32 },
}

/// Exit statuses of a worker.
pub(super) mod status {
    /// The output is what was asked for.
    pub(in super::super) const MADE: i32 = 0;
    /// The output is an [`super::Answer`].
    pub(in super::super) const ANSWER: i32 = 1;
    /// The output could not be written: it is too large.
    pub(in super::super) const TOO_LARGE: i32 = 2;
    /// A panic; the messages say more.
    pub(in super::super) const PANIC: i32 = 3;
    /// An abort, which is what the allocator does when memory is used up; the messages say more.
    pub(in super::super) const ABORT: i32 = 4;
}
