//! The configuration file of `sandboxd`, which `sandboxctl` without a daemon reads too.
//!
//! TOML, read with the code that reads policies: whatever it does not know is an error with a place. docs/configuration.md
//! describes the same keys; tests compare the two.

use std::path::{Path, PathBuf};

use compiler::{Cap, Caps, OptLevel, Options, TargetCpu, Unit};
use policies::document::{self, Source, Table, Value};
use policies::{DocumentKind, Error};

use crate::config::{CompileLimits, Config, PoolLimits, TenantCgroups};

const TOP: &[&str] = &["daemon", "pool", "cgroup", "cache", "compile"];
const DAEMON: &[&str] =
    &["socket", "policy_dir", "shards", "max_connections", "max_jobs", "confine", "directories"];
const POOL: &[&str] = &["min", "max"];
const CGROUP: &[&str] = &["directory", "memory_max", "memory_high", "pids_max", "cpu_percent"];
const CACHE: &[&str] = &["state_dir", "bytes"];
const COMPILE: &[&str] = &[
    "opt_level",
    "target_cpu",
    "fuel",
    "nan_canonicalization",
    "spectre_guards",
    "debug_info",
    "threads",
    "caps",
    "limits",
];
const LIMITS: &[&str] = &["memory", "cpu_time", "wall_time"];

/// Shards that a daemon can have.
pub const SHARDS_MAX: u32 = 1024;
/// Connections that a daemon can have at the same time.
pub const CONNECTIONS_MAX: u32 = 65_536;
/// Jobs that a daemon can have at the same time.
pub const JOBS_MAX: u32 = 4096;
/// Instances that one module zygote can keep parked.
pub const PARKED_MAX: u32 = 1024;
/// Memory of a tenant: less serves nobody, and more than any machine has.
const TENANT_MEMORY: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;
/// Processes of a tenant: a module zygote and an instance, and as many as Linux has.
const TENANT_PROCESSES: std::ops::RangeInclusive<u64> = 2..=1 << 22;
/// CPU time of a tenant, in hundredths of a processor.
const TENANT_CPU: std::ops::RangeInclusive<u64> = 1..=1_000_000;
/// Threads of one compilation.
const THREADS_MAX: u64 = 256;
/// Memory of a worker: what it takes to start one, and more than any machine has.
const WORKER_MEMORY: std::ops::RangeInclusive<u64> = 16 << 20..=16 << 40;

/// Whether a daemon confines itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confine {
    /// With every layer that the host has; what is missing is listed.
    #[default]
    Available,
    /// With every layer; where one is missing the daemon does not start.
    Required,
    /// Not at all.
    Off,
}

/// What a configuration file says; what it leaves out is `None`, or the default.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// `daemon.socket`.
    pub socket: Option<PathBuf>,
    /// `daemon.policy_dir`.
    pub policy_dir: Option<PathBuf>,
    /// `daemon.shards`.
    pub shards: Option<u32>,
    /// `daemon.max_connections`.
    pub max_connections: Option<u32>,
    /// `daemon.max_jobs`.
    pub max_jobs: Option<u32>,
    /// `daemon.confine`.
    pub confine: Confine,
    /// `daemon.directories`.
    pub directories: Option<Vec<PathBuf>>,
    /// `[pool]`.
    pub pool: PoolLimits,
    /// `[cgroup]`; `None` without any of its keys.
    pub cgroup: Option<TenantCgroups>,
    /// `cache.state_dir`.
    pub state_dir: Option<PathBuf>,
    /// `cache.bytes`.
    pub cache_bytes: Option<u64>,
    /// `[compile]` and `[compile.caps]`.
    pub compile: Options,
    /// `[compile.limits]`.
    pub compile_limits: CompileLimits,
}

impl Configuration {
    /// Takes over what a file says.
    pub fn load(&mut self, path: &Path) -> Result<(), Error> {
        let text = document::read_file(path, DocumentKind::Configuration)?;
        self.apply(&text, &path.to_string_lossy())
    }

    /// Takes over what a text says, which messages call `file_name`.
    pub fn apply(&mut self, text: &str, file_name: &str) -> Result<(), Error> {
        let source = Source::configuration(text, file_name)?;
        let document = document::parse(&source)?;
        let root = Table::root(&source, &document);
        root.only(TOP)?;
        if let Some(table) = root.section("daemon")? {
            table.only(DAEMON)?;
            path(&table, "socket", &mut self.socket)?;
            path(&table, "policy_dir", &mut self.policy_dir)?;
            number(&table, "shards", SHARDS_MAX, &mut self.shards)?;
            number(&table, "max_connections", CONNECTIONS_MAX, &mut self.max_connections)?;
            number(&table, "max_jobs", JOBS_MAX, &mut self.max_jobs)?;
            if let Some(value) = table.get("confine") {
                self.confine = value.one_of(&[
                    ("available", Confine::Available),
                    ("required", Confine::Required),
                    ("off", Confine::Off),
                ])?;
            }
            if let Some(list) = table.get("directories") {
                self.directories = Some(directories(&list)?);
            }
        }
        if let Some(table) = root.section("pool")? {
            pool(&table, &mut self.pool)?;
        }
        if let Some(table) = root.section("cgroup")? {
            cgroup(&table, self.cgroup.get_or_insert_default())?;
        }
        if let Some(table) = root.section("cache")? {
            table.only(CACHE)?;
            path(&table, "state_dir", &mut self.state_dir)?;
            if let Some(value) = table.get("bytes") {
                self.cache_bytes = Some(value.size()?);
            }
        }
        if let Some(table) = root.section("compile")? {
            compile(&table, &mut self.compile)?;
            if let Some(table) = table.section("caps")? {
                caps(&table, &mut self.compile.caps)?;
            }
            if let Some(table) = table.section("limits")? {
                limits(&table, &mut self.compile_limits)?;
            }
        }
        Ok(())
    }

    /// A supervisor's configuration: what the file says about parked instances, tenants, caches and compilations, the rest as by
    /// default.
    pub fn config(&self) -> Config {
        let default = Config::default();
        Config {
            cache_bytes: self.cache_bytes.unwrap_or(default.cache_bytes),
            compile: self.compile,
            compile_limits: self.compile_limits,
            pool: self.pool,
            cgroup: self.cgroup.clone(),
            ..default
        }
    }
}

fn path(table: &Table<'_>, key: &str, slot: &mut Option<PathBuf>) -> Result<(), Error> {
    if let Some(value) = table.get(key) {
        match value.string()? {
            "" => return Err(value.out_of_range("a path".to_owned())),
            path => *slot = Some(PathBuf::from(path)),
        }
    }
    Ok(())
}

fn cgroup(table: &Table<'_>, cgroup: &mut TenantCgroups) -> Result<(), Error> {
    table.only(CGROUP)?;
    if let Some(value) = table.get("directory") {
        match value.string()? {
            path if path.starts_with('/') => cgroup.directory = Some(PathBuf::from(path)),
            _ => return Err(value.out_of_range("an absolute path".to_owned())),
        }
    }
    for (key, slot) in [("memory_max", &mut cgroup.memory_max), ("memory_high", &mut cgroup.memory_high)] {
        if let Some(value) = table.get(key) {
            *slot = Some(value.size_in(TENANT_MEMORY)?);
        }
    }
    if let Some(value) = table.get("pids_max") {
        cgroup.pids_max = Some(value.count_in(TENANT_PROCESSES)?);
    }
    if let Some(value) = table.get("cpu_percent") {
        cgroup.cpu_percent = u32::try_from(value.count_in(TENANT_CPU)?).ok();
    }
    Ok(())
}

fn directories(list: &Value<'_>) -> Result<Vec<PathBuf>, Error> {
    let values = list.array()?;
    let paths = values.iter().map(|value| match value.string()? {
        path if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => Err(value.out_of_range("an absolute path".to_owned())),
    });
    paths.collect()
}

fn number(table: &Table<'_>, key: &str, most: u32, slot: &mut Option<u32>) -> Result<(), Error> {
    if let Some(value) = table.get(key) {
        *slot = u32::try_from(value.count_in(1..=most.into())?).ok();
    }
    Ok(())
}

fn pool(table: &Table<'_>, limits: &mut PoolLimits) -> Result<(), Error> {
    table.only(POOL)?;
    for (key, slot) in [("min", &mut limits.min), ("max", &mut limits.max)] {
        if let Some(value) = table.get(key) {
            *slot = usize::try_from(value.count_in(0..=PARKED_MAX.into())?).unwrap_or(0);
        }
    }
    Ok(())
}

fn compile(table: &Table<'_>, options: &mut Options) -> Result<(), Error> {
    table.only(COMPILE)?;
    if let Some(value) = table.get("opt_level") {
        options.opt_level = value.one_of(&[
            ("none", OptLevel::None),
            ("speed", OptLevel::Speed),
            ("speed_and_size", OptLevel::SpeedAndSize),
        ])?;
    }
    if let Some(value) = table.get("target_cpu") {
        options.target_cpu =
            value.one_of(&[("baseline", TargetCpu::Baseline), ("native", TargetCpu::Native)])?;
    }
    for (key, slot) in [
        ("fuel", &mut options.fuel),
        ("nan_canonicalization", &mut options.nan_canonicalization),
        ("spectre_guards", &mut options.spectre_guards),
        ("debug_info", &mut options.debug_info),
    ] {
        if let Some(value) = table.get(key) {
            *slot = value.boolean()?;
        }
    }
    if let Some(value) = table.get("threads") {
        options.threads = usize::try_from(value.count_in(0..=THREADS_MAX)?).unwrap_or(0);
    }
    Ok(())
}

fn caps(table: &Table<'_>, caps: &mut Caps) -> Result<(), Error> {
    table.only(&Cap::ALL.iter().map(|cap| cap.name()).collect::<Vec<_>>())?;
    for &cap in Cap::ALL {
        if let Some(value) = table.get(cap.name()) {
            let new = match cap.unit() {
                Unit::Bytes => value.size_in(0..=cap.highest())?,
                Unit::Count => value.count_in(0..=cap.highest())?,
            };
            caps.set(cap, new);
        }
    }
    Ok(())
}

fn limits(table: &Table<'_>, limits: &mut CompileLimits) -> Result<(), Error> {
    table.only(LIMITS)?;
    if let Some(value) = table.get("memory") {
        limits.memory = value.size_in(WORKER_MEMORY)?;
    }
    if let Some(value) = table.get("cpu_time") {
        limits.cpu_time = value.duration()?;
        if limits.cpu_time.is_zero() || limits.cpu_time.subsec_nanos() != 0 {
            return Err(value.out_of_range("whole seconds, at least 1s".to_owned()));
        }
    }
    if let Some(value) = table.get("wall_time") {
        limits.wall_time = value.duration()?;
        if limits.wall_time.is_zero() {
            return Err(value.out_of_range("more than 0".to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::limit_key;

    fn read(text: &str) -> Result<Configuration, Error> {
        let mut configuration = Configuration::default();
        configuration.apply(text, "c.toml").map(|()| configuration)
    }

    fn error(text: &str) -> String {
        read(text).expect_err(text).to_string()
    }

    #[test]
    fn every_key_is_read() {
        let mut text = String::from(
            r#"
            [daemon]
            socket = "/run/s.sock"
            policy_dir = "/etc/p"
            shards = 3
            max_connections = 4
            max_jobs = 5
            confine = "required"
            directories = ["/srv/a", "/srv/b"]
            [cgroup]
            directory = "/sys/fs/cgroup/s"
            memory_max = "1GiB"
            memory_high = "512MiB"
            pids_max = 7
            cpu_percent = 150
            [cache]
            state_dir = "/var/s"
            bytes = "1GiB"
            [compile]
            opt_level = "none"
            target_cpu = "baseline"
            fuel = true
            nan_canonicalization = true
            spectre_guards = true
            debug_info = true
            threads = 6
            [compile.limits]
            memory = "64MiB"
            cpu_time = "7s"
            wall_time = "800ms"
            [compile.caps]
            "#,
        );
        for (number, cap) in Cap::ALL.iter().enumerate() {
            text.push_str(&format!("{} = {}\n", cap.name(), number + 1));
        }
        let read = read(&text).expect("every key");
        assert_eq!(read.socket, Some("/run/s.sock".into()));
        assert_eq!(read.policy_dir, Some("/etc/p".into()));
        assert_eq!((read.shards, read.max_connections, read.max_jobs), (Some(3), Some(4), Some(5)));
        assert_eq!(read.confine, Confine::Required);
        assert_eq!(read.directories, Some(vec!["/srv/a".into(), "/srv/b".into()]));
        assert_eq!((read.state_dir.clone(), read.cache_bytes), (Some("/var/s".into()), Some(1 << 30)));
        let cgroup = TenantCgroups {
            directory: Some("/sys/fs/cgroup/s".into()),
            memory_max: Some(1 << 30),
            memory_high: Some(1 << 29),
            pids_max: Some(7),
            cpu_percent: Some(150),
        };
        assert_eq!(read.config().cgroup, Some(cgroup));
        let Config { cache_bytes, compile, compile_limits, .. } = read.config();
        assert_eq!(cache_bytes, 1 << 30);
        assert_eq!((compile.opt_level, compile.target_cpu), (OptLevel::None, TargetCpu::Baseline));
        assert!(compile.fuel && compile.nan_canonicalization && compile.spectre_guards && compile.debug_info);
        assert_eq!(compile.threads, 6);
        for (number, &cap) in Cap::ALL.iter().enumerate() {
            assert_eq!(compile.caps.get(cap), number as u64 + 1, "{}", cap.name());
        }
        let limits = CompileLimits {
            memory: 64 << 20,
            cpu_time: Duration::from_secs(7),
            wall_time: Duration::from_millis(800),
        };
        assert_eq!(compile_limits, limits);
    }

    #[test]
    fn what_is_left_out_is_as_by_default() {
        let read = read("").expect("empty").config();
        let default = Config::default();
        assert_eq!((read.cache_bytes, read.cgroup), (default.cache_bytes, None));
        assert_eq!((read.compile.caps, read.compile_limits), (Caps::default(), CompileLimits::default()));
        assert_eq!(read.compile.code(), Options::default().code());
    }

    #[test]
    fn a_later_text_replaces_the_keys_that_it_has() {
        let mut read = read("[compile.caps]\nlocals = 1\nfunctions = 2").expect("a text");
        read.apply("compile.caps.functions=3", "--set").expect("a key");
        assert_eq!((read.compile.caps.locals, read.compile.caps.functions), (1, 3));
        let error = read.apply("compile.caps.funktions=3", "--set").expect_err("no such key").to_string();
        assert!(error.starts_with("configuration --set:1:14: unknown key \"funktions\""), "{error}");
    }

    #[test]
    fn mistakes_have_a_place_and_the_nearest_name() {
        for (text, expected) in [
            (
                "[compiler]",
                "configuration c.toml:1:2: unknown key \"compiler\" in the configuration; did you mean \"compile\"?",
            ),
            (
                "\n[compile.caps]\nfunctoins = 1",
                "configuration c.toml:3:1: unknown key \"functoins\" in [compile.caps]; did you mean \"functions\"?",
            ),
            (
                "[compile.limits]\nmemory = \"lots\"",
                "configuration c.toml:2:10: compile.limits.memory = \"lots\" is not a size",
            ),
            (
                "[compile.caps]\nfunctions = 1000001",
                "configuration c.toml:2:13: compile.caps.functions = 1000001 is out of range; it must be 0 to 1000000",
            ),
            ("[compile.caps]\nimage_bytes = \"5GiB\"", "it must be 0B to 4GiB"),
            ("[compile.caps]\nlocals = \"many\"", "compile.caps.locals must be a number, not a string"),
            (
                "[compile]\nopt_level = \"sped\"",
                "configuration c.toml:2:13: compile.opt_level has the unknown value \"sped\"; did you mean \"speed\"?",
            ),
            ("[compile]\ncaps = 1", "compile.caps must be a table, not an integer"),
            ("[compile.limits]\ncpu_time = \"1.5s\"", "whole seconds, at least 1s"),
            ("[compile.limits]\nwall_time = \"0s\"", "more than 0"),
            ("[daemon]\nshards = 0", "daemon.shards = 0 is out of range; it must be 1 to 1024"),
            ("[daemon]\nsocket = \"\"", "daemon.socket"),
            (
                "[daemon]\nconfine = \"require\"",
                "daemon.confine has the unknown value \"require\"; did you mean \"required\"?",
            ),
            (
                "[daemon]\ndirectories = [\"a\"]",
                "daemon.directories = \"a\" is out of range; it must be an absolute path",
            ),
            ("[pool]\nmax = 1025", "pool.max = 1025 is out of range; it must be 0 to 1024"),
            ("[pool]\nmost = 1", "pool"),
            ("[cgroup]\npids_max = 1", "cgroup.pids_max = 1 is out of range; it must be 2 to 4194304"),
            ("[cgroup]\ncpu_percent = 0", "cgroup.cpu_percent = 0 is out of range; it must be 1 to 1000000"),
            ("[cgroup]\nmemory_max = \"1B\"", "cgroup.memory_max"),
            ("[cgroup]\ndirectory = \"a\"", "it must be an absolute path"),
            (
                "[cgroup]\nmemory_mix = \"1GiB\"",
                "configuration c.toml:2:1: unknown key \"memory_mix\" in [cgroup]; did you mean \"memory_max\"?",
            ),
            ("[cache]\nbytes = -1", "cache.bytes = -1 is out of range"),
            ("[cache", "configuration c.toml:1:"),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let long = "#".repeat(policies::FILE_BYTES_MAX + 1);
        assert!(error(&long).starts_with("configuration c.toml: the file is larger"));
    }

    /// Every key stands in the reference, and every cap with its default, its largest value and a test.
    #[test]
    fn the_references_have_every_key() {
        let reference = include_str!("../../docs/configuration.md");
        for (section, keys) in [
            ("daemon", DAEMON),
            ("pool", POOL),
            ("cache", CACHE),
            ("compile", &COMPILE[..7]),
            ("compile.limits", LIMITS),
        ] {
            let (_, text) =
                reference.split_once(&format!("\n## `[{section}]`")).unwrap_or_else(|| panic!("[{section}]"));
            let text = text.split("\n## ").next().expect("a section");
            for key in keys {
                assert!(text.contains(&format!("| `{key}` |")), "[{section}] {key}");
            }
        }
        let reference = include_str!("../../docs/compiler.md");
        for &cap in Cap::ALL {
            let show = |value: u64| match cap.unit() {
                Unit::Bytes => policies::format_size(value),
                Unit::Count => value.to_string(),
            };
            let (default, highest) = (show(Caps::default().get(cap)), show(cap.highest()));
            let row = format!("| `{}` | {default} | {highest} |", cap.key());
            assert!(reference.contains(&row), "{row}");
        }
        for key in [limit_key::MEMORY, limit_key::CPU_TIME, limit_key::WALL_TIME] {
            assert!(reference.contains(&format!("| `{key}` |")), "{key}");
        }
    }
}
