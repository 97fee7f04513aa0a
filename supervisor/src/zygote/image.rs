//! The zygote's binary, carried inside this one, and starting it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use ipc::control::CONTROL_FD;

use crate::error::{Error, system};

static IMAGE: &[u8] = include_bytes!(env!("SANDBOXD_ZYGOTE"));

/// Starts a root zygote whose control socket is `socket`. It inherits nothing else: no environment, no
/// arguments of ours, no descriptor.
///
/// The zygote dies with the calling *thread* (`PR_SET_PDEATHSIG`), so call it from one that lives as long as the
/// supervisor.
pub(crate) fn start(socket: OwnedFd) -> Result<Child, Error> {
    let image =
        memfd::MemfdOptions::default().allow_sealing(true).close_on_exec(true).create("zygote").map_err(
            |e| Error::System { what: "create a memory file for the zygote", source: io::Error::other(e) },
        )?;
    io::Write::write_all(&mut image.as_file(), IMAGE).map_err(system("write the zygote's memory file"))?;
    let path = CString::new(format!("/proc/self/fd/{}", image.as_file().as_raw_fd()))
        .map_err(|e| Error::System { what: "name the zygote's memory file", source: e.into() })?;
    let control = socket.as_raw_fd();
    let mut command = Command::new(std::ffi::OsStr::new(path.to_str().unwrap_or_default()));
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
    let child = command.spawn().map_err(system("start the zygote from its memory file"))?;
    drop(socket);
    let _ = image.as_file().as_fd();
    Ok(child)
}
