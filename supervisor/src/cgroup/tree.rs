//! The directories of a supervisor in the cgroup file system (cgroups(7), Documentation/admin-guide/cgroup-v2.rst).
//!
//! ```text
//! BASE                    delegated: the supervisor's own cgroup, or cgroup.directory
//!   daemon                the supervisor, if BASE was its own: a cgroup with limits below it has no processes itself
//!   sandboxd.PID          of one supervisor, which has it locked
//!     tenant-NAME         of one tenant: a leaf, with its limits and its module zygotes
//! ```
//!
//! A supervisor that is killed leaves its directory behind. The lock (flock(2), which the kernel gives back however a process ends)
//! tells that nobody has it any more, and the next supervisor below the same BASE removes it. A number alone would not
//! tell: process ids are used again, and are others in other PID namespaces.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::{CgroupError, Step};
use crate::config::TenantCgroups;
use crate::host::cgroup::Cgroup;

/// Names of supervisors' directories begin so.
const OWN_PREFIX: &str = "sandboxd.";
/// Supervisors' directories with the number of one process at most: of supervisors in one process, and in other PID namespaces.
const OWN_MAX: u32 = 1024;
/// Where a supervisor goes that was in the delegated cgroup itself.
const DAEMON: &str = "daemon";
/// Names of leaves begin so.
const LEAF_PREFIX: &str = "tenant-";
/// Bytes of a leaf's name, which the file system allows 255 of.
pub(crate) const LEAF_NAME_MAX: usize = 200;
/// How long the kernel may take until what was killed is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time that `cpu.max` counts by, microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// The directory of one supervisor.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    limits: TenantCgroups,
}

/// Says, as long as it lives, that the directory is in use.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "what counts is that it is open")] Flock<File>);

impl Tree {
    /// Makes the directory of this supervisor, and removes those of supervisors that were killed. Where [`TenantCgroups::directory`] is
    /// `None` and limits are wanted, this process moves into a cgroup of its own below the one that it was in.
    pub(crate) fn make(wanted: &TenantCgroups) -> Result<(Self, Lock), CgroupError> {
        let controllers = controllers(wanted);
        let cgroup = match &wanted.directory {
            Some(directory) => Cgroup::named(directory),
            None => Cgroup::own(),
        };
        let cgroup =
            cgroup.and_then(|cgroup| cgroup.with(&controllers)).map_err(CgroupError::not_delegated)?;
        let base = cgroup.directory;
        if wanted.directory.is_none() && !controllers.is_empty() {
            let daemon = base.join(DAEMON);
            make(&daemon)?;
            move_process(&daemon, 0)?;
        }
        enable(&base, &controllers)?;
        remove_stale(&base);
        let (root, lock) = make_locked(&base)?;
        let tree = Self { root, limits: wanted.clone() };
        match enable(&tree.root, &controllers) {
            Ok(()) => Ok((tree, lock)),
            Err(error) => {
                tree.remove();
                Err(error)
            }
        }
    }

    /// In an ordinary directory.
    #[cfg(test)]
    pub(crate) fn plain(root: &Path) -> Self {
        Self { root: root.to_path_buf(), limits: TenantCgroups::default() }
    }

    /// Where a leaf is.
    pub(super) fn leaf(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes a leaf with its limits. One that is still there, because its last processes were just being killed, is used again.
    pub(super) fn make_leaf(&self, name: &str) -> Result<PathBuf, CgroupError> {
        let leaf = self.leaf(name);
        make(&leaf)?;
        match set_limits(&leaf, &self.limits) {
            Ok(()) => Ok(leaf),
            Err(error) => {
                let _ = fs::remove_dir(&leaf);
                Err(error)
            }
        }
    }

    /// Removes everything, and kills what is left in it.
    pub(super) fn remove(&self) {
        remove_all(&self.root);
    }

    /// Whether there is a limit of memory, whose kills are counted.
    pub(super) fn limits_memory(&self) -> bool {
        self.limits.memory_max.is_some()
    }
}

/// The name of a tenant's leaf. Different tenants have different ones.
pub(crate) fn leaf_name(tenant: &str) -> String {
    let mut name = String::from(LEAF_PREFIX);
    for byte in tenant.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => name.push(byte.into()),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.len() > LEAF_NAME_MAX {
        // A doubled sign is in no name that was not too long.
        let hash = blake3::hash(tenant.as_bytes()).to_hex();
        name.truncate(LEAF_NAME_MAX - 2 - hash.len());
        name.push_str("%%");
        name.push_str(&hash);
    }
    name
}

/// Whether [`leaf_name`] could have made this: a name, and no path.
pub(crate) fn is_leaf_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.%".contains(&byte);
    name.len() <= LEAF_NAME_MAX && name.starts_with(LEAF_PREFIX) && name.bytes().all(allowed)
}

/// The controllers that these limits need.
fn controllers(limits: &TenantCgroups) -> Vec<&'static str> {
    let needed = [
        ("memory", limits.memory_max.is_some() || limits.memory_high.is_some()),
        ("cpu", limits.cpu_percent.is_some()),
        ("pids", limits.pids_max.is_some()),
    ];
    needed.into_iter().filter_map(|(name, needed)| needed.then_some(name)).collect()
}

fn make(directory: &Path) -> Result<(), CgroupError> {
    match DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(CgroupError::step(Step::Make, "make the cgroup", directory)),
    }
}

/// Writes one of the kernel's files, which are never made.
fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// Lets cgroups below this one have the controllers. One at a time, so that an error names the one.
fn enable(directory: &Path, controllers: &[&str]) -> Result<(), CgroupError> {
    let path = directory.join("cgroup.subtree_control");
    let failed = CgroupError::step(Step::Enable, "enable controllers by", &path);
    if controllers.is_empty() {
        return Ok(());
    }
    let enabled = fs::read_to_string(&path).map_err(&failed)?;
    for controller in controllers {
        if !enabled.split_whitespace().any(|one| one == *controller) {
            write(&path, &format!("+{controller}")).map_err(&failed)?;
        }
    }
    Ok(())
}

fn set_limits(leaf: &Path, limits: &TenantCgroups) -> Result<(), CgroupError> {
    let set = |file: &str, value: String| {
        let path = leaf.join(file);
        write(&path, &value).map_err(CgroupError::step(Step::Limit, "write a tenant's limit to", &path))
    };
    if let Some(bytes) = limits.memory_high {
        set("memory.high", bytes.to_string())?;
    }
    if let Some(bytes) = limits.memory_max {
        set("memory.max", bytes.to_string())?;
        // What is swapped out counts elsewhere: without this a tenant could have the host's swap space besides. Hosts without
        // swap may not have the file.
        if leaf.join("memory.swap.max").exists() {
            set("memory.swap.max", "0".to_owned())?;
        }
    }
    if let Some(processes) = limits.pids_max {
        set("pids.max", processes.to_string())?;
    }
    if let Some(percent) = limits.cpu_percent {
        set("cpu.max", format!("{} {CPU_PERIOD}", u64::from(percent) * CPU_PERIOD / 100))?;
    }
    Ok(())
}

/// Moves a process of this PID namespace (0: this one), with all its threads.
pub(super) fn move_process(cgroup: &Path, process: u32) -> Result<(), CgroupError> {
    let path = cgroup.join("cgroup.procs");
    write(&path, &process.to_string()).map_err(CgroupError::step(Step::Move, "move a process by", &path))
}

/// Makes and locks a directory for this process.
fn make_locked(base: &Path) -> Result<(PathBuf, Lock), CgroupError> {
    let own = format!("{OWN_PREFIX}{}", std::process::id());
    // Beyond the first where another PID namespace has a process of that number, or this one another supervisor.
    for number in 0..OWN_MAX {
        let name = if number == 0 { own.clone() } else { format!("{own}.{number}") };
        let directory = base.join(name);
        match DirBuilder::new().mode(0o755).create(&directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            made => made.map_err(CgroupError::step(Step::Make, "make the cgroup", &directory))?,
        }
        // Somebody who looks for what was left behind may have found it unlocked, and removed it.
        if let Some(lock) = lock(&directory) {
            return Ok((directory, lock));
        }
    }
    let taken = io::Error::from(ErrorKind::AlreadyExists);
    Err(CgroupError::step(Step::Make, "make one of the cgroups of this process's number below", base)(taken))
}

/// Locks a supervisor's directory. `None`: somebody else has it, or it is gone. What is locked is a file in it that is open for
/// reading, which gives its holder no way into the directory.
fn lock(directory: &Path) -> Option<Lock> {
    let path = directory.join("cgroup.procs");
    let file = File::open(&path).ok()?;
    let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
    let (ours, there) = (locked.metadata().ok()?, fs::metadata(&path).ok()?);
    ((ours.dev(), ours.ino()) == (there.dev(), there.ino())).then(|| Lock(locked))
}

/// Removes the directories of supervisors that are dead.
fn remove_stale(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let is_own = entry.file_name().to_str().is_some_and(|name| name.starts_with(OWN_PREFIX));
        if is_own && let Some(_lock) = lock(&entry.path()) {
            remove_all(&entry.path());
        }
    }
}

/// Removes a supervisor's directory and the leaves in it; kills what they hold. What cannot be removed stays for the next one.
fn remove_all(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_leaf_patiently(&entry.path());
        }
    }
    let _ = fs::remove_dir(root);
}

/// Removes a leaf. False if something was left in it, which is killed (Linux 5.14) and gone soon.
pub(super) fn remove_leaf(leaf: &Path) -> bool {
    match fs::remove_dir(leaf) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(_) => {
            let _ = write(&leaf.join("cgroup.kill"), "1");
            false
        }
    }
}

/// The same, until everything in it is gone.
fn remove_leaf_patiently(leaf: &Path) {
    /// The kernel tells of the last process's end, but it may let go of the cgroup a little later.
    const SOON: Duration = Duration::from_millis(10);
    let until = Instant::now() + PATIENCE;
    while !remove_leaf(leaf) && Instant::now() < until {
        let Ok(mut events) = File::open(leaf.join("cgroup.events")) else { return };
        // A change since it was read is told by the flag.
        let _ = events.read_to_string(&mut String::new());
        let timeout = PollTimeout::try_from(SOON).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_have_names_that_are_no_paths_and_never_the_same() {
        let long = "x".repeat(300);
        let tenants =
            ["", "default", "a/b", "a%2Fb", "a.b", "..", "../x", "é", "a\nb", "a b", &long, &long[..299]];
        let names: Vec<String> = tenants.iter().map(|tenant| leaf_name(tenant)).collect();
        for (at, name) in names.iter().enumerate() {
            assert!(is_leaf_name(name), "{name}");
            assert!(!names[..at].contains(name), "{name}");
        }
        assert_eq!((leaf_name("uid-7/a.b"), leaf_name("")), ("tenant-uid-7%2Fa.b".into(), "tenant-".into()));
        // The name of a long one is nobody else's.
        let of_long = leaf_name(&long);
        assert_ne!(leaf_name(of_long.strip_prefix(LEAF_PREFIX).unwrap()), of_long);
        for name in
            ["", "tenant", "daemon", "tenant-/", "tenant-a/../..", "../tenant-", "tenant-\n", "tenant-é"]
        {
            assert!(!is_leaf_name(name), "{name:?}");
        }
        assert!(!is_leaf_name(&format!("{LEAF_PREFIX}{long}")));
    }

    /// The files of a leaf, as the kernel makes them: empty ones.
    fn leaf(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(directory.path().join(file), "").unwrap();
        }
        directory
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let limits = TenantCgroups {
            memory_max: Some(1 << 30),
            memory_high: Some(1 << 29),
            pids_max: Some(100),
            cpu_percent: Some(150),
            directory: None,
        };
        assert_eq!(controllers(&limits), ["memory", "cpu", "pids"]);
        let leaf_with = leaf(&["memory.max", "memory.high", "memory.swap.max", "pids.max", "cpu.max"]);
        set_limits(leaf_with.path(), &limits).unwrap();
        for (file, value) in [
            ("memory.max", "1073741824"),
            ("memory.high", "536870912"),
            ("memory.swap.max", "0"),
            ("pids.max", "100"),
            ("cpu.max", "150000 100000"),
        ] {
            assert_eq!(fs::read_to_string(leaf_with.path().join(file)).unwrap(), value, "{file}");
        }
        // A controller that is not there is an error that names the file; only what a host may lack is left out.
        let without = leaf(&["memory.high", "memory.max"]);
        let error = set_limits(without.path(), &limits).unwrap_err().to_string();
        assert!(error.contains("pids.max") && error.contains("No such file"), "{error}");
        assert!(!without.path().join("pids.max").exists(), "no file is made");
        assert!(controllers(&TenantCgroups::default()).is_empty());
        set_limits(leaf(&[]).path(), &TenantCgroups::default()).unwrap();
    }

    #[test]
    fn only_controllers_that_are_not_enabled_are_enabled() {
        let directory = leaf(&[]);
        let path = directory.path().join("cgroup.subtree_control");
        fs::write(&path, "memory pids\n").unwrap();
        enable(directory.path(), &["memory", "pids"]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "memory pids\n");
        enable(directory.path(), &["memory", "cpu"]).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with("+cpu"));
        let missing = enable(&directory.path().join("none"), &["cpu"]).unwrap_err().to_string();
        assert!(missing.contains("none/cgroup.subtree_control"), "{missing}");
    }
}
