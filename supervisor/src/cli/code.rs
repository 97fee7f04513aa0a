//! The options of a compilation.

use clap::Args;
use compiler::{OptLevel, Options, TargetCpu};

/// What the compiler makes of the module, for people to choose.
#[derive(Clone, Debug, Args)]
pub struct CodeArguments {
    /// How hard to optimise: none, speed or speed_and_size.
    #[arg(long, value_name = "LEVEL", default_value_t = OptLevel::Speed)]
    opt_level: OptLevel,
    /// Which instructions the code may use: baseline (x86-64-v2) or native (what this machine has).
    #[arg(long, value_name = "CPU", default_value_t = TargetCpu::Native)]
    target_cpu: TargetCpu,
    /// The code counts what it executes, and stops when a job's fuel is used up; `sandboxctl run --fuel` needs it.
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
    /// Threads that compile; 0 means one per CPU.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

impl CodeArguments {
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
