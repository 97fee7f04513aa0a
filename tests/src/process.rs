//! Processes of a test: started, watched, and never left behind.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// How long anything may take before a test gives up. Generous: it only bounds a failure.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The children that this test started and has not reaped.
static CHILDREN: Mutex<Option<HashSet<i32>>> = Mutex::new(None);

fn children() -> MutexGuard<'static, Option<HashSet<i32>>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a process did.
#[derive(Debug)]
pub struct Output {
    /// Exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output, which must be text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("UTF-8")
    }

    /// Asserts that it ended with this status.
    #[track_caller]
    pub fn expect_status(&self, status: i32) -> &Self {
        assert_eq!(
            self.status,
            Some(status),
            "stdout: {:?}\nstderr: {}",
            String::from_utf8_lossy(&self.stdout),
            self.stderr
        );
        self
    }

    /// Asserts that `sandboxctl` refused to do something: exit 125, no output, and one line on stderr that contains each of
    /// `needles`.
    #[track_caller]
    pub fn expect_own_error(&self, needles: &[&str]) -> &Self {
        self.expect_status(125);
        assert_eq!(self.stdout, b"", "no output expected");
        assert_eq!(self.stderr.lines().count(), 1, "one line expected:\n{}", self.stderr);
        assert!(self.stderr.starts_with("sandboxctl: "), "{}", self.stderr);
        for needle in needles {
            assert!(self.stderr.contains(needle), "{needle:?} expected in: {}", self.stderr);
        }
        self
    }
}

/// A running process. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pidfd: OwnedFd,
    stderr: Option<JoinHandle<Vec<u8>>>,
    reaped: bool,
}

/// Starts a program with pipes for its stdio. The test becomes the parent of orphans below it, so that they can be found.
pub fn spawn(command: &mut Command) -> Process {
    static SUBREAPER: Once = Once::new();
    SUBREAPER.call_once(|| nix::sys::prctl::set_child_subreaper(true).expect("PR_SET_CHILD_SUBREAPER"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A shell without job control starts what runs in the background with SIGINT ignored, and nohup(1) ignores SIGHUP;
    // the programs under test respect that.
    // SAFETY: `signal` is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            libc::signal(libc::SIGTERM, libc::SIG_DFL);
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        });
    }
    let mut known = children();
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    known.get_or_insert_default().insert(child.id() as i32);
    drop(known);
    let mut pipe = child.stderr.take().expect("piped");
    let stderr = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("stderr");
        bytes
    });
    let pidfd = pidfd(child.id() as i32).expect("pidfd of a child that is not reaped");
    Process { child, pidfd, stderr: Some(stderr), reaped: false }
}

impl Process {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input; closed when dropped.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("taken once")
    }

    /// Its standard output.
    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("taken once")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("kill");
    }

    /// Waits for its end. Returns the exit status and what was written to stderr.
    pub fn wait(mut self) -> (ExitStatus, String) {
        drop(self.child.stdin.take());
        assert!(ended(&self.pidfd), "process {} did not end", self.child.id());
        let status = self.reap();
        let stderr = self.stderr.take().expect("joined once").join().expect("reader of stderr");
        (status, String::from_utf8_lossy(&stderr).into_owned())
    }

    fn reap(&mut self) -> ExitStatus {
        let mut known = children();
        self.reaped = true;
        let status = self.child.wait().expect("wait");
        known.get_or_insert_default().remove(&(self.child.id() as i32));
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.child.kill();
            self.reap();
        }
    }
}

/// Runs a program to its end, with nothing to read.
pub fn run(command: &mut Command) -> Output {
    run_with_input(command, b"")
}

/// Runs a program to its end, with this input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut process = spawn(command);
    let (mut stdin, mut stdout, input) = (process.stdin(), process.stdout(), input.to_vec());
    // The program may end without reading all.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).expect("stdout");
        bytes
    });
    let (status, stderr) = process.wait();
    writer.join().expect("writer of stdin");
    Output { status: status.code(), stdout: reader.join().expect("reader of stdout"), stderr }
}

/// Asserts that every process that lost its parent below this test has ended, or does so by itself.
#[track_caller]
pub fn assert_no_orphans() {
    for pid in orphans() {
        let Some(pidfd) = pidfd(pid) else { continue };
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        assert!(ended(&pidfd), "process {pid} ({}) was left behind", command.trim());
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            // Another test of this program may have been faster.
            Ok(_) | Err(Errno::ECHILD) => {}
            Err(error) => panic!("waitpid: {error}"),
        }
    }
}

/// Children of this process that it did not start itself.
fn orphans() -> Vec<i32> {
    let known = children();
    let is_known = |pid: &i32| known.as_ref().is_some_and(|k| k.contains(pid));
    let me = std::process::id() as i32;
    std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| parent(*pid) == Some(me) && !is_known(pid))
        .collect()
}

/// proc_pid_stat(5): the parent is the second field after the name, which ends with the last `)`.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

pub(crate) fn pidfd(pid: i32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open(2) takes a number and flags.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: it has just been opened for us.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Waits for the end of a process; false when patience is at its end.
pub(crate) fn ended(pidfd: &OwnedFd) -> bool {
    let timeout = PollTimeout::try_from(PATIENCE).expect("fits");
    loop {
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            Err(error) => panic!("poll {}: {error}", pidfd.as_raw_fd()),
            Ok(ready) => return ready > 0,
        }
    }
}
