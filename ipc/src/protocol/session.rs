//! Sessions: instances that a client holds and makes do one thing after the other.

use serde::{Deserialize, Serialize};

use super::Bytes;
use crate::report::{CallOutcome, Usage, Value};
use crate::types::Export;

/// A session of this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u32);

/// Something to do in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// The session.
    pub session: SessionId,
    /// What to do.
    pub operation: SessionOperation,
}

/// Which linear memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryName {
    /// That of an export.
    Export(String),
    /// By its index in the module.
    Index(u32),
}

/// What can be done in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SessionOperation {
    /// Instantiate the module. Answered by [`SessionReply::Called`].
    Start {
        /// How long it may take, nanoseconds; then the session's instance ends.
        timeout_ns: Option<u64>,
    },
    /// Call an exported function. Answered by [`SessionReply::Called`].
    Call {
        /// The export.
        name: String,
        /// One value per parameter.
        args: Vec<Value>,
        /// How long it may take, nanoseconds; then the session's instance ends.
        timeout_ns: Option<u64>,
    },
    /// Copy bytes out of a memory. Answered by [`SessionReply::Bytes`].
    Read {
        /// The memory.
        memory: MemoryName,
        /// The first byte.
        offset: u64,
        /// How many; at most [`super::MEMORY_BYTES_MAX`].
        length: u32,
    },
    /// Copy bytes into a memory. Answered by [`SessionReply::Done`].
    Write {
        /// The memory.
        memory: MemoryName,
        /// Where the first byte goes.
        offset: u64,
        /// At most [`super::MEMORY_BYTES_MAX`].
        bytes: Bytes,
    },
    /// Bytes that a memory has. Answered by [`SessionReply::Size`].
    MemorySize(MemoryName),
    /// The value of an exported global. Answered by [`SessionReply::Value`].
    Global(String),
    /// Gives an exported global another value. Answered by [`SessionReply::Done`].
    SetGlobal {
        /// The export.
        name: String,
        /// The value.
        value: Value,
    },
    /// What the module exports. Answered by [`SessionReply::Exports`].
    Exports {
        /// How many to leave out: those that were told already.
        from: u32,
    },
    /// What the session has used so far. Answered by [`SessionReply::Usage`].
    Usage,
    /// Back to the first state. Answered by [`SessionReply::Done`].
    Reset,
    /// End the session. Answered by [`super::Response::Report`].
    End,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SessionReply {
    /// Of a start or a call.
    Called(CallOutcome),
    /// The bytes that were read.
    Bytes(Bytes),
    /// Bytes that the memory has.
    Size(u64),
    /// The global's value.
    Value(Value),
    /// Exports from the one that was asked for on, in the module's order.
    Exports {
        /// As many as fit.
        exports: Vec<Export>,
        /// Whether there are more.
        more: bool,
    },
    /// What the session has used.
    Usage(Usage),
    /// It is done.
    Done,
}
