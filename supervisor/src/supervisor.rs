//! The supervisor's handle: loading modules, running jobs.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ipc::report::{Outcome, Report, Usage};
use policies::Policy;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::cache::{Cache, EntryName};
use crate::call_chain::CallChain;
use crate::cgroup::{Cgroups, Missing};
use crate::compile::{CompileProgress, Compiler};
use crate::config::Config;
use crate::error::{Error, system};
use crate::image::Image;
use crate::initialise::{self, Initialised};
use crate::instance::{self, SessionEnd};
use crate::job::Job;
use crate::local::run_here;
use crate::module::{Module, ModuleSource};
use crate::observed::Observed;
use crate::processors;
use crate::session::{CallOutcome, Connection, Session};
use crate::shard::{Here, LOCAL_SHARDS_MAX, Request, Shard, Task, block_size_signal};
use crate::snapshot;

/// A running supervisor. Clones are handles to the same one; dropping the last ends its jobs and processes.
#[derive(Clone, Debug)]
pub struct Supervisor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    shards: Vec<Shard>,
    /// After the shards: with it goes what is left of them.
    cgroups: Arc<Cgroups>,
    compiler: Compiler,
    /// Spreads jobs over shards.
    next: AtomicUsize,
    cache: Option<Arc<Cache>>,
    cache_problem: Option<String>,
    /// Modules that were loaded lately, so that loading one again costs no more than hashing it.
    loaded: Mutex<Recent>,
    /// Modules that are compiled at the same time; further ones wait.
    compilations: Arc<Semaphore>,
    /// Snapshots whose state is in memory at the same time; further ones wait.
    snapshots: Arc<Semaphore>,
    /// Modules that were initialised because a policy says so.
    initialised: Initialised,
    /// Shards that host apps may still have on threads of theirs.
    local_shards: Arc<Semaphore>,
}

/// Snapshots whose state is in memory at the same time.
const SNAPSHOTS_MAX: usize = 2;

/// Where a module is.
enum Found {
    /// In memory.
    Module(Module),
    /// Nowhere.
    ToCompile(Box<ToCompile>),
}

struct ToCompile {
    name: EntryName,
    bytes: Vec<u8>,
    options: compiler::Options,
    progress: CompileProgress,
    /// Why the cache could not be asked.
    problem: Option<String>,
}

/// Runs `work` on a thread of its own.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let (sender, receiver) = oneshot::channel();
    let processors = processors::for_helper();
    std::thread::Builder::new()
        .name("load".into())
        .spawn(move || {
            processors::allow(processors);
            block_size_signal();
            let _ = sender.send(work());
        })
        .map_err(system("start a thread that loads the module"))?;
    // The sender is only lost when the thread panicked.
    receiver.await.map_err(|_| Error::LoadPanicked)
}

/// The most recently loaded modules, the latest last.
#[derive(Debug, Default)]
struct Recent(Vec<(EntryName, Module)>);

impl Recent {
    /// Bytes of artifacts that are kept.
    const BYTES_MAX: usize = 512 << 20;
    /// Modules that are kept.
    const MODULES_MAX: usize = 32;

    fn get(&mut self, name: EntryName) -> Option<Module> {
        let at = self.0.iter().position(|(n, _)| *n == name)?;
        let entry = self.0.remove(at);
        self.0.push(entry);
        self.0.last().map(|(_, module)| module.clone())
    }

    fn put(&mut self, name: EntryName, module: &Module) {
        self.0.retain(|(n, _)| *n != name);
        self.0.push((name, module.clone()));
        let bytes =
            |modules: &[(EntryName, Module)]| modules.iter().map(|(_, m)| m.image_bytes()).sum::<usize>();
        while self.0.len() > Self::MODULES_MAX || self.0.len() > 1 && bytes(&self.0) > Self::BYTES_MAX {
            self.0.remove(0);
        }
    }
}

impl Supervisor {
    /// Starts the shards. Zygotes start with the first job that needs them. A cache directory that cannot be used is
    /// no error: modules are compiled anew each time, and [`Module::cache_problem`] says why.
    pub fn start(config: Config) -> Result<Self, Error> {
        let count = config.shards.max(1);
        let processors = if config.pin_shards { processors::for_shards(count) } else { vec![None; count] };
        // Before there are threads whose zygotes would stay where this process was.
        let cgroups = Arc::new(Cgroups::new(&config));
        let shards = processors
            .into_iter()
            .enumerate()
            .map(|(index, processor)| Shard::start(index, processor, &config, Arc::clone(&cgroups)))
            .collect::<Result<Vec<_>, _>>()?;
        let compilations = Arc::new(Semaphore::new(count.max(2)));
        let (cache, cache_problem) =
            match config.state_dir.as_deref().map(|dir| Cache::open(dir, config.cache_bytes)) {
                Some(Ok(cache)) => (Some(Arc::new(cache)), None),
                Some(Err(error)) => (None, Some(error.to_string())),
                None => (None, None),
            };
        Ok(Self(Arc::new(Inner {
            compiler: Compiler::new(&config),
            config,
            shards,
            cgroups,
            next: AtomicUsize::new(0),
            cache,
            cache_problem,
            loaded: Mutex::default(),
            compilations,
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
            initialised: Initialised::default(),
            local_shards: Arc::new(Semaphore::new(LOCAL_SHARDS_MAX)),
        })))
    }

    /// Why tenants have no cgroups although [`Config::cgroup`] asks for them, for a log; `None` if they have, or it does not.
    pub fn cgroup_problem(&self) -> Option<&str> {
        match self.0.cgroups.missing() {
            Some(Missing::Impossible(why)) => Some(why),
            Some(Missing::NotAsked) | None => None,
        }
    }

    /// Loads a module: compiles it, or takes it from the cache, and checks the artifact.
    ///
    /// The work is done on threads of its own, so the caller's executor is not held up. As many modules are compiled at a
    /// time as there are shards (at least 2); further ones wait, but not those that need no compiling. Dropping the
    /// future drops the result, not the work.
    pub async fn load(&self, source: ModuleSource) -> Result<Module, Error> {
        self.load_with(source, self.compile_options()).await
    }

    /// How [`Self::load`] compiles: the options of the configuration.
    pub fn compile_options(&self) -> compiler::Options {
        self.0.config.compile
    }

    /// Like [`Self::load`] with other options for the compiler. An artifact is taken as it is.
    pub async fn load_with(&self, source: ModuleSource, options: compiler::Options) -> Result<Module, Error> {
        self.load_with_progress(source, options, CompileProgress::default()).await
    }

    /// Like [`Self::load_with`]; `progress` tells how far the compilation is, if there is one.
    pub async fn load_with_progress(
        &self,
        source: ModuleSource,
        options: compiler::Options,
        progress: CompileProgress,
    ) -> Result<Module, Error> {
        let inner = Arc::clone(&self.0);
        match on_thread(move || inner.find(source, options, progress)).await?? {
            Found::Module(module) => Ok(module),
            Found::ToCompile(todo) => {
                let inner = Arc::clone(&self.0);
                let permit =
                    Arc::clone(&inner.compilations).acquire_owned().await.map_err(|_| Error::Stopped)?;
                on_thread(move || {
                    let module = inner.compile(todo);
                    drop(permit);
                    module
                })
                .await?
            }
        }
    }

    /// Loads an artifact that was copied from a file, see [`Image::from_file`].
    pub(crate) async fn load_copied(&self, (image, hash): (Image, blake3::Hash)) -> Result<Module, Error> {
        let inner = Arc::clone(&self.0);
        on_thread(move || inner.artifact(hash, || Ok(image))).await?
    }

    /// Has every shard start what a job under this policy will need besides its module, which can be loaded meanwhile. What cannot be
    /// started is an error of the job.
    pub fn expect(&self, policy: &Arc<Policy>) -> Result<(), Error> {
        self.0.shards.iter().try_for_each(|shard| {
            let policy = Arc::clone(policy);
            shard.spawn(Box::new(|here| Box::pin(async move { here.state.expect(&policy).await })))
        })
    }

    /// Runs a job and reports. Dropping the future cancels the job: its instance is killed.
    pub async fn run(&self, job: Job) -> Result<Report, Error> {
        self.run_until(job, std::future::pending()).await
    }

    /// Runs a job until it ends or `cancel` is ready; then its outcome is [`ipc::report::Outcome::Cancelled`].
    pub async fn run_until(&self, job: Job, cancel: impl Future<Output = ()>) -> Result<Report, Error> {
        self.submit(job, cancel, None).await
    }

    /// Like [`Self::run_until`]; also tells what the job was seen to do.
    pub async fn observe(
        &self,
        job: Job,
        cancel: impl Future<Output = ()>,
    ) -> Result<(Report, Observed), Error> {
        let (sender, observed) = oneshot::channel();
        let report = self.submit(job, cancel, Some(sender)).await?;
        Ok((report, observed.await.map_err(|_| Error::Stopped)?))
    }

    async fn submit(
        &self,
        mut job: Job,
        cancel: impl Future<Output = ()>,
        observed: Option<oneshot::Sender<Observed>>,
    ) -> Result<Report, Error> {
        let mut cancel = pin!(cancel);
        if let Some(report) = self.initialise(&mut job, &mut cancel).await? {
            if let Some(observed) = observed {
                // It did nothing. Who does not wait any more need not know.
                let _ = observed.send(Observed::default());
            }
            return Ok(report);
        }
        let (report, mut reported) = oneshot::channel();
        let (canceller, cancelled) = oneshot::channel();
        self.0.shard(self.0.least_loaded()?)?.submit(Request {
            job: Box::new(job),
            report,
            cancel: cancelled,
            session: None,
            observed,
            chain: CallChain::served(),
        })?;
        tokio::select! {
            biased;
            report = &mut reported => return report.unwrap_or(Err(Error::Stopped)),
            () = &mut cancel => {}
        }
        let _ = canceller.send(());
        reported.await.unwrap_or(Err(Error::Stopped))
    }
}

impl Supervisor {
    /// Starts a session: an instance of the job's module that runs nothing by itself. The job's entry is not looked at; its
    /// policy, streams and directories are those of the whole session, its limits those of each instance, see [`Session::reset`].
    pub async fn session(&self, job: Job) -> Result<Session, Error> {
        self.session_on(job, || self.0.least_loaded()).await
    }

    /// The same for a task of a shard: there, unless another shard has less to do.
    pub(crate) async fn session_near(&self, here: &Here, job: Job) -> Result<Session, Error> {
        self.session_on(job, || if self.is_busy(here) { self.0.least_loaded() } else { Ok(here.shard) }).await
    }

    async fn session_on(
        &self,
        mut job: Job,
        shard: impl FnOnce() -> Result<usize, Error>,
    ) -> Result<Session, Error> {
        if job.policy.instance().init.is_some() {
            job.module = self.initialised(&job).await?;
        }
        self.session_of(job, shard()?).await
    }

    /// The same with the job's own module.
    async fn session_of(&self, job: Job, shard: usize) -> Result<Session, Error> {
        Session::open(job, SessionHost { supervisor: Arc::downgrade(&self.0), shard }).await
    }
}

/// Where the instances of a session run. It does not keep the supervisor alive.
#[derive(Debug)]
pub(crate) struct SessionHost {
    supervisor: Weak<Inner>,
    /// The same one for all of them: it has the zygote.
    shard: usize,
}

impl SessionHost {
    /// Has an instance started for the job, with descriptors of its own. The receiver is told when it is set up.
    pub(crate) fn instance(&self, job: &Job) -> Result<(Connection, oneshot::Receiver<()>), Error> {
        let supervisor = self.supervisor.upgrade().ok_or(Error::Stopped)?;
        let (report, reported) = oneshot::channel();
        let (requests, receiver) = mpsc::unbounded_channel();
        let (ready, is_ready) = oneshot::channel();
        let (canceller, cancel) = oneshot::channel();
        let job = job.try_clone().map_err(system("duplicate the descriptors of a session"))?;
        supervisor.shard(self.shard)?.submit(Request {
            job: Box::new(job),
            report,
            cancel,
            session: Some(SessionEnd { requests: receiver, ready }),
            observed: None,
            chain: CallChain::default(),
        })?;
        let connection = Connection { requests, report: Some(reported), canceller: Some(canceller) };
        Ok((connection, is_ready))
    }
}

impl Supervisor {
    /// Makes a snapshot: a module whose instances begin where one of the job's module is after its export `init`, which has neither
    /// parameters nor results, has run.
    ///
    /// The job's policy, limits, arguments, environment, streams and directories are those of the initialisation; its entry is not
    /// looked at. What starts the module and its `_initialize` run before, and never again. Nothing of the instance is
    /// kept but its memories, tables and globals. In instances of the snapshot, arguments, environment, streams, directories,
    /// clocks and random bytes are those of each job.
    pub async fn snapshot(&self, job: Job, init: &str) -> Result<Module, Error> {
        let caps = self.0.config.compile.caps;
        job.module.artifact().check_snapshot()?;
        job.module.initialisation(init)?;
        let mut session = self.session_of(job, self.0.least_loaded()?).await?;
        let mut outcome = session.start().await?;
        if matches!(outcome, CallOutcome::Returned(_)) {
            outcome = session.initialise(init).await?;
        }
        if !matches!(outcome, CallOutcome::Returned(_)) {
            return Err(Error::SnapshotInit { init: init.to_owned(), outcome: Box::new(outcome) });
        }
        let descriptors = session.changed_descriptors().await?;
        if !descriptors.is_empty() {
            return Err(Error::SnapshotDescriptors { descriptors });
        }
        // What is read is kept in this process's memory until it is written, so only few do so at a time.
        let permit = Arc::clone(&self.0.snapshots).acquire_owned().await.map_err(|_| Error::Stopped)?;
        let state = snapshot::read_state(&mut session, caps.get(compiler::Cap::ImageBytes)).await?;
        let module = session.module().clone();
        drop(session);
        let init = init.to_owned();
        on_thread(move || {
            let bytes = module.artifact().snapshot(&init, &state, &caps)?;
            drop(state);
            let module = Module::new(Image::from_bytes(&bytes)?, false, None);
            drop(permit);
            module
        })
        .await?
    }
}

impl Supervisor {
    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    /// Has a task run on the thread of the shard with the fewest tasks. The task may hold this supervisor, but not be the last to.
    pub(crate) fn spawn(&self, task: Task) -> Result<(), Error> {
        let shard = self.0.shards.iter().min_by_key(|shard| shard.tasks_and_jobs()).ok_or(Error::Stopped)?;
        shard.spawn(task)
    }

    /// Runs a job as [`Self::run_until`], for a task of a shard: there, unless another shard has less to do.
    pub(crate) async fn run_near(
        &self,
        here: &Here,
        job: Job,
        cancel: impl Future<Output = ()>,
    ) -> Result<Report, Error> {
        if self.is_busy(here) {
            return self.run_until(job, cancel).await;
        }
        let _running = here.count_job();
        run_here(self, &here.state, job, cancel, None).await
    }

    /// Whether another shard has less to do.
    fn is_busy(&self, here: &Here) -> bool {
        let load = here.load();
        load > 0 && self.0.shards.iter().any(|shard| shard.load() < load)
    }

    pub(crate) fn cgroups(&self) -> Arc<Cgroups> {
        Arc::clone(&self.0.cgroups)
    }

    /// Leave for one more shard on a thread of the host app.
    pub(crate) fn local_shard_permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let permits = Arc::clone(&self.0.local_shards);
        permits.try_acquire_owned().map_err(|_| Error::TooManyLocalShards { limit: LOCAL_SHARDS_MAX })
    }

    /// Gives the job the module to run, if its policy says `[instance] init`. A report, if it is cancelled meanwhile.
    pub(crate) async fn initialise(
        &self,
        job: &mut Job,
        cancel: impl Future<Output = ()>,
    ) -> Result<Option<Report>, Error> {
        if job.policy.instance().init.is_some() {
            let module = {
                tokio::select! {
                    biased;
                    module = self.initialised(job) => module?,
                    () = cancel => return Ok(Some(never_began(job))),
                }
            };
            job.module = module;
        }
        Ok(None)
    }

    /// The module to run for a job whose policy says `[instance] init`: a snapshot, made, in memory or in the cache.
    async fn initialised(&self, job: &Job) -> Result<Module, Error> {
        let make = |job: Job, init: String| async move {
            let name = initialise::entry_name(&job, &init);
            let inner = Arc::clone(&self.0);
            let (found, problem) = on_thread(move || inner.kept_snapshot(name)).await?;
            if let Some(module) = found {
                return Ok(module);
            }
            let module = self.snapshot(job, &init).await?;
            let inner = Arc::clone(&self.0);
            on_thread(move || {
                let kept =
                    inner.cache.as_ref().map_or(Ok(()), |cache| cache.put(name, module.artifact_bytes()));
                module.with_cache_problem(problem.or_else(|| kept.err().map(|error| error.to_string())))
            })
            .await
        };
        self.0.initialised.module_for(job, make).await
    }
}

/// The report of a job that was cancelled while its module was initialised.
fn never_began(job: &Job) -> Report {
    Report {
        outcome: Outcome::Cancelled,
        usage: Usage::default(),
        policy: job.policy.name().to_owned(),
        dangers: instance::dangers(&job.policy),
        layers: [].into(),
        missing_layers: [].into(),
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Before the zygotes end: whoever has an artifact's memory file last has to free its pages, and nobody waits for them.
        self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner).0.clear();
    }
}

impl Inner {
    /// A snapshot in the cache, or why the cache cannot be asked.
    fn kept_snapshot(&self, name: EntryName) -> (Option<Module>, Option<String>) {
        match self.cache.as_ref().map(|cache| cache.get(name)) {
            // An entry that is whole but is refused was made by something else; it is replaced.
            Some(Ok(found)) => (found.and_then(|image| Module::new(image, true, None).ok()), None),
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, self.cache_problem.clone()),
        }
    }

    /// The number of the shard with the fewest jobs; among equals, each in turn.
    fn least_loaded(&self) -> Result<usize, Error> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len().max(1);
        let (before, after) = self.shards.split_at(first.min(self.shards.len()));
        let turn = (first..).zip(after).chain((0..).zip(before));
        turn.min_by_key(|(_, shard)| shard.load()).map(|(number, _)| number).ok_or(Error::Stopped)
    }

    fn shard(&self, number: usize) -> Result<&Shard, Error> {
        self.shards.get(number).ok_or(Error::Stopped)
    }

    /// Looks for a module among those in memory and in the cache. An artifact needs no more than a check.
    fn find(
        &self,
        source: ModuleSource,
        options: compiler::Options,
        progress: CompileProgress,
    ) -> Result<Found, Error> {
        match source {
            ModuleSource::Artifact(bytes) => {
                let hash = blake3::hash(&bytes);
                self.artifact(hash, || Image::from_bytes(&bytes)).map(Found::Module)
            }
            ModuleSource::ArtifactFile(file) => {
                let (image, hash) = Image::from_file(&file)?;
                self.artifact(hash, || Ok(image)).map(Found::Module)
            }
            ModuleSource::Wasm(bytes) => {
                let name = EntryName::new(&bytes, &options.fingerprint()?);
                if let Some(module) = self.loaded().get(name) {
                    return Ok(Found::Module(module));
                }
                let cached = self.cache.as_ref().map(|cache| cache.get(name));
                let problem = match cached {
                    // An entry that is whole but is refused was made by something else; it is replaced.
                    Some(Ok(Some(image))) => match Module::new(image, true, None) {
                        Ok(module) => {
                            self.loaded().put(name, &module);
                            return Ok(Found::Module(module));
                        }
                        Err(_) => None,
                    },
                    Some(Ok(None)) => None,
                    Some(Err(error)) => Some(error.to_string()),
                    None => self.cache_problem.clone(),
                };
                Ok(Found::ToCompile(Box::new(ToCompile { name, bytes, options, progress, problem })))
            }
        }
    }

    /// The module of an artifact whose bytes have this hash.
    fn artifact(
        &self,
        hash: blake3::Hash,
        image: impl FnOnce() -> Result<Image, Error>,
    ) -> Result<Module, Error> {
        // The bytes of an artifact say all.
        let name = EntryName::new(hash.as_bytes(), b"artifact");
        if let Some(module) = self.loaded().get(name) {
            return Ok(module);
        }
        let module = Module::new(image()?, false, None)?;
        self.loaded().put(name, &module);
        Ok(module)
    }

    /// Compiles a module and keeps it. Somebody else may have done so while this waited for its turn.
    fn compile(&self, todo: Box<ToCompile>) -> Result<Module, Error> {
        let ToCompile { name, bytes, options, progress, problem } = *todo;
        if let Some(module) = self.loaded().get(name) {
            return Ok(module);
        }
        let image = self.compiler.image(&bytes, &options, &progress)?;
        // Nothing that the worker wrote is kept or used before it is checked: all of it, as what the cache has is not checked so far again.
        let checked = Module::new(image, false, None)
            .and_then(|module| module.artifact().check_sites().map(|()| module).map_err(Error::Artifact));
        let module = checked.map_err(|error| match error {
            Error::Artifact(source) => Error::CompilerOutput { source },
            other => other,
        })?;
        let kept = self.cache.as_ref().map_or(Ok(()), |cache| cache.put(name, module.artifact_bytes()));
        let module = module.with_cache_problem(problem.or_else(|| kept.err().map(|e| e.to_string())));
        self.loaded().put(name, &module);
        Ok(module)
    }

    fn loaded(&self) -> MutexGuard<'_, Recent> {
        // A poisoned lock only means that another thread panicked between two complete states.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
