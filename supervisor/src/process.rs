//! What the processes that the supervisor starts have in common: each inherits a control socket and nothing else.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ipc::control::CONTROL_FD;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, errno};

/// A process that was started for this one. Dropping it ends it.
#[derive(Debug)]
pub(crate) enum Started {
    /// A child.
    Own(Child),
    /// A child of the spawner's, which reaps it.
    Spawned {
        /// Its process id. Nothing is done by it.
        id: u32,
        pidfd: OwnedFd,
    },
}

impl Started {
    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Own(child) => child.id(),
            Self::Spawned { id, .. } => *id,
        }
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&mut self) -> bool {
        match self {
            Self::Own(child) => matches!(child.try_wait(), Ok(None)),
            Self::Spawned { pidfd, .. } => {
                matches!(poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO), Ok(0))
            }
        }
    }

    /// Kills it and waits until it is dead.
    pub(crate) fn end(&mut self) {
        match self {
            Self::Own(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Spawned { pidfd, .. } => {
                if crate::instance::kill(pidfd.as_fd()).is_ok() {
                    let mut process = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                    while poll(&mut process, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
                }
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.end();
    }
}

/// A descriptor for this thread's runtime to watch for something to read.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value owns its descriptor and keeps it as long as it is registered.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// A pair of connected control sockets.
pub(crate) fn sockets() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(errno("create a control socket"))
}

/// An empty memory file that can be sealed.
pub(crate) fn memory_file(name: &CStr) -> Result<File, Error> {
    memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
        .map(File::from)
        .map_err(errno("create a memory file"))
}

/// Starts a program under this name. It has no argument, no environment, and no descriptor but `socket`, at its number.
pub(crate) fn start(program: &Path, name: &CStr, socket: OwnedFd) -> io::Result<Child> {
    let control = socket.as_raw_fd();
    let mut command = Command::new(program);
    command.arg0(OsStr::from_bytes(name.to_bytes())).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: runs between fork and exec; `dup2`, `fcntl` and `close_range` are async-signal-safe and allocate nothing.
    unsafe {
        command.pre_exec(move || {
            let moved = if control == CONTROL_FD {
                libc::fcntl(control, libc::F_SETFD, 0)
            } else {
                libc::dup2(control, CONTROL_FD)
            };
            if moved < 0 {
                return Err(io::Error::last_os_error());
            }
            // Everything of the host app but the control socket closes at exec, however it was opened. The kernel is 5.11 or
            // later wherever Landlock is.
            let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
            if libc::syscall(libc::SYS_close_range, CONTROL_FD + 1, u32::MAX, flags) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn()
}
