//! What the daemon answers.

use serde::{Deserialize, Serialize};

use super::{HostCall, ModuleId, SessionId, SessionReply, one_line};
use crate::report::Report;

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// How the job ended.
    Report(Box<Report>),
    /// The request could not be carried out. After [`ErrorKind::Protocol`] the daemon closes the connection.
    Error(ErrorReply),
    /// The module is ready.
    Loaded(ModuleId),
    /// The module is forgotten.
    Unloaded,
    /// How the daemon is.
    Status(Status),
    /// What the host offers, as a JSON object.
    Doctor(String),
    /// The policies that have names.
    Policies(Vec<PolicyInfo>),
    /// The policies were read anew.
    Reloaded(Reloaded),
    /// The session is open.
    SessionOpened(SessionId),
    /// What came of an operation of a session.
    Session(SessionReply),
    /// The guest calls a function that the client serves. No answer to a request: the client answers it
    /// ([`Request::HostReturn`](super::Request::HostReturn)) while it waits for that.
    HostCall(HostCall),
}

/// A policy that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// Its name.
    pub name: String,
    /// Its file; `None` for a built-in one.
    pub file: Option<String>,
    /// What it extends.
    pub extends: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Whether it, or what it extends, may give more than a built-in policy.
    pub dangerous: bool,
}

/// What a reload has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// How many policies have names now, the built-in ones included.
    pub policies: u32,
    /// Names that are new.
    pub added: Vec<String>,
    /// Names of which the policy is another one now.
    pub changed: Vec<String>,
    /// Names that are gone.
    pub removed: Vec<String>,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorReply {
    /// Whose fault it is.
    pub kind: ErrorKind,
    /// One line.
    pub message: String,
}

impl ErrorReply {
    /// A reply from any error; its message is brought into one line.
    pub fn new(kind: ErrorKind, error: impl std::fmt::Display) -> Self {
        Self { kind, message: one_line(&error.to_string()) }
    }
}

/// Kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The client broke the rules of the protocol.
    Protocol,
    /// The module cannot be loaded.
    Module,
    /// The policy is unknown or wrong.
    Policy,
    /// The job cannot be run as asked for.
    Job,
    /// Something failed that the client has no part in.
    Internal,
    /// The client cancelled the job before it began.
    Cancelled,
    /// The session cannot do this: there is none, or it is not in the state for it.
    Session,
}

/// How the daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon's build.
    pub version: String,
    /// Open connections, this one included.
    pub connections: u32,
    /// Running jobs, open sessions included.
    pub jobs: u32,
    /// Open sessions.
    pub sessions: u32,
}
