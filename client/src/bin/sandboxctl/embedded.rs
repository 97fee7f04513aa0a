//! A run without a daemon: a supervisor for one job, in this process.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::{EntryRequest, ModuleFormat, PolicyRequest};
use ipc::protocol::MODULE_BYTES_MAX;
use ipc::report::Report;
use policies::Policy;
use supervisor::daemon::module_error;
use supervisor::daemon::signals::Interrupts;
use supervisor::terminal::Bar;
use supervisor::{
    CompileProgress, Config, Entry, Job, JobLimits, Module, ModuleSource, Observed, PoolLimits, Preopen,
    Supervisor, invoke,
};

use crate::error::Error;
use crate::run::Plan;
use crate::session::backend::Backend;

/// A job in a supervisor of our own, ready to run.
pub struct Prepared {
    supervisor: Supervisor,
    /// The job.
    pub job: Job,
    module_path: PathBuf,
    /// Why the artifact could not be kept in the cache.
    cache_problem: Option<String>,
}

impl Prepared {
    /// Runs it, and tells what it was seen to do; a signal cancels it.
    pub async fn observe(self, interrupts: &mut Interrupts) -> Result<(Report, Observed), Error> {
        let result = self.supervisor.observe(self.job, interrupts.arrived()).await;
        result.map_err(|error| blame(error, &self.module_path))
    }

    /// Makes a snapshot after the export `init` instead of running the job; a signal ends it.
    pub async fn snapshot(self, init: &str, interrupts: &mut Interrupts) -> Result<Module, Error> {
        tokio::select! {
            biased;
            made = self.supervisor.snapshot(self.job, init) => made.map_err(|error| blame(error, &self.module_path)),
            () = interrupts.arrived() => Err(Error::Interrupted),
        }
    }
}

/// Runs the job in a supervisor of our own; a signal cancels it. With the report comes why the artifact could not be kept in
/// the cache, if it could not.
pub async fn run(
    plan: Plan,
    config: Config,
    interrupts: &mut Interrupts,
) -> Result<(Report, Option<String>), Error> {
    let Prepared { supervisor, job, module_path, cache_problem } = prepare(plan, config, interrupts).await?;
    let result = supervisor.run_until(job, interrupts.arrived()).await;
    result.map(|report| (report, cache_problem)).map_err(|error| blame(error, &module_path))
}

/// Opens a session in a supervisor of our own; a signal ends that.
pub async fn session(plan: Plan, config: Config, interrupts: &mut Interrupts) -> Result<Backend, Error> {
    let Prepared { supervisor, job, module_path, .. } = prepare(plan, config, interrupts).await?;
    tokio::select! {
        biased;
        session = supervisor.session(job) => {
            let session = Box::new(session.map_err(|error| blame(error, &module_path))?);
            Ok(Backend::Embedded { session, _supervisor: supervisor })
        }
        () = interrupts.arrived() => Err(Error::Interrupted),
    }
}

/// An error of the supervisor, with the module's name if it is about the module.
fn blame(error: supervisor::Error, module_path: &Path) -> Error {
    match module_error::concerns_module(&error) {
        true => about(module_path, error.to_string()),
        false => error.into(),
    }
}

/// Starts a supervisor and loads the job's module.
pub async fn prepare(plan: Plan, config: Config, interrupts: &mut Interrupts) -> Result<Prepared, Error> {
    let policy = match &plan.policy {
        PolicyRequest::Named(name) => Policy::builtin(name)?,
        PolicyRequest::Text { name, toml } => Policy::parse(toml, name)?,
    };
    let file = File::from(plan.module.file);
    let source = match plan.module.format {
        ModuleFormat::Wasm => {
            let bytes = read_module(file, &plan.module_path)?;
            check_form(&bytes, &plan.module_path)?;
            ModuleSource::Wasm(bytes)
        }
        ModuleFormat::Artifact => ModuleSource::ArtifactFile(Arc::new(file)),
    };
    // There will be no second job, and no other tenant.
    let config = Config { pool: PoolLimits { min: 0, max: 0 }, cgroup: None, ..config };
    let supervisor = Supervisor::start(config)?;
    let policy = Arc::new(policy);
    supervisor.expect(&policy)?;
    let limits = JobLimits { memory: plan.memory, wall_time: plan.wall_time, fuel: plan.fuel };
    let mut options = supervisor.compile_options();
    options.fuel |= limits.count_fuel(&policy);
    options.debug_info |= plan.debug_info;
    let progress = CompileProgress::default();
    let bar = Bar::start(&progress);
    let module = tokio::select! {
        biased;
        module = supervisor.load_with_progress(source, options, progress.clone()) => {
            module.map_err(|e| about(&plan.module_path, e.to_string()))?
        }
        () = interrupts.arrived() => return Err(Error::Interrupted),
    };
    drop(bar);
    let cache_problem = module.cache_problem().map(str::to_owned);
    let entry = match plan.entry {
        EntryRequest::Command => Entry::Command,
        EntryRequest::Export { name, args } => Entry::Export { name, args },
        EntryRequest::Invoke { name, args } => {
            invoke::entry(&module, &name, &args).map_err(|e| about(&plan.module_path, e.to_string()))?
        }
    };
    let preopens = plan
        .directories
        .into_iter()
        .map(|d| Preopen { directory: d.directory, guest_path: d.guest_path, read_only: d.read_only })
        .collect();
    let job = Job {
        module,
        entry,
        policy,
        args: plan.args,
        env: plan.env,
        stdio: plan.stdio,
        preopens,
        sockets: plan.sockets,
        limits,
        imports: supervisor::Imports::default(),
        tenant: String::from("default"),
    };
    Ok(Prepared { supervisor, job, module_path: plan.module_path, cache_problem })
}

/// An error that is about the module.
fn about(path: &Path, message: String) -> Error {
    Error::Module { path: path.to_path_buf(), message }
}

/// Refuses what cannot be a module, binary or text.
pub fn check_form(bytes: &[u8], path: &Path) -> Result<(), Error> {
    module_error::not_a_module(bytes).map_or(Ok(()), |what| Err(about(path, what.to_owned())))
}

/// The whole file. It was not too large when it was opened; what it has grown by since is not read.
pub fn read_module(file: File, path: &Path) -> Result<Vec<u8>, Error> {
    let error = |source| Error::ReadModule { path: path.to_path_buf(), source };
    let size = file.metadata().map_err(error)?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(MODULE_BYTES_MAX).read_to_end(&mut bytes).map_err(error)?;
    Ok(bytes)
}
