//! The shim's own state: what it keeps between host calls.
//!
//! One thread, and a signal handler that only reads [`local_calls`], through a raw pointer: a plain cell will do. In a session
//! the handler abandons what it interrupted, but never inside of [`with`]: functions that guest code calls reserve their stack
//! before they begin, and any other fault of the shim ends the process.

use core::cell::UnsafeCell;

use chacha20::ChaCha20Rng;
use ipc::job::JobHeader;

/// State of the one instance that this process is.
#[derive(Debug)]
pub struct State {
    /// The job, copied from the shared memory once.
    pub job: JobHeader,
    /// The instance's random generator.
    pub random: Option<ChaCha20Rng>,
    /// `__vdso_clock_gettime`, if the kernel provides it and it may be called: it reads the time-stamp counter.
    pub clock_gettime: Option<crate::vdso::ClockGettime>,
    /// Number of the last submission.
    pub sequence: u32,
    /// Host calls answered here.
    pub local_calls: u64,
    /// How often output was begun to be queued.
    pub outputs: u32,
    /// Bits by number: standard streams that the guest has closed or replaced.
    pub streams_lost: u32,
}

struct StateCell(UnsafeCell<State>);

// SAFETY: the process has one thread, so the cell is never shared between threads.
unsafe impl Sync for StateCell {}

static STATE: StateCell = StateCell(UnsafeCell::new(State {
    job: JobHeader {
        go: 0,
        flags: 0,
        prefault: 0,
        unused: 0,
        data_limit: 0,
        memory_limit: 0,
        fuel: 0,
        cpu_limit: 0,
        start_code: 0,
        start_trampoline: 0,
        init_code: 0,
        init_trampoline: 0,
        entry_code: 0,
        entry_trampoline: 0,
        memory: 0,
        initial_memory: 0,
        parameters: 0,
        results: 0,
        imports: 0,
        typed: 0,
        args_count: 0,
        args_bytes: 0,
        env_count: 0,
        env_bytes: 0,
        clock_resolution: 1,
        monotonic_offset: 0,
        random_seed: [0; 32],
    },
    random: None,
    clock_gettime: None,
    sequence: 0,
    local_calls: 0,
    outputs: 0,
    streams_lost: 0,
}));

/// How many host calls were answered here, for the signal handler, which may have interrupted [`with`] and ends the process then.
pub fn local_calls() -> u64 {
    // SAFETY: a plain load through a raw pointer; no reference is made, so one that is in use elsewhere stays unique.
    unsafe { (&raw const (*STATE.0.get()).local_calls).read() }
}

/// Runs `f` with the state. Calls must not nest.
pub fn with<R>(f: impl FnOnce(&mut State) -> R) -> R {
    // SAFETY: one thread, and no caller in this crate calls `with` from inside `f`, so the reference is unique.
    f(unsafe { &mut *STATE.0.get() })
}
