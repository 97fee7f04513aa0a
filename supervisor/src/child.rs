//! Starting a process without copying this one.
//!
//! fork(2) copies the page tables of the whole process and has both sides fault on every page that either writes from then on, only for
//! the child to throw its side away. So what a child does before it executes its program runs in this process's memory, on a
//! stack of its own, while the thread that asked for it waits: as with posix_spawn(3), which cannot do all of these steps.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use ipc::control::CONTROL_FD;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Bytes of the stack for the first steps: a few frames of the C library.
const STACK: usize = 64 << 10;
/// The last signal (signal(7)).
const SIGNAL_MAX: c_int = 64;

/// A child of this process, from its start until it is reaped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    reaped: bool,
}

impl Child {
    /// Starts a program under this name. It has no argument, no environment, and no descriptor but `socket`, at its number, and
    /// /dev/null for stdio.
    pub(crate) fn start(program: &Path, name: &CStr, socket: OwnedFd) -> io::Result<Self> {
        let program = CString::new(program.as_os_str().as_bytes())?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        // Out of the way of the numbers that the child puts them to.
        let (null, socket) = (out_of_the_way(&null)?, out_of_the_way(&socket)?);
        let mut steps = Steps {
            program: program.as_ptr(),
            arguments: [name.as_ptr(), ptr::null()],
            environment: [ptr::null()],
            socket: socket.as_raw_fd(),
            null: null.as_raw_fd(),
            errno: 0,
        };
        let pid = steps.run()?;
        let mut child = Self { pid, reaped: false };
        match steps.errno {
            0 => Ok(child),
            errno => {
                child.wait();
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&mut self) -> bool {
        if !self.reaped {
            let ended = !matches!(waitpid(self.pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive));
            self.reaped = ended;
        }
        !self.reaped
    }

    /// Kills it and waits until it is dead.
    pub(crate) fn end(&mut self) {
        if !self.reaped {
            let _ = kill(self.pid, Signal::SIGKILL);
            self.wait();
        }
    }

    fn wait(&mut self) {
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
        self.reaped = true;
    }
}

/// A copy of the descriptor with a number above all that a child's steps write to.
pub(crate) fn out_of_the_way(fd: &impl AsFd) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(CONTROL_FD + 1))?;
    // SAFETY: the call has just made this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// What a child needs until it has executed its program.
struct Steps {
    program: *const c_char,
    arguments: [*const c_char; 2],
    environment: [*const c_char; 1],
    socket: RawFd,
    null: RawFd,
    /// Of the step that failed; 0 once the program runs.
    errno: c_int,
}

impl Steps {
    /// Has a new process do them.
    fn run(&mut self) -> io::Result<Pid> {
        let mut stack = Box::<[u128]>::new_uninit_slice(STACK / size_of::<u128>());
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        // No handler of this process may run in the child, where it would work on this process's memory.
        let mut mask = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask))?;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: `top` is the aligned end of memory that is nobody else's and lives on until the child has left it: CLONE_VFORK keeps
        // this thread waiting until the child has executed its program or ended. So `self` is the child's alone meanwhile, and what it
        // points to lives. `child` does nothing that must not be done between fork and exec.
        let pid = unsafe { libc::clone(child, top, flags, ptr::from_mut(self).cast()) };
        let error = io::Error::last_os_error();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
        if pid < 0 { Err(error) } else { Ok(Pid::from_raw(pid)) }
    }

    /// In the child: returns only when a step failed.
    ///
    /// # Safety
    /// The pointers are those of C strings, and of arrays of them that end with a null pointer. In a process of its own.
    unsafe fn take(&self) {
        // SAFETY: system calls with integers and with pointers to what lives here or, by the contract, longer. None of them allocates or
        // takes a lock that another thread could hold for ever.
        unsafe {
            for signal in 1..=SIGNAL_MAX {
                let mut action: libc::sigaction = std::mem::zeroed();
                let known = libc::sigaction(signal, ptr::null(), &mut action) == 0;
                let is_ignored = action.sa_sigaction == libc::SIG_IGN && signal != libc::SIGPIPE;
                if known && !is_ignored && action.sa_sigaction != libc::SIG_DFL {
                    libc::signal(signal, libc::SIG_DFL);
                }
            }
            for (from, to) in [(self.null, 0), (self.null, 1), (self.null, 2), (self.socket, CONTROL_FD)] {
                if libc::dup2(from, to) < 0 {
                    return;
                }
            }
            if libc::chdir(c"/".as_ptr()) != 0 {
                return;
            }
            // Everything of the host app but the control socket closes at exec, however it was opened. The kernel is 5.11 or
            // later wherever Landlock is.
            let flags = libc::CLOSE_RANGE_CLOEXEC as c_int;
            if libc::syscall(libc::SYS_close_range, CONTROL_FD + 1, u32::MAX, flags) != 0 {
                return;
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
            libc::execve(self.program, self.arguments.as_ptr(), self.environment.as_ptr());
        }
    }
}

/// The child, before it executes its program.
extern "C" fn child(steps: *mut c_void) -> c_int {
    // SAFETY: what `Steps::run` passes. Its thread waits, so the number of its last error is there for this one to use, too.
    unsafe {
        let steps = &mut *steps.cast::<Steps>();
        steps.take();
        steps.errno = *libc::__errno_location();
    }
    127
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::{fs, thread};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        crate::process::sockets().unwrap()
    }

    /// Starts a program that was just written. A test that forks meanwhile has it open for writing for a moment.
    fn start(program: &Path, socket: &OwnedFd) -> Child {
        loop {
            match Child::start(program, c"name", socket.try_clone().unwrap()) {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => thread::yield_now(),
                other => return other.unwrap(),
            }
        }
    }

    /// Everything that the child writes to its control socket before it ends.
    fn said(socket: &OwnedFd) -> String {
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match nix::unistd::read(socket, &mut buffer) {
                Ok(0) => return String::from_utf8(text).unwrap(),
                Ok(count) => text.extend_from_slice(&buffer[..count]),
                Err(Errno::EINTR) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// A program: what the shell does with this script.
    fn script(directory: &Path, text: &str) -> std::path::PathBuf {
        let path = directory.join("program");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    #[test]
    fn a_child_has_the_socket_and_nothing_else_of_this_process() {
        let directory = tempfile::tempdir().unwrap();
        // A descriptor that is not closed at exec, as a host app may have one.
        let open = File::open("/dev/zero").unwrap();
        fcntl(&open, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let text = "{ pwd; readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2; grep SigBlk /proc/self/status
            for f in /proc/$$/fd/*; do readlink $f; done; echo \"environment <$(cat /proc/$$/environ)>\"; } >&3 2>/dev/null";
        let (ours, theirs) = pair();
        let mut child = start(&script(directory.path(), text), &theirs);
        drop(theirs);
        let said = said(&ours);
        child.end();
        assert!(said.starts_with("/\n/dev/null\n"), "{said}");
        assert!(said.contains("SigBlk:\t0000000000000000"), "{said}");
        assert!(said.contains("socket:"), "{said}");
        assert!(!said.contains("/dev/zero"), "{said}");
        assert!(said.contains("environment <>"), "{said}");
        drop(open);
    }

    #[test]
    fn what_cannot_be_executed_is_an_error_and_leaves_no_child() {
        let directory = tempfile::tempdir().unwrap();
        let (_ours, theirs) = pair();
        let error = Child::start(&directory.path().join("absent"), c"name", theirs).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let plain = directory.path().join("plain");
        fs::write(&plain, b"no program").unwrap();
        let (_ours, theirs) = pair();
        let error = Child::start(&plain, c"name", theirs).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_child_is_told_alive_from_dead() {
        let directory = tempfile::tempdir().unwrap();
        let program = script(directory.path(), "read line <&3; exit 0");
        let (ours, theirs) = pair();
        let mut child = start(&program, &theirs);
        drop(theirs);
        assert!(child.is_alive());
        // It ends when the socket closes.
        drop(ours);
        while child.is_alive() {
            thread::yield_now();
        }
        child.end();
        let (_ours, theirs) = pair();
        let mut child = start(&program, &theirs);
        child.end();
        assert!(!child.is_alive());
    }

    #[test]
    fn threads_start_children_at_the_same_time() {
        let directory = tempfile::tempdir().unwrap();
        let program = script(directory.path(), "echo $0 >&3");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let (ours, theirs) = pair();
                        let mut child = start(&program, &theirs);
                        drop(theirs);
                        assert!(said(&ours).ends_with("program\n"));
                        child.end();
                    }
                });
            }
        });
    }
}
