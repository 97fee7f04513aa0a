//! What the supervisor and the zygotes work with, besides the layers.

use std::ffi::CStr;
use std::io::Error as OsError;
use std::os::fd::{FromRawFd, OwnedFd};

use super::{Status, read};

/// The oldest kernel that has everything the zygotes cannot do without: `close_range(2)`, of 5.9.
const OLDEST: (u32, u32) = (5, 9);

pub(super) fn kernel_version(release: &str) -> Status {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => Status::with(release),
        (Some(Ok(_)), Some(Ok(_))) => Status::missing(
            format!("this is Linux {release}"),
            format!("Linux {}.{} or newer", OLDEST.0, OLDEST.1),
        ),
        _ => Status::missing(format!("cannot read the kernel's release {release:?}"), "report this as a bug"),
    }
}

/// Takes ownership of a descriptor that a system call returned; `None` if it failed.
fn descriptor(result: i64) -> Option<OwnedFd> {
    let fd = i32::try_from(result).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: only called with the result of a call that opens a new descriptor, which nobody else owns.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn openat2() -> Status {
    // SAFETY: all zero is a valid `open_how` (openat2(2)).
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY) as u64;
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
    let path = c".";
    // SAFETY: a zero-terminated path and a readable `open_how` of the given size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    match descriptor(result) {
        Some(_) => Status::with("RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS"),
        None => Status::missing(
            format!("openat2(2): {}", OsError::last_os_error()),
            "Linux 5.6 or newer; in a container, let its seccomp profile allow openat2(2)",
        ),
    }
}

pub(super) fn pidfd() -> Status {
    // SAFETY: takes no pointer; a descriptor for this process itself.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
    match descriptor(result) {
        Some(_) => Status::available(),
        None => Status::missing(format!("pidfd_open(2): {}", OsError::last_os_error()), "Linux 5.3 or newer"),
    }
}

pub(super) fn futex() -> Status {
    let word = 1u32;
    // SAFETY: futex(2): `word` is readable; it is not 0, so the call returns at once with EAGAIN.
    let result = unsafe {
        libc::syscall(libc::SYS_futex, &raw const word, libc::FUTEX_WAIT, 0, std::ptr::null::<u8>())
    };
    let error = OsError::last_os_error();
    if result == -1 && error.raw_os_error() == Some(libc::EAGAIN) {
        return Status::available();
    }
    Status::missing(format!("futex(2): {error}"), "a kernel with CONFIG_FUTEX=y")
}

pub(super) fn executable_memfd() -> Status {
    /// `MFD_EXEC`, linux/memfd.h, Linux 6.3.
    const MFD_EXEC: u32 = 0x10;
    const NAME: &CStr = c"probe";
    let create = |flags: u32| {
        // SAFETY: a zero-terminated name.
        descriptor(i64::from(unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC | flags) }))
    };
    let plain = || create(0).is_some();
    if create(MFD_EXEC).is_some() {
        return Status::available();
    }
    let error = OsError::last_os_error();
    // Kernels before 6.3 do not know the flag; their memfds are always executable.
    if error.raw_os_error() == Some(libc::EINVAL) && plain() {
        return Status::available();
    }
    Status::missing(
        format!("memfd_create(MFD_EXEC): {error}"),
        "sysctl vm.memfd_noexec=1 (with 2 the zygote's image cannot be executed)",
    )
}

pub(super) fn keyring() -> Status {
    const KEYCTL_GET_KEYRING_ID: libc::c_long = 0;
    const KEY_SPEC_USER_KEYRING: libc::c_long = -4;
    // SAFETY: takes no pointer; asks which keyring this user has and creates none.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 0) };
    let error = OsError::last_os_error();
    if result >= 0 || error.raw_os_error() == Some(libc::ENOKEY) {
        return Status::available();
    }
    Status::missing(
        format!("keyctl(2): {error}"),
        "a kernel with CONFIG_KEYS=y; in a container, let its seccomp profile allow keyctl(2)",
    )
}

pub(super) fn vdso_clock() -> Status {
    /// Clock sources that the kernel's vDSO reads without a system call on x86-64 (enum vdso_clock_mode).
    const IN_VDSO: [&str; 3] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];
    let Some(source) = read("/sys/devices/system/clocksource/clocksource0/current_clocksource") else {
        return Status::missing("cannot read the current clock source from /sys", "mount sysfs on /sys");
    };
    if IN_VDSO.contains(&source.as_str()) {
        return Status::with(source);
    }
    Status::missing(
        format!(
            "the clock source {source} cannot be read from the vDSO, and instances may not call clock_gettime(2)"
        ),
        "boot with clocksource=tsc (and tsc=reliable on a virtual machine whose host guarantees it)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_named() {
        for (release, available) in [
            ("6.18.44", true),
            ("5.9.0-rc1", true),
            ("10.0", true),
            ("5.8.18", false),
            ("4.19.0", false),
            ("x", false),
        ] {
            assert_eq!(kernel_version(release).is_available(), available, "{release}");
        }
    }
}
