//! The shared-memory queues between an instance and the supervisor.
//!
//! Two single-producer, single-consumer queues of [`SLOTS`] fixed-size slots. The instance submits host calls,
//! the supervisor completes them. Indices only grow (wrapping at 2^32) and are masked when used; each lives on a
//! cache line of its own. Payloads lie in the arena ([`crate::job::ARENA_OFFSET`]), which the instance manages:
//! a submission names ranges of it, and the supervisor checks every range before it copies.
//!
//! Small writes to standard output and standard error are not submitted but queued ([`Output`]): nobody waits for them.
//!
//! After a submission the instance writes 8 bytes to its doorbell (an eventfd), unless the supervisor says that it watches
//! ([`Indices::watched`]). The supervisor wakes the instance with `FUTEX_WAKE` on [`Indices::completion_tail`], if it says that it
//! sleeps ([`Indices::sleeping`]).
//!
//! This file is the layout. The protocol, the same code in production and in a model checker:
//!
//! * [`instance`] and [`output`]: the steps of the instance.
//! * [`supervisor`]: the steps of the supervisor.
//! * [`counters`]: the arithmetic of the indices.
//! * [`atomic`]: what both are written over.

use core::sync::atomic::{AtomicU32, AtomicU64};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::interface::ARGS_MAX;

pub mod atomic;
pub mod counters;
pub mod instance;
pub mod output;
pub mod supervisor;

/// Slots of each queue; a power of two.
pub const SLOTS: usize = 64;

/// An index alone on its cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Index<W = AtomicU32>(pub W);

/// The indices. `*_tail` is the next slot its producer writes, `*_head` the next its consumer reads.
#[repr(C)]
#[derive(Debug)]
pub struct Indices<W = AtomicU32, X = AtomicU64> {
    /// Written by the instance.
    pub submission_tail: Index<W>,
    /// Written by the supervisor.
    pub submission_head: Index<W>,
    /// Written by the supervisor; the instance waits on it.
    pub completion_tail: Index<W>,
    /// Written by the instance.
    pub completion_head: Index<W>,
    /// Written by the supervisor. With the bit [`WATCHED`] it looks for submissions without being rung for. The others: how often an
    /// instance that waits for an answer looks for it before it sleeps.
    pub watched: Index<W>,
    /// Written by the instance. Not 0 while it sleeps until there is a completion, or is about to.
    pub sleeping: Index<W>,
    /// Output on its way.
    pub output: Output<W, X>,
}

/// Output that was written to a standard stream and that the supervisor takes when it serves the next call, after a moment, or
/// when the instance has ended, whichever comes first.
///
/// The instance adds bytes to one half of the output's part of the arena as long as the supervisor has not taken what is there, then
/// goes on in the other. The supervisor takes nothing before it is done with what it took last, so by then that half is free.
#[repr(C)]
#[derive(Debug)]
pub struct Output<W = AtomicU32, X = AtomicU64> {
    /// What waits: [`pack_output`], or 0. The instance makes it more, the supervisor takes all of it.
    pub pending: Pending<X>,
    /// Written by the supervisor: bits by the number of a stream that must not be queued, because its next write may fail.
    pub refused: Index<W>,
}

/// In [`Indices::watched`]: the instance need not ring.
pub const WATCHED: u32 = 1 << 31;

/// A word alone on its cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Pending<X = AtomicU64>(pub X);

/// A slot of a queue.
///
/// Invariant: its number is below [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(usize);

impl Slot {
    /// That of an index.
    #[inline(always)]
    pub fn of(index: u32) -> Self {
        Self(counters::slot::<u32, SLOTS>(index))
    }

    /// Its number, below [`SLOTS`].
    #[inline(always)]
    pub fn number(self) -> usize {
        self.0
    }
}

/// Bytes of one half of the output's part of the arena.
pub const OUTPUT_HALF: usize = 32 << 10;

/// Output in one word: the stream (1 or 2), which half of the arena's part it is in, its length.
pub const fn pack_output(stream: u32, half: u32, length: u32) -> u64 {
    (length as u64) << 32 | ((half & 1) as u64) << 8 | stream as u64 & 0xff
}

/// The inverse of [`pack_output`]: stream, half, length.
pub const fn unpack_output(word: u64) -> (u32, u32, u32) {
    (word as u32 & 0xff, (word >> 8) as u32 & 1, (word >> 32) as u32)
}

/// [`Submission::function`] of an instance that has finished and left its [`crate::job::ExitRecord`]; see
/// [`crate::job::job_flags::WAIT_AT_END`]. No host function has it, and nothing answers it.
pub const FINISHED: u32 = 0xFFFF_0001;

/// One host call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Submission {
    /// A [`crate::interface::FunctionId`].
    pub function: u32,
    /// Comes back in the completion.
    pub sequence: u32,
    /// One word per [`crate::interface::Arg`] of the function: a value, or [`pack_range`] of arena bytes.
    pub args: [u64; ARGS_MAX],
    /// Bits of [`submission_flags`].
    pub flags: u64,
    /// With [`submission_flags::POSITION`]: where the descriptor of the call is, which the instance keeps.
    pub position: u64,
    /// Zero.
    pub reserved: [u64; 3],
}

/// Bits of [`Submission::flags`].
pub mod submission_flags {
    /// The call is about a regular file whose position the instance keeps, see [`super::Submission::position`].
    pub const POSITION: u64 = 1;
    /// All of them.
    pub const ALL: u64 = POSITION;
}

/// The answer to a [`Submission`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Completion {
    /// Of the submission.
    pub sequence: u32,
    /// The WASI error number; 0 for success.
    pub errno: u32,
    /// How many bytes of the `Out` or `ScatterOut` range were written.
    pub written: u64,
    /// After a call with [`submission_flags::POSITION`]: where the descriptor is now. After `path_open`: the new descriptor.
    pub value: u64,
    /// After `path_open`: the `fdstat` of the new descriptor, as `fd_fdstat_get` would give it.
    pub opened: [u64; 3],
    /// Zero.
    pub reserved: [u64; 2],
}

const _: () = {
    assert!(SLOTS.is_power_of_two());
    assert!(size_of::<Submission>() == 128 && size_of::<Completion>() == 64);
};

/// Offset and length of arena bytes in one word.
pub const fn pack_range(offset: u32, length: u32) -> u64 {
    (offset as u64) << 32 | length as u64
}

/// The inverse of [`pack_range`]: offset, length.
pub const fn unpack_range(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}
