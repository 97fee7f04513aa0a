//! What a client provides for the imports of its job or session, and calls of the functions among them.
//!
//! While a job runs, or an operation of a session, the daemon sends [`HostCall`]s, one after the other, and the client answers
//! each by one [`HostReturn`]. A call is over when it is answered, when its deadline has passed, or when the job or operation
//! has ended, which its response says. The answer to a call that is over without one may still be under way: it is ignored.
//! Every other answer that no open call waits for breaks the protocol.
//!
//! The client keeps the things that are behind the handles of typed functions, and chooses their numbers. The daemon knows which are
//! open, and of which kind, by what each answer says ([`HandleChanges`]): a guest's stale or foreign handle is refused before it gets to
//! the client. An answer that is ignored tells of handles all the same.

use serde::{Deserialize, Serialize};

use super::typed::{HandleChanges, TypedValue};
use crate::report::Value;
use crate::types::ValueType;

/// Something that a module imports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImportRequest {
    /// Module name of the import.
    pub module: String,
    /// Field name of the import.
    pub name: String,
    /// What is provided.
    pub item: ImportItem,
}

/// What is provided for an import.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ImportItem {
    /// A function that the client serves.
    Function(FunctionImport),
    /// A global with this value at first. References must be null or external.
    Global {
        /// Its first value.
        value: Value,
        /// Whether the guest can change it.
        mutable: bool,
    },
    /// A memory of zeros.
    Memory {
        /// Its size in pages of 64 KiB.
        pages: u64,
        /// Pages that it may not exceed.
        max: Option<u64>,
        /// Indices have 64 bits.
        memory64: bool,
    },
    /// A table of null references.
    Table {
        /// Type of its entries.
        element: ValueType,
        /// How many entries it has.
        entries: u64,
        /// Entries that it may not exceed.
        max: Option<u64>,
        /// Indices have 64 bits.
        table64: bool,
    },
    /// A tag of exceptions that carry values of these types.
    Tag {
        /// The types.
        params: Vec<ValueType>,
    },
}

/// A function that the client serves, by the types of WebAssembly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionImport {
    /// Types of its parameters.
    pub params: Vec<ValueType>,
    /// Types of its results.
    pub results: Vec<ValueType>,
    /// How long the client may take for one call, nanoseconds; then the call fails, and the guest's call traps. Without one, the
    /// limits of the job hold.
    pub deadline_ns: Option<u64>,
}

/// A call, by a number that its connection has for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallId(pub u64);

/// A call of a function that the client serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostCall {
    /// The call.
    pub call: CallId,
    /// What is called.
    pub invocation: Invocation,
}

/// A function and its arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Invocation {
    /// A function with values of WebAssembly's types.
    Values {
        /// Its position among the imports of the request that opened the job or session.
        import: u32,
        /// One value per parameter.
        arguments: Vec<Value>,
    },
    /// A function of an interface.
    Typed {
        /// The interface's position among those of the request.
        interface: u32,
        /// Its position among the functions of the interface.
        function: u32,
        /// One value per parameter. They are valid, and handles among them are open.
        arguments: Vec<TypedValue>,
    },
}

/// Results of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Payload {
    /// Values of WebAssembly's types, one per result.
    Values(Vec<Value>),
    /// Values of an interface's types, one per result.
    Typed(Vec<TypedValue>),
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostReturn {
    /// The call.
    pub call: CallId,
    /// What came of it.
    pub result: HostResult,
    /// Of the function's interface; none if it has none.
    pub handles: HandleChanges,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HostResult {
    /// It returned.
    Returned(Payload),
    /// It failed, for this reason. The guest's call traps with a message that names the function.
    Failed(String),
    /// The guest's call traps with exactly this message.
    Trapped(String),
    /// A function of an interface returns this case of its error, by its number.
    Error(u32),
}
