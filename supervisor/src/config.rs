//! How a supervisor is set up.

use std::path::PathBuf;
use std::time::Duration;

/// Configuration of a [`crate::Supervisor`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Where artifacts are cached. `None`: nothing is kept, every load compiles.
    pub state_dir: Option<PathBuf>,
    /// Bytes that the cached artifacts together may have. The least recently used go first.
    pub cache_bytes: u64,
    /// Shards: threads that run jobs, each with its own root zygote. At least 1.
    pub shards: usize,
    /// How modules are compiled. The keys that errors name, such as `compile.caps.functions`, are paths from here.
    pub compile: compiler::Options,
    /// What one compilation may use.
    pub compile_limits: CompileLimits,
    /// The program that compile workers are started from: one that contains this library, of this version, such as
    /// `sandboxc`. `None`, the usual: the program that runs, once more. A host app that has this library in a shared library
    /// must name one; without it, compiling is [`crate::Error::NoWorkerProgram`].
    pub worker_program: Option<PathBuf>,
    /// Module zygotes that a shard keeps; the least recently used idle one goes first. At least 1.
    pub module_zygotes: usize,
    /// Instances that each module zygote keeps parked: forked and confined ahead of the jobs that will wake them.
    pub pool: PoolLimits,
    /// How long a zygote may say nothing while it owes an answer, such as to fork, which takes it less than a millisecond. Then
    /// it is given up with its instances, and their jobs end with [`crate::Error::ZygoteSilent`]. Default 10 s; what counts is
    /// twice this at most.
    pub zygote_patience: Duration,
    /// Whether each shard, its zygotes and its instances stay on one processor. A wake-up across processors costs
    /// about twelve times one on the same, and a host call needs two; so this pays wherever jobs make host calls. Without
    /// it the kernel's scheduler spreads the processes as it likes.
    pub pin_shards: bool,
    /// User and group id on the host that instances run as when the supervisor runs as root. An ordinary user's
    /// instances run as that user, in a user namespace where it has no rights.
    pub sandbox_id: u32,
    /// Limits of everything that runs for a tenant together, by cgroups of version 2. `None`, the usual: there are none. Where the host has
    /// not delegated what they take, jobs run without, and their reports say why, unless their policy requires the layer
    /// `tenant-cgroup`.
    pub cgroup: Option<TenantCgroups>,
    /// What starts zygotes and compile workers where this process cannot do so itself any more, see [`crate::confine`]. `None`, the
    /// usual: this process starts them.
    pub spawner: Option<crate::Spawner>,
}

impl Config {
    /// The usual place for cached artifacts: `$XDG_CACHE_HOME/sandboxd`, else `$HOME/.cache/sandboxd`; for root
    /// `/var/cache/sandboxd`. `None` if neither is known.
    pub fn default_state_dir() -> Option<PathBuf> {
        if nix::unistd::geteuid().is_root() {
            return Some(PathBuf::from("/var/cache/sandboxd"));
        }
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .map(|cache| cache.join("sandboxd"))
    }
}

impl Default for Config {
    /// No cache (and 4 GiB for one that is set), one pinned shard, at most 32 module zygotes with up to 8 parked
    /// instances each, instances of root as user 65534.
    fn default() -> Self {
        Self {
            state_dir: None,
            cache_bytes: 4 << 30,
            shards: 1,
            compile: compiler::Options::default(),
            compile_limits: CompileLimits::default(),
            worker_program: None,
            module_zygotes: 32,
            pool: PoolLimits::default(),
            zygote_patience: Duration::from_secs(10),
            pin_shards: true,
            sandbox_id: 65534,
            cgroup: None,
            spawner: None,
        }
    }
}

/// How many instances one module zygote (one per tenant, module, policy and shard) keeps parked. Between the two numbers it
/// follows the demand: none before the first job, as many as jobs came at once, fewer again when they are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// At least, from the first job on. Default 0.
    pub min: usize,
    /// At most. Default 8. 0: every job forks on demand.
    pub max: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { min: 0, max: 8 }
    }
}

/// Cgroups of tenants: where they are, and the limits of each. Without a limit, a tenant's processes are only kept together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantCgroups {
    /// A cgroup (version 2) that this process may make others in and move its own processes to. No process should be in it. `None`: the one
    /// that this process is in; if there are limits, it moves into another below that, with all its threads.
    pub directory: Option<PathBuf>,
    /// Bytes of memory (`memory.max`); swap space is closed to the tenant then. Beyond it the kernel kills an instance, whose outcome is
    /// [`ipc::report::Limit::TenantMemory`].
    pub memory_max: Option<u64>,
    /// Bytes of memory beyond which the tenant's processes are slowed down and their memory is reclaimed (`memory.high`).
    pub memory_high: Option<u64>,
    /// Processes, module zygotes among them (`pids.max`). Beyond it no instance can be forked, which is an error of its job.
    pub pids_max: Option<u64>,
    /// CPU time, in hundredths of one processor's (`cpu.max`). Beyond it the tenant's processes wait.
    pub cpu_percent: Option<u32>,
}

/// Keys of [`CompileLimits`], as errors, configuration files and documents have them.
pub(crate) mod limit_key {
    pub(crate) const MEMORY: &str = "compile.limits.memory";
    pub(crate) const CPU_TIME: &str = "compile.limits.cpu_time";
    pub(crate) const WALL_TIME: &str = "compile.limits.wall_time";
}

/// What the worker process of one compilation may use. Beyond a limit the module is refused with an error that names it, its
/// value and its key: `compile.limits.memory` is the field here and the key of a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Bytes of memory: private writable pages. Default 3 GiB.
    pub memory: u64,
    /// CPU time of all threads together, in whole seconds, at least 1. Default 300 s.
    pub cpu_time: Duration,
    /// Time from start to end. Default 120 s.
    pub wall_time: Duration,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { memory: 3 << 30, cpu_time: Duration::from_secs(300), wall_time: Duration::from_secs(120) }
    }
}
