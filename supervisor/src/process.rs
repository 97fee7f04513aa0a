//! What the processes that the supervisor starts have in common: each inherits a control socket and nothing else.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ipc::control::CONTROL_FD;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::error::{Error, errno};

/// A pair of connected control sockets.
pub(crate) fn sockets() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(errno("create a control socket"))
}

/// An empty memory file that can be sealed.
pub(crate) fn memory_file(name: &CStr) -> Result<File, Error> {
    memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
        .map(File::from)
        .map_err(errno("create a memory file"))
}

/// Starts a program under this name. It has no argument, no environment, and no descriptor but `socket`, at its number.
pub(crate) fn start(program: &Path, name: &CStr, socket: OwnedFd) -> io::Result<Child> {
    let control = socket.as_raw_fd();
    let mut command = Command::new(program);
    command.arg0(OsStr::from_bytes(name.to_bytes())).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: runs between fork and exec; `dup2`, `fcntl` and `close_range` are async-signal-safe and allocate nothing.
    unsafe {
        command.pre_exec(move || {
            let moved = if control == CONTROL_FD {
                libc::fcntl(control, libc::F_SETFD, 0)
            } else {
                libc::dup2(control, CONTROL_FD)
            };
            if moved < 0 {
                return Err(io::Error::last_os_error());
            }
            // Everything of the host app but the control socket closes at exec, however it was opened. The kernel is 5.11 or
            // later wherever Landlock is.
            let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
            if libc::syscall(libc::SYS_close_range, CONTROL_FD + 1, u32::MAX, flags) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn()
}
