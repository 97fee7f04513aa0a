//! A daemon of a test's own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::sys::signal::Signal;

use crate::{Process, Scratch, sandboxd, spawn};

/// A running daemon, which serves a socket in a directory of its own. Ended when dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    socket: PathBuf,
    scratch: Scratch,
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
        // Whatever else it says must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::stderr()));
        Self { process: Some(process), socket, scratch }
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The directory of its socket and state.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("running").id()
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
