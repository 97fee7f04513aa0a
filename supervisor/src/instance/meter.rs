//! What a living process has used, without asking its parent.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use crate::pidfd::process_id;

/// What a living process has used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    /// Microseconds.
    pub(super) cpu_us: u64,
    /// Bytes that are resident. No instance gives memory back, so that this is also its peak.
    pub(super) resident_bytes: u64,
}

/// Reads what a process has used, without its parent.
#[derive(Debug)]
pub(super) struct Meter {
    /// Its CPU time (clock_getcpuclockid(3)).
    clock: libc::clockid_t,
    /// `/proc/PID/statm`.
    statm: File,
}

impl Meter {
    /// `None` where this process cannot see the other in `/proc`.
    pub(super) fn of(pidfd: BorrowedFd<'_>) -> Option<Self> {
        let pid = process_id(pidfd)?;
        let statm = File::open(format!("/proc/{pid}/statm")).ok()?;
        let mut clock = 0;
        // SAFETY: `clock` is writable.
        let known = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } == 0;
        known.then_some(Self { clock, statm })
    }

    pub(super) fn read(&self) -> Option<Used> {
        let time = nix::time::clock_gettime(self.clock.into()).ok()?;
        let seconds = u64::try_from(time.tv_sec()).ok()?;
        let cpu_us = seconds.saturating_mul(1_000_000).saturating_add(time.tv_nsec() as u64 / 1000);
        let mut text = [0u8; 128];
        let length = self.statm.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..length)?).ok()?;
        // proc_pid_statm(5): size and resident pages.
        let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(Used { cpu_us, resident_bytes: pages.saturating_mul(ipc::layout::PAGE) })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    use super::*;

    #[test]
    fn a_living_process_is_metered() {
        let own = std::process::id();
        // SAFETY: takes no pointer; the result is checked before it is owned.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, own, 0);
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd as i32)
        };
        let used = Meter::of(pidfd.as_fd()).unwrap().read().unwrap();
        assert!(used.cpu_us > 0 && used.resident_bytes > 0, "{used:?}");
    }
}
