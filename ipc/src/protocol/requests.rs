//! What a client asks for.

use serde::{Deserialize, Serialize};

use super::{Bytes, Descriptor, HostReturn, ImportRequest, SessionRequest};
#[cfg(doc)]
use super::{ErrorKind, Response};
use crate::report::Value;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Run a job. Answered by [`Response::Report`] when it has ended.
    Run(RunRequest),
    /// End the running job, or the instance of the session whose call runs. Its answer follows as usual. Without a running job
    /// or call nothing happens, and nothing is answered: it may have ended while the request was under way.
    Cancel,
    /// Prepare a module for many jobs of this connection. Answered by [`Response::Loaded`].
    Load(LoadRequest),
    /// Forget a module. Answered by [`Response::Unloaded`].
    Unload(ModuleId),
    /// How the daemon is. Answered by [`Response::Status`].
    Status,
    /// What the daemon's host offers. Answered by [`Response::Doctor`].
    Doctor,
    /// Which policies have names. Answered by [`Response::Policies`].
    Policies,
    /// Read the directory of policies anew. Only for the daemon's own user and root. Answered by [`Response::Reloaded`], or by
    /// an error of kind [`ErrorKind::Policy`] when nothing has changed.
    ReloadPolicies,
    /// Open a session, of which nothing runs yet. Answered by [`Response::SessionOpened`].
    OpenSession(SetupRequest),
    /// Do something in a session. Answered by [`Response::Session`], or as the operation says.
    Session(SessionRequest),
    /// The answer to a [`Response::HostCall`]. Not answered.
    HostReturn(HostReturn),
}

/// A module to prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// The module.
    pub module: ModuleSource,
    /// Whether it may import what its jobs and sessions provide ([`SetupRequest::imports`]). An artifact is taken as it is.
    pub open_imports: bool,
}

/// A module, loaded through the same connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleId(pub u32);

/// Where the bytes of a module are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleSource {
    /// A regular file or a memfd, open for reading; it is read from its beginning.
    pub file: Descriptor,
    /// What is in it.
    pub format: ModuleFormat,
}

/// What the bytes of a module are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleFormat {
    /// A WebAssembly module, in binary or text form.
    Wasm,
    /// An artifact of the compiler.
    Artifact,
}

impl ModuleFormat {
    /// What bytes that begin like this are taken for. Artifacts are ELF images.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(b"\x7fELF") { ModuleFormat::Artifact } else { ModuleFormat::Wasm }
    }
}

/// One job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRequest {
    /// Its instance.
    pub setup: SetupRequest,
    /// What runs.
    pub entry: EntryRequest,
}

/// The instance of a job or a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetupRequest {
    /// The module.
    pub module: ModuleRef,
    /// The policy.
    pub policy: PolicyRequest,
    /// Argument strings, with the program's name first.
    pub args: Vec<Vec<u8>>,
    /// Environment, each `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// Descriptors 0, 1 and 2 of the guest.
    pub stdio: [Option<Descriptor>; 3],
    /// Directories, from descriptor 3 on; at most [`PREOPENS_MAX`](super::PREOPENS_MAX).
    pub preopens: Vec<PreopenRequest>,
    /// Sockets, listening or connected, behind the directories; at most [`SOCKETS_MAX`](super::SOCKETS_MAX).
    pub sockets: Vec<Descriptor>,
    /// What the module imports beyond the functions of the interface table; at most [`IMPORTS_MAX`](super::IMPORTS_MAX), each
    /// under a name of its own. A module that comes with a request that has any is compiled so that it may import them.
    pub imports: Vec<ImportRequest>,
    /// Interfaces whose functions the client serves, each as the interface crate writes it (`Interface::to_bytes`); at most
    /// [`INTERFACES_MAX`](super::INTERFACES_MAX), with at most [`INTERFACES_BYTES_MAX`](super::INTERFACES_BYTES_MAX) together.
    pub interfaces: Vec<Bytes>,
    /// Narrower limits than the policy's.
    pub limits: LimitsRequest,
    /// The trust domain; by default one per user.
    pub tenant: Option<String>,
}

/// The module of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleRef {
    /// One that was loaded before.
    Loaded(ModuleId),
    /// One that comes with the request.
    Given(ModuleSource),
}

/// What a job runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EntryRequest {
    /// `_start`.
    Command,
    /// An export, with one value per parameter.
    Export {
        /// Its name.
        name: String,
        /// The values.
        args: Vec<Value>,
    },
    /// An export, with one text per parameter; the daemon reads them as the types of the parameters.
    Invoke {
        /// Its name.
        name: String,
        /// The texts.
        args: Vec<String>,
    },
}

/// The policy of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyRequest {
    /// A profile that the daemon knows.
    Named(String),
    /// The text of a policy file.
    Text {
        /// Its name, for messages.
        name: String,
        /// Its contents.
        toml: String,
    },
}

/// A directory that the guest may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreopenRequest {
    /// The open directory.
    pub directory: Descriptor,
    /// Its name in the guest.
    pub guest_path: String,
    /// Whether the guest may only read below it.
    pub read_only: bool,
}

/// Limits of one job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsRequest {
    /// Bytes of all linear memories together.
    pub memory: Option<u64>,
    /// Wall-clock time in nanoseconds.
    pub wall_time_ns: Option<u64>,
    /// Fuel: what the guest may execute. A module that comes with the request is compiled so that it counts.
    pub fuel: Option<u64>,
}
