//! Directories: opening what is below them, and listing them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipc::nospec;
use nix::dir::{Dir, OwningIter, Type};
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat};

use super::errno::Errno;
use super::files::{FileMode, OpenFile};
use super::metadata::{self, Identities};
use super::paths::{is_plain_name, locate, open_beneath};
use super::types::{FdStat, FileType, dirent, fdflags, oflags, rights};
use crate::hostcall::SharedRegion;

/// Entries that a listing keeps after it delivered them, so that a guest whose buffer ended inside one goes on
/// there without a new listing.
const RECENT_ENTRIES: usize = 128;
/// Entries after which a listing lets other tasks of the thread run.
const ENTRIES_PER_TURN: u64 = 1024;

/// An open directory.
#[derive(Debug)]
pub(super) struct OpenDirectory {
    fd: OwnedFd,
    /// The guest's name of a preopened directory.
    preopen: Option<String>,
    readable: bool,
    /// Nothing below may be changed.
    read_only: bool,
    listing: Option<Listing>,
}

/// What `path_open` opened.
#[derive(Debug)]
pub(super) enum Opened {
    Directory(OpenDirectory),
    File(OpenFile),
}

/// The parameters of `path_open`, without the path.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenOptions {
    pub follow: bool,
    pub oflags: u16,
    pub rights: u64,
    pub fdflags: u16,
}

impl OpenOptions {
    /// Whether a read-only directory refuses such an open.
    pub fn writable(&self) -> bool {
        self.rights & rights::FD_WRITE != 0 || self.oflags & (oflags::CREATE | oflags::TRUNCATE) != 0
    }
}

impl OpenDirectory {
    /// A directory that the host app gave the guest.
    pub fn preopened(fd: OwnedFd, name: String, read_only: bool) -> Self {
        Self { fd, preopen: Some(name), readable: true, read_only, listing: None }
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The guest's name, if it was preopened.
    pub fn preopen_name(&self) -> Option<&str> {
        self.preopen.as_deref()
    }

    /// Refuses changes below a read-only preopen.
    pub fn check_writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::NotPermitted) } else { Ok(()) }
    }

    pub fn stat(&self) -> FdStat {
        let (allowed, inheriting) = if self.preopen.is_some() {
            // What guest C libraries expect of the directories they find at their start.
            let base = rights::PATH_FILESTAT_SET_SIZE
                | rights::PATH_CREATE_DIRECTORY
                | rights::PATH_CREATE_FILE
                | rights::PATH_LINK_SOURCE
                | rights::PATH_LINK_TARGET
                | rights::PATH_OPEN
                | rights::FD_READDIR
                | rights::PATH_READLINK
                | rights::PATH_RENAME_SOURCE
                | rights::PATH_RENAME_TARGET
                | rights::PATH_SYMLINK
                | rights::PATH_REMOVE_DIRECTORY
                | rights::PATH_UNLINK_FILE
                | rights::PATH_FILESTAT_GET
                | rights::PATH_FILESTAT_SET_TIMES
                | rights::FD_FILESTAT_GET
                | rights::FD_FILESTAT_SET_TIMES;
            let of_files = rights::FD_DATASYNC
                | rights::FD_READ
                | rights::FD_SEEK
                | rights::FD_FDSTAT_SET_FLAGS
                | rights::FD_SYNC
                | rights::FD_TELL
                | rights::FD_WRITE
                | rights::FD_ADVISE
                | rights::FD_ALLOCATE
                | rights::FD_FILESTAT_SET_SIZE
                | rights::POLL_FD_READWRITE;
            (base, base | of_files)
        } else {
            let mut base = rights::ALL & !(rights::FD_SEEK | rights::FD_FILESTAT_SET_SIZE | rights::FD_WRITE);
            if !self.readable {
                base &= !(rights::FD_READ | rights::FD_READDIR);
            }
            // C libraries ask for no more than this when they open something below.
            (base, rights::ALL)
        };
        FdStat { file_type: FileType::Directory, flags: 0, rights: allowed, inheriting }
    }

    /// Opens or creates a regular file or a directory; anything else is `NotPermitted`.
    pub fn open(&self, path: &str, options: OpenOptions) -> Result<Opened, Errno> {
        let has = |flag| options.oflags & flag != 0;
        let (create, truncate) = (has(oflags::CREATE), has(oflags::TRUNCATE));
        let write_right = options.rights & rights::FD_WRITE != 0;
        let writable = options.writable();
        let readable = options.rights & rights::FD_READ != 0 || !write_right;

        // Wasmtime does not offer synchronised files either.
        if options.fdflags & (fdflags::DSYNC | fdflags::RSYNC | fdflags::SYNC) != 0 {
            return Err(Errno::NotSupported);
        }
        if has(oflags::DIRECTORY) && (create || truncate || has(oflags::EXCLUSIVE)) {
            return Err(Errno::Invalid);
        }
        if self.read_only && writable {
            return Err(Errno::NotPermitted);
        }

        // An exclusive creation opens nothing that exists.
        if !(create && has(oflags::EXCLUSIVE)) {
            self.check_kind(path, options)?;
        }

        // O_NONBLOCK: should a FIFO or a device have taken the place meanwhile, its open must not wait before it
        // is refused below.
        let mut flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        flags |= match (readable, writable) {
            (true, true) => OFlag::O_RDWR,
            (false, true) => OFlag::O_WRONLY,
            (_, false) => OFlag::O_RDONLY,
        };
        if !options.follow {
            flags |= OFlag::O_NOFOLLOW;
        }
        match (create, has(oflags::EXCLUSIVE)) {
            (true, true) => flags |= OFlag::O_CREAT | OFlag::O_EXCL,
            (true, false) => flags |= OFlag::O_CREAT,
            (false, _) => {}
        }
        if truncate {
            flags |= OFlag::O_TRUNC;
        }
        let mode = if create { Mode::from_bits_truncate(0o666) } else { Mode::empty() };
        let fd = open_beneath(self.as_fd(), path, flags, mode)?;

        match FileType::of_mode(nix::sys::stat::fstat(&fd)?.st_mode) {
            FileType::Directory => Ok(Opened::Directory(Self {
                fd,
                preopen: None,
                readable,
                read_only: self.read_only,
                listing: None,
            })),
            _ if has(oflags::DIRECTORY) => Err(Errno::NotDirectory),
            FileType::RegularFile => {
                let mode = FileMode {
                    readable,
                    writable,
                    read_only: self.read_only,
                    beyond_rights: writable && !write_right,
                    flags: options.fdflags,
                };
                Ok(Opened::File(OpenFile::new(fd, mode)))
            }
            _ => Err(Errno::NotPermitted),
        }
    }

    /// Refuses what is neither a regular file nor a directory without opening it, which alone may do something:
    /// wake the other end of a FIFO, start a watchdog. Whatever has its place by the time of the open is checked
    /// again then, so that a race gains no descriptor.
    fn check_kind(&self, path: &str, options: OpenOptions) -> Result<(), Errno> {
        let found = match self.kind(path, options.follow) {
            Ok(found) => found,
            Err(Errno::NoEntry) if options.oflags & oflags::CREATE != 0 => return Ok(()),
            Err(error) => return Err(error),
        };
        match found {
            // The open itself tells about a link that must not be followed.
            FileType::Directory | FileType::RegularFile | FileType::SymbolicLink => Ok(()),
            _ if options.oflags & oflags::DIRECTORY != 0 => Err(Errno::NotDirectory),
            _ => Err(Errno::NotPermitted),
        }
    }

    /// What kind of file a path names, without opening it.
    fn kind(&self, path: &str, follow: bool) -> Result<FileType, Errno> {
        let of_mode = |found: nix::sys::stat::FileStat| FileType::of_mode(found.st_mode);
        if is_plain_name(path) {
            // One component that is not followed cannot leave the directory, and most paths are just that.
            let found = of_mode(fstatat(self.as_fd(), path, AtFlags::AT_SYMLINK_NOFOLLOW)?);
            if !follow || found != FileType::SymbolicLink {
                return Ok(found);
            }
        }
        Ok(of_mode(nix::sys::stat::fstat(&locate(self.as_fd(), path, follow)?)?))
    }

    /// Writes entries from number `cookie` on until the buffer is full; the last may be cut off anywhere.
    /// Returns the bytes written, less than the buffer has only at the end of the directory.
    ///
    /// Entries are numbered in the order of one listing: `.` is 0, `..` is 1. As long as a guest goes forward
    /// from where it was, each name is delivered once even if files are created and removed meanwhile.
    pub async fn read_entries(
        &mut self,
        into: SharedRegion<'_>,
        cookie: u64,
        identities: &Identities,
    ) -> Result<usize, Errno> {
        let mut listing = match self.listing.take() {
            Some(listing) if listing.can_go_on_at(cookie) => listing,
            // Also when the guest starts over, to see what changed.
            _ => Listing::new(self.fd.as_fd())?,
        };
        let own = metadata::stat(self.fd.as_fd(), identities)?.inode;

        let mut written = 0;
        let mut index = cookie;
        loop {
            let entry = match index {
                0 => Entry { inode: own, file_type: FileType::Directory, name: String::from(".") },
                // The number of the directory itself, as Wasmtime says it.
                1 => Entry { inode: own, file_type: FileType::Directory, name: String::from("..") },
                _ => match listing.entry(self.fd.as_fd(), index, identities).await? {
                    Some(entry) => entry,
                    None => break,
                },
            };
            // A name has at most 255 bytes.
            let next = index.saturating_add(1);
            let header = dirent(next, entry.inode, entry.name.len() as u32, entry.file_type);
            written += into.write(written, &header);
            written += into.write(written, entry.name.as_bytes());
            if written == into.len() {
                // It has not seen the end, so it will come back; else the memory and the descriptor are free.
                self.listing = Some(listing);
                break;
            }
            index = next;
        }
        Ok(written)
    }
}

#[derive(Clone, Debug)]
struct Entry {
    inode: u64,
    file_type: FileType,
    name: String,
}

/// A directory being read. Its memory does not depend on the size of the directory.
struct Listing {
    entries: OwningIter,
    device: u64,
    /// Number of the next entry that `entries` yields.
    next: u64,
    /// The last entries that were read; the last of them has number `next - 1`.
    recent: VecDeque<Entry>,
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Listing {
    /// The entries after `.` and `..`.
    fn new(directory: BorrowedFd<'_>) -> Result<Self, Errno> {
        // A description of its own: that of a preopened directory is shared with other processes, its
        // position included.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let opened = open_beneath(directory, ".", flags, Mode::empty())?;
        let device = nix::sys::stat::fstat(&opened)?.st_dev;
        let entries = Dir::from_fd(opened)?.into_iter();
        Ok(Self { entries, device, next: 2, recent: VecDeque::new() })
    }

    fn first_recent(&self) -> u64 {
        self.next - self.recent.len() as u64
    }

    /// Whether entry `index` is still to come, or was among the last that came.
    fn can_go_on_at(&self, index: u64) -> bool {
        index >= self.first_recent()
    }

    /// Entry number `index`, for which [`can_go_on_at`](Self::can_go_on_at) holds; `None` behind the last.
    async fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        index: u64,
        identities: &Identities,
    ) -> Result<Option<Entry>, Errno> {
        while self.next <= index {
            let Some(entry) = self.advance(directory, identities)? else { return Ok(None) };
            if self.recent.len() == RECENT_ENTRIES {
                self.recent.pop_front();
            }
            self.recent.push_back(entry);
            self.next += 1;
            if self.next.is_multiple_of(ENTRIES_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
        let recent = index.checked_sub(self.first_recent()).and_then(|i| usize::try_from(i).ok());
        let recent = recent.filter(|i| *i < self.recent.len());
        Ok(recent.and_then(|i| self.recent.get(nospec::below(i, self.recent.len()))).cloned())
    }

    fn advance(
        &mut self,
        directory: BorrowedFd<'_>,
        identities: &Identities,
    ) -> Result<Option<Entry>, Errno> {
        loop {
            let Some(entry) = self.entries.next() else { return Ok(None) };
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let name = name.to_str().map_err(|_| Errno::IllegalSequence)?.to_owned();
            // What the entry says of inode and type differs from stat(2) at mount points and on stacked file
            // systems, so ask; an entry that is gone meanwhile is delivered as it was.
            let (inode, file_type) = match metadata::stat_name(directory, &name, identities) {
                Ok(found) => (found.inode, found.file_type),
                Err(Errno::NoEntry) => (
                    identities.number(self.device, entry.ino()),
                    entry.file_type().map_or(FileType::Unknown, file_type_of_entry),
                ),
                Err(error) => return Err(error),
            };
            return Ok(Some(Entry { inode, file_type, name }));
        }
    }
}

fn file_type_of_entry(entry: Type) -> FileType {
    match entry {
        Type::BlockDevice => FileType::BlockDevice,
        Type::CharacterDevice => FileType::CharacterDevice,
        Type::Directory => FileType::Directory,
        Type::File => FileType::RegularFile,
        Type::Symlink => FileType::SymbolicLink,
        Type::Fifo | Type::Socket => FileType::Unknown,
    }
}
