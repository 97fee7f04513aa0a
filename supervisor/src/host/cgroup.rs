//! Whether there is a cgroup v2 below which this process could give each tenant a cgroup with limits of its own.

use std::path::{Path, PathBuf};

use super::{Status, read};

/// The controllers that limits of tenants need.
const WANTED: [&str; 3] = ["memory", "cpu", "pids"];

const DELEGATE: &str = "run under a service manager that delegates a cgroup (systemd: Delegate=yes in the unit, or systemd-run --user --scope -p \
                        Delegate=yes), or as root";
const UNIFIED: &str =
    "boot with the unified cgroup hierarchy (systemd.unified_cgroup_hierarchy=1, cgroup_no_v1=all)";

pub(super) fn cgroup_v2() -> Status {
    let writable = |path: &Path| nix::unistd::eaccess(path, nix::unistd::AccessFlags::W_OK).is_ok();
    let own = read("/proc/self/cgroup").unwrap_or_default();
    let mounts = read("/proc/self/mountinfo").unwrap_or_default();
    status(&own, &mounts, |path| read(path), writable)
}

/// From the texts of `/proc/self/cgroup` and `/proc/self/mountinfo` (cgroups(7), proc_pid_mountinfo(5)).
fn status(
    own: &str,
    mounts: &str,
    read: impl Fn(&Path) -> Option<String>,
    writable: impl Fn(&Path) -> bool,
) -> Status {
    let Some((root, point)) = mounts.lines().find_map(v2_mount) else {
        return Status::missing("no cgroup v2 hierarchy is mounted", UNIFIED);
    };
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) else {
        return Status::missing("this process is in no cgroup v2", UNIFIED);
    };
    let below = path.strip_prefix(root).unwrap_or(path).trim_start_matches('/');
    let directory = PathBuf::from(point).join(below);
    let shown = directory.display();
    let Some(controllers) = read(&directory.join("cgroup.controllers")) else {
        let why = format!("the cgroup of this process, {shown}, cannot be read");
        return Status::missing(
            why,
            "mount the cgroup v2 hierarchy as this process's cgroup namespace sees it",
        );
    };
    let missing =
        |has: &str| WANTED.into_iter().filter(|w| !has.split_whitespace().any(|h| h == *w)).collect();
    let absent: Vec<&str> = missing(&controllers);
    if !absent.is_empty() {
        let in_v1: Vec<&str> =
            own.lines().filter_map(v1_controllers).flatten().filter(|c| absent.contains(c)).collect();
        return if in_v1.is_empty() {
            let why = format!("the controllers {} are not delegated to {shown}", absent.join(", "));
            Status::missing(why, DELEGATE)
        } else {
            let why = format!(
                "a hybrid hierarchy: the controllers {} belong to cgroup v1, so that cgroup v2 at {point} has {}",
                in_v1.join(", "),
                if controllers.is_empty() { "none" } else { controllers.as_str() },
            );
            Status::missing(why, UNIFIED)
        };
    }
    for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
        let path = directory.join(file);
        if !writable(&path) {
            return Status::missing(format!("{} is not writable", path.display()), DELEGATE);
        }
    }
    Status::with(format!("delegated at {shown}: {controllers} (sandboxd sets no limits there yet)"))
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
        match status(own, mounts, |_| Some(controllers.to_owned()), |_| writable) {
            Status::Available { detail } => Ok(detail),
            Status::Missing { why, .. } => Err(why),
        }
    }

    #[test]
    fn a_delegated_cgroup_is_found_where_it_is() {
        let own = "0::/user.slice/app.scope\n";
        let found = look(own, V2, "cpuset cpu io memory pids", true).unwrap();
        assert!(found.starts_with("delegated at /sys/fs/cgroup/user.slice/app.scope: cpuset cpu"), "{found}");
        // A container that sees only its own part.
        let part = V2.replace(" / /sys", " /docker/1 /sys");
        let found = look("0::/docker/1/x\n", &part, "memory cpu pids", true).unwrap();
        assert!(found.starts_with("delegated at /sys/fs/cgroup/x: "), "{found}");
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
        assert!(hybrid.contains("/sys/fs/cgroup/unified has none"), "{hybrid}");
        let few = look("0::/a\n", V2, "memory pids", true).unwrap_err();
        assert_eq!(few, "the controllers cpu are not delegated to /sys/fs/cgroup/a");
        let closed = look("0::/a\n", V2, "memory pids cpu", false).unwrap_err();
        assert_eq!(closed, "/sys/fs/cgroup/a/ is not writable");
        assert!(
            matches!(status("0::/a\n", V2, |_| None, |_| true), Status::Missing { why, .. } if why.contains("cannot be read"))
        );
        for garbage in ["", "0", "::", "0:", " - cgroup2 ", "1 - cgroup2 x"] {
            assert!(look(garbage, garbage, garbage, true).is_err(), "{garbage:?}");
        }
    }
}
