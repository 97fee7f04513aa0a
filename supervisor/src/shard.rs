//! A shard: one thread that runs jobs, with its own zygotes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use ipc::control::{Command, command, layer};
use ipc::report::{MissingLayer, Report};
use nix::sys::signal::{SigSet, Signal};
use policies::{FileData, FilterContext, Policy};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::LocalSet;

use crate::call_chain::CallChain;
use crate::cgroup::{Cgroups, Missing};
use crate::config::Config;
use crate::error::{Error, system};
use crate::host::Offer;
use crate::instance::{self, Confined, Remains, SessionEnd};
use crate::job::Job;
use crate::module::Module;
use crate::observed::Observed;
use crate::processors;
use crate::zygote::module::ModuleZygote;
use crate::zygote::root::RootZygote;

mod housekeeper;

pub(crate) use housekeeper::housekeeper;

/// A job on its way to a shard.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) job: Box<Job>,
    pub(crate) report: oneshot::Sender<Result<Report, Error>>,
    /// Resolves or is dropped when the job is to be cancelled.
    pub(crate) cancel: oneshot::Receiver<()>,
    /// For a session; the job's entry means nothing then.
    pub(crate) session: Option<SessionEnd>,
    /// Where it goes what the job was seen to do, before its report.
    pub(crate) observed: Option<oneshot::Sender<Observed>>,
    /// What waits for the job. Each call of a session has its own.
    pub(crate) chain: CallChain,
}

/// What runs on a shard's thread beside its jobs, such as the connections of a daemon.
pub(crate) type Task = Box<dyn FnOnce(Here) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// What a shard is handed.
enum Work {
    Job(Request),
    Task(Task),
}

/// A shard, as what runs on its thread has it.
#[derive(Clone, Debug)]
pub(crate) struct Here {
    pub(crate) state: Rc<State>,
    /// Its number.
    pub(crate) shard: usize,
    jobs: Arc<AtomicUsize>,
}

impl Here {
    /// Jobs that the shard has.
    pub(crate) fn load(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }

    /// Counts a job of this shard as long as the result lives.
    pub(crate) fn count_job(&self) -> Running {
        Running::new(&self.jobs)
    }
}

/// A job that is counted.
#[derive(Debug)]
pub(crate) struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(jobs: &Arc<AtomicUsize>) -> Self {
        jobs.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(jobs))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A running shard. Dropping it ends its jobs, its tasks, its zygotes and its thread.
#[derive(Debug)]
pub(crate) struct Shard {
    /// Jobs handed over and not reported yet.
    jobs: Arc<AtomicUsize>,
    /// Tasks that have not ended.
    tasks: Arc<AtomicUsize>,
    work: Option<mpsc::UnboundedSender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Shard {
    /// Starts the thread.
    pub(crate) fn start(
        index: usize,
        processor: Option<usize>,
        config: &Config,
        cgroups: Arc<Cgroups>,
    ) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("start a shard's runtime"))?;
        let (work, mut receiver) = mpsc::unbounded_channel::<Work>();
        let config = config.clone();
        let (jobs, tasks) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (running, tasks_running) = (Arc::clone(&jobs), Arc::clone(&tasks));
        let thread = thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || {
                if let Some(processor) = processor {
                    processors::settle(processor, &running);
                }
                block_size_signal();
                let tasks = LocalSet::new();
                tasks.block_on(&runtime, async move {
                    let state = Rc::new(State::new(config, cgroups, None));
                    let here = Here { state, shard: index, jobs: running };
                    tokio::task::spawn_local(housekeeper(Rc::clone(&here.state)));
                    while let Some(work) = receiver.recv().await {
                        let here = here.clone();
                        match work {
                            Work::Job(request) => drop(tokio::task::spawn_local(async move {
                                serve(&here.state, request).await;
                                here.jobs.fetch_sub(1, Ordering::Relaxed);
                            })),
                            Work::Task(task) => {
                                let counted = Running(Arc::clone(&tasks_running));
                                drop(tokio::task::spawn_local(async move {
                                    task(here).await;
                                    drop(counted);
                                }));
                            }
                        }
                    }
                });
                // Dropping the tasks kills what they run; dropping the zygotes ends them.
                drop(tasks);
            })
            .map_err(system("start a shard's thread"))?;
        Ok(Self { jobs, tasks, work: Some(work), thread: Some(thread) })
    }

    /// Hands a job over.
    pub(crate) fn submit(&self, request: Request) -> Result<(), Error> {
        // Before the job can end and be taken off again.
        self.hand_over(&self.jobs, Work::Job(request))
    }

    /// Has a task run on the shard's thread, which it must not block.
    pub(crate) fn spawn(&self, task: Task) -> Result<(), Error> {
        self.hand_over(&self.tasks, Work::Task(task))
    }

    fn hand_over(&self, count: &AtomicUsize, work: Work) -> Result<(), Error> {
        let receiver = self.work.as_ref().ok_or(Error::Stopped)?;
        count.fetch_add(1, Ordering::Relaxed);
        receiver.send(work).map_err(|_| {
            count.fetch_sub(1, Ordering::Relaxed);
            Error::Stopped
        })
    }

    /// How many tasks and jobs it has.
    pub(crate) fn tasks_and_jobs(&self) -> (usize, usize) {
        (self.tasks.load(Ordering::Relaxed), self.load())
    }

    /// How many jobs it has.
    pub(crate) fn load(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }
}

/// Blocks SIGXFSZ in this thread: where the host limits the size of files, a guest's write beyond it must be that guest's
/// EFBIG, not this process's death.
pub(crate) fn block_size_signal() {
    let mut set = SigSet::empty();
    set.add(Signal::SIGXFSZ);
    let _ = set.thread_block();
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.work = None;
        // A task of the shard may have held the supervisor's last handle; a thread cannot wait for itself.
        if let Some(thread) = self.thread.take().filter(|t| t.thread().id() != thread::current().id()) {
            // The thread cannot outlive its zygotes: they ask for a signal at its death.
            let _ = thread.join();
        }
    }
}

async fn serve(state: &Rc<State>, request: Request) {
    let Request { job, mut report, cancel, session, observed, chain } = request;
    // The host app cancels by word, or by no longer waiting for the report.
    let cancelled = async {
        tokio::select! {
            _ = cancel => {}
            () = report.closed() => {}
        }
    };
    let mut remains = Remains::default();
    let mut seen = Observed::default();
    let watched = observed.is_some().then_some(&mut seen);
    let result = chain.serve(state.run(*job, cancelled, session, &mut remains, watched)).await;
    if let Some(observed) = observed {
        let _ = observed.send(seen);
    }
    let _ = report.send(result);
    state.after_job(remains);
}

/// Says, when it goes, that a job has ended.
struct Ended<'n>(&'n Notify);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// What a module zygote is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    tenant: String,
    artifact: blake3::Hash,
    layers: u64,
    stack: u64,
    /// Of the filter program itself: policies that differ elsewhere may share a zygote.
    filter: blake3::Hash,
}

type Slot<T> = Rc<tokio::sync::Mutex<Option<Rc<T>>>>;

/// Seccomp filters that one supervisor has installed at most, over all its shards: each zygote holds one. The kernel frees
/// filters one by one in the background, and a thousand at once have been seen to lock it up for good, which is what a
/// killed supervisor's zygotes would be.
pub(crate) const FILTERS_MAX: usize = 256;
/// Those of them that are left to shards on threads of the host app, together.
const LOCAL_FILTERS: usize = 64;
/// Shards on threads of the host app that one supervisor has at the same time.
pub(crate) const LOCAL_SHARDS_MAX: usize = 8;
/// Root zygotes of one shard.
pub(crate) const ROOTS_MAX: usize = 2;

/// Layers that the module zygote puts in force by itself; one root serves with and without them.
pub(crate) const OF_MODULE: u64 = layer::PID_NAMESPACE | layer::RLIMITS | layer::SEALED_CODE | layer::EXTRA;

#[derive(Debug)]
pub(crate) struct State {
    /// Counts a shard of the host app's as long as its zygotes live.
    _local: Option<OwnedSemaphorePermit>,
    config: Config,
    cgroups: Arc<Cgroups>,
    /// Module zygotes that this shard may have.
    modules_max: usize,
    /// Root zygotes by the layers in force.
    roots: RefCell<HashMap<u64, Slot<RootZygote>>>,
    modules: RefCell<HashMap<Key, Kept>>,
    /// Compiled filters of the latest policies.
    filters: RefCell<Vec<CompiledFilter>>,
    /// How the latest policies confine here.
    confined: RefCell<Vec<(Arc<Policy>, Rc<Confined>)>>,
    /// A job has ended, so a zygote may have become idle.
    ended: Notify,
    /// A job has ended, so there is something for the housekeeper to do.
    work: Notify,
    remains: RefCell<Vec<Remains>>,
    clock: Cell<u64>,
    next_module: Cell<u64>,
    /// Layers that this host lacks, and what it knows of Landlock; found out at the first job.
    host: tokio::sync::OnceCell<Offer>,
}

#[derive(Debug)]
struct Kept {
    zygote: Slot<ModuleZygote>,
    used: u64,
}

#[derive(Clone, Debug)]
struct CompiledFilter {
    policy: Arc<Policy>,
    memories: u32,
    program: Rc<Vec<libc::sock_filter>>,
    hash: blake3::Hash,
}

impl State {
    /// Of a thread of the supervisor's own, or, with a permit, of the host app's.
    pub(crate) fn new(config: Config, cgroups: Arc<Cgroups>, local: Option<OwnedSemaphorePermit>) -> Self {
        let filters = match &local {
            None => ((FILTERS_MAX - LOCAL_FILTERS) / config.shards.max(1)).max(ROOTS_MAX + 1),
            Some(_) => LOCAL_FILTERS / LOCAL_SHARDS_MAX,
        };
        Self {
            _local: local,
            modules_max: config.module_zygotes.clamp(1, filters - ROOTS_MAX),
            config,
            cgroups,
            roots: RefCell::default(),
            modules: RefCell::default(),
            filters: RefCell::default(),
            confined: RefCell::default(),
            ended: Notify::new(),
            work: Notify::new(),
            remains: RefCell::default(),
            clock: Cell::new(0),
            next_module: Cell::new(1),
            host: tokio::sync::OnceCell::new(),
        }
    }

    pub(crate) async fn run(
        self: &Rc<Self>,
        job: Job,
        cancelled: impl Future<Output = ()>,
        session: Option<SessionEnd>,
        remains: &mut Remains,
        observed: Option<&mut Observed>,
    ) -> Result<Report, Error> {
        match session {
            None => instance::check_entry(&job.module, &job.entry)?,
            Some(_) => instance::can_wait(&job.policy).map_err(|syscall| {
                let policy = job.policy.name().to_owned();
                Error::SessionSyscall { policy, syscall }
            })?,
        }
        grants(&job.module, &job.policy)?;
        let confined = self.confined(&job.policy).await?;
        let wanted = Rc::new(Wanted::of(&job, confined.layers));
        let zygote = async || {
            match self.serving(&wanted)? {
                Some(zygote) => Ok(zygote),
                // A task of its own: an exchange with a zygote must not be broken off half-way when this job is cancelled.
                None => {
                    let (state, wanted) = (Rc::clone(self), Rc::clone(&wanted));
                    let started = tokio::task::spawn_local(async move { state.module_zygote(&wanted).await });
                    started.await.unwrap_or(Err(Error::Stopped))
                }
            }
        };
        // Also when this is dropped half-way, as on a thread of the host app: others may wait for the zygote.
        let _ended = Ended(&self.ended);
        instance::run(job, &confined, zygote, cancelled, session, remains, observed).await
    }

    /// Starts what a job under this policy needs besides its module's own zygote. What fails here fails again, with its error, for the
    /// job.
    pub(crate) async fn expect(self: &Rc<Self>, policy: &Arc<Policy>) {
        if let Ok(confined) = self.confined(policy).await {
            let _ = self.root_zygote(confined.layers & !OF_MODULE).await;
        }
    }

    /// Leaves what a job left behind, and the forking of the next instances, to the [`housekeeper`].
    pub(crate) fn after_job(&self, remains: Remains) {
        /// More than this is not put off.
        const KEPT: usize = 64;
        let mut kept = self.remains.borrow_mut();
        if kept.len() < KEPT {
            kept.push(remains);
        }
        drop(kept);
        self.work.notify_one();
    }

    async fn offer(&self) -> &Offer {
        let look =
            || async { self.config.spawner.as_ref().map_or_else(Offer::of_host, |s| s.offer().clone()) };
        self.host.get_or_init(look).await
    }

    /// The layers to put in force, and those that the host lacks and the policy can do without. Found out once for the latest
    /// policies.
    async fn confined(&self, policy: &Arc<Policy>) -> Result<Rc<Confined>, Error> {
        const KEPT: usize = 32;
        let known =
            |known: &(Arc<Policy>, Rc<Confined>)| Arc::ptr_eq(&known.0, policy).then(|| Rc::clone(&known.1));
        if let Some(confined) = self.confined.borrow().iter().find_map(known) {
            return Ok(confined);
        }
        let offer = self.offer().await;
        let mut layers = policy.layers();
        let mut missing = Vec::new();
        let mut lacks = |bit: u64, reason: &str, is_told: bool| {
            let (layer, reason) = (layer_name(bit).to_owned(), reason.to_owned());
            if policy.required() & bit != 0 {
                return Err(Error::LayerMissing { policy: policy.name().to_owned(), layer, reason });
            }
            layers &= !bit;
            if is_told {
                missing.push(MissingLayer { layer, reason });
            }
            Ok(())
        };
        for (bit, reason) in offer.missing.iter().filter(|(bit, _)| policy.layers() & bit != 0) {
            lacks(*bit, reason, true)?;
        }
        if policy.layers() & layer::TENANT_CGROUP != 0 {
            match self.cgroups.missing() {
                Some(Missing::Impossible(reason)) => lacks(layer::TENANT_CGROUP, reason, true)?,
                Some(Missing::NotAsked) => {
                    lacks(layer::TENANT_CGROUP, "the supervisor's configuration has no [cgroup]", false)?;
                }
                None => {}
            }
        }
        // Extras: a policy that asks for none lacks nothing.
        for (bit, name) in layer::ALL.iter().filter(|(bit, _)| bit & layer::EXTRA == 0) {
            if policy.layers() & bit == 0 {
                let reason = format!("policy \"{}\" does not ask for it", policy.name());
                missing.push(MissingLayer { layer: (*name).to_owned(), reason });
            }
        }
        let clock_ahead = if layers & layer::TIME_NAMESPACE == 0 { 0 } else { offer.clocks[0] };
        let confined = Rc::new(Confined::new(policy, layers, missing, clock_ahead));
        let mut known = self.confined.borrow_mut();
        if known.len() >= KEPT {
            known.remove(0);
        }
        known.push((Arc::clone(policy), Rc::clone(&confined)));
        Ok(confined)
    }

    /// The zygote for a job if it serves already, which is the usual case.
    fn serving(&self, wanted: &Wanted) -> Result<Option<Rc<ModuleZygote>>, Error> {
        let (key, _) = self.key(wanted)?;
        let mut modules = self.modules.borrow_mut();
        let Some(kept) = modules.get_mut(&key) else { return Ok(None) };
        let zygote = match kept.zygote.try_lock() {
            Ok(slot) => slot.as_ref().filter(|z| z.is_alive()).map(Rc::clone),
            // It is being started.
            Err(_) => None,
        };
        if zygote.is_some() {
            kept.used = self.clock.replace(self.clock.get() + 1);
        }
        Ok(zygote)
    }

    fn key(&self, wanted: &Wanted) -> Result<(Key, CompiledFilter), Error> {
        let filter = self.filter(&wanted.policy, wanted.memories)?;
        let key = Key {
            tenant: wanted.tenant.clone(),
            artifact: wanted.module.hash(),
            layers: wanted.layers,
            stack: wanted.stack,
            filter: filter.hash,
        };
        Ok((key, filter))
    }

    async fn module_zygote(&self, wanted: &Wanted) -> Result<Rc<ModuleZygote>, Error> {
        let (key, filter) = self.key(wanted)?;
        let slot = self.kept(key).await;
        let mut slot = slot.lock().await;
        // One that died since its last job is replaced; one that dies during this job is the job's error.
        if let Some(zygote) = slot.as_ref().filter(|z| z.is_alive()) {
            return Ok(Rc::clone(zygote));
        }
        *slot = None;
        let root = self.root_zygote(wanted.layers & !OF_MODULE).await?;
        let image = wanted.module.image_for(&wanted.tenant)?;
        let id = self.next_module.replace(self.next_module.get() + 1);
        let command = Command {
            kind: command::SPAWN_MODULE,
            id,
            layers: wanted.layers & !layer::TENANT_CGROUP,
            stack_bytes: wanted.stack,
            direct: u64::from(wanted.policy.fs().data == FileData::Direct),
            ..Command::default()
        };
        let place =
            (wanted.layers & layer::TENANT_CGROUP != 0).then_some((&*self.cgroups, wanted.tenant.as_str()));
        let zygote =
            ModuleZygote::start(root, command, &filter.program, &image.as_fd(), place, &self.config).await;
        let zygote = Rc::new(zygote?);
        *slot = Some(Rc::clone(&zygote));
        Ok(zygote)
    }

    /// The policy's filter program, compiled once.
    fn filter(&self, policy: &Arc<Policy>, memories: u32) -> Result<CompiledFilter, Error> {
        const KEPT: usize = 32;
        let mut filters = self.filters.borrow_mut();
        if let Some(found) = filters.iter().find(|f| Arc::ptr_eq(&f.policy, policy) && f.memories == memories)
        {
            return Ok(found.clone());
        }
        let program = policy.instance_filter(&FilterContext { memories })?;
        let mut hasher = blake3::Hasher::new();
        for instruction in &program {
            hasher.update(&instruction.code.to_ne_bytes());
            hasher.update(&[instruction.jt, instruction.jf]);
            hasher.update(&instruction.k.to_ne_bytes());
        }
        let (hash, program) = (hasher.finalize(), Rc::new(program));
        let compiled = CompiledFilter { policy: Arc::clone(policy), memories, program, hash };
        if filters.len() >= KEPT {
            filters.remove(0);
        }
        filters.push(compiled.clone());
        Ok(compiled)
    }

    /// The slot for a module zygote. Makes room first: the least recently used one that runs nothing goes; if all
    /// run something, this waits for one that does not.
    async fn kept(&self, key: Key) -> Slot<ModuleZygote> {
        let now = self.clock.replace(self.clock.get() + 1);
        loop {
            {
                let mut modules = self.modules.borrow_mut();
                if let Some(kept) = modules.get_mut(&key) {
                    kept.used = now;
                    return Rc::clone(&kept.zygote);
                }
                if modules.len() >= self.modules_max {
                    let idle = modules.iter().filter(|(_, kept)| is_idle(&kept.zygote));
                    let oldest = idle.min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
                    oldest.and_then(|oldest| modules.remove(&oldest));
                }
                if modules.len() < self.modules_max {
                    let kept =
                        modules.entry(key).or_insert_with(|| Kept { zygote: Slot::default(), used: now });
                    return Rc::clone(&kept.zygote);
                }
            }
            // Nothing can end between the look above and this: it is one thread.
            self.ended.notified().await;
        }
    }

    /// A living root zygote for the layers. At most [`ROOTS_MAX`] live; one goes when all below it are idle.
    async fn root_zygote(&self, layers: u64) -> Result<Rc<RootZygote>, Error> {
        let slot = loop {
            {
                let mut roots = self.roots.borrow_mut();
                if !roots.contains_key(&layers) && roots.len() >= ROOTS_MAX {
                    self.evict_root(&mut roots);
                }
                if roots.contains_key(&layers) || roots.len() < ROOTS_MAX {
                    break Rc::clone(roots.entry(layers).or_default());
                }
            }
            self.ended.notified().await;
        };
        let mut slot = slot.lock().await;
        if let Some(zygote) = slot.as_ref().filter(|z| z.is_alive()) {
            return Ok(Rc::clone(zygote));
        }
        // It and all below it stay where this thread is.
        processors::go_home();
        let zygote = match &self.config.spawner {
            Some(spawner) => spawner.root_zygote(layers).await?,
            None => RootZygote::of_host(layers, self.offer().await, &self.config, None).await?,
        };
        let zygote = Rc::new(zygote);
        *slot = Some(Rc::clone(&zygote));
        Ok(zygote)
    }

    /// The module zygotes that serve.
    fn zygotes(&self) -> Vec<Rc<ModuleZygote>> {
        let modules = self.modules.borrow();
        let serving =
            modules.values().filter_map(|kept| kept.zygote.try_lock().ok()?.as_ref().map(Rc::clone));
        serving.filter(|zygote| zygote.is_alive()).collect()
    }

    /// Drops a root zygote under which nothing runs, with the module zygotes below it; if there is none, nothing.
    fn evict_root(&self, roots: &mut HashMap<u64, Slot<RootZygote>>) {
        let mut modules = self.modules.borrow_mut();
        let is_below = |key: &Key, layers: u64| key.layers & !OF_MODULE == layers;
        let idle = roots.iter().find(|(layers, slot)| {
            Rc::strong_count(slot) == 1
                && modules.iter().all(|(key, kept)| !is_below(key, **layers) || is_idle(&kept.zygote))
        });
        if let Some(layers) = idle.map(|(layers, _)| *layers) {
            modules.retain(|key, _| !is_below(key, layers));
            roots.remove(&layers);
        }
    }
}

/// What decides which module zygote a job needs.
struct Wanted {
    module: Module,
    policy: Arc<Policy>,
    tenant: String,
    layers: u64,
    stack: u64,
    memories: u32,
}

impl Wanted {
    fn of(job: &Job, layers: u64) -> Self {
        Self {
            module: job.module.clone(),
            policy: Arc::clone(&job.policy),
            tenant: job.tenant.clone(),
            layers,
            stack: job.policy.limits().stack,
            memories: job.module.artifact().metadata().memories.len() as u32,
        }
    }
}

/// Whether no job uses the zygote and none waits for it.
fn is_idle(slot: &Slot<ModuleZygote>) -> bool {
    Rc::strong_count(slot) == 1
        && slot.try_lock().is_ok_and(|zygote| zygote.as_ref().is_none_or(|z| Rc::strong_count(z) == 1))
}

fn layer_name(bit: u64) -> &'static str {
    layer::ALL.iter().find(|(b, _)| *b == bit).map_or("unknown", |(_, name)| name)
}

/// Functions that an error names.
const REFUSED_MAX: usize = 64;

/// Every host function that the module imports must be granted: a guest that cannot work does not start.
fn grants(module: &Module, policy: &Arc<Policy>) -> Result<(), Error> {
    for function in &module.artifact().metadata().host_functions {
        if let Some(function) = ipc::interface::FunctionId::from_number(*function)
            && !policy.allows_host_call(function)
        {
            let function = function.declaration().name;
            return Err(Error::HostCallNotGranted { function, policy: policy.name().to_owned() });
        }
    }
    let imports = policy.imports();
    let functions = instance::functions(module.artifact().metadata());
    // A module may import a function several times, and a million of them.
    let (mut refused, mut others) = (BTreeSet::new(), false);
    for (module, name) in functions.filter(|(module, name)| !imports.allow(module, name)) {
        refused.insert(format!("{module}.{name}"));
        if refused.len() > REFUSED_MAX {
            refused.pop_last();
            others = true;
        }
    }
    match refused.first() {
        None => Ok(()),
        Some(first) => Err(Error::ImportsNotGranted {
            nearest: imports.nearest(first),
            functions: refused.into_iter().collect(),
            others,
            policy: policy.name().to_owned(),
        }),
    }
}
