//! A run without a daemon: a supervisor for one job, in this process.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::{EntryRequest, ModuleFormat, PolicyRequest};
use ipc::protocol::MODULE_BYTES_MAX;
use ipc::report::Report;
use policies::Policy;
use supervisor::{Config, Entry, Job, JobLimits, ModuleSource, Preopen, Supervisor, invoke};

use crate::error::Error;
use crate::run::Plan;
use crate::signals::Interrupts;

/// Runs the job in a supervisor of our own; a signal cancels it.
pub async fn run(
    plan: Plan,
    state_dir: Option<PathBuf>,
    interrupts: &mut Interrupts,
) -> Result<Report, Error> {
    let policy = match &plan.policy {
        PolicyRequest::Named(name) => Policy::builtin(name)?,
        PolicyRequest::Text { name, toml } => Policy::parse(toml, name)?,
    };
    let bytes = read_module(plan.module.file.into(), &plan.module_path)?;
    let source = match plan.module.format {
        ModuleFormat::Wasm => ModuleSource::Wasm(bytes),
        ModuleFormat::Artifact => ModuleSource::Artifact(bytes),
    };
    let supervisor = Supervisor::start(Config { state_dir, shards: 1, ..Config::default() })?;
    let module = tokio::select! {
        biased;
        module = supervisor.load(source) => {
            module.map_err(|source| Error::Module { path: plan.module_path, source: Box::new(source) })?
        }
        () = interrupts.arrived() => return Err(Error::Interrupted),
    };
    let entry = match plan.entry {
        EntryRequest::Command => Entry::Command,
        EntryRequest::Export { name, args } => Entry::Export { name, args },
        EntryRequest::Invoke { name, args } => invoke::entry(&module, &name, &args)?,
    };
    let preopens = plan
        .directories
        .into_iter()
        .map(|d| Preopen { directory: d.directory, guest_path: d.guest_path, read_only: d.read_only })
        .collect();
    let job = Job {
        module,
        entry,
        policy: Arc::new(policy),
        args: plan.args,
        env: plan.env,
        stdio: plan.stdio,
        preopens,
        limits: JobLimits { memory: plan.memory, wall_time: plan.wall_time },
        tenant: String::from("default"),
    };
    Ok(supervisor.run_until(job, interrupts.arrived()).await?)
}

/// The whole file. It was not too large when it was opened; what it has grown by since is not read.
pub fn read_module(file: File, path: &Path) -> Result<Vec<u8>, Error> {
    let error = |source| Error::ReadModule { path: path.to_path_buf(), source };
    let size = file.metadata().map_err(error)?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(MODULE_BYTES_MAX).read_to_end(&mut bytes).map_err(error)?;
    Ok(bytes)
}
