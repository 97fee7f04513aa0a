//! Cgroups of a test's own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::host::is_root;
use crate::{PATIENCE, Scratch};

/// Names a directory that is delegated to the tests of an ordinary user.
const DELEGATED: &str = "SANDBOXD_TEST_CGROUP";

/// A cgroup (version 2) that nobody else uses. Removed when dropped, which fails if anything is left in it.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// One below this process's own, or the one that was delegated. `None`, said with `NOT CHECKED`, where this user may make none.
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(parent) = std::env::var_os(DELEGATED).map(PathBuf::from).or_else(own) else {
            println!("NOT CHECKED: this host has no cgroup v2 hierarchy");
            return None;
        };
        let name = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = parent.join(name);
        match fs::create_dir(&path) {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                println!("NOT CHECKED: this user may make no cgroup in {}: {error}", parent.display());
                None
            }
        }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The directories of supervisors in it.
    pub fn supervisors(&self) -> Vec<PathBuf> {
        let named = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sandboxd."))
        };
        directories(&self.0).into_iter().filter(named).collect()
    }

    /// The leaves of its only supervisor.
    #[track_caller]
    pub fn leaves(&self) -> Vec<String> {
        let supervisors = self.supervisors();
        assert_eq!(supervisors.len(), 1, "{supervisors:?}");
        let leaves = directories(&supervisors[0]);
        leaves.iter().map(|leaf| leaf.file_name().expect("a name").to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let removed = fs::remove_dir(&self.0);
        if !std::thread::panicking() {
            removed.unwrap_or_else(|error| panic!("{}: {error}: {:?}", self.0.display(), self.supervisors()));
        }
    }
}

fn directories(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    all.sort();
    all
}

/// The directory of this process's own cgroup.
fn own() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let path = of(std::process::id() as i32);
    Some(Path::new(point).join(path.strip_prefix(root).unwrap_or(&path).trim_start_matches('/')))
}

/// The path of a process's cgroup, as `/proc` tells it here.
#[track_caller]
pub fn of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.expect("a cgroup of version 2").to_owned()
}

/// Runs a test of this program again, as an ordinary user to whom a cgroup is delegated. Only root can set that up.
pub fn again_as_user(test: &str) {
    const USER: u32 = 65534;
    if !is_root() {
        if std::env::var_os(DELEGATED).is_none() {
            println!("NOT CHECKED: only root can delegate a cgroup to this user");
        }
        return;
    }
    let Some(delegated) = Cgroup::new() else { return };
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).expect("open to everybody");
    let program = scratch.file("test");
    fs::copy(std::env::current_exe().expect("this program"), &program).expect("a copy");
    // What "delegation" says in Documentation/admin-guide/cgroup-v2.rst: the directory, and these.
    let runner = delegated.path().join("runner");
    fs::create_dir(&runner).expect("a cgroup");
    for path in [delegated.path(), &runner] {
        chown(path, Some(USER), Some(USER)).expect("delegated");
        for file in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(path.join(file), Some(USER), Some(USER)).expect("delegated");
        }
    }
    let procs = runner.join("cgroup.procs");
    let mut command = Command::new("sh");
    command
        .args(["-c", "echo $$ > \"$0\" && exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\""]);
    command.arg(&procs).arg(&program).args(["--exact", test, "--nocapture"]);
    command.env(DELEGATED, delegated.path()).env("TMPDIR", "/tmp").current_dir("/").process_group(0);
    let output = crate::run(&mut command);
    assert!(output.text().contains("1 passed"), "{}", output.text());
    assert!(!output.text().contains("NOT CHECKED"), "{}", output.text());
    let until = std::time::Instant::now() + PATIENCE;
    while fs::remove_dir(&runner).is_err() {
        assert!(std::time::Instant::now() < until, "something is left in {}", runner.display());
        std::thread::yield_now();
    }
}
