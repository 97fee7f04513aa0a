//! Policies: what an instance may do.
//!
//! A [`Policy`] is read from TOML (a built-in profile or a file), checked once, and immutable from then on. It
//! answers the supervisor's questions ([`Policy::limits`], [`Policy::wasi`], [`Policy::allows_host_call`],
//! [`Policy::layers`], [`Policy::required`]) and compiles to the seccomp program that the module zygote installs
//! ([`Policy::instance_filter`]). docs/policy.md is the reference for people who write policies.
//!
//! * [`policy`](Policy): where it comes from and what it says.
//! * `schema`, `sections`: keys, values, and what widens what.
//! * [`document`], `error`: TOML with places; every mistake has its own message on one line. The configuration file of the
//!   programs is read with it too.
//! * `condition`, `rule`, `filter`: the seccomp rules and their compilation to BPF.
//! * [`interpret`]: runs a program without a kernel, for tests and `policy test`.
//! * `zygote`, `compile`: the zygotes' own lists, and the one for compiling.

mod compile;
mod condition;
pub mod document;
mod error;
mod explain;
mod filter;
mod interpreter;
mod policy;
mod rule;
mod schema;
mod sections;
mod units;
mod zygote;

pub use compile::{CompileRules, compile_filter, compile_rules};
pub use condition::{Comparison, Condition, Value};
pub use error::{DocumentKind, Error, Hint, Position};
pub use filter::{AUDIT_ARCH_X86_64, DefaultAction, FilterContext};
pub use interpreter::{InterpretError, SeccompData, interpret};
pub use policy::{FILE_BYTES_MAX, Origin, Policy, zygote_base_filter};
pub use rule::Rule;
pub use sections::{Filesystem, Limits, MemoryExceeded, Seccomp, Speculation, SpeculationControl, Wasi};
pub use units::{DURATION_FORM, SIZE_FORM, format_duration, format_size, parse_duration, parse_size};
pub use zygote::{ZygoteRules, zygote_rules};
