//! Host calls answered inside the instance: arguments, environment, clocks, random bytes, exit.

use core::ptr;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use ipc::interface::FunctionId;
use ipc::job::{STRINGS_BYTES, STRINGS_OFFSET, exit_kind, job_flags};
use ipc::layout::RING_BASE;

use crate::guest_memory::{GuestMemory, OutOfBounds};
use crate::marshal::{self, errno};
use crate::{entry, state, vdso};

/// Answers a call. Returns the WASI error number.
///
/// # Safety
/// `frame` must hold one readable word per parameter of `function`.
pub unsafe fn call(function: FunctionId, frame: *const u64) -> u32 {
    // SAFETY: only indices below the function's number of parameters are used in its arm below.
    let word = |index: usize| unsafe { frame.add(index).read() };
    let pointer = |index: usize| word(index) as u32;
    let deterministic = state::with(|s| s.job.flags & job_flags::DETERMINISTIC != 0);
    if function == FunctionId::clock_time_get && (deterministic || state::with(|s| s.clock_gettime.is_none()))
    {
        // No clock that can be read here: the supervisor's. Of a deterministic guest it passes by what the guest does.
        // SAFETY: by this function's contract.
        return unsafe { marshal::call(function, frame, None) }.errno;
    }
    state::with(|s| s.local_calls += 1);
    let memory = GuestMemory::current();
    let result = match function {
        FunctionId::args_sizes_get => strings().0.sizes(&memory, pointer(0), pointer(1)),
        FunctionId::args_get => strings().0.copy(&memory, pointer(0), pointer(1)),
        FunctionId::environ_sizes_get => strings().1.sizes(&memory, pointer(0), pointer(1)),
        FunctionId::environ_get => strings().1.copy(&memory, pointer(0), pointer(1)),
        FunctionId::clock_res_get => match clock(pointer(0)) {
            Ok(_) => memory.write_u64(pointer(1), state::with(|s| s.job.clock_resolution)),
            Err(errno) => return errno,
        },
        FunctionId::clock_time_get => match clock(pointer(0)).and_then(now) {
            Ok(time) => memory.write_u64(pointer(2), time),
            Err(errno) => return errno,
        },
        FunctionId::random_get => memory.with_bytes(pointer(0), pointer(1), fill_random),
        FunctionId::sched_yield => Ok(()),
        FunctionId::proc_exit => entry::finish(exit_kind::PROC_EXIT, pointer(0)),
        _ => return errno::NO_SYSTEM,
    };
    match result {
        Ok(()) => 0,
        Err(OutOfBounds) => errno::FAULT,
    }
}

/// Zero-terminated strings in the shared memory.
struct Strings {
    start: usize,
    count: u32,
    bytes: u32,
}

/// Arguments and environment. The numbers come from the private copy of the job; they are clamped so that what
/// the guest reads stays inside the strings' region.
fn strings() -> (Strings, Strings) {
    let (args_count, args_bytes, env_count, env_bytes) =
        state::with(|s| (s.job.args_count, s.job.args_bytes, s.job.env_count, s.job.env_bytes));
    let start = RING_BASE as usize + STRINGS_OFFSET;
    let args_bytes = args_bytes.min(STRINGS_BYTES as u32);
    let env_bytes = env_bytes.min(STRINGS_BYTES as u32 - args_bytes);
    (
        Strings { start, count: args_count, bytes: args_bytes },
        Strings { start: start + args_bytes as usize, count: env_count, bytes: env_bytes },
    )
}

impl Strings {
    fn byte(&self, at: u32) -> Option<u8> {
        // SAFETY: the read stays below `bytes`, inside the strings' region of the mapped ring.
        (at < self.bytes).then(|| unsafe { ptr::read((self.start + at as usize) as *const u8) })
    }

    fn sizes(&self, memory: &GuestMemory, count: u32, bytes: u32) -> Result<(), OutOfBounds> {
        memory.write_u32(count, self.count)?;
        memory.write_u32(bytes, self.bytes)
    }

    /// Copies the strings to `buffer` and their guest addresses to `pointers`.
    fn copy(&self, memory: &GuestMemory, pointers: u32, buffer: u32) -> Result<(), OutOfBounds> {
        memory.check(pointers, u64::from(self.count) * 4)?;
        // SAFETY: `bytes` bytes from `start` lie in the strings' region of the mapped ring.
        unsafe { memory.write(buffer, self.start as *const u8, u64::from(self.bytes))? };
        let mut offset = 0;
        for index in 0..self.count {
            memory.write_u32(pointers + index * 4, buffer + offset)?;
            while self.byte(offset).is_some_and(|byte| byte != 0) {
                offset += 1;
            }
            offset += 1;
        }
        Ok(())
    }
}

/// The clock that a WASI clock id names; per-process CPU clocks are not offered, as in Wasmtime.
fn clock(id: u32) -> Result<vdso::Clock, u32> {
    match id {
        0 => Ok(vdso::Clock::Realtime),
        1 => Ok(vdso::Clock::Monotonic),
        2 | 3 => Err(errno::BAD_DESCRIPTOR),
        _ => Err(errno::INVALID),
    }
}

/// The clock's reading in nanoseconds, by the policy's resolution and base.
fn now(clock: vdso::Clock) -> Result<u64, u32> {
    state::with(|s| {
        let read = s.clock_gettime.ok_or(errno::NO_SYSTEM)?;
        let time = vdso::read(read, clock).ok_or(errno::INVALID)?;
        let time = match clock {
            vdso::Clock::Realtime => time,
            vdso::Clock::Monotonic => time.wrapping_add(s.job.monotonic_offset),
        };
        Ok(time - time % s.job.clock_resolution.max(1))
    })
}

fn fill_random(bytes: &mut [u8]) {
    state::with(|s| {
        let seed = s.job.random_seed;
        s.random.get_or_insert_with(|| ChaCha20Rng::from_seed(seed)).fill_bytes(bytes);
    });
}
