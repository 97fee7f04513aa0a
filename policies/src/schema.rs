//! The schema: what the values of the keys mean, and which of them widen what was there before. Which keys there are says
//! `keys`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipc::control::layer;
use ipc::interface::FunctionId;
use ipc::layout;
use syscalls::x86_64::Sysno;

use crate::document::{Table, Value};
use crate::error::Error;
use crate::filter::{ASK, DefaultAction};
use crate::keys;
use crate::policy::Widening;
use crate::rule::{self, Rule};
use crate::sections::{
    FileData, Filesystem, MemoryExceeded, NAMESPACES, SPECULATION, Sections, all_host_functions,
};
use crate::units::{format_duration, format_size};

/// The version of the schema that this program reads.
pub(crate) const VERSION: i64 = 1;

/// Largest memory limit: every memory of a module at its largest.
const MEMORY_MAX: u64 = layout::MEMORIES_MAX << 32;
/// Largest number of descriptors of a guest.
const OPEN_FILES_MAX: u32 = 1 << 16;

/// The keys of a policy's top: the sections among them.
pub(crate) fn top() -> Vec<&'static str> {
    keys::names(keys::TOP).into_iter().chain(keys::SECTIONS.iter().map(|section| section.name)).collect()
}

/// Decides whether a value may take the place of the one before.
pub(crate) struct Guard {
    /// The policy that is extended; `None` for a profile that stands alone and may set anything.
    base: Option<Arc<str>>,
    /// Whether the policy may give more than its base.
    may_widen: bool,
    /// Where it did.
    widened: RefCell<Vec<Widening>>,
}

impl Guard {
    pub(crate) fn new(base: Option<Arc<str>>, may_widen: bool) -> Self {
        Self { base, may_widen, widened: RefCell::default() }
    }

    /// What has been widened.
    pub(crate) fn widened(self) -> Vec<Widening> {
        self.widened.into_inner()
    }

    fn check(&self, value: &Value<'_>, wider: bool, was: impl FnOnce() -> String) -> Result<(), Error> {
        let Some(base) = self.base.as_ref().filter(|_| wider) else { return Ok(()) };
        let (key, written, was) = (value.key.clone(), value.written(), was());
        if !self.may_widen {
            let (at, base, was) = (value.at(), base.clone(), was.into());
            return Err(Error::Widens { at, key, value: written, base, was });
        }
        self.widened.borrow_mut().push(Widening { key, value: written, was });
        Ok(())
    }

    /// A grant: true gives more than false.
    fn grant(&self, table: &Table<'_>, key: &str, slot: &mut bool) -> Result<(), Error> {
        if let Some(value) = table.get(key) {
            let new = value.boolean()?;
            self.check(&value, new && !*slot, || slot.to_string())?;
            *slot = new;
        }
        Ok(())
    }

    /// A wall: false gives more than true.
    fn wall(&self, table: &Table<'_>, key: &str, layers: &mut u64, bit: u64) -> Result<(), Error> {
        match table.get(key) {
            Some(value) => self.wall_value(&value, value.boolean()?, "true", layers, bit),
            None => Ok(()),
        }
    }

    /// The same for a value that means `on` and is written otherwise: `up` is what stands for a wall that is up.
    fn wall_value(
        &self,
        value: &Value<'_>,
        on: bool,
        up: &str,
        layers: &mut u64,
        bit: u64,
    ) -> Result<(), Error> {
        self.check(value, !on && *layers & bit != 0, || up.to_owned())?;
        *layers = if on { *layers | bit } else { *layers & !bit };
        Ok(())
    }
}

/// Refuses keys that the section does not have.
fn only(table: &Table<'_>, section: &str) -> Result<(), Error> {
    table.only(&keys::names(keys::of(section)))
}

/// Applies every section of the document to `sections`.
pub(crate) fn apply(
    root: &Table<'_>,
    guard: &Guard,
    base: &[Rule],
    sections: &mut Sections,
) -> Result<(), Error> {
    if let Some(table) = root.section("seccomp")? {
        seccomp(&table, guard, base, sections)?;
    }
    if let Some(table) = root.section("namespaces")? {
        only(&table, "namespaces")?;
        for (key, bit) in NAMESPACES {
            guard.wall(&table, key, &mut sections.layers, *bit)?;
        }
        // What cannot work is refused here, not by the first job.
        let off = |bit| sections.layers & bit == 0;
        let impossible = [
            (
                "user",
                off(layer::USER_NAMESPACE),
                "true: the other walls are put up with the rights that it gives",
            ),
            (
                "pid",
                off(layer::PID_NAMESPACE),
                "true: by it no instance outlives its zygote, nor its supervisor",
            ),
            (
                "mount",
                off(layer::MOUNT_NAMESPACE) && !off(layer::EMPTY_ROOT),
                "true, or empty_root = false too: the empty root is mounted in it",
            ),
        ];
        for (key, is_impossible, instead) in impossible {
            if is_impossible && let Some(value) = table.get(key) {
                let key = value.key.clone();
                return Err(Error::NotEnforced { at: value.at(), key, value: value.written(), instead });
            }
        }
    }
    if let Some(table) = root.section("landlock")? {
        only(&table, "landlock")?;
        guard.wall(&table, "enabled", &mut sections.layers, layer::LANDLOCK)?;
    }
    if let Some(table) = root.section("speculation")? {
        speculation(&table, guard, sections)?;
    }
    if let Some(table) = root.section("limits")? {
        limits(&table, guard, sections)?;
    }
    if let Some(table) = root.section("wasi")? {
        wasi(&table, guard, sections)?;
    }
    if let Some(table) = root.section("fs")? {
        fs(&table, guard, sections)?;
    }
    if let Some(table) = root.section("host_calls")? {
        host_calls(&table, guard, sections)?;
    }
    if let Some(table) = root.section("instance")? {
        instance(&table, sections)?;
    }
    direct_is_possible(root, sections)?;
    // Last: it is checked against the layers that the sections above have settled.
    match root.section("require")? {
        Some(table) => require(&table, guard, sections)?,
        // A layer that the policy may and does switch off cannot stay required by inheritance.
        None => sections.required &= sections.layers,
    }
    Ok(())
}

/// Calls that would undo the architecture if an instance had them, whatever a policy's reason is.
const FORBIDDEN: &[(&[&str], &str)] = &[
    (
        &["mmap", "mremap", "mprotect", "pkey_mprotect", "munmap", "mseal", "remap_file_pages"],
        "map code or undo the call gate",
    ),
    (
        &["clone", "clone3", "fork", "vfork", "execve", "execveat", "setsid"],
        "become more than one process, or another one",
    ),
    (
        &[
            "seccomp",
            "prctl",
            "capset",
            "prlimit64",
            "unshare",
            "setns",
            "setresuid",
            "setresgid",
            "setgroups",
        ],
        "change its own confinement",
    ),
    (
        &["rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "signalfd4"],
        "hide refused calls from the report",
    ),
    (&["recvmsg", "sendmsg"], "receive or pass on file descriptors"),
    (&["wait4", "kill", "tgkill", "pidfd_send_signal", "ptrace"], "act on other processes"),
];

fn seccomp(table: &Table<'_>, guard: &Guard, base: &[Rule], sections: &mut Sections) -> Result<(), Error> {
    only(table, "seccomp")?;
    if let Some(value) = table.get("default_action") {
        sections.seccomp.default_action =
            value.one_of(&[("trap", DefaultAction::Trap), ("kill", DefaultAction::Kill)])?;
    }
    let inherited = sections.seccomp.allow.clone();
    let rules = &mut sections.seccomp.allow;
    if let Some(list) = table.get("deny") {
        for value in list.array()? {
            let syscall = rule::syscall(&value)?;
            if !rules.iter().any(|rule| rule.syscall == syscall) {
                return Err(Error::NothingToDeny {
                    at: value.at(),
                    syscall: syscall.name().to_owned(),
                    base: guard.base.clone().unwrap_or_else(|| Arc::from("(none)")),
                });
            }
            rules.retain(|rule| rule.syscall != syscall);
        }
    }
    if let Some(list) = table.get("allow") {
        rule::rules(&list, rules, |call, rule| {
            let name = rule.syscall.name();
            // A rule that an inherited one covers gives nothing new, even if `deny` has taken that one away before.
            if guard.base.is_none() || inherited.iter().any(|old| old.covers(rule)) {
                return Ok(());
            }
            guard.check(call, true, || format!("no rule that allows as much of {name}"))?;
            if let Some((_, consequence)) = FORBIDDEN.iter().find(|(names, _)| names.contains(&name)) {
                return Err(Error::Forbidden { at: call.at(), syscall: name.to_owned(), consequence });
            }
            if !base.iter().any(|base| base.syscall == rule.syscall) {
                return Err(Error::BeyondBase { at: call.at(), syscall: name.to_owned() });
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn speculation(table: &Table<'_>, guard: &Guard, sections: &mut Sections) -> Result<(), Error> {
    only(table, "speculation")?;
    for (key, bit) in SPECULATION {
        let Some(value) = table.get(key) else { continue };
        let on = value.one_of(&[("host", false), ("disable", true)])?;
        guard.wall_value(&value, on, "\"disable\"", &mut sections.layers, *bit)?;
    }
    guard.wall(table, "core_scheduling", &mut sections.layers, layer::CORE_SCHEDULING)?;
    if let Some(value) = table.get("timestamp_counter") {
        let on = !value.boolean()?;
        guard.wall_value(&value, on, "false", &mut sections.layers, layer::NO_TIMESTAMP_COUNTER)?;
    }
    if let Some(value) = table.get("code_sharing") {
        let per_tenant = value.one_of(&[("tenant", true), ("none", false)])?;
        if !per_tenant {
            let (key, instead) = (value.key.clone(), "\"tenant\"");
            return Err(Error::NotEnforced { at: value.at(), key, value: value.written(), instead });
        }
    }
    Ok(())
}

fn limits(table: &Table<'_>, guard: &Guard, sections: &mut Sections) -> Result<(), Error> {
    only(table, "limits")?;
    let limits = &mut sections.limits;
    if let Some(value) = table.get("memory") {
        let new = value.size()?;
        if new > MEMORY_MAX {
            return Err(value.out_of_range(format!("at most {}", format_size(MEMORY_MAX))));
        }
        guard.check(&value, new > limits.memory, || format_size(limits.memory))?;
        limits.memory = new;
    }
    if let Some(value) = table.get("memory_exceeded") {
        limits.memory_exceeded =
            value.one_of(&[("fail", MemoryExceeded::Fail), ("kill", MemoryExceeded::Kill)])?;
    }
    for (key, slot) in [("wall_time", &mut limits.wall_time), ("cpu_time", &mut limits.cpu_time)] {
        if let Some(value) = table.get(key) {
            let new = unless_unlimited(&value, Value::duration)?;
            if new.is_some_and(|new| new.is_zero()) {
                return Err(value.out_of_range("more than 0, or \"unlimited\"".to_owned()));
            }
            guard
                .check(&value, widens(new, *slot), || slot.map_or("unlimited".to_owned(), format_duration))?;
            *slot = new;
        }
    }
    if let Some(value) = table.get("stack") {
        let new = value.size()?;
        if new == 0 || new > layout::STACK_MAX || new % layout::PAGE != 0 {
            return Err(value.out_of_range(format!(
                "a multiple of {} from {} to {} bytes",
                layout::PAGE,
                layout::PAGE,
                layout::STACK_MAX
            )));
        }
        guard.check(&value, new > limits.stack, || format_size(limits.stack))?;
        limits.stack = new;
    }
    if let Some(value) = table.get("output") {
        let new = unless_unlimited(&value, Value::size)?;
        guard.check(&value, widens(new, limits.output), || {
            limits.output.map_or("unlimited".to_owned(), format_size)
        })?;
        limits.output = new;
    }
    if let Some(value) = table.get("host_calls") {
        let new = unless_unlimited(&value, Value::count)?;
        guard.check(&value, widens(new, limits.host_calls), || {
            limits.host_calls.map_or("unlimited".to_owned(), |n| n.to_string())
        })?;
        limits.host_calls = new;
    }
    if let Some(value) = table.get("fuel") {
        let new = unless_unlimited(&value, Value::count)?;
        guard.check(&value, widens(new, limits.fuel), || {
            limits.fuel.map_or("unlimited".to_owned(), |n| n.to_string())
        })?;
        limits.fuel = new;
    }
    if let Some(value) = table.get("open_files") {
        let range = || format!("3 to {OPEN_FILES_MAX}");
        let new = u32::try_from(value.count()?).map_err(|_| value.out_of_range(range()))?;
        if !(3..=OPEN_FILES_MAX).contains(&new) {
            return Err(value.out_of_range(range()));
        }
        guard.check(&value, new > limits.open_files, || limits.open_files.to_string())?;
        limits.open_files = new;
    }
    Ok(())
}

fn widens<T: PartialOrd>(new: Option<T>, old: Option<T>) -> bool {
    match (new, old) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(new), Some(old)) => new > old,
    }
}

fn unless_unlimited<'d, T>(
    value: &Value<'d>,
    parse: impl FnOnce(&Value<'d>) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    if value.as_string() == Some("unlimited") { Ok(None) } else { parse(value).map(Some) }
}

fn wasi(table: &Table<'_>, guard: &Guard, sections: &mut Sections) -> Result<(), Error> {
    only(table, "wasi")?;
    let wasi = &mut sections.wasi;
    if let Some(value) = table.get("filesystem") {
        let new = value.one_of(&FILESYSTEM)?;
        guard.check(&value, new > wasi.filesystem, || filesystem_name(wasi.filesystem).to_owned())?;
        wasi.filesystem = new;
    }
    if let Some(value) = table.get("clock_resolution") {
        let new = value.duration()?;
        if new.is_zero() || new > Duration::from_secs(3600) {
            return Err(value.out_of_range("1ns to 1h".to_owned()));
        }
        // A finer clock gives more.
        guard.check(&value, new < wasi.clock_resolution, || format_duration(wasi.clock_resolution))?;
        wasi.clock_resolution = new;
    }
    if let Some(value) = table.get("monotonic_base") {
        // It says nothing of the host, whatever it is.
        wasi.monotonic_base = value.duration()?;
    }
    if let Some(value) = table.get("random_seed") {
        let new = if value.as_string() == Some("new") { None } else { Some(value.count()?) };
        guard.check(&value, new.is_none() && wasi.random_seed.is_some(), || {
            wasi.random_seed.unwrap_or(0).to_string()
        })?;
        wasi.random_seed = new;
    }
    if let Some(value) = table.get("deterministic") {
        let new = value.boolean()?;
        guard.check(&value, wasi.deterministic && !new, || String::from("true"))?;
        wasi.deterministic = new;
    }
    for (key, slot) in [
        ("clocks", &mut wasi.clocks),
        ("random", &mut wasi.random),
        ("sockets", &mut wasi.sockets),
        ("stdio", &mut wasi.stdio),
        ("args", &mut wasi.args),
        ("env", &mut wasi.env),
    ] {
        guard.grant(table, key, slot)?;
    }
    Ok(())
}

/// What an instance needs to call under `fs.data = "direct"`.
const DIRECT_CALLS: [Sysno; 3] = [Sysno::pread64, Sysno::pwrite64, ASK];

fn fs(table: &Table<'_>, guard: &Guard, sections: &mut Sections) -> Result<(), Error> {
    only(table, "fs")?;
    if let Some(value) = table.get("data") {
        let new = value.one_of(&FILE_DATA)?;
        guard.check(&value, new > sections.fs.data, || file_data_name(sections.fs.data).to_owned())?;
        sections.fs.data = new;
    }
    Ok(())
}

/// Direct file data without the calls that it takes would end the first job that reads a file.
fn direct_is_possible(root: &Table<'_>, sections: &Sections) -> Result<(), Error> {
    let allowed = |call: &Sysno| sections.seccomp.allow.iter().any(|rule| rule.syscall == *call);
    if sections.fs.data == FileData::Supervisor || DIRECT_CALLS.iter().all(allowed) {
        return Ok(());
    }
    let value = root.section("fs")?.and_then(|table| table.get("data"));
    let at = value.map_or_else(|| root.at(), |value| value.at());
    let (key, value) = ("fs.data".to_owned(), "\"direct\"".to_owned());
    let instead = "\"supervisor\", or rules for pread64, pwrite64 and sched_yield as in wasi-direct";
    Err(Error::NotEnforced { at, key, value, instead })
}

const FILE_DATA: [(&str, FileData); 2] = [("supervisor", FileData::Supervisor), ("direct", FileData::Direct)];

pub(crate) fn file_data_name(data: FileData) -> &'static str {
    match data {
        FileData::Supervisor => "supervisor",
        FileData::Direct => "direct",
    }
}

const FILESYSTEM: [(&str, Filesystem); 3] =
    [("none", Filesystem::None), ("read-only", Filesystem::ReadOnly), ("read-write", Filesystem::ReadWrite)];

pub(crate) fn filesystem_name(filesystem: Filesystem) -> &'static str {
    match filesystem {
        Filesystem::None => "none",
        Filesystem::ReadOnly => "read-only",
        Filesystem::ReadWrite => "read-write",
    }
}

/// A host function by its name, with or without the name of its module.
fn host_function(value: &Value<'_>) -> Result<FunctionId, Error> {
    let written = value.string()?;
    all_host_functions()
        .find(|function| {
            let declaration = function.declaration();
            match written.rsplit_once('.') {
                Some((module, name)) => declaration.module == module && declaration.name == name,
                None => declaration.name == written,
            }
        })
        .ok_or_else(|| value.unknown(all_host_functions().map(|function| function.declaration().name)))
}

fn host_calls(table: &Table<'_>, guard: &Guard, sections: &mut Sections) -> Result<(), Error> {
    only(table, "host_calls")?;
    let allowed = &mut sections.host_calls;
    if let Some(list) = table.get("allow") {
        let mut new = BTreeSet::new();
        if list.as_string().is_some() {
            list.one_of(&[("all", ())])?;
            new.extend(all_host_functions());
            guard.check(&list, !new.is_subset(allowed), || format!("{} host calls", allowed.len()))?;
        } else {
            for value in list.array()? {
                let function = host_function(&value)?;
                guard.check(&value, !allowed.contains(&function), || "no such host call".to_owned())?;
                new.insert(function);
            }
        }
        *allowed = new;
    }
    if let Some(list) = table.get("deny") {
        for value in list.array()? {
            allowed.remove(&host_function(&value)?);
        }
    }
    if let Some(value) = table.get("imports") {
        let imports = sections.imports.read(&value, |value, wider, was| guard.check(value, wider, was))?;
        sections.imports = imports;
    }
    Ok(())
}

fn instance(table: &Table<'_>, sections: &mut Sections) -> Result<(), Error> {
    only(table, "instance")?;
    let instance = &mut sections.instance;
    if let Some(value) = table.get("init") {
        // Without a name there is none, whatever the extended policy says.
        instance.init = Some(value.string()?.to_owned()).filter(|name| !name.is_empty());
    }
    for (key, slot) in [("args", &mut instance.args), ("env", &mut instance.env)] {
        let Some(list) = table.get(key) else { continue };
        *slot = Vec::new();
        for value in list.array()? {
            let text = value.string()?;
            if text.contains('\0') || key == "env" && text.find('=').is_none_or(|at| at == 0) {
                return Err(value.malformed(if key == "env" {
                    "\"NAME=value\""
                } else {
                    "text without NUL"
                }));
            }
            slot.push(text.to_owned());
        }
    }
    Ok(())
}

fn require(table: &Table<'_>, guard: &Guard, sections: &mut Sections) -> Result<(), Error> {
    only(table, "require")?;
    let Some(list) = table.get("layers") else {
        sections.required &= sections.layers;
        return Ok(());
    };
    let choices: Vec<(&'static str, u64)> = layer::ALL.iter().map(|(bit, name)| (*name, *bit)).collect();
    let mut required = 0;
    for value in list.array()? {
        let bit = value.one_of(&choices)?;
        if sections.layers & bit == 0 {
            return Err(Error::RequiresWhatIsOff {
                at: value.at(),
                layer: value.as_string().unwrap_or_default().to_owned(),
            });
        }
        required |= bit;
    }
    let dropped = sections.required & sections.layers & !required;
    guard.check(&list, dropped != 0, || {
        let names: Vec<&str> =
            layer::ALL.iter().filter(|(bit, _)| dropped & bit != 0).map(|(_, name)| *name).collect();
        format!("also {}", names.join(", "))
    })?;
    sections.required = required;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    /// A profile that extends nothing starts from closed values, which are no use to anybody: it must set every key.
    #[test]
    fn the_default_profile_sets_every_key() {
        let text = include_str!("../profiles/default.toml");
        let document = toml::de::DeTable::parse(text).unwrap();
        let root = document.get_ref();
        // How instances begin depends on the module; no profile says it.
        for section in keys::SECTIONS.iter().filter(|section| section.name != "instance") {
            let table = root[section.name].get_ref().as_table().unwrap();
            for key in keys::names(section.keys).into_iter().filter(|key| *key != "deny") {
                assert!(table.contains_key(key), "[{}] {key}", section.name);
            }
        }
    }

    /// A key that is declared and not read would be ignored silently: a value of a type that no key takes must be an error.
    #[test]
    fn every_declared_key_is_read() {
        let refused = |text: &str, key: &str| {
            let error = Policy::parse(text, "my.toml").expect_err(key).to_string();
            assert!(error.contains(&format!("{key} must be ")), "{error}");
        };
        for key in keys::names(keys::TOP) {
            let version = match key {
                "version" => "",
                "dangerous_reason" => "version = 1\nallow_dangerous = true\n",
                _ => "version = 1\n",
            };
            refused(&format!("{version}{key} = 1979-05-27"), key);
        }
        for section in keys::SECTIONS {
            refused(&format!("version = 1\n{} = 1979-05-27", section.name), section.name);
            for key in keys::names(section.keys) {
                let name = format!("{}.{key}", section.name);
                refused(&format!("version = 1\n[{}]\n{key} = 1979-05-27", section.name), &name);
            }
        }
        for key in keys::names(keys::RULE) {
            let others = keys::RULE.iter().filter(|other| other.name != key).map(|other| match other.name {
                "syscall" => "syscall = \"write\"\n",
                "when" => "when = []\n",
                _ => "why = \"because\"\n",
            });
            let rule: String = others.collect();
            refused(&format!("version = 1\n[[seccomp.allow]]\n{rule}{key} = 1979-05-27"), key);
        }
    }

    #[test]
    fn an_initialisation_is_named_with_what_it_is_given() {
        let parse = |text: &str| crate::Policy::parse(&format!("version = 1\n[instance]\n{text}"), "p.toml");
        let policy = parse("init = \"start\"\nargs = [\"a\", \"\"]\nenv = [\"A=b=c\"]").unwrap();
        let instance = policy.instance();
        assert_eq!(instance.init.as_deref(), Some("start"));
        assert_eq!(
            (&instance.args[..], &instance.env[..]),
            (&["a".to_owned(), String::new()][..], &["A=b=c".to_owned()][..])
        );
        assert_eq!(crate::Policy::builtin("default").unwrap().instance().init, None);
        assert_eq!(parse("init = \"\"").unwrap().instance().init, None);
        for wrong in [
            "init = 1",
            "args = \"a\"",
            "args = [\"\\u0000\"]",
            "env = [\"A\"]",
            "env = [\"=b\"]",
            "other = 1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
