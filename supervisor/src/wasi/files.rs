//! Regular files.
//!
//! The position lives here, not in the kernel: reads and writes name their offset, as in Wasmtime. The payload
//! goes between the file and the shared memory of the instance in one copy, made by the kernel.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno as LinuxErrno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::unistd::{fdatasync, fsync, ftruncate};

use super::errno::Errno;
use super::metadata;
use super::types::{FdStat, FileType, fdflags, rights, whence};
use crate::hostcall::SharedRegion;

/// An open regular file.
#[derive(Debug)]
pub(super) struct OpenFile {
    /// Shared with an operation that runs on a thread of its own while the guest's call is cancelled.
    fd: Arc<OwnedFd>,
    position: u64,
    append: bool,
    nonblock: bool,
    /// Opened for reading, by the guest's word or because it did not ask to write.
    readable: bool,
    writable: bool,
    /// Below a read-only preopen.
    read_only: bool,
    /// Opened with more access than the guest's word gives it: it was to be created or cut, not written.
    beyond_rights: bool,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileMode {
    pub readable: bool,
    pub writable: bool,
    pub read_only: bool,
    /// Writable for another reason than that the guest may write it.
    pub beyond_rights: bool,
    /// Of `fdflags`: `APPEND` and `NONBLOCK`.
    pub flags: u16,
}

impl OpenFile {
    pub fn new(fd: OwnedFd, mode: FileMode) -> Self {
        Self {
            fd: Arc::new(fd),
            position: 0,
            append: mode.flags & fdflags::APPEND != 0,
            nonblock: mode.flags & fdflags::NONBLOCK != 0,
            readable: mode.readable,
            writable: mode.writable,
            read_only: mode.read_only,
            beyond_rights: mode.beyond_rights,
        }
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Refuses changes below a read-only preopen.
    pub fn check_writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::NotPermitted) } else { Ok(()) }
    }

    /// Whether an instance can have the file: what it can do with the open file is what the guest may do with the descriptor. Where
    /// writes go only to the end it could write elsewhere.
    pub fn may_be_given(&self) -> bool {
        !self.append && !self.beyond_rights
    }

    pub fn stat(&self) -> FdStat {
        let mut allowed = rights::ALL;
        if !self.readable {
            allowed &= !(rights::FD_READ | rights::FD_READDIR);
        }
        if !self.writable {
            allowed &= !rights::FD_WRITE;
        }
        let mut flags = 0;
        if self.append {
            flags |= fdflags::APPEND;
        }
        if self.nonblock {
            flags |= fdflags::NONBLOCK;
        }
        FdStat { file_type: FileType::RegularFile, flags, rights: allowed, inheriting: allowed }
    }

    /// `APPEND` and `NONBLOCK` can be changed; the flags about synchronisation cannot.
    pub fn set_flags(&mut self, flags: u16) -> Result<(), Errno> {
        if flags & (fdflags::DSYNC | fdflags::RSYNC | fdflags::SYNC) != 0 {
            return Err(Errno::Invalid);
        }
        self.append = flags & fdflags::APPEND != 0;
        self.nonblock = flags & fdflags::NONBLOCK != 0;
        Ok(())
    }

    /// Reads at the position and moves it.
    pub fn read(&mut self, into: SharedRegion<'_>) -> Result<usize, Errno> {
        let count = self.read_at(into, self.position)?;
        self.position = self.position.checked_add(count as u64).ok_or(Errno::Overflow)?;
        Ok(count)
    }

    /// Reads at `offset`. Returns the bytes read, 0 at the end of the file.
    pub fn read_at(&self, into: SharedRegion<'_>, offset: u64) -> Result<usize, Errno> {
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::Invalid)?;
        // SAFETY: the kernel writes at most `len` bytes to the region, which is mapped and writable for its
        // lifetime (contract of `SharedRegion::new`); no Rust reference to those bytes exists.
        retry(|| unsafe { libc::pread(self.fd.as_raw_fd(), into.as_ptr().cast(), into.len(), offset) })
    }

    /// Writes at the position, or at the end if the file appends, and moves the position behind what it wrote.
    pub fn write(&mut self, from: SharedRegion<'_>) -> Result<usize, Errno> {
        let count = self.write_at(from, self.position)?;
        self.position = if self.append {
            metadata::size(self.as_fd())?
        } else {
            self.position.checked_add(count as u64).ok_or(Errno::Overflow)?
        };
        Ok(count)
    }

    /// Writes at `offset`, or at the end if the file appends (as pwrite(2) of Linux does).
    pub fn write_at(&self, from: SharedRegion<'_>, offset: u64) -> Result<usize, Errno> {
        let (offset, flags) = if self.append {
            (0, libc::RWF_APPEND)
        } else {
            (libc::off_t::try_from(offset).map_err(|_| Errno::Invalid)?, 0)
        };
        let buffer = libc::iovec { iov_base: from.as_ptr().cast(), iov_len: from.len() };
        // SAFETY: the kernel reads one iovec, which lives through the call, and at most `len` bytes of the
        // region, which is mapped for its lifetime (contract of `SharedRegion::new`).
        retry(|| unsafe { libc::pwritev2(self.fd.as_raw_fd(), &buffer, 1, offset, flags) })
    }

    /// Moves the position. It may lie behind the end of the file, but not before its beginning.
    pub fn seek(&mut self, offset: i64, from: u32) -> Result<u64, Errno> {
        let base = match from {
            whence::SET => 0,
            whence::CUR => self.position,
            whence::END => metadata::size(self.as_fd())?,
            _ => return Err(Errno::Invalid),
        };
        self.position = base.checked_add_signed(offset).ok_or(Errno::Invalid)?;
        Ok(self.position)
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    /// Moves the position, as the instance says that it has done.
    pub fn set_position(&mut self, position: u64) {
        self.position = position;
    }

    /// Tells the kernel how the file will be used.
    pub fn advise(&self, offset: u64, length: u64, advice: u32) -> Result<(), Errno> {
        let advice = match advice {
            0 => PosixFadviseAdvice::POSIX_FADV_NORMAL,
            1 => PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL,
            2 => PosixFadviseAdvice::POSIX_FADV_RANDOM,
            3 => PosixFadviseAdvice::POSIX_FADV_WILLNEED,
            4 => PosixFadviseAdvice::POSIX_FADV_DONTNEED,
            5 => PosixFadviseAdvice::POSIX_FADV_NOREUSE,
            _ => return Err(Errno::Invalid),
        };
        // Numbers beyond the kernel's signed ones turn negative: it refuses such a length and clamps such an
        // offset.
        posix_fadvise(&*self.fd, offset as libc::off_t, length as libc::off_t, advice)?;
        Ok(())
    }

    /// Cuts the file to `size` bytes, or extends it with zeroes.
    pub fn set_size(&self, size: u64) -> Result<(), Errno> {
        self.check_writable()?;
        ftruncate(&*self.fd, libc::off_t::try_from(size).map_err(|_| Errno::Invalid)?)?;
        Ok(())
    }

    /// Reserves space for `length` bytes at `offset`; the file grows if they end behind its end.
    pub async fn allocate(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.check_writable()?;
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::Invalid)?;
        let length = libc::off_t::try_from(length).map_err(|_| Errno::Invalid)?;
        self.on_a_thread(move |fd| fallocate(fd, FallocateFlags::empty(), offset, length)).await
    }

    /// Waits until data and metadata are on the device.
    pub async fn sync(&self) -> Result<(), Errno> {
        self.on_a_thread(|fd| fsync(fd)).await
    }

    /// Waits until the data is on the device.
    pub async fn data_sync(&self) -> Result<(), Errno> {
        self.on_a_thread(|fd| fdatasync(fd)).await
    }

    /// Runs what may take long on a thread of its own: the caller's thread serves other instances too. If the
    /// call is cancelled meanwhile, the operation ends on its own and drops its share of the descriptor.
    async fn on_a_thread(
        &self,
        operation: impl FnOnce(&OwnedFd) -> nix::Result<()> + Send + 'static,
    ) -> Result<(), Errno> {
        let fd = Arc::clone(&self.fd);
        let done = tokio::task::spawn_blocking(move || operation(&fd)).await;
        done.map_err(|_| Errno::Io)?.map_err(Errno::from)
    }
}

/// Repeats a system call that a signal interrupted; its result is a count.
pub(super) fn retry(mut call: impl FnMut() -> isize) -> Result<usize, Errno> {
    loop {
        match LinuxErrno::result(call()) {
            // Not negative, or it would be an error.
            Ok(count) => return Ok(count as usize),
            Err(LinuxErrno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
