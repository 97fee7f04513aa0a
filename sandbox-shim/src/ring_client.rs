//! The instance's end of the ring: submit, ring the doorbell, wait for the answer.

use core::sync::atomic::Ordering;

use ipc::job::{COMPLETIONS_OFFSET, INDICES_OFFSET, SUBMISSIONS_OFFSET};
use ipc::layout::{DOORBELL_FD, RING_BASE};
use ipc::ring::{Completion, Indices, SLOTS, Submission};
use linux_raw_sys::general::{__NR_futex, __NR_write, FUTEX_WAIT};

use crate::arch;

/// The queues' indices.
pub(crate) fn indices() -> &'static Indices {
    // SAFETY: the ring is mapped at its constant address for the whole life of the instance, and this part of it is atomics.
    unsafe { &*at::<Indices>(INDICES_OFFSET) }
}

const fn at<T>(offset: usize) -> *mut T {
    (RING_BASE as usize + offset) as *mut T
}

/// Submits one call and waits for its answer.
pub fn call(submission: &Submission) -> Completion {
    let indices = indices();
    let tail = indices.submission_tail.0.load(Ordering::Relaxed);
    let slot = tail as usize % SLOTS;
    // SAFETY: `slot < SLOTS`, so this is a slot of the mapped ring. It is free: calls are answered one at a time.
    unsafe { at::<Submission>(SUBMISSIONS_OFFSET).add(slot).write(*submission) };
    indices.submission_tail.0.store(tail.wrapping_add(1), Ordering::Release);
    ring_doorbell();

    let head = indices.completion_head.0.load(Ordering::Relaxed);
    wait_for_completion(indices, head);
    let slot = head as usize % SLOTS;
    // SAFETY: `slot < SLOTS`, and the supervisor wrote the slot before it moved the tail (acquired above).
    let completion = unsafe { at::<Completion>(COMPLETIONS_OFFSET).add(slot).read() };
    indices.completion_head.0.store(head.wrapping_add(1), Ordering::Release);
    completion
}

pub(crate) fn ring_doorbell() {
    let one = 1u64;
    // SAFETY: writes 8 readable bytes to an eventfd. Nobody reads it (the supervisor listens for edges), so it counts
    // the calls of this instance, which never come near its maximum.
    unsafe { arch::syscall(__NR_write, [DOORBELL_FD as u64, &raw const one as u64, 8, 0, 0, 0]) };
}

fn wait_for_completion(indices: &Indices, head: u32) {
    while indices.completion_tail.0.load(Ordering::Acquire) == head {
        let word = indices.completion_tail.0.as_ptr();
        // SAFETY: waits on a word of the mapped ring; a spurious return loops.
        unsafe { arch::syscall(__NR_futex, [word as u64, u64::from(FUTEX_WAIT), u64::from(head), 0, 0, 0]) };
    }
}
