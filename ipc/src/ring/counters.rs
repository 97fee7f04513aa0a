//! The arithmetic of the queues' indices, against a peer that writes its own as it likes.
//!
//! An index counts what went through a queue since its start and wraps. Each side keeps its own in private memory and looks at the
//! other's once per step. What it finds must be where an honest peer can be: not further ahead than there are slots, and not
//! before what it said last.
//!
//! Written for counters of any width, so that all of it can be tried out with narrow ones (`ipc/tests/ring_counters.rs`).

use core::fmt;

/// An unsigned integer that wraps.
pub trait Counter: Copy + Eq + fmt::Debug + fmt::Display {
    /// The counter after `steps` more.
    fn forward(self, steps: Self) -> Self;
    /// How many steps it is from `earlier` to here.
    fn since(self, earlier: Self) -> Self;
    /// The value; cut to the low bits where a `usize` is narrower.
    fn to_usize(self) -> usize;
    /// One step.
    const ONE: Self;
    /// The start.
    const ZERO: Self;
}

macro_rules! counter {
    ($($integer:ty)*) => { $(
        impl Counter for $integer {
            const ONE: Self = 1;
            const ZERO: Self = 0;
            #[inline(always)]
            fn forward(self, steps: Self) -> Self {
                self.wrapping_add(steps)
            }
            #[inline(always)]
            fn since(self, earlier: Self) -> Self {
                self.wrapping_sub(earlier)
            }
            #[inline(always)]
            fn to_usize(self) -> usize {
                self as usize
            }
        }
    )* };
}

counter!(u8 u16 u32);

/// The slot of an index, below `SLOTS`: a mask, so that no processor runs ahead with another one.
#[inline(always)]
pub fn slot<N: Counter, const SLOTS: usize>(index: N) -> usize {
    const { assert!(SLOTS.is_power_of_two()) };
    index.to_usize() & (SLOTS - 1)
}

/// What a peer did to an index of its own that no honest one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken<N> {
    /// The producer is further ahead of the consumer than there are slots.
    TooManySubmitted {
        /// The producer's index.
        index: N,
        /// The consumer's.
        served: N,
        /// How many there are.
        slots: usize,
    },
    /// The producer's index went backwards.
    SubmittedLess {
        /// What it is.
        index: N,
        /// What it was.
        before: N,
    },
    /// The consumer leaves every slot full.
    NotTaken {
        /// How many are full.
        slots: usize,
    },
    /// The consumer claims to have taken what was not there.
    TookTooMany {
        /// Its index.
        index: N,
        /// The producer's.
        given: N,
    },
    /// The consumer's index went backwards.
    TookLess {
        /// What it is.
        index: N,
        /// What it was.
        before: N,
    },
}

impl<N: fmt::Display> fmt::Display for Broken<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManySubmitted { index, served, slots } => {
                write!(f, "submission index {index} with {served} served: more than {slots} in flight")
            }
            Self::SubmittedLess { index, before } => {
                write!(f, "submission index {index} after {before}: it went backwards")
            }
            Self::NotTaken { slots } => write!(f, "{slots} completions not taken"),
            Self::TookTooMany { index, given } => {
                write!(f, "completion index {index} with {given} completed: more taken than given")
            }
            Self::TookLess { index, before } => {
                write!(f, "completion index {index} after {before}: it went backwards")
            }
        }
    }
}

/// The consumer's view of a queue whose producer is not trusted.
///
/// Invariant: `seen` is at most `SLOTS` steps after `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumer<N, const SLOTS: usize> {
    /// The next to be taken.
    next: N,
    /// The producer's index when it was looked at last.
    seen: N,
}

impl<N: Counter, const SLOTS: usize> Consumer<N, SLOTS> {
    /// Of a new queue.
    pub const fn new() -> Self {
        Self { next: N::ZERO, seen: N::ZERO }
    }

    /// Of a queue through which `next` have gone.
    pub const fn at(next: N) -> Self {
        Self { next, seen: next }
    }

    /// How many wait, now that the producer's index is `tail`.
    #[inline]
    pub fn look(&mut self, tail: N) -> Result<usize, Broken<N>> {
        let waiting = tail.since(self.next).to_usize();
        if waiting > SLOTS {
            return Err(Broken::TooManySubmitted { index: tail, served: self.next, slots: SLOTS });
        }
        if waiting < self.waiting() {
            return Err(Broken::SubmittedLess { index: tail, before: self.seen });
        }
        self.seen = tail;
        Ok(waiting)
    }

    /// How many waited at the last look and were not taken since.
    #[inline]
    pub fn waiting(&self) -> usize {
        self.seen.since(self.next).to_usize()
    }

    /// The index of the next to be taken.
    #[inline]
    pub fn next(&self) -> N {
        self.next
    }

    /// Goes past the next one, which must be there ([`waiting`](Self::waiting)).
    #[inline]
    pub fn advance(&mut self) {
        debug_assert!(self.waiting() > 0, "nothing waits");
        self.next = self.next.forward(N::ONE);
    }
}

impl<N: Counter, const SLOTS: usize> Default for Consumer<N, SLOTS> {
    fn default() -> Self {
        Self::new()
    }
}

/// The producer's view of a queue whose consumer is not trusted.
///
/// Invariant: `next` is at most `SLOTS` steps after `taken`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer<N, const SLOTS: usize> {
    /// The next to be put.
    next: N,
    /// The consumer's index when it was looked at last.
    taken: N,
}

impl<N: Counter, const SLOTS: usize> Producer<N, SLOTS> {
    /// Of a new queue.
    pub const fn new() -> Self {
        Self { next: N::ZERO, taken: N::ZERO }
    }

    /// Of a queue through which `next` have gone.
    pub const fn at(next: N) -> Self {
        Self { next, taken: next }
    }

    /// Looks for a free slot, now that the consumer's index is `head`. How many are free: at least one.
    #[inline]
    pub fn look(&mut self, head: N) -> Result<usize, Broken<N>> {
        let full = self.next.since(head).to_usize();
        if full > SLOTS {
            return Err(Broken::TookTooMany { index: head, given: self.next });
        }
        if full > self.next.since(self.taken).to_usize() {
            return Err(Broken::TookLess { index: head, before: self.taken });
        }
        self.taken = head;
        if full == SLOTS {
            return Err(Broken::NotTaken { slots: SLOTS });
        }
        Ok(SLOTS - full)
    }

    /// The index of the next to be put.
    #[inline]
    pub fn next(&self) -> N {
        self.next
    }

    /// Goes past the next one, for which there must have been room at the last look.
    #[inline]
    pub fn advance(&mut self) {
        debug_assert!(self.next.since(self.taken).to_usize() < SLOTS, "no slot is free");
        self.next = self.next.forward(N::ONE);
    }
}

impl<N: Counter, const SLOTS: usize> Default for Producer<N, SLOTS> {
    fn default() -> Self {
        Self::new()
    }
}
