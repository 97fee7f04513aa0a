//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use supervisor::arguments::{CodeArguments, ConfigurationArguments, InterfaceArguments};

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
    #[command(flatten)]
    pub code: CodeArguments,
    #[command(flatten)]
    pub interfaces: InterfaceArguments,
    #[command(flatten)]
    pub configuration: ConfigurationArguments,
    /// What to write.
    #[arg(long, value_enum, default_value_t = Emit::Image)]
    pub emit: Emit,
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
