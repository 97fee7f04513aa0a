//! Watching a talkative instance from another processor.
//!
//! On the instance's own processor a waiting host call costs two changes of process, some 4 µs. While an instance makes one call after the
//! other, its shard's thread goes to another processor and keeps looking at the ring; the instance keeps looking for the answer. Then no
//! call costs a system call or a change of process.
//!
//! That pays only for a processor that nobody else wants: the thread goes home when it was preempted there, when the shard gets another
//! job, or when the calls become fewer. It is never longer than [`BUDGET`] without anything to do: about what it costs to wake it from
//! there, so that looking never costs more than twice what the better of looking and sleeping would have.

use std::hint::spin_loop;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ipc::ring::WATCHED;
use ipc::ring::supervisor::{Next, unwatch, watch};
use nix::sys::resource::{UsageWho, getrusage};

use super::shared_memory::SharedMemory;
use crate::processors::{self, Place, Why};

/// Calls between two decisions.
const CALLS: u32 = 128;
/// An instance is talkative if a call and what comes before it take so long on average.
const PERIOD: Duration = Duration::from_micros(25);
/// How long a look takes at most: as long as waking another processor.
const BUDGET: Duration = Duration::from_micros(50);
/// How often an instance looks for its answer before it sleeps, until it is known how many looks take [`BUDGET`].
const LOOKS: u32 = 1000;
/// The same at most.
const LOOKS_MAX: u32 = 1 << 16;
/// Looks between two readings of the clock.
const LOOKS_PER_READING: u32 = 32;
/// Looks for nothing among [`CALLS`] with which being away does not pay: each costs as much as a dozen other calls spare.
const MISSES_MAX: u32 = CALLS / 12;
/// How long preemptions are counted before they are counted anew. Whoever shares a processor with somebody who computes is preempted once in
/// some 8 ms, whatever its calls are like.
const JUDGEMENT: Duration = Duration::from_millis(32);
/// Preemptions in that time that are nothing yet: every thread is preempted now and then.
const PREEMPTIONS_MAX: i64 = 2;
/// Calls after which being away has paid, however it ends.
const WORTHWHILE: u32 = 16 * CALLS;

/// How one instance is watched. Dropping it sends the thread home.
#[derive(Debug)]
pub(super) struct Watch<'s> {
    shared: &'s SharedMemory,
    place: Option<Rc<Place>>,
    /// What the instance was told last: see [`Indices::watched`](ipc::ring::Indices::watched).
    told: u32,
    /// How often it is to look for an answer.
    looks: u32,
    /// Calls since the last decision.
    calls: u32,
    since: Instant,
    /// Looks that saw nothing, since then.
    misses: u32,
    /// Calls since this thread left its home.
    calls_away: u32,
    /// How often this thread had been preempted when it left its home, or at the last judgement, and when that was.
    preempted: (i64, Instant),
}

impl<'s> Watch<'s> {
    pub(super) fn new(shared: &'s SharedMemory) -> Self {
        let place = processors::here();
        let since = Instant::now();
        // Away already: for another job, which has not noticed this one yet.
        let count = if place.as_ref().is_some_and(|place| place.is_away()) { preemptions() } else { 0 };
        let preempted = (count, since);
        Self { shared, place, told: 0, looks: LOOKS, calls: 0, since, misses: 0, calls_away: 0, preempted }
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
        (self.calls, self.since, self.misses) = (0, now, 0);
        let Some(place) = &self.place else { return };
        if !place.is_away() {
            if took <= PERIOD * CALLS && place.leave() {
                self.preempted = (preemptions(), now);
                self.calls_away = 0;
            }
            return;
        }
        self.calls_away = self.calls_away.saturating_add(CALLS);
        if disturbed(&mut self.preempted, now) {
            place.retreat(Why::Disturbed);
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
        if let Some(place) = self.place.as_ref().filter(|place| place.is_away() && !place.has_one_job()) {
            // Also for that job's sake, which this thread keeps waiting while it looks.
            place.retreat(Why::Wanted);
        }
        if self.is_away() {
            next = self.look_for_a_while(next, &mut look)?;
            if next == Next::Call {
                return Ok(next);
            }
            self.misses += 1;
            if let (true, Some(place)) = (self.misses > MISSES_MAX, &self.place) {
                let now = Instant::now();
                let paid = self.calls_away >= WORTHWHILE;
                place.retreat(match disturbed(&mut self.preempted, now) {
                    true => Why::Disturbed,
                    false if paid => Why::Quiet,
                    false => Why::InVain,
                });
                (self.calls, self.since, self.misses) = (0, now, 0);
            }
        }
        // From another processor it takes a while to answer; on the same one, an instance that looks is in the way. Also when this side
        // was away at its last look.
        let looks = if self.is_away() { self.looks } else { 0 };
        if self.told != looks {
            self.told = looks;
            unwatch(self.shared, looks);
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
        if self.told != self.looks | WATCHED {
            self.told = self.looks | WATCHED;
            watch(self.shared, self.looks);
        }
        // Most answers come before the clock is read.
        let mut until = None;
        let mut looks = 0;
        'looking: while next == Next::Nothing {
            for _ in 0..LOOKS_PER_READING {
                next = look()?;
                if next != Next::Nothing {
                    break 'looking;
                }
                spin_loop();
            }
            let now = Instant::now();
            if now >= *until.get_or_insert(now + BUDGET) {
                // The instance's looks are shorter, so that it may look more often.
                self.looks = (2 * looks).clamp(LOOKS, LOOKS_MAX);
                break;
            }
            looks += LOOKS_PER_READING;
        }
        Ok(next)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let Some(place) = &self.place else { return };
        if place.is_away() && disturbed(&mut self.preempted, Instant::now()) {
            // It counts, however short the job was.
            place.retreat(Why::Disturbed);
        } else {
            place.return_home();
        }
    }
}

/// Whether others have wanted the processor since then. What is counted is counted anew after a while.
fn disturbed(since: &mut (i64, Instant), now: Instant) -> bool {
    let count = preemptions();
    let disturbed = count - since.0 > PREEMPTIONS_MAX;
    if now.duration_since(since.1) >= JUDGEMENT {
        *since = (count, now);
    }
    disturbed
}

/// How often this thread was preempted.
fn preemptions() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches())
}
