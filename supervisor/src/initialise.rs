//! `[instance] init` of a policy: the snapshot of a module that a job runs instead of it.
//!
//! There is one per tenant, module and policy, made on first use and kept in memory and in the cache. What goes into it is all in
//! that key: the initialisation gets the arguments and the environment that the policy names, and no streams, directories or
//! imports, so that no job's belongings get into another's.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use policies::Policy;
use tokio::sync::OnceCell;

use crate::cache::EntryName;
use crate::error::Error;
use crate::job::Job;
use crate::module::Module;

/// Snapshots that are kept in memory, the latest last.
#[derive(Debug, Default)]
pub(crate) struct Initialised(Mutex<Vec<Slot>>);

#[derive(Debug)]
struct Slot {
    module: blake3::Hash,
    tenant: String,
    policy: Arc<Policy>,
    snapshot: Arc<OnceCell<Module>>,
}

impl Initialised {
    /// How many are kept, and bytes of all of them.
    const MAX: usize = 16;
    const BYTES_MAX: usize = 512 << 20;

    /// What to run for the job: a snapshot, which `make` makes if there is none, or the job's own module. Jobs that come while it
    /// is made wait for it; if it fails, the next one tries again.
    pub(crate) async fn module_for<F>(
        &self,
        job: &Job,
        make: impl FnOnce(Job, String) -> F,
    ) -> Result<Module, Error>
    where
        F: Future<Output = Result<Module, Error>>,
    {
        let instance = job.policy.instance();
        let (Some(init), None) = (&instance.init, job.module.snapshot()) else {
            return Ok(job.module.clone());
        };
        let snapshot = self.slot(job);
        let made = snapshot.get_or_try_init(|| {
            let bytes = |strings: &[String]| strings.iter().map(|s| s.clone().into_bytes()).collect();
            let first = Job {
                args: bytes(&instance.args),
                env: bytes(&instance.env),
                tenant: job.tenant.clone(),
                ..Job::command(job.module.clone(), Arc::clone(&job.policy))
            };
            make(first, init.clone())
        });
        made.await.cloned()
    }

    fn slot(&self, job: &Job) -> Arc<OnceCell<Module>> {
        // A poisoned lock only means that another thread panicked between two complete states.
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let module = job.module.hash();
        let is_it = |slot: &Slot| {
            slot.module == module
                && slot.tenant == job.tenant
                && (Arc::ptr_eq(&slot.policy, &job.policy) || slot.policy == job.policy)
        };
        let found = slots.iter().position(is_it).map(|at| slots.remove(at));
        let slot = found.unwrap_or_else(|| Slot {
            module,
            tenant: job.tenant.clone(),
            policy: Arc::clone(&job.policy),
            snapshot: Arc::default(),
        });
        let snapshot = Arc::clone(&slot.snapshot);
        slots.push(slot);
        let bytes = |slots: &[Slot]| -> usize {
            slots.iter().filter_map(|slot| Some(slot.snapshot.get()?.image_bytes())).sum()
        };
        while slots.len() > Self::MAX || slots.len() > 1 && bytes(&slots) > Self::BYTES_MAX {
            slots.remove(0);
        }
        snapshot
    }
}

/// The cache's name for the snapshot that a job makes: everything that it depends on.
pub(crate) fn entry_name(job: &Job, init: &str) -> EntryName {
    let mut hasher = blake3::Hasher::new();
    // The policy says what the guest is granted, and how far it may go, beside arguments and environment.
    let policy = format!("{:?}", job.policy);
    for part in ["snapshot", init, &job.tenant, &policy] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    EntryName::new(job.module.hash().as_bytes(), hasher.finalize().as_bytes())
}
