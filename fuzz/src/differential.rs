//! One module on both sides.

use compiler::{Artifact, OptLevel, Options, TargetCpu, TrapKind};
use wasmtime::Engine;

use crate::seen::{Call, Ended, Seen};
use crate::{ours, peer};

/// What was compared for a module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    /// Calls that ended the same way.
    pub calls: u64,
    /// Among them, those that trapped.
    pub traps: u64,
    /// Instantiations that trapped.
    pub start_traps: u64,
    /// A stack was exhausted; what came after was not compared.
    pub exhausted: u64,
}

/// Why a module could not be compared, or what differs.
#[derive(Clone, Debug)]
pub enum Failure {
    /// It says nothing: the reason.
    Skipped(String),
    /// A difference: a bug on one side.
    Differs(String),
}

/// Runs a valid module on both sides and compares all that can be seen.
pub fn compare(engine: &Engine, wasm: &[u8], opt_level: OptLevel, seed: u64) -> Result<Compared, Failure> {
    let options = Options { opt_level, target_cpu: TargetCpu::Native, threads: 1, ..Options::default() };
    let runs = peer::run(engine, wasm, seed);
    let artifact = compiler::compile(wasm, &options);
    let (runs, artifact) = match (runs, artifact) {
        (Ok(runs), Ok(artifact)) => (runs, artifact),
        (Err(_), Err(_)) => return Err(Failure::Skipped("neither side takes it".into())),
        (Ok(_), Err(error @ (compiler::Error::Cap { .. } | compiler::Error::UnsupportedFeature { .. }))) => {
            return Err(Failure::Skipped(error.to_string()));
        }
        (Ok(_), Err(error)) => return Err(Failure::Differs(format!("we refuse it: {error}"))),
        (Err(error), Ok(_)) => return Err(Failure::Differs(format!("only Wasmtime refuses it: {error:?}"))),
    };
    let artifact = Artifact::parse(artifact)
        .map_err(|error| Failure::Differs(format!("our own artifact is refused: {error}")))?;

    let mut compared = Compared::default();
    for (number, run) in runs.iter().enumerate() {
        let calls: Vec<Call> = run.calls.iter().map(|(call, _)| call.clone()).collect();
        let (started, seen) = ours::run(&artifact, &calls);
        if let (Some(theirs), Some(ours)) = (&run.started, &started) {
            if is_exhausted(theirs) || is_exhausted(ours) {
                compared.exhausted += 1;
                break;
            }
            same(theirs, ours).map_err(|what| differs(number, "the start", &what))?;
            compared.start_traps += u64::from(matches!(ours.ended, Ended::Trapped(_)));
        }
        if run.calls.len() != seen.len() {
            return Err(differs(number, "the calls", &format!("{} of {}", seen.len(), run.calls.len())));
        }
        for ((call, theirs), ours) in run.calls.iter().zip(&seen) {
            if is_exhausted(theirs) || is_exhausted(ours) {
                compared.exhausted += 1;
                return Ok(compared);
            }
            same(theirs, ours).map_err(|what| differs(number, &format!("{call:?}"), &what))?;
            compared.calls += 1;
            compared.traps += u64::from(matches!(ours.ended, Ended::Trapped(_)));
        }
    }
    Ok(compared)
}

fn differs(instance: usize, call: &str, what: &str) -> Failure {
    Failure::Differs(format!("instance {instance}, {call}: {what}"))
}

fn is_exhausted(seen: &Seen) -> bool {
    matches!(seen.ended, Ended::Trapped(TrapKind::StackExhausted | TrapKind::ExceptionMemory))
}

fn same(theirs: &Seen, ours: &Seen) -> Result<(), String> {
    if matches!(ours.ended, Ended::Broken(_)) || theirs.ended != ours.ended {
        return Err(format!("Wasmtime {:x?}, we {:x?}", theirs.ended, ours.ended));
    }
    if theirs.state.len() != ours.state.len() {
        return Err(format!("Wasmtime has {} exports, we {}", theirs.state.len(), ours.state.len()));
    }
    match theirs.state.iter().zip(&ours.state).find(|(theirs, ours)| theirs != ours) {
        Some((theirs, ours)) => Err(format!("export: Wasmtime {theirs:x?}, we {ours:x?}")),
        None => Ok(()),
    }
}
