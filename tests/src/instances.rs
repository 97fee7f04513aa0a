//! Looking at running instances from outside, as the kernel shows them in `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;

use ipc::layout::PAGE;

use crate::process;

/// A process of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pid(pub i32);

/// The three generations below a supervisor that runs one job.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The root zygote.
    pub root: Pid,
    /// The module zygote.
    pub module: Pid,
    /// The instance.
    pub instance: Pid,
}

impl Family {
    /// The processes below `supervisor`, which must run one job at this moment.
    #[track_caller]
    pub fn below(supervisor: u32) -> Self {
        let only_child = |of: i32, what: &str| {
            let children = children(of);
            assert_eq!(children.len(), 1, "{what} below process {of}: {children:?}");
            children[0]
        };
        let root = only_child(supervisor as i32, "root zygotes");
        let module = only_child(root, "module zygotes");
        let instance = only_child(module, "instances");
        Self { root: Pid(root), module: Pid(module), instance: Pid(instance) }
    }
}

/// The compile zygotes below a process, without those that still start.
pub fn compile_zygotes_of(parent: u32) -> Vec<Pid> {
    let confined = |pid: &Pid| pid.status().get("Seccomp").is_some_and(|mode| mode == "2");
    let all = all_children(parent as i32).into_iter().filter(|pid| is_compiler(*pid)).map(Pid);
    all.filter(confined).collect()
}

/// Whether a process is a compile zygote or a worker of one.
fn is_compiler(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sandbox-compile")
}

/// Children of a process but for its compile zygote.
fn children(of: i32) -> Vec<i32> {
    all_children(of).into_iter().filter(|pid| !is_compiler(*pid)).collect()
}

/// Children of a process, of any of its threads.
fn all_children(of: i32) -> Vec<i32> {
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent =
                stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            parent == Some(of)
        })
        .collect()
}

/// A line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// As in `rwxp`.
    pub protection: String,
    /// Inode of the file; 0 for none.
    pub inode: u64,
    /// File or kind.
    pub name: String,
}

impl Pid {
    /// The only child of a process.
    #[track_caller]
    pub fn only_child_of(parent: u32) -> Self {
        let children = children(parent as i32);
        assert_eq!(children.len(), 1, "children of process {parent}: {children:?}");
        Self(children[0])
    }

    /// The process id of its parent.
    pub fn parent(self) -> i32 {
        self.status()["PPid"].parse().expect("a number")
    }

    /// Its children.
    pub fn children(self) -> Vec<Self> {
        children(self.0).into_iter().map(Self).collect()
    }

    /// Waits until the process has ended, reaped or not.
    #[track_caller]
    pub fn wait_until_dead(self) {
        if let Some(pidfd) = process::pidfd(self.0) {
            assert!(process::ended(&pidfd), "process {} did not end", self.0);
        }
    }

    fn path(self, file: &str) -> String {
        format!("/proc/{}/{file}", self.0)
    }

    /// The fields of `/proc/PID/status`.
    pub fn status(self) -> BTreeMap<String, String> {
        fs::read_to_string(self.path("status"))
            .expect("status is readable for everybody")
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect()
    }

    /// Soft and hard value of a resource limit, as `/proc/PID/limits` prints them.
    pub fn limit(self, name: &str) -> (String, String) {
        let limits = fs::read_to_string(self.path("limits")).expect("limits are readable for everybody");
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a known limit");
        let mut fields = line.split_whitespace().map(str::to_owned);
        (fields.next().expect("soft"), fields.next().expect("hard"))
    }

    /// Whether this test may look into the process. Nobody but root may: it is not dumpable.
    pub fn is_open_to_us(self) -> bool {
        fs::read_dir(self.path("fd")).is_ok()
    }

    /// Descriptors and what they refer to.
    pub fn descriptors(self) -> Vec<(i32, String)> {
        let mut fds: Vec<(i32, String)> = fs::read_dir(self.path("fd"))
            .expect("fd")
            .map(|entry| {
                let entry = entry.expect("entry");
                let number = entry.file_name().to_str().and_then(|n| n.parse().ok()).expect("a number");
                let target =
                    fs::read_link(entry.path()).map(|t| t.to_string_lossy().into_owned()).unwrap_or_default();
                (number, target)
            })
            .collect();
        fds.sort();
        fds
    }

    /// The namespace of a kind, as in `net:[4026531840]`.
    pub fn namespace(self, kind: &str) -> String {
        let link = fs::read_link(self.path(&format!("ns/{kind}"))).expect("namespace");
        link.to_string_lossy().into_owned()
    }

    /// A file of `/proc/PID` as bytes.
    pub fn read(self, file: &str) -> std::io::Result<Vec<u8>> {
        fs::read(self.path(file))
    }

    /// Names in the root directory of the process.
    pub fn root_directory(self) -> Vec<String> {
        let entries = fs::read_dir(self.path("root/")).expect("root directory");
        entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect()
    }

    /// What is mounted in its mount namespace.
    pub fn mounts(self) -> Vec<String> {
        let text = fs::read_to_string(self.path("mountinfo")).expect("mountinfo");
        text.lines().map(str::to_owned).collect()
    }

    /// Numbers of the physical pages that are present between two addresses. Only root is told (`/proc/PID/pagemap`).
    pub fn physical_pages(self, start: u64, end: u64) -> BTreeSet<u64> {
        let file = fs::File::open(self.path("pagemap")).expect("pagemap");
        let mut entries = vec![0; ((end - start) / PAGE * 8) as usize];
        let length = file.read_at(&mut entries, start / PAGE * 8).expect("pagemap");
        let entries =
            entries[..length].chunks_exact(8).map(|e| u64::from_le_bytes(e.try_into().expect("8 bytes")));
        // Bit 63: present; bits 0 to 54: the page's number.
        entries.filter(|entry| entry >> 63 == 1).map(|entry| entry & ((1 << 55) - 1)).collect()
    }

    /// Its mappings.
    pub fn mappings(self) -> Vec<Mapping> {
        fs::read_to_string(self.path("maps"))
            .expect("maps")
            .lines()
            .map(|line| {
                let mut fields = line.split_whitespace();
                let (start, end) = fields.next().and_then(|range| range.split_once('-')).expect("range");
                let protection = fields.next().expect("protection").to_owned();
                Mapping {
                    start: u64::from_str_radix(start, 16).expect("hex"),
                    end: u64::from_str_radix(end, 16).expect("hex"),
                    protection,
                    inode: fields.nth(2).and_then(|inode| inode.parse().ok()).expect("inode"),
                    name: fields.collect::<Vec<_>>().join(" "),
                }
            })
            .collect()
    }
}
