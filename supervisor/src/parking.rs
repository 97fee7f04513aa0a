//! Parked instances: children that a module zygote has forked ahead of their jobs.
//!
//! A parked instance is confined, holds its own shared memory and doorbell, and has run no guest code. A job wakes one instead
//! of waiting for a fork. How many are kept follows the demand: a job that finds none asks for more, and what nobody took for
//! a while goes. All of this happens between jobs.

use std::cell::{Cell, RefCell};

use std::sync::Arc;

use crate::cgroup::Kills;
use crate::config::PoolLimits;
use crate::instance::{Parked, was_killed};

/// The parked instances of one module zygote.
#[derive(Debug)]
pub(crate) struct Parking {
    limits: PoolLimits,
    /// Kills for the tenant's limit of memory, which parked instances may die of, too.
    kills: Option<Arc<Kills>>,
    parked: RefCell<Vec<Parked>>,
    /// How many are wanted.
    target: Cell<usize>,
    /// The fewest that there were since the last [`Self::relax`].
    fewest: Cell<usize>,
}

impl Parking {
    pub(crate) fn new(limits: PoolLimits, kills: Option<Arc<Kills>>) -> Self {
        let target = Cell::new(limits.min.min(limits.max));
        Self { limits, kills, parked: RefCell::default(), target, fewest: Cell::new(0) }
    }

    /// The instance that was parked last, whose memory is the most likely to be in the processor's caches.
    pub(crate) fn take(&self) -> Option<Parked> {
        let mut parked = self.parked.borrow_mut();
        while let Some(mut taken) = parked.pop() {
            self.fewest.set(self.fewest.get().min(parked.len()));
            if self.is_alive(&mut taken) {
                return Some(taken);
            }
        }
        self.fewest.set(0);
        let more = self.target.get().saturating_mul(2).max(1);
        self.target.set(more.min(self.limits.max));
        None
    }

    /// Whether one lives. A kill that has ended it must explain no job's death.
    fn is_alive(&self, parked: &mut Parked) -> bool {
        let end = parked.end();
        if let (Some(Some(death)), Some(kills)) = (&end, &self.kills)
            && was_killed(death)
        {
            kills.explain();
        }
        end.is_none()
    }

    /// How many are missing.
    pub(crate) fn missing(&self) -> usize {
        self.target.get().saturating_sub(self.parked.borrow().len())
    }

    pub(crate) fn put(&self, parked: Parked) {
        self.parked.borrow_mut().push(parked);
    }

    /// Gives up all, because their zygote is gone.
    pub(crate) fn clear(&self) {
        self.parked.borrow_mut().clear();
    }

    /// Gives up what nobody has needed since the last time: half of it, so that a short pause costs little. Returns
    /// whether anything is left that could be given up later.
    pub(crate) fn relax(&self) -> bool {
        let mut parked = self.parked.borrow_mut();
        parked.retain_mut(|parked| self.is_alive(parked));
        let unused = self.fewest.get().min(parked.len());
        let target = self.target.get().saturating_sub(unused.div_ceil(2)).max(self.limits.min);
        let target = target.min(self.limits.max);
        self.target.set(target);
        let surplus = parked.len().saturating_sub(target);
        // The coldest first.
        parked.drain(..surplus);
        self.fewest.set(parked.len());
        parked.len() > self.limits.min
    }
}
