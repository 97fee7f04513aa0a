//! A shard: one thread that runs jobs, with its own zygotes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use ipc::control::{Command, command, layer};
use ipc::report::{MissingLayer, Report};
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use policies::{FilterContext, Policy};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use crate::config::Config;
use crate::error::{Error, system};
use crate::host;
use crate::instance::{self, Confined};
use crate::job::Job;
use crate::module::Module;
use crate::zygote::module::ModuleZygote;
use crate::zygote::root::{Confinement, RootZygote};

/// A job on its way to a shard.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) job: Box<Job>,
    pub(crate) report: oneshot::Sender<Result<Report, Error>>,
    /// Resolves or is dropped when the job is to be cancelled.
    pub(crate) cancel: oneshot::Receiver<()>,
}

/// A running shard. Dropping it ends its jobs, its zygotes and its thread.
#[derive(Debug)]
pub(crate) struct Shard {
    /// Jobs handed over and not reported yet.
    jobs: Arc<AtomicUsize>,
    requests: Option<mpsc::UnboundedSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Shard {
    /// Starts the thread.
    pub(crate) fn start(index: usize, config: &Config) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("start a shard's runtime"))?;
        let (requests, mut receiver) = mpsc::unbounded_channel::<Request>();
        let config = config.clone();
        let jobs = Arc::new(AtomicUsize::new(0));
        let running = Arc::clone(&jobs);
        let thread = thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || {
                if config.pin_shards {
                    pin(index);
                }
                let tasks = LocalSet::new();
                tasks.block_on(&runtime, async move {
                    let state = Rc::new(State::new(config));
                    while let Some(request) = receiver.recv().await {
                        let (state, running) = (Rc::clone(&state), Arc::clone(&running));
                        tokio::task::spawn_local(async move {
                            serve(&state, request).await;
                            running.fetch_sub(1, Ordering::Relaxed);
                        });
                    }
                });
                // Dropping the tasks kills what they run; dropping the zygotes ends them.
                drop(tasks);
            })
            .map_err(system("start a shard's thread"))?;
        Ok(Self { jobs, requests: Some(requests), thread: Some(thread) })
    }

    /// Hands a job over.
    pub(crate) fn submit(&self, request: Request) -> Result<(), Error> {
        let requests = self.requests.as_ref().ok_or(Error::Stopped)?;
        // Before the job can end and be taken off again.
        self.jobs.fetch_add(1, Ordering::Relaxed);
        requests.send(request).map_err(|_| Error::Stopped)
    }

    /// How many jobs it has.
    pub(crate) fn load(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }
}

/// Keeps this thread, and with it every process below, on one of the processors that it may use: the one it runs
/// on for the first shard (the scheduler has just chosen it), the following ones for the others. Only speed depends on it, so a
/// host that refuses loses nothing else.
fn pin(index: usize) {
    let this_thread = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(this_thread) else { return };
    let processors: Vec<usize> =
        (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    let current = sched_getcpu().ok().and_then(|cpu| processors.iter().position(|p| *p == cpu)).unwrap_or(0);
    let Some(chosen) = processors.get((current + index) % processors.len().max(1)) else { return };
    let mut one = CpuSet::new();
    if one.set(*chosen).is_ok() {
        let _ = sched_setaffinity(this_thread, &one);
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // The thread cannot outlive its zygotes: they ask for a signal at its death.
            let _ = thread.join();
        }
    }
}

async fn serve(state: &State, request: Request) {
    let Request { job, mut report, cancel } = request;
    // The host app cancels by word, or by no longer waiting for the report.
    let cancelled = async {
        tokio::select! {
            _ = cancel => {}
            () = report.closed() => {}
        }
    };
    let result = state.run(*job, cancelled).await;
    let _ = report.send(result);
}

/// What a module zygote is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    tenant: String,
    artifact: blake3::Hash,
    layers: u64,
    stack: u64,
    /// The filter program itself: policies that differ elsewhere may share a zygote.
    filter: Vec<(u16, u8, u8, u32)>,
}

type Slot<T> = Rc<tokio::sync::Mutex<Option<Rc<T>>>>;

struct State {
    config: Config,
    /// Root zygotes by the layers in force.
    roots: RefCell<HashMap<u64, Slot<RootZygote>>>,
    modules: RefCell<HashMap<Key, Kept>>,
    clock: Cell<u64>,
    next_module: Cell<u64>,
    /// Layers that this host lacks, and what it knows of Landlock; found out at the first job.
    host: tokio::sync::OnceCell<Offer>,
}

struct Kept {
    zygote: Slot<ModuleZygote>,
    used: u64,
}

struct Offer {
    landlock: [u64; 3],
    missing: Vec<(u64, String)>,
}

impl State {
    fn new(config: Config) -> Self {
        Self {
            config,
            roots: RefCell::default(),
            modules: RefCell::default(),
            clock: Cell::new(0),
            next_module: Cell::new(1),
            host: tokio::sync::OnceCell::new(),
        }
    }

    async fn run(&self, job: Job, cancelled: impl Future<Output = ()>) -> Result<Report, Error> {
        instance::check_entry(&job.module, &job.entry)?;
        grants(&job.module, &job.policy)?;
        let (layers, missing) = self.layers(&job.policy).await?;
        let mut cancelled = std::pin::pin!(cancelled);
        // A zygote that died since its last job is replaced; one that dies during this job is the job's error.
        let zygote = self.module_zygote(&job, layers).await?;
        let confined = Confined { zygote: &zygote, layers, missing };
        instance::run(job, &confined, &mut cancelled).await
    }

    /// The layers to put in force, and those that the host lacks and the policy can do without.
    async fn layers(&self, policy: &Policy) -> Result<(u64, Vec<MissingLayer>), Error> {
        let offer = self.host.get_or_init(|| async { Offer::of_host() }).await;
        let mut layers = policy.layers();
        let mut missing = Vec::new();
        for (bit, reason) in offer.missing.iter().filter(|(bit, _)| policy.layers() & bit != 0) {
            let layer = layer_name(*bit).to_owned();
            if policy.required() & bit != 0 {
                let (policy, reason) = (policy.name().to_owned(), reason.clone());
                return Err(Error::LayerMissing { policy, layer, reason });
            }
            layers &= !bit;
            missing.push(MissingLayer { layer, reason: reason.clone() });
        }
        for (bit, name) in layer::ALL {
            if policy.layers() & bit == 0 {
                let reason = format!("policy \"{}\" does not ask for it", policy.name());
                missing.push(MissingLayer { layer: (*name).to_owned(), reason });
            }
        }
        Ok((layers, missing))
    }

    async fn module_zygote(&self, job: &Job, layers: u64) -> Result<Rc<ModuleZygote>, Error> {
        let memories = job.module.artifact().metadata().memories.len() as u32;
        let filter = job.policy.instance_filter(&FilterContext { memories })?;
        let key = Key {
            tenant: job.tenant.clone(),
            artifact: job.module.hash(),
            layers,
            stack: job.policy.limits().stack,
            filter: filter.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect(),
        };
        let slot = self.kept(key);
        let mut slot = slot.lock().await;
        if let Some(zygote) = slot.as_ref().filter(|z| z.is_alive()) {
            return Ok(Rc::clone(zygote));
        }
        *slot = None;
        let root = self.root_zygote(layers).await?;
        let image = job.module.image_for(&job.tenant)?;
        let id = self.next_module.replace(self.next_module.get() + 1);
        let command = Command {
            kind: command::SPAWN_MODULE,
            id,
            layers,
            stack_bytes: job.policy.limits().stack,
            ..Command::default()
        };
        match ModuleZygote::start(&root, command, &filter, &image.as_fd()).await {
            Ok(zygote) => {
                let zygote = Rc::new(zygote);
                *slot = Some(Rc::clone(&zygote));
                Ok(zygote)
            }
            Err(error) => {
                // A root zygote that broke is replaced at the next job.
                if matches!(error, Error::ZygoteDied { .. } | Error::ZygoteProtocol { .. }) {
                    self.roots.borrow_mut().remove(&layers);
                }
                Err(error)
            }
        }
    }

    /// The slot for a module zygote. Makes room first: the least recently used ones that run nothing go.
    fn kept(&self, key: Key) -> Slot<ModuleZygote> {
        let mut modules = self.modules.borrow_mut();
        let now = self.clock.replace(self.clock.get() + 1);
        if !modules.contains_key(&key) {
            while modules.len() >= self.config.module_zygotes.max(1) {
                let idle = modules.iter().filter(|(_, kept)| is_idle(&kept.zygote));
                let Some(oldest) = idle.min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone()) else {
                    break;
                };
                modules.remove(&oldest);
            }
        }
        let kept = modules.entry(key).or_insert_with(|| Kept { zygote: Slot::default(), used: now });
        kept.used = now;
        Rc::clone(&kept.zygote)
    }

    async fn root_zygote(&self, layers: u64) -> Result<Rc<RootZygote>, Error> {
        let slot = Rc::clone(self.roots.borrow_mut().entry(layers).or_default());
        let mut slot = slot.lock().await;
        if let Some(zygote) = slot.as_ref() {
            return Ok(Rc::clone(zygote));
        }
        let filter = if layers & layer::SECCOMP != 0 { policies::zygote_base_filter()? } else { Vec::new() };
        let offer = self.host.get_or_init(|| async { Offer::of_host() }).await;
        let confinement = Confinement {
            layers,
            landlock: offer.landlock,
            filter: &filter,
            sandbox_id: self.config.sandbox_id,
        };
        let zygote = Rc::new(RootZygote::start(&confinement).await?);
        *slot = Some(Rc::clone(&zygote));
        Ok(zygote)
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
    Ok(())
}

/// Whether the kernel has `mseal(2)`: sealing nothing is allowed wherever the call exists.
fn has_mseal() -> bool {
    /// The number is the same on every architecture.
    const SYS_MSEAL: libc::c_long = 462;
    // SAFETY: an empty range.
    unsafe { libc::syscall(SYS_MSEAL, 0, 0, 0) == 0 }
}

impl Offer {
    /// What the zygotes cannot find out by failing: everything else is an error of its step.
    fn of_host() -> Self {
        let abi = host::landlock_abi();
        let mut missing = Vec::new();
        if abi == 0 {
            let why = "the kernel has no Landlock, or it is not enabled (lsm=landlock,…)";
            missing.push((layer::LANDLOCK, why.to_owned()));
        }
        if !has_mseal() {
            missing.push((layer::SEALED_CODE, "mseal(2) needs Linux 6.10".to_owned()));
        }
        Self { landlock: host::landlock_handled(abi), missing }
    }
}
