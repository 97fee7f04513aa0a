//! Cgroups (version 2) with limits for everything that runs for a tenant together.
//!
//! A limit of a job counts in one instance; nothing of it says what a hundred instances of a tenant use together. Cgroups do. The unit is the
//! tenant, and module zygotes are what belongs to one tenant alone, so they are what is placed: each is moved when its root zygote
//! has forked it, before it forks its first instance, and instances are where their zygote is. What is placed where says
//! [`Tenants`]; the directories are [`tree`]'s business.
//!
//! Cgroups are made by whoever starts zygotes: this process or its spawner. A supervisor that has confined itself gets nothing that would
//! let it move a process: by that it could take any process of the host into a cgroup that is killed at the end
//! (docs/decisions/0010-tenants-in-cgroups.md).

mod error;
mod kills;
mod tenants;
mod tree;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub use error::{CgroupError, Step as CgroupStep};
pub(crate) use kills::Kills;
pub(crate) use tenants::{Placed, Tenants};
pub(crate) use tree::{LEAF_NAME_MAX, Lock, Tree, is_leaf_name, leaf_name};

use crate::config::Config;
use crate::error::{Error, system};
use crate::process::watch;
use crate::spawner::Spawner;

/// How a supervisor has module zygotes placed.
#[derive(Debug)]
pub(crate) struct Cgroups {
    means: Means,
    memory_max: Option<u64>,
    /// Of each leaf that has any, by its number: every death counts once, whichever shard it is in.
    kills: Mutex<HashMap<u64, Weak<Kills>>>,
}

#[derive(Debug)]
enum Means {
    Own(Arc<Tenants>),
    Spawner(Spawner),
    Missing(Missing),
}

/// Why tenants have no cgroups.
#[derive(Clone, Debug)]
pub(crate) enum Missing {
    /// The configuration does not ask for them.
    NotAsked,
    /// They cannot be made.
    Impossible(String),
}

impl Cgroups {
    /// As the configuration says, as far as the host lets.
    pub(crate) fn new(config: &Config) -> Self {
        let means = match (&config.spawner, &config.cgroup) {
            (Some(spawner), _) => match spawner.places() {
                Ok(()) => Means::Spawner(spawner.clone()),
                Err(missing) => Means::Missing(missing),
            },
            (None, None) => Means::Missing(Missing::NotAsked),
            (None, Some(wanted)) => match Tree::make(wanted) {
                Ok((tree, lock)) => Means::Own(Tenants::new(tree, Some(lock))),
                Err(error) => Means::Missing(Missing::Impossible(error.to_string())),
            },
        };
        let memory_max = config.cgroup.as_ref().and_then(|wanted| wanted.memory_max);
        Self { means, memory_max, kills: Mutex::default() }
    }

    /// Why there are none; `None` if there are.
    pub(crate) fn missing(&self) -> Option<&Missing> {
        match &self.means {
            Means::Missing(missing) => Some(missing),
            Means::Own(_) | Means::Spawner(_) => None,
        }
    }

    /// Moves a module zygote into its tenant's cgroup, which goes with the last of them. The result tells deaths by its limit of memory, if it
    /// has one. Must be called inside of a `LocalSet`.
    pub(crate) async fn place(
        &self,
        tenant: &str,
        pidfd: BorrowedFd<'_>,
    ) -> Result<Option<Arc<Kills>>, Error> {
        let name = leaf_name(tenant);
        let (number, events) = match &self.means {
            Means::Own(tenants) => {
                let ended = pidfd.try_clone_to_owned().map_err(system("copy a pidfd"))?;
                let placed = tenants.place(&name, pidfd)?;
                keep(placed, ended, ())?
            }
            Means::Spawner(spawner) => spawner.place(name, pidfd).await?,
            Means::Missing(_) => return Ok(None),
        };
        Ok(self.memory_max.zip(events).map(|(limit, events)| self.kills_of(number, events, limit)))
    }

    fn kills_of(&self, leaf: u64, events: File, limit: u64) -> Arc<Kills> {
        let mut all = self.kills.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, kills| kills.strong_count() > 0);
        if let Some(known) = all.get(&leaf).and_then(Weak::upgrade) {
            return known;
        }
        let kills = Arc::new(Kills::new(events, limit));
        all.insert(leaf, Arc::downgrade(&kills));
        kills
    }
}

/// Keeps a zygote placed until it has ended, and `permit` with it. Its leaf's number, and what counts its kills.
pub(crate) fn keep(
    mut placed: Placed,
    pidfd: OwnedFd,
    permit: impl Sized + 'static,
) -> Result<(u64, Option<File>), Error> {
    let told = (placed.number, placed.events.take());
    let ended = watch(pidfd).map_err(system("watch a zygote"))?;
    tokio::task::spawn_local(async move {
        let _ = ended.readable().await;
        drop((placed, permit));
    });
    Ok(told)
}
