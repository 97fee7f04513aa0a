//! What supervisor, compile zygote and worker say to each other.

use serde::{Deserialize, Serialize};

/// Name of the compile zygote's process and of its workers, and the first argument that makes this program one.
pub(super) const NAME: &std::ffi::CStr = c"sandbox-compile";

/// Descriptors that come with a request: input, output, messages, the socket for replies.
pub(super) const REQUEST_FDS: usize = 4;

/// Longest request.
pub(super) const REQUEST_MAX: usize = 4096;

/// Bytes of messages (of panics, of the allocator) that a worker may write.
pub(super) const MESSAGES_MAX: usize = 16 << 10;

/// Longest answer in the place of an artifact.
pub(super) const ANSWER_MAX: usize = 64 << 10;

/// To the zygote: fork a worker that compiles the input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Bytes of the input.
    pub(super) input_bytes: u64,
    pub(super) options: compiler::Options,
    pub(super) limits: WorkerLimits,
    /// What a test has the worker do instead.
    #[cfg(test)]
    pub(super) hook: Option<super::tests::Hook>,
}

/// Limits that a worker puts on itself.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WorkerLimits {
    pub(super) memory: u64,
    pub(super) cpu_seconds: u64,
    pub(super) output_bytes: u64,
}

/// What a worker writes when it writes no artifact.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The module is refused.
    Refused { message: String },
    /// A step before compilation failed: a number of [`ipc::control::Step`], and the error number.
    Step { step: u32, errno: i32 },
}

/// Exit statuses of a worker.
pub(super) mod status {
    /// The output is an artifact.
    pub(in super::super) const ARTIFACT: i32 = 0;
    /// The output is an [`super::Answer`].
    pub(in super::super) const ANSWER: i32 = 1;
    /// The output could not be written: it is too large.
    pub(in super::super) const TOO_LARGE: i32 = 2;
    /// A panic; the messages say more.
    pub(in super::super) const PANIC: i32 = 3;
    /// An abort, which is what the allocator does when memory is used up; the messages say more.
    pub(in super::super) const ABORT: i32 = 4;
}
