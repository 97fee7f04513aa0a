//! From what a job was seen to do to the smallest policy for it.

use std::fmt::Write;
use std::time::Duration;

use ipc::interface::FunctionId;
use ipc::report::Usage;
use policies::{Filesystem, Policy, format_duration, format_size};
use supervisor::Observed;

use crate::error::Error;

/// WebAssembly's page.
const WASM_PAGE: u64 = 64 << 10;

/// What is known of one run.
pub struct Facts<'f> {
    /// What it used.
    pub usage: &'f Usage,
    /// What it did.
    pub observed: &'f Observed,
    /// What the module imports.
    pub host_functions: &'f [FunctionId],
    /// The job had environment variables.
    pub passed_environment: bool,
    /// The guest's exit code.
    pub code: u32,
    /// Room above what was used, in percent.
    pub margin: u32,
}

/// A proposal.
pub struct Proposal {
    /// A policy file.
    pub toml: String,
    /// What it grants without having seen that it is needed, and what it may refuse that is.
    pub warnings: Vec<String>,
}

/// Host functions that an instance answers itself: whether they were called is not known.
const ANSWERED_INSIDE: &[FunctionId] = &[
    FunctionId::args_get,
    FunctionId::args_sizes_get,
    FunctionId::environ_get,
    FunctionId::environ_sizes_get,
    FunctionId::clock_res_get,
    FunctionId::clock_time_get,
    FunctionId::random_get,
    FunctionId::sched_yield,
    FunctionId::proc_exit,
    FunctionId::fd_fdstat_get,
    FunctionId::fd_seek,
    FunctionId::fd_tell,
];

impl Facts<'_> {
    fn imports(&self, any_of: &[FunctionId]) -> bool {
        any_of.iter().any(|function| self.host_functions.contains(function))
    }

    fn roomy(&self, seen: u64) -> u64 {
        let with_room = u128::from(seen) * (100 + u128::from(self.margin)) / 100;
        u64::try_from(with_room).unwrap_or(u64::MAX)
    }
}

/// The smallest policy that extends `base` and lets the job do what it did.
pub fn propose(base: &Policy, facts: &Facts<'_>) -> Result<Proposal, Error> {
    let text = wanted(base, facts);
    // The parser itself makes sure that nothing widens; what is as in the base is left out again.
    let policy = Policy::parse(&text, "the proposal")?;
    let warnings = warnings(base, &policy, facts);
    let mut toml = String::from("# Proposed by `sandboxctl policy learn` from one run. Before use, read:\n");
    for warning in &warnings {
        // Writing to a string does not fail.
        let _ = writeln!(toml, "# - {warning}");
    }
    toml.push_str(&policy.to_toml(base));
    Ok(Proposal { toml, warnings })
}

/// Every key that a run says something about.
fn wanted(base: &Policy, facts: &Facts<'_>) -> String {
    let Facts { usage, observed, .. } = facts;
    let limits = base.limits();
    let grows = usage.wasm_memory_bytes > observed.initial_memory;
    let memory = match grows {
        true => facts.roomy(usage.wasm_memory_bytes).next_multiple_of(WASM_PAGE).min(limits.memory),
        // The module's own beginning, exactly: it never asked for more.
        false => observed.initial_memory.min(limits.memory),
    };
    let calls: u64 = usage.host_calls;
    let time = |nanos: u64, limit: Option<Duration>| {
        // Whole seconds: a machine that is busy is slower than this one was.
        let time = Duration::from_secs(Duration::from_nanos(facts.roomy(nanos)).as_secs() + 1);
        format_duration(limit.map_or(time, |limit| limit.min(time)))
    };
    let count = |seen: u64, limit: Option<u64>| {
        let room = if seen == 0 { 0 } else { facts.roomy(seen).max(seen) };
        limit.map_or(room, |limit| limit.min(room))
    };
    let open_files = u32::try_from(facts.roomy(u64::from(observed.open_files.max(3)))).unwrap_or(u32::MAX);
    let open_files = if observed.open_files <= 3 { 3 } else { open_files };
    let wasi = base.wasi();
    let filesystem = match (observed.used_files, observed.wrote_files) {
        (false, _) => Filesystem::None,
        (true, false) => Filesystem::ReadOnly.min(wasi.filesystem),
        (true, true) => wasi.filesystem,
    };
    let filesystem = match filesystem {
        Filesystem::None => "none",
        Filesystem::ReadOnly => "read-only",
        Filesystem::ReadWrite => "read-write",
    };
    let clocks = facts.imports(&[FunctionId::clock_time_get, FunctionId::clock_res_get]);
    let args = facts.imports(&[FunctionId::args_get, FunctionId::args_sizes_get]);
    let env =
        facts.passed_environment && facts.imports(&[FunctionId::environ_get, FunctionId::environ_sizes_get]);
    let names: Vec<String> =
        facts.host_functions.iter().map(|function| format!("\"{}\"", function.declaration().name)).collect();
    let mut denied = Vec::new();
    if calls == 0 {
        // Nobody to ring for, nothing to wait for.
        denied.extend(["write", "futex"]);
    }
    if !grows {
        denied.push("mprotect");
    }
    denied.retain(|name| base.seccomp().allow.iter().any(|rule| rule.syscall.name() == *name));
    let denied: Vec<String> = denied.iter().map(|name| format!("\"{name}\"")).collect();
    let mut text =
        format!("version = 1\nextends = \"{}\"\ndescription = \"Learnt from one run.\"\n", base.name());
    let _ = write!(
        text,
        "[limits]\nmemory = \"{}\"\nwall_time = \"{}\"\ncpu_time = \"{}\"\noutput = {}\nhost_calls = {}\nopen_files = {}\n",
        format_size(memory),
        time(usage.wall_ns, limits.wall_time),
        time(usage.cpu_us.saturating_mul(1000), limits.cpu_time),
        count(usage.output_bytes, limits.output),
        count(calls, limits.host_calls),
        open_files.min(limits.open_files),
    );
    if let Some(fuel) = usage.fuel {
        let _ = writeln!(text, "fuel = {}", count(fuel, limits.fuel));
    }
    let _ = write!(
        text,
        "[wasi]\nfilesystem = \"{filesystem}\"\nclocks = {}\nrandom = {}\nsockets = {}\nstdio = {}\nargs = {}\nenv = {}\n",
        clocks && wasi.clocks,
        facts.imports(&[FunctionId::random_get]) && wasi.random,
        observed.used_sockets && wasi.sockets,
        observed.used_stdio && wasi.stdio,
        args && wasi.args,
        env && wasi.env,
    );
    let _ = write!(
        text,
        "[host_calls]\nallow = [{}]\nimports = false\n[seccomp]\ndeny = [{}]\n",
        names.join(", "),
        denied.join(", ")
    );
    text
}

fn warnings(base: &Policy, policy: &Policy, facts: &Facts<'_>) -> Vec<String> {
    let mut all = vec![
        "One run shows one way through the program: with other input it may need more, and is then refused what is not here."
            .to_owned(),
    ];
    let mut warn = |text: String| all.push(text);
    if facts.code != 0 {
        warn(format!("The guest exited with {}: perhaps it did not do what it was to do.", facts.code));
    }
    let list = |functions: Vec<&FunctionId>| {
        functions.iter().map(|function| function.declaration().name).collect::<Vec<_>>().join(", ")
    };
    let not_called: Vec<_> = facts
        .host_functions
        .iter()
        .filter(|f| !facts.observed.host_calls.contains_key(f) && !ANSWERED_INSIDE.contains(f))
        .collect();
    if !not_called.is_empty() {
        warn(format!(
            "Over-granted: the module imports these host calls and did not make them; without the grant it would not start: {}.",
            list(not_called)
        ));
    }
    let inside: Vec<_> = facts.host_functions.iter().filter(|f| ANSWERED_INSIDE.contains(f)).collect();
    if !inside.is_empty() {
        warn(format!(
            "Perhaps over-granted: the instance answers these host calls itself, so whether they were made is not known: {}.",
            list(inside)
        ));
    }
    match policy.wasi().filesystem {
        Filesystem::None => {}
        Filesystem::ReadOnly => warn(
            "Over-granted: everything below every directory that a job passes may be read, not only what was.".to_owned(),
        ),
        Filesystem::ReadWrite => warn(
            "Over-granted: everything below every directory that a job passes may be read and changed, not only what was; pass \
             with --ro-dir what is only read."
                .to_owned(),
        ),
    }
    if policy.wasi().stdio {
        warn("Over-granted: all three standard streams, not only those that were used.".to_owned());
    }
    let grows = policy.seccomp().allow.iter().any(|rule| rule.syscall.name() == "mprotect");
    warn(match grows {
        true => "The system call mprotect is allowed for all of the memories' reservations; the memory limit is kept besides.",
        false => "No memory grew, so none may: memory.grow answers -1.",
    }
    .to_owned());
    warn(format!(
        "Memory, times, output, host calls, fuel and open files have {} % of room above what was seen; times are those of this \
         machine.",
        facts.margin
    ));
    warn(format!(
        "Not learnt, as in {:?}: the stack, the steps of clocks, what to require of the host.",
        base.name()
    ));
    all
}
