//! Policies: what an instance may do.
//!
//! A [`Policy`] is read from TOML (a built-in profile or a file), checked once, and immutable from then on. It
//! answers the supervisor's questions ([`Policy::limits`], [`Policy::wasi`], [`Policy::allows_host_call`],
//! [`Policy::layers`], [`Policy::required`]) and compiles to the seccomp program that the module zygote installs
//! ([`Policy::instance_filter`]). docs/policy.md is the reference for people who write policies.
//!
//! * [`policy`](Policy): what it says and what it extends; [`PolicySet`]: the policies that have names.
//! * `keys`: which keys there are; `schema`, `sections`: their values, and what widens what; `settings`: the way back to text.
//! * [`document`], `position`, `error`, `diagnostic`: TOML with places; every mistake has its own message. The configuration file of
//!   the programs is read with it too.
//! * `imports`: the functions of the host app that a module may import.
//! * `condition`, `rule`, `filter`: the seccomp rules and their compilation to BPF; `disassemble`: BPF for people.
//! * [`interpret`]: runs a program without a kernel; [`Question`]: what the kernel would say about a call, and by which rule.
//! * `zygote`, `compile`, `supervisor`: the zygotes' own lists, the one for compiling, and the daemon's own.
//! * `reference`: the tables of docs/policy.md.

mod compile;
mod condition;
mod decision;
mod diagnostic;
mod disassemble;
pub mod document;
mod error;
mod explain;
mod filter;
mod imports;
mod interpreter;
mod keys;
mod policy;
mod position;
mod reference;
mod rule;
mod schema;
mod sections;
mod set;
mod settings;
mod supervisor;
mod units;
mod zygote;

pub use compile::{CompileRules, compile_filter, compile_rules};
pub use condition::{Comparison, Condition, Value};
pub use decision::{Answer, DecidedBy, Question, Via, parse_syscall};
pub use diagnostic::Report;
pub use disassemble::disassemble;
pub use error::{DocumentKind, Error, Hint};
pub use filter::{AUDIT_ARCH_X86_64, DefaultAction, FilterContext};
pub use imports::{Functions, Imports};
pub use interpreter::{InterpretError, SeccompData, interpret};
pub use policy::{Danger, FILE_BYTES_MAX, Origin, Policy, Widening, zygote_base_filter};
pub use position::Position;
pub use reference::section as reference;
pub use rule::{Place, Rule};
pub use sections::{FileData, Filesystem, Fs, Instance, Limits, MemoryExceeded, Seccomp, Wasi};
pub use set::{DIRECTORY_FILES_MAX, PolicySet};
pub use settings::{Difference, Direction, Setting};
pub use supervisor::{PathRule, PathRulePlace, SupervisorRules, supervisor_filter, supervisor_rules};
pub use units::{DURATION_FORM, SIZE_FORM, format_duration, format_size, parse_duration, parse_size};
pub use zygote::{ZygoteRules, zygote_rules};
