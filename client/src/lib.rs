//! A client of the sandboxd daemon: jobs over its Unix socket.
//!
//! ```no_run
//! # async fn example() -> Result<(), client::Error> {
//! use client::{Client, JobRequest, ModuleFile};
//! let mut client = Client::connect(&client::default_socket().ok_or(client::Error::NoSocket)?).await?;
//! let module = ModuleFile::open("hello.wasm".as_ref())?;
//! let report = client.run(JobRequest::command(module)).await?;
//! println!("{:?}", report.outcome);
//! # Ok(())
//! # }
//! ```
//!
//! A connection runs one job at a time; for several at once, open several. Ending a connection, in whatever way, ends the
//! job that runs on it.

mod connection;
mod error;
mod job;
mod json;

pub use connection::Client;
pub use error::Error;
pub use ipc::protocol::{
    EntryRequest, ErrorKind, ErrorReply, LimitsRequest, ModuleFormat, ModuleId, PolicyInfo, PolicyRequest,
    Reloaded, Status, default_socket,
};
pub use ipc::report::Report;
pub use job::{Directory, JobRequest, Module, ModuleFile};
pub use json::report_json;
