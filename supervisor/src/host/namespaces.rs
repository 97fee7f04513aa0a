//! Namespaces and mounts: what can only be learned by doing it, done by a child.

use std::io::Error as OsError;
use std::path::Path;

use super::{Status, read};

/// A probe that a child carries out: a step that fails, and its error number.
enum Probe {
    Passed,
    Failed { step: u8, errno: i32 },
    NotRun(OsError),
}

/// Runs `steps` in a child, one after the other, up to the first that fails.
///
/// The child has no exit signal, so that it neither raises SIGCHLD in this process nor turns up in a `wait` of
/// another thread.
fn in_child(steps: &[fn(i32) -> bool], argument: i32) -> Probe {
    // SAFETY: clone(2) without CLONE_VM and without a stack is fork(2). The child only runs `steps`, which make
    // system calls and nothing else, and `_exit`s: no lock, no allocation, no destructor.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0usize, 0usize, 0usize, 0usize, 0usize) };
    if pid == 0 {
        let mut code = 0;
        for (index, step) in steps.iter().enumerate() {
            if !step(argument) {
                // SAFETY: the address of this thread's errno is always valid.
                let errno = unsafe { *libc::__errno_location() };
                // Eight bits to tell both: two for the step, six for the error number (0 stands for a larger one).
                code = ((index as i32 + 1) << 6) | if errno < 64 { errno } else { 0 };
                break;
            }
        }
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(code) };
    }
    if pid < 0 {
        return Probe::NotRun(OsError::last_os_error());
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable; the child has no exit signal and is waited for with __WCLONE (wait(2)).
        if unsafe { libc::waitpid(pid as i32, &raw mut status, libc::__WCLONE) } >= 0 {
            break;
        }
        let error = OsError::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Probe::NotRun(error);
        }
    }
    match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Probe::Passed,
        code if libc::WIFEXITED(status) => Probe::Failed { step: (code >> 6) as u8, errno: code & 63 },
        _ => Probe::NotRun(OsError::other("the probing child was killed")),
    }
}

fn unshare_user(_: i32) -> bool {
    // SAFETY: takes no pointer; runs in a child of its own.
    unsafe { libc::unshare(libc::CLONE_NEWUSER) == 0 }
}

fn unshare_more(flag: i32) -> bool {
    // SAFETY: as in `unshare_user`.
    flag == 0 || unsafe { libc::unshare(flag) == 0 }
}

fn mounts_private(_: i32) -> bool {
    let nothing = std::ptr::null();
    // SAFETY: zero-terminated strings; the child has a mount namespace of its own by now.
    unsafe {
        libc::mount(c"none".as_ptr(), c"/".as_ptr(), nothing, libc::MS_REC | libc::MS_PRIVATE, nothing.cast())
            == 0
    }
}

/// What stands in the way of a user namespace, as far as the sysctls tell.
fn user_namespace_remedy() -> String {
    let reads = |path: &str, value: &str| read(path).is_some_and(|text| text == value);
    if reads("/proc/sys/user/max_user_namespaces", "0") {
        "sysctl user.max_user_namespaces=10000".to_owned()
    } else if reads("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "sysctl kernel.unprivileged_userns_clone=1, or run as root".to_owned()
    } else if reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "give this program an AppArmor profile with the \"userns\" rule, or sysctl \
         kernel.apparmor_restrict_unprivileged_userns=0, or run as root"
            .to_owned()
    } else {
        "a kernel with CONFIG_USER_NS=y; in a container, let its seccomp profile allow unshare(2)".to_owned()
    }
}

/// A namespace, entered from within a new user namespace as the root zygote does.
pub(super) fn namespace(flag: i32, config: &str) -> Status {
    match in_child(&[unshare_user, unshare_more], flag) {
        Probe::Passed => Status::available(),
        Probe::NotRun(error) => {
            Status::missing(format!("the probe could not run: {error}"), "free some processes")
        }
        Probe::Failed { step: 1, errno } => {
            Status::missing(format!("no user namespace: {}", describe(errno)), user_namespace_remedy())
        }
        Probe::Failed { errno, .. } => {
            let remedy = match errno {
                // The user namespace came without its capabilities, or the namespace type is switched off.
                libc::EPERM | libc::EACCES => user_namespace_remedy(),
                libc::ENOSPC => "raise the limits in /proc/sys/user/max_*_namespaces".to_owned(),
                _ => format!("a kernel with {config}=y"),
            };
            Status::missing(format!("unshare(2): {}", describe(errno)), remedy)
        }
    }
}

pub(super) fn time() -> Status {
    const CLONE_NEWTIME: i32 = 0x80;
    match clock_offsets() {
        Status::Available { .. } => namespace(CLONE_NEWTIME, "CONFIG_TIME_NS"),
        missing => missing,
    }
}

/// Whether there is the file by which the zygote sets the clocks of its time namespace.
pub(super) fn clock_offsets() -> Status {
    const FILE: &str = "/proc/self/timens_offsets";
    if Path::new(FILE).exists() {
        return Status::available();
    }
    Status::missing(
        format!("there is no {FILE}"),
        "Linux 5.6 or newer with CONFIG_TIME_NS=y, and /proc mounted",
    )
}

pub(super) fn empty_root() -> Status {
    match in_child(&[unshare_user, unshare_more, mounts_private], libc::CLONE_NEWNS) {
        Probe::Passed => Status::available(),
        Probe::NotRun(error) => {
            Status::missing(format!("the probe could not run: {error}"), "free some processes")
        }
        Probe::Failed { step: 3, errno } => Status::missing(
            format!("mount(2) in a namespace of its own: {}", describe(errno)),
            "in a container, let its seccomp and AppArmor profiles allow mount(2)",
        ),
        Probe::Failed { errno, .. } => {
            Status::missing(format!("no mount namespace: {}", describe(errno)), user_namespace_remedy())
        }
    }
}

fn describe(errno: i32) -> String {
    if errno == 0 { "an unexpected error".to_owned() } else { OsError::from_raw_os_error(errno).to_string() }
}

pub(super) fn unprivileged_user_namespaces() -> Status {
    let blocked = [
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with the \"userns\" rule",
        ),
    ];
    for (path, value, remedy) in blocked {
        if read(path).is_some_and(|text| text == value) {
            return Status::missing(
                format!("{path} is {value}: ordinary users cannot confine a zygote"),
                remedy,
            );
        }
    }
    if !Path::new("/proc/self/ns/user").exists() {
        return Status::missing("the kernel has no user namespaces", "a kernel with CONFIG_USER_NS=y");
    }
    Status::available()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_step_of_a_child_is_told_with_its_error() {
        fn passes(_: i32) -> bool {
            true
        }
        fn fails(_: i32) -> bool {
            // SAFETY: an invalid descriptor.
            unsafe { libc::close(-1) == 0 }
        }
        assert!(matches!(in_child(&[passes, passes], 0), Probe::Passed));
        assert!(matches!(
            in_child(&[passes, fails, passes], 0),
            Probe::Failed { step: 2, errno: libc::EBADF }
        ));
        assert!(matches!(in_child(&[fails], 0), Probe::Failed { step: 1, errno: libc::EBADF }));
    }
}
