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
//! A [`Session`] holds one confined instance for several calls. Functions that the module imports beyond WASI are the client's
//! own: they run here, and the guest waits for their answer.
//!
//! ```no_run
//! # async fn example(mut client: client::Client) -> Result<(), client::Error> {
//! use client::{CallOutcome, Extern, HostFunction, JobRequest, ModuleFile, ValType, Value};
//! let mut job = JobRequest::command(ModuleFile::open("guest.wasm".as_ref())?);
//! let double = HostFunction::new([ValType::I32], [ValType::I32], |args| async move {
//!     match args[..] {
//!         [Value::I32(n)] => Ok(vec![Value::I32(n.wrapping_mul(2))]),
//!         _ => Err("not an i32".into()),
//!     }
//! });
//! job.imports.define("host", "double", Extern::Function(double.within(std::time::Duration::from_secs(1))));
//! let mut session = client.session(job).await?;
//! session.start().await?;
//! session.write_memory("memory", 0, b"input").await?;
//! if let CallOutcome::Returned(results) = session.call("process", &[Value::I32(5)]).await? {
//!     println!("{results:?}");
//! }
//! // Back to the first state, in a fresh instance.
//! session.reset().await?;
//! println!("{:?}", session.usage().await?);
//! let report = session.end().await?;
//! # Ok(())
//! # }
//! ```
//!
//! An interface of typed functions is served as by a host app with the library: a [`Service`] goes into the job's imports.
//!
//! ```no_run
//! # async fn example(mut client: client::Client, mut job: client::JobRequest) -> Result<(), Box<dyn std::error::Error>> {
//! use client::Service;
//! use client::interface::{Interface, Reply, Value};
//! let text = "interface = \"kv\"\n[[handle]]\nname = \"store\"\n[[function]]\nname = \"open\"\n\
//!             results = [{ name = \"opened\", type = \"store\" }]\n";
//! let mut service = Service::new(Interface::parse(text, "kv.toml")?);
//! service.function("open", |context, _| async move { Ok(Reply::Values(vec![context.insert("store", 5u8)?])) })?;
//! job.imports.serve(&service)?;
//! client.run(job).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A connection runs one job, or one operation of a session, at a time; for several at once, open several. Ending a connection, in whatever way, ends the
//! job that runs on it.

mod connection;
mod error;
mod job;
mod json;
mod session;

pub use connection::Client;
pub use error::Error;
pub use ipc::protocol::{
    EntryRequest, ErrorKind, ErrorReply, LimitsRequest, ModuleFormat, ModuleId, PolicyInfo, PolicyRequest,
    Reloaded, Status, default_socket,
};
pub use ipc::report::{CallOutcome, Report, Usage, Value};
pub use ipc::types::{Export, ExportType, ValueType};
pub use job::{Directory, JobRequest, Module, ModuleFile};
pub use json::{report_json, usage_json, value_json};
pub use session::Session;
pub use supervisor::{
    CallContext, Extern, HostError, HostFunction, Imports, MemoryRef, Service, ValType, interface,
};
