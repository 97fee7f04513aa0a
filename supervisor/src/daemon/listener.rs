//! The daemon's socket: who may serve it, who may connect, and that nothing of it stays behind.
//!
//! Two daemons must not fight for one path. The right to serve `PATH` is an flock(2) on `PATH.lock`, which the kernel
//! gives back however the process ends. Its holder may remove a socket at `PATH` that nobody serves.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use tokio::net::UnixListener;

/// Connections that may wait to be accepted; the sysctl net.core.somaxconn may allow fewer.
const BACKLOG: i32 = 1024;
/// How long accepting pauses when the process can open no more files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the daemon cannot serve a socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The directory of the socket does not exist and cannot be made.
    #[error("cannot make the directory {}: {source}; give another path with --socket", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The lock file cannot be opened.
    #[error("cannot open the lock file {}: {source}; give another path with --socket", path.display())]
    LockFile {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon holds the lock, or answers on the socket.
    #[error("another daemon serves {}; stop it, or give another path with --socket", path.display())]
    Served {
        /// The socket.
        path: PathBuf,
    },
    /// Something at the path is not a socket.
    #[error("{} exists and is not a socket; remove it, or give another path with --socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// What is at the path cannot be examined or removed.
    #[error("cannot replace the old socket {}: {source}", path.display())]
    Stale {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {}: {source}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A peer that may not connect.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Its credentials cannot be had.
    #[error("the credentials of the peer cannot be read: {0}")]
    Unknown(#[source] io::Error),
    /// It is another user.
    #[error("it serves user {own} and root only, not user {peer}")]
    Stranger {
        /// The daemon's user.
        own: u32,
        /// The peer's user.
        peer: u32,
    },
}

/// The socket of a daemon. Dropping it removes the socket and the lock file.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    socket: Placed,
    // Dropped last: as long as the socket exists, the path is ours.
    _lock: Lock,
}

impl Listener {
    /// Takes the right to serve `path`, replaces a socket there that nobody serves, and listens.
    /// The socket's mode is 0600 from the moment it exists. The last directory of the path is made (mode 0700)
    /// if it does not exist. Must be called inside a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        make_directory(path)?;
        let lock = Lock::take(path)?;
        remove_stale(path)?;
        let listen_error = |source| ListenError::Listen { path: path.to_path_buf(), source };
        let fd = bind_private(path).map_err(|e| listen_error(e.into()))?;
        // From here on the socket exists and must not stay behind.
        let socket = Placed::at(path).map_err(listen_error)?;
        listen(&fd, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN)).map_err(|e| listen_error(e.into()))?;
        let listener = UnixListener::from_std(fd.into()).map_err(listen_error)?;
        Ok(Self { listener, socket, _lock: lock })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.socket.path
    }

    /// The next connection, which belongs to no event loop yet. A client that is gone before it is accepted is passed over; when no file can be opened
    /// the others wait.
    pub async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => return stream,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

/// Whether the process at the other end may use the daemon: its own user, and root.
pub fn check_peer(stream: &UnixStream) -> Result<(), PeerError> {
    check_owner(user(stream).map_err(PeerError::Unknown)?)
}

/// The user id of the process at the other end (`SO_PEERCRED`, unix(7)).
pub(super) fn user(stream: &UnixStream) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(stream)?.uid.as_raw())
}

/// Whether a user is the daemon's own, or root.
pub(super) fn check_owner(peer: u32) -> Result<(), PeerError> {
    let own = nix::unistd::geteuid().as_raw();
    if peer == own || peer == 0 { Ok(()) } else { Err(PeerError::Stranger { own, peer }) }
}

fn make_directory(path: &Path) -> Result<(), ListenError> {
    let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) else { return Ok(()) };
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(ListenError::Directory { path: directory.to_path_buf(), source })
        }
        _ => Ok(()),
    }
}

/// Removes a socket at `path` that nobody serves. The caller holds the lock.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let stale = |source| ListenError::Stale { path: path.to_path_buf(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(stale(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_path_buf() });
        }
        Ok(_) => {}
    }
    // Somebody who does not know of our lock may serve it.
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(stale(error)),
        Ok(_) => return Err(ListenError::Served { path: path.to_path_buf() }),
    }
    std::fs::remove_file(path).map_err(stale)
}

/// A socket bound to `path`, mode 0600. Linux gives the file that bind(2) makes the mode of the socket's own inode (less
/// the umask), so there is no moment at which others could connect, and no process-wide umask to change.
fn bind_private(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// A file of ours in the file system; removed when dropped, unless another has taken its place.
#[derive(Debug)]
struct Placed {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Placed {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_path_buf(), device: metadata.dev(), inode: metadata.ino() })
    }

    fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.dev() == self.device && m.ino() == self.inode)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if self.is_in_place() {
            // Nothing can be done about a failure, and nothing depends on it: the next daemon replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The right to serve a socket.
#[derive(Debug)]
struct Lock {
    // Dropped first: the file must be gone before the lock is, or a newcomer could lock a file that then vanishes.
    _file: Placed,
    _lock: Flock<File>,
}

impl Lock {
    fn take(socket: &Path) -> Result<Self, ListenError> {
        let mut path = socket.as_os_str().to_os_string();
        path.push(".lock");
        let path = PathBuf::from(path);
        let error = |source| ListenError::LockFile { path: path.clone(), source };
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
                .open(&path)
                .map_err(error)?;
            let metadata = file.metadata().map_err(error)?;
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(ListenError::Served { path: socket.to_path_buf() });
                }
                Err((_, errno)) => return Err(error(errno.into())),
            };
            let placed = Placed { path: path.clone(), device: metadata.dev(), inode: metadata.ino() };
            // A daemon that ended in between removed the file that we locked: then the lock means nothing.
            if placed.is_in_place() {
                return Ok(Self { _file: placed, _lock: lock });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
    }

    #[test]
    fn the_socket_is_private_and_leaves_nothing_behind() {
        let runtime = runtime();
        let _guard = runtime.enter();
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("run/sandboxd.sock");
        let listener = Listener::bind(&path).expect("bind");
        let mode = |p: &Path| std::fs::metadata(p).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().expect("parent")), 0o700);
        drop(listener);
        assert_eq!(std::fs::read_dir(directory.path().join("run")).expect("directory").count(), 0);
    }

    #[test]
    fn owners_are_the_own_user_and_root() {
        let own = nix::unistd::geteuid().as_raw();
        assert!(check_owner(own).is_ok() && check_owner(0).is_ok());
        for other in [own + 1, u32::MAX] {
            assert!(matches!(check_owner(other), Err(PeerError::Stranger { .. })), "{other}");
        }
    }

    #[test]
    fn one_daemon_per_socket() {
        let runtime = runtime();
        let _guard = runtime.enter();
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("s");
        let first = Listener::bind(&path).expect("bind");
        assert!(matches!(Listener::bind(&path), Err(ListenError::Served { .. })));
        assert!(path.exists(), "a refused second daemon must not remove the first one's socket");
        drop(first);
        Listener::bind(&path).expect("bind again");
    }

    #[test]
    fn a_socket_that_nobody_serves_is_replaced_one_that_somebody_serves_is_not() {
        let runtime = runtime();
        let _guard = runtime.enter();
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("s");
        let foreign = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        assert!(matches!(Listener::bind(&path), Err(ListenError::Served { .. })));
        drop(foreign);
        assert!(path.exists());
        Listener::bind(&path).expect("replace");
    }

    #[test]
    fn other_files_are_never_removed() {
        let runtime = runtime();
        let _guard = runtime.enter();
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("file");
        std::fs::write(&path, "precious").expect("write");
        assert!(matches!(Listener::bind(&path), Err(ListenError::NotASocket { .. })));
        assert_eq!(std::fs::read(&path).expect("read"), b"precious");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("symlink");
        assert!(matches!(Listener::bind(&link), Err(ListenError::NotASocket { .. })));
        let missing = directory.path().join("no/such/directory/s");
        assert!(matches!(Listener::bind(&missing), Err(ListenError::Directory { .. })));
        let long = directory.path().join("x".repeat(120));
        assert!(matches!(Listener::bind(&long), Err(ListenError::Listen { .. })));
    }
}
