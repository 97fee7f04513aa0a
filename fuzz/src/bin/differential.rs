//! Seeded differential tests: modules made of seeds, run here and in Wasmtime.
//!
//! `differential --seeds 0..2600 --at-least 2000`

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use arbitrary::Unstructured;
use clap::Parser;
use sandboxd_fuzz::differential::{Both, Compared, Failure};
use sandboxd_fuzz::generate;
use sandboxd_fuzz::mode::Mode;
use sandboxd_fuzz::peer::Engines;

/// Random bytes that a module is made of.
const BYTES: usize = 16 << 10;

/// Compares how generated modules run here and in Wasmtime.
#[derive(Parser)]
struct Arguments {
    /// The seeds, `FROM..TO`. A seed's number says how its module is compiled, too.
    #[arg(long, value_parser = range)]
    seeds: Range<u64>,
    /// Fail unless this many modules were compared, with a call at least each.
    #[arg(long, default_value_t = 0)]
    at_least: u64,
    /// Every so many seeds, the calls are made in confined instances too.
    #[cfg(feature = "confined")]
    #[arg(long)]
    confined_every: Option<std::num::NonZeroU64>,
    /// Where modules that differ are written.
    #[arg(long, default_value = ".")]
    output: PathBuf,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let parse = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    let (from, to) = text.split_once("..").ok_or("must be FROM..TO")?;
    Ok(parse(from)?..parse(to)?)
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let engines = Engines::new().map_err(|error| error.to_string())?;
    #[cfg(feature = "confined")]
    let confined = match arguments.confined_every {
        Some(every) => Some((every, sandboxd_fuzz::confined::Confined::start()?)),
        None => None,
    };
    #[cfg(feature = "confined")]
    let mut confined_total = Sum::default();
    let mut total = Sum::default();
    let mut failed = 0;
    let mut skipped = BTreeMap::<String, u64>::new();
    for seed in arguments.seeds.clone() {
        let random = generate::bytes(seed, BYTES);
        let mode = Mode::of(seed);
        let canonical = !mode.nan_canonicalization;
        let Ok(wasm) = generate::terminating(&mut Unstructured::new(&random), canonical) else {
            *skipped.entry("no module out of these bytes".into()).or_default() += 1;
            continue;
        };
        let mut compare = || {
            let both = Both::new(&engines, &wasm, &wasm, mode, seed)?;
            let compared = both.compare()?;
            #[cfg(feature = "confined")]
            if let Some((every, confined)) = &confined
                && seed.is_multiple_of(every.get())
            {
                let confined = both.compare_confined(confined).map_err(|failure| match failure {
                    Failure::Differs(what) => Failure::Differs(format!("confined: {what}")),
                    other => other,
                })?;
                confined_total.add(&confined);
            }
            Ok(compared)
        };
        let result = catch_unwind(AssertUnwindSafe(&mut compare))
            .unwrap_or_else(|_| Err(Failure::Differs("a panic, see above".into())));
        match result {
            Ok(compared) => {
                total.add(&compared);
                if compared.calls == 0 {
                    let why = if compared.start_traps > 0 {
                        "the instantiation trapped"
                    } else if compared.exhausted > 0 {
                        "the stack was exhausted at once"
                    } else {
                        "nothing to call"
                    };
                    *skipped.entry(why.into()).or_default() += 1;
                }
            }
            Err(Failure::Skipped(reason)) => *skipped.entry(reason).or_default() += 1,
            Err(Failure::Differs(what)) => {
                failed += 1;
                let path = arguments.output.join(format!("differs-{seed}.wasm"));
                println!("seed {seed}, {mode:?}: {what}; the module: {}", path.display());
                if let Err(error) = std::fs::write(&path, &wasm) {
                    eprintln!("cannot write {}: {error}", path.display());
                }
            }
        }
    }
    println!("{total}");
    for (reason, count) in skipped {
        println!("skipped {count}: {reason}");
    }
    #[cfg(feature = "confined")]
    if confined.is_some() {
        println!("in confined instances: {} modules, {confined_total}", confined_total.modules);
    }
    println!("{} passed, {failed} failed", total.modules);
    Ok(failed == 0 && total.modules >= arguments.at_least)
}

/// What was compared for all modules.
#[derive(Default)]
struct Sum {
    /// Modules of which a call was.
    modules: u64,
    compared: Compared,
}

impl Sum {
    fn add(&mut self, compared: &Compared) {
        self.modules += u64::from(compared.calls > 0);
        self.compared.calls += compared.calls;
        self.compared.traps += compared.traps;
        self.compared.fuel += compared.fuel;
        self.compared.start_traps += compared.start_traps;
        self.compared.exhausted += compared.exhausted;
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Compared { calls, traps, fuel, start_traps, exhausted } = self.compared;
        write!(
            f,
            "{calls} calls compared, {traps} of them trapped, the fuel of {fuel} too; {start_traps} instantiations trapped; \
             {exhausted} modules left early by an exhausted stack"
        )
    }
}
