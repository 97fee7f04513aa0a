//! `sandboxc`: compiles a WebAssembly module to an artifact, and looks into artifacts.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use compiler::progress::Bar;
use compiler::{Artifact, Listing, Options, Progress};

mod arguments;
mod diagnostics;
mod inspect;

use arguments::{Cli, Command, Compile, Emit};
use diagnostics::Problem;

/// Exit status for every error: ours, like those of `sandboxctl`.
const FAILURE: u8 = 125;

fn main() -> ExitCode {
    let cli = Cli::parse();
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
    let input = read(path)?;
    let is_text = path.extension().is_some_and(|extension| extension == "wat");
    let wasm = if is_text && !input.starts_with(b"\0asm") {
        compiler::parse_text(&input).map_err(|error| Problem::of_module(path, &error, &input))?
    } else {
        input
    };
    let failed = |error: compiler::Error| Problem::of_module(path, &error, &wasm);
    let options = arguments.options();
    if arguments.validate {
        compiler::validate(&wasm, &options).map_err(failed)?;
    }
    let Some(output) = &arguments.output else { return Ok(()) };
    let bytes = match arguments.emit {
        Emit::Image => image(&wasm, &options),
        Emit::Asm => compiler::list(&wasm, &options, Listing::Assembly).map(String::into_bytes),
        Emit::Clif => compiler::list(&wasm, &options, Listing::Clif).map(String::into_bytes),
    }
    .map_err(failed)?;
    fs::write(output, &bytes).map_err(|error| Problem::io("write", output, &error))?;
    if arguments.json && matches!(arguments.emit, Emit::Image) {
        inspect::tell(&parse(bytes, output)?, true)?;
    }
    Ok(())
}

/// The artifact, with a bar on a terminal while it is made.
fn image(wasm: &[u8], options: &Options) -> Result<Vec<u8>, compiler::Error> {
    let progress = Arc::new(Progress::default());
    let shown = Arc::clone(&progress);
    let _bar = Bar::start(move || shown.get());
    compiler::compile_with_progress(wasm, options, &progress)
}

fn inspect(path: &Path, json: bool) -> Result<(), Problem> {
    inspect::tell(&parse(read(path)?, path)?, json)
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    fs::read(path).map_err(|error| Problem::io("read", path, &error))
}

fn parse(bytes: Vec<u8>, path: &Path) -> Result<Artifact<Vec<u8>>, Problem> {
    Artifact::parse(bytes).map_err(|error| Problem::of_artifact(path, &error))
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
