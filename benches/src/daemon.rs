//! Jobs through a daemon's socket.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use client::{
    Client, EntryRequest, JobRequest, LimitsRequest, Module, ModuleFile, ModuleFormat, ModuleId,
    PolicyRequest,
};

use crate::{Failure, Runner, check};

/// One connection with one loaded module.
pub struct Connection {
    client: Client,
    module: ModuleId,
}

impl Connection {
    /// Connects and loads the module.
    pub async fn new(socket: &Path, wasm: &[u8]) -> Result<Self, Failure> {
        let mut client = Client::connect(socket).await?;
        let module = client.load(&unnamed_file(wasm)?).await?;
        Ok(Self { client, module })
    }
}

/// A module in a file without a name: modules travel as descriptors of regular files.
fn unnamed_file(wasm: &[u8]) -> Result<ModuleFile, Failure> {
    let path = std::env::temp_dir().join(format!("sandboxd-bench-{}.wasm", std::process::id()));
    File::create(&path)?.write_all(wasm)?;
    let file = File::open(&path);
    std::fs::remove_file(&path)?;
    Ok(ModuleFile { file: OwnedFd::from(file?), format: ModuleFormat::of(wasm) })
}

impl Runner for Connection {
    async fn run_one(&mut self) -> Result<(), Failure> {
        let job = JobRequest {
            module: Module::Loaded(self.module),
            entry: EntryRequest::Command,
            policy: PolicyRequest::Named(String::from("default")),
            args: Vec::new(),
            env: Vec::new(),
            stdio: [None, None, None],
            directories: Vec::new(),
            sockets: Vec::new(),
            imports: supervisor::Imports::default(),
            limits: LimitsRequest::default(),
            tenant: None,
        };
        check(&self.client.run(job).await?)
    }
}
