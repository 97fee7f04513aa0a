//! Names: every path of a guest is resolved by `openat2(2)` beneath a directory that it holds.
//!
//! `RESOLVE_BENEATH` refuses absolute paths, absolute symbolic links and every `..` that would leave the
//! directory, also while somebody renames what the path runs through; `RESOLVE_NO_MAGICLINKS` refuses the links
//! of `/proc`. Operations that have no descriptor to work on (create, remove, rename, link) resolve the parent
//! that way and hand the kernel one plain final name, which those system calls never follow.
//!
//! Nothing of a procfs is ever opened, wherever it is mounted: `self` in it is the supervisor, whose memory
//! (`self/mem`) and descriptors are regular files and directories there, reached by no magic link.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::errno::Errno;
use crate::hostcall::SharedRegion;

/// Bytes of a path with its terminator, `PATH_MAX` of Linux.
const PATH_MAX: usize = 4096;
/// How often a resolution is repeated that a rename anywhere on the host disturbed, see `EAGAIN` in openat2(2).
const RESOLVE_TRIES: u32 = 64;

/// The path in a call: UTF-8 without a zero byte, shorter than `PATH_MAX`.
pub(super) fn read_path(region: SharedRegion<'_>) -> Result<String, Errno> {
    // Before the copy: no path of that length names anything.
    if region.len() >= PATH_MAX {
        return Err(Errno::NameTooLong);
    }
    let path = String::from_utf8(region.copy_out()).map_err(|_| Errno::IllegalSequence)?;
    if path.as_bytes().contains(&0) { Err(Errno::Invalid) } else { Ok(path) }
}

/// Opens `path` beneath `directory`, never outside of it.
///
/// `flags` are those of `openat2`; the last component is not followed with `O_NOFOLLOW`. A path that would leave
/// the directory is `NotPermitted`, and so is one that ends in a procfs.
pub(super) fn open_beneath(
    directory: BorrowedFd<'_>,
    path: &str,
    flags: OFlag,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut last = nix::errno::Errno::EAGAIN;
    for _ in 0..RESOLVE_TRIES {
        match openat2(directory, path, how) {
            Ok(fd) if is_procfs(fd.as_fd())? => return Err(Errno::NotPermitted),
            Ok(fd) => return Ok(fd),
            Err(nix::errno::Errno::EXDEV) => return Err(Errno::NotPermitted),
            Err(error @ (nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR)) => last = error,
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.into())
}

/// Whether an open descriptor is of a procfs; `O_PATH` is enough.
pub(super) fn is_procfs(fd: BorrowedFd<'_>) -> nix::Result<bool> {
    Ok(fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC)
}

/// Opens what `path` names without access to its content, for operations on its metadata.
pub(super) fn locate(directory: BorrowedFd<'_>, path: &str, follow: bool) -> Result<OwnedFd, Errno> {
    let flags = if follow { OFlag::O_PATH } else { OFlag::O_PATH | OFlag::O_NOFOLLOW };
    open_beneath(directory, path, flags, Mode::empty())
}

/// Whether `path` is one component that the kernel resolves in the directory itself: such a name needs no
/// `openat2` when it is not followed.
pub(super) fn is_plain_name(path: &str) -> bool {
    !path.is_empty() && path != "." && path != ".." && !path.contains('/')
}

/// What a `/` at the end of a path means to an operation on a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TrailingSlash {
    /// The directory of that name is meant, as if `.` followed.
    IsDirectory,
    /// Nothing: the operation makes, removes or moves directories anyway.
    Ignored,
}

/// The directory that holds the last component of a path, and that component.
#[derive(Debug)]
pub(super) struct Place<'d> {
    directory: Held<'d>,
    name: String,
}

#[derive(Debug)]
enum Held<'d> {
    Borrowed(BorrowedFd<'d>),
    Opened(OwnedFd),
}

impl<'d> Place<'d> {
    /// Resolves all of `path` but its last component.
    ///
    /// The name of the result has no `/` and is never `..`; it is `.` where the path names a directory by a
    /// trailing `/`, `.` or `..`. System calls on it stay in the directory as long as they do not follow it.
    pub fn resolve(
        directory: BorrowedFd<'d>,
        path: &str,
        trailing_slash: TrailingSlash,
    ) -> Result<Self, Errno> {
        let path = match (trailing_slash, path.trim_end_matches('/')) {
            (_, "") if path.is_empty() => return Err(Errno::NoEntry),
            // Nothing but slashes: an absolute path, which the resolution refuses.
            (TrailingSlash::Ignored, "") => "/",
            (TrailingSlash::Ignored, trimmed) => trimmed,
            (TrailingSlash::IsDirectory, _) => path,
        };
        if path == "." || is_plain_name(path) {
            return Ok(Self { directory: Held::Borrowed(directory), name: path.to_owned() });
        }
        let (parent, name) = match path.rfind('/').map(|slash| path.split_at(slash + 1)) {
            Some((parent, name)) if !matches!(name, "" | "." | "..") => (parent, name),
            _ => (path, "."),
        };
        let opened = open_beneath(directory, parent, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
        Ok(Self { directory: Held::Opened(opened), name: name.to_owned() })
    }

    /// The directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        match &self.directory {
            Held::Borrowed(fd) => *fd,
            Held::Opened(fd) => fd.as_fd(),
        }
    }

    /// The last component.
    pub fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    fn place(dir: &File, path: &str, slash: TrailingSlash) -> Result<(bool, String), Errno> {
        let place = Place::resolve(dir.as_fd(), path, slash)?;
        Ok((matches!(place.directory, Held::Opened(_)), place.name))
    }

    #[test]
    fn a_place_has_one_plain_final_name() {
        use TrailingSlash::{Ignored, IsDirectory};
        let temporary = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temporary.path().join("a/b")).unwrap();
        let dir = File::open(temporary.path()).unwrap();
        let found = |opened, name: &str| Ok((opened, name.to_owned()));
        for slash in [Ignored, IsDirectory] {
            assert_eq!(place(&dir, "x", slash), found(false, "x"));
            assert_eq!(place(&dir, ".", slash), found(false, "."));
            assert_eq!(place(&dir, "a/x", slash), found(true, "x"));
            assert_eq!(place(&dir, "a//b", slash), found(true, "b"));
            assert_eq!(place(&dir, "a/..", slash), found(true, "."));
            assert_eq!(place(&dir, "a/.", slash), found(true, "."));
            assert_eq!(place(&dir, "a/b/../x", slash), found(true, "x"));
            assert_eq!(place(&dir, "", slash), Err(Errno::NoEntry));
            for outside in ["..", "../x", "/", "//", "/x", "a/../../x", "a/../..", "./.."] {
                assert_eq!(place(&dir, outside, slash), Err(Errno::NotPermitted), "{outside}");
            }
            assert_eq!(place(&dir, "none/x", slash), Err(Errno::NoEntry));
        }
        assert_eq!(place(&dir, "a/", Ignored), found(false, "a"));
        assert_eq!(place(&dir, "new///", Ignored), found(false, "new"));
        assert_eq!(place(&dir, "a/", IsDirectory), found(true, "."));
        assert_eq!(place(&dir, "new/", IsDirectory), Err(Errno::NoEntry));
    }

    #[test]
    fn plain_names() {
        for (path, plain) in
            [("a", true), ("..a", true), (".", false), ("..", false), ("", false), ("a/", false)]
        {
            assert_eq!(is_plain_name(path), plain, "{path}");
        }
    }
}
