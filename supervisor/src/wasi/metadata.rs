//! `filestat` and the times of files.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno as LinuxErrno;

use super::errno::Errno;
use super::paths::{is_plain_name, locate};
use super::types::{FileStat, FileType, fstflags};

/// The `filestat` of an open descriptor; `O_PATH` is enough.
pub(super) fn stat(fd: BorrowedFd<'_>, identities: &Identities) -> Result<FileStat, Errno> {
    statx(fd, "", libc::AT_EMPTY_PATH, identities)
}

/// The size of an open file in bytes.
pub(super) fn size(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    u64::try_from(nix::sys::stat::fstat(fd)?.st_size).map_err(|_| Errno::Overflow)
}

/// The `filestat` of what `path` names beneath `directory`.
pub(super) fn stat_at(
    directory: BorrowedFd<'_>,
    path: &str,
    follow: bool,
    identities: &Identities,
) -> Result<FileStat, Errno> {
    if is_plain_name(path) {
        // One component that is not followed cannot leave the directory, and most paths are just that.
        let found = stat_name(directory, path, identities)?;
        if !follow || found.file_type != FileType::SymbolicLink {
            return Ok(found);
        }
    }
    stat(locate(directory, path, follow)?.as_fd(), identities)
}

/// The `filestat` of a name in a directory, for which [`is_plain_name`] must hold. A link is not followed.
pub(super) fn stat_name(
    directory: BorrowedFd<'_>,
    name: &str,
    identities: &Identities,
) -> Result<FileStat, Errno> {
    statx(directory, name, libc::AT_SYMLINK_NOFOLLOW, identities)
}

fn statx(
    directory: BorrowedFd<'_>,
    path: &str,
    flags: i32,
    identities: &Identities,
) -> Result<FileStat, Errno> {
    let path = CString::new(path).map_err(|_| Errno::Invalid)?;
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `path` is a C string and `buffer` has room for one `struct statx`; both live through the call.
    let result = unsafe {
        libc::statx(
            directory.as_raw_fd(),
            path.as_ptr(),
            flags | libc::AT_NO_AUTOMOUNT,
            libc::STATX_BASIC_STATS | libc::STATX_BTIME,
            buffer.as_mut_ptr(),
        )
    };
    LinuxErrno::result(result)?;
    // SAFETY: all bytes were zeroed above, and every bit pattern is a `struct statx`.
    let found = unsafe { buffer.assume_init() };
    let time = |time: &libc::statx_timestamp| match identities {
        Identities::Random(_) => nanoseconds(time),
        Identities::Sequential(_) => Ok(0),
    };
    Ok(FileStat {
        // As Wasmtime does it: no device number, and a hash in place of the inode number. `ctim` is the time of creation, 0 where it is not recorded.
        device: 1,
        inode: identities.number(libc::makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino),
        file_type: FileType::of_mode(found.stx_mode.into()),
        links: found.stx_nlink.into(),
        size: found.stx_size,
        accessed: time(&found.stx_atime)?,
        modified: time(&found.stx_mtime)?,
        changed: if found.stx_mask & libc::STATX_BTIME == 0 { 0 } else { time(&found.stx_btime)? },
    })
}

/// Makes the numbers that stand for files in `filestat` and `dirent`, so that a guest can compare files as long as it runs.
#[derive(Debug)]
pub(super) enum Identities {
    /// Hashes under a random key: nobody can search for the device and inode behind a number.
    Random(RandomState),
    /// For a deterministic guest: files are numbered as it sees them first, and have no times.
    Sequential(RefCell<HashMap<(u64, u64), u64>>),
}

impl Identities {
    /// Files that are remembered; those beyond get a hash. Forty bytes each, which a guest can make the supervisor hold.
    const REMEMBERED: usize = 1 << 16;

    /// For a guest that is deterministic, or not.
    pub fn new(deterministic: bool) -> Self {
        if deterministic { Self::Sequential(RefCell::default()) } else { Self::Random(RandomState::new()) }
    }

    /// The number of a file, always the same from one `Identities`.
    pub fn number(&self, device: u64, inode: u64) -> u64 {
        match self {
            Self::Random(key) => key.hash_one((device, inode)),
            Self::Sequential(seen) => {
                let mut seen = seen.borrow_mut();
                let next = seen.len() as u64 + 1;
                if next as usize > Self::REMEMBERED && !seen.contains_key(&(device, inode)) {
                    return BuildHasherDefault::<DefaultHasher>::default().hash_one((device, inode));
                }
                *seen.entry((device, inode)).or_insert(next)
            }
        }
    }
}

/// Nanoseconds since the epoch; times before it are 0.
fn nanoseconds(time: &libc::statx_timestamp) -> Result<u64, Errno> {
    let Ok(seconds) = u64::try_from(time.tv_sec) else { return Ok(0) };
    seconds
        .checked_mul(1_000_000_000)
        .and_then(|ns| ns.checked_add(time.tv_nsec.into()))
        .ok_or(Errno::Overflow)
}

/// New access and modification times.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewTimes([libc::timespec; 2]);

impl NewTimes {
    /// From the parameters of `*_filestat_set_times`; a time that is both given and "now" is invalid.
    pub fn parse(accessed: u64, modified: u64, flags: u16) -> Result<Self, Errno> {
        let time = |time: u64, given: u16, now: u16| match (flags & given != 0, flags & now != 0) {
            (true, true) => Err(Errno::Invalid),
            // At most 584 years after the epoch: both parts fit.
            (true, false) => Ok(libc::timespec {
                tv_sec: (time / 1_000_000_000) as libc::time_t,
                tv_nsec: (time % 1_000_000_000) as libc::c_long,
            }),
            (false, true) => Ok(libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW }),
            (false, false) => Ok(libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT }),
        };
        Ok(Self([
            time(accessed, fstflags::ATIM, fstflags::ATIM_NOW)?,
            time(modified, fstflags::MTIM, fstflags::MTIM_NOW)?,
        ]))
    }

    /// Sets the times of an open descriptor; `O_PATH` is enough.
    pub fn set(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        // SAFETY: the path is an empty C string and the pointer is to two timespecs, which is what
        // utimensat(2) reads; with AT_EMPTY_PATH it works on the descriptor itself.
        let result =
            unsafe { libc::utimensat(fd.as_raw_fd(), c"".as_ptr(), self.0.as_ptr(), libc::AT_EMPTY_PATH) };
        LinuxErrno::result(result)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_number_for_one_guest_and_another_for_the_next() {
        let (one, other) = (Identities::new(false), Identities::new(false));
        assert_eq!(one.number(1, 2), one.number(1, 2));
        assert_ne!(one.number(1, 2), one.number(2, 1));
        assert_ne!(one.number(1, 2), other.number(1, 2));
    }

    #[test]
    fn times_before_the_epoch_are_zero_and_those_after_2554_overflow() {
        let time = |tv_sec, tv_nsec| {
            // SAFETY: integers only; zero is a value of each.
            let mut time: libc::statx_timestamp = unsafe { std::mem::zeroed() };
            time.tv_sec = tv_sec;
            time.tv_nsec = tv_nsec;
            nanoseconds(&time)
        };
        assert_eq!(time(2, 3), Ok(2_000_000_003));
        assert_eq!(time(-1, 5), Ok(0));
        assert_eq!(time(1 << 40, 0), Err(Errno::Overflow));
    }

    #[test]
    fn a_time_is_given_or_now_but_not_both() {
        assert_eq!(NewTimes::parse(0, 0, 3).err(), Some(Errno::Invalid));
        assert_eq!(NewTimes::parse(0, 0, 12).err(), Some(Errno::Invalid));
        let times = NewTimes::parse(u64::MAX, 7, 5).unwrap();
        assert_eq!((times.0[0].tv_sec, times.0[0].tv_nsec), (18_446_744_073, 709_551_615));
        assert_eq!((times.0[1].tv_sec, times.0[1].tv_nsec), (0, 7));
        assert_eq!(NewTimes::parse(0, 0, 2).unwrap().0[0].tv_nsec, libc::UTIME_NOW);
        assert_eq!(NewTimes::parse(0, 0, 2).unwrap().0[1].tv_nsec, libc::UTIME_OMIT);
    }
}
