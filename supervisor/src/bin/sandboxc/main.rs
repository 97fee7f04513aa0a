//! `sandboxc`: compiles a WebAssembly module to an artifact, and looks into artifacts. This process never parses a module.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use compiler::{Artifact, Diagnostic, Listing};
use ipc::protocol::MODULE_BYTES_MAX;
use supervisor::daemon::signals;
use supervisor::terminal::Bar;
use supervisor::{CompileProgress, Compiler, Error};

mod arguments;
mod diagnostics;
mod inspect;

use arguments::{Cli, Command, Compile, Emit};
use diagnostics::Problem;

/// Exit status for every error: ours, like those of `sandboxctl`.
const FAILURE: u8 = 125;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A limit on the size of files counts for memory files too, and is an error then. Should this fail, it is the end.
    let _ = signals::survive_file_size_limit();
    let (result, json) = match &cli.command {
        Some(Command::Inspect { artifact, json }) => (inspect(artifact, *json), *json),
        None => (compile(&cli.compile), cli.compile.json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            problem.tell(json);
            ExitCode::from(FAILURE)
        }
    }
}

fn compile(arguments: &Compile) -> Result<(), Problem> {
    let path = arguments.module.as_deref().unwrap_or(Path::new(""));
    let configuration =
        arguments.configuration.configuration().map_err(|e| Problem::configuration(path, &e))?;
    let interfaces = arguments.interfaces.read().map_err(|e| Problem::interface(path, &e))?;
    let mut config = configuration.config();
    arguments.code.apply(&mut config.compile);
    let module = read(path)?;
    let is_text = path.extension().is_some_and(|extension| extension == "wat");
    if !is_text && !module.starts_with(b"\0asm") {
        return Err(Problem::refused(path, &Diagnostic::new(&compiler::Error::NotWasm, &[])));
    }
    let failed = |error: Error| Problem::of_compilation(path, &error);
    let compiler = Compiler::new(&config);
    let mut options = config.compile;
    if !interfaces.is_empty() {
        options = compiler.options_for(&interfaces, &module, &options).map_err(failed)?;
    }
    if arguments.validate {
        compiler.validate(&module, &options).map_err(failed)?;
    }
    let Some(output) = &arguments.output else { return Ok(()) };
    let progress = CompileProgress::default();
    let bar = Bar::start(&progress);
    let list = |listing| compiler.list(&module, &options, listing, &progress);
    let listing = match arguments.emit {
        Emit::Image => {
            let artifact = compiler.compile(&module, &options, &progress).map_err(failed)?;
            drop(bar);
            write(output, artifact.bytes())?;
            return if arguments.json { inspect::tell(&artifact, output, true) } else { Ok(()) };
        }
        Emit::Asm => list(Listing::Assembly),
        Emit::Clif => list(Listing::Clif),
    };
    drop(bar);
    write(output, listing.map_err(failed)?.as_ref())
}

/// Looks into an artifact, in this process: its bytes are read by the code that the supervisor checks every artifact with.
fn inspect(path: &Path, json: bool) -> Result<(), Problem> {
    let artifact = Artifact::parse(read(path)?).map_err(|error| Problem::of_artifact(path, &error))?;
    inspect::tell(&artifact, path, json)
}

/// A whole file, of a length that a module or an artifact may have.
fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let failed = |error| Problem::io("read", path, &error);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MODULE_BYTES_MAX {
        return Err(failed(io::Error::other(format!("it has more than {MODULE_BYTES_MAX} bytes"))));
    }
    Ok(bytes)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    fs::write(path, bytes).map_err(|error| Problem::io("write", path, &error))
}

/// Writes to standard output. A reader that went away, as `head` does, is no error.
fn print(text: &str) -> Result<(), Problem> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Problem::io("write", Path::new("standard output"), &error))
        }
        _ => Ok(()),
    }
}
