//! Jobs through the library, with a supervisor in this process.

use std::sync::Arc;

use policies::Policy;
use supervisor::{Config, Job, Module, ModuleSource, Supervisor};

use crate::{Failure, Runner, check};

/// A supervisor with one loaded module. Clones share both.
#[derive(Clone)]
pub struct Library {
    supervisor: Supervisor,
    module: Module,
    policy: Arc<Policy>,
}

impl Library {
    /// Starts a supervisor with so many shards and loads the module.
    pub async fn new(wasm: Vec<u8>, shards: usize) -> Result<Self, Failure> {
        let supervisor = Supervisor::start(Config { shards, ..Config::default() })?;
        let module = supervisor.load(ModuleSource::Wasm(wasm)).await?;
        Ok(Self { supervisor, module, policy: Arc::new(Policy::builtin("default")?) })
    }
}

impl Runner for Library {
    async fn run_one(&mut self) -> Result<(), Failure> {
        let job = Job::command(self.module.clone(), Arc::clone(&self.policy));
        check(&self.supervisor.run(job).await?)
    }
}
