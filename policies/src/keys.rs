//! The keys of the schema: what the parser accepts, and what the reference in docs/policy.md says about each.
//!
//! There is no other list: the parser refuses a key that is not here, `schema` reads the values of those that are, and
//! `reference` writes the tables of the documentation from here.

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// The values that it takes.
    pub takes: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// One section.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// The names of keys.
pub(crate) fn names(keys: &[Key]) -> Vec<&'static str> {
    keys.iter().map(|key| key.name).collect()
}

/// The keys of a section.
pub(crate) fn of(section: &str) -> &'static [Key] {
    SECTIONS.iter().find(|s| s.name == section).map_or(&[], |s| s.keys)
}

const fn key(name: &'static str, takes: &'static str, meaning: &'static str) -> Key {
    Key { name, takes, meaning }
}

const BOOLEAN: &str = "true, false";

/// The keys before the first section.
pub const TOP: &[Key] = &[
    key("version", "`1`", "Mandatory. The version of this schema."),
    key("extends", "a policy's name", "What the file starts from; `default` if it does not say."),
    key("description", "text", "What the policy is for."),
    key(
        "allow_dangerous",
        BOOLEAN,
        "Lets the file give more than the policy it extends. Needs `dangerous_reason`.",
    ),
    key(
        "dangerous_reason",
        "text",
        "Why. `policy explain` shows it with everything that is widened, and so does the report of every job.",
    ),
];

/// The keys of a rule, `[[seccomp.allow]]`.
pub const RULE: &[Key] = &[
    key("syscall", "a system call", "Mandatory. The call that the rule allows."),
    key("when", "a list of conditions", "All must hold. Without any, every call is allowed."),
    key("why", "text", "Mandatory. Why the rule is there."),
];

/// The sections.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "limits",
        keys: &[
            key(
                "memory",
                "size",
                "Bytes of all linear memories together. See `memory_exceeded`. A module that starts with more does not run; \
                 the outcome is the memory limit.",
            ),
            key(
                "memory_exceeded",
                "`\"fail\"`, `\"kill\"`",
                "`fail`: `memory.grow` answers -1, as WebAssembly has it. `kill`: the job ends with the memory limit as its \
                 outcome.",
            ),
            key(
                "wall_time",
                "duration, `\"unlimited\"`",
                "The instance is killed; the outcome is the wall-time limit.",
            ),
            key(
                "cpu_time",
                "duration, `\"unlimited\"`",
                "User and system time of the instance. The kernel counts whole seconds; a fraction is rounded up.",
            ),
            key(
                "stack",
                "size",
                "The guest's stack, a multiple of 4096. Deeper recursion is a trap: call stack exhausted.",
            ),
            key(
                "output",
                "size, `\"unlimited\"`",
                "Bytes written to stdout and stderr together. The job ends with the output limit as its outcome.",
            ),
            key(
                "host_calls",
                "number, `\"unlimited\"`",
                "Host calls that the supervisor serves. The job ends with the host-call limit as its outcome.",
            ),
            key(
                "fuel",
                "number, `\"unlimited\"`",
                "What the guest may execute, counted as [compiler.md](compiler.md#fuel) says; then it traps: all fuel consumed \
                 by WebAssembly. Modules are compiled to count it; an artifact that was not is refused.",
            ),
            key(
                "open_files",
                "3 to 65536",
                "Descriptors that the guest has at one time, stdio and preopened directories included. Opening another fails.",
            ),
        ],
    },
    Section {
        name: "wasi",
        keys: &[
            key(
                "filesystem",
                "`\"none\"`, `\"read-only\"`, `\"read-write\"`",
                "`none`: no directory is passed on, so the guest has nowhere to open a file. `read-only`: every directory is \
                 passed on for reading.",
            ),
            key(
                "clocks",
                BOOLEAN,
                "Without: a module that imports `clock_time_get` or `clock_res_get` is refused.",
            ),
            key(
                "clock_resolution",
                "duration, 1ns to 1h",
                "Clock readings are rounded down to a multiple of it. Coarser is narrower.",
            ),
            key("monotonic_base", "duration", "What the monotonic clock reads when the guest starts."),
            key("random", BOOLEAN, "Without: a module that imports `random_get` is refused."),
            key(
                "random_seed",
                "number, `\"new\"`",
                "All random bytes of every instance come from this seed. `new`: from one of its own that nobody knows.",
            ),
            key(
                "deterministic",
                BOOLEAN,
                "The same input gives the same run, see [host-calls.md](host-calls.md#deterministic-runs).",
            ),
            key(
                "sockets",
                BOOLEAN,
                "Without: no socket of the job is passed on. Nothing lets a guest make one.",
            ),
            key(
                "stdio",
                BOOLEAN,
                "Without: stdin reads as empty; what is written to stdout and stderr is swallowed.",
            ),
            key("args", BOOLEAN, "Without: the guest sees no arguments."),
            key("env", BOOLEAN, "Without: the guest sees no environment."),
        ],
    },
    Section {
        name: "fs",
        keys: &[key(
            "data",
            "`\"supervisor\"`, `\"direct\"`",
            "`supervisor`: what is read from and written to files goes through the supervisor. `direct`: the instance is given \
             descriptors of regular files that the guest has opened, and reads and writes them itself; needs rules as in \
             `wasi-direct`.",
        )],
    },
    Section {
        name: "host_calls",
        keys: &[
            key("allow", "`\"all\"`, or a list of names", "The host calls that the guest may make."),
            key("deny", "a list of names", "Taken away from `allow`."),
            key(
                "imports",
                "true, false, or a list of names",
                "The functions of the host app, which the job provides (modules compiled with `open_imports`), that a module may \
                 import: all, none, or `\"interface.function\"` and `\"interface.*\"`. They count as host calls.",
            ),
        ],
    },
    Section {
        name: "instance",
        keys: &[
            key(
                "init",
                "the name of an export, or `\"\"` for none",
                "The export initialises the module when the first job with this policy needs it. Every instance begins with a \
                 [snapshot](snapshots.md) of what it leaves.",
            ),
            key("args", "a list of texts", "The arguments of `init`, with the program's name first."),
            key("env", "a list of `\"NAME=value\"`", "The environment of `init`."),
        ],
    },
    Section {
        name: "seccomp",
        keys: &[
            key(
                "default_action",
                "`\"trap\"`, `\"kill\"`",
                "What happens to every other call. `trap`: the instance dies of SIGSYS and the report names the call and its \
                 arguments. `kill`: it dies at once, and the report cannot name the call.",
            ),
            key(
                "deny",
                "a list of system calls",
                "All rules that the extended policy has for these calls are taken away.",
            ),
            key(
                "allow",
                "rules (`[[seccomp.allow]]`)",
                "Added to those of the extended policy. A rule that allows nothing more than one of them narrows, if `deny` has \
                 taken that one away; any other widens.",
            ),
        ],
    },
    Section {
        name: "namespaces",
        keys: &[
            key("user", BOOLEAN, "Layer `user-namespace`."),
            key("mount", BOOLEAN, "Layer `mount-namespace`."),
            key("pid", BOOLEAN, "Layer `pid-namespace`."),
            key("net", BOOLEAN, "Layer `net-namespace`."),
            key("ipc", BOOLEAN, "Layer `ipc-namespace`."),
            key("uts", BOOLEAN, "Layer `uts-namespace`."),
            key("cgroup", BOOLEAN, "Layer `cgroup-namespace`."),
            key(
                "time",
                BOOLEAN,
                "Layer `time-namespace`: clocks since boot that do not tell how long the host is up.",
            ),
            key(
                "empty_root",
                BOOLEAN,
                "Layer `empty-root`: the root directory is an empty read-only file system.",
            ),
        ],
    },
    Section {
        name: "landlock",
        keys: &[key(
            "enabled",
            BOOLEAN,
            "Layer `landlock`: everything that the kernel's version of Landlock can deny is denied (files; TCP from ABI 4; \
             abstract sockets and signals from ABI 6).",
        )],
    },
    Section {
        name: "speculation",
        keys: &[
            key(
                "indirect_branch",
                "`\"host\"`, `\"disable\"`",
                "`disable`: layer `indirect-branch-control`: no indirect branch of an instance is predicted by what another process \
                 did, nor the other way round. `host`: as the host has it.",
            ),
            key(
                "store_bypass",
                "`\"host\"`, `\"disable\"`",
                "`disable`: layer `store-bypass-control`: no load of an instance runs ahead of an older store. `host`: as the host has it.",
            ),
            key(
                "core_scheduling",
                BOOLEAN,
                "Layer `core-scheduling`: the instances of one tenant, module and policy run beside nobody else on the threads of a \
                 processor core.",
            ),
            key(
                "timestamp_counter",
                BOOLEAN,
                "`false`: layer `no-timestamp-counter`: `rdtsc` faults in an instance, and the guest's clocks are host calls that wait \
                 for the supervisor; the policy needs `write` and `futex` then, if it grants clocks.",
            ),
            key(
                "code_sharing",
                "`\"tenant\"`, `\"none\"`",
                "`tenant`: jobs of one tenant share code pages, different tenants never do. This version accepts nothing else.",
            ),
        ],
    },
    Section {
        name: "require",
        keys: &[key(
            "layers",
            "a list of layers",
            "The layers that must be in force. On a host without one of them the job is refused with an error that names it.",
        )],
    },
];
