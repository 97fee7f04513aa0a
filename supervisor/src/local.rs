//! A shard on the thread of the host app.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;

use ipc::report::Report;
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::instance::Remains;
use crate::job::Job;
use crate::observed::Observed;
use crate::shard::{State, block_size_signal, housekeeper};
use crate::supervisor::Supervisor;

/// Runs jobs on the calling thread: no message to another thread, and no wake-up of one, stands between the host app and its
/// instance. For host apps with an event loop per thread.
///
/// It has zygotes of its own, which end with it or with its thread, and is a handle to the supervisor as its clones are. Modules come from [`Supervisor::load`]. Its methods must be
/// called inside of a [`tokio::task::LocalSet`] on the thread that made it. Wake-ups are the fastest where the host app keeps
/// that thread on one processor: its instances stay there too. A task of that `LocalSet` cleans up after jobs, which includes
/// killing the instances that have finished: a thread that is blocked delays that.
#[derive(Debug)]
pub struct LocalShard {
    supervisor: Supervisor,
    state: Rc<State>,
    housekeeper: JoinHandle<()>,
}

impl Supervisor {
    /// A shard on this thread, in addition to the supervisor's own; started with the first job. Blocks SIGXFSZ in this thread,
    /// as guests' writes are made here. At most 8 exist at a time, with at most 6 module zygotes each.
    ///
    /// # Errors
    /// [`Error::TooManyLocalShards`].
    ///
    /// # Panics
    /// Outside of a [`tokio::task::LocalSet`].
    pub fn local_shard(&self) -> Result<LocalShard, Error> {
        let permit = self.local_shard_permit()?;
        block_size_signal();
        let state = Rc::new(State::new(self.config().clone(), self.cgroups(), Some(permit)));
        let housekeeper = tokio::task::spawn_local(housekeeper(Rc::clone(&state)));
        Ok(LocalShard { supervisor: self.clone(), state, housekeeper })
    }
}

impl LocalShard {
    /// As [`Supervisor::run`].
    pub async fn run(&self, job: Job) -> Result<Report, Error> {
        self.run_until(job, std::future::pending()).await
    }

    /// As [`Supervisor::run_until`].
    pub async fn run_until(&self, job: Job, cancel: impl Future<Output = ()>) -> Result<Report, Error> {
        self.submit(job, cancel, None).await
    }

    /// As [`Supervisor::observe`].
    pub async fn observe(
        &self,
        job: Job,
        cancel: impl Future<Output = ()>,
    ) -> Result<(Report, Observed), Error> {
        let mut observed = Observed::default();
        let report = self.submit(job, cancel, Some(&mut observed)).await?;
        Ok((report, observed))
    }

    async fn submit(
        &self,
        job: Job,
        cancel: impl Future<Output = ()>,
        observed: Option<&mut Observed>,
    ) -> Result<Report, Error> {
        run_here(&self.supervisor, &self.state, job, cancel, observed).await
    }
}

/// Runs a job in a shard of this thread.
pub(crate) async fn run_here(
    supervisor: &Supervisor,
    state: &Rc<State>,
    mut job: Job,
    cancel: impl Future<Output = ()>,
    observed: Option<&mut Observed>,
) -> Result<Report, Error> {
    let mut cancel = pin!(cancel);
    // A snapshot that the policy asks for is made in one of the supervisor's own shards.
    if let Some(report) = supervisor.initialise(&mut job, &mut cancel).await? {
        return Ok(report);
    }
    let mut remains = Remains::default();
    let report = state.run(job, cancel, None, &mut remains, observed).await;
    state.after_job(remains);
    report
}

impl Drop for LocalShard {
    fn drop(&mut self) {
        // It holds the zygotes too.
        self.housekeeper.abort();
    }
}
