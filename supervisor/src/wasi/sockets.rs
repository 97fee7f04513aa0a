//! Sockets that the host app passed, and the connections that a guest accepts on them. A guest cannot make one.
//!
//! Data goes with `MSG_DONTWAIT`, call by call: the description of a connection may be shared with other processes. Nothing of
//! the kind exists for accept(2), and whoever shares the description can change its flags at any time; so it runs on a thread of its
//! own, where it holds up nobody.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::errno::Errno as LinuxErrno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, accept_with, shutdown, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::errno::Errno;
use super::files::retry;
use super::streams::Direction;
use super::types::{FdStat, FileType, fdflags, recvflags, rights, shutdownflags};
use crate::hostcall::SharedRegion;

/// How long a call of accept(2) may take that was promised a connection. Only one whose listener was set to wait meanwhile, and
/// whose connection another process took, takes any time; then the listener is shut down, so that the thread is free.
const ACCEPT_TIME: Duration = Duration::from_secs(1);

/// A descriptor that a job passes as a socket and that cannot be one of a guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Not a socket, or one that is not open for use.
    #[error("it is no socket that can be examined: {0}")]
    Examine(#[source] io::Error),
    /// Neither of the internet nor of this host.
    #[error("its address family is neither IPv4 nor IPv6 nor Unix")]
    Family,
    /// Neither a stream nor datagrams.
    #[error("it is neither a stream nor a datagram socket")]
    Type,
}

/// One of the two kinds, told by what the kernel says of it.
#[derive(Debug)]
pub(super) enum Socket {
    Listener(Listener),
    Connection(Connection),
}

impl Socket {
    /// Takes a socket of the host app. One that listens is set not to wait.
    pub fn new(fd: OwnedFd) -> Result<Self, SocketError> {
        let examine = |error: rustix::io::Errno| SocketError::Examine(error.into());
        let family = sockopt::socket_domain(&fd).map_err(examine)?;
        if ![AddressFamily::INET, AddressFamily::INET6, AddressFamily::UNIX].contains(&family) {
            return Err(SocketError::Family);
        }
        let file_type = match sockopt::socket_type(&fd).map_err(examine)? {
            SocketType::STREAM => FileType::SocketStream,
            SocketType::DGRAM => FileType::SocketDatagram,
            _ => return Err(SocketError::Type),
        };
        if !sockopt::socket_acceptconn(&fd).map_err(examine)? {
            return Ok(Self::Connection(Connection(Endpoint::new(fd, file_type))));
        }
        let flags = fcntl_getfl(&fd).map_err(examine)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(examine)?;
        Ok(Self::Listener(Listener(Endpoint::new(fd, file_type))))
    }
}

/// What both kinds have.
#[derive(Debug)]
pub(super) struct Endpoint {
    fd: Arc<OwnedFd>,
    file_type: FileType,
    nonblock: bool,
    /// Of `fd`, once it had to be waited for.
    readiness: Option<AsyncFd<Arc<OwnedFd>>>,
}

impl Endpoint {
    fn new(fd: OwnedFd, file_type: FileType) -> Self {
        Self { fd: Arc::new(fd), file_type, nonblock: false, readiness: None }
    }

    pub fn file_type(&self) -> FileType {
        self.file_type
    }

    /// Only `NONBLOCK` has a meaning.
    pub fn set_flags(&mut self, flags: u16) -> Result<(), Errno> {
        if flags & !fdflags::NONBLOCK != 0 {
            return Err(Errno::Invalid);
        }
        self.nonblock = flags != 0;
        Ok(())
    }

    fn stat(&self, rights: u64, inheriting: u64) -> FdStat {
        let flags = if self.nonblock { fdflags::NONBLOCK } else { 0 };
        FdStat { file_type: self.file_type, flags, rights, inheriting }
    }

    /// Whether a transfer would not wait now (it may report an end or an error).
    pub fn is_ready(&self, direction: Direction) -> bool {
        let events = match direction {
            Direction::In => PollFlags::POLLIN,
            Direction::Out => PollFlags::POLLOUT,
        };
        !matches!(poll(&mut [PollFd::new(self.fd.as_fd(), events)], PollTimeout::ZERO), Ok(0))
    }

    /// Bytes that can be read now. A stream that is ready without any is at its end.
    pub fn waiting(&self) -> Result<(u64, bool), Errno> {
        let bytes = rustix::io::ioctl_fionread(&*self.fd).map_err(io::Error::from)?;
        Ok((bytes, bytes == 0 && self.file_type == FileType::SocketStream))
    }

    /// Makes [`when_ready`](Self::when_ready) possible.
    pub fn watch(&mut self) -> Result<(), Errno> {
        if self.readiness.is_none() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            // SAFETY: an `OwnedFd` is one open descriptor as long as it lives, and the `AsyncFd` holds a share of it.
            let registered = unsafe { AsyncFd::register_with_interest(Arc::clone(&self.fd), interest) };
            self.readiness = Some(registered.map_err(io::Error::from)?);
        }
        Ok(())
    }

    /// Completes when readiness may have changed since the last time, for one that is [watched](Self::watch).
    pub fn when_ready(&self, direction: Direction, context: &mut Context<'_>) -> Poll<Result<(), Errno>> {
        let Some(readiness) = &self.readiness else { return Poll::Ready(Ok(())) };
        let ready = match direction {
            Direction::In => readiness.poll_read_ready(context),
            Direction::Out => readiness.poll_write_ready(context),
        };
        ready.map(|guard| {
            guard?.clear_ready();
            Ok(())
        })
    }

    /// Waits until another try is worth it, or answers that the guest does not want to wait.
    async fn wait(&mut self, direction: Direction) -> Result<(), Errno> {
        if self.nonblock {
            return Err(Errno::Again);
        }
        self.watch()?;
        std::future::poll_fn(|context| self.when_ready(direction, context)).await
    }
}

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Listener(pub Endpoint);

impl Listener {
    pub fn stat(&self) -> FdStat {
        let own = rights::SOCK_ACCEPT
            | rights::POLL_FD_READWRITE
            | rights::FD_FDSTAT_SET_FLAGS
            | rights::FD_FILESTAT_GET;
        self.0.stat(own, CONNECTION_RIGHTS)
    }

    /// The next connection, which is waited for.
    pub async fn accept(&mut self, flags: u16) -> Result<Connection, Errno> {
        if flags & !fdflags::NONBLOCK != 0 {
            return Err(Errno::Invalid);
        }
        loop {
            if self.0.is_ready(Direction::In) {
                match accept(Arc::clone(&self.0.fd)).await {
                    Ok(fd) => {
                        let mut connection = Endpoint::new(fd, self.0.file_type);
                        connection.nonblock = flags != 0;
                        return Ok(Connection(connection));
                    }
                    // Another process was faster.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            self.0.wait(Direction::In).await?;
        }
    }
}

/// Calls accept(2) on a thread. A task of its own sees to its end, also when the guest's call is cancelled.
pub(super) async fn accept(listener: Arc<OwnedFd>) -> io::Result<OwnedFd> {
    let task = tokio::spawn(async move {
        let held = Arc::clone(&listener);
        let mut accepting = tokio::task::spawn_blocking(move || {
            accept_with(&*held, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        });
        match tokio::time::timeout(ACCEPT_TIME, &mut accepting).await {
            Ok(done) => done,
            Err(_) => {
                let _ = shutdown(&*listener, Shutdown::Both);
                accepting.await
            }
        }
    });
    Ok(task.await.map_err(io::Error::other)?.map_err(io::Error::other)??)
}

const CONNECTION_RIGHTS: u64 = rights::FD_READ
    | rights::FD_WRITE
    | rights::SOCK_SHUTDOWN
    | rights::POLL_FD_READWRITE
    | rights::FD_FDSTAT_SET_FLAGS
    | rights::FD_FILESTAT_GET;

/// A socket that is connected, or one for datagrams.
#[derive(Debug)]
pub(super) struct Connection(pub Endpoint);

impl Connection {
    pub fn stat(&self) -> FdStat {
        self.0.stat(CONNECTION_RIGHTS, CONNECTION_RIGHTS)
    }

    /// Receives what there is, waiting for the first byte, or for all of them. Returns the bytes, 0 at the end, and whether a
    /// datagram was longer.
    pub async fn receive(&mut self, into: SharedRegion<'_>, flags: u16) -> Result<(usize, bool), Errno> {
        let peek = if flags & recvflags::PEEK != 0 { libc::MSG_PEEK } else { 0 };
        // What is only looked at comes again from its beginning.
        let all = flags & recvflags::WAIT_ALL != 0 && peek == 0 && self.0.file_type == FileType::SocketStream;
        let mut received = 0;
        loop {
            let rest = into.skip(received);
            let mut truncated = false;
            match self.try_receive(rest, peek, &mut truncated) {
                Ok(0) => return Ok((received, truncated)),
                Ok(count) => {
                    received += count;
                    if !all || received == into.len() {
                        return Ok((received, truncated));
                    }
                }
                Err(Errno::Again) if received > 0 && self.0.nonblock => return Ok((received, false)),
                Err(Errno::Again) => self.0.wait(Direction::In).await?,
                Err(_) if received > 0 => return Ok((received, false)),
                Err(error) => return Err(error),
            }
        }
    }

    fn try_receive(
        &self,
        into: SharedRegion<'_>,
        flags: libc::c_int,
        truncated: &mut bool,
    ) -> Result<usize, Errno> {
        let mut buffer = libc::iovec { iov_base: into.as_ptr().cast(), iov_len: into.len() };
        // SAFETY: integers and null pointers only, for which zero is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut buffer;
        message.msg_iovlen = 1;
        let fd = self.0.fd.as_raw_fd();
        // SAFETY: the header and its one iovec live through the call; the kernel writes at most `len` bytes to the region, which
        // is mapped and writable for its lifetime (contract of `SharedRegion::new`). Without room for control data, descriptors
        // that come along are closed by the kernel.
        let count = retry(|| unsafe { libc::recvmsg(fd, &raw mut message, flags | libc::MSG_DONTWAIT) })?;
        *truncated = message.msg_flags & libc::MSG_TRUNC != 0;
        Ok(count)
    }

    /// Sends everything, waiting for room; of a connection that does not wait, what there is room for. An error after the first
    /// byte is left to the next call to find.
    pub async fn send(&mut self, from: SharedRegion<'_>) -> Result<usize, Errno> {
        let mut sent = 0;
        loop {
            let rest = from.skip(sent);
            let (fd, flags) = (self.0.fd.as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
            // SAFETY: the kernel reads at most `len` bytes of the region, which is mapped for its lifetime (contract of
            // `SharedRegion::new`).
            match retry(|| unsafe { libc::send(fd, rest.as_ptr().cast(), rest.len(), flags) }) {
                Ok(count) => {
                    sent += count;
                    if sent == from.len() || self.0.file_type == FileType::SocketDatagram {
                        return Ok(sent);
                    }
                }
                Err(Errno::Again) if sent > 0 && self.0.nonblock => return Ok(sent),
                Err(Errno::Again) => self.0.wait(Direction::Out).await?,
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends one direction, or both.
    pub fn shutdown(&self, how: u32) -> Result<(), Errno> {
        let how = match how {
            shutdownflags::READ => Shutdown::Read,
            shutdownflags::WRITE => Shutdown::Write,
            how if how == shutdownflags::READ | shutdownflags::WRITE => Shutdown::Both,
            _ => return Err(Errno::Invalid),
        };
        shutdown(&*self.0.fd, how).map_err(|error| LinuxErrno::from_raw(error.raw_os_error()).into())
    }
}
