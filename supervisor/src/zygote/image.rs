//! The zygote's binary, carried inside this one, and starting it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use ipc::control::CONTROL_FD;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::{Error, errno, system};

static IMAGE: &[u8] = include_bytes!(env!("SANDBOXD_ZYGOTE"));

/// Starts a root zygote whose control socket is `socket`. It inherits nothing else: no environment, no
/// arguments of ours, no descriptor.
///
/// The zygote dies with the calling *thread* (`PR_SET_PDEATHSIG`), so call it from one that lives as long as the
/// supervisor.
pub(crate) fn start(socket: OwnedFd) -> Result<Child, Error> {
    let mut image = memory_file()?;
    image.write_all(IMAGE).map_err(system("write the zygote's memory file"))?;
    // Out of the way of the number that the control socket takes in the child.
    let image = fcntl(&image, FcntlArg::F_DUPFD_CLOEXEC(CONTROL_FD + 1))
        // SAFETY: the call has just made this descriptor.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .map_err(errno("move the zygote's memory file to another descriptor"))?;
    let control = socket.as_raw_fd();
    let mut command = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()));
    command.arg0("sandbox-zygote").env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: runs between fork and exec; `dup2`, `fcntl` and `close_range` are async-signal-safe and allocate
    // nothing.
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
            // Everything of the host app but the control socket closes at exec, however it was opened. The
            // kernel is 5.11 or later wherever Landlock is.
            let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
            if libc::syscall(libc::SYS_close_range, CONTROL_FD + 1, u32::MAX, flags) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn().map_err(system("start the zygote from its memory file (is vm.memfd_noexec 2?)"))
}

/// A memory file that may be executed. Kernels before 6.3 know no flag for that and need none.
fn memory_file() -> Result<File, Error> {
    const MFD_EXEC: libc::c_uint = 0x10;
    let create = |flags| memfd_create(c"zygote", MFdFlags::from_bits_retain(flags));
    create(libc::MFD_CLOEXEC | MFD_EXEC)
        .or_else(|_| create(libc::MFD_CLOEXEC))
        .map(File::from)
        .map_err(errno("create a memory file for the zygote"))
}
