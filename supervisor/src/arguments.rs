//! Options of command lines that several programs have.

use std::path::PathBuf;

use compiler::{OptLevel, Options, TargetCpu};
use interface::{Interface, Lowered};

use crate::Configuration;

/// What the compiler makes of a module.
#[derive(Clone, Debug, clap::Args)]
pub struct CodeArguments {
    /// How hard to optimise: none, speed or speed_and_size [default: what the configuration says, else speed].
    #[arg(long, value_name = "LEVEL")]
    opt_level: Option<OptLevel>,
    /// Which instructions the code may use: baseline (x86-64-v2) or native (what this machine has) [default: what the
    /// configuration says, else native].
    #[arg(long, value_name = "CPU")]
    target_cpu: Option<TargetCpu>,
    /// The code counts what it executes, for `sandboxctl run --fuel`.
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
    /// Threads that compile; 0 means one per CPU [default: what the configuration says, else 0].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl CodeArguments {
    /// Puts what the command line says over what a configuration says.
    pub fn apply(&self, options: &mut Options) {
        options.opt_level = self.opt_level.unwrap_or(options.opt_level);
        options.target_cpu = self.target_cpu.unwrap_or(options.target_cpu);
        options.fuel |= self.fuel;
        options.debug_info |= self.debug_info;
        options.nan_canonicalization |= self.nan_canonicalization;
        options.spectre_guards |= self.spectre_guards;
        options.threads = self.threads.unwrap_or(options.threads);
    }
}

/// What a module may import.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct InterfaceArguments {
    /// An interface of typed host functions (docs/host-functions.md) that the module may import from, besides WASI. Every import
    /// that is not as one of them says is an error. Repeatable.
    #[arg(long, value_name = "FILE")]
    interface: Vec<PathBuf>,
}

impl InterfaceArguments {
    /// Reads them.
    pub fn read(&self) -> Result<Vec<Lowered>, policies::Error> {
        self.interface.iter().map(|path| Interface::read(path)).collect()
    }
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigurationArguments {
    /// Configuration file (docs/configuration.md). Options of the command line win over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One key of the configuration, such as compile.caps.functions=5000, in place of what the file says. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigurationArguments {
    /// Whether there are any.
    pub fn are_given(&self) -> bool {
        self.config.is_some() || !self.set.is_empty()
    }

    /// Reads the file and the keys.
    pub fn configuration(&self) -> Result<Configuration, policies::Error> {
        let mut configuration = Configuration::default();
        if let Some(path) = &self.config {
            configuration.load(path)?;
        }
        for text in &self.set {
            configuration.apply(text, "--set")?;
        }
        Ok(configuration)
    }
}
