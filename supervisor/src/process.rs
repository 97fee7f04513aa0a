//! What the processes that the supervisor starts have in common: each inherits a control socket and nothing else
//! ([`crate::child`]).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::child::Child;
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
            Self::Own(child) => child.is_alive(),
            Self::Spawned { pidfd, .. } => {
                matches!(poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO), Ok(0))
            }
        }
    }

    /// Kills it and waits until it is dead.
    pub(crate) fn end(&mut self) {
        match self {
            Self::Own(child) => child.end(),
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
