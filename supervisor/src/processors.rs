//! Where threads run: a shard's thread on one processor, at home, with every process below it; other threads anywhere.
//!
//! Only speed depends on it, so a host that refuses loses nothing else.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// How long a thread stays at home after it was away and others wanted the processor there, the first time.
const PAUSE: Duration = Duration::from_millis(100);
/// The same at most, when they do again and again.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long it stays at home when there was little to do where it was, the first time; at most as long as [`PAUSE`], when that is so again
/// and again.
const LULL: Duration = Duration::from_millis(2);

/// Why a thread comes home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Others wanted the processor.
    Disturbed,
    /// The shard has another job.
    Wanted,
    /// There is less to do.
    Quiet,
    /// There was too little to do from the start.
    InVain,
}

thread_local! {
    static PLACE: RefCell<Option<Rc<Place>>> = const { RefCell::new(None) };
}

/// Where the thread of a shard is.
#[derive(Debug)]
pub(crate) struct Place {
    home: CpuSet,
    /// The other processors that this process may use; `None` if there are none.
    elsewhere: Option<CpuSet>,
    /// All of them.
    everywhere: CpuSet,
    /// The shard's jobs.
    jobs: Arc<AtomicUsize>,
    away: Cell<bool>,
    /// When it may go away again.
    again: Cell<Option<Instant>>,
    /// The pause after the next disturbance.
    pause: Cell<Duration>,
    /// That after the next time that is in vain.
    lull: Cell<Duration>,
}

/// The processors for `shards` shards: the one that this thread runs on (the scheduler has just chosen it) and the ones
/// after it, over and over.
pub(crate) fn for_shards(shards: usize) -> Vec<Option<usize>> {
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else { return vec![None; shards] };
    let allowed: Vec<usize> = members(&allowed).collect();
    let current = sched_getcpu().ok().and_then(|cpu| allowed.iter().position(|p| *p == cpu)).unwrap_or(0);
    (0..shards).map(|shard| allowed.get((current + shard) % allowed.len().max(1)).copied()).collect()
}

fn members(set: &CpuSet) -> impl Iterator<Item = usize> {
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false))
}

fn set(processors: &CpuSet) -> bool {
    sched_setaffinity(Pid::from_raw(0), processors).is_ok()
}

/// Gives the thread of a shard with these jobs its home.
pub(crate) fn settle(processor: usize, jobs: &Arc<AtomicUsize>) {
    let (mut home, mut elsewhere) = (CpuSet::new(), CpuSet::new());
    let Ok(everywhere) = sched_getaffinity(Pid::from_raw(0)) else { return };
    if home.set(processor).is_err() || !set(&home) {
        return;
    }
    let others =
        members(&everywhere).filter(|cpu| *cpu != processor).filter(|cpu| elsewhere.set(*cpu).is_ok());
    let elsewhere = (others.count() > 0).then_some(elsewhere);
    let place = Place {
        home,
        elsewhere,
        everywhere,
        jobs: Arc::clone(jobs),
        away: Cell::new(false),
        again: Cell::new(None),
        pause: Cell::new(PAUSE),
        lull: Cell::new(LULL),
    };
    PLACE.set(Some(Rc::new(place)));
}

/// That of this thread, if it has a home.
pub(crate) fn here() -> Option<Rc<Place>> {
    PLACE.with_borrow(Option::clone)
}

/// Sends this thread home: whatever it starts is where it is.
pub(crate) fn go_home() {
    if let Some(place) = here() {
        place.return_home();
    }
}

/// The processors for a thread that this one starts for other work than its own; `None`: those of this one.
pub(crate) fn for_helper() -> Option<CpuSet> {
    here().map(|place| place.everywhere)
}

/// Lets this thread run on these.
pub(crate) fn allow(processors: Option<CpuSet>) {
    if let Some(processors) = processors {
        set(&processors);
    }
}

impl Place {
    /// Leaves home to the shard's only job, if there is elsewhere to go.
    pub(crate) fn leave(&self) -> bool {
        let may = self.again.get().is_none_or(|again| Instant::now() >= again) && self.has_one_job();
        if let (true, Some(elsewhere)) = (may, &self.elsewhere) {
            self.away.set(set(elsewhere));
        }
        self.away.get()
    }

    /// Whether it is away.
    pub(crate) fn is_away(&self) -> bool {
        self.away.get()
    }

    pub(crate) fn has_one_job(&self) -> bool {
        self.jobs.load(Ordering::Relaxed) <= 1
    }

    /// Comes home for a while; for longer, the more often others wanted the processor where it was, or it went there in vain.
    pub(crate) fn retreat(&self, why: Why) {
        self.return_home();
        let pause = match why {
            Why::Disturbed => {
                let pause = self.pause.get();
                self.pause.replace((pause * 2).min(PAUSE_MAX))
            }
            // Says nothing of what it was like where it was.
            Why::Wanted => LULL,
            Why::Quiet => {
                self.pause.set(PAUSE);
                self.lull.set(LULL);
                LULL
            }
            Why::InVain => {
                let lull = self.lull.get();
                self.lull.replace((lull * 2).min(PAUSE))
            }
        };
        self.again.set(Some(Instant::now() + pause));
    }

    /// Comes home.
    pub(crate) fn return_home(&self) {
        if self.away.replace(false) {
            set(&self.home);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this thread may run on.
    fn allowed() -> Vec<usize> {
        members(&sched_getaffinity(Pid::from_raw(0)).expect("affinity")).collect()
    }

    #[test]
    fn shards_are_spread_over_the_processors() {
        let allowed = allowed();
        let mut given: Vec<usize> = for_shards(allowed.len()).into_iter().flatten().collect();
        given.sort_unstable();
        assert_eq!(given, allowed);
        assert_eq!(for_shards(allowed.len() + 1).first(), for_shards(allowed.len() + 1).last());
    }

    #[test]
    fn a_thread_leaves_its_home_for_one_job_only_and_comes_back() {
        let before = allowed();
        let jobs = Arc::new(AtomicUsize::new(2));
        std::thread::spawn(move || {
            let home = before[0];
            settle(home, &jobs);
            let place = here().expect("a place");
            assert_eq!(allowed(), [home]);
            assert!(!place.leave(), "with two jobs");
            jobs.store(1, Ordering::Relaxed);
            assert_eq!(place.leave(), before.len() > 1);
            if before.len() == 1 {
                println!("NOT CHECKED: how a thread leaves its processor (there is only one)");
                return;
            }
            assert_eq!(allowed(), before[1..]);
            place.retreat(Why::Disturbed);
            assert!(!place.is_away() && allowed() == [home]);
            assert!(!place.leave(), "so soon");
            for why in [Why::InVain, Why::Wanted, Why::Quiet] {
                place.again.set(None);
                assert!(place.leave());
                place.retreat(why);
                assert!(!place.is_away() && allowed() == [home]);
            }
            place.again.set(None);
            assert!(place.leave());
            go_home();
            assert!(!place.is_away() && allowed() == [home]);
            let helper = for_helper();
            allow(helper);
            assert_eq!(allowed(), before);
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn pauses_grow_with_what_went_wrong_and_end() {
        let place = Place {
            home: CpuSet::new(),
            elsewhere: None,
            everywhere: CpuSet::new(),
            jobs: Arc::default(),
            away: Cell::new(false),
            again: Cell::new(None),
            pause: Cell::new(PAUSE),
            lull: Cell::new(LULL),
        };
        let after = |why| {
            place.retreat(why);
            (place.pause.get(), place.lull.get())
        };
        assert_eq!(after(Why::InVain), (PAUSE, LULL * 2));
        assert_eq!(after(Why::Disturbed), (PAUSE * 2, LULL * 2));
        for _ in 0..30 {
            after(Why::InVain);
            after(Why::Disturbed);
        }
        assert_eq!((place.pause.get(), place.lull.get()), (PAUSE_MAX, PAUSE));
        assert_eq!(after(Why::Wanted), (PAUSE_MAX, PAUSE), "another job wipes nothing out");
        assert_eq!(after(Why::Quiet), (PAUSE, LULL));
    }
}
