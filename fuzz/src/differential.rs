//! One module on both sides.

use compiler::{Artifact, TrapKind};

use crate::mode::Mode;
use crate::ours;
use crate::peer::{self, Engines};
use crate::seen::{Call, Ended, Exported, Run, Seen};

/// What was compared for a module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    /// Calls that ended the same way.
    pub calls: u64,
    /// Among them, those that trapped.
    pub traps: u64,
    /// Among them, those of which the fuel that they used was compared.
    pub fuel: u64,
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

/// What Wasmtime made of a module, and what our compiler did.
pub struct Both {
    runs: Vec<Run>,
    artifact: Artifact<Vec<u8>>,
}

/// Runs a valid module on both sides and compares all that can be seen.
pub fn compare(engines: &Engines, wasm: &[u8], mode: Mode, seed: u64) -> Result<Compared, Failure> {
    Both::new(engines, wasm, wasm, mode, seed)?.compare()
}

impl Both {
    /// Runs `theirs` in Wasmtime and compiles `ours`: the same module, unless a test plants a difference.
    pub fn new(
        engines: &Engines,
        theirs: &[u8],
        ours: &[u8],
        mode: Mode,
        seed: u64,
    ) -> Result<Self, Failure> {
        let runs = peer::run(engines.of(mode), theirs, seed);
        let artifact = compiler::compile(ours, &mode.options());
        let (runs, artifact) = match (runs, artifact) {
            (Ok(runs), Ok(artifact)) => (runs, artifact),
            (Err(_), Err(_)) => return Err(Failure::Skipped("neither side takes it".into())),
            (
                Ok(_),
                Err(error @ (compiler::Error::Cap { .. } | compiler::Error::UnsupportedFeature { .. })),
            ) => {
                return Err(Failure::Skipped(error.to_string()));
            }
            (Ok(_), Err(error)) => return Err(Failure::Differs(format!("we refuse it: {error}"))),
            (Err(error), Ok(_)) => {
                return Err(Failure::Differs(format!("only Wasmtime refuses it: {error:?}")));
            }
        };
        let artifact = Artifact::parse(artifact)
            .map_err(|error| Failure::Differs(format!("our own artifact is refused: {error}")))?;
        Ok(Self { runs, artifact })
    }

    /// Our artifact.
    pub fn artifact(&self) -> &Artifact<Vec<u8>> {
        &self.artifact
    }

    /// The same runs with another artifact in the place of ours.
    pub fn with_artifact(self, artifact: Artifact<Vec<u8>>) -> Self {
        Self { artifact, ..self }
    }

    /// Makes the calls in a child of this process, one for each instance, and compares.
    pub fn compare(&self) -> Result<Compared, Failure> {
        self.compare_with(true, |calls| Ok(ours::run(&self.artifact, calls)))
    }

    /// Makes the calls in confined instances and compares.
    #[cfg(feature = "confined")]
    pub fn compare_confined(&self, confined: &crate::confined::Confined) -> Result<Compared, Failure> {
        let module = confined.load(&self.artifact).map_err(|error| Failure::Differs(error.to_string()))?;
        self.compare_with(false, |calls| {
            confined.run(&self.artifact, &module, calls).map_err(|error| error.to_string())
        })
    }

    fn compare_with(
        &self,
        tables: bool,
        run_ours: impl Fn(&[Call]) -> Result<(Option<Seen>, Vec<Seen>), String>,
    ) -> Result<Compared, Failure> {
        let mut compared = Compared::default();
        for (number, run) in self.runs.iter().enumerate() {
            let calls: Vec<Call> = run.calls.iter().map(|(call, _)| call.clone()).collect();
            let (started, seen) = run_ours(&calls).map_err(|what| differs(number, "the instance", &what))?;
            if let (Some(theirs), Some(ours)) = (&run.started, &started) {
                if is_exhausted(theirs) || is_exhausted(ours) {
                    compared.exhausted += 1;
                    break;
                }
                same(theirs, ours, tables).map_err(|what| differs(number, "the start", &what))?;
                compared.start_traps += u64::from(matches!(ours.ended, Ended::Trapped(_)));
            }
            for ((call, theirs), ours) in run.calls.iter().zip(&seen) {
                if is_exhausted(theirs) || is_exhausted(ours) {
                    compared.exhausted += 1;
                    return Ok(compared);
                }
                same(theirs, ours, tables).map_err(|what| differs(number, &format!("{call:?}"), &what))?;
                compared.calls += 1;
                compared.traps += u64::from(matches!(ours.ended, Ended::Trapped(_)));
                compared.fuel += u64::from(theirs.fuel.is_some() && ours.fuel.is_some());
            }
            if run.calls.len() != seen.len() {
                return Err(differs(number, "the calls", &format!("{} of {}", seen.len(), run.calls.len())));
            }
        }
        Ok(compared)
    }
}

fn differs(instance: usize, call: &str, what: &str) -> Failure {
    Failure::Differs(format!("instance {instance}, {call}: {what}"))
}

fn is_exhausted(seen: &Seen) -> bool {
    matches!(seen.ended, Ended::Trapped(TrapKind::StackExhausted | TrapKind::ExceptionMemory))
}

/// The kind as Wasmtime tells kinds apart.
fn coarse(ended: &Ended) -> Ended {
    match ended {
        Ended::Trapped(TrapKind::NullFunctionReference | TrapKind::NullException) => {
            Ended::Trapped(TrapKind::NullReference)
        }
        other => other.clone(),
    }
}

/// `tables`: the sizes of tables are among what we see.
fn same(theirs: &Seen, ours: &Seen, tables: bool) -> Result<(), String> {
    if matches!(ours.ended, Ended::Broken(_)) || coarse(&theirs.ended) != coarse(&ours.ended) {
        return Err(format!("Wasmtime {:x?}, we {:x?}", theirs.ended, ours.ended));
    }
    if let (Some(theirs), Some(ours)) = (theirs.fuel, ours.fuel)
        && theirs != ours
    {
        return Err(format!("fuel: Wasmtime uses {theirs}, we {ours}"));
    }
    let seen = |(_, exported): &&(String, Exported)| tables || !matches!(exported, Exported::Table(_));
    let theirs: Vec<_> = theirs.state.iter().filter(seen).collect();
    if theirs.len() != ours.state.len() {
        return Err(format!("Wasmtime has {} exports, we {}", theirs.len(), ours.state.len()));
    }
    match theirs.into_iter().zip(&ours.state).find(|(theirs, ours)| theirs != ours) {
        Some((theirs, ours)) => Err(format!("export: Wasmtime {theirs:x?}, we {ours:x?}")),
        None => Ok(()),
    }
}
