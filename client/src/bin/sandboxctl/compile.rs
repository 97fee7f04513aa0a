//! `sandboxctl compile`: a module to an artifact.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use supervisor::daemon::module_error;
use supervisor::{Config, ModuleSource, Supervisor};

use crate::embedded::{check_form, read_module};
use crate::error::Error;

/// Compile a WebAssembly module ahead of time; `sandboxctl run` runs the artifact.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The module (.wasm or .wat).
    #[arg(value_name = "MODULE")]
    module: PathBuf,
    /// Where the artifact goes.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    code: CodeArguments,
}

/// What the compiler makes of the module.
#[derive(Debug, clap::Args)]
struct CodeArguments {
    /// How hard to optimise.
    #[arg(long, value_name = "LEVEL", default_value = "speed")]
    opt_level: compiler::OptLevel,
    /// Which instructions the code may use: baseline (x86-64-v2) or native (what this machine has).
    #[arg(long, value_name = "CPU", default_value = "native")]
    target_cpu: compiler::TargetCpu,
    /// The code counts what it executes, for `sandboxctl run --fuel`.
    #[arg(long)]
    fuel: bool,
    /// Carry the module's DWARF over: debuggers and backtraces name source lines.
    #[arg(short = 'g', long)]
    debug_info: bool,
    /// Every NaN that arithmetic makes is the same one.
    #[arg(long)]
    nan_canonicalization: bool,
    /// Mispredicted bounds checks of tables read null entries.
    #[arg(long)]
    spectre_guards: bool,
}

impl CodeArguments {
    fn options(&self) -> compiler::Options {
        compiler::Options {
            opt_level: self.opt_level,
            target_cpu: self.target_cpu,
            fuel: self.fuel,
            debug_info: self.debug_info,
            nan_canonicalization: self.nan_canonicalization,
            spectre_guards: self.spectre_guards,
            ..compiler::Options::default()
        }
    }
}

pub fn compile(options: Options) -> Result<u8, Error> {
    let path = options.module;
    let module = client::ModuleFile::open(&path)?;
    if module.format == client::ModuleFormat::Artifact {
        return Err(Error::AlreadyCompiled { path });
    }
    let bytes = read_module(module.file.into(), &path)?;
    check_form(&bytes, &path)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let supervisor = Supervisor::start(Config::default())?;
    let module = runtime
        .block_on(supervisor.load_with(ModuleSource::Wasm(bytes), options.code.options()))
        .map_err(|e| Error::Module { path, message: module_error::message(&e) })?;
    write_whole(&options.output, module.artifact_bytes())
        .map_err(|source| Error::Write { path: options.output, source })?;
    Ok(0)
}

/// Writes a file so that it is either complete or not there. A device or a pipe is written to, never replaced; of a symbolic
/// link, the file that it leads to is replaced.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => replace(&fs::canonicalize(path)?, bytes),
        // Opening a directory for writing is an error.
        Ok(_) => File::options().write(true).open(path)?.write_all(bytes),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) if fs::symlink_metadata(path).is_ok() => {
            Err(io::Error::other("it is a symbolic link that leads nowhere"))
        }
        Err(_) => replace(path, bytes),
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new().permissions(permissions()).tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// What `open` would give a new file; the umask applies.
fn permissions() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o666)
}
