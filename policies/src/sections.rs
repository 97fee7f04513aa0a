//! The checked contents of a policy, section by section.

use std::collections::BTreeSet;
use std::time::Duration;

use ipc::control::layer;
use ipc::interface::{FUNCTIONS, FunctionId};

use crate::filter::DefaultAction;
use crate::imports::Imports;
use crate::rule::Rule;

/// `[seccomp]`: the system calls of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seccomp {
    /// What happens to every other call.
    pub default_action: DefaultAction,
    /// What is allowed.
    pub allow: Vec<Rule>,
}

/// What a growth of memory beyond the limit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryExceeded {
    /// `memory.grow` answers -1, as WebAssembly has it.
    Fail,
    /// The job ends with the memory limit as its outcome.
    Kill,
}

/// `[limits]`: what a job may use. `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Bytes of all linear memories together.
    pub memory: u64,
    /// What a growth beyond it does.
    pub memory_exceeded: MemoryExceeded,
    /// Wall-clock time.
    pub wall_time: Option<Duration>,
    /// CPU time, user and system.
    pub cpu_time: Option<Duration>,
    /// Bytes of guest stack, a multiple of the page size.
    pub stack: u64,
    /// Bytes written to stdout and stderr together.
    pub output: Option<u64>,
    /// Host calls over the ring.
    pub host_calls: Option<u64>,
    /// Fuel: what the guest may execute.
    pub fuel: Option<u64>,
    /// Descriptors of the guest (stdio, preopened directories, opened files) at one time.
    pub open_files: u32,
}

/// `wasi.filesystem`: what may be done below preopened directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filesystem {
    /// No directory is passed on.
    None,
    /// Directories are passed on for reading only.
    ReadOnly,
    /// Each directory as the host app passed it.
    ReadWrite,
}

/// `[wasi]`: what the guest is told and given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wasi {
    /// Files and directories.
    pub filesystem: Filesystem,
    /// Clock readings.
    pub clocks: bool,
    /// Readings are rounded down to a multiple of this.
    pub clock_resolution: Duration,
    /// What the monotonic clock reads when the guest starts.
    pub monotonic_base: Duration,
    /// Random bytes.
    pub random: bool,
    /// The seed of all random bytes; `None` for a new one per instance, or 0 if it is deterministic.
    pub random_seed: Option<u64>,
    /// Nothing that the guest sees depends on when and how fast it runs.
    pub deterministic: bool,
    /// The sockets that the job passes.
    pub sockets: bool,
    /// The job's stdin, stdout and stderr; without, they read as empty and swallow what is written.
    pub stdio: bool,
    /// The job's arguments; without, the guest sees none.
    pub args: bool,
    /// The job's environment; without, the guest sees none.
    pub env: bool,
}

/// `fs.data`: which way the contents of files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileData {
    /// Through the supervisor.
    Supervisor,
    /// Between the kernel and the instance, which is given descriptors of regular files that the guest has opened.
    Direct,
}

/// `[fs]`: files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fs {
    /// Which way their contents go.
    pub data: FileData,
}

/// `[instance]`: how instances begin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Instance {
    /// The export that initialises the module, once for all instances: they begin with a snapshot of what it leaves.
    pub init: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, each `NAME=value`.
    pub env: Vec<String>,
}

/// Everything that a policy says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sections {
    pub(crate) seccomp: Seccomp,
    /// Bits of `ipc::control::layer` that the policy switches.
    pub(crate) layers: u64,
    pub(crate) limits: Limits,
    pub(crate) wasi: Wasi,
    pub(crate) fs: Fs,
    pub(crate) host_calls: BTreeSet<FunctionId>,
    /// Functions of the host app that may be imported.
    pub(crate) imports: Imports,
    pub(crate) instance: Instance,
    pub(crate) required: u64,
}

/// The key in `[namespaces]` (or `[landlock]`) and the layer that it switches.
pub(crate) const NAMESPACES: &[(&str, u64)] = &[
    ("user", layer::USER_NAMESPACE),
    ("mount", layer::MOUNT_NAMESPACE),
    ("pid", layer::PID_NAMESPACE),
    ("net", layer::NET_NAMESPACE),
    ("ipc", layer::IPC_NAMESPACE),
    ("uts", layer::UTS_NAMESPACE),
    ("cgroup", layer::CGROUP_NAMESPACE),
    ("time", layer::TIME_NAMESPACE),
    ("empty_root", layer::EMPTY_ROOT),
];

/// The keys in `[speculation]` whose value is `"host"` or `"disable"`, and their layers.
pub(crate) const SPECULATION: &[(&str, u64)] =
    &[("indirect_branch", layer::INDIRECT_BRANCH), ("store_bypass", layer::STORE_BYPASS)];

/// All layers.
pub(crate) fn all_layers() -> u64 {
    layer::ALL.iter().fold(0, |all, (bit, _)| all | bit)
}

impl Sections {
    /// The starting point of a profile that extends nothing: every wall up, nothing granted.
    pub(crate) fn closed() -> Self {
        Self {
            seccomp: Seccomp { default_action: DefaultAction::Trap, allow: Vec::new() },
            layers: all_layers(),
            limits: Limits {
                memory: 0,
                memory_exceeded: MemoryExceeded::Fail,
                wall_time: Some(Duration::ZERO),
                cpu_time: Some(Duration::ZERO),
                stack: 0,
                output: Some(0),
                host_calls: Some(0),
                fuel: Some(0),
                open_files: 0,
            },
            wasi: Wasi {
                filesystem: Filesystem::None,
                clocks: false,
                clock_resolution: Duration::from_secs(1),
                monotonic_base: Duration::ZERO,
                random: false,
                random_seed: None,
                deterministic: false,
                sockets: false,
                stdio: false,
                args: false,
                env: false,
            },
            fs: Fs { data: FileData::Supervisor },
            host_calls: BTreeSet::new(),
            imports: Imports::none(),
            instance: Instance::default(),
            required: all_layers(),
        }
    }
}

/// Every host function.
pub(crate) fn all_host_functions() -> impl Iterator<Item = FunctionId> {
    (0..FUNCTIONS.len() as u32).filter_map(FunctionId::from_number)
}

impl Wasi {
    /// Whether the grants of `[wasi]` leave this function any use.
    ///
    /// Only what is answered inside the instance is refused by name. The others have something to answer without
    /// the grant: no arguments, no environment, empty streams, no directory to start from, or a read-only one.
    pub(crate) fn grants(&self, function: FunctionId) -> bool {
        match function {
            FunctionId::clock_res_get | FunctionId::clock_time_get => self.clocks,
            FunctionId::random_get => self.random,
            _ => true,
        }
    }
}
