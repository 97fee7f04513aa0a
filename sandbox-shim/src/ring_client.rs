//! The instance's end of the ring: submit, ring the doorbell, wait for the answer. The steps are [`ipc::ring::instance`]'s.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use ipc::job::{COMPLETIONS_OFFSET, INDICES_OFFSET, SUBMISSIONS_OFFSET};
use ipc::layout::{DOORBELL_FD, RING_BASE};
use ipc::ring::instance::{self, InstanceEnd};
use ipc::ring::{Completion, Indices, Slot, Submission};
use linux_raw_sys::general::{__NR_futex, __NR_write, FUTEX_WAIT};

use crate::arch;

/// The ring of the one instance that this process is.
struct Ring;

const fn at<T>(offset: usize) -> *mut T {
    (RING_BASE as usize + offset) as *mut T
}

impl InstanceEnd for Ring {
    type Word = AtomicU32;
    type Wide = AtomicU64;

    #[inline(always)]
    fn indices(&self) -> &Indices {
        indices()
    }

    #[inline(always)]
    fn write_submission(&self, slot: Slot, submission: &Submission) {
        // SAFETY: a slot's number is below SLOTS, so this is a slot of the mapped ring.
        unsafe { at::<Submission>(SUBMISSIONS_OFFSET).add(slot.number()).write(*submission) };
    }

    #[inline(always)]
    fn read_completion(&self, slot: Slot) -> Completion {
        // SAFETY: as above. The supervisor wrote the slot before it moved the tail, which the caller has acquired.
        unsafe { at::<Completion>(COMPLETIONS_OFFSET).add(slot.number()).read() }
    }

    #[inline(always)]
    fn ring_doorbell(&self) {
        ring_doorbell();
    }

    #[inline(always)]
    fn wait(&self, word: &AtomicU32, value: u32) {
        let word = word.as_ptr() as u64;
        // SAFETY: waits on a word of the mapped ring, and changes nothing.
        unsafe { arch::syscall(__NR_futex, [word, u64::from(FUTEX_WAIT), u64::from(value), 0, 0, 0]) };
    }

    #[inline(always)]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn pause(&self) {
        core::hint::spin_loop();
    }
}

/// The queues' indices.
#[inline(always)]
pub(crate) fn indices() -> &'static Indices {
    // SAFETY: the ring is mapped at its constant address for the whole life of the instance, and this part of it is atomics.
    unsafe { &*at::<Indices>(INDICES_OFFSET) }
}

/// Submits one call and waits for its answer.
pub fn call(submission: &Submission) -> Completion {
    instance::call(&Ring, submission)
}

pub(crate) fn ring_doorbell() {
    let one = 1u64;
    // SAFETY: writes 8 readable bytes to an eventfd. Nobody reads it (the supervisor listens for edges), so it counts
    // the calls of this instance, which never come near its maximum.
    unsafe { arch::syscall(__NR_write, [DOORBELL_FD as u64, &raw const one as u64, 8, 0, 0, 0]) };
}
