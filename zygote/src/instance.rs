//! A new instance, up to the guest: between the fork and the call gate's end.
//!
//! Everything here runs in the child, through the gate, and neither allocates nor locks.

use core::sync::atomic::{AtomicU32, Ordering};

use ipc::control::{Step, layer};
use ipc::job::{
    EXIT_OFFSET, ExitRecord, JOB_OFFSET, JobHeader, PREFAULT_MAX, PREFAULT_OFFSET, RING_BYTES, exit_kind, go,
};
use ipc::layout::{
    CODE_BASE, CONTEXT_BASE, DIRECT_FD, DIRECT_FDS, DOORBELL_FD, MEMORY_BASE, PAGE, RING_BASE, STACK_TOP,
};
use ipc::ring::instance::wait_while;
use linux_raw_sys::general::{
    __NR_futex, FUTEX_WAIT, MAP_SHARED, PROT_READ, PROT_WRITE, RLIMIT_CPU, RLIMIT_DATA, RLIMIT_NOFILE,
};

use crate::sys::{self, Errno};
use crate::{arch, gate};

/// Descriptors that an instance may have: more than its one, which nothing lets it duplicate.
const DESCRIPTORS_MAX: u64 = 16;
/// The same for one that is given files.
const DESCRIPTORS_MAX_DIRECT: u64 = (DIRECT_FD + DIRECT_FDS) as u64;

/// Becomes an instance under these layers; with `direct`, one that is given files.
pub fn run(ring: i32, doorbell: i32, layers: u64, direct: bool) -> ! {
    // Before the ring is mapped there is nowhere to say what failed: the exit status tells.
    // SAFETY: the ring's region is free in a module zygote.
    if unsafe { sys::map(RING_BASE, RING_BYTES as u64, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0) }.is_err()
    {
        sys::exit(Step::MapRing as i32);
    }
    // The doorbell takes the place of the control socket; nothing else stays.
    let descriptors = sys::dup_to(doorbell, DOORBELL_FD)
        .and_then(|()| sys::close_range(0, DOORBELL_FD as u32 - 1))
        .and_then(|()| sys::close_range(DOORBELL_FD + 1, u32::MAX));
    or_fail(Step::Descriptors, descriptors);
    // Not in the zygote: there it would also limit the descriptors that its whole user may have on their way (unix(7)).
    if layers & layer::RLIMITS != 0 {
        let most = if direct { DESCRIPTORS_MAX_DIRECT } else { DESCRIPTORS_MAX };
        or_fail(Step::Rlimits, sys::set_limit(RLIMIT_NOFILE, most, most));
    }
    if !has_job() {
        touch_pages();
        wait_for_go();
    }
    // What dies before this has done nothing, and its job can have another instance.
    go_word().store(go::TAKEN, Ordering::Release);
    // SAFETY: the ring is mapped; the header is plain integers, and the supervisor has finished writing it.
    let job = unsafe { ((RING_BASE as usize + JOB_OFFSET) as *const JobHeader).read_volatile() };
    or_fail(Step::Rlimits, sys::set_limit(RLIMIT_DATA, job.data_limit, job.data_limit));
    if job.cpu_limit != 0 {
        // The soft limit sends SIGXCPU, which nothing else does: so the end says why. The hard one kills.
        or_fail(Step::Rlimits, sys::set_limit(RLIMIT_CPU, job.cpu_limit, job.cpu_limit.saturating_add(1)));
    }
    or_fail(Step::DropGate, gate::drop_for_good());
    // SAFETY: the module zygote mapped artifact and stack, this function the ring.
    unsafe { sandbox_shim::entry::run(&job) }
}

/// The word that tells of the job.
fn go_word() -> &'static AtomicU32 {
    let word = (RING_BASE as usize + JOB_OFFSET + core::mem::offset_of!(JobHeader, go)) as *mut u32;
    // SAFETY: an aligned word of the ring, which stays mapped as long as this process lives.
    unsafe { AtomicU32::from_ptr(word) }
}

fn has_job() -> bool {
    go_word().load(Ordering::Acquire) != go::PARKED
}

/// Parks until the supervisor gives the job.
fn wait_for_go() {
    wait_while(go_word(), go::PARKED, |word, value| {
        // SAFETY: waits on a word of the mapped ring, and changes nothing.
        let _ = unsafe {
            sys::call(__NR_futex, [word.as_ptr() as u64, u64::from(FUTEX_WAIT), u64::from(value), 0, 0, 0])
        };
    });
}

/// Takes the page faults ahead of the job that every job would take.
fn touch_pages() {
    for written in [CONTEXT_BASE, STACK_TOP - 8] {
        // SAFETY: the module zygote mapped context and stack, readable and writable.
        unsafe { touch(written) };
    }
    // SAFETY: the code begins here, readable.
    unsafe { (CODE_BASE as *const u64).read_volatile() };
    sandbox_shim::state::with(|s| s.job = JobHeader::default());
    let count = RING_BASE as usize + JOB_OFFSET + core::mem::offset_of!(JobHeader, prefault);
    // SAFETY: part of the mapped ring, and the supervisor wrote it before this process was forked.
    let count = unsafe { (count as *const u32).read_volatile() } as usize;
    let list = (RING_BASE as usize + PREFAULT_OFFSET) as *const u32;
    for index in 0..count.min(PREFAULT_MAX) {
        // SAFETY: as above; the list has so many words.
        let page = u64::from(unsafe { list.add(index).read_volatile() });
        // SAFETY: the supervisor lists pages that the artifact has mapped as memory 0, readable and writable.
        unsafe { touch(MEMORY_BASE + page * PAGE) };
    }
}

/// Takes the page fault of a write.
///
/// # Safety
/// The page at `address`, a multiple of 8, is mapped, readable and writable. It keeps what it holds.
unsafe fn touch(address: u64) {
    // Not a load and a store, of which each would have a fault of its own.
    // SAFETY: by the contract.
    unsafe { arch::write_nothing(address as *mut u64) };
}

fn or_fail(step: Step, result: Result<(), Errno>) {
    if let Err(errno) = result {
        let record = (RING_BASE as usize + EXIT_OFFSET) as *mut ExitRecord;
        // SAFETY: the exit record is part of the mapped ring.
        unsafe {
            (*record).code = step as u32;
            (*record).signal = errno.0 as u32;
            (*record).kind = exit_kind::SETUP_FAILED;
        }
        sys::exit(1);
    }
}
