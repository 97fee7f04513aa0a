//! Landlock: which version of its interface the kernel has, and everything that version can deny.

use std::io::Error as OsError;

use super::Status;

/// `LANDLOCK_CREATE_RULESET_VERSION`, linux/landlock.h.
const CREATE_RULESET_VERSION: u32 = 1 << 0;

/// `LANDLOCK_ACCESS_FS_*` of version 1: execute, write_file, read_file, read_dir, remove_dir, remove_file, make_char,
/// make_dir, make_reg, make_sock, make_fifo, make_block, make_sym.
const FS_V1: u64 = (1 << 13) - 1;
/// Version 2: refer (link and rename between directories).
const FS_REFER: u64 = 1 << 13;
/// Version 3: truncate.
const FS_TRUNCATE: u64 = 1 << 14;
/// Version 5: ioctl_dev.
const FS_IOCTL_DEV: u64 = 1 << 15;
/// Version 4: `LANDLOCK_ACCESS_NET_BIND_TCP` and `LANDLOCK_ACCESS_NET_CONNECT_TCP`.
const NET_TCP: u64 = 0b11;
/// Version 6: `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET` and `LANDLOCK_SCOPE_SIGNAL`.
const SCOPES: u64 = 0b11;

/// `landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)`, landlock(7).
fn version() -> Result<u32, OsError> {
    // SAFETY: with this flag the call takes no attributes and creates nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(result).map_err(|_| OsError::last_os_error())
}

/// The version of the kernel's Landlock interface; 0 where there is none.
pub fn landlock_abi() -> u32 {
    version().unwrap_or(0)
}

/// Everything that this version of Landlock can deny: the masks `handled_access_fs`, `handled_access_net` and `scoped`
/// of `struct landlock_ruleset_attr`.
///
/// A version newer than 7 gets what 7 has: a ruleset must not name rights that this program does not know.
pub const fn landlock_handled(abi: u32) -> [u64; 3] {
    match abi {
        0 => [0, 0, 0],
        1 => [FS_V1, 0, 0],
        2 => [FS_V1 | FS_REFER, 0, 0],
        3 => [FS_V1 | FS_REFER | FS_TRUNCATE, 0, 0],
        4 => [FS_V1 | FS_REFER | FS_TRUNCATE, NET_TCP, 0],
        5 => [FS_V1 | FS_REFER | FS_TRUNCATE | FS_IOCTL_DEV, NET_TCP, 0],
        // Version 7 adds only flags for the audit log.
        _ => [FS_V1 | FS_REFER | FS_TRUNCATE | FS_IOCTL_DEV, NET_TCP, SCOPES],
    }
}

pub(crate) fn status() -> Status {
    match version() {
        Ok(abi) => {
            let denied = match abi {
                ..=3 => "files",
                4 | 5 => "files, TCP",
                _ => "files, TCP, abstract sockets, signals",
            };
            Status::with(format!("ABI {abi}: denies {denied}"))
        }
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Status::missing(
            "Landlock is built into the kernel but switched off",
            "add landlock to the lsm= list on the kernel's command line",
        ),
        Err(error) => Status::missing(
            format!("landlock_create_ruleset(2): {error}"),
            "Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK=y; in a container, let its seccomp profile allow Landlock",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::FromRawFd;

    use super::*;

    #[test]
    fn newer_versions_deny_more() {
        for abi in 0..6 {
            let (old, new) = (landlock_handled(abi), landlock_handled(abi + 1));
            assert!(old.iter().zip(new).all(|(old, new)| old & new == *old), "{abi}");
            assert_ne!(old, new, "{abi}");
        }
        assert_eq!(landlock_handled(7), landlock_handled(6));
        assert_eq!(landlock_handled(u32::MAX), landlock_handled(7));
        assert_eq!(landlock_handled(1), [0x1fff, 0, 0]);
        assert_eq!(landlock_handled(7), [0xffff, 3, 3]);
    }

    /// The kernel refuses rights that it does not know, so a ruleset with exactly ours can be created.
    #[test]
    fn the_kernel_knows_every_right_of_its_version() {
        let abi = landlock_abi();
        if abi == 0 {
            assert!(!status().is_available());
            return;
        }
        let attributes = landlock_handled(abi);
        // SAFETY: three words, as `struct landlock_ruleset_attr`; creating a ruleset restricts nothing.
        let result = unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), size_of_val(&attributes), 0)
        };
        assert!(result >= 0, "ABI {abi}: {}", OsError::last_os_error());
        // SAFETY: a new descriptor.
        drop(unsafe { File::from_raw_fd(result as i32) });
        assert!(status().is_available());
    }
}
