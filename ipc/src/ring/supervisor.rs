//! The supervisor's end of the queues, against an instance that may write anything anywhere at any time.

use core::sync::atomic::Ordering;

use super::atomic::Atomic;
use super::counters::{Broken, Consumer, Producer};
use super::{Completion, Indices, SLOTS, Slot, Submission, WATCHED};

/// What the supervisor's end works on.
pub trait SupervisorEnd {
    /// A word of 32 bits.
    type Word: Atomic<u32>;
    /// A word of 64 bits.
    type Wide: Atomic<u64>;

    /// The indices.
    fn indices(&self) -> &Indices<Self::Word, Self::Wide>;
    /// A private copy of a submission. Whatever it says is still to be checked.
    fn read_submission(&self, slot: Slot) -> Submission;
    /// Writes a completion.
    fn write_completion(&self, slot: Slot, completion: &Completion);
    /// Wakes who waits on `word`.
    fn wake(&self, word: &Self::Word);
    /// As [`core::sync::atomic::fence`], sequentially consistent.
    fn fence(&self);
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A call waits, to be [taken](Queues::take) after the queued output, which was written before it.
    Call,
    /// Queued output waits, and no call that would have it written.
    Output,
    /// Nothing. The doorbell rings when there is something: an edge from before this look may still be to come, none is lost.
    Nothing,
}

/// Private copies of the indices that the supervisor writes: the instance cannot move them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queues {
    submissions: Consumer<u32, SLOTS>,
    completions: Producer<u32, SLOTS>,
}

impl Queues {
    /// Of a new ring.
    pub const fn new() -> Self {
        Self { submissions: Consumer::new(), completions: Producer::new() }
    }

    /// What there is to do.
    #[inline]
    pub fn look<E: SupervisorEnd>(&mut self, end: &E) -> Result<Next, Broken<u32>> {
        let tail = end.indices().submission_tail.0.load(Ordering::Acquire);
        Ok(match self.submissions.look(tail)? {
            0 if has_output(end) => Next::Output,
            0 => Next::Nothing,
            _ => Next::Call,
        })
    }

    /// Takes a submission that was there at the last look.
    #[inline]
    pub fn take<E: SupervisorEnd>(&mut self, end: &E) -> Option<Submission> {
        if self.submissions.waiting() == 0 {
            return None;
        }
        let submission = end.read_submission(Slot::of(self.submissions.next()));
        self.submissions.advance();
        // After the copy: the instance may write the slot again.
        end.indices().submission_head.0.store(self.submissions.next(), Ordering::Release);
        Some(submission)
    }

    /// Hands the next completion over.
    #[inline]
    pub fn complete<E: SupervisorEnd>(
        &mut self,
        end: &E,
        completion: &Completion,
    ) -> Result<(), Broken<u32>> {
        let indices = end.indices();
        self.completions.look(indices.completion_head.0.load(Ordering::Acquire))?;
        end.write_completion(Slot::of(self.completions.next()), completion);
        self.completions.advance();
        indices.completion_tail.0.store(self.completions.next(), Ordering::Release);
        // With the fence of `instance::take`: of two threads that each write one word and then read the other's, one reads what was
        // written. An instance that lies here hangs.
        end.fence();
        if indices.sleeping.0.load(Ordering::Relaxed) != 0 {
            end.wake(&indices.completion_tail.0);
        }
        Ok(())
    }

    /// How many completions were handed over, wrapping.
    pub fn completed(&self) -> u32 {
        self.completions.next()
    }
}

/// Gives `word` a new value, and with it all that was written before, to who waits on it ([`super::instance::wait_while`]). `wake` is as
/// [`SupervisorEnd::wake`].
#[inline]
pub fn publish<W: Atomic<u32>>(word: &W, value: u32, wake: impl Fn(&W)) {
    word.store(value, Ordering::Release);
    // Not before: who was woken would find the old value, and wait for ever.
    wake(word);
}

/// From now on the instance need not ring, because this side keeps [looking](Queues::look). An instance that waits for an answer looks for it
/// so many times, less than [`WATCHED`], before it sleeps.
#[inline]
pub fn watch<E: SupervisorEnd>(end: &E, looks: u32) {
    end.indices().watched.0.store(looks | WATCHED, Ordering::Relaxed);
}

/// From now on the instance must ring, and looks so many times for its answer. What it has submitted before it knew so is found by a
/// [look](Queues::look) after this, not by its ring.
#[inline]
pub fn unwatch<E: SupervisorEnd>(end: &E, looks: u32) {
    end.indices().watched.0.store(looks & !WATCHED, Ordering::Relaxed);
    // With the fence of `instance::submit`: of two threads that each write one word and then read the other's, one reads what was written.
    end.fence();
}

/// Whether output waits.
#[inline]
pub fn has_output<E: SupervisorEnd>(end: &E) -> bool {
    end.indices().output.pending.0.load(Ordering::Acquire) != 0
}

/// Takes the output that waits: what the instance says is a word of [`super::pack_output`], or 0. Not to be called before what was
/// taken last is written: that is how the instance knows that its half is free.
#[inline]
pub fn take_output<E: SupervisorEnd>(end: &E) -> u64 {
    end.indices().output.pending.0.swap(0, Ordering::AcqRel)
}

/// From now on the streams in `refused` must not be queued (bits by their number).
#[inline]
pub fn refuse_output<E: SupervisorEnd>(end: &E, refused: u32) {
    end.indices().output.refused.0.store(refused, Ordering::Release);
}
