//! What keeps `sandboxctl` from doing its work. Every message is one line that says what, and on what.

use std::io;
use std::path::PathBuf;

use supervisor::interface::NameTaken;

use crate::OWN_ERROR;

/// An error of `sandboxctl`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option that there is not.
    #[error(
        "unexpected argument '{text}'; try --help (a module whose name begins with '-' is written ./{text})"
    )]
    UnknownOption {
        /// It.
        text: String,
    },
    /// A module cannot be read.
    #[error("cannot read the module {}: {source}", path.display())]
    ReadModule {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The module is at fault.
    #[error("{}: {message}", path.display())]
    Module {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The module is at fault, the daemon says.
    #[error("{}: {reply}", path.display())]
    RemoteModule {
        /// The file.
        path: PathBuf,
        /// Why.
        reply: client::ErrorReply,
    },
    /// What is to be measured does not work.
    #[error(
        "a measured job did not exit with status 0: {0}; measure a module that ends well under this policy"
    )]
    Measured(String),
    /// The measuring thread cannot be kept on one processor.
    #[error("cannot stay on one processor while measuring: {0}; allow sched_setaffinity(2)")]
    Pin(io::Error),
    /// There is nothing to compile.
    #[error("{} is an artifact already; `sandboxctl run` runs it", path.display())]
    AlreadyCompiled {
        /// The file.
        path: PathBuf,
    },
    /// Text cannot be generated from an interface.
    #[error(transparent)]
    Generate(#[from] NameTaken),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory to give to the guest cannot be opened.
    #[error("cannot open the directory {} for the guest: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A listener cannot be made.
    #[error("--tcplisten {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// No sockets were passed to this process.
    #[error("--listenfd: LISTEN_FDS and LISTEN_PID do not say that sockets were passed to this process")]
    NoListenFds,
    /// A socket that was passed to this process cannot be passed on.
    #[error("--listenfd: descriptor {number} cannot be passed on: {source}")]
    ListenFd {
        /// Its number.
        number: i32,
        /// Why.
        source: io::Error,
    },
    /// An environment variable to pass on is not set.
    #[error("--env {name}: the variable is not set here; write --env {name}=VALUE")]
    NoVariable {
        /// Its name.
        name: String,
    },
    /// An environment variable without a name.
    #[error("--env {text}: the variable has no name; write --env NAME=VALUE")]
    NamelessVariable {
        /// What was written.
        text: String,
    },
    /// A policy file cannot be read.
    #[error("cannot read the policy {}: {source}", path.display())]
    ReadPolicy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A policy is at fault.
    #[error(transparent)]
    Policy(#[from] policies::Error),
    /// Policies are at fault.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "))]
    Policies(Vec<policies::Error>),
    /// An argument of a system call is no number.
    #[error("the argument {text:?} of the system call: {problem}")]
    Argument {
        /// It.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A run from which no policy can be learnt.
    #[error("no policy is proposed: {why}")]
    NothingLearnt {
        /// Why.
        why: String,
    },
    /// One of our own stdio descriptors cannot be handed on.
    #[error("cannot hand descriptor {number} to the guest: {source}")]
    Stdio {
        /// Its number.
        number: usize,
        /// Why.
        source: io::Error,
    },
    /// The event loop.
    #[error("cannot start the event loop: {0}")]
    Runtime(#[source] io::Error),
    /// Signals.
    #[error("cannot handle signals: {0}")]
    Signals(#[source] io::Error),
    /// The supervisor.
    #[error(transparent)]
    Supervisor(#[from] supervisor::Error),
    /// The daemon.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// Output of our own cannot be written.
    #[error("cannot write to standard output: {0}")]
    Stdout(#[source] io::Error),
    /// Commands cannot be read.
    #[error("cannot read from standard input: {0}")]
    Stdin(#[source] io::Error),
    /// Ended by a signal before there was a report.
    #[error("interrupted before the job began")]
    Interrupted,
    /// Ended by a signal, and the daemon sends no report.
    #[error("interrupted; the daemon has not reported the end of the job")]
    NoReport,
}

impl Error {
    /// The exit status that goes with it.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Interrupted | Error::NoReport => 130,
            _ => OWN_ERROR,
        }
    }
}
