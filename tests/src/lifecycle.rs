//! What a test of crashes looks at: what a supervisor in this process holds, and what is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::PATIENCE;
use crate::instances::Pid;

/// Waits until something holds that must come about by itself.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what}: never");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Open descriptors of this process, by what they are.
pub fn descriptors() -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd").expect("/proc/self/fd").flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
        // Sockets and pipes have a number of their own, and a process file that of its process.
        let kind = target.split(['[', ':']).next().unwrap_or_default();
        let kind = if target.starts_with("/proc/") { "/proc" } else { kind };
        let kind = if target.starts_with("anon_inode") { target.as_str() } else { kind };
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

/// Whether this process has no more descriptors of any kind than before. Fewer is possible: what an earlier test had may still close.
pub fn no_more_descriptors_than(before: &BTreeMap<String, usize>) -> bool {
    descriptors().iter().all(|(kind, count)| before.get(kind).is_some_and(|before| count <= before))
}

/// Everything that lives below a process, but for its compile zygote.
pub fn below(pid: u32) -> Vec<Pid> {
    let mut all = Pid(pid as i32).living_children();
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        all.extend(pid.living_children());
        next += 1;
    }
    all
}

/// What is mounted here.
pub fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").expect("mountinfo")
}

impl Pid {
    /// Its children without dead ones: this process may inherit those, and reaps them at its leisure.
    pub fn living_children(self) -> Vec<Self> {
        self.children().into_iter().filter(|pid| pid.state().is_some_and(|state| state != 'Z')).collect()
    }

    /// Sends a signal; nothing happens if it is gone.
    pub fn signal(self, signal: Signal) {
        let _ = kill(nix::unistd::Pid::from_raw(self.0), signal);
    }

    /// The letter for its state in `/proc/PID/stat`, such as `S`; `None` if it is gone.
    pub fn state(self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Stops it, and waits until it has stopped.
    #[track_caller]
    pub fn stop(self) {
        self.signal(Signal::SIGSTOP);
        eventually("stopped", || self.state() == Some('T'));
    }
}
