//! Cgroups (version 2) below which each tenant could have one with limits of its own.

use std::path::{Path, PathBuf};

use super::{Status, read};

/// The controllers that limits of tenants need.
const WANTED: [&str; 3] = ["memory", "cpu", "pids"];

const DELEGATE: &str = "run under a service manager that delegates a cgroup (systemd: Delegate=yes in the unit, or systemd-run --user --scope -p \
                        Delegate=yes), or as root";
const UNIFIED: &str =
    "boot with the unified cgroup hierarchy (systemd.unified_cgroup_hierarchy=1, cgroup_no_v1=all)";

/// What [`crate::HostReport`] says: whether this process's own cgroup could be used.
pub(super) fn cgroup_v2() -> Status {
    match Cgroup::own().and_then(|cgroup| cgroup.with(&WANTED)) {
        Ok(cgroup) => Status::with(format!(
            "delegated at {}: {} (where [cgroup] of the configuration sets limits)",
            cgroup.directory.display(),
            cgroup.controllers
        )),
        Err(missing) => missing,
    }
}

/// A cgroup v2.
#[derive(Debug)]
pub(crate) struct Cgroup {
    pub(crate) directory: PathBuf,
    /// The controllers that are delegated to it.
    controllers: String,
    /// Those that the host has in the hierarchies of cgroup v1.
    in_v1: Vec<String>,
}

impl Cgroup {
    /// The one that this process is in, or why it is in none.
    pub(crate) fn own() -> Result<Self, Status> {
        let own = read("/proc/self/cgroup").unwrap_or_default();
        let mounts = read("/proc/self/mountinfo").unwrap_or_default();
        Self::find(&own, &mounts, |path| read(path))
    }

    /// The one with this name in the file system.
    pub(crate) fn named(directory: &Path) -> Result<Self, Status> {
        let is_cgroup = nix::sys::statfs::statfs(directory)
            .map(|fs| fs.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC);
        if !is_cgroup.map_err(|error| not_a_cgroup(directory, &error.to_string()))? {
            return Err(not_a_cgroup(directory, "it is no directory of a cgroup v2 hierarchy"));
        }
        let controllers = read(directory.join("cgroup.controllers"));
        let own = read("/proc/self/cgroup").unwrap_or_default();
        Ok(Self {
            directory: directory.to_path_buf(),
            controllers: controllers.ok_or_else(|| not_a_cgroup(directory, "it cannot be read"))?,
            in_v1: own.lines().filter_map(v1_controllers).flatten().map(str::to_owned).collect(),
        })
    }

    /// From the texts of `/proc/self/cgroup` and `/proc/self/mountinfo` (cgroups(7), proc_pid_mountinfo(5)).
    fn find(own: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Result<Self, Status> {
        let Some((root, point)) = mounts.lines().find_map(v2_mount) else {
            return Err(Status::missing("no cgroup v2 hierarchy is mounted", UNIFIED));
        };
        let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) else {
            return Err(Status::missing("this process is in no cgroup v2", UNIFIED));
        };
        let below = path.strip_prefix(root).unwrap_or(path).trim_start_matches('/');
        let directory = PathBuf::from(point).join(below);
        let Some(controllers) = read(&directory.join("cgroup.controllers")) else {
            let why = format!("the cgroup of this process, {}, cannot be read", directory.display());
            return Err(Status::missing(
                why,
                "mount the cgroup v2 hierarchy as this process's cgroup namespace sees it",
            ));
        };
        let in_v1 = own.lines().filter_map(v1_controllers).flatten().map(str::to_owned).collect();
        Ok(Self { directory, controllers, in_v1 })
    }

    /// This one, if it has these controllers, and this process may have cgroups below it.
    pub(crate) fn with(self, wanted: &[&str]) -> Result<Self, Status> {
        let writable = |path: &Path| nix::unistd::eaccess(path, nix::unistd::AccessFlags::W_OK).is_ok();
        self.with_these(wanted, writable)
    }

    fn with_these(self, wanted: &[&str], writable: impl Fn(&Path) -> bool) -> Result<Self, Status> {
        let shown = self.directory.display();
        let has = |controller: &str| self.controllers.split_whitespace().any(|has| has == controller);
        let absent: Vec<&str> = wanted.iter().copied().filter(|wanted| !has(wanted)).collect();
        if !absent.is_empty() {
            let in_v1: Vec<&str> =
                self.in_v1.iter().map(String::as_str).filter(|c| absent.contains(c)).collect();
            return Err(if in_v1.is_empty() {
                let why = format!("the controllers {} are not delegated to {shown}", absent.join(", "));
                Status::missing(why, DELEGATE)
            } else {
                let why = format!(
                    "a hybrid hierarchy: the controllers {} belong to cgroup v1, so that cgroup v2 at {shown} has {}",
                    in_v1.join(", "),
                    if self.controllers.is_empty() { "none" } else { self.controllers.as_str() },
                );
                Status::missing(why, UNIFIED)
            });
        }
        for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
            let path = self.directory.join(file);
            if !writable(&path) {
                return Err(Status::missing(format!("{} is not writable", path.display()), DELEGATE));
            }
        }
        Ok(self)
    }
}

fn not_a_cgroup(directory: &Path, why: &str) -> Status {
    Status::missing(
        format!("{} cannot be used: {why}", directory.display()),
        "name a directory of the cgroup v2 hierarchy that is delegated to this user as cgroup.directory",
    )
}

/// Root and mount point of a line of mountinfo that is a cgroup v2 hierarchy's.
fn v2_mount(line: &str) -> Option<(&str, &str)> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    kind.starts_with("cgroup2 ").then_some(())?;
    Some((fields.next()?, fields.next()?))
}

/// The controllers of a v1 hierarchy, from its line in `/proc/self/cgroup`.
fn v1_controllers(line: &str) -> Option<impl Iterator<Item = &str>> {
    let (number, rest) = line.split_once(':')?;
    let (controllers, _) = rest.split_once(':')?;
    (number != "0").then(|| controllers.split(','))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                          32 23 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    fn look(own: &str, mounts: &str, controllers: &str, writable: bool) -> Result<String, String> {
        let found = Cgroup::find(own, mounts, |_| Some(controllers.to_owned()));
        match found.and_then(|cgroup| cgroup.with_these(&WANTED, |_| writable)) {
            Ok(cgroup) => Ok(cgroup.directory.display().to_string()),
            Err(Status::Missing { why, .. }) => Err(why),
            Err(Status::Available { detail }) => panic!("{detail}"),
        }
    }

    #[test]
    fn a_delegated_cgroup_is_found_where_it_is() {
        let own = "0::/user.slice/app.scope\n";
        let found = look(own, V2, "cpuset cpu io memory pids", true).unwrap();
        assert_eq!(found, "/sys/fs/cgroup/user.slice/app.scope");
        // A container that sees only its own part.
        let part = V2.replace(" / /sys", " /docker/1 /sys");
        let found = look("0::/docker/1/x\n", &part, "memory cpu pids", true).unwrap();
        assert_eq!(found, "/sys/fs/cgroup/x");
    }

    #[test]
    fn what_is_missing_is_said() {
        let none = look(
            "4:memory:/\n",
            "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            "",
            true,
        );
        assert_eq!(none.unwrap_err(), "no cgroup v2 hierarchy is mounted");
        let hybrid = look("8:pids:/\n4:memory:/a\n1:cpu,cpuacct:/\n0::/\n", HYBRID, "", true).unwrap_err();
        assert!(
            hybrid.contains("hybrid") && hybrid.contains("pids, memory, cpu belong to cgroup v1"),
            "{hybrid}"
        );
        assert!(hybrid.contains("/sys/fs/cgroup/unified/ has none"), "{hybrid}");
        let few = look("0::/a\n", V2, "memory pids", true).unwrap_err();
        assert_eq!(few, "the controllers cpu are not delegated to /sys/fs/cgroup/a");
        let closed = look("0::/a\n", V2, "memory pids cpu", false).unwrap_err();
        assert_eq!(closed, "/sys/fs/cgroup/a/ is not writable");
        let unreadable = Cgroup::find("0::/a\n", V2, |_| None);
        assert!(matches!(unreadable, Err(Status::Missing { why, .. }) if why.contains("cannot be read")));
        let no_directory = Cgroup::named(Path::new("/dev"));
        assert!(
            matches!(no_directory, Err(Status::Missing { why, .. }) if why.contains("/dev cannot be used"))
        );
        for garbage in ["", "0", "::", "0:", " - cgroup2 ", "1 - cgroup2 x"] {
            assert!(look(garbage, garbage, garbage, true).is_err(), "{garbage:?}");
        }
    }
}
