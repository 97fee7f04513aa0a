//! Watching a talkative instance from another processor.
//!
//! On the instance's own processor a waiting host call costs two changes of process, some 4 µs. While an instance makes one call after the
//! other, its shard's thread goes to another processor and keeps looking at the ring; the instance keeps looking for the answer. Then no
//! call costs a system call or a change of process.
//!
//! That pays only for a processor that nobody else wants: the thread goes home when it was preempted there, when the shard gets another
//! job, or when the calls become fewer. It is never longer than [`BUDGET`] without anything to do.

use std::hint::spin_loop;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ipc::ring::supervisor::{Next, unwatch, watch};
use nix::sys::resource::{UsageWho, getrusage};

use super::shared_memory::SharedMemory;
use crate::processors::{self, Place};

/// Calls between two decisions.
const CALLS: u32 = 128;
/// An instance is talkative if a call and what comes before it take so long on average.
const PERIOD: Duration = Duration::from_micros(25);
/// How long a look takes at most. A change of process and back costs a quarter of it, waking another processor more.
const BUDGET: Duration = Duration::from_micros(20);
/// How often an instance looks for its answer before it sleeps: about [`BUDGET`].
const LOOKS: u32 = 400;
/// Looks between two readings of the clock.
const LOOKS_PER_READING: u32 = 32;

/// How one instance is watched. Dropping it sends the thread home.
#[derive(Debug)]
pub(super) struct Watch<'s> {
    shared: &'s SharedMemory,
    place: Option<Rc<Place>>,
    /// Whether the instance was told that it need not ring.
    watching: bool,
    /// Calls since the last decision.
    calls: u32,
    since: Instant,
    /// Looks that saw nothing, since then.
    misses: u32,
    /// How often this thread had been preempted then.
    preempted: i64,
}

impl<'s> Watch<'s> {
    pub(super) fn new(shared: &'s SharedMemory) -> Self {
        let place = processors::here();
        Self { shared, place, watching: false, calls: 0, since: Instant::now(), misses: 0, preempted: 0 }
    }

    fn is_away(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.is_away())
    }

    /// Counts a call, and decides where to be every now and then.
    pub(super) fn count(&mut self) {
        self.calls += 1;
        if self.calls < CALLS {
            return;
        }
        let now = Instant::now();
        let took = now - self.since;
        let misses = std::mem::take(&mut self.misses);
        (self.calls, self.since) = (0, now);
        let Some(place) = &self.place else { return };
        if !place.is_away() {
            if took <= PERIOD * CALLS && place.leave() {
                self.preempted = preemptions();
            }
            return;
        }
        let preempted = preemptions();
        // Once is not much: every thread is at times.
        let disturbed = preempted - std::mem::replace(&mut self.preempted, preempted) > 1;
        if disturbed || misses > CALLS / 4 || !place.has_one_job() {
            place.retreat(disturbed);
        }
    }

    /// To be called with what the last look saw, before this side waits for the doorbell: what there is to do then. The instance rings for
    /// whatever it submits later.
    pub(super) fn before_waiting<E>(
        &mut self,
        seen: Next,
        mut look: impl FnMut() -> Result<Next, E>,
    ) -> Result<Next, E> {
        let mut next = seen;
        if self.is_away() {
            next = self.look_for_a_while(next, &mut look)?;
            if next == Next::Call {
                return Ok(next);
            }
            self.misses += 1;
        }
        // Also when it was away at its last look.
        if std::mem::take(&mut self.watching) {
            unwatch(self.shared);
            next = look()?;
        }
        Ok(next)
    }

    /// Keeps looking until there is something or [`BUDGET`] is used up.
    fn look_for_a_while<E>(
        &mut self,
        mut next: Next,
        mut look: impl FnMut() -> Result<Next, E>,
    ) -> Result<Next, E> {
        if !std::mem::replace(&mut self.watching, true) {
            watch(self.shared, LOOKS);
        }
        let until = Instant::now() + BUDGET;
        'looking: while next == Next::Nothing && Instant::now() < until {
            for _ in 0..LOOKS_PER_READING {
                next = look()?;
                if next != Next::Nothing {
                    break 'looking;
                }
                spin_loop();
            }
        }
        Ok(next)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            place.return_home();
        }
    }
}

/// How often this thread was preempted.
fn preemptions() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches())
}
