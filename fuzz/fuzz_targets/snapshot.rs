//! The state that an instance claims to be in, to the maker of snapshots. What it makes of it is sound, or there is none.
#![no_main]

use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use compiler::metadata::GlobalValue;
use compiler::{Artifact, Caps, MemoryState, Options, State, TableState};
use ipc::context::TableEntry;
use libfuzzer_sys::fuzz_target;

/// What a snapshot keeps, of every kind.
const MODULES: [&str; 3] = [
    r#"(module (memory 1 4) (table 2 6 funcref) (global (mut i32) (i32.const 1)) (global (mut v128) (v128.const i64x2 1 2))
        (global (mut funcref) (ref.null func)) (global (mut externref) (ref.null extern)) (global i64 (i64.const 9))
        (data "passive") (elem func $f) (data (i32.const 8) "active") (elem (i32.const 1) func $f)
        (func $f (export "init")))"#,
    r#"(module (memory 0 2) (memory i64 1 3) (type $t (func (param i32) (result i32))) (table 1 9 (ref null $t)) (table 0 3 externref)
        (global (mut (ref null $t)) (ref.func $g)) (func $g (type $t) (local.get 0)) (func $h) (elem declare func $g)
        (func (export "init")))"#,
    r#"(module (func (export "init")))"#,
];

static ARTIFACTS: LazyLock<Vec<Artifact<Vec<u8>>>> = LazyLock::new(|| {
    let artifact = |text: &&str| {
        let wasm = compiler::parse_text(text.as_bytes()).expect("a module");
        let compiled = compiler::compile(&wasm, &Options::default()).expect("it compiles");
        Artifact::parse(compiled).expect("an artifact")
    };
    MODULES.iter().map(artifact).collect()
});

/// A number that is often one that a checked place can hold.
fn near(u: &mut Unstructured<'_>, likely: &[u64]) -> arbitrary::Result<u64> {
    match u.ratio(3, 4)? {
        true => {
            Ok(u.choose(likely)?.wrapping_add(u.int_in_range(0..=2)?).wrapping_sub(u.int_in_range(0..=2)?))
        }
        false => u64::arbitrary(u),
    }
}

fn state(u: &mut Unstructured<'_>, artifact: &Artifact<Vec<u8>>) -> arbitrary::Result<State> {
    let metadata = artifact.metadata();
    // Numbers that mean something to this artifact: its functions' descriptors among them.
    let mut known = vec![0, 1, 65536, 2 * 65536, 3 * 65536, u64::MAX];
    known.extend(metadata.exports.iter().filter_map(|export| match &export.item {
        compiler::metadata::ExportItem::Function { entry, .. } => Some(entry.code),
        _ => None,
    }));
    known.extend(
        metadata.tables.iter().flat_map(|table| [table.base, table.descriptor, table.size, table.max]),
    );
    known.extend(metadata.segments.iter().map(|segment| segment.address));
    known.extend(metadata.globals.iter().filter_map(|global| match global.value {
        GlobalValue::Address(address) => Some(address),
        GlobalValue::Constant(_) => None,
    }));
    let file = artifact.bytes();
    let mut state = State { asked: u.arbitrary()?, ..State::default() };
    let count = |u: &mut Unstructured<'_>, right: usize| match u.ratio(31, 32)? {
        true => Ok(right),
        false => u.int_in_range(0..=4usize),
    };
    for _ in 0..count(u, metadata.memories.len())? {
        let mut memory =
            MemoryState { bytes: near(u, &[0, 65536, 2 * 65536, 4 * 65536])?, pieces: Vec::new() };
        for _ in 0..u.int_in_range(0..=3)? {
            memory.pieces.push((near(u, &[0, 4096, 65536, memory.bytes])?, Vec::arbitrary(u)?));
        }
        state.memories.push(memory);
    }
    for _ in 0..count(u, metadata.tables.len())? {
        let size = near(u, &[0, 1, 2, 3, 6, 9])?;
        let mut entries = vec![0; (size.min(16) as usize) * size_of::<TableEntry>()];
        // What the artifact itself has somewhere may be an entry of a function.
        let from = u.int_in_range(0..=file.len().saturating_sub(entries.len().max(1)))? & !7;
        if u.arbitrary()? {
            entries.iter_mut().zip(&file[from..]).for_each(|(to, from)| *to = *from);
        }
        for word in entries.chunks_mut(8) {
            if u.ratio(1, 4)? {
                word.copy_from_slice(&near(u, &known)?.to_le_bytes()[..word.len()]);
            }
        }
        if u.ratio(1, 16)? {
            entries.truncate(u.int_in_range(0..=entries.len())?);
        }
        state.tables.push(TableState { size, entries });
    }
    for _ in 0..count(u, metadata.globals.len())? {
        state.globals.push([near(u, &known)?, near(u, &known)?]);
    }
    for _ in 0..count(u, metadata.segments.len())? {
        state.segments.push(near(u, &[0, 1, 7])?);
    }
    Ok(state)
}

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    let Ok(artifact) = u.choose(&ARTIFACTS) else { return };
    let Ok(state) = state(&mut u, artifact) else { return };
    let Ok(bytes) = artifact.snapshot("init", &state, &Caps::default()) else { return };
    let again = artifact.snapshot("init", &state, &Caps::default()).expect("the same");
    assert!(bytes == again, "a snapshot depends on its state alone");
    let snapshot = Artifact::parse(bytes).expect("a snapshot is an artifact");
    assert!(snapshot.metadata().snapshot.is_some());
    let _ = snapshot.summary();
});
