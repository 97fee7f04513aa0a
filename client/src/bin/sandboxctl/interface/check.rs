//! `sandboxctl interface check`.

use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::slice;

use client::{ModuleFile, ModuleFormat};
use compiler::Artifact;
use compiler::metadata::Import;
use ipc::protocol::one_line;
use serde_json::{Value as Json, json};
use supervisor::interface::{Lowered, LoweredFunction, Mismatch};
use supervisor::{Compiler, Config, mismatches};

use super::read;
use crate::embedded::{check_form, read_module};
use crate::error::Error;
use crate::policy::{error_json, print, print_json, show};

/// Exit status for an interface with a mistake, and for a module that does not fit it.
const MISTAKE: u8 = 1;

/// Check an interface, and tell what guests import from it. Exit status: 0, or 1 if there is a mistake or the module does not fit.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    /// Check what a module or an artifact imports from the interface.
    #[arg(long, value_name = "MODULE")]
    module: Option<PathBuf>,
    /// The interface, a file in TOML.
    #[arg(value_name = "FILE")]
    interface: PathBuf,
}

pub fn check(options: Options) -> Result<u8, Error> {
    let interface = match read(&options.interface) {
        Ok(interface) => interface,
        Err(Error::Policy(error)) => {
            match options.json {
                true => print_json(&json!({ "ok": false, "errors": [error_json(&error)] }))?,
                false => show(&[error]),
            }
            return Ok(MISTAKE);
        }
        Err(error) => return Err(error),
    };
    let imports = options.module.as_deref().map(|path| Imports::of(path, &interface)).transpose()?;
    let fits = imports.as_ref().is_none_or(|imports| imports.mismatches.is_empty());
    match options.json {
        true => print_json(&as_json(&interface, imports.as_ref()))?,
        false => print(&as_text(&interface, options.module.as_deref().zip(imports.as_ref())))?,
    }
    Ok(if fits { 0 } else { MISTAKE })
}

/// What a module imports from an interface.
struct Imports {
    count: usize,
    mismatches: Vec<Mismatch>,
}

impl Imports {
    fn of(path: &Path, interface: &Lowered) -> Result<Self, Error> {
        let about = |message: String| Error::Module { path: path.to_path_buf(), message };
        let module = ModuleFile::open(path)?;
        let is_artifact = module.format == ModuleFormat::Artifact;
        let bytes = read_module(File::from(module.file), path)?;
        if is_artifact {
            let artifact = Artifact::parse(bytes).map_err(|error| about(error.to_string()))?;
            return Ok(Self::compared(interface, || artifact.metadata().imports.iter().cloned()));
        }
        check_form(&bytes, path)?;
        let config = Config::default();
        let imports = Compiler::new(&config).imports(&bytes, &config.compile);
        let imports = imports.map_err(|error| about(error.to_string()))?;
        Ok(Self::compared(interface, || imports.iter()))
    }

    /// Of all that a module imports, what it imports from the interface.
    fn compared<I: Iterator<Item = Import>>(interface: &Lowered, imports: impl Fn() -> I) -> Self {
        let own = || imports().filter(|import| import.module == interface.interface().name);
        Self { count: own().count(), mismatches: mismatches(own(), slice::from_ref(interface)) }
    }
}

fn as_text(interface: &Lowered, module: Option<(&Path, &Imports)>) -> String {
    let (name, functions) = (&interface.interface().name, interface.functions());
    let mut text =
        format!("{name}: ok ({} functions, {} types)\n", functions.len(), interface.interface().types.len());
    // Writing to a string does not fail.
    for function in functions {
        let _ = writeln!(text, "  {}: {}", function.declaration().name, signature(function));
    }
    for warning in interface.warnings() {
        let _ = writeln!(text, "warning: {warning}");
    }
    if let Some((path, imports)) = module {
        let path = one_line(&path.to_string_lossy());
        match imports.mismatches.len() {
            0 => {
                let _ = writeln!(text, "{path}: ok ({} imports from {name})", imports.count);
            }
            _ => imports.mismatches.iter().for_each(|mismatch| {
                let _ = writeln!(text, "{path}: {}", one_line(&mismatch.to_string()));
            }),
        }
    }
    text
}

fn signature(function: &LoweredFunction) -> String {
    let list = |types: &[_]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    format!("({}) -> ({})", list(function.params()), list(function.results()))
}

fn as_json(interface: &Lowered, imports: Option<&Imports>) -> Json {
    let names =
        |types: &[supervisor::interface::WasmType]| types.iter().map(ToString::to_string).collect::<Vec<_>>();
    let functions: Vec<Json> = interface
        .functions()
        .iter()
        .map(|f| json!({ "name": f.declaration().name, "params": names(f.params()), "results": names(f.results()) }))
        .collect();
    let mismatches = imports.map(|imports| {
        let all = imports.mismatches.iter();
        all.map(|m| json!({ "function": m.function, "expected": m.expected, "found": m.found }))
            .collect::<Vec<_>>()
    });
    json!({
        "ok": mismatches.as_ref().is_none_or(Vec::is_empty),
        "errors": [],
        "interface": interface.interface().name,
        "functions": functions,
        "warnings": interface.warnings(),
        "imports": imports.map(|imports| imports.count),
        "mismatches": mismatches,
    })
}
