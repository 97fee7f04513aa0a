//! Jobs through the library, with a supervisor in this process.

use std::rc::Rc;
use std::sync::Arc;

use client::ModuleFormat;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use policies::Policy;
use supervisor::{Config, Job, LocalShard, Module, ModuleSource, PoolLimits, Supervisor};

use crate::{Failure, Runner, check};

/// A supervisor with one loaded module. Clones share both.
#[derive(Clone)]
pub struct Library {
    supervisor: Supervisor,
    module: Module,
    policy: Arc<Policy>,
}

impl Library {
    /// Starts a supervisor with so many shards and loads the module. `policy` is a name or a file.
    pub async fn new(wasm: Vec<u8>, shards: usize, policy: &str, pool: PoolLimits) -> Result<Self, Failure> {
        let supervisor = Supervisor::start(Config { shards, pool, ..Config::default() })?;
        let source = match ModuleFormat::of(&wasm) {
            ModuleFormat::Wasm => ModuleSource::Wasm(wasm),
            ModuleFormat::Artifact => ModuleSource::Artifact(wasm),
        };
        let module = supervisor.load(source).await?;
        Ok(Self { supervisor, module, policy: Arc::new(Policy::load(policy)?) })
    }
}

/// Jobs on this thread.
#[derive(Clone)]
pub struct Local {
    library: Library,
    shard: Rc<LocalShard>,
}

impl Local {
    /// Starts a supervisor, loads the module, and keeps this thread on a processor, by default the one that it is on. Needs
    /// a `LocalSet`.
    pub async fn new(
        wasm: Vec<u8>,
        processor: Option<usize>,
        policy: &str,
        pool: PoolLimits,
    ) -> Result<Self, Failure> {
        let library = Library::new(wasm, 1, policy, pool).await?;
        let shard = Rc::new(library.supervisor.local_shard()?);
        let mut only = CpuSet::new();
        only.set(processor.map_or_else(sched_getcpu, Ok)?)?;
        sched_setaffinity(Pid::from_raw(0), &only)?;
        Ok(Self { library, shard })
    }
}

impl Runner for Local {
    async fn run_one(&mut self) -> Result<(), Failure> {
        let job = Job::command(self.library.module.clone(), Arc::clone(&self.library.policy));
        check(&self.shard.run(job).await?)
    }
}

impl Runner for Library {
    async fn run_one(&mut self) -> Result<(), Failure> {
        let job = Job::command(self.module.clone(), Arc::clone(&self.policy));
        check(&self.supervisor.run(job).await?)
    }
}
