//! Whom a pidfd stands for.

use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct pidfd_info` in its first version, linux/pidfd.h.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    others: [u32; 9],
}

/// Asks for, and says that it was told: the process ids.
const PIDFD_INFO_PID: u64 = 1 << 0;

nix::ioctl_readwrite!(pidfd_get_info, 0xFF, 11, PidfdInfo);

/// The process id behind a pidfd, in this process's PID namespace. It is that process's as long as that has not been reaped.
pub(crate) fn process_id(pidfd: BorrowedFd<'_>) -> Option<i32> {
    by_kernel(pidfd).map(|(pid, _)| pid).or_else(|| process_id_by_proc(pidfd))
}

/// The process id of its parent; 0 for one outside of this PID namespace.
pub(crate) fn parent_id(pidfd: BorrowedFd<'_>) -> Option<i32> {
    by_kernel(pidfd).map(|(_, parent)| parent).or_else(|| parent_id_by_proc(process_id(pidfd)?))
}

/// Process and parent by `PIDFD_GET_INFO`, Linux 6.13.
fn by_kernel(pidfd: BorrowedFd<'_>) -> Option<(i32, i32)> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_PID, ..PidfdInfo::default() };
    // SAFETY: the request's number says how large the structure is, which is writable.
    unsafe { pidfd_get_info(pidfd.as_raw_fd(), &raw mut info) }.ok()?;
    let told = info.mask & PIDFD_INFO_PID != 0;
    let pid = i32::try_from(info.pid).ok().filter(|pid| told && *pid > 0)?;
    Some((pid, i32::try_from(info.ppid).ok()?))
}

/// The same on older kernels (pidfd_open(2)): `Pid` is the number in the namespace of the `/proc` that is asked.
fn process_id_by_proc(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim();
    pid.parse().ok().filter(|pid| *pid > 0)
}

/// proc_pid_stat(5): the second field after the name.
fn parent_id_by_proc(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    use super::*;

    #[test]
    fn a_process_and_its_parent_are_found_by_its_descriptor() {
        let own = std::process::id() as i32;
        let parent = std::os::unix::process::parent_id() as i32;
        // SAFETY: takes no pointer; the result is checked before it is owned.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, own, 0);
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd as i32)
        };
        assert_eq!((process_id_by_proc(pidfd.as_fd()), parent_id_by_proc(own)), (Some(own), Some(parent)));
        if let Some(told) = by_kernel(pidfd.as_fd()) {
            assert_eq!(told, (own, parent));
        }
        assert_eq!((process_id(pidfd.as_fd()), parent_id(pidfd.as_fd())), (Some(own), Some(parent)));
    }
}
