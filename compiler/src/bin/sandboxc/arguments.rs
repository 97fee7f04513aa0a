//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use compiler::{OptLevel, Options, TargetCpu};

/// Compiles WebAssembly modules to native artifacts for sandboxd.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub compile: Compile,
}

#[derive(Subcommand)]
pub enum Command {
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
pub struct Compile {
    /// The module: WebAssembly in binary (.wasm) or text (.wat) form.
    #[arg(required = true)]
    pub module: Option<PathBuf>,
    /// Where to write the output.
    #[arg(short, long, required_unless_present = "validate")]
    pub output: Option<PathBuf>,
    /// How hard to optimise: none, speed or speed_and_size.
    #[arg(long, value_name = "LEVEL", default_value_t = OptLevel::Speed)]
    opt_level: OptLevel,
    /// Which instructions the code may use: baseline (x86-64-v2) or native (what this machine has).
    #[arg(long, value_name = "CPU", default_value_t = TargetCpu::Native)]
    target_cpu: TargetCpu,
    /// The code counts what it executes, and stops when a job's fuel is used up.
    #[arg(long)]
    fuel: bool,
    /// Carry the module's DWARF over: debuggers and backtraces name source lines.
    #[arg(short = 'g', long)]
    debug_info: bool,
    /// Every NaN that arithmetic makes is the same one.
    #[arg(long)]
    nan_canonicalization: bool,
    /// Mispredicted bounds checks of tables and 64-bit memories read nothing.
    #[arg(long)]
    spectre_guards: bool,
    /// What to write.
    #[arg(long, value_enum, default_value_t = Emit::Image)]
    pub emit: Emit,
    /// Threads that compile; 0 means one per CPU.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Only check that the module is valid and supported; with --output, check first.
    #[arg(long)]
    pub validate: bool,
    /// Write JSON to standard output: an object about the artifact, or one about the error.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Emit {
    /// The artifact.
    Image,
    /// The machine code of each function, as text.
    Asm,
    /// The Cranelift IR of each function.
    Clif,
}

impl Compile {
    /// What the compiler is told.
    pub fn options(&self) -> Options {
        Options {
            opt_level: self.opt_level,
            target_cpu: self.target_cpu,
            fuel: self.fuel,
            debug_info: self.debug_info,
            nan_canonicalization: self.nan_canonicalization,
            spectre_guards: self.spectre_guards,
            threads: self.threads,
            ..Options::default()
        }
    }
}
