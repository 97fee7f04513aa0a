//! The supervisor of sandboxd: loads modules, runs jobs, reports. As a library inside a host app, or as the
//! daemon ([`daemon`]).
//!
//! ```no_run
//! # async fn example(wasm: Vec<u8>) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use supervisor::{Config, Job, ModuleSource, Supervisor};
//!
//! let supervisor = Supervisor::start(Config::default())?;
//! let module = supervisor.load(ModuleSource::Wasm(wasm)).await?;
//! let policy = Arc::new(policies::Policy::builtin("default")?);
//! let report = supervisor.run(Job::command(module, policy)).await?;
//! println!("{:?}", report.outcome);
//! # Ok(())
//! # }
//! ```
//!
//! # Theory of operation
//!
//! A [`Supervisor`] owns one thread per shard (`shard`), each with a single-threaded runtime, a root zygote
//! and the module zygotes below it (`zygote`). A job goes to one shard and stays there: its instance is forked
//! from a module zygote of that shard, or was parked by it before (`parking`), its host calls are served on that thread (`instance`, `wasi`). Shards
//! share nothing on the job's path.
//!
//! Modules are compiled by confined processes that serve one compilation each (`compile`); this process never parses one.
//!
//! Zygotes are children of this process, or of a [`Spawner`] that was forked before it confined itself ([`mod@confine`]).
//!
//! Functions that the host app offers to guests are bare ([`HostFunction`]) or typed: a [`Service`] of an interface, which can be a Rust trait
//! ([`typed`]).
//!
//! Where the configuration says so and the host lets, the zygotes of a tenant are in a cgroup with limits (`cgroup`).
//!
//! Nothing below the supervisor is trusted. What comes from an instance's shared memory is copied once, then
//! checked ([`hostcall`]); what a zygote says is a fixed record whose numbers are checked; an artifact's bytes
//! are checked by [`compiler::artifact`] before anything is mapped.

pub mod arguments;
mod cache;
mod call_chain;
mod cgroup;
mod child;
mod compile;
mod config;
pub mod configuration;
pub mod confine;
pub mod daemon;
mod error;
mod guarded;
mod handles;
pub mod host;
pub mod hostcall;
mod image;
mod imports;
mod initialise;
mod instance;
pub mod invoke;
mod job;
mod local;
mod module;
mod observed;
mod parking;
mod pidfd;
mod process;
mod processors;
mod served;
mod service;
mod session;
mod shard;
mod shared_session;
mod snapshot;
mod spawner;
mod supervisor;
pub mod terminal;
pub mod typed;
mod wasi;
mod zygote;

pub use cgroup::{CgroupError, CgroupStep};
pub use compile::{CompileProgress, Compiler, ImportList, mismatches};
pub use compiler::metadata::{Asked, Snapshot};
pub use compiler::{FuncType, ValType};
pub use config::{CompileLimits, Config, PoolLimits, TenantCgroups};
pub use configuration::Configuration;
pub use error::Error;
pub use handles::HANDLES_MAX;
pub use host::HostReport;
pub use image::View;
pub use imports::{Extern, HostError, HostFunction, HostFuture, Imports};
#[cfg(feature = "fuzzing")]
pub use instance::fuzzing;
pub use interface;
pub use interface_macros::{HostType, host_functions};
pub use ipc::report::{Outcome, Report, Trap, Usage, Value};
pub use ipc::types::{Export, ExportType, ValueType};
pub use job::{Entry, Job, JobLimits, Preopen};
pub use local::LocalShard;
pub use module::{Module, ModuleSource};
pub use observed::{Observed, Steps};
pub use served::{Requests, Served, Serving};
pub use service::{BLOCKING_THREADS, CallContext, Service};
pub use session::{CallOutcome, MemoryRef, Session};
pub use shared_session::SharedSession;
pub use spawner::Spawner;
pub use supervisor::Supervisor;
pub use typed::{Handle, HostType};
