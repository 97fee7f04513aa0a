//! The instance's end of the queues: submit, ring the doorbell, wait for the answer.

use core::sync::atomic::Ordering;

use super::atomic::Atomic;
use super::{Completion, Indices, Slot, Submission, WATCHED};

/// What the instance's end works on.
pub trait InstanceEnd {
    /// A word of 32 bits.
    type Word: Atomic<u32>;
    /// A word of 64 bits.
    type Wide: Atomic<u64>;

    /// The indices.
    fn indices(&self) -> &Indices<Self::Word, Self::Wide>;
    /// Writes a submission, which nobody else reads before [`submit`] has published it.
    fn write_submission(&self, slot: Slot, submission: &Submission);
    /// Copies a completion, which nobody else writes before [`take`] has given its slot back.
    fn read_completion(&self, slot: Slot) -> Completion;
    /// Wakes the supervisor, now or when it waits next.
    fn ring_doorbell(&self);
    /// Waits until somebody wakes the waiters of `word`, unless it has another value than `value`. It may return without reason.
    fn wait(&self, word: &Self::Word, value: u32);
    /// As [`core::sync::atomic::fence`], sequentially consistent.
    fn fence(&self);
    /// As [`core::hint::spin_loop`].
    fn pause(&self);
}

/// Submits one call and waits for its answer.
#[inline]
pub fn call<E: InstanceEnd>(end: &E, submission: &Submission) -> Completion {
    submit(end, submission);
    take(end)
}

/// Submits one call. No more than [`super::SLOTS`] may be on their way.
#[inline]
pub fn submit<E: InstanceEnd>(end: &E, submission: &Submission) {
    let index = &end.indices().submission_tail.0;
    let tail = index.load(Ordering::Relaxed);
    // It is free: its last submission was answered before this one is made.
    end.write_submission(Slot::of(tail), submission);
    index.store(tail.wrapping_add(1), Ordering::Release);
    // Either this sees that the supervisor does not watch any more, or the supervisor's look after that sees the submission: see
    // `supervisor::unwatch`.
    end.fence();
    if end.indices().watched.0.load(Ordering::Relaxed) & WATCHED == 0 {
        // Not before: the supervisor would find nothing, and wait for the next ring.
        end.ring_doorbell();
    }
}

/// Waits for the next completion and takes it.
#[inline]
pub fn take<E: InstanceEnd>(end: &E) -> Completion {
    let indices = end.indices();
    let head = indices.completion_head.0.load(Ordering::Relaxed);
    for _ in 0..indices.watched.0.load(Ordering::Relaxed) & !WATCHED {
        if indices.completion_tail.0.load(Ordering::Acquire) != head {
            break;
        }
        end.pause();
    }
    if indices.completion_tail.0.load(Ordering::Acquire) == head {
        indices.sleeping.0.store(1, Ordering::Relaxed);
        // Either this sees the completion before it sleeps, or the supervisor sees that it does: see `Queues::complete`.
        end.fence();
        wait_while(&indices.completion_tail.0, head, |word, value| end.wait(word, value));
        indices.sleeping.0.store(0, Ordering::Relaxed);
    }
    let completion = end.read_completion(Slot::of(head));
    indices.completion_head.0.store(head.wrapping_add(1), Ordering::Release);
    completion
}

/// Waits as long as `word` has the value `value`; what was written before it got another one can be read then. `wait` is as
/// [`InstanceEnd::wait`].
#[inline]
pub fn wait_while<W: Atomic<u32>>(word: &W, value: u32, wait: impl Fn(&W, u32)) {
    // A loop: a wake-up may be late, meant for what this side has seen already without waiting.
    while word.load(Ordering::Acquire) == value {
        wait(word, value);
    }
}
