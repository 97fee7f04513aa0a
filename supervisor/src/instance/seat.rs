//! What an instance needs before its job is known, so that it can be made ahead of the job.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::meter::{Meter, Used};
use super::shared_memory::SharedMemory;
use crate::error::{Error, errno, system};
use crate::pidfd::process_id;
use crate::zygote::listener::{Asking, Listener};
use crate::zygote::module::{Death, ModuleZygote, Spawned};

/// Shared memory and doorbell of one instance. Whoever gets it next finds nothing in it: [`Self::renew`].
#[derive(Debug)]
pub(crate) struct Seat {
    pub(super) shared: SharedMemory,
    pub(super) doorbell: AsyncFd<OwnedFd>,
}

impl Seat {
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self { shared: SharedMemory::new()?, doorbell: doorbell()? })
    }

    /// Makes it as good as new. Nobody but this process may have the memory mapped or the doorbell open any more.
    pub(super) fn renew(&self) -> Result<(), Error> {
        // An instance may have left any count, up to one that lets nobody ring any more (eventfd(2)).
        match nix::unistd::read(self.doorbell.get_ref(), &mut [0; 8]) {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => return Err(errno("empty a used doorbell")(error)),
        }
        self.shared.renew()
    }

    /// Has the process forked that belongs here. It waits for its job if [`SharedMemory::go`] was not called yet.
    pub(crate) async fn fork(&self, zygote: &ModuleZygote) -> Result<Process, Error> {
        let Spawned { pidfd, death } =
            zygote.spawn(self.shared.file(), self.doorbell.get_ref().as_fd()).await?;
        Ok(Process { pidfd, death, dead: false, meter: None })
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
        let seat = zygote.seats().take()?;
        seat.shared.write_prefault(&zygote.prefault().pages());
        let mut process = seat.fork(zygote).await?;
        process.meter = Meter::of(process.pidfd.as_fd());
        Ok(Self { seat, process })
    }

    /// Whether it lives, as far as its zygote has told; if not, how it ended, where that is known. To be asked until then.
    pub(crate) fn end(&mut self) -> Option<Option<Death>> {
        match self.process.death.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => None,
            told => Some(told.ok()),
        }
    }
}

/// Reads what a living process has used. Looks for it only when it is asked.
#[derive(Debug)]
pub(super) struct Gauge {
    pidfd: OwnedFd,
    meter: OnceCell<Option<Meter>>,
}

impl Gauge {
    /// What the process has used so far. `None`: cannot be told, or it is dead.
    pub(super) fn used(&self) -> Option<Used> {
        let used = self.meter.get_or_init(|| Meter::of(self.pidfd.as_fd())).as_ref()?.read()?;
        // As in `Process::used`.
        (!has_ended(self.pidfd.as_fd())).then_some(used)
    }
}

/// A process of an instance. Killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pidfd: OwnedFd,
    death: oneshot::Receiver<Death>,
    dead: bool,
    meter: Option<Meter>,
}

impl Process {
    /// Whether it is certainly dead, so that it has nothing mapped any more. By the kernel's word, not its zygote's.
    pub(super) fn is_gone(&self) -> bool {
        // pidfd_open(2): readable from its end on, which comes after the end of its memory.
        let mut process = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut process, PollTimeout::ZERO), Ok(1))
            && process[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
    }

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
        listener.serve(process_id(self.pidfd.as_fd())?, self.pidfd.as_fd()).ok()
    }

    /// Whether nobody has told of its death.
    pub(super) fn may_live(&self) -> bool {
        !self.dead
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

    /// What reads [`Self::used`] while somebody waits for the process's death. `None` without descriptors for it.
    pub(super) fn gauge(&self) -> Option<Gauge> {
        Some(Gauge { pidfd: self.pidfd.try_clone().ok()?, meter: OnceCell::new() })
    }

    /// Kills it, unless it is known to be dead.
    pub(super) fn kill(&self) {
        if !self.dead {
            // One that is dead without our knowing cannot be killed, which its zygote tells.
            let _ = kill(self.pidfd.as_fd());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
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
