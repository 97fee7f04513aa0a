//! The shared memory of one instance: what the supervisor tells it before it starts ([`JobHeader`]), and what
//! it leaves behind when it ends ([`ExitRecord`]). The queues are in [`crate::ring`].
//!
//! The instance can write every byte of this memory at any time. The supervisor writes the header once before
//! it sets [`JobHeader::go`] and reads nothing back but that word; it copies the exit record once, after the instance is
//! dead, and believes nothing in it that matters for safety.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::{RING_BASE, RING_END};

/// Offset of the data arena, from which the payloads of host calls are carved.
pub const ARENA_OFFSET: usize = 0;
/// Bytes in the arena.
pub const ARENA_BYTES: usize = 0x40_0000;
/// Bytes at the end of the arena that hold queued output ([`crate::ring::Output`]); host calls use what is before them.
pub const OUTPUT_BYTES: usize = 2 * crate::ring::OUTPUT_HALF;
/// Bytes of the arena for the payloads of host calls.
pub const CALLS_BYTES: usize = ARENA_BYTES - OUTPUT_BYTES;
/// Offset of the strings: arguments, then environment, each string ended by a zero byte.
pub const STRINGS_OFFSET: usize = ARENA_OFFSET + ARENA_BYTES;
/// Bytes for strings.
pub const STRINGS_BYTES: usize = 0x10_0000;
/// Offset of the table of the host app's typed functions, see [`crate::typed`].
pub const TABLE_OFFSET: usize = STRINGS_OFFSET + STRINGS_BYTES;
/// Bytes for it.
pub const TABLE_BYTES: usize = 0x1_0000;
/// Offset of the values: arguments of the entry point, then its results; 16 bytes each.
pub const VALUES_OFFSET: usize = TABLE_OFFSET + TABLE_BYTES;
/// How many values fit.
pub const VALUES_MAX: usize = 1024;
/// Offset of what a parked instance is to do ahead of its job: numbers of pages in memory 0, 32 bits each, as many as
/// [`JobHeader::prefault`] says. It writes to each of them, because earlier instances did.
pub const PREFAULT_OFFSET: usize = VALUES_OFFSET + 0x4000;
/// How many pages at most.
pub const PREFAULT_MAX: usize = 512;
/// Offset of the head: what every instance uses. It is the last part of the ring.
pub const HEAD_OFFSET: usize = PREFAULT_OFFSET + 0x1000;
/// Offset of the [`JobHeader`].
pub const JOB_OFFSET: usize = HEAD_OFFSET;
/// Offset of the [`ExitRecord`].
pub const EXIT_OFFSET: usize = HEAD_OFFSET + 0x400;
/// Offset of the queue indices, see [`crate::ring::Indices`].
pub const INDICES_OFFSET: usize = HEAD_OFFSET + 0xC00;
/// Offset of the submission slots.
pub const SUBMISSIONS_OFFSET: usize = HEAD_OFFSET + 0x1000;
/// Offset of the completion slots.
pub const COMPLETIONS_OFFSET: usize = HEAD_OFFSET + 0x3000;
/// Bytes in the whole shared memory.
pub const RING_BYTES: usize = HEAD_OFFSET + 0x4000;

const _: () = {
    assert!(VALUES_OFFSET + VALUES_MAX * 16 <= PREFAULT_OFFSET);
    assert!(PREFAULT_OFFSET + 4 * PREFAULT_MAX <= HEAD_OFFSET);
    assert!(JOB_OFFSET + size_of::<JobHeader>() <= EXIT_OFFSET);
    assert!(EXIT_OFFSET + size_of::<ExitRecord>() <= INDICES_OFFSET);
    assert!(INDICES_OFFSET + size_of::<crate::ring::Indices>() <= SUBMISSIONS_OFFSET);
    assert!(
        SUBMISSIONS_OFFSET + crate::ring::SLOTS * size_of::<crate::ring::Submission>() <= COMPLETIONS_OFFSET
    );
    assert!(COMPLETIONS_OFFSET + crate::ring::SLOTS * size_of::<crate::ring::Completion>() <= RING_BYTES);
    assert!(RING_BASE + RING_BYTES as u64 == RING_END);
};

/// What the supervisor tells an instance. Written before [`go`](Self::go) becomes [`go::GIVEN`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct JobHeader {
    /// One of [`go`]. A parked instance waits on this word with `futex(2)`.
    pub go: u32,
    /// Bits of [`job_flags`].
    pub flags: u32,
    /// Pages that are listed at [`PREFAULT_OFFSET`]. Written before the instance is forked; 0 in the job itself. It stands here and not there, so that
    /// without a list nobody touches the page of the list, which would hold memory from then on.
    pub prefault: u32,
    /// Zero.
    pub unused: u32,
    /// `RLIMIT_DATA` for the instance, in bytes.
    pub data_limit: u64,
    /// Bytes that all linear memories together may have.
    pub memory_limit: u64,
    /// What the code may execute, if it was compiled with fuel: units, at most `i64::MAX`.
    pub fuel: u64,
    /// `RLIMIT_CPU`, in seconds; 0 leaves it unlimited. At the limit the kernel sends SIGXCPU.
    pub cpu_limit: u64,
    /// Code address of the module's start function; 0 for none.
    pub start_code: u64,
    /// Its trampoline.
    pub start_trampoline: u64,
    /// Code address of an initialiser that runs after the start function (`_initialize`); 0 for none.
    pub init_code: u64,
    /// Its trampoline.
    pub init_trampoline: u64,
    /// Code address of the entry point.
    pub entry_code: u64,
    /// Its trampoline.
    pub entry_trampoline: u64,
    /// Address of the descriptor of linear memory 0 (see [`crate::context`]); 0 if the module has none.
    pub memory: u64,
    /// Bytes that all linear memories together have at the start.
    pub initial_memory: u64,
    /// Values of the entry point that are parameters; results are written over them from the first.
    pub parameters: u32,
    /// How many results it has.
    pub results: u32,
    /// Number of [`crate::imports::Record`]s in the arena.
    pub imports: u32,
    /// Import numbers that the table of typed functions has an entry for; higher ones are called with their bare values.
    pub typed: u32,
    /// Number of argument strings.
    pub args_count: u32,
    /// Bytes of the argument strings with their terminators.
    pub args_bytes: u32,
    /// Number of environment strings; they follow the arguments.
    pub env_count: u32,
    /// Bytes of the environment strings with their terminators.
    pub env_bytes: u32,
    /// Clock readings are rounded down to a multiple of this many nanoseconds; at least 1.
    pub clock_resolution: u64,
    /// Added to readings of the monotonic clock, in nanoseconds (wrapping), so that it does not tell the host's uptime.
    pub monotonic_offset: u64,
    /// Seed of the instance's random generator.
    pub random_seed: [u8; 32],
}

/// [`JobHeader::go`].
pub mod go {
    /// There is no job yet.
    pub const PARKED: u32 = 0;
    /// There is one; written by the supervisor.
    pub const GIVEN: u32 = 1;
    /// The instance has taken it; written by the instance, before anything of the job happens.
    pub const TAKEN: u32 = 2;
}

/// Bits of [`JobHeader::flags`].
pub mod job_flags {
    /// A growth of memory that the job's limit refuses ends the job instead of answering -1.
    pub const KILL_ON_MEMORY_LIMIT: u32 = 1;
    /// No entry point runs: the instance asks for commands, see [`crate::session`].
    pub const SESSION: u32 = 2;
    /// An instance that has finished submits [`FINISHED`](crate::ring::FINISHED) and waits to be killed, instead of
    /// exiting: taking an address space apart takes longer than most reports should wait. Meanwhile it copies out what it is told to
    /// ([`crate::session::command::READ`]).
    pub const WAIT_AT_END: u32 = 4;
    /// Time passes only by what the guest does: the supervisor answers what it asks of clocks.
    pub const DETERMINISTIC: u32 = 8;
    /// The instance may ask for descriptors of files, see [`crate::direct`].
    pub const DIRECT: u32 = 16;
}

/// How an instance ended, by its own word. See [`ExitRecord::kind`].
pub mod exit_kind {
    /// Nothing was recorded: the instance was killed, or never ran.
    pub const NONE: u32 = 0;
    /// The entry point returned; its results are in the values.
    pub const RETURNED: u32 = 1;
    /// `proc_exit` was called with [`ExitRecord::code`](super::ExitRecord::code).
    pub const PROC_EXIT: u32 = 2;
    /// A fault signal arrived: a WebAssembly trap if `pc` is a trap site, or if `address` is in the stack guard.
    pub const FAULT: u32 = 3;
    /// A system call was refused.
    pub const SYSCALL: u32 = 4;
    /// A growth of memory was refused and the job asked to be ended by that.
    pub const MEMORY_LIMIT: u32 = 5;
    /// The instance could not set itself up; `code` is a [`crate::control::Step`], `signal` the errno.
    pub const SETUP_FAILED: u32 = 6;
}

/// Return addresses that an [`ExitRecord`] holds.
pub const BACKTRACE_MAX: usize = 128;

/// What an instance leaves behind.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ExitRecord {
    /// One of [`exit_kind`].
    pub kind: u32,
    /// Exit code, or setup step.
    pub code: u32,
    /// Signal number of a fault.
    pub signal: u32,
    /// `AUDIT_ARCH_*` of a refused system call.
    pub arch: u32,
    /// Number of a refused system call.
    pub syscall: u64,
    /// Arguments of a refused system call.
    pub syscall_args: [u64; 6],
    /// Program counter of a fault or of a refused system call.
    pub pc: u64,
    /// Address of a fault.
    pub address: u64,
    /// Bytes that all linear memories had at the end.
    pub memory_bytes: u64,
    /// Growths of memory that were refused.
    pub refused_grows: u64,
    /// Host calls answered inside the instance.
    pub local_calls: u64,
    /// Fuel that was left; below zero when more was used than there was.
    pub fuel_left: i64,
    /// How many return addresses follow.
    pub backtrace_len: u64,
    /// Return addresses, innermost first, without `pc`.
    pub backtrace: [u64; BACKTRACE_MAX],
}
