//! Standard input, output and error: whatever the host app passed for them, without ever blocking the thread.
//!
//! The open file descriptions are shared with other processes, so their flags are not touched. Sockets are asked
//! not to wait call by call. Pipes and most terminals are opened a second time, without waiting; where that is
//! refused, a call that must not wait is tried, and last the descriptor is polled before a small transfer.
//! Regular files and the like never wait; they are used as they are, so that the position is shared.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::task::{Context, Poll};

use nix::errno::Errno as LinuxErrno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::isatty;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::errno::Errno;
use super::types::{FdStat, FileType, fdflags};
use crate::hostcall::SharedRegion;

/// Largest transfer over a descriptor that can only be polled: what a pipe that polls as writable takes without
/// waiting, see pipe(7).
const POLLED_BYTES: usize = libc::PIPE_BUF;

/// Whether what is written to a stream can get lost only because nobody reads it: so that a failure may be told late. Not so for files,
/// where it may be the disk that is full.
pub(super) fn fails_only_unread(fd: BorrowedFd<'_>) -> bool {
    let Ok(found) = nix::sys::stat::fstat(fd) else { return false };
    match found.st_mode & libc::S_IFMT {
        libc::S_IFIFO | libc::S_IFSOCK => true,
        // A terminal, /dev/null.
        libc::S_IFCHR => found.st_rdev == libc::makedev(1, 3) || isatty(fd).unwrap_or(false),
        _ => false,
    }
}

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    /// The guest reads.
    In,
    /// The guest writes.
    Out,
}

/// One of the three standard streams.
#[derive(Debug)]
pub(super) struct Stream {
    /// `None` reads as empty and swallows what is written.
    source: Option<Source>,
    direction: Direction,
    /// The guest does not want to wait.
    nonblock: bool,
    /// It waits all the same, and a read fills the buffer: what the guest sees must not depend on when bytes arrive.
    patient: bool,
}

/// How a transfer is kept from waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// The kernel does not make it wait, or the description is ours and set to not wait.
    Plain,
    /// `MSG_DONTWAIT`.
    Socket,
    /// `RWF_NOWAIT`.
    NoWait,
    /// poll(2) before each transfer.
    Polled,
}

/// The kinds of character devices that are treated differently, see devices.txt of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CharacterDevice {
    /// Never waits.
    Memory,
    /// Opening it again gives the same terminal.
    Terminal,
    /// All others, such as the kernel log, which waits, and the names that each process, or each moment, has
    /// another terminal for: opening those again would not give what the host app passed, but a terminal of the
    /// supervisor or a new one.
    Other,
}

impl CharacterDevice {
    fn of(major: u32, minor: u32) -> Self {
        match (major, minor) {
            // null, zero, full, random, urandom.
            (1, 3 | 5 | 7 | 8 | 9) => Self::Memory,
            // tty0, whichever virtual console is in front.
            (4, 0) => Self::Other,
            // Virtual consoles and serial lines; the program's side of pseudoterminals.
            (4 | 136..=143, _) => Self::Terminal,
            // Also major 5: tty, console, ptmx.
            _ => Self::Other,
        }
    }
}

#[derive(Debug)]
struct Source {
    fd: Arc<OwnedFd>,
    /// Of `fd`, once it had to be waited for.
    readiness: Option<AsyncFd<Arc<OwnedFd>>>,
    method: Option<Method>,
    /// The event loop does not take it because it is always ready.
    always_ready: bool,
}

impl Stream {
    pub fn new(fd: Option<OwnedFd>, direction: Direction) -> Self {
        let source =
            fd.map(|fd| Source { fd: Arc::new(fd), readiness: None, method: None, always_ready: false });
        Self { source, direction, nonblock: false, patient: false }
    }

    /// The same, for a deterministic guest or another.
    pub fn patient(self, patient: bool) -> Self {
        Self { patient, ..self }
    }

    /// Only `NONBLOCK` has a meaning.
    pub fn set_flags(&mut self, flags: u16) -> Result<(), Errno> {
        if flags & !fdflags::NONBLOCK != 0 {
            return Err(Errno::Invalid);
        }
        self.nonblock = flags != 0;
        Ok(())
    }

    /// The `fdstat` of a stream with this right.
    pub fn stat(&self, right: u64) -> FdStat {
        let flags = if self.nonblock { fdflags::NONBLOCK } else { 0 };
        FdStat { file_type: self.file_type(), flags, rights: right, inheriting: right }
    }

    /// A terminal is a character device; what anything else is stays unknown, as in Wasmtime.
    pub fn file_type(&self) -> FileType {
        match &self.source {
            Some(source) if isatty(&*source.fd).unwrap_or(false) => FileType::CharacterDevice,
            _ => FileType::Unknown,
        }
    }

    /// Reads what there is, waiting for the first byte; a patient one until the buffer is full or the end is reached. Returns 0 at
    /// the end.
    pub async fn read(&mut self, into: SharedRegion<'_>) -> Result<usize, Errno> {
        let mut read = 0;
        loop {
            match self.read_some(into.skip(read)).await {
                Ok(count) => {
                    read += count;
                    if !self.patient || count == 0 {
                        return Ok(read);
                    }
                }
                Err(_) if read > 0 => return Ok(read),
                Err(error) => return Err(error),
            }
        }
    }

    async fn read_some(&mut self, into: SharedRegion<'_>) -> Result<usize, Errno> {
        let Some(source) = &mut self.source else { return Ok(0) };
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            match source.try_read(into) {
                Err(LinuxErrno::EAGAIN) if self.nonblock && !self.patient => return Err(Errno::Again),
                Err(LinuxErrno::EAGAIN) => source.wait(Direction::In).await?,
                Err(LinuxErrno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Writes at least a byte, waiting for room.
    pub async fn write_some(&mut self, from: SharedRegion<'_>) -> Result<usize, Errno> {
        let Some(source) = &mut self.source else { return Ok(from.len()) };
        loop {
            match source.try_write(from) {
                Err(LinuxErrno::EAGAIN) => source.wait(Direction::Out).await?,
                Err(LinuxErrno::EINTR) => {}
                // It would be tried for ever.
                Ok(0) => return Err(Errno::Io),
                other => return Ok(other?),
            }
        }
    }

    /// Writes everything, waiting for room; what there is room for, if the guest does not wait. An error after the first byte is left to the next call to find.
    pub async fn write(&mut self, from: SharedRegion<'_>) -> Result<usize, Errno> {
        let Some(source) = &mut self.source else { return Ok(from.len()) };
        let mut written = 0;
        while written < from.len() {
            match source.try_write(from.skip(written)) {
                Ok(count) => written += count,
                Err(LinuxErrno::EAGAIN) if self.nonblock && !self.patient => {
                    return if written > 0 { Ok(written) } else { Err(Errno::Again) };
                }
                Err(LinuxErrno::EAGAIN) => source.wait(Direction::Out).await?,
                Err(LinuxErrno::EINTR) => {}
                Err(_) if written > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written)
    }

    /// Whether a transfer would not wait now (it may report an end or an error).
    pub fn is_ready(&self) -> bool {
        self.source
            .as_ref()
            .is_none_or(|source| source.always_ready || is_ready(source.fd.as_fd(), self.direction))
    }

    /// Makes [`when_ready`](Self::when_ready) possible.
    pub fn watch(&mut self) -> Result<(), Errno> {
        match &mut self.source {
            Some(source) => source.register(self.direction),
            None => Ok(()),
        }
    }

    /// Completes when readiness may have changed since the last time, for a stream that was
    /// [watched](Self::watch) and is not always ready.
    pub fn when_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Errno>> {
        let Some(readiness) = self.source.as_ref().and_then(|source| source.readiness.as_ref()) else {
            return Poll::Ready(Ok(()));
        };
        let ready = match self.direction {
            Direction::In => readiness.poll_read_ready(context),
            Direction::Out => readiness.poll_write_ready(context),
        };
        ready.map(|guard| {
            // The caller polls the descriptor next; what arrives from here on sets the readiness again.
            guard?.clear_ready();
            Ok(())
        })
    }
}

impl Source {
    fn try_read(&mut self, into: SharedRegion<'_>) -> nix::Result<usize> {
        let method = self.method(Direction::In)?;
        let (fd, start) = (self.fd.as_raw_fd(), into.as_ptr());
        let count = match method {
            // SAFETY: the kernel writes at most `len` bytes to the region, which is mapped and writable for its
            // lifetime (contract of `SharedRegion::new`); no Rust reference to those bytes exists.
            Method::Plain => unsafe { libc::read(fd, start.cast(), into.len()) },
            // SAFETY: as for `Plain`.
            Method::Socket => unsafe { libc::recv(fd, start.cast(), into.len(), libc::MSG_DONTWAIT) },
            Method::NoWait => {
                let buffer = libc::iovec { iov_base: start.cast(), iov_len: into.len() };
                // SAFETY: as for `Plain`; the one iovec lives through the call.
                unsafe { libc::preadv2(fd, &buffer, 1, -1, libc::RWF_NOWAIT) }
            }
            Method::Polled => {
                if !is_ready(self.fd.as_fd(), Direction::In) {
                    return Err(LinuxErrno::EAGAIN);
                }
                // SAFETY: as for `Plain`.
                unsafe { libc::read(fd, start.cast(), into.len().min(POLLED_BYTES)) }
            }
        };
        self.transferred(count, method)
    }

    fn try_write(&mut self, from: SharedRegion<'_>) -> nix::Result<usize> {
        let method = self.method(Direction::Out)?;
        let (fd, start) = (self.fd.as_raw_fd(), from.as_ptr());
        let count = match method {
            // SAFETY: the kernel reads at most `len` bytes of the region, which is mapped for its lifetime
            // (contract of `SharedRegion::new`).
            Method::Plain => unsafe { libc::write(fd, start.cast(), from.len()) },
            Method::Socket => {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                // SAFETY: as for `Plain`.
                unsafe { libc::send(fd, start.cast(), from.len(), flags) }
            }
            Method::NoWait => {
                let buffer = libc::iovec { iov_base: start.cast(), iov_len: from.len() };
                // SAFETY: as for `Plain`; the one iovec lives through the call.
                unsafe { libc::pwritev2(fd, &buffer, 1, -1, libc::RWF_NOWAIT) }
            }
            Method::Polled => {
                if !is_ready(self.fd.as_fd(), Direction::Out) {
                    return Err(LinuxErrno::EAGAIN);
                }
                // SAFETY: as for `Plain`.
                unsafe { libc::write(fd, start.cast(), from.len().min(POLLED_BYTES)) }
            }
        };
        self.transferred(count, method)
    }

    fn transferred(&mut self, count: isize, method: Method) -> nix::Result<usize> {
        match LinuxErrno::result(count) {
            Err(LinuxErrno::EOPNOTSUPP) if method == Method::NoWait => {
                self.method = Some(Method::Polled);
                // Not `EAGAIN`: nothing says that it would have to wait.
                Err(LinuxErrno::EINTR)
            }
            // Not negative, or it would be an error.
            result => result.map(|count| count as usize),
        }
    }

    /// Decides at the first transfer how to do them: many jobs never touch their streams.
    fn method(&mut self, direction: Direction) -> nix::Result<Method> {
        if let Some(method) = self.method {
            return Ok(method);
        }
        let found = nix::sys::stat::fstat(&*self.fd)?;
        let method = match found.st_mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK => Method::Plain,
            libc::S_IFSOCK => Method::Socket,
            libc::S_IFIFO => self.open_again(direction)?,
            libc::S_IFCHR => {
                match CharacterDevice::of(libc::major(found.st_rdev), libc::minor(found.st_rdev)) {
                    CharacterDevice::Memory => Method::Plain,
                    CharacterDevice::Terminal if isatty(&*self.fd).unwrap_or(false) => {
                        self.open_again(direction)?
                    }
                    CharacterDevice::Terminal | CharacterDevice::Other => Method::Polled,
                }
            }
            _ => Method::NoWait,
        };
        self.method = Some(method);
        Ok(method)
    }

    /// Replaces the descriptor by one of a description of our own that does not wait, where the kernel allows.
    fn open_again(&mut self, direction: Direction) -> nix::Result<Method> {
        // Never more access than the host app has: it may lack the right to read or write what it passed, or, with
        // `O_PATH`, both.
        let flags = OFlag::from_bits_retain(fcntl(&*self.fd, FcntlArg::F_GETFL)?);
        let other = if direction == Direction::In { OFlag::O_WRONLY } else { OFlag::O_RDONLY };
        if flags.contains(OFlag::O_PATH) || flags & OFlag::O_ACCMODE == other {
            return Err(LinuxErrno::EBADF);
        }
        let again = OpenOptions::new()
            .read(direction == Direction::In)
            .write(direction == Direction::Out)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
        // Refused for what another user opened, and for a pipe whose readers are all gone.
        let Ok(again) = again else { return Ok(Method::NoWait) };
        self.readiness = None;
        self.fd = Arc::new(again.into());
        Ok(Method::Plain)
    }

    /// Waits until a transfer is worth trying again.
    async fn wait(&mut self, direction: Direction) -> Result<(), Errno> {
        self.register(direction)?;
        let Some(readiness) = &self.readiness else {
            // It would have to wait, but nothing tells until when.
            return Err(Errno::Again);
        };
        match direction {
            Direction::In => readiness.readable().await?.clear_ready(),
            Direction::Out => readiness.writable().await?.clear_ready(),
        }
        // The readiness may be older than the transfer that failed; then the next one fails and waits again.
        Ok(())
    }

    fn register(&mut self, direction: Direction) -> Result<(), Errno> {
        if self.readiness.is_some() || self.always_ready {
            return Ok(());
        }
        // Before the event loop knows the descriptor: this may replace it.
        self.method(direction)?;
        let interest = match direction {
            Direction::In => Interest::READABLE,
            Direction::Out => Interest::WRITABLE,
        };
        // SAFETY: an `OwnedFd` is one open descriptor as long as it lives, and the `AsyncFd` holds a share of it.
        let registered = unsafe { AsyncFd::register_with_interest(Arc::clone(&self.fd), interest) };
        match registered.map_err(std::io::Error::from) {
            Ok(readiness) => self.readiness = Some(readiness),
            // What epoll refuses never waits: regular files, /dev/null.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => self.always_ready = true,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn is_ready(fd: BorrowedFd<'_>, direction: Direction) -> bool {
    let events = match direction {
        Direction::In => PollFlags::POLLIN,
        Direction::Out => PollFlags::POLLOUT,
    };
    let mut polled = [PollFd::new(fd, events)];
    // Errors and hang-ups count: the transfer reports them without waiting. So does a poll that fails.
    !matches!(poll(&mut polled, PollTimeout::ZERO), Ok(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// A pipe whose end for the guest is used in a certain way, as if opening it again had been refused.
    fn stream(fd: impl Into<OwnedFd>, direction: Direction, method: Method) -> Stream {
        let mut stream = Stream::new(Some(fd.into()), direction);
        if let Some(source) = &mut stream.source {
            source.method = Some(method);
        }
        stream
    }

    fn region(bytes: &mut [u8]) -> SharedRegion<'_> {
        // SAFETY: the bytes are borrowed for as long as the region lives.
        unsafe { SharedRegion::new(bytes.as_mut_ptr(), bytes.len()) }
    }

    #[tokio::test]
    async fn pipes_that_cannot_be_opened_again_do_not_block_either() {
        for method in [Method::NoWait, Method::Polled] {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let mut input = stream(reader, Direction::In, method);
            let mut buffer = [0; 10];
            let (read, ()) = tokio::join!(input.read(region(&mut buffer)), async {
                tokio::task::yield_now().await;
                writer.write_all(b"late").unwrap();
            });
            assert_eq!(read, Ok(4), "{method:?}");
            assert_eq!(&buffer[..4], b"late");

            let (mut reader, writer) = std::io::pipe().unwrap();
            let mut output = stream(writer, Direction::Out, method);
            let mut data = vec![3; 300_000];
            let mut received = 0;
            let (written, ()) = tokio::join!(output.write(region(&mut data)), async {
                let mut part = vec![0; 10_000];
                while received < 300_000 {
                    tokio::task::yield_now().await;
                    received += reader.read(&mut part).unwrap();
                }
            });
            assert_eq!(written, Ok(300_000), "{method:?}");
            drop(reader);
            // A process that another test is just starting may hold a copy of the other end until it executes its program.
            let end = loop {
                match output.write(region(&mut data)).await {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(end, Errno::BrokenPipe, "{method:?}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_asked_not_to_wait_is_polled() {
        // Terminals do not know RWF_NOWAIT.
        // SAFETY: posix_openpt(3) takes an integer; a non-negative result is a new descriptor that nobody owns.
        let master = unsafe {
            use std::os::fd::FromRawFd;
            let fd = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
            assert!(fd >= 0);
            OwnedFd::from_raw_fd(fd)
        };
        let mut output = stream(master, Direction::Out, Method::NoWait);
        assert_eq!(output.write(region(&mut [b'x'; 5])).await, Ok(5));
        assert_eq!(output.source.unwrap().method, Some(Method::Polled));
    }

    #[test]
    fn only_what_stays_the_same_is_opened_again_and_only_what_never_waits_is_plain() {
        use CharacterDevice::{Memory, Other, Terminal};
        let of = CharacterDevice::of;
        for minor in 0..=255 {
            let expected = if [3, 5, 7, 8, 9].contains(&minor) { Memory } else { Other };
            assert_eq!(of(1, minor), expected, "{minor}");
            assert_eq!(of(5, minor), Other, "{minor}");
            assert_eq!(of(4, minor), if minor == 0 { Other } else { Terminal }, "{minor}");
        }
        for major in 136..=143 {
            assert_eq!(of(major, 0), Terminal);
        }
        for major in [0, 2, 3, 10, 128, 135, 144, 188, 229] {
            assert_eq!(of(major, 3), Other, "{major}");
        }
    }

    #[tokio::test]
    async fn a_multiplexer_of_terminals_is_polled_as_it_was_passed() {
        let master = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/ptmx");
        let mut stream = Stream::new(Some(master.unwrap().into()), Direction::Out);
        let source = stream.source.as_mut().unwrap();
        let passed = source.fd.as_raw_fd();
        assert_eq!(source.method(Direction::Out), Ok(Method::Polled));
        assert_eq!(source.fd.as_raw_fd(), passed);
    }

    #[tokio::test]
    async fn a_pipe_gets_a_description_of_its_own() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        let mut input = Stream::new(Some(reader.into()), Direction::In);
        input.read(region(&mut [0])).await.unwrap();
        let source = input.source.unwrap();
        assert_eq!(source.method, Some(Method::Plain));
        let flags = OFlag::from_bits_truncate(fcntl(&*source.fd, FcntlArg::F_GETFL).unwrap());
        assert!(flags.contains(OFlag::O_NONBLOCK));
    }
}
