//! Seeded differential tests: modules made of seeds, run here and in Wasmtime.
//!
//! `differential --seeds 0..2600 --at-least 2000`

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use arbitrary::Unstructured;
use clap::{Parser, ValueEnum};
use compiler::OptLevel;
use sandboxd_fuzz::differential::{Compared, Failure, compare};
use sandboxd_fuzz::{generate, peer};

/// Random bytes that a module is made of.
const BYTES: usize = 16 << 10;

#[derive(Clone, Copy, ValueEnum)]
enum Level {
    None,
    Speed,
    /// Every fourth seed without optimisation.
    Mixed,
}

/// Compares how generated modules run here and in Wasmtime.
#[derive(Parser)]
struct Arguments {
    /// The seeds, `FROM..TO`.
    #[arg(long, value_parser = range)]
    seeds: Range<u64>,
    /// How our side optimises.
    #[arg(long, value_enum, default_value = "mixed")]
    opt_level: Level,
    /// Fail unless this many modules were compared, with a call at least each.
    #[arg(long, default_value_t = 0)]
    at_least: u64,
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
    let arguments = Arguments::parse();
    let engines = match (peer::engine(false), peer::engine(true)) {
        (Ok(plain), Ok(optimising)) => [plain, optimising],
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("cannot set up Wasmtime: {error:?}");
            return ExitCode::FAILURE;
        }
    };
    let (mut passed, mut failed, mut total) = (0, 0, Compared::default());
    let mut skipped = BTreeMap::<String, u64>::new();
    for seed in arguments.seeds {
        let random = generate::bytes(seed, BYTES);
        let Ok(wasm) = generate::terminating(&mut Unstructured::new(&random)) else {
            *skipped.entry("no module out of these bytes".into()).or_default() += 1;
            continue;
        };
        let level = match arguments.opt_level {
            Level::None => OptLevel::None,
            Level::Speed => OptLevel::Speed,
            Level::Mixed if seed % 4 == 3 => OptLevel::None,
            Level::Mixed => OptLevel::Speed,
        };
        let [plain, optimising] = &engines;
        let engine = if seed % 8 < 4 { optimising } else { plain };
        let result = catch_unwind(AssertUnwindSafe(|| compare(engine, &wasm, level, seed)))
            .unwrap_or_else(|_| Err(Failure::Differs("a panic, see above".into())));
        match result {
            Ok(compared) => {
                total.calls += compared.calls;
                total.traps += compared.traps;
                total.start_traps += compared.start_traps;
                total.exhausted += compared.exhausted;
                if compared.calls > 0 {
                    passed += 1;
                } else {
                    *skipped.entry("no call was compared".into()).or_default() += 1;
                }
            }
            Err(Failure::Skipped(reason)) => *skipped.entry(reason).or_default() += 1,
            Err(Failure::Differs(what)) => {
                failed += 1;
                let path = arguments.output.join(format!("differs-{seed}.wasm"));
                println!("seed {seed}: {what}; the module: {}", path.display());
                if let Err(error) = std::fs::write(&path, &wasm) {
                    eprintln!("cannot write {}: {error}", path.display());
                }
            }
        }
    }
    println!(
        "{} calls compared, {} of them trapped; {} instantiations trapped; {} modules left early by an exhausted stack",
        total.calls, total.traps, total.start_traps, total.exhausted
    );
    for (reason, count) in skipped {
        println!("skipped {count}: {reason}");
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed >= arguments.at_least { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
