//! The conversation of a session: several calls, one after the other, on one instance.
//!
//! A session's instance runs nothing by itself. It submits a [`REPLY`] on its ring like a host call, and what comes back in
//! the place of the completion is a [`Command`]: the next thing to do. Carried out, it is answered by the next reply. So
//! there is never more than one command under way, and the instance needs no system call that host calls do not need.
//!
//! A call's parameters and results lie in the values ([`crate::job::VALUES_OFFSET`]), the bytes of a read or write at the
//! start of the arena ([`crate::job::ARENA_OFFSET`]). A call that traps leaves its description in the
//! [`crate::job::ExitRecord`], and the session goes on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ring::Completion;

/// [`crate::ring::Submission::function`] of a reply; its first argument is one of [`status`]. No host function has it.
pub const REPLY: u32 = 0xFFFF_0000;

/// How the last command ended.
pub mod status {
    /// There was none: the instance is set up.
    pub const READY: u64 = 0;
    /// The function returned; its results are in the values.
    pub const RETURNED: u64 = 1;
    /// It did not return: the exit record describes a fault.
    pub const FAULT: u64 = 2;
    /// The bytes are read or written.
    pub const DONE: u64 = 3;
}

/// What to do.
pub mod command {
    /// Call a function: [`code`](super::Command::code), [`trampoline`](super::Command::trampoline).
    pub const CALL: u32 = 1;
    /// Copy [`length`](super::Command::length) bytes at [`address`](super::Command::address) to the arena.
    pub const READ: u32 = 2;
    /// Copy [`length`](super::Command::length) bytes of the arena to [`address`](super::Command::address).
    pub const WRITE: u32 = 3;
    /// End the instance.
    pub const END: u32 = 4;
}

/// The answer to a [`REPLY`], in the place of a [`Completion`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Command {
    /// Of the reply.
    pub sequence: u32,
    /// One of [`command`].
    pub kind: u32,
    /// Code address of the function to call.
    pub code: u64,
    /// Its trampoline.
    pub trampoline: u64,
    /// Address of the bytes to copy.
    pub address: u64,
    /// How many; at most [`crate::job::ARENA_BYTES`].
    pub length: u64,
    /// Zero.
    pub reserved: [u64; 3],
}

impl From<Completion> for Command {
    fn from(completion: Completion) -> Self {
        zerocopy::transmute!(completion)
    }
}

impl From<Command> for Completion {
    fn from(command: Command) -> Self {
        zerocopy::transmute!(command)
    }
}
