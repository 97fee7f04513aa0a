//! What can go wrong that is not the guest's doing.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ipc::control::Step;

/// An error of the supervisor. The guest's own ends (traps, violations, limits) are outcomes, not errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The module was refused.
    #[error("module refused: {0}")]
    Compile(#[from] compiler::Error),
    /// The compiler refused the module.
    #[error("module refused: {}", .0.message)]
    Refused(compiler::Diagnostic),
    /// The worker that compiled the module ended without an answer.
    #[error(
        "the module could not be compiled: the compiler {what}; this may be a bug of sandboxd, please report it with the module"
    )]
    CompilerCrashed {
        /// How it ended.
        what: String,
    },
    /// A limit of the compilation was reached.
    #[error("the module could not be compiled with {what} of {limit}: `{key}` raises the limit")]
    CompileLimit {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: String,
        /// The key of the configuration that says so.
        key: &'static str,
    },
    /// What the worker wrote is no artifact.
    #[error("the compiler wrote something that is not an artifact ({source}); it was not used")]
    CompilerOutput {
        /// What is wrong with it.
        source: compiler::ArtifactError,
    },
    /// The worker could not be set up.
    #[error("the compile worker could not {}{}: {}{}", .step.what(), layer_of(*.step), io::Error::from_raw_os_error(*.errno), hint(*.step, *.errno))]
    CompileWorkerStep {
        /// The step.
        step: Step,
        /// The error number.
        errno: i32,
    },
    /// The compile zygote ended, or never was one.
    #[error(
        "the compile zygote died{detail}; the module was not compiled, the next compilation starts a new zygote"
    )]
    CompileZygoteDied {
        /// What is known.
        detail: String,
    },
    /// This library is not in the program itself, so that the program cannot be started anew as a compile worker.
    #[error(
        "this program cannot be a compile worker, because it has the supervisor in a shared library: name a program of this version of sandboxd, such as sandboxc, in `Config.worker_program`"
    )]
    NoWorkerProgram,
    /// The program that compile workers are started from is none.
    #[error(
        "{} cannot be a compile worker: {what}; `Config.worker_program` must name a program of this version of sandboxd, such as sandboxc", program.display()
    )]
    WorkerProgram {
        /// The program.
        program: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The artifact was refused.
    #[error("artifact refused: {0}; compile the module again with this version")]
    Artifact(#[from] compiler::ArtifactError),
    /// The artifact was compiled for another processor.
    #[error(
        "the artifact needs processor features that this one lacks: {missing}; compile the module here, or for the baseline processor"
    )]
    CpuFeatures {
        /// Their names.
        missing: String,
    },
    /// A policy problem.
    #[error(transparent)]
    Policy(#[from] policies::Error),
    /// The module has no such export.
    #[error("the module has no exported function \"{name}\"; it exports {available}")]
    NoSuchExport {
        /// What was asked for.
        name: String,
        /// What there is.
        available: String,
    },
    /// Wrong arguments for an export.
    #[error("export \"{name}\" takes {expected}, but was given {given}")]
    WrongArguments {
        /// The export.
        name: String,
        /// Its parameter types.
        expected: String,
        /// The types given.
        given: String,
    },
    /// An export whose types cannot cross.
    #[error("export \"{name}\" has {what}, which cannot be passed from outside")]
    UnsupportedSignature {
        /// The export.
        name: String,
        /// What is unsupported.
        what: String,
    },
    /// An import that the job does not provide.
    #[error(
        "unknown import: the module imports {kind} \"{module}\" \"{name}\", which the job does not provide"
    )]
    UnknownImport {
        /// `function`, `global`, `memory`, `table` or `tag`.
        kind: &'static str,
        /// Module name of the import.
        module: String,
        /// Field name of the import.
        name: String,
    },
    /// An import for which the job provides something else.
    #[error(
        "incompatible import type: \"{module}\" \"{name}\" must be {expected}, but the job provides {found}"
    )]
    IncompatibleImport {
        /// Module name of the import.
        module: String,
        /// Field name of the import.
        name: String,
        /// What the module declares.
        expected: String,
        /// What there is.
        found: String,
    },
    /// A table that is larger than what the artifact has room for.
    #[error(
        "the job provides \"{module}\" \"{name}\" with {entries} entries, but the artifact has room for {room}"
    )]
    ImportRoom {
        /// Module name of the import.
        module: String,
        /// Field name of the import.
        name: String,
        /// Entries of the table.
        entries: u64,
        /// Entries that fit.
        room: u64,
    },
    /// Imports that are not as the interface of the job's typed functions says.
    #[error(
        "the module does not fit the interface \"{interface}\": {}",
        mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    InterfaceMismatch {
        /// The interface.
        interface: String,
        /// The first of them.
        mismatches: Vec<interface::Mismatch>,
    },
    /// An interface that cannot be sent to a daemon.
    #[error(transparent)]
    InterfaceData(interface::DataError),
    /// A host function that waits for the session whose call waits for it.
    #[error(
        "the session is in a call that waits for this host function, so that it cannot be called back; answer first, or call another session"
    )]
    SessionCalledBack,
    /// An interface that breaks a rule.
    #[error(transparent)]
    Interface(#[from] interface::ModelError),
    /// Imports that none of the interfaces has which the module is compiled for.
    #[error(
        "the module imports what the interfaces ({interfaces}) do not have: {}",
        mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    ImportsRefused {
        /// Names of the interfaces.
        interfaces: String,
        /// The first of them.
        mismatches: Vec<interface::Mismatch>,
    },
    /// Two interfaces with the same name, of which an import could mean either.
    #[error("two interfaces have the name \"{name}\"; leave one of them out, or rename it")]
    SameInterface {
        /// The name.
        name: String,
    },
    /// A module whose imports are too many to look at.
    #[error("the module's imports take {bytes} bytes to list; at most {max} are looked at")]
    ImportsTooLong {
        /// Bytes of the list.
        bytes: usize,
        /// Most bytes.
        max: usize,
    },
    /// A function to serve that the interface does not have.
    #[error("the interface \"{interface}\" has no function {name:?}; {hint}")]
    NoSuchFunction {
        /// The interface.
        interface: String,
        /// What was to be served.
        name: String,
        /// What there is.
        hint: String,
    },
    /// A function served in another way than its interface says.
    #[error(
        "the interface declares {function} as {declared}, but it is served as {served}; change one of the two"
    )]
    ServedOtherwise {
        /// The function.
        function: String,
        /// What the interface says.
        declared: &'static str,
        /// What serves it.
        served: &'static str,
    },
    /// A function of an interface that nothing serves.
    #[error("nothing serves {function}; serve every function of an interface")]
    NotServed {
        /// The function.
        function: String,
    },
    /// More typed functions than an instance's table holds.
    #[error(
        "the table of typed functions would have {found} words; at most {limit} fit: import fewer, or before other things"
    )]
    TooManyTypedFunctions {
        /// Words that it would have.
        found: usize,
        /// Words that fit.
        limit: usize,
    },
    /// More imports than an instance can take over.
    #[error("the module imports {found} globals, memories and tables; at most {limit} can be provided")]
    TooManyImports {
        /// How many.
        found: usize,
        /// How many fit.
        limit: usize,
    },
    /// Imported functions that the policy does not grant.
    #[error(
        "the module imports functions of the host app that policy \"{policy}\" does not grant: {}{}{}; list them in imports under [host_calls] or choose another policy",
        functions.join(", "),
        if *others { " and others" } else { "" },
        nearest.as_ref().map_or(String::new(), |nearest| format!(" (it grants {nearest:?})"))
    )]
    ImportsNotGranted {
        /// The first of them, as `module.name`.
        functions: Vec<String>,
        /// Whether there are more.
        others: bool,
        /// What the policy grants that is close to the first.
        nearest: Option<String>,
        /// The policy.
        policy: String,
    },
    /// A policy whose instances cannot wait for commands.
    #[error(
        "policy \"{policy}\" does not allow {syscall}, with which the instance of a session waits for its next call; choose another policy"
    )]
    SessionSyscall {
        /// The policy.
        policy: String,
        /// What is missing.
        syscall: &'static str,
    },
    /// A session that cannot do this at this point.
    #[error("cannot {what}")]
    SessionState {
        /// What was asked for.
        what: &'static str,
    },
    /// A session whose instance is gone.
    #[error("the session has ended ({outcome:?}); only its report is left")]
    SessionEnded {
        /// How it ended.
        outcome: Box<ipc::report::Outcome>,
    },
    /// The initialisation for a snapshot did not come back.
    #[error("no snapshot: the initialisation \"{init}\" {}", not_returned(.outcome))]
    SnapshotInit {
        /// The export.
        init: String,
        /// What came of it.
        outcome: Box<crate::session::CallOutcome>,
    },
    /// The initialisation has left descriptors open, or closed what it was given.
    #[error(
        "no snapshot: after the initialisation descriptors {} are not what they were before it; no instance of the snapshot would have them. Close what it opens, and keep what it was given",
        list(.descriptors)
    )]
    SnapshotDescriptors {
        /// Their numbers.
        descriptors: Vec<u32>,
    },
    /// The instance took too long to give its state.
    #[error("no snapshot: reading what the instance holds took longer than {limit:?}")]
    SnapshotTime {
        /// How long it may take.
        limit: std::time::Duration,
    },
    /// The instance holds more than an artifact may have.
    #[error(
        "no snapshot: the memories hold more than the {max} bytes that an artifact may have; `compile.caps.image_bytes` raises it"
    )]
    SnapshotSize {
        /// The cap.
        max: u64,
    },
    /// What the instance holds cannot be a snapshot.
    #[error("no snapshot: {0}")]
    Snapshot(#[from] compiler::SnapshotError),
    /// The module has no such memory.
    #[error("the module has no memory {memory}")]
    NoSuchMemory {
        /// What was asked for.
        memory: String,
    },
    /// Bytes outside of a memory.
    #[error("{length} bytes at {offset} do not lie in the memory, which has {size} bytes")]
    MemoryRange {
        /// The first byte.
        offset: u64,
        /// How many.
        length: usize,
        /// The memory's size.
        size: u64,
    },
    /// The module exports no such global.
    #[error("the module exports no global \"{name}\"")]
    NoSuchGlobal {
        /// What was asked for.
        name: String,
    },
    /// A global that never changes.
    #[error("global \"{name}\" is immutable")]
    GlobalImmutable {
        /// The export.
        name: String,
    },
    /// A value of another type than the global's.
    #[error("global \"{name}\" takes a value of type {expected}, and of references null only")]
    GlobalType {
        /// The export.
        name: String,
        /// Its type.
        expected: compiler::ValType,
    },
    /// The job's strings do not fit.
    #[error("{what} take {bytes} bytes with their terminators; at most {limit} fit")]
    TooManyStrings {
        /// Arguments or environment.
        what: &'static str,
        /// Their size.
        bytes: usize,
        /// What fits.
        limit: usize,
    },
    /// A string with a zero byte.
    #[error("{what} {index} contains a zero byte")]
    ZeroByte {
        /// Argument or environment entry.
        what: &'static str,
        /// Which.
        index: usize,
    },
    /// The job limits fuel, but the code does not count it.
    #[error("the job limits fuel, but the module was compiled without counting it; compile it with --fuel")]
    FuelNotCounted,
    /// A WASI set-up problem.
    #[error(transparent)]
    Wasi(#[from] crate::wasi::WasiError),
    /// A host call that the policy does not grant.
    #[error(
        "the module imports {function}, which policy \"{policy}\" does not grant; allow it under [host_calls] or choose another policy"
    )]
    HostCallNotGranted {
        /// The function.
        function: &'static str,
        /// The policy.
        policy: String,
    },
    /// A layer that the policy requires is not available.
    #[error(
        "policy \"{policy}\" requires the layer {layer}, which this host does not offer: {reason}; run `sandboxctl doctor`, or take it out of the policy's [require]"
    )]
    LayerMissing {
        /// The policy.
        policy: String,
        /// The layer.
        layer: String,
        /// Why it is missing.
        reason: String,
    },
    /// A zygote could not do a step.
    #[error("the {who} zygote could not {}{}: {}{}", .step.what(), layer_of(*.step), io::Error::from_raw_os_error(*.errno), hint(*.step, *.errno))]
    ZygoteStep {
        /// Root or module.
        who: &'static str,
        /// The step.
        step: Step,
        /// The error number.
        errno: i32,
    },
    /// A zygote died or closed its socket.
    #[error("the {who} zygote died{detail}; its instances are gone, the next job starts a new one")]
    ZygoteDied {
        /// Root or module.
        who: &'static str,
        /// What is known.
        detail: String,
    },
    /// A zygote lives but does not answer: somebody stopped it, or the host is far too busy.
    #[error(
        "the {who} zygote did not answer for {} and is given up; the next job starts a new one (was it stopped? `Config::zygote_patience` is how long it may take)", policies::format_duration(*patience)
    )]
    ZygoteSilent {
        /// Root or module.
        who: &'static str,
        /// How long it had.
        patience: Duration,
    },
    /// A zygote said something that it must not say.
    #[error("the {who} zygote broke the protocol: {what}")]
    ZygoteProtocol {
        /// Root or module.
        who: &'static str,
        /// What.
        what: String,
    },
    /// What is done to a process before it serves must be done while it has one thread.
    #[error("this process has {threads} threads already; confine it before it starts any")]
    Threads {
        /// How many.
        threads: usize,
    },
    /// A directory of the confinement cannot be used.
    #[error("{} cannot be left open to the confined daemon: {source}", path.display())]
    ConfinePlace {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The spawner cannot do what it was asked for.
    #[error("the spawner {what}")]
    Spawner {
        /// What.
        what: String,
    },
    /// The spawner has ended: nothing can be started any more.
    #[error("the spawner, which starts zygotes, has ended; the daemon must be started anew")]
    SpawnerDied,
    /// The spawner lives but does not answer.
    #[error("the spawner, which starts zygotes, did not answer for {} (was it stopped?)", policies::format_duration(*patience))]
    SpawnerSilent {
        /// How long it had.
        patience: Duration,
    },
    /// A system call of the supervisor failed.
    #[error("could not {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
    /// Id maps of the user namespace.
    #[error(
        "could not write {path}: {source}; the user namespace of the zygote (layer user-namespace) cannot be set up: see `sandboxctl doctor`"
    )]
    IdMap {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A tenant's cgroup.
    #[error("the tenant's cgroup (layer tenant-cgroup): {0}")]
    TenantCgroup(#[from] crate::cgroup::CgroupError),
    /// The cache directory.
    #[error("artifact cache {path}: could not {what}: {source}")]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
    /// A bug of the compiler or of the artifact's check.
    #[error(
        "loading the module ended in a panic: this is a bug of sandboxd, please report it with the module"
    )]
    LoadPanicked,
    /// Each shard has zygotes with seccomp filters, whose number is bounded for a whole supervisor.
    #[error(
        "the supervisor has {limit} shards on threads of its host app already; drop one, or run jobs with the supervisor's own"
    )]
    TooManyLocalShards {
        /// How many there may be.
        limit: usize,
    },
    /// The supervisor is stopping.
    #[error("the supervisor has stopped")]
    Stopped,
}

/// The layer that a step puts in force, for messages.
fn layer_of(step: Step) -> String {
    let all = ipc::control::layer::ALL.iter();
    let names: Vec<&str> = all.filter(|(bit, _)| step.layer() & bit != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { String::new() } else { format!(" (layer {})", names.join(", ")) }
}

/// What to do about a step that failed, where that is known.
fn hint(step: Step, errno: i32) -> &'static str {
    match (step, errno) {
        (Step::UnshareUser, libc::EPERM | libc::EACCES | libc::ENOSPC | libc::EUSERS) => {
            "; user namespaces are switched off or used up for this user: see `sandboxctl doctor` (sysctl \
             user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
        }
        (
            Step::UnshareMount
            | Step::UnshareNet
            | Step::UnshareIpc
            | Step::UnshareUts
            | Step::UnshareCgroup
            | Step::Fork,
            libc::ENOSPC | libc::EUSERS,
        ) => "; the limit of such namespaces is reached: see the sysctls user.max_*_namespaces",
        (
            Step::UnshareMount
            | Step::UnshareNet
            | Step::UnshareIpc
            | Step::UnshareUts
            | Step::UnshareCgroup
            | Step::SetIds
            | Step::EmptyRoot
            | Step::HostName
            | Step::Capabilities
            | Step::Fork,
            libc::EPERM | libc::EACCES,
        ) => {
            "; the host gives the zygote's user namespace no rights: a security module restricts it, see `sandboxctl \
             doctor` (sysctl kernel.apparmor_restrict_unprivileged_userns)"
        }
        (Step::Landlock, libc::ENOSYS | libc::EOPNOTSUPP) => {
            "; the kernel has no Landlock or it is not enabled: boot with lsm=landlock,… (Linux 5.13)"
        }
        (Step::Seal, libc::ENOSYS) => "; mseal needs Linux 6.10",
        (Step::Fork, libc::EAGAIN) => {
            "; no more processes are allowed: to the tenant (cgroup.pids_max), to this user (ulimit -u), or to this service (systemd: TasksMax)"
        }
        _ => "",
    }
}

/// Wraps a failed system call.
pub(crate) fn system(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// The same for `nix`.
pub(crate) fn errno(what: &'static str) -> impl Fn(nix::errno::Errno) -> Error {
    move |source| Error::System { what, source: source.into() }
}

fn not_returned(outcome: &crate::session::CallOutcome) -> String {
    use crate::session::CallOutcome;
    use ipc::report::Outcome;
    match outcome {
        CallOutcome::Returned(_) => String::from("returned"),
        CallOutcome::Trapped(trap) | CallOutcome::Ended(Outcome::Trapped(trap)) => {
            format!("trapped: {}", trap.message)
        }
        CallOutcome::Ended(Outcome::Exited { code, .. }) => {
            format!("ended the instance with exit code {code}; it must return")
        }
        CallOutcome::Ended(outcome) => format!("ended the instance: {outcome:?}"),
    }
}

fn list(numbers: &[u32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(", ")
}
