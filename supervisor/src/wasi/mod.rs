//! WASI preview 1: the host calls that need the supervisor.
//!
//! The semantics are those of Wasmtime 48 where a guest can see them; the specification is
//! <https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md>. A call comes as a [`HostCall`], whose
//! ranges are checked but whose bytes the guest can still change: what is interpreted is copied out first, and
//! payloads go between the shared memory and the kernel without being looked at.
//!
//! Authority comes from descriptors alone. A guest has the three standard streams, the directories and sockets that the
//! host app opened for it, and what it opened below or accepted on those.

mod clocks;
mod descriptors;
mod directories;
mod errno;
mod files;
mod metadata;
mod path_calls;
mod paths;
mod poll;
mod rights;
mod socket_calls;
mod sockets;
mod streams;
#[cfg(test)]
mod tests;
mod types;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipc::direct;
use ipc::interface::FunctionId;
use ipc::report::{Limit, LimitReached};
use nix::unistd::UnlinkatFlags;

use self::clocks::GuestClocks;
use self::descriptors::{Descriptor, Descriptors};
use self::directories::OpenDirectory;
use self::errno::Errno;
use self::metadata::{Identities, NewTimes};
use self::paths::is_procfs;
use self::poll::{MAX_SUBSCRIPTIONS, poll_oneoff};
use self::rights::GivenUp;
use self::sockets::Socket;
pub use self::sockets::SocketError;
use self::streams::{Direction, Stream};
use self::types::{
    EVENT_BYTES, FdStat, FileStat, FileType, SUBSCRIPTION_BYTES, fdflags, flags16, fstflags,
    prestat_directory, rights as bits,
};
use crate::hostcall::{Answer, HostCall, SharedRegion};
use crate::job::Preopen;
use crate::observed::Observed;

/// What a guest gets.
#[derive(Debug)]
pub struct WasiConfig {
    /// Descriptors 0, 1 and 2. `None` reads as empty and swallows what is written.
    pub stdio: [Option<OwnedFd>; 3],
    /// Directories, from descriptor 3 on.
    pub preopens: Vec<Preopen>,
    /// Sockets, listening or connected, behind the directories.
    pub sockets: Vec<OwnedFd>,
    /// Descriptors open at a time, standard streams and preopened directories included.
    pub max_handles: u32,
    /// Bytes that may be written to standard output and standard error together.
    pub max_output_bytes: Option<u64>,
    /// The guest's clocks read multiples of this many nanoseconds.
    pub clock_resolution_ns: u64,
    /// Added (wrapping) to `CLOCK_MONOTONIC` in nanoseconds as the guest sees it; if it is deterministic, to the time that has
    /// passed for it.
    pub monotonic_offset: u64,
    /// Nothing that the guest sees depends on when and how fast it runs.
    pub deterministic: bool,
}

/// Why a guest cannot get what the host app passed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WasiError {
    /// More descriptors than the guest may have.
    #[error(
        "the job passes {passed} descriptors but its policy allows {max}: raise the limit of open handles or pass \
         fewer directories or sockets"
    )]
    TooManyHandles {
        /// Standard streams, directories and sockets.
        passed: usize,
        /// The limit.
        max: u32,
    },
    /// A preopened descriptor could not be examined.
    #[error("examining the directory for guest path `{guest_path}`: {source}")]
    ExaminePreopen {
        /// The guest's name of it.
        guest_path: String,
        /// The reason.
        source: nix::errno::Errno,
    },
    /// A preopened directory is in a procfs, where the guest would find the supervisor's memory.
    #[error(
        "the directory for guest path `{guest_path}` is in a procfs, which shows the supervisor itself: pass a \
         directory of another file system"
    )]
    PreopenIsProcfs {
        /// The guest's name of it.
        guest_path: String,
    },
    /// A preopened descriptor is something else.
    #[error("the descriptor for guest path `{guest_path}` is not a directory: pass an open directory")]
    PreopenIsNoDirectory {
        /// The guest's name of it.
        guest_path: String,
    },
    /// What was passed as a socket cannot be one of a guest.
    #[error("socket {index} of the job cannot be passed on: {source}; pass a stream or datagram socket")]
    Socket {
        /// Its position among the job's sockets.
        index: usize,
        /// Why not.
        source: SocketError,
    },
}

/// The WASI state of one instance. Dropping it closes everything that the guest had open; so does nothing else,
/// and a [`call`](Self::call) that is dropped before it completes leaves nothing behind.
#[derive(Debug)]
pub struct WasiContext {
    table: Descriptors,
    identities: Identities,
    clocks: GuestClocks,
    output_bytes: u64,
    max_output_bytes: Option<u64>,
    used_stdio: bool,
    used_sockets: bool,
    /// `path_open` was asked for something writable.
    opened_to_write: bool,
    /// What `path_open` opened last.
    opened: u32,
    /// Standard streams whose writes may fail for more than that nobody reads them, as bits by number.
    may_fail: u32,
    /// Why queued output could not be written, by stream: for the next call to tell.
    late_errors: [Option<Errno>; 3],
    /// Descriptors whose files the instance has, by slot.
    given: [Option<u32>; direct::SLOTS],
}

/// What an instance needs to know after a call, so that it need not ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Where the call's descriptor is now, if the instance keeps its position; what `path_open` opened.
    pub value: u64,
    /// Its `fdstat`, after `path_open`.
    pub opened: [u64; 3],
}

/// Why a call has no result.
#[derive(Debug, PartialEq)]
enum Stop {
    Errno(Errno),
    Limit(LimitReached),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<nix::errno::Errno> for Stop {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::Errno(errno.into())
    }
}

impl WasiContext {
    /// The state at the start of a guest.
    pub fn new(config: WasiConfig) -> Result<Self, WasiError> {
        let passed = config.stdio.len() + config.preopens.len() + config.sockets.len();
        let mut table = Descriptors::new(config.max_handles);
        let full = |_: Errno| WasiError::TooManyHandles { passed, max: config.max_handles };
        let stream = |fd, direction| Stream::new(fd, direction).patient(config.deterministic);
        let [input, output, error] = config.stdio;
        let fails =
            |fd: &Option<OwnedFd>| fd.as_ref().is_some_and(|fd| !streams::fails_only_unread(fd.as_fd()));
        let may_fail = u32::from(fails(&output)) << 1 | u32::from(fails(&error)) << 2;
        table.insert(Descriptor::Input(stream(input, Direction::In))).map_err(full)?;
        table.insert(Descriptor::Output(stream(output, Direction::Out))).map_err(full)?;
        table.insert(Descriptor::Output(stream(error, Direction::Out))).map_err(full)?;
        for Preopen { directory, guest_path, read_only } in config.preopens {
            match nix::sys::stat::fstat(&directory) {
                Err(source) => return Err(WasiError::ExaminePreopen { guest_path, source }),
                Ok(found) if found.st_mode & libc::S_IFMT != libc::S_IFDIR => {
                    return Err(WasiError::PreopenIsNoDirectory { guest_path });
                }
                Ok(_) => {}
            }
            match is_procfs(directory.as_fd()) {
                Err(source) => return Err(WasiError::ExaminePreopen { guest_path, source }),
                Ok(true) => return Err(WasiError::PreopenIsProcfs { guest_path }),
                Ok(false) => {}
            }
            let directory = OpenDirectory::preopened(directory, guest_path, read_only);
            table.insert(Descriptor::Directory(directory)).map_err(full)?;
        }
        for (index, socket) in config.sockets.into_iter().enumerate() {
            let socket = match Socket::new(socket).map_err(|source| WasiError::Socket { index, source })? {
                Socket::Listener(listener) => Descriptor::Listener(listener),
                Socket::Connection(connection) => Descriptor::Connection(connection),
            };
            table.insert(socket).map_err(full)?;
        }
        table.given();
        let clocks = GuestClocks {
            resolution: config.clock_resolution_ns,
            monotonic_offset: config.monotonic_offset,
            passed: config.deterministic.then_some(0),
        };
        Ok(Self {
            table,
            identities: Identities::new(config.deterministic),
            clocks,
            output_bytes: 0,
            max_output_bytes: config.max_output_bytes,
            used_stdio: false,
            used_sockets: false,
            opened_to_write: false,
            opened: 0,
            may_fail,
            late_errors: [None; 3],
            given: [None; direct::SLOTS],
        })
    }

    /// Descriptors that the guest has opened, or closed of those that it was given.
    pub fn changed_descriptors(&self) -> Vec<u32> {
        self.table.changed()
    }

    /// Bytes written to standard output and standard error so far.
    pub fn output_bytes(&self) -> u64 {
        self.output_bytes
    }

    /// Adds what the descriptors say to what the calls say.
    pub(crate) fn observe(&self, observed: &mut Observed) {
        observed.open_files = self.table.most();
        observed.used_stdio |= self.used_stdio;
        observed.wrote_files |= self.opened_to_write;
        observed.used_sockets |= self.used_sockets;
    }

    /// Serves a call. It waits where the guest asks to wait (a read of an empty pipe, `poll_oneoff`), without
    /// blocking the thread; that takes a tokio runtime with its I/O driver enabled.
    pub async fn call(&mut self, call: &HostCall<'_>) -> Answer {
        if let (Some(position), Ok(file)) = (call.position, self.table.seekable(call.value32(0))) {
            file.set_position(position);
        }
        match self.serve(call).await {
            Ok(written) => Answer::Done { errno: 0, written },
            Err(Stop::Errno(errno)) => Answer::Done { errno: errno as u16, written: 0 },
            Err(Stop::Limit(limit)) => Answer::Limit(limit),
        }
    }

    /// The file of a descriptor, if the instance may have it: then it can do with it what it can do over the ring, and no more.
    pub(crate) fn file_to_give(&self, fd: u64) -> Option<BorrowedFd<'_>> {
        let fd = u32::try_from(fd).ok()?;
        let file = self.table.file(fd).ok()?;
        // Whoever gave up a right is asked at every call.
        let whole = self.table.given_up(fd) == GivenUp::default();
        (whole && file.may_be_given()).then(|| file.as_fd())
    }

    /// Says what the instance has in a slot.
    pub(crate) fn given_in(&mut self, slot: usize, fd: Option<u64>) {
        if let Some(given) = self.given.get_mut(slot) {
            *given = fd.and_then(|fd| u32::try_from(fd).ok());
        }
    }

    /// The descriptor that a call would close or move although the instance has its file.
    pub(crate) fn held_by(&self, call: &HostCall<'_>) -> Option<u32> {
        let affected = match call.function {
            FunctionId::fd_close => &[0][..],
            FunctionId::fd_renumber => &[0, 1],
            _ => return None,
        };
        let mut affected = affected.iter().map(|arg| call.value32(*arg));
        affected.find(|fd| self.given.contains(&Some(*fd)))
    }

    /// What the instance needs to know after a call that succeeded.
    pub fn known_after(&self, call: &HostCall<'_>) -> Known {
        match call.function {
            FunctionId::path_open => match self.fdstat(self.opened) {
                Ok(stat) => {
                    Known { value: self.opened.into(), opened: zerocopy::transmute!(stat.to_bytes()) }
                }
                Err(_) => Known::default(),
            },
            _ if call.position.is_some() => {
                let position = self.table.file(call.value32(0)).map_or(0, |file| file.position());
                Known { value: position, ..Known::default() }
            }
            _ => Known::default(),
        }
    }

    /// Returns the bytes written to the variable-length output.
    async fn serve(&mut self, call: &HostCall<'_>) -> Result<usize, Stop> {
        for (argument, rights) in rights::needed(call) {
            // Of a number that stands for nothing, nothing was given up.
            self.table.given_up(call.value32(argument)).check(rights)?;
        }
        let done = match call.function {
            FunctionId::fd_read => return Ok(self.fd_read(call).await?),
            FunctionId::fd_pread => return Ok(self.fd_pread(call)?),
            FunctionId::fd_readdir => return Ok(self.fd_readdir(call).await?),
            FunctionId::fd_prestat_dir_name => return Ok(self.fd_prestat_dir_name(call)?),
            FunctionId::path_readlink => return Ok(self.path_readlink(call)?),
            FunctionId::poll_oneoff => return Ok(self.poll_oneoff(call).await?),
            FunctionId::fd_write => return self.fd_write(call).await,
            FunctionId::sock_recv => return Ok(self.sock_recv(call).await?),

            FunctionId::fd_advise => self.fd_advise(call),
            FunctionId::fd_allocate => self.fd_allocate(call).await,
            FunctionId::fd_close => self.table.remove(call.value32(0)).map(drop),
            FunctionId::fd_datasync => match self.table.file(call.value32(0)) {
                Ok(file) => file.data_sync().await,
                Err(errno) => Err(errno),
            },
            FunctionId::fd_fdstat_get => self.fd_fdstat_get(call),
            FunctionId::fd_fdstat_set_flags => self.fd_fdstat_set_flags(call),
            FunctionId::fd_fdstat_set_rights => self.fd_fdstat_set_rights(call),
            FunctionId::fd_filestat_get => self.fd_filestat_get(call),
            FunctionId::fd_filestat_set_size => {
                self.table.file(call.value32(0)).and_then(|file| file.set_size(call.value(1)))
            }
            FunctionId::fd_filestat_set_times => self.fd_filestat_set_times(call),
            FunctionId::fd_prestat_get => self.fd_prestat_get(call),
            FunctionId::fd_pwrite => self.fd_pwrite(call),
            FunctionId::fd_renumber => self.table.renumber(call.value32(0), call.value32(1)),
            FunctionId::fd_seek => self.fd_seek(call),
            FunctionId::fd_sync => match self.table.file(call.value32(0)) {
                Ok(file) => file.sync().await,
                Err(errno) => Err(errno),
            },
            FunctionId::fd_tell => self.fd_tell(call),
            FunctionId::path_create_directory => self.path_create_directory(call),
            FunctionId::path_filestat_get => self.path_filestat_get(call),
            FunctionId::path_filestat_set_times => self.path_filestat_set_times(call),
            FunctionId::path_link => self.path_link(call),
            FunctionId::path_open => self.path_open(call),
            FunctionId::path_remove_directory => self.path_remove(call, UnlinkatFlags::RemoveDir),
            FunctionId::path_rename => self.path_rename(call),
            FunctionId::path_symlink => self.path_symlink(call),
            FunctionId::path_unlink_file => self.path_remove(call, UnlinkatFlags::NoRemoveDir),
            // Where the instance has no time-stamp counter to read its clocks by, or is deterministic.
            FunctionId::clock_time_get => self.clock_time_get(call),
            FunctionId::proc_raise => Err(Errno::NotSupported),
            FunctionId::sock_accept => self.sock_accept(call).await,
            FunctionId::sock_send => self.sock_send(call).await,
            FunctionId::sock_shutdown => self.sock_shutdown(call),

            // Answered inside the instance: only one that is taken over sends them here.
            FunctionId::args_get
            | FunctionId::args_sizes_get
            | FunctionId::environ_get
            | FunctionId::environ_sizes_get
            | FunctionId::clock_res_get
            | FunctionId::proc_exit
            | FunctionId::random_get
            | FunctionId::sched_yield => Err(Errno::NotImplemented),
        };
        done?;
        Ok(0)
    }

    async fn fd_read(&mut self, call: &HostCall<'_>) -> Result<usize, Errno> {
        let into = call.region(1);
        let count = match self.table.get_mut(call.value32(0))? {
            Descriptor::File(file) => file.read(into)?,
            Descriptor::Input(stream) => {
                self.used_stdio = true;
                stream.read(into).await?
            }
            Descriptor::Connection(connection) => {
                self.used_sockets = true;
                connection.receive(into, 0).await?.0
            }
            Descriptor::Output(_) | Descriptor::Directory(_) | Descriptor::Listener(_) => {
                return Err(Errno::BadDescriptor);
            }
        };
        write_count(call.region(2), count);
        Ok(count)
    }

    fn fd_pread(&self, call: &HostCall<'_>) -> Result<usize, Errno> {
        let count = match self.table.get(call.value32(0))? {
            Descriptor::File(file) => file.read_at(call.region(1), call.value(2))?,
            Descriptor::Input(_) | Descriptor::Connection(_) => return Err(Errno::NotSeekable),
            Descriptor::Output(_) | Descriptor::Directory(_) | Descriptor::Listener(_) => {
                return Err(Errno::BadDescriptor);
            }
        };
        write_count(call.region(3), count);
        Ok(count)
    }

    /// Streams that an instance must not queue output for, as bits by number.
    pub(crate) fn refuses_queueing(&self) -> u32 {
        let failed = (0..).zip(&self.late_errors).filter(|(_, error)| error.is_some());
        failed.fold(self.may_fail, |bits, (stream, _): (u32, _)| bits | 1 << stream)
    }

    /// Writes some of what was queued for a standard stream, at least a byte. What cannot be written counts as written: the next call
    /// tells why.
    pub(crate) async fn write_queued(
        &mut self,
        stream: u32,
        from: SharedRegion<'_>,
    ) -> Result<usize, LimitReached> {
        let left = self.max_output_bytes.map_or(u64::MAX, |max| max.saturating_sub(self.output_bytes));
        // One that the guest has closed takes nothing.
        let Ok(Descriptor::Output(output)) = self.table.get_mut(stream) else { return Ok(from.len()) };
        self.used_stdio = true;
        if let (0, Some(value), false) = (left, self.max_output_bytes, from.is_empty()) {
            return Err(LimitReached { limit: Limit::Output, value });
        }
        let fits = from.prefix(usize::try_from(left).unwrap_or(usize::MAX));
        match output.write_some(fits).await {
            Ok(count) => {
                self.output_bytes = self.output_bytes.saturating_add(count as u64);
                Ok(count)
            }
            Err(error) => {
                if let Some(late) = self.late_errors.get_mut(stream as usize) {
                    *late = Some(error);
                }
                // It stays so: whatever comes after an error waits for its answer.
                self.may_fail |= 1u32.checked_shl(stream).unwrap_or(0);
                Ok(from.len())
            }
        }
    }

    async fn fd_write(&mut self, call: &HostCall<'_>) -> Result<usize, Stop> {
        let from = call.region(1);
        let late = self.late_errors.get_mut(call.value32(0) as usize).and_then(Option::take);
        if let (Some(error), Ok(Descriptor::Output(_))) = (late, self.table.get(call.value32(0))) {
            return Err(error.into());
        }
        let count = match self.table.get_mut(call.value32(0))? {
            Descriptor::File(file) => file.write(from)?,
            Descriptor::Output(stream) => {
                self.used_stdio = true;
                let left =
                    self.max_output_bytes.map_or(u64::MAX, |max| max.saturating_sub(self.output_bytes));
                let fits = from.prefix(usize::try_from(left).unwrap_or(usize::MAX));
                let count = stream.write(fits).await?;
                self.output_bytes = self.output_bytes.saturating_add(count as u64);
                if let Some(value) = self.max_output_bytes
                    && count == fits.len()
                    && count < from.len()
                {
                    return Err(Stop::Limit(LimitReached { limit: Limit::Output, value }));
                }
                count
            }
            Descriptor::Connection(connection) => {
                self.used_sockets = true;
                connection.send(from).await?
            }
            Descriptor::Input(_) | Descriptor::Directory(_) | Descriptor::Listener(_) => {
                return Err(Errno::BadDescriptor.into());
            }
        };
        write_count(call.region(2), count);
        Ok(0)
    }

    fn fd_pwrite(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        let count = match self.table.get(call.value32(0))? {
            Descriptor::File(file) => file.write_at(call.region(1), call.value(2))?,
            Descriptor::Output(_) | Descriptor::Connection(_) => return Err(Errno::NotSeekable),
            Descriptor::Input(_) | Descriptor::Directory(_) | Descriptor::Listener(_) => {
                return Err(Errno::BadDescriptor);
            }
        };
        write_count(call.region(3), count);
        Ok(())
    }

    fn fd_advise(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        self.table.file(call.value32(0))?.advise(call.value(1), call.value(2), call.value32(3))
    }

    async fn fd_allocate(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        self.table.file(call.value32(0))?.allocate(call.value(1), call.value(2)).await
    }

    fn fd_fdstat_get(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        call.region(1).write(0, &self.fdstat(call.value32(0))?.to_bytes());
        Ok(())
    }

    fn fdstat(&self, number: u32) -> Result<FdStat, Errno> {
        let stat = match self.table.get(number)? {
            Descriptor::Input(stream) => stream.stat(bits::FD_READ),
            Descriptor::Output(stream) => stream.stat(bits::FD_WRITE),
            Descriptor::Directory(directory) => directory.stat(),
            Descriptor::File(file) => file.stat(),
            Descriptor::Listener(listener) => listener.stat(),
            Descriptor::Connection(connection) => connection.stat(),
        };
        let GivenUp { base, inheriting } = self.table.given_up(number);
        Ok(FdStat { rights: stat.rights & !base, inheriting: stat.inheriting & !inheriting, ..stat })
    }

    fn fd_fdstat_set_flags(&mut self, call: &HostCall<'_>) -> Result<(), Errno> {
        let flags = flags16(call.value32(1), fdflags::ALL)?;
        match self.table.get_mut(call.value32(0))? {
            Descriptor::File(file) => file.set_flags(flags),
            Descriptor::Input(stream) | Descriptor::Output(stream) => stream.set_flags(flags),
            Descriptor::Listener(listener) => listener.0.set_flags(flags),
            Descriptor::Connection(connection) => connection.0.set_flags(flags),
            Descriptor::Directory(_) => Err(Errno::BadDescriptor),
        }
    }

    /// Rights can be given up, and are not given back.
    fn fd_fdstat_set_rights(&mut self, call: &HostCall<'_>) -> Result<(), Errno> {
        let (number, base, inheriting) = (call.value32(0), call.value(1), call.value(2));
        if (base | inheriting) & !bits::ALL != 0 {
            return Err(Errno::Invalid);
        }
        let held = self.fdstat(number)?;
        if base & !held.rights != 0 || inheriting & !held.inheriting != 0 {
            return Err(Errno::NotCapable);
        }
        let given_up = GivenUp { base: held.rights & !base, inheriting: held.inheriting & !inheriting };
        self.table.give_up(number, given_up);
        Ok(())
    }

    fn fd_filestat_get(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        let of_no_file = |file_type: FileType| FileStat {
            device: 0,
            inode: 0,
            file_type,
            links: 0,
            size: 0,
            accessed: 0,
            modified: 0,
            changed: 0,
        };
        let stat = match self.table.get(call.value32(0))? {
            Descriptor::Input(stream) | Descriptor::Output(stream) => of_no_file(stream.file_type()),
            Descriptor::Listener(listener) => of_no_file(listener.0.file_type()),
            Descriptor::Connection(connection) => of_no_file(connection.0.file_type()),
            Descriptor::Directory(directory) => metadata::stat(directory.as_fd(), &self.identities)?,
            Descriptor::File(file) => metadata::stat(file.as_fd(), &self.identities)?,
        };
        call.region(1).write(0, &stat.to_bytes());
        Ok(())
    }

    fn fd_filestat_set_times(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        let flags = flags16(call.value32(3), fstflags::ALL)?;
        let times = NewTimes::parse(call.value(1), call.value(2), flags)?;
        match self.table.get(call.value32(0))? {
            Descriptor::Directory(directory) => {
                directory.check_writable()?;
                times.set(directory.as_fd())
            }
            Descriptor::File(file) => {
                file.check_writable()?;
                times.set(file.as_fd())
            }
            Descriptor::Input(_)
            | Descriptor::Output(_)
            | Descriptor::Listener(_)
            | Descriptor::Connection(_) => Err(Errno::BadDescriptor),
        }
    }

    fn fd_prestat_get(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        let name = self.table.directory(call.value32(0))?.preopen_name().ok_or(Errno::BadDescriptor)?;
        let length = u32::try_from(name.len()).map_err(|_| Errno::Overflow)?;
        call.region(1).write(0, &prestat_directory(length));
        Ok(())
    }

    fn fd_prestat_dir_name(&self, call: &HostCall<'_>) -> Result<usize, Errno> {
        let Descriptor::Directory(directory) = self.table.get(call.value32(0))? else {
            return Err(Errno::NotDirectory);
        };
        let name = directory.preopen_name().ok_or(Errno::NotDirectory)?;
        let into = call.region(1);
        if name.len() > into.len() {
            return Err(Errno::NameTooLong);
        }
        Ok(into.write(0, name.as_bytes()))
    }

    async fn fd_readdir(&mut self, call: &HostCall<'_>) -> Result<usize, Errno> {
        let Descriptor::Directory(directory) = self.table.get_mut(call.value32(0))? else {
            return Err(Errno::BadDescriptor);
        };
        let count = directory.read_entries(call.region(1), call.value(2), &self.identities).await?;
        write_count(call.region(3), count);
        Ok(count)
    }

    fn fd_seek(&mut self, call: &HostCall<'_>) -> Result<(), Errno> {
        // The offset is signed.
        let position = self.table.seekable(call.value32(0))?.seek(call.value(1) as i64, call.value32(2))?;
        call.region(3).write(0, &position.to_le_bytes());
        Ok(())
    }

    fn fd_tell(&mut self, call: &HostCall<'_>) -> Result<(), Errno> {
        let position = self.table.seekable(call.value32(0))?.position();
        call.region(1).write(0, &position.to_le_bytes());
        Ok(())
    }

    fn clock_time_get(&mut self, call: &HostCall<'_>) -> Result<(), Errno> {
        let time = self.clocks.read(call.value32(0))?;
        call.region(2).write(0, &time.to_le_bytes());
        Ok(())
    }

    async fn poll_oneoff(&mut self, call: &HostCall<'_>) -> Result<usize, Errno> {
        let (subscriptions, events) = (call.region(0), call.region(1));
        let count = call.value32(2) as usize;
        // The ranges are of the guest's making: they must have the lengths that the number demands.
        if count == 0
            || count > MAX_SUBSCRIPTIONS
            || count.checked_mul(SUBSCRIPTION_BYTES) != Some(subscriptions.len())
            || count.checked_mul(EVENT_BYTES) != Some(events.len())
        {
            return Err(Errno::Invalid);
        }
        let due = poll_oneoff(&mut self.table, &mut self.clocks, subscriptions, events).await?;
        call.region(3).write(0, &due.to_le_bytes());
        Ok(due as usize * EVENT_BYTES)
    }
}

/// Writes a `size` result. What it counts lies in the arena, so it fits.
fn write_count(result: SharedRegion<'_>, count: usize) {
    result.write(0, &(count as u32).to_le_bytes());
}
