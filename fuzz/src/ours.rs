//! The same calls in an artifact of ours, in a forked child.

use compiler::metadata::{ExportItem, GlobalValue};
use compiler::{Artifact, ValType};
use ipc::context::{BUILTINS, FUEL as FUEL_ADDRESS};

use crate::loader::{self, Call as Step, Outcome};
use crate::mode::FUEL;
use crate::seen::{Call, Ended, Exported, Seen, Value};

/// What to read after a call, for one export.
enum Probe<'a> {
    Global(&'a str, ValType, GlobalValue),
    Memory(&'a str),
    Table(&'a str),
    Fuel,
}

/// What is seen after the start and after each of `calls` in a fresh instance.
pub fn run(artifact: &Artifact<Vec<u8>>, calls: &[Call]) -> (Option<Seen>, Vec<Seen>) {
    let metadata = artifact.metadata();
    if let Some(trap) = metadata.start_trap {
        return (Some(Seen { ended: Ended::Trapped(trap), state: Vec::new(), fuel: None }), Vec::new());
    }
    let mut probes = Vec::new();
    let mut reads = Vec::new();
    for export in &metadata.exports {
        match export.item {
            ExportItem::Global(index) => {
                let Some(global) = metadata.globals.get(index as usize) else { continue };
                reads.push(Step::Read(match global.value {
                    GlobalValue::Address(address) => address,
                    // Any address will do.
                    GlobalValue::Constant(_) => BUILTINS,
                }));
                probes.push(Probe::Global(&export.name, global.ty, global.value));
            }
            ExportItem::Memory(index) => {
                let Some(memory) = metadata.memories.get(index as usize) else { continue };
                reads.push(Step::Read(memory.descriptor + 8));
                reads.push(Step::Hash(memory.descriptor));
                probes.push(Probe::Memory(&export.name));
            }
            ExportItem::Table(index) => {
                let Some(table) = metadata.tables.get(index as usize) else { continue };
                reads.push(Step::Read(table.descriptor + 8));
                probes.push(Probe::Table(&export.name));
            }
            _ => {}
        }
    }

    if metadata.options.fuel {
        reads.push(Step::Read(FUEL_ADDRESS));
        probes.push(Probe::Fuel);
    }

    let slots: Vec<Vec<u128>> =
        calls.iter().map(|call| call.arguments.iter().map(|value| value.slot()).collect()).collect();
    let mut steps = Vec::new();
    if let Some(start) = metadata.start {
        steps.push(Step::Function(start, &[]));
    }
    steps.extend(&reads);
    for (call, slots) in calls.iter().zip(&slots) {
        let Some(ExportItem::Function { entry, .. }) = artifact.export(&call.export) else { break };
        steps.push(Step::Function(*entry, slots));
        steps.extend(&reads);
    }
    let fueled = loader::with_fuel(artifact, FUEL);
    let mut outcomes = loader::run(&fueled, &steps).into_iter();

    let started = match metadata.start {
        Some(_) => ended(outcomes.next(), &[]),
        None => Ended::Returned(Vec::new()),
    };
    let failed = !matches!(started, Ended::Returned(_));
    let (state, mut left) = state(&probes, &mut outcomes);
    let started = Seen { ended: started, state: if failed { Vec::new() } else { state }, fuel: None };
    let mut seen = Vec::new();
    for call in calls {
        let Some(ExportItem::Function { results, .. }) = artifact.export(&call.export) else { break };
        let ended = ended(outcomes.next(), results);
        let before = left;
        let state;
        (state, left) = self::state(&probes, &mut outcomes);
        let used = before.zip(left).map(|(before, left)| before.wrapping_sub(left));
        let fuel = used.filter(|_| matches!(ended, Ended::Returned(_)));
        seen.push(Seen { ended, state, fuel });
    }
    (Some(started), seen)
}

fn ended(outcome: Option<Outcome>, results: &[ValType]) -> Ended {
    match outcome {
        Some(Outcome::Returned(slots)) => {
            Ended::Returned(results.iter().zip(slots).map(|(ty, slot)| Value::of_slot(slot, *ty)).collect())
        }
        Some(Outcome::Trapped(Some(kind), _)) => Ended::Trapped(kind),
        other => Ended::Broken(format!("{other:x?}")),
    }
}

/// The exports' state, and the fuel that is left.
fn state(
    probes: &[Probe<'_>],
    outcomes: &mut impl Iterator<Item = Outcome>,
) -> (Vec<(String, Exported)>, Option<u64>) {
    let mut slot = || match outcomes.next() {
        Some(Outcome::Returned(slots)) => slots.first().copied().unwrap_or(0),
        _ => u128::MAX,
    };
    let (mut state, mut fuel) = (Vec::new(), None);
    for probe in probes {
        let (name, exported) = match probe {
            Probe::Global(name, ty, value) => {
                let read = slot();
                let bits = if let GlobalValue::Constant(bits) = value { *bits } else { read };
                (name, Exported::Global(Value::of_slot(bits, *ty)))
            }
            Probe::Memory(name) => (name, Exported::Memory(slot() as u64, slot() as u64)),
            Probe::Table(name) => (name, Exported::Table(slot() as u64)),
            Probe::Fuel => {
                fuel = Some(slot() as u64);
                continue;
            }
        };
        state.push(((*name).to_owned(), exported));
    }
    (state, fuel)
}
