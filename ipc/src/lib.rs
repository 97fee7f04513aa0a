//! Everything two processes of sandboxd must agree on.
//!
//! * [`layout`]: the address space of an instance; the compiler and the shim both use this one table.
//! * [`context`]: the instance context that compiled code and the shim share.
//! * [`ring`]: the shared-memory queue between an instance and the supervisor.
//! * [`job`]: what the supervisor tells an instance before it starts, and what it leaves behind when it ends.
//! * [`imports`]: what the host side provides for the imports of an instance.
//! * [`typed`]: how calls of the host app's typed functions are marshalled.
//! * [`direct`]: how an instance gets descriptors of files.
//! * [`session`]: how the supervisor has an instance make several calls.
//! * [`control`]: the messages between the supervisor and its zygotes.
//! * [`speculation`]: what the kernel says about its controls of speculative execution.
//! * [`nospec`]: indices that stay in range also where the processor runs ahead of a check.
//! * [`interface`]: the table of host functions, from which marshalling and checks on both sides are derived.
//!
//! With feature `std` (the default; the shim and the zygote build without):
//!
//! * [`report`]: how a job ended.
//! * [`protocol`]: the job protocol between a host app and the daemon.
//! * [`fdpass`]: sending and receiving file descriptors.
//! * [`text`]: typed values as text, for command lines.
//! * [`types`]: types of values and of exports.
//!
//! With feature `tokio`:
//!
//! * [`channel`]: the job protocol over a connected tokio socket.
//!
//! This crate depends on no other crate of the project.
#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(feature = "tokio")]
pub mod channel;
pub mod context;
pub mod control;
pub mod direct;
#[cfg(feature = "std")]
pub mod fdpass;
pub mod imports;
pub mod interface;
pub mod job;
pub mod layout;
pub mod nospec;
#[cfg(feature = "std")]
pub mod protocol;
#[cfg(feature = "std")]
pub mod report;
pub mod ring;
pub mod session;
pub mod speculation;
#[cfg(feature = "std")]
pub mod text;
pub mod typed;
#[cfg(feature = "std")]
pub mod types;
