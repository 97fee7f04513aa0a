//! What an instance needs before its job is known, so that it can be made ahead of the job.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::shared_memory::SharedMemory;
use crate::error::{Error, system};
use crate::zygote::listener::{Asking, Listener};
use crate::zygote::module::{Death, ModuleZygote, Spawned};

/// Shared memory and doorbell of one instance. Never used for a second one.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(super) shared: SharedMemory,
    pub(super) doorbell: AsyncFd<OwnedFd>,
}

impl Seat {
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self { shared: SharedMemory::new()?, doorbell: doorbell()? })
    }

    /// Has the process forked that belongs here. It waits for its job if [`SharedMemory::go`] was not called yet.
    pub(crate) async fn fork(&self, zygote: &ModuleZygote) -> Result<Process, Error> {
        let Spawned { pidfd, death } =
            zygote.spawn(self.shared.file(), self.doorbell.get_ref().as_fd()).await?;
        Ok(Process { pidfd, death, dead: false, pid: None, meter: None })
    }
}

/// A forked and confined process that waits for its job.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) seat: Seat,
    pub(crate) process: Process,
}

impl Parked {
    /// Forks one.
    pub(crate) async fn new(zygote: &ModuleZygote) -> Result<Self, Error> {
        let seat = Seat::new()?;
        let mut process = seat.fork(zygote).await?;
        process.pid = host_pid(process.pidfd.as_fd());
        process.meter = process.pid.and_then(Meter::of);
        Ok(Self { seat, process })
    }

    /// Whether it lives, as far as its zygote has told.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.process.death.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }
}

/// A process of an instance. Killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pidfd: OwnedFd,
    death: oneshot::Receiver<Death>,
    dead: bool,
    /// Its process id in this process's view, where it is known already.
    pid: Option<u32>,
    meter: Option<Meter>,
}

impl Process {
    /// Waits until it is dead and reaped. An error: its zygote died first, or does not tell. Not to be asked again after that.
    pub(super) async fn death(&mut self, zygote: &ModuleZygote) -> Result<Death, Error> {
        let ended = || has_ended(self.pidfd.as_fd());
        let told = zygote.patiently(ended, &mut self.death).await;
        let death = told.and_then(Result::ok).ok_or_else(|| zygote.died());
        self.dead = death.is_ok();
        death
    }

    /// Has the process's calls for files served, which are refused before that and wherever it cannot be told apart from others.
    pub(super) fn asking(&self, listener: &Rc<Listener>) -> Option<Asking> {
        let pid = self.pid.or_else(|| host_pid(self.pidfd.as_fd()))?;
        listener.serve(pid, self.pidfd.as_fd()).ok()
    }

    /// Whether [`Self::used`] can be asked.
    pub(super) fn is_metered(&self) -> bool {
        self.meter.is_some()
    }

    /// What it has used so far. `None`: cannot be told, or it is dead.
    pub(super) fn used(&self) -> Option<Used> {
        let used = self.meter.as_ref()?.read()?;
        // While it lives its process id is nobody else's, so the figures are its own.
        (!has_ended(self.pidfd.as_fd())).then_some(used)
    }

    /// Kills it. Does nothing if it is dead, which its zygote tells.
    pub(super) fn kill(&self) {
        let _ = kill(self.pidfd.as_fd());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.dead {
            self.kill();
        }
    }
}

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
struct Meter {
    /// Its CPU time (clock_getcpuclockid(3)).
    clock: libc::clockid_t,
    /// `/proc/PID/statm`.
    statm: File,
}

impl Meter {
    /// `None` where this process cannot see the other in `/proc`.
    fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        let statm = File::open(format!("/proc/{pid}/statm")).ok()?;
        let mut clock = 0;
        // SAFETY: `clock` is writable.
        let known = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } == 0;
        known.then_some(Self { clock, statm })
    }

    fn read(&self) -> Option<Used> {
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

/// The process id behind a pidfd, in this process's view.
fn host_pid(pidfd: BorrowedFd<'_>) -> Option<u32> {
    // pidfd_open(2): `Pid` is the number in the namespace of the `/proc` that is asked.
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim();
    // 0: it is not seen; -1: it is dead.
    pid.parse().ok().filter(|pid| *pid > 0)
}

/// Whether the process behind a pidfd has ended, reaped or not; also when that cannot be told.
pub(crate) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut process = [PollFd::new(pidfd, PollFlags::POLLIN)];
    !matches!(poll(&mut process, PollTimeout::ZERO), Ok(0))
}

/// Kills the process behind a pidfd.
pub(crate) fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no memory of ours: the third argument, a siginfo, is null.
    let killed = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<u8>(),
            0,
        )
    };
    if killed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The eventfd with which an instance calls.
fn doorbell() -> Result<AsyncFd<OwnedFd>, Error> {
    let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK;
    // SAFETY: takes no pointer; the result is checked before it is owned.
    let fd = unsafe {
        let fd = libc::eventfd(0, flags);
        if fd < 0 {
            return Err(Error::System { what: "create a doorbell", source: io::Error::last_os_error() });
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: the value owns its descriptor and keeps it as long as it is registered.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(|e| system("watch a doorbell")(e.into()))
}
