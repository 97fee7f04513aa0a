//! A policy as the values of its keys: what `diff` compares, what a text is written from.

use std::fmt::Write;

use ipc::control::layer;

use crate::document::{self, Source, Table};
use crate::error::Error;
use crate::filter::DefaultAction;
use crate::policy::Policy;
use crate::rule::Rule;
use crate::schema::{self, Guard, file_data_name, filesystem_name};
use crate::sections::{MemoryExceeded, NAMESPACES, SPECULATION, Sections, all_host_functions};
use crate::units::{format_duration, format_size};

/// The value of one key, as a policy file writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The section.
    pub section: &'static str,
    /// The key.
    pub key: &'static str,
    /// Its value in TOML.
    pub value: String,
}

/// How a value compares with another policy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It gives less, or as much in another way.
    Narrower,
    /// It gives more, or something else.
    Wider,
}

/// What differs between two policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `section.key`, or `seccomp` for rules.
    pub key: String,
    /// The first policy's value; `None` for a rule that it does not have.
    pub from: Option<String>,
    /// The second policy's value; `None` for a rule that it does not have.
    pub to: Option<String>,
    /// How the second compares with the first.
    pub direction: Direction,
}

pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

pub(crate) fn list<'t>(names: impl Iterator<Item = &'t str>) -> String {
    let names: Vec<String> = names.map(quoted).collect();
    format!("[{}]", names.join(", "))
}

/// Without rules, and without keys that only say how others change.
pub(crate) fn settings(sections: &Sections) -> Vec<Setting> {
    let mut all = Vec::new();
    let mut put = |section, key, value: String| all.push(Setting { section, key, value });
    let unlimited = || quoted("unlimited");
    let limits = &sections.limits;
    let number = |n: Option<u64>| n.map_or_else(unlimited, |n| n.to_string());
    let size = |bytes| quoted(&format_size(bytes));
    put("limits", "memory", size(limits.memory));
    put(
        "limits",
        "memory_exceeded",
        quoted(match limits.memory_exceeded {
            MemoryExceeded::Fail => "fail",
            MemoryExceeded::Kill => "kill",
        }),
    );
    for (key, time) in [("wall_time", limits.wall_time), ("cpu_time", limits.cpu_time)] {
        put("limits", key, time.map_or_else(unlimited, |time| quoted(&format_duration(time))));
    }
    put("limits", "stack", size(limits.stack));
    put("limits", "output", limits.output.map_or_else(unlimited, size));
    put("limits", "host_calls", number(limits.host_calls));
    put("limits", "fuel", number(limits.fuel));
    put("limits", "open_files", limits.open_files.to_string());
    let wasi = &sections.wasi;
    put("wasi", "filesystem", quoted(filesystem_name(wasi.filesystem)));
    put("wasi", "clocks", wasi.clocks.to_string());
    put("wasi", "clock_resolution", quoted(&format_duration(wasi.clock_resolution)));
    put("wasi", "monotonic_base", quoted(&format_duration(wasi.monotonic_base)));
    put("wasi", "random_seed", wasi.random_seed.map_or_else(|| quoted("new"), |seed| seed.to_string()));
    put("wasi", "deterministic", wasi.deterministic.to_string());
    for (key, granted) in [
        ("random", wasi.random),
        ("sockets", wasi.sockets),
        ("stdio", wasi.stdio),
        ("args", wasi.args),
        ("env", wasi.env),
    ] {
        put("wasi", key, granted.to_string());
    }
    put("fs", "data", quoted(file_data_name(sections.fs.data)));
    let allowed = all_host_functions().filter(|function| sections.host_calls.contains(function));
    let all_allowed = sections.host_calls.len() == all_host_functions().count();
    let allow = if all_allowed { quoted("all") } else { list(allowed.map(|f| f.declaration().name)) };
    put("host_calls", "allow", allow);
    put("host_calls", "imports", sections.imports.to_string());
    let instance = &sections.instance;
    put("instance", "init", quoted(instance.init.as_deref().unwrap_or_default()));
    put("instance", "args", list(instance.args.iter().map(String::as_str)));
    put("instance", "env", list(instance.env.iter().map(String::as_str)));
    put(
        "seccomp",
        "default_action",
        quoted(match sections.seccomp.default_action {
            DefaultAction::Trap => "trap",
            DefaultAction::Kill => "kill",
            DefaultAction::Fail => "fail",
        }),
    );
    for (key, bit) in NAMESPACES {
        put("namespaces", key, (sections.layers & bit != 0).to_string());
    }
    put("landlock", "enabled", (sections.layers & layer::LANDLOCK != 0).to_string());
    let is_on = |bit| sections.layers & bit != 0;
    for (key, bit) in SPECULATION {
        put("speculation", key, quoted(if is_on(*bit) { "disable" } else { "host" }));
    }
    put("speculation", "core_scheduling", is_on(layer::CORE_SCHEDULING).to_string());
    put("speculation", "timestamp_counter", (!is_on(layer::NO_TIMESTAMP_COUNTER)).to_string());
    // The only value that is accepted.
    put("speculation", "code_sharing", quoted("tenant"));
    let required = layer::ALL.iter().filter(|(bit, _)| sections.required & bit != 0);
    put("require", "layers", list(required.map(|(_, name)| *name)));
    all
}

impl Policy {
    /// The value of every key, but for rules (see [`crate::Seccomp::allow`]).
    pub fn settings(&self) -> Vec<Setting> {
        settings(self.sections())
    }

    /// What a second policy does otherwise. Rules that allow the same count as the same, wherever they stand.
    pub fn differences(&self, other: &Self) -> Result<Vec<Difference>, Error> {
        let mut all = Vec::new();
        for (from, to) in self.settings().into_iter().zip(other.settings()) {
            if from != to {
                let direction = self.direction(&to)?;
                let key = format!("{}.{}", to.section, to.key);
                all.push(Difference { key, from: Some(from.value), to: Some(to.value), direction });
            }
        }
        let (old, new) = (&self.seccomp().allow, &other.seccomp().allow);
        let missing = |from: &[Rule], of: &Rule| !from.iter().any(|rule| rule.covers(of) && of.covers(rule));
        for rule in old.iter().filter(|rule| missing(new, rule)) {
            let (key, from) = ("seccomp.allow".to_owned(), Some(rule.to_string()));
            all.push(Difference { key, from, to: None, direction: Direction::Narrower });
        }
        for rule in new.iter().filter(|rule| missing(old, rule)) {
            let covered = old.iter().any(|other| other.covers(rule));
            let direction = if covered { Direction::Narrower } else { Direction::Wider };
            let (key, to) = ("seccomp.allow".to_owned(), Some(rule.to_string()));
            all.push(Difference { key, from: None, to, direction });
        }
        Ok(all)
    }

    /// Whether a policy file with this one key could extend this policy: decided by the parser's own check.
    fn direction(&self, setting: &Setting) -> Result<Direction, Error> {
        let text = format!("[{}]\n{} = {}\n", setting.section, setting.key, setting.value);
        let source = Source::policy(&text, "diff".into());
        let document = document::parse(&source)?;
        let guard = Guard::new(Some(self.shared_name()), false);
        let mut sections = self.sections().clone();
        // A layer cannot be required while it is off, and whether it is on is a setting of its own.
        sections.layers |= crate::sections::all_layers();
        let applied = schema::apply(&Table::root(&source, &document), &guard, &[], &mut sections);
        match applied {
            Ok(()) => Ok(Direction::Narrower),
            Err(Error::Widens { .. }) => Ok(Direction::Wider),
            // A combination that no file can have.
            Err(_) => Ok(Direction::Wider),
        }
    }

    /// The policy as a file that extends `base`, with nothing in it but what differs. Parsing that file with `base` gives a policy
    /// that confines as this one does. The file narrows `base` if this policy does.
    pub fn to_toml(&self, base: &Self) -> String {
        let mut text = format!("version = 1\nextends = {}\n", quoted(base.name()));
        if let Some(description) = self.description() {
            let _ = writeln!(text, "description = {}", quoted(description));
        }
        let (old, new) = (&base.seccomp().allow, &self.seccomp().allow);
        let same = |a: &Rule, b: &Rule| a.covers(b) && b.covers(a);
        // A call whose rules are not all the same is denied and written anew.
        let mut changed: Vec<_> = old
            .iter()
            .filter(|rule| !new.iter().any(|other| same(rule, other)))
            .chain(new.iter().filter(|rule| !old.iter().any(|other| same(rule, other))))
            .map(|rule| rule.syscall)
            .collect();
        changed.sort_by_key(|call| call.id());
        changed.dedup();
        let mut section = "";
        let differing: Vec<_> =
            self.settings().into_iter().zip(base.settings()).filter(|(new, old)| new != old).collect();
        for (setting, _) in &differing {
            if setting.section != section {
                section = setting.section;
                let _ = writeln!(text, "\n[{section}]");
            }
            let _ = writeln!(text, "{} = {}", setting.key, setting.value);
            if section == "seccomp" {
                write_deny(&mut text, old, &changed);
            }
        }
        if !changed.is_empty() && !differing.iter().any(|(setting, _)| setting.section == "seccomp") {
            text.push_str("\n[seccomp]\n");
            write_deny(&mut text, old, &changed);
        }
        for rule in new.iter().filter(|rule| changed.contains(&rule.syscall)) {
            let _ = writeln!(text, "\n[[seccomp.allow]]\nsyscall = {}", quoted(rule.syscall.name()));
            if !rule.when.is_empty() {
                let conditions: Vec<String> = rule.when.iter().map(|c| quoted(&c.to_string())).collect();
                let _ = writeln!(text, "when = [{}]", conditions.join(", "));
            }
            let _ = writeln!(text, "why = {}", quoted(&rule.why));
        }
        text
    }
}

fn write_deny(text: &mut String, old: &[Rule], changed: &[syscalls::x86_64::Sysno]) {
    let denied = changed.iter().filter(|call| old.iter().any(|rule| rule.syscall == **call));
    let denied = list(denied.map(|call| call.name()));
    if denied != "[]" {
        let _ = writeln!(text, "deny = {denied}");
    }
}
