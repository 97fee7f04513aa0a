//! The messages between the supervisor and its zygotes, over `SOCK_SEQPACKET` sockets with `SCM_RIGHTS`.
//!
//! Fixed records, so that the zygote needs no parser and the supervisor can check what a zygote says by its
//! length and its numbers alone. One packet holds one record; a filter program follows where it says so.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The descriptor of its control socket in every zygote.
pub const CONTROL_FD: i32 = 3;

/// Instructions that a seccomp filter may have (`BPF_MAXINSNS`, linux/bpf_common.h).
pub const FILTER_MAX: usize = 4096;
/// Bytes of one `struct sock_filter`.
pub const FILTER_INSTRUCTION_BYTES: usize = 8;
/// Longest packet.
pub const PACKET_MAX: usize = 512 + FILTER_MAX * FILTER_INSTRUCTION_BYTES;

/// [`Command::kind`]: what the supervisor asks.
pub mod command {
    /// To a starting root zygote: confine yourself. A filter program (the base filter) follows the record.
    pub const CONFINE: u32 = 1;
    /// To a starting root zygote: your user and group ids are mapped; go on.
    pub const MAPPED: u32 = 2;
    /// To the root zygote: fork a module zygote. Descriptors: artifact, the new zygote's control socket. The
    /// policy's filter program follows the record.
    pub const SPAWN_MODULE: u32 = 3;
    /// To a module zygote: fork an instance. Descriptors: shared memory, doorbell.
    pub const SPAWN_INSTANCE: u32 = 4;
}

/// What the supervisor asks of a zygote.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Command {
    /// One of [`command`].
    pub kind: u32,
    /// Instructions in the filter program that follows; 0 for none.
    pub filter_len: u32,
    /// Number of the module or instance, chosen by the supervisor; comes back in replies.
    pub id: u64,
    /// `CONFINE`, `SPAWN_MODULE`: the [`layer`]s to put in force.
    pub layers: u64,
    /// `CONFINE`: access rights that Landlock handles (and so denies): file system, network, scopes.
    pub landlock: [u64; 3],
    /// `CONFINE`: user and group id inside the user namespace.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// `SPAWN_MODULE`: bytes of guest stack, a multiple of the page size.
    pub stack_bytes: u64,
    /// `SPAWN_MODULE`: not 0 if file data goes directly: the filter has a listener, which goes to the supervisor with `READY`, and
    /// instances may have descriptors of files.
    pub direct: u64,
    /// `CONFINE`: whole seconds that the clocks of the time namespace are ahead of the host's: monotonic, since boot.
    pub clock_offsets: [i64; 2],
}

/// [`Reply::kind`]: what a zygote says.
pub mod reply {
    /// A root zygote has its own user namespace and waits for `MAPPED`.
    pub const UNSHARED: u32 = 1;
    /// The zygote is confined and serves; `layers` are in force. Descriptor, if it was asked for: the listener of its filter.
    pub const READY: u32 = 2;
    /// A child was forked: `id`, `pid` (in the zygote's view). Descriptor: its pidfd.
    pub const SPAWNED: u32 = 3;
    /// A child is dead and reaped: `pid`, `status` (`wait4`), times and memory.
    pub const EXITED: u32 = 4;
    /// Something failed: `id`, `step`, `errno`. A zygote that fails while it confines itself exits.
    pub const FAILED: u32 = 5;
}

/// What a zygote says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Reply {
    /// One of [`reply`].
    pub kind: u32,
    /// A [`Step`] as a number, when something failed.
    pub step: u32,
    /// The error number, when something failed.
    pub errno: i32,
    /// Process id in the zygote's PID namespace.
    pub pid: i32,
    /// Of the command.
    pub id: u64,
    /// [`layer`]s in force.
    pub layers: u64,
    /// `wait4` status.
    pub status: i32,
    /// Zero.
    pub reserved: u32,
    /// User time, microseconds.
    pub user_us: u64,
    /// System time, microseconds.
    pub system_us: u64,
    /// Peak resident memory, KiB. The kernel counts in batches per processor, so a small process shows as 0.
    pub peak_kib: u64,
    /// Page faults that were served from memory.
    pub page_faults: u64,
}

/// Bits: one per layer of confinement, for `layers` fields and for reports.
pub mod layer {
    /// Own user namespace, host ids unmapped but one.
    pub const USER_NAMESPACE: u64 = 1 << 0;
    /// Own mount namespace.
    pub const MOUNT_NAMESPACE: u64 = 1 << 1;
    /// Own PID namespace.
    pub const PID_NAMESPACE: u64 = 1 << 2;
    /// Own network namespace, without devices that are up.
    pub const NET_NAMESPACE: u64 = 1 << 3;
    /// Own System V IPC and POSIX message queue namespace.
    pub const IPC_NAMESPACE: u64 = 1 << 4;
    /// Own host name.
    pub const UTS_NAMESPACE: u64 = 1 << 5;
    /// Own cgroup namespace.
    pub const CGROUP_NAMESPACE: u64 = 1 << 6;
    /// The root directory is an empty read-only file system.
    pub const EMPTY_ROOT: u64 = 1 << 7;
    /// Landlock denies every access that the kernel's ABI knows.
    pub const LANDLOCK: u64 = 1 << 8;
    /// `no_new_privs`.
    pub const NO_NEW_PRIVS: u64 = 1 << 9;
    /// No capability in any set; securebits locked.
    pub const CAPABILITIES: u64 = 1 << 10;
    /// The policy's seccomp filter.
    pub const SECCOMP: u64 = 1 << 11;
    /// Resource limits.
    pub const RLIMITS: u64 = 1 << 12;
    /// Not dumpable: not traceable, no core file, `/proc` entries closed.
    pub const UNDUMPABLE: u64 = 1 << 13;
    /// Code and read-only data are sealed with `mseal(2)` (Linux 6.10).
    pub const SEALED_CODE: u64 = 1 << 14;
    /// Own clocks since boot: they do not tell how long the host is up.
    pub const TIME_NAMESPACE: u64 = 1 << 15;
    /// Own, empty session keyring.
    pub const OWN_KEYRING: u64 = 1 << 16;
    /// Indirect branches are not predicted by what other processes did, and what this one does predicts none of theirs
    /// (`PR_SPEC_INDIRECT_BRANCH`).
    pub const INDIRECT_BRANCH: u64 = 1 << 17;
    /// Loads do not overtake older stores speculatively (`PR_SPEC_STORE_BYPASS`).
    pub const STORE_BYPASS: u64 = 1 << 18;
    /// A cookie of core scheduling: on the other threads of its core nothing runs but what has the same one.
    pub const CORE_SCHEDULING: u64 = 1 << 19;
    /// Reading the processor's time-stamp counter faults (`PR_SET_TSC`).
    pub const NO_TIMESTAMP_COUNTER: u64 = 1 << 20;
    /// A cgroup with limits, together with everything else of its tenant. The supervisor's business: no zygote is asked for it.
    pub const TENANT_CGROUP: u64 = 1 << 21;

    /// Controls of speculative execution: in force only where a policy's `[speculation]` asks for them.
    pub const SPECULATION: u64 = INDIRECT_BRANCH | STORE_BYPASS | CORE_SCHEDULING | NO_TIMESTAMP_COUNTER;

    /// Layers that nobody need have: no policy lacks them that does not ask for them, and no supervisor whose configuration does not.
    pub const EXTRA: u64 = SPECULATION | TENANT_CGROUP;

    /// Layers that a host may lack although it runs jobs. Every other layer that is asked for is tried, and its failure is an
    /// error.
    pub const OPTIONAL: u64 = LANDLOCK | SEALED_CODE | TIME_NAMESPACE | OWN_KEYRING | SPECULATION;

    /// Bit and name of every layer, in the order in which reports list them.
    pub const ALL: &[(u64, &str)] = &[
        (USER_NAMESPACE, "user-namespace"),
        (MOUNT_NAMESPACE, "mount-namespace"),
        (PID_NAMESPACE, "pid-namespace"),
        (NET_NAMESPACE, "net-namespace"),
        (IPC_NAMESPACE, "ipc-namespace"),
        (UTS_NAMESPACE, "uts-namespace"),
        (CGROUP_NAMESPACE, "cgroup-namespace"),
        (TIME_NAMESPACE, "time-namespace"),
        (EMPTY_ROOT, "empty-root"),
        (LANDLOCK, "landlock"),
        (NO_NEW_PRIVS, "no-new-privs"),
        (CAPABILITIES, "capabilities-dropped"),
        (SECCOMP, "seccomp"),
        (RLIMITS, "rlimits"),
        (UNDUMPABLE, "undumpable"),
        (SEALED_CODE, "sealed-code"),
        (OWN_KEYRING, "own-keyring"),
        (TENANT_CGROUP, "tenant-cgroup"),
        (INDIRECT_BRANCH, "indirect-branch-control"),
        (STORE_BYPASS, "store-bypass-control"),
        (CORE_SCHEDULING, "core-scheduling"),
        (NO_TIMESTAMP_COUNTER, "no-timestamp-counter"),
    ];
}

macro_rules! steps {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal, $layer:expr, $what:literal;)*) => {
        /// A step of confinement or set-up that can fail in a zygote or an instance.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Step { $($(#[doc = $doc])* $name = $number,)* }

        impl Step {
            /// The step with this number.
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
            /// The [`layer`] that the step belongs to; 0 for none.
            pub const fn layer(self) -> u64 {
                match self { $(Self::$name => $layer,)* }
            }
            /// What the step does, for messages: "could not {…}".
            pub const fn what(self) -> &'static str {
                match self { $(Self::$name => $what,)* }
            }
        }
    };
}

steps! {
    /// `recvmsg` on the control socket, or a malformed command.
    Receive = 1, 0, "receive a command from the supervisor";
    /// `unshare(CLONE_NEWUSER)`.
    UnshareUser = 2, layer::USER_NAMESPACE, "create a user namespace";
    /// `unshare(CLONE_NEWNS)`.
    UnshareMount = 3, layer::MOUNT_NAMESPACE, "create a mount namespace";
    /// `unshare(CLONE_NEWNET)`.
    UnshareNet = 24, layer::NET_NAMESPACE, "create a network namespace";
    /// `unshare(CLONE_NEWIPC)`.
    UnshareIpc = 25, layer::IPC_NAMESPACE, "create an IPC namespace";
    /// `unshare(CLONE_NEWUTS)`.
    UnshareUts = 26, layer::UTS_NAMESPACE, "create a UTS namespace";
    /// `unshare(CLONE_NEWCGROUP)`.
    UnshareCgroup = 27, layer::CGROUP_NAMESPACE, "create a cgroup namespace";
    /// `setresuid`, `setresgid`, `setgroups`.
    SetIds = 4, layer::USER_NAMESPACE, "take on the unprivileged user id";
    /// The empty read-only root file system.
    EmptyRoot = 5, layer::EMPTY_ROOT, "replace the root directory by an empty one";
    /// `sethostname`.
    HostName = 6, layer::UTS_NAMESPACE, "set the host name";
    /// `prctl(PR_SET_NO_NEW_PRIVS)`.
    NoNewPrivs = 7, layer::NO_NEW_PRIVS, "set no_new_privs";
    /// The Landlock ruleset.
    Landlock = 8, layer::LANDLOCK, "enforce Landlock";
    /// Bounding set, securebits, `capset`.
    Capabilities = 9, layer::CAPABILITIES, "drop capabilities";
    /// `seccomp(SECCOMP_SET_MODE_FILTER)`.
    Seccomp = 10, layer::SECCOMP, "install the seccomp filter";
    /// `prlimit64`.
    Rlimits = 11, layer::RLIMITS, "set resource limits";
    /// `prctl(PR_SET_DUMPABLE)`.
    Dumpable = 12, layer::UNDUMPABLE, "become undumpable";
    /// `clone`.
    Fork = 13, layer::PID_NAMESPACE, "fork";
    /// Program headers that the zygote does not accept.
    ArtifactHeaders = 14, 0, "accept the artifact's program headers";
    /// Mapping a segment of the artifact.
    MapArtifact = 15, 0, "map the artifact";
    /// Mapping the call gate.
    MapGate = 16, layer::SECCOMP, "map the call gate";
    /// Mapping the guest stack.
    MapStack = 17, 0, "map the guest stack";
    /// `mseal`.
    Seal = 18, layer::SEALED_CODE, "seal code and read-only data";
    /// Signal handlers and the signal stack.
    Signals = 19, 0, "install signal handlers";
    /// Descriptors: moving, closing.
    Descriptors = 20, 0, "set up its file descriptors";
    /// Mapping the ring.
    MapRing = 21, 0, "map the ring";
    /// `prctl(PR_SET_PDEATHSIG)`.
    DeathSignal = 22, 0, "ask for a signal at the parent's death";
    /// Unmapping the gate.
    DropGate = 23, layer::SECCOMP, "drop the call gate";
    /// `unshare(CLONE_NEWTIME)`.
    UnshareTime = 29, layer::TIME_NAMESPACE, "create a time namespace";
    /// Writing `/proc/self/timens_offsets`.
    ClockOffsets = 30, layer::TIME_NAMESPACE, "set the clocks of its time namespace (is /proc mounted?)";
    /// `keyctl(KEYCTL_JOIN_SESSION_KEYRING)`.
    Keyring = 31, layer::OWN_KEYRING, "join an empty session keyring";
    /// `prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH)`.
    IndirectBranch = 32, layer::INDIRECT_BRANCH, "disable the speculation of indirect branches";
    /// `prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS)`.
    StoreBypass = 33, layer::STORE_BYPASS, "disable speculative store bypass";
    /// `prctl(PR_SCHED_CORE)`.
    CoreScheduling = 34, layer::CORE_SCHEDULING, "get a cookie of core scheduling";
    /// `prctl(PR_SET_TSC)`.
    TimestampCounter = 35, layer::NO_TIMESTAMP_COUNTER, "disable the time-stamp counter";
    /// `prctl(PR_SET_MEMORY_MERGE)`.
    MemoryMerge = 36, 0, "leave the merging of equal pages (KSM)";
    /// Reading a request of another version.
    OtherVersion = 28, 0, "read a request of another version of sandboxd";
}
