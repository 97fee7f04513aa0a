//! What this host offers: layer by layer for `sandboxctl doctor`, and which Landlock rights there are to deny.
//!
//! Probes leave the calling process as it is. What can only be learned by doing it (namespaces, mounts) is done by
//! a short-lived child, which makes system calls and nothing else: the parent may have threads, so the child must
//! not touch a lock or the allocator. No probe installs a seccomp filter.

use std::borrow::Cow;
use std::fmt;
use std::io::Error as OsError;
use std::path::Path;

use ipc::control::layer;
use serde::{Deserialize, Serialize};

pub(crate) mod cgroup;
mod facilities;
mod landlock;
mod namespaces;
mod speculation;

pub(crate) use landlock::status as landlock_status;
pub use landlock::{landlock_abi, landlock_handled};

/// Whether the host has something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub enum Status {
    /// It has.
    Available {
        /// What is worth knowing about it; empty if nothing.
        detail: String,
    },
    /// It has not.
    Missing {
        /// Why.
        why: String,
        /// How to get it.
        remedy: String,
    },
}

impl Status {
    /// Whether the host has it.
    pub fn is_available(&self) -> bool {
        matches!(self, Self::Available { .. })
    }

    pub(crate) fn available() -> Self {
        Self::Available { detail: String::new() }
    }

    pub(crate) fn with(detail: impl Into<String>) -> Self {
        Self::Available { detail: detail.into() }
    }

    pub(crate) fn missing(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Missing { why: why.into(), remedy: remedy.into() }
    }
}

/// What kind of thing a [`Feature`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A layer of confinement, see [`ipc::control::layer`].
    Layer,
    /// A layer that controls speculative execution: in force where a policy asks for it.
    Speculation,
    /// Something that the supervisor works with.
    Facility,
}

/// One thing that a host may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// Its name; for a layer the one of [`ipc::control::layer::ALL`].
    pub name: Cow<'static, str>,
    /// What kind of thing it is.
    pub kind: Kind,
    /// Whether the host has it.
    #[serde(flatten)]
    pub status: Status,
}

/// The row about the daemon's own confinement.
const DAEMON: &str = "daemon-confinement";

/// What this host offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// The kernel's release, such as `6.18.1`.
    pub kernel: String,
    /// The machine, such as `x86_64`.
    pub machine: String,
    /// Whether the probing process runs as root.
    pub root: bool,
    /// The version of Landlock's interface; 0 without Landlock.
    pub landlock_abi: u32,
    /// Everything that was looked at: every layer first.
    pub features: Vec<Feature>,
}

impl HostReport {
    /// Looks at this host. Takes a few milliseconds.
    pub fn probe() -> Self {
        let (kernel, machine) = match nix::sys::utsname::uname() {
            Ok(names) => (
                names.release().to_string_lossy().into_owned(),
                names.machine().to_string_lossy().into_owned(),
            ),
            Err(_) => ("unknown".to_owned(), std::env::consts::ARCH.to_owned()),
        };
        let mut features: Vec<Feature> = layer::ALL
            .iter()
            .map(|(bit, name)| {
                let kind = if bit & layer::SPECULATION == 0 { Kind::Layer } else { Kind::Speculation };
                Feature { name: Cow::Borrowed(*name), kind, status: probe_layer(*bit) }
            })
            .collect();
        let facilities: [(&'static str, Status); 7] = [
            ("kernel-version", facilities::kernel_version(&kernel)),
            ("openat2", facilities::openat2()),
            ("pidfd", facilities::pidfd()),
            ("futex", facilities::futex()),
            ("executable-memfd", facilities::executable_memfd()),
            ("vdso-clock", facilities::vdso_clock()),
            ("unprivileged-user-namespaces", namespaces::unprivileged_user_namespaces()),
        ];
        features.extend(facilities.map(|(name, status)| Feature {
            name: Cow::Borrowed(name),
            kind: Kind::Facility,
            status,
        }));
        let daemon = crate::confine::available(&features);
        features.push(Feature { name: Cow::Borrowed(DAEMON), kind: Kind::Facility, status: daemon });
        Self {
            kernel,
            machine,
            root: nix::unistd::geteuid().is_root(),
            landlock_abi: landlock_abi(),
            features,
        }
    }

    /// Tells of a daemon how it is confined, instead of how one could be.
    #[must_use]
    pub fn of_daemon(mut self, confined: Status) -> Self {
        for feature in self.features.iter_mut().filter(|feature| feature.name == DAEMON) {
            feature.status = confined.clone();
        }
        self
    }

    /// The layers that this host has: bits of [`ipc::control::layer`].
    pub fn available_layers(&self) -> u64 {
        layer::ALL
            .iter()
            .filter(|(_, name)| self.feature(name).is_some_and(|feature| feature.status.is_available()))
            .fold(0, |layers, (bit, _)| layers | bit)
    }

    /// The feature with this name.
    pub fn feature(&self, name: &str) -> Option<&Feature> {
        self.features.iter().find(|feature| feature.name == name)
    }

    /// What is missing of the given layers, with the reason of each.
    pub fn missing_layers(&self, layers: u64) -> impl Iterator<Item = &Feature> {
        layer::ALL
            .iter()
            .filter(move |(bit, _)| layers & bit != 0)
            .filter_map(|(_, name)| self.feature(name))
            .filter(|feature| !feature.status.is_available())
    }
}

impl fmt::Display for HostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.root { "root" } else { "an ordinary user" };
        writeln!(f, "Linux {} on {}, as {user}", self.kernel, self.machine)?;
        let width = self.features.iter().map(|feature| feature.name.len()).max().unwrap_or(0);
        let mut last = None;
        for feature in &self.features {
            if last.replace(feature.kind) != Some(feature.kind) {
                let title = match feature.kind {
                    Kind::Layer => "layers of confinement",
                    Kind::Speculation => "controls of speculative execution",
                    Kind::Facility => "facilities",
                };
                writeln!(f, "\n{title}")?;
            }
            match &feature.status {
                Status::Available { detail } if detail.is_empty() => {
                    writeln!(f, "  {:width$}  yes", feature.name)?
                }
                Status::Available { detail } => writeln!(f, "  {:width$}  yes  {detail}", feature.name)?,
                Status::Missing { why, remedy } => {
                    writeln!(f, "  {:width$}  NO   {why}", feature.name)?;
                    writeln!(f, "  {:width$}       to get it: {remedy}", "")?;
                }
            }
        }
        Ok(())
    }
}

/// What to set the clocks of a time namespace ahead by, in seconds, so that they start near zero: monotonic, since boot.
/// 0 where a clock cannot be read.
pub(crate) fn clocks_from_now() -> [i64; 2] {
    use nix::time::{ClockId, clock_gettime};
    [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_BOOTTIME]
        .map(|clock| clock_gettime(clock).map_or(0, |now| -now.tv_sec()))
}

/// The layers that may be missing ([`layer::OPTIONAL`]) and are, each with the reason. Cheaper than a whole report: nothing is
/// tried out in a child.
pub(crate) fn missing_optional_layers() -> Vec<(u64, String)> {
    let optional = layer::ALL.iter().filter(|(bit, _)| bit & layer::OPTIONAL != 0);
    optional
        .filter_map(|(bit, _)| {
            let status =
                if *bit == layer::TIME_NAMESPACE { namespaces::clock_offsets() } else { probe_layer(*bit) };
            match status {
                Status::Available { .. } => None,
                Status::Missing { why, .. } => Some((*bit, why)),
            }
        })
        .collect()
}

/// What the zygotes cannot find out by failing: everything else is an error of its step.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// What Landlock can deny here.
    pub(crate) landlock: [u64; 3],
    /// What the clocks of time namespaces are ahead of the host's by, in seconds: monotonic, since boot. Less than zero.
    pub(crate) clocks: [i64; 2],
    /// Layers that this host lacks, each with the reason.
    pub(crate) missing: Vec<(u64, String)>,
}

impl Offer {
    /// Looks at this host.
    pub(crate) fn of_host() -> Self {
        Self {
            landlock: landlock_handled(landlock_abi()),
            clocks: clocks_from_now(),
            missing: missing_optional_layers(),
        }
    }
}

fn probe_layer(bit: u64) -> Status {
    match bit {
        layer::USER_NAMESPACE => namespaces::namespace(0, "CONFIG_USER_NS"),
        layer::MOUNT_NAMESPACE => namespaces::namespace(libc::CLONE_NEWNS, "CONFIG_NAMESPACES"),
        layer::PID_NAMESPACE => namespaces::namespace(libc::CLONE_NEWPID, "CONFIG_PID_NS"),
        layer::NET_NAMESPACE => namespaces::namespace(libc::CLONE_NEWNET, "CONFIG_NET_NS"),
        layer::IPC_NAMESPACE => namespaces::namespace(libc::CLONE_NEWIPC, "CONFIG_IPC_NS"),
        layer::UTS_NAMESPACE => namespaces::namespace(libc::CLONE_NEWUTS, "CONFIG_UTS_NS"),
        layer::CGROUP_NAMESPACE => namespaces::namespace(libc::CLONE_NEWCGROUP, "CONFIG_CGROUPS"),
        layer::TIME_NAMESPACE => namespaces::time(),
        layer::OWN_KEYRING => facilities::keyring(),
        layer::EMPTY_ROOT => namespaces::empty_root(),
        layer::LANDLOCK => landlock::status(),
        layer::NO_NEW_PRIVS => answers(libc::PR_GET_NO_NEW_PRIVS, "no_new_privs", "Linux 3.5 or newer"),
        layer::CAPABILITIES => {
            answers(libc::PR_CAPBSET_READ, "the capability bounding set", "Linux 2.6.25 or newer")
        }
        layer::SECCOMP => seccomp(),
        layer::RLIMITS => rlimits(),
        layer::UNDUMPABLE => answers(libc::PR_GET_DUMPABLE, "the dumpable attribute", "Linux 2.4 or newer"),
        layer::SEALED_CODE => sealed_code(),
        layer::INDIRECT_BRANCH => speculation::indirect_branch(),
        layer::STORE_BYPASS => speculation::store_bypass(),
        layer::CORE_SCHEDULING => speculation::core_scheduling(),
        layer::NO_TIMESTAMP_COUNTER => speculation::timestamp_counter(),
        layer::TENANT_CGROUP => cgroup::cgroup_v2(),
        _ => Status::missing("this program has no probe for the layer", "report this as a bug"),
    }
}

/// `prctl(2)` that only reads, with 0 for all further arguments.
fn answers(option: i32, what: &str, from: &str) -> Status {
    // SAFETY: the options given here read an attribute of this process and take no pointer.
    if unsafe { libc::prctl(option, 0, 0, 0, 0) } >= 0 {
        return Status::available();
    }
    Status::missing(format!("the kernel does not answer about {what}: {}", OsError::last_os_error()), from)
}

fn seccomp() -> Status {
    for (action, name) in [
        (libc::SECCOMP_RET_TRAP, "SECCOMP_RET_TRAP"),
        (libc::SECCOMP_RET_KILL_PROCESS, "SECCOMP_RET_KILL_PROCESS"),
    ] {
        // SAFETY: seccomp(2): asks about an action, which `action` holds during the call; installs nothing.
        let result =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
        if result != 0 {
            return Status::missing(
                format!("the kernel does not offer {name}: {}", OsError::last_os_error()),
                "Linux 4.14 or newer with CONFIG_SECCOMP_FILTER=y; in a container, allow seccomp(2)",
            );
        }
    }
    Status::available()
}

fn rlimits() -> Status {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    if unsafe { libc::getrlimit(libc::RLIMIT_DATA, &raw mut limit) } == 0 {
        return Status::available();
    }
    Status::missing(
        format!("getrlimit(RLIMIT_DATA): {}", OsError::last_os_error()),
        "any supported kernel has it",
    )
}

fn sealed_code() -> Status {
    const SYS_MSEAL: i64 = 462;
    // SAFETY: mseal(2) refuses every flag before it looks at the range, which is empty anyway.
    let result = unsafe { libc::syscall(SYS_MSEAL, 0, 0, 1) };
    let error = OsError::last_os_error();
    if result == -1 && error.raw_os_error() == Some(libc::EINVAL) {
        return Status::available();
    }
    Status::missing(format!("mseal(2): {error}"), "Linux 6.10 or newer")
}

/// The trimmed text of a small file of the kernel's; `None` if it cannot be read.
fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_is_reported_once_and_in_order() {
        let report = HostReport::probe();
        let names: Vec<&str> = report.features.iter().map(|feature| &*feature.name).collect();
        let layers: Vec<&str> = layer::ALL.iter().map(|(_, name)| *name).collect();
        assert_eq!(names[..layers.len()], layers);
        for name in &names {
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
        }
        for feature in &report.features {
            if let Status::Missing { why, remedy } = &feature.status {
                assert!(!why.is_empty() && !remedy.is_empty(), "{}", feature.name);
            }
        }
        let missing: Vec<&str> = report.missing_layers(u64::MAX).map(|feature| &*feature.name).collect();
        assert_eq!(report.available_layers().count_ones() as usize + missing.len(), layer::ALL.len());
    }

    #[test]
    fn probing_changes_nothing() {
        let state = || {
            let namespaces: Vec<_> =
                ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time", "time_for_children"]
                    .map(|name| std::fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap())
                    .to_vec();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let kept: Vec<String> = status
                .lines()
                .filter(|line| {
                    ["Uid", "Gid", "Cap", "NoNewPrivs", "Seccomp"].iter().any(|key| line.starts_with(key))
                })
                .map(str::to_owned)
                .collect();
            (namespaces, kept)
        };
        let before = state();
        HostReport::probe();
        assert_eq!(state(), before);
        // Only children of this thread: other tests probe at the same time.
        // SAFETY: no pointer is written through.
        let waited = unsafe {
            libc::waitpid(-1, std::ptr::null_mut(), libc::__WCLONE | libc::__WNOTHREAD | libc::WNOHANG)
        };
        assert_eq!(
            (waited, OsError::last_os_error().raw_os_error()),
            (-1, Some(libc::ECHILD)),
            "a child is left"
        );
    }

    #[test]
    fn the_table_shows_what_is_missing_and_how_to_get_it() {
        let report = HostReport {
            kernel: "6.1.0".to_owned(),
            machine: "x86_64".to_owned(),
            root: false,
            landlock_abi: 2,
            features: vec![
                Feature { name: "landlock".into(), kind: Kind::Layer, status: Status::with("ABI 2") },
                Feature { name: "seccomp".into(), kind: Kind::Layer, status: Status::available() },
                Feature {
                    name: "vdso-clock".into(),
                    kind: Kind::Facility,
                    status: Status::missing("slow", "another clock source"),
                },
            ],
        };
        let expected = "Linux 6.1.0 on x86_64, as an ordinary user

layers of confinement
  landlock    yes  ABI 2
  seccomp     yes

facilities
  vdso-clock  NO   slow
                   to get it: another clock source
";
        assert_eq!(report.to_string(), expected);
        assert_eq!(report.available_layers(), layer::LANDLOCK | layer::SECCOMP);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["features"][2]["status"], "missing");
        assert_eq!(json["features"][2]["remedy"], "another clock source");
        assert_eq!(json["features"][0]["kind"], "layer");
        assert_eq!(
            serde_json::from_value::<HostReport>(json).unwrap(),
            report,
            "a daemon's can be shown elsewhere"
        );
    }

    #[test]
    fn the_row_of_the_daemon_says_what_it_could_have_and_of_one_that_runs_what_it_has() {
        let report = HostReport::probe();
        let could = report.feature(DAEMON).unwrap().status.clone();
        let has_landlock = report.feature("landlock").unwrap().status.is_available();
        assert_eq!(could.is_available(), has_landlock, "{could:?}");
        let has = Status::with("confined: seccomp");
        assert_eq!(report.of_daemon(has.clone()).feature(DAEMON).unwrap().status, has);
    }
}
