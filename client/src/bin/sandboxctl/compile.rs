//! `sandboxctl compile`: a module to an artifact.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use compiler::Artifact;
use supervisor::arguments::{CodeArguments, ConfigurationArguments, InterfaceArguments};
use supervisor::interface::Lowered;
use supervisor::terminal::Bar;
use supervisor::{CompileProgress, Compiler, Config, View};

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
    #[command(flatten)]
    interfaces: InterfaceArguments,
    #[command(flatten)]
    configuration: ConfigurationArguments,
}

pub fn compile(options: Options) -> Result<u8, Error> {
    let mut config = options.configuration.configuration()?.config();
    options.code.apply(&mut config.compile);
    let interfaces = options.interfaces.read()?;
    let path = options.module;
    let module = client::ModuleFile::open(&path)?;
    if module.format == client::ModuleFormat::Artifact {
        return Err(Error::AlreadyCompiled { path });
    }
    let bytes = read_module(module.file.into(), &path)?;
    check_form(&bytes, &path)?;
    let failed = |error: supervisor::Error| Error::Module { path, message: error.to_string() };
    let artifact = artifact(&config, &bytes, &interfaces).map_err(failed)?;
    write_whole(&options.output, artifact.bytes())
        .map_err(|source| Error::Write { path: options.output, source })?;
    Ok(0)
}

fn artifact(
    config: &Config,
    module: &[u8],
    interfaces: &[Lowered],
) -> Result<Artifact<View>, supervisor::Error> {
    let compiler = Compiler::new(config);
    let options = match interfaces.is_empty() {
        true => config.compile,
        false => compiler.options_for(interfaces, module, &config.compile)?,
    };
    let progress = CompileProgress::default();
    let _bar = Bar::start(&progress);
    compiler.compile(module, &options, &progress)
}

/// Writes a file so that it is either complete or not there. A device or a pipe is written to, never replaced; of a symbolic
/// link, the file that it leads to is replaced.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
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
