//! The data types of WASI preview 1 as they lie in guest memory: little-endian, at the offsets of its witx
//! description (<https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md>).

use super::errno::Errno;

/// Bits of `rights`.
pub(super) mod rights {
    pub const FD_DATASYNC: u64 = 1 << 0;
    pub const FD_READ: u64 = 1 << 1;
    pub const FD_SEEK: u64 = 1 << 2;
    pub const FD_FDSTAT_SET_FLAGS: u64 = 1 << 3;
    pub const FD_SYNC: u64 = 1 << 4;
    pub const FD_TELL: u64 = 1 << 5;
    pub const FD_WRITE: u64 = 1 << 6;
    pub const FD_ADVISE: u64 = 1 << 7;
    pub const FD_ALLOCATE: u64 = 1 << 8;
    pub const PATH_CREATE_DIRECTORY: u64 = 1 << 9;
    pub const PATH_CREATE_FILE: u64 = 1 << 10;
    pub const PATH_LINK_SOURCE: u64 = 1 << 11;
    pub const PATH_LINK_TARGET: u64 = 1 << 12;
    pub const PATH_OPEN: u64 = 1 << 13;
    pub const FD_READDIR: u64 = 1 << 14;
    pub const PATH_READLINK: u64 = 1 << 15;
    pub const PATH_RENAME_SOURCE: u64 = 1 << 16;
    pub const PATH_RENAME_TARGET: u64 = 1 << 17;
    pub const PATH_FILESTAT_GET: u64 = 1 << 18;
    pub const PATH_FILESTAT_SET_SIZE: u64 = 1 << 19;
    pub const PATH_FILESTAT_SET_TIMES: u64 = 1 << 20;
    pub const FD_FILESTAT_GET: u64 = 1 << 21;
    pub const FD_FILESTAT_SET_SIZE: u64 = 1 << 22;
    pub const FD_FILESTAT_SET_TIMES: u64 = 1 << 23;
    pub const PATH_SYMLINK: u64 = 1 << 24;
    pub const PATH_REMOVE_DIRECTORY: u64 = 1 << 25;
    pub const PATH_UNLINK_FILE: u64 = 1 << 26;
    pub const POLL_FD_READWRITE: u64 = 1 << 27;
    pub const SOCK_SHUTDOWN: u64 = 1 << 28;
    pub const SOCK_ACCEPT: u64 = 1 << 29;
    /// Every right that exists.
    pub const ALL: u64 = (1 << 30) - 1;
}

/// Bits of `fdflags`.
pub(super) mod fdflags {
    pub const APPEND: u16 = 1;
    pub const DSYNC: u16 = 2;
    pub const NONBLOCK: u16 = 4;
    pub const RSYNC: u16 = 8;
    pub const SYNC: u16 = 16;
    pub const ALL: u16 = 31;
}

/// Bits of `oflags`.
pub(super) mod oflags {
    pub const CREATE: u16 = 1;
    pub const DIRECTORY: u16 = 2;
    pub const EXCLUSIVE: u16 = 4;
    pub const TRUNCATE: u16 = 8;
    pub const ALL: u16 = 15;
}

/// Bits of `fstflags`.
pub(super) mod fstflags {
    pub const ATIM: u16 = 1;
    pub const ATIM_NOW: u16 = 2;
    pub const MTIM: u16 = 4;
    pub const MTIM_NOW: u16 = 8;
    pub const ALL: u16 = 15;
}

/// Bits of `riflags` and `roflags`.
pub(super) mod recvflags {
    pub const PEEK: u16 = 1;
    pub const WAIT_ALL: u16 = 2;
    pub const ALL: u16 = 3;
    /// Of the result.
    pub const TRUNCATED: u16 = 1;
}

/// Bits of `sdflags`.
pub(super) mod shutdownflags {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
}

/// Values of `whence`.
pub(super) mod whence {
    pub const SET: u32 = 0;
    pub const CUR: u32 = 1;
    pub const END: u32 = 2;
}

/// The bits of a flags parameter; one outside `all` is an invalid argument.
pub(super) fn flags16(value: u32, all: u16) -> Result<u16, Errno> {
    u16::try_from(value).ok().filter(|bits| bits & !all == 0).ok_or(Errno::Invalid)
}

/// Whether a `lookupflags` parameter asks to follow a symbolic link in the last component.
pub(super) fn follows_symlinks(lookupflags: u32) -> Result<bool, Errno> {
    match lookupflags {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Errno::Invalid),
    }
}

/// `filetype`. A pipe, and a socket that is a name in a file system, have no code of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum FileType {
    Unknown = 0,
    BlockDevice = 1,
    CharacterDevice = 2,
    Directory = 3,
    RegularFile = 4,
    SocketDatagram = 5,
    SocketStream = 6,
    SymbolicLink = 7,
}

impl FileType {
    /// The type in the mode of a file, see inode(7).
    pub fn of_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFBLK => Self::BlockDevice,
            libc::S_IFCHR => Self::CharacterDevice,
            libc::S_IFDIR => Self::Directory,
            libc::S_IFREG => Self::RegularFile,
            libc::S_IFLNK => Self::SymbolicLink,
            _ => Self::Unknown,
        }
    }
}

/// Writes fields at their offsets into a zeroed record of `N` bytes.
struct Record<const N: usize>([u8; N]);

impl<const N: usize> Record<N> {
    fn new() -> Self {
        Self([0; N])
    }

    /// Puts `bytes` at `offset`; both are constants of this file, covered by its tests.
    fn put<const M: usize>(mut self, offset: usize, bytes: [u8; M]) -> Self {
        if let Some(field) = self.0.get_mut(offset..offset + M) {
            field.copy_from_slice(&bytes);
        }
        self
    }
}

/// `fdstat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FdStat {
    pub file_type: FileType,
    pub flags: u16,
    pub rights: u64,
    pub inheriting: u64,
}

impl FdStat {
    pub fn to_bytes(self) -> [u8; 24] {
        Record::new()
            .put(0, [self.file_type as u8])
            .put(2, self.flags.to_le_bytes())
            .put(8, self.rights.to_le_bytes())
            .put(16, self.inheriting.to_le_bytes())
            .0
    }
}

/// `filestat`. Times are nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileStat {
    pub device: u64,
    pub inode: u64,
    pub file_type: FileType,
    pub links: u64,
    pub size: u64,
    pub accessed: u64,
    pub modified: u64,
    pub changed: u64,
}

impl FileStat {
    pub fn to_bytes(self) -> [u8; 64] {
        Record::new()
            .put(0, self.device.to_le_bytes())
            .put(8, self.inode.to_le_bytes())
            .put(16, [self.file_type as u8])
            .put(24, self.links.to_le_bytes())
            .put(32, self.size.to_le_bytes())
            .put(40, self.accessed.to_le_bytes())
            .put(48, self.modified.to_le_bytes())
            .put(56, self.changed.to_le_bytes())
            .0
    }
}

/// `dirent`, without the name that follows it: `next` is the cookie of the entry after this one.
pub(super) fn dirent(next: u64, inode: u64, name_length: u32, file_type: FileType) -> [u8; 24] {
    Record::new()
        .put(0, next.to_le_bytes())
        .put(8, inode.to_le_bytes())
        .put(16, name_length.to_le_bytes())
        .put(20, [file_type as u8])
        .0
}

/// `prestat` of a directory with a name of that many bytes.
pub(super) fn prestat_directory(name_length: u32) -> [u8; 8] {
    Record::new().put(4, name_length.to_le_bytes()).0
}

/// Bytes of a `subscription`.
pub(super) const SUBSCRIPTION_BYTES: usize = 48;
/// Bytes of an `event`.
pub(super) const EVENT_BYTES: usize = 32;

/// A clock that can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    Realtime,
    Monotonic,
    /// Of the process or the thread: it has a number, but no reading.
    Cpu,
}

/// What a `subscription` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// `timeout` nanoseconds, from now or as a reading of the clock.
    Clock { clock: Clock, timeout: u64, absolute: bool },
    /// Data to read, or the end of it.
    Read(u32),
    /// Room to write.
    Write(u32),
}

/// A `subscription`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    pub user_data: u64,
    pub awaited: Awaited,
}

impl Subscription {
    /// Decodes one; unknown tags, clocks and flags are invalid.
    pub fn parse(bytes: &[u8; SUBSCRIPTION_BYTES]) -> Result<Self, Errno> {
        fn field<const M: usize>(bytes: &[u8; SUBSCRIPTION_BYTES], offset: usize) -> Result<[u8; M], Errno> {
            bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().ok_or(Errno::Invalid)
        }
        let number = u32::from_le_bytes(field(bytes, 16)?);
        let [tag] = field(bytes, 8)?;
        let awaited = match tag {
            0 => Awaited::Clock {
                clock: match number {
                    0 => Clock::Realtime,
                    1 => Clock::Monotonic,
                    2 | 3 => Clock::Cpu,
                    _ => return Err(Errno::Invalid),
                },
                timeout: u64::from_le_bytes(field(bytes, 24)?),
                absolute: match u16::from_le_bytes(field(bytes, 40)?) {
                    0 => false,
                    1 => true,
                    _ => return Err(Errno::Invalid),
                },
            },
            1 => Awaited::Read(number),
            2 => Awaited::Write(number),
            _ => return Err(Errno::Invalid),
        };
        Ok(Self { user_data: u64::from_le_bytes(field(bytes, 0)?), awaited })
    }
}

/// `event` without an error: `nbytes` and `hangup` are meaningful for descriptors only.
pub(super) fn event(subscription: &Subscription, nbytes: u64, hangup: bool) -> [u8; EVENT_BYTES] {
    let kind = match subscription.awaited {
        Awaited::Clock { .. } => 0,
        Awaited::Read(_) => 1,
        Awaited::Write(_) => 2,
    };
    Record::new()
        .put(0, subscription.user_data.to_le_bytes())
        .put(10, [kind])
        .put(16, nbytes.to_le_bytes())
        .put(24, u16::from(hangup).to_le_bytes())
        .0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_every_field_at_its_offset() {
        let stat =
            FdStat { file_type: FileType::Directory, flags: 0x0201, rights: 5, inheriting: 6 }.to_bytes();
        assert_eq!((stat[0], stat[2], stat[3], stat[8], stat[16]), (3, 1, 2, 5, 6));
        let stat = FileStat {
            device: 1,
            inode: 2,
            file_type: FileType::SymbolicLink,
            links: 3,
            size: 4,
            accessed: 5,
            modified: 6,
            changed: 7,
        }
        .to_bytes();
        assert_eq!([0, 8, 16, 24, 32, 40, 48, 56].map(|i| stat[i]), [1, 2, 7, 3, 4, 5, 6, 7]);
        let entry = dirent(1, 2, 3, FileType::RegularFile);
        assert_eq!([0, 8, 16, 20].map(|i| entry[i]), [1, 2, 3, 4]);
        assert_eq!(prestat_directory(9), [0, 0, 0, 0, 9, 0, 0, 0]);
        let subscription = Subscription { user_data: 7, awaited: Awaited::Write(1) };
        let bytes = event(&subscription, 8, true);
        assert_eq!([0, 8, 10, 16, 24].map(|i| bytes[i]), [7, 0, 2, 8, 1]);
    }

    #[test]
    fn a_subscription_is_decoded_and_its_unknown_values_are_refused() {
        let mut bytes = [0; SUBSCRIPTION_BYTES];
        bytes[0] = 9;
        bytes[16] = 1;
        bytes[24] = 5;
        bytes[40] = 1;
        assert_eq!(
            Subscription::parse(&bytes),
            Ok(Subscription {
                user_data: 9,
                awaited: Awaited::Clock { clock: Clock::Monotonic, timeout: 5, absolute: true }
            })
        );
        for (offset, value) in [(8, 3), (16, 4), (17, 1), (40, 2), (41, 1)] {
            let mut broken = bytes;
            broken[offset] = value;
            assert_eq!(Subscription::parse(&broken), Err(Errno::Invalid), "byte {offset} = {value}");
        }
        bytes[8] = 1;
        assert_eq!(Subscription::parse(&bytes).unwrap().awaited, Awaited::Read(1));
    }

    #[test]
    fn unknown_flag_bits_are_refused() {
        assert_eq!(flags16(31, fdflags::ALL), Ok(31));
        assert_eq!(flags16(32, fdflags::ALL), Err(Errno::Invalid));
        assert_eq!(flags16(0x1_0000, fdflags::ALL), Err(Errno::Invalid));
        assert_eq!(follows_symlinks(2), Err(Errno::Invalid));
    }
}
