//! A daemon of a test's own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use nix::sys::signal::Signal;

use crate::{PATIENCE, Process, Scratch, sandboxd, spawn};

/// A running daemon, which serves a socket in a directory of its own. Ended when dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    socket: PathBuf,
    scratch: Scratch,
    said: Arc<Said>,
}

/// The lines that a daemon has written so far.
#[derive(Debug, Default)]
struct Said {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Daemon {
    /// Starts one and waits until it listens.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with further options.
    pub fn start_with(options: &[&str]) -> Self {
        let scratch = Scratch::new();
        let socket = scratch.file("sandboxd.sock");
        // It says that it listens on stderr; a shell turns that into its stdout, and is replaced by the daemon.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$0\" \"$@\" 2>&1"])
            .arg(sandboxd())
            .arg("--socket")
            .arg(&socket)
            .arg("--state-dir")
            .arg(scratch.file("state"))
            .args(options);
        let mut process = spawn(&mut command);
        let mut output = BufReader::new(process.stdout());
        let mut line = String::new();
        output.read_line(&mut line).expect("the daemon's output");
        assert_eq!(line, format!("listening on {}\n", socket.display()));
        let said = Arc::new(Said::default());
        let kept = Arc::clone(&said);
        // Whatever else it says must not fill the pipe.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                eprintln!("{line}");
                kept.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                kept.more.notify_all();
            }
        });
        Self { process: Some(process), socket, scratch, said }
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The directory of its socket and state.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Waits for a line of its log, after the first, that contains `needle`, and takes it and those before it away.
    pub fn wait_for_line(&self, needle: &str) -> String {
        let lines = self.said.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(needle));
        let (mut lines, _) = self
            .said
            .more
            .wait_timeout_while(lines, PATIENCE, silent)
            .unwrap_or_else(PoisonError::into_inner);
        let at = lines.iter().position(|line| line.contains(needle));
        let at = at.unwrap_or_else(|| panic!("{needle:?} expected in the daemon's log: {lines:?}"));
        lines.drain(..=at).next_back().unwrap_or_default()
    }

    /// Sends it a signal and goes on.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("running").signal(signal);
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("running").id()
    }

    /// Waits for an end that it comes to by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.take().expect("ended once").wait().0
    }

    /// Sends it a signal and waits for its end.
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        let process = self.process.take().expect("ended once");
        process.signal(signal);
        process.wait().0
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() && !std::thread::panicking() {
            assert!(self.end(Signal::SIGTERM).success(), "the daemon must end in order");
        }
    }
}
