//! Landlock with rules for directories (landlock(7)).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::error::{Error, system};

/// `LANDLOCK_RULE_PATH_BENEATH`, linux/landlock.h.
const RULE_PATH_BENEATH: libc::c_int = 1;

/// `struct landlock_path_beneath_attr`, which is packed.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Denies this thread, and what it starts from now on, everything that is handled (`handled_access_fs`, `handled_access_net`, `scoped`), but for
/// these accesses below these directories. Nothing handled is nothing done.
pub(super) fn restrict(handled: [u64; 3], allowed: &[(PathBuf, u64)]) -> Result<(), Error> {
    if handled == [0; 3] {
        return Ok(());
    }
    // A kernel that knows fewer fields accepts a longer structure whose further bytes are zero.
    // SAFETY: three words, as `struct landlock_ruleset_attr`, readable for their size.
    let ruleset = unsafe {
        let ruleset =
            libc::syscall(libc::SYS_landlock_create_ruleset, handled.as_ptr(), size_of_val(&handled), 0);
        if ruleset < 0 {
            return Err(system("create a Landlock ruleset")(io::Error::last_os_error()));
        }
        OwnedFd::from_raw_fd(ruleset as i32)
    };
    for (path, access) in allowed {
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(path)
            .map_err(|source| Error::ConfinePlace { path: path.clone(), source })?;
        let rule = PathBeneath { allowed_access: *access, parent_fd: directory.as_raw_fd() };
        // SAFETY: `rule` is readable; its descriptor is open.
        let added = unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                ruleset.as_raw_fd(),
                RULE_PATH_BENEATH,
                &raw const rule,
                0,
            )
        };
        if added != 0 {
            return Err(Error::ConfinePlace { path: path.clone(), source: io::Error::last_os_error() });
        }
    }
    // SAFETY: a descriptor and a number.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) } {
        0 => Ok(()),
        _ => Err(system("enforce Landlock")(io::Error::last_os_error())),
    }
}
