//! The report of a job: how it ended, what it used, what confined it. Exactly one per job.
//!
//! Enums keep serde's default (external) tagging: postcard, in which reports travel, cannot read the other forms.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// How a job ended. Exactly one of these, always.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The entry point returned (exit code 0), or the guest called `proc_exit`.
    Exited {
        /// The guest's exit code.
        code: u32,
        /// Results of an invoked export, as text: integers in decimal, floats in shortest round-trip form.
        results: Vec<Value>,
    },
    /// A WebAssembly trap.
    Trapped(Trap),
    /// The guest tried something that the confinement refuses.
    Violated(Violation),
    /// A limit ended the job.
    LimitReached(LimitReached),
    /// The host app ended it, or went away.
    Cancelled,
}

/// A typed value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// 32-bit integer.
    I32(i32),
    /// 64-bit integer.
    I64(i64),
    /// 32-bit float, by its bits.
    F32(u32),
    /// 64-bit float, by its bits.
    F64(u64),
    /// 128-bit vector, by its bits, lane 0 lowest.
    V128(u128),
    /// A function reference; nothing is known of it but whether it is one (`true`) or null (`false`).
    FuncRef(bool),
    /// An opaque reference of the host; `None` is null.
    ExternRef(Option<u32>),
    /// A reference to an exception; nothing is known of it but whether it is one (`true`) or null (`false`).
    ExnRef(bool),
}

/// What came of a call in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CallOutcome {
    /// The function returned these results.
    Returned(Vec<Value>),
    /// It trapped. The instance lives on, and keeps what the call has done so far to memories, globals and tables.
    Trapped(Trap),
    /// The instance is gone: it ended itself, broke a rule or reached a limit. The session's report says the same.
    Ended(Outcome),
}

/// A WebAssembly trap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trap {
    /// What happened, in the specification's words.
    pub message: String,
    /// Innermost frame first.
    pub backtrace: Vec<Frame>,
}

/// One frame of a WebAssembly backtrace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Index of the function in the module.
    pub function: u32,
    /// Its name from the name section, if it has one.
    pub name: Option<String>,
    /// Byte offset in the module, if known.
    pub offset: Option<u32>,
    /// Path of the source file, if the artifact carries source lines.
    pub file: Option<String>,
    /// Line in it, from 1.
    pub line: Option<u32>,
}

/// Something that the second wall refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Violation {
    /// A system call outside the policy.
    Syscall {
        /// Number as the guest gave it.
        number: u64,
        /// Its name in the given architecture, or "unknown".
        name: String,
        /// Architecture: `x86_64`, `x32`, `i386`.
        arch: String,
        /// The policy that refused it.
        policy: String,
    },
    /// A memory fault that no WebAssembly instruction explains: the first wall is broken.
    Fault {
        /// Signal name.
        signal: String,
        /// Program counter.
        pc: u64,
        /// Address accessed.
        address: u64,
    },
    /// The instance broke the rules of the ring.
    Ring {
        /// Which rule.
        rule: String,
    },
    /// The instance died in a way that only a broken first wall explains.
    Died {
        /// What is known.
        how: String,
    },
}

/// Which limit ended a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitReached {
    /// Its kind.
    pub limit: Limit,
    /// Its value: nanoseconds, bytes or a count.
    pub value: u64,
}

/// Kinds of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Wall-clock time, nanoseconds.
    WallTime,
    /// CPU time, nanoseconds.
    CpuTime,
    /// Memory, bytes.
    Memory,
    /// Bytes written to stdout and stderr together.
    Output,
    /// Host calls over the ring.
    HostCalls,
    /// Something outside killed the instance, as a host does that runs out of memory; the value is 0.
    Host,
    /// Memory of everything that runs for the tenant together, bytes.
    TenantMemory,
}

/// What a job used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// From start to end, nanoseconds.
    pub wall_ns: u64,
    /// User and system CPU time of the instance, microseconds.
    pub cpu_us: u64,
    /// Peak resident memory of the instance, bytes.
    pub peak_memory_bytes: u64,
    /// Linear memory at the end, bytes, by the instance's word.
    pub wasm_memory_bytes: u64,
    /// Growths of memory that were refused, by the instance's word.
    pub refused_grows: u64,
    /// Host calls that the supervisor served.
    pub host_calls: u64,
    /// Host calls answered inside the instance, by its own word.
    pub local_host_calls: u64,
    /// Bytes written to stdout and stderr.
    pub output_bytes: u64,
    /// Fuel, by the instance's word; `None` for code that does not count it, and for an instance that was killed.
    pub fuel: Option<u64>,
}

/// The report of a job. What many jobs of one policy have in common they share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// The policy's name.
    pub policy: String,
    /// Where the policy, or one that it extends, may give more than a built-in policy: `allow_dangerous` and its reasons.
    #[serde(with = "shared")]
    pub dangers: Arc<[PolicyDanger]>,
    /// Names of the layers that were in force, see [`crate::control::layer::ALL`].
    #[serde(with = "shared")]
    pub layers: Arc<[String]>,
    /// Names of layers that were not, with the reason. Controls of speculation are among them only if the policy asks for them.
    #[serde(with = "shared")]
    pub missing_layers: Arc<[MissingLayer]>,
}

/// Lists that several values share travel as lists. (serde's feature for that would be on in every crate.)
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(list: &Arc<[T]>, to: S) -> Result<S::Ok, S::Error> {
        list[..].serialize(to)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<[T]>, D::Error> {
        Vec::deserialize(from).map(Arc::from)
    }
}

/// A policy that may give more than the one it extends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDanger {
    /// Its name.
    pub policy: String,
    /// Its reason.
    pub reason: String,
}

/// A layer that was not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingLayer {
    /// Its name.
    pub layer: String,
    /// Why.
    pub reason: String,
}

impl Report {
    /// The exit status of `sandboxctl run`: the guest's own (its low 8 bits); 134 trap; 124 wall or CPU time;
    /// 137 another limit; 159 violation; 130 cancelled.
    pub fn exit_status(&self) -> u8 {
        match &self.outcome {
            Outcome::Exited { code, .. } => *code as u8,
            Outcome::Trapped(_) => 134,
            Outcome::Violated(_) => 159,
            Outcome::LimitReached(l) => match l.limit {
                Limit::WallTime | Limit::CpuTime => 124,
                Limit::Memory | Limit::Output | Limit::HostCalls | Limit::Host | Limit::TenantMemory => 137,
            },
            Outcome::Cancelled => 130,
        }
    }
}
