//! Interfaces of host functions: what a host app offers to guests beyond WASI, declared once.
//!
//! An [`Interface`] is data: it is read from TOML ([`Interface::parse`]), or comes from a Rust trait. Everything else follows from it:
//! the WebAssembly signatures that a module must import ([`Lowered::check`]), how parameters are marshalled
//! ([`ipc::typed`]), the check of every argument ([`LoweredFunction::decode`]) and of every reply ([`LoweredFunction::encode`]).
//! docs/host-functions.md is the reference.
//!
//! * `model`: what an interface says; `rules`: what it may say; `lower`, `scalar`: signatures and layouts.
//! * `parse`: TOML with places; `toml`: the way back.
//! * `value`: arguments and replies.
//! * `call`: from a submission to arguments; `reply`: from a reply to bytes.
//! * `check`: a module's imports compared with an interface.
//! * `memory`: what a checked interface takes.
//! * `wire`: interfaces and values between a host app and the daemon.
//! * `warnings`: what is allowed, and hardly meant.
//! * `generate`: what authors of guests get: headers, modules, references.

mod call;
mod check;
mod generate;
mod lower;
mod memory;
mod model;
mod parse;
mod reply;
mod rules;
mod scalar;
mod toml;
mod value;
mod warnings;
mod wire;

#[cfg(test)]
mod tests;

pub use call::{Arena, Call, Refusal};
pub use check::{Imported, MISMATCHES_MAX, Mismatch};
pub use generate::NameTaken;
pub use lower::{Lowered, LoweredFunction, WasmType};
pub use model::{Field, Function, Interface, ModelError, Named, Place, Type, TypeDef, TypeKind, limits};
pub use reply::Encoded;
pub use rules::{is_name, is_one_of};
pub use value::{HandleCheck, Reply, Value};
pub use wire::DataError;
