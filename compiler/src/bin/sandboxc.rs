//! `sandboxc`: compiles a WebAssembly module to an artifact, and looks into artifacts.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use compiler::metadata::{ExportItem, GlobalValue};
use compiler::{Artifact, Listing, Metadata, OptLevel, Options, TargetCpu};

/// Exit status for every error: ours, like those of `sandboxctl`.
const FAILURE: u8 = 125;

/// Compiles WebAssembly modules to native artifacts for sandboxd.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    compile: Compile,
}

#[derive(Subcommand)]
enum Command {
    /// Check an artifact and say what is in it.
    Inspect {
        /// The artifact.
        artifact: PathBuf,
        /// Write JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct Compile {
    /// The module: WebAssembly in binary (.wasm) or text (.wat) form.
    #[arg(required = true)]
    module: Option<PathBuf>,
    /// Where to write the output.
    #[arg(short, long, required_unless_present = "validate")]
    output: Option<PathBuf>,
    /// How hard to optimise.
    #[arg(long, value_enum, default_value_t = Opt::Speed)]
    opt_level: Opt,
    /// Which instructions the code may use.
    #[arg(long, value_enum, default_value_t = Cpu::Native)]
    target_cpu: Cpu,
    /// What to write.
    #[arg(long, value_enum, default_value_t = Emit::Image)]
    emit: Emit,
    /// Threads that compile; 0 means one per CPU.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Only check that the module is valid and supported.
    #[arg(long)]
    validate: bool,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Opt {
    None,
    Speed,
    SpeedAndSize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Cpu {
    /// x86-64-v2.
    Baseline,
    /// What this machine has.
    Native,
}

#[derive(Clone, Copy, ValueEnum)]
enum Emit {
    /// The artifact.
    Image,
    /// The machine code of each function, as text.
    Asm,
    /// The Cranelift IR of each function.
    Clif,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Inspect { artifact, json }) => inspect(&artifact, json),
        None => compile(&cli.compile),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("sandboxc: {message}");
            ExitCode::from(FAILURE)
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn compile(args: &Compile) -> Result<(), String> {
    let path = args.module.as_deref().ok_or("no module given")?;
    let failed = |error: compiler::Error| format!("{}: {error}", path.display());
    let input = read(path)?;
    let wasm = if input.starts_with(b"\0asm") || path.extension().is_none_or(|extension| extension != "wat") {
        input
    } else {
        compiler::parse_text(&input).map_err(failed)?
    };
    let options = Options {
        opt_level: match args.opt_level {
            Opt::None => OptLevel::None,
            Opt::Speed => OptLevel::Speed,
            Opt::SpeedAndSize => OptLevel::SpeedAndSize,
        },
        target_cpu: match args.target_cpu {
            Cpu::Baseline => TargetCpu::Baseline,
            Cpu::Native => TargetCpu::Native,
        },
        threads: args.threads,
        ..Options::default()
    };
    if args.validate {
        compiler::validate(&wasm, &options).map_err(failed)?;
    }
    let Some(output) = &args.output else { return Ok(()) };
    let bytes = match args.emit {
        Emit::Image => compiler::compile(&wasm, &options),
        Emit::Asm => compiler::list(&wasm, &options, Listing::Assembly).map(String::into_bytes),
        Emit::Clif => compiler::list(&wasm, &options, Listing::Clif).map(String::into_bytes),
    }
    .map_err(failed)?;
    fs::write(output, bytes).map_err(|error| format!("cannot write {}: {error}", output.display()))
}

fn inspect(path: &Path, json: bool) -> Result<(), String> {
    let artifact = Artifact::parse(read(path)?).map_err(|error| format!("{}: {error}", path.display()))?;
    let metadata = artifact.metadata();
    let text = if json {
        serde_json::to_string_pretty(metadata).map_err(|error| error.to_string())? + "\n"
    } else {
        describe(metadata)
    };
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that went away, as `head` does, is no error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("cannot write: {error}")),
        _ => Ok(()),
    }
}

fn describe(metadata: &Metadata) -> String {
    let mut lines = vec![
        format!("compiler    {}", metadata.compiler),
        format!("cpu         {}", metadata.cpu_features.join(" ")),
        format!("module      {}", metadata.wasm_hash.iter().map(|b| format!("{b:02x}")).collect::<String>()),
        format!("functions   {}", metadata.functions),
        format!("writable    {} bytes", metadata.data_bytes),
    ];
    let missing = metadata.missing_cpu_features();
    if !missing.is_empty() {
        lines.push(format!("not here    this machine's CPU lacks {}", missing.join(" ")));
    }
    if let Some(trap) = metadata.start_trap {
        lines.push(format!("start trap  {trap}"));
    }
    if let Some(start) = &metadata.start {
        lines.push(format!("start       function {} at {:#x}", start.function, start.code));
    }
    for (index, memory) in metadata.memories.iter().enumerate() {
        lines.push(format!("memory {index}    {} to {} pages", memory.min_pages, memory.max_pages));
    }
    for (index, table) in metadata.tables.iter().enumerate() {
        lines.push(format!("table {index}     {} to {} of {}", table.size, table.max, table.ty));
    }
    let host: Vec<_> = metadata.host_functions().map(|id| id.declaration().name).collect();
    lines.push(format!("imports     {}", host.join(" ")));
    for export in &metadata.exports {
        let what = match &export.item {
            ExportItem::Function { entry, params, results } => {
                let ty = compiler::FuncType { params: params.clone(), results: results.clone() };
                format!("function {} {ty} at {:#x}", entry.function, entry.code)
            }
            ExportItem::Memory(index) => format!("memory {index}"),
            ExportItem::Table(index) => format!("table {index}"),
            ExportItem::Tag(index) => format!("tag {index}"),
            ExportItem::Global(index) => match metadata.globals.get(*index as usize) {
                Some(global) => match global.value {
                    GlobalValue::Constant(bits) => format!("global {index} {} constant {bits:#x}", global.ty),
                    GlobalValue::Address(address) => format!("global {index} {} at {address:#x}", global.ty),
                },
                None => format!("global {index}"),
            },
        };
        lines.push(format!("export      {:?} {what}", export.name));
    }
    lines.join("\n") + "\n"
}
