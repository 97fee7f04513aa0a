//! From the job to the guest's first instruction, and the ways out.

use ipc::job::{EXIT_OFFSET, ExitRecord, JobHeader, VALUES_OFFSET, job_flags};
use ipc::layout::{RING_BASE, STACK_TOP};
use linux_raw_sys::general::__NR_exit_group;

use crate::{arch, fuel, growth, imports, session, state};

/// Runs the job to its end. The call gate is gone already: nothing from here on can map, fork or open.
///
/// # Safety
/// The artifact, the guest stack and the ring are mapped; the header's addresses are from the artifact's
/// metadata.
pub unsafe fn run(job: &JobHeader) -> ! {
    state::with(|s| s.job = *job);
    growth::start(job.memory_limit, job.initial_memory);
    fuel::start(job.fuel);
    // SAFETY: by the contract; the header tells how many records there are.
    unsafe { imports::apply(job.imports) };
    if job.flags & job_flags::SESSION != 0 {
        // SAFETY: by the contract, which is that of the commands to come too.
        unsafe { session::run() }
    }
    let values = (RING_BASE as usize + VALUES_OFFSET) as *mut [u64; 2];
    for (trampoline, code) in [
        (job.start_trampoline, job.start_code),
        (job.init_trampoline, job.init_code),
        (job.entry_trampoline, job.entry_code),
    ] {
        if trampoline != 0 {
            // SAFETY: by the contract; the values lie in the mapped ring, and the guest stack is empty again
            // whenever a call came back. Start function and initialiser have neither
            // parameters nor results.
            unsafe { arch::call_on_stack(trampoline, code, values, STACK_TOP) };
        }
    }
    finish(ipc::job::exit_kind::RETURNED, 0)
}

/// The exit record in the shared memory.
pub(crate) fn record() -> *mut ExitRecord {
    (RING_BASE as usize + EXIT_OFFSET) as *mut ExitRecord
}

/// Writes what every end has in common.
pub(crate) fn record_usage() {
    let (memory_bytes, refused_grows) = growth::usage();
    let (local_calls, fuel_left) = (state::local_calls(), fuel::left());
    // SAFETY: the exit record is part of the mapped ring.
    unsafe {
        (*record()).memory_bytes = memory_bytes;
        (*record()).refused_grows = refused_grows;
        (*record()).local_calls = local_calls;
        (*record()).fuel_left = fuel_left;
    }
}

/// Ends the instance with a record of `kind`.
pub(crate) fn finish(kind: u32, code: u32) -> ! {
    record_usage();
    // SAFETY: as above.
    unsafe {
        (*record()).code = code;
        (*record()).kind = kind;
    }
    if state::with(|s| s.job.flags) & job_flags::WAIT_AT_END != 0 {
        // SAFETY: the commands of the supervisor are about the artifact's memory, which is mapped.
        unsafe { session::wait_at_end() };
    }
    end(code)
}

/// Ends the process.
pub fn end(status: u32) -> ! {
    // SAFETY: takes no pointer and does not return.
    unsafe { arch::syscall(__NR_exit_group, [u64::from(status & 0xff), 0, 0, 0, 0, 0]) };
    arch::abort()
}
