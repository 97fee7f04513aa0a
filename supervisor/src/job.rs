//! What a host app asks for.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ipc::report::Value;
use policies::Policy;

use crate::imports::Imports;
use crate::module::Module;

/// Which function of the module a job runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// The command convention: `_start`, without parameters or results.
    Command,
    /// An exported function with typed arguments. `_initialize` runs first if the module exports it.
    Export {
        /// The export's name.
        name: String,
        /// One value per parameter.
        args: Vec<Value>,
    },
}

/// A directory that the guest may use.
#[derive(Debug)]
pub struct Preopen {
    /// The directory. Opened by the host app: the supervisor never opens a path on a client's word.
    pub directory: OwnedFd,
    /// Its name in the guest.
    pub guest_path: String,
    /// Whether the guest may only read below it.
    pub read_only: bool,
}

/// Limits of one job. They never widen those of the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobLimits {
    /// Bytes of all linear memories together.
    pub memory: Option<u64>,
    /// Wall-clock time.
    pub wall_time: Option<Duration>,
    /// Fuel: what the guest may execute. The module must have been compiled with [`compiler::Options::fuel`].
    pub fuel: Option<u64>,
}

impl JobLimits {
    /// Bytes that all linear memories together may have under a policy with these limits.
    pub(crate) fn memory_within(&self, policy: &policies::Limits) -> u64 {
        self.memory.map_or(policy.memory, |memory| memory.min(policy.memory))
    }

    /// Whether a job with these limits under this policy needs code that counts fuel.
    pub fn count_fuel(&self, policy: &Policy) -> bool {
        self.fuel.is_some() || policy.limits().fuel.is_some()
    }
}

/// One job.
#[derive(Debug)]
pub struct Job {
    /// The module, loaded by the same supervisor.
    pub module: Module,
    /// What runs.
    pub entry: Entry,
    /// The policy.
    pub policy: Arc<Policy>,
    /// Argument strings, with the program's name first.
    pub args: Vec<Vec<u8>>,
    /// Environment, each `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// Descriptors 0, 1 and 2 of the guest; `None` reads as empty and swallows what is written.
    pub stdio: [Option<OwnedFd>; 3],
    /// Directories, from descriptor 3 on.
    pub preopens: Vec<Preopen>,
    /// Sockets, behind the directories: listeners on which the guest may accept connections, and connections, of streams or
    /// datagrams (IPv4, IPv6, Unix). A listener is set not to wait (`O_NONBLOCK`), which whoever shares it sees.
    pub sockets: Vec<OwnedFd>,
    /// What the module imports beyond the functions of the interface table, see [`compiler::Options::open_imports`].
    pub imports: Imports,
    /// Narrower limits than the policy's.
    pub limits: JobLimits,
    /// The trust domain. Jobs of different tenants share no memory of a module, not even its code pages; what they share
    /// is the fork server's own code.
    pub tenant: String,
}

impl Job {
    /// A job that runs the module's `_start` with no arguments, nothing to read, nowhere to write.
    pub fn command(module: Module, policy: Arc<Policy>) -> Self {
        Self {
            module,
            entry: Entry::Command,
            policy,
            args: Vec::new(),
            env: Vec::new(),
            stdio: [None, None, None],
            preopens: Vec::new(),
            sockets: Vec::new(),
            imports: Imports::default(),
            limits: JobLimits::default(),
            tenant: String::from("default"),
        }
    }

    /// The same job once more, with descriptors of its own for the same open files.
    ///
    /// # Errors
    /// As fcntl(2) with `F_DUPFD_CLOEXEC`.
    pub fn try_clone(&self) -> io::Result<Self> {
        let [stdin, stdout, stderr] = &self.stdio;
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        let preopen = |p: &Preopen| {
            let (directory, guest_path) = (p.directory.try_clone()?, p.guest_path.clone());
            Ok(Preopen { directory, guest_path, read_only: p.read_only })
        };
        Ok(Self {
            module: self.module.clone(),
            entry: self.entry.clone(),
            policy: Arc::clone(&self.policy),
            args: self.args.clone(),
            env: self.env.clone(),
            stdio: [copy(stdin)?, copy(stdout)?, copy(stderr)?],
            preopens: self.preopens.iter().map(preopen).collect::<io::Result<_>>()?,
            sockets: self.sockets.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?,
            imports: self.imports.clone(),
            limits: self.limits,
            tenant: self.tenant.clone(),
        })
    }

    /// Bytes that all linear memories together may have: the narrower of the job's limit and the policy's.
    pub(crate) fn memory_limit(&self) -> u64 {
        self.limits.memory_within(self.policy.limits())
    }
}
