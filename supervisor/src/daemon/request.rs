//! From a request and its descriptors to a job of the supervisor.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use ipc::job::STRINGS_BYTES;
use ipc::protocol::{
    Descriptor, Descriptors, EntryRequest, ErrorKind, ErrorReply, MODULE_BYTES_MAX, ModuleFormat, ModuleId,
    ModuleRef, PREOPENS_MAX, PolicyRequest, ProtocolError, SOCKETS_MAX, SetupRequest, one_line,
};
use policies::Policy;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, openat, statx};

use super::host_calls::Provider;
use super::{Shared, module_error};
use crate::image::Image;
use crate::{Entry, Imports, Job, JobLimits, Module, ModuleSource, Preopen, invoke};

/// Bytes of the name of a tenant.
const TENANT_MAX: usize = 64;

/// What is wrong with a request that follows the protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// The module's descriptor is not a file.
    #[error("the module must be a regular file or a memfd that is open for reading, not {0}")]
    ModuleNotFile(&'static str),
    /// The module's file is too large.
    #[error("the module has {0} bytes; at most {MODULE_BYTES_MAX} are read")]
    ModuleTooLarge(u64),
    /// The module's file cannot be read.
    #[error("the module cannot be read: {0}")]
    ModuleUnreadable(#[source] std::io::Error),
    /// The artifact's file cannot be copied.
    #[error("the module cannot be read: {0}")]
    ArtifactUnreadable(#[source] crate::Error),
    /// The module's file holds something else.
    #[error("{0}")]
    NotAModule(&'static str),
    /// The module is not loaded.
    #[error("module {0} is not loaded on this connection")]
    NoSuchModule(u32),
    /// Too many directories.
    #[error("{0} directories; a job may have {PREOPENS_MAX}")]
    TooManyPreopens(usize),
    /// Too many sockets.
    #[error("{0} sockets; a job may have {SOCKETS_MAX}")]
    TooManySockets(usize),
    /// A socket is something else.
    #[error("what was passed as socket {index} is {found}")]
    NotASocket {
        /// Its position among the sockets.
        index: usize,
        /// What it is.
        found: &'static str,
    },
    /// A directory is something else.
    #[error("the descriptor for {guest_path:?} is not a directory but {found}")]
    NotADirectory {
        /// The name in the guest.
        guest_path: String,
        /// What it is.
        found: &'static str,
    },
    /// A directory lies where this daemon may open nothing.
    #[error(
        "the directory for {guest_path:?} cannot be used ({source}): this daemon serves directories below those of \
         daemon.directories in its configuration only"
    )]
    NotListed {
        /// The name in the guest.
        guest_path: String,
        /// What opening it again gave.
        source: rustix::io::Errno,
    },
    /// A descriptor cannot be examined.
    #[error("a file descriptor of the request cannot be examined: {0}")]
    Stat(#[source] std::io::Error),
    /// Arguments and environment are too long.
    #[error("arguments and environment have {0} bytes; a job may have {STRINGS_BYTES}")]
    StringsTooLong(usize),
    /// The name of the tenant is not usable.
    #[error("the tenant's name must be 1 to {TENANT_MAX} letters, digits, '.', '_' or '-'")]
    Tenant,
}

impl RequestError {
    fn kind(&self) -> ErrorKind {
        match self {
            RequestError::ModuleNotFile(_)
            | RequestError::ModuleTooLarge(_)
            | RequestError::ModuleUnreadable(_)
            | RequestError::ArtifactUnreadable(_)
            | RequestError::NotAModule(_)
            | RequestError::NoSuchModule(_) => ErrorKind::Module,
            RequestError::Stat(_) => ErrorKind::Internal,
            _ => ErrorKind::Job,
        }
    }
}

impl From<RequestError> for ErrorReply {
    fn from(error: RequestError) -> Self {
        ErrorReply::new(error.kind(), &error)
    }
}

/// A request whose descriptors have been sorted out: each is owned under its purpose.
pub(super) struct Prepared {
    request: SetupRequest,
    provider: Provider,
    module_file: Option<OwnedFd>,
    stdio: [Option<OwnedFd>; 3],
    directories: Vec<OwnedFd>,
    sockets: Vec<OwnedFd>,
}

/// Gives every descriptor to the part of the request that names it. An error breaks the protocol.
pub(super) fn prepare(
    request: SetupRequest,
    mut descriptors: Descriptors,
    provider: Provider,
) -> Result<Prepared, ProtocolError> {
    let module_file = match request.module {
        ModuleRef::Given(source) => Some(descriptors.take(source.file)?),
        ModuleRef::Loaded(_) => None,
    };
    let mut take = |d: Option<Descriptor>| d.map(|d| descriptors.take(d)).transpose();
    let [stdin, stdout, stderr] = request.stdio;
    let stdio = [take(stdin)?, take(stdout)?, take(stderr)?];
    let directories =
        request.preopens.iter().map(|p| descriptors.take(p.directory)).collect::<Result<_, _>>()?;
    let sockets = request.sockets.iter().map(|s| descriptors.take(*s)).collect::<Result<_, _>>()?;
    descriptors.finish()?;
    Ok(Prepared { request, provider, module_file, stdio, directories, sockets })
}

/// The job that a request asks for. Loads the module if it comes with the request.
pub(super) async fn job(
    prepared: Prepared,
    entry: EntryRequest,
    peer: u32,
    modules: &HashMap<u32, Module>,
    shared: &Shared,
) -> Result<Job, ErrorReply> {
    let Prepared { mut request, provider, module_file, stdio, directories, sockets } = prepared;
    let tenant = tenant(peer, request.tenant.as_deref())?;
    check_sockets(&sockets)?;
    let mut preopens = preopens(&request, directories)?;
    if shared.bounds.listed_directories && !preopens.is_empty() {
        // A file system may not answer, and this thread serves others.
        let checked = shared.on_blocking_thread(move || in_listed_places(preopens));
        preopens = checked.await.map_err(|e| ErrorReply::new(ErrorKind::Internal, &e))??;
    }
    let strings = request.args.iter().chain(&request.env).map(|s| s.len() + 1).sum();
    if strings > STRINGS_BYTES {
        return Err(RequestError::StringsTooLong(strings).into());
    }
    let imports = imports(&mut request, peer, &provider, shared).await?;
    let policy = policy(&request.policy, shared)?;
    let limits = JobLimits {
        memory: request.limits.memory,
        wall_time: request.limits.wall_time_ns.map(Duration::from_nanos),
        fuel: request.limits.fuel,
    };
    let module = match (request.module, module_file) {
        (ModuleRef::Loaded(ModuleId(id)), _) => {
            modules.get(&id).cloned().ok_or(RequestError::NoSuchModule(id))?
        }
        (ModuleRef::Given(source), Some(file)) => {
            let open_imports = !imports.is_empty();
            let how = Compiled { count_fuel: limits.count_fuel(&policy), open_imports };
            load(peer, file, source.format, how, shared).await?
        }
        (ModuleRef::Given(_), None) => {
            return Err(ErrorReply::new(ErrorKind::Internal, "the module's descriptor is lost"));
        }
    };
    let entry = match entry {
        EntryRequest::Command => Entry::Command,
        EntryRequest::Export { name, args } => Entry::Export { name, args },
        EntryRequest::Invoke { name, args } => {
            invoke::entry(&module, &name, &args).map_err(|e| ErrorReply::new(ErrorKind::Module, e))?
        }
    };
    Ok(Job {
        module,
        entry,
        policy,
        args: request.args,
        env: request.env,
        stdio,
        preopens,
        sockets,
        imports,
        limits,
        tenant,
    })
}

/// What the connection's client provides.
async fn imports(
    request: &mut SetupRequest,
    peer: u32,
    provider: &Provider,
    shared: &Shared,
) -> Result<Imports, ErrorReply> {
    let interfaces = match std::mem::take(&mut request.interfaces) {
        none if none.is_empty() => Vec::new(),
        interfaces => {
            let reading = shared.interfaces.reading().await;
            let reading = reading.map_err(|closed| ErrorReply::new(ErrorKind::Internal, closed))?;
            let read = shared.on_blocking_thread(move || reading.read(peer, &interfaces)).await;
            let read = read.map_err(|e| ErrorReply::new(ErrorKind::Internal, &e))?;
            read.map_err(|error| ErrorReply::new(ErrorKind::Job, error))?
        }
    };
    let imports = provider.imports(interfaces, std::mem::take(&mut request.imports));
    imports.map_err(|error| ErrorReply::new(ErrorKind::Job, error))
}

/// How a module is compiled, whatever the daemon's own options are. Of what is false, they decide.
#[derive(Clone, Copy)]
pub(super) struct Compiled {
    /// Its code counts fuel.
    pub(super) count_fuel: bool,
    /// It may import what the client provides.
    pub(super) open_imports: bool,
}

/// Reads and loads a module of this user.
pub(super) async fn load(
    user: u32,
    file: OwnedFd,
    format: ModuleFormat,
    how: Compiled,
    shared: &Shared,
) -> Result<Module, ErrorReply> {
    // Before the file is read: modules that wait to be compiled must not fill the memory.
    let permit = shared.loads.permit(user).await.map_err(|e| ErrorReply::new(ErrorKind::Internal, e))?;
    // The file may lie on a slow or hostile file system, and this thread serves others. One that never answers keeps its thread and its permit,
    // also when the client has gone.
    let permit = Arc::new(permit);
    let held = Arc::clone(&permit);
    let failed = |e| ErrorReply::new(ErrorKind::Internal, e);
    let file = File::from(file);
    let loaded = match format {
        ModuleFormat::Wasm => {
            let bytes =
                shared.on_blocking_thread(move || (read_module(file), held).0).await.map_err(failed)??;
            if let Some(what) = module_error::not_a_module(&bytes) {
                return Err(RequestError::NotAModule(what).into());
            }
            let mut options = shared.supervisor.compile_options();
            options.fuel |= how.count_fuel;
            options.open_imports |= how.open_imports;
            shared.supervisor.load_with(ModuleSource::Wasm(bytes), options).await
        }
        ModuleFormat::Artifact => {
            let image =
                shared.on_blocking_thread(move || (copy_artifact(&file), held).0).await.map_err(failed)??;
            shared.supervisor.load_copied(image).await
        }
    };
    loaded.map_err(|e| ErrorReply::new(ErrorKind::Module, e.to_string()))
}

/// The size of a file that can be a module.
fn module_size(file: &File) -> Result<u64, RequestError> {
    let kind = file_type(file)?;
    if kind != FileType::RegularFile {
        return Err(RequestError::ModuleNotFile(type_name(kind)));
    }
    let size = file.metadata().map_err(RequestError::Stat)?.len();
    if size > MODULE_BYTES_MAX { Err(RequestError::ModuleTooLarge(size)) } else { Ok(size) }
}

/// A sealed copy of the whole file, from its beginning, wherever its offset is, and its hash.
fn copy_artifact(file: &File) -> Result<(Image, blake3::Hash), RequestError> {
    module_size(file)?;
    Image::from_file(file).map_err(RequestError::ArtifactUnreadable)
}

/// The whole file, from its beginning, wherever its offset is. A file that changes meanwhile gives a mixture,
/// which is checked like any other bytes.
fn read_module(file: File) -> Result<Vec<u8>, RequestError> {
    let mut bytes = vec![0; module_size(&file)? as usize];
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at as u64) {
            Ok(0) => break,
            Ok(n) => at += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(RequestError::ModuleUnreadable(error)),
        }
    }
    bytes.truncate(at);
    Ok(bytes)
}

fn policy(request: &PolicyRequest, shared: &Shared) -> Result<Arc<Policy>, ErrorReply> {
    let known = shared.policies.current();
    let policy = match request {
        PolicyRequest::Named(name) => known.get(name).map(Arc::clone),
        PolicyRequest::Text { name, toml } => known.parse(toml, &one_line(name)).map(Arc::new),
    };
    policy.map_err(|error| ErrorReply::new(ErrorKind::Policy, error))
}

/// One trust domain per user, unless the user divides it further. Users never share one.
fn tenant(peer: u32, name: Option<&str>) -> Result<String, RequestError> {
    let Some(name) = name else { return Ok(format!("uid-{peer}")) };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > TENANT_MAX || !name.chars().all(allowed) {
        return Err(RequestError::Tenant);
    }
    Ok(format!("uid-{peer}/{name}"))
}

fn preopens(request: &SetupRequest, directories: Vec<OwnedFd>) -> Result<Vec<Preopen>, RequestError> {
    if directories.len() > PREOPENS_MAX {
        return Err(RequestError::TooManyPreopens(directories.len()));
    }
    let preopen = |(directory, p): (OwnedFd, &ipc::protocol::PreopenRequest)| {
        let kind = file_type(&directory)?;
        if kind != FileType::Directory {
            let guest_path = p.guest_path.chars().take(256).collect();
            return Err(RequestError::NotADirectory { guest_path, found: type_name(kind) });
        }
        Ok(Preopen { directory, guest_path: p.guest_path.clone(), read_only: p.read_only })
    };
    directories.into_iter().zip(&request.preopens).map(preopen).collect()
}

/// What kind of sockets they are is checked when the job starts.
fn check_sockets(sockets: &[OwnedFd]) -> Result<(), RequestError> {
    if sockets.len() > SOCKETS_MAX {
        return Err(RequestError::TooManySockets(sockets.len()));
    }
    for (index, socket) in sockets.iter().enumerate() {
        let kind = file_type(socket)?;
        if kind != FileType::Socket {
            return Err(RequestError::NotASocket { index, found: type_name(kind) });
        }
    }
    Ok(())
}

/// Directories as they came, if each lies where Landlock lets this process open files: a guest would see every one of its files refused
/// otherwise, and nobody would know why.
fn in_listed_places(preopens: Vec<Preopen>) -> Result<Vec<Preopen>, RequestError> {
    for Preopen { directory, guest_path, .. } in &preopens {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(directory, c".", flags, Mode::empty()).map_err(|source| {
            let guest_path = guest_path.chars().take(256).collect();
            RequestError::NotListed { guest_path, source }
        })?;
    }
    Ok(preopens)
}

/// The type of an open file. Asks for nothing that the kernel does not know already: a file system that does not
/// answer must not hold up the daemon's thread.
fn file_type(file: impl AsFd) -> Result<FileType, RequestError> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, c"", flags, StatxFlags::TYPE).map_err(|e| RequestError::Stat(e.into()))?;
    Ok(FileType::from_raw_mode(u32::from(stat.stx_mode)))
}

fn type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::daemon::host_calls::HostCalls;

    fn file(contents: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(contents).expect("write");
        file
    }

    #[test]
    fn a_module_is_read_from_its_beginning() {
        assert_eq!(read_module(file(b"\0asm")).expect("bytes"), b"\0asm");
        assert_eq!(read_module(file(b"")).expect("bytes"), b"");
    }

    #[test]
    fn an_artifact_is_copied_from_its_beginning() {
        let (image, hash) = copy_artifact(&file(b"\x7fELF")).expect("a copy");
        assert_eq!(image.view().expect("a view").as_ref(), b"\x7fELF");
        assert_eq!(hash, blake3::hash(b"\x7fELF"));
        assert_eq!(copy_artifact(&file(b"")).expect("a copy").1, blake3::hash(b""));
    }

    #[test]
    fn what_is_no_readable_file_is_no_module() {
        let (reader, _writer) = std::io::pipe().expect("pipe");
        let pipe = File::from(OwnedFd::from(reader));
        assert!(matches!(copy_artifact(&pipe), Err(RequestError::ModuleNotFile("a pipe"))));
        assert!(matches!(read_module(pipe), Err(RequestError::ModuleNotFile("a pipe"))));
        let null = File::open("/dev/null").expect("open");
        assert!(matches!(copy_artifact(&null), Err(RequestError::ModuleNotFile("a character device"))));
        assert!(matches!(read_module(null), Err(RequestError::ModuleNotFile("a character device"))));
        let directory = File::open("/").expect("open");
        assert!(matches!(copy_artifact(&directory), Err(RequestError::ModuleNotFile("a directory"))));
        assert!(matches!(read_module(directory), Err(RequestError::ModuleNotFile("a directory"))));
        let write_only = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(write_only.path(), b"x").expect("write");
        let handle = File::options().write(true).open(write_only.path()).expect("open");
        assert!(matches!(copy_artifact(&handle), Err(RequestError::ArtifactUnreadable(_))));
        assert!(matches!(read_module(handle), Err(RequestError::ModuleUnreadable(_))));
        let sparse = tempfile::tempfile().expect("file");
        sparse.set_len(MODULE_BYTES_MAX + 1).expect("sparse");
        assert!(matches!(copy_artifact(&sparse), Err(RequestError::ModuleTooLarge(_))));
        assert!(matches!(read_module(sparse), Err(RequestError::ModuleTooLarge(_))));
    }

    #[test]
    fn tenants_of_different_users_never_meet() {
        assert_eq!(tenant(7, None).expect("tenant"), "uid-7");
        assert_eq!(tenant(7, Some("a.b")).expect("tenant"), "uid-7/a.b");
        for name in ["", "a/b", "a b", "é", &"x".repeat(TENANT_MAX + 1)] {
            assert!(matches!(tenant(7, Some(name)), Err(RequestError::Tenant)), "{name}");
        }
    }

    #[test]
    fn a_directory_must_be_one() {
        use ipc::protocol::{ModuleSource, PreopenRequest};
        let request = SetupRequest {
            module: ModuleRef::Given(ModuleSource { file: Descriptor(0), format: ModuleFormat::Wasm }),
            policy: PolicyRequest::Named("default".into()),
            args: vec![],
            env: vec![],
            stdio: [None; 3],
            preopens: vec![PreopenRequest {
                directory: Descriptor(1),
                guest_path: "/d".into(),
                read_only: false,
            }],
            sockets: vec![],
            imports: vec![],
            interfaces: vec![],
            limits: Default::default(),
            tenant: None,
        };
        let prepare = |request, descriptors| {
            super::prepare(request, Descriptors::new(descriptors), HostCalls::new().provider())
        };
        let duplicate = |f: &File| f.as_fd().try_clone_to_owned().expect("dup");
        let (regular, root) = (file(b""), File::open("/").expect("open"));
        let prepared =
            prepare(request.clone(), vec![duplicate(&regular), duplicate(&regular)]).expect("descriptors");
        let error = preopens(&prepared.request, prepared.directories).expect_err("not a directory");
        assert_eq!(error.to_string(), r#"the descriptor for "/d" is not a directory but a regular file"#);
        let prepared =
            prepare(request.clone(), vec![duplicate(&regular), duplicate(&root)]).expect("descriptors");
        assert_eq!(preopens(&prepared.request, prepared.directories).expect("preopens").len(), 1);
        let missing = prepare(request, vec![duplicate(&regular)]);
        assert!(matches!(missing, Err(ProtocolError::NoSuchDescriptor { index: 1, count: 1 })));
    }
}
