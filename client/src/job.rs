//! What a client asks for.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use ipc::protocol::{
    Bytes, Descriptor, EntryRequest, IMPORTS_MAX, INTERFACES_BYTES_MAX, INTERFACES_MAX, LimitsRequest,
    MODULE_BYTES_MAX, ModuleFormat, ModuleId, ModuleRef, ModuleSource, PREOPENS_MAX, PolicyRequest,
    PreopenRequest, SOCKETS_MAX, SetupRequest,
};
use supervisor::{Imports, Requests, Served};

use crate::Error;

/// An open module file.
#[derive(Debug)]
pub struct ModuleFile {
    /// A regular file or a memfd, open for reading.
    pub file: OwnedFd,
    /// What is in it.
    pub format: ModuleFormat,
}

impl ModuleFile {
    /// Opens a file and looks at its first bytes: artifacts are told from WebAssembly by themselves.
    ///
    /// # Errors
    /// [`Error::OpenModule`] if it cannot be opened or read, or is not a regular file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let error = |source| Error::OpenModule { path: path.to_path_buf(), source };
        // `O_NONBLOCK`: opening a pipe must not wait for somebody to write to it.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(error)?;
        let metadata = file.metadata().map_err(error)?;
        let kind = metadata.file_type();
        if !kind.is_file() {
            let what = if kind.is_dir() { "it is a directory" } else { "it is not a regular file" };
            return Err(error(io::Error::other(what)));
        }
        if metadata.len() > MODULE_BYTES_MAX {
            let what = format!("it has {} bytes; at most {MODULE_BYTES_MAX} are read", metadata.len());
            return Err(error(io::Error::other(what)));
        }
        let mut magic = [0; 4];
        let read = file.read_at(&mut magic, 0).map_err(error)?;
        let format = ModuleFormat::of(magic.get(..read).unwrap_or_default());
        Ok(Self { file: file.into(), format })
    }
}

/// The module of a job.
#[derive(Debug)]
pub enum Module {
    /// One that [`Client::load`](crate::Client::load) returned.
    Loaded(ModuleId),
    /// One that goes with the job.
    File(ModuleFile),
}

/// A directory that the guest may use.
#[derive(Debug)]
pub struct Directory {
    /// The open directory.
    pub directory: OwnedFd,
    /// Its name in the guest.
    pub guest_path: String,
    /// Whether the guest may only read below it.
    pub read_only: bool,
}

/// One job.
#[derive(Debug)]
pub struct JobRequest {
    /// The module.
    pub module: Module,
    /// What runs.
    pub entry: EntryRequest,
    /// The policy.
    pub policy: PolicyRequest,
    /// Argument strings, with the program's name first.
    pub args: Vec<Vec<u8>>,
    /// Environment, each `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// Descriptors 0, 1 and 2 of the guest; `None` reads as empty and swallows what is written.
    pub stdio: [Option<OwnedFd>; 3],
    /// Directories, from descriptor 3 on; at most 64.
    pub directories: Vec<Directory>,
    /// Sockets, listening or connected, behind the directories; at most 16. See [`supervisor::Job::sockets`].
    pub sockets: Vec<OwnedFd>,
    /// What the module imports beyond WASI. Functions run here, in the client, while it waits for the job or for an operation
    /// of the session; everything else goes with the request. The policy must grant them (`host_calls.imports`), and a module that was
    /// loaded before must have been by [`Client::load_open`](crate::Client::load_open).
    pub imports: Imports,
    /// Narrower limits than the policy's.
    pub limits: LimitsRequest,
    /// The trust domain; by default one per user.
    pub tenant: Option<String>,
}

impl JobRequest {
    /// A job that runs the module's `_start` under the default policy, with no arguments, nothing to read,
    /// nowhere to write.
    pub fn command(module: ModuleFile) -> Self {
        Self {
            module: Module::File(module),
            entry: EntryRequest::Command,
            policy: PolicyRequest::Named(String::from("default")),
            args: Vec::new(),
            env: Vec::new(),
            stdio: [None, None, None],
            directories: Vec::new(),
            sockets: Vec::new(),
            imports: Imports::default(),
            limits: LimitsRequest::default(),
            tenant: None,
        }
    }

    /// The request as it goes over the wire, and what it names.
    pub(crate) fn wire(&self) -> Result<Wire<'_>, Error> {
        if self.directories.len() > PREOPENS_MAX {
            return Err(Error::TooManyDirectories(self.directories.len()));
        }
        if self.sockets.len() > SOCKETS_MAX {
            return Err(Error::TooManySockets(self.sockets.len()));
        }
        let Requests { imports, interfaces, served } = self.imports.requests().map_err(Error::Interface)?;
        if imports.len() > IMPORTS_MAX {
            return Err(Error::TooManyImports(imports.len()));
        }
        if interfaces.len() > INTERFACES_MAX {
            return Err(Error::TooManyInterfaces(interfaces.len()));
        }
        let bytes = interfaces.iter().map(|Bytes(bytes)| bytes.len()).sum();
        if bytes > INTERFACES_BYTES_MAX {
            return Err(Error::InterfacesTooLong(bytes));
        }
        let mut descriptors: Vec<BorrowedFd<'_>> = Vec::new();
        let module = match &self.module {
            Module::Loaded(id) => ModuleRef::Loaded(*id),
            Module::File(module) => ModuleRef::Given(ModuleSource {
                file: place(&mut descriptors, &module.file),
                format: module.format,
            }),
        };
        let stdio = self.stdio.each_ref().map(|fd| fd.as_ref().map(|fd| place(&mut descriptors, fd)));
        let mut preopens = Vec::with_capacity(self.directories.len());
        for d in &self.directories {
            preopens.push(PreopenRequest {
                directory: place(&mut descriptors, &d.directory),
                guest_path: d.guest_path.clone(),
                read_only: d.read_only,
            });
        }
        let sockets = self.sockets.iter().map(|socket| place(&mut descriptors, socket)).collect();
        let setup = SetupRequest {
            module,
            policy: self.policy.clone(),
            args: self.args.clone(),
            env: self.env.clone(),
            stdio,
            preopens,
            sockets,
            imports,
            interfaces,
            limits: self.limits,
            tenant: self.tenant.clone(),
        };
        Ok(Wire { setup, descriptors, served })
    }
}

/// A job as it goes over the wire.
pub(crate) struct Wire<'fd> {
    pub(crate) setup: SetupRequest,
    /// The descriptors that it names.
    pub(crate) descriptors: Vec<BorrowedFd<'fd>>,
    /// The functions among its imports and of its interfaces.
    pub(crate) served: Served,
}

/// Adds a descriptor to those of a request; at most 1 + 3 + 64 + 16 are.
fn place<'fd>(descriptors: &mut Vec<BorrowedFd<'fd>>, fd: &'fd OwnedFd) -> Descriptor {
    let position = Descriptor(descriptors.len() as u8);
    descriptors.push(fd.as_fd());
    position
}
