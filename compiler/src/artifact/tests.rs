//! Every rule of [`Artifact::parse`] has a test here that breaks it and nothing else.

use ipc::layout::{
    CODE_BASE, CODE_END, CONTEXT_BASE, CONTEXT_END, GATE_PAGE, MEMORY_MAX, MEMORY_RESERVED, PAGE, RING_BASE,
    STACK_TOP, memory_base,
};

use super::error::ArtifactError as E;
use super::metadata::{ExportItem, GlobalValue, ImportItem, Metadata};
use super::write::{META_SECTION, SITES_SECTION};
use super::*;
use crate::types::ValType;
use crate::{Caps, Options, compile, parse_text};

const PROGRAM_HEADERS: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;

/// Offsets of the fields of a program header.
const TYPE: usize = 0;
const FLAGS: usize = 4;
const OFFSET: usize = 8;
const ADDRESS: usize = 16;
const FILE_SIZE: usize = 32;
const MEMORY_SIZE: usize = 40;

/// Positions of the segments of [`valid`].
const RESERVATION: usize = 0;
const MEMORY: usize = 1;
const CONTEXT: usize = 2;
const CODE: usize = 3;
const RODATA: usize = 4;
const SEGMENTS: usize = 5;

fn valid() -> Vec<u8> {
    let wasm = parse_text(
        br#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
            (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
            (memory (export "memory") 1 9) (data (i32.const 0) "x")
            (table (export "table") 3 funcref) (elem (i32.const 0) func $f)
            (global (export "global") (mut i64) (i64.const 7))
            (func $f (export "f") (param i32) (result i32) (i32.load (local.get 0)))
            (func $start) (start $start))"#,
    )
    .unwrap();
    compile(&wasm, &Options { threads: 1, ..Options::default() }).unwrap()
}

fn parse(bytes: &[u8]) -> Result<(), E> {
    Artifact::parse(bytes).map(|_| ())
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn field(segment: usize, field: usize) -> usize {
    PROGRAM_HEADERS + segment * PROGRAM_HEADER + field
}

/// The error after setting 64-bit fields of program headers.
fn with_fields(fields: &[(usize, usize, u64)]) -> E {
    let mut bytes = valid();
    for &(segment, name, value) in fields {
        put(&mut bytes, field(segment, name), &value.to_le_bytes());
    }
    parse(&bytes).unwrap_err()
}

/// The error after changing the metadata.
fn with_metadata(change: impl FnOnce(&mut Metadata)) -> E {
    let mut bytes = valid();
    let mut metadata = Artifact::parse(&bytes[..]).unwrap().metadata().clone();
    change(&mut metadata);
    replace_section(&mut bytes, META_SECTION, &postcard::to_stdvec(&metadata).unwrap());
    parse(&bytes).unwrap_err()
}

/// Puts new contents for a section at the end of the file.
fn replace_section(bytes: &mut Vec<u8>, name: &'static str, contents: &[u8]) {
    let header = section_header(bytes, name);
    let offset = bytes.len() as u64;
    put(bytes, header + 24, &offset.to_le_bytes());
    put(bytes, header + 32, &(contents.len() as u64).to_le_bytes());
    bytes.extend_from_slice(contents);
}

/// Where the header of a section is.
fn section_header(bytes: &[u8], name: &str) -> usize {
    let headers = get_u64(bytes, 40) as usize;
    let count = u16::from_le_bytes(*bytes[60..].first_chunk().unwrap()) as usize;
    let names = headers + (count - 1) * SECTION_HEADER;
    let names = get_u64(bytes, names + 24) as usize;
    (0..count)
        .map(|i| headers + i * SECTION_HEADER)
        .find(|&header| {
            let at = names + u32::from_le_bytes(*bytes[header..].first_chunk().unwrap()) as usize;
            bytes[at..].starts_with(name.as_bytes()) && bytes[at + name.len()] == 0
        })
        .unwrap()
}

#[test]
fn a_valid_artifact_has_the_shape_that_these_tests_assume() {
    let bytes = valid();
    parse(&bytes).unwrap();
    let flags: Vec<u8> = (0..SEGMENTS).map(|segment| bytes[field(segment, FLAGS)]).collect();
    assert_eq!(flags, [0, 6, 6, 5, 4]);
    assert_eq!(bytes[56] as usize, SEGMENTS);
}

#[test]
fn elf_header() {
    assert_eq!(parse(&valid()[..63]), Err(E::TooShort { bytes: 63 }));
    assert_eq!(parse(b""), Err(E::TooShort { bytes: 0 }));
    for (at, value) in [(0, 0), (4, 1), (5, 2), (6, 0)] {
        let mut bytes = valid();
        bytes[at] = value;
        assert_eq!(parse(&bytes), Err(E::NotElf), "byte {at}");
    }
    for (at, value, found_type, found_machine) in [(16, 3u8, 3, 62), (18, 183, 2, 183)] {
        let mut bytes = valid();
        bytes[at] = value;
        assert_eq!(parse(&bytes), Err(E::WrongKind { found_type, found_machine }));
    }
    for (at, value) in [(32, 65u8), (54, 55)] {
        let mut bytes = valid();
        bytes[at] = value;
        assert_eq!(parse(&bytes), Err(E::ProgramHeaderPlace));
    }
    for found in [0, 257, 0xffff] {
        let mut bytes = valid();
        put(&mut bytes, 56, &(found as u16).to_le_bytes());
        assert_eq!(parse(&bytes), Err(E::ProgramHeaderCount { found, max: 256 }));
    }
    assert_eq!(parse(&valid()[..PROGRAM_HEADERS + 100]), Err(E::HeadersTruncated("program")));
}

#[test]
fn segment_types_and_flags() {
    for found in [0u32, 2, 3, 0x6474_e551] {
        let mut bytes = valid();
        put(&mut bytes, field(MEMORY, TYPE), &found.to_le_bytes());
        assert_eq!(parse(&bytes), Err(E::SegmentType { index: MEMORY, found }));
    }
    // Executable alone, writable alone, writable and executable, all, and an unknown bit.
    for flags in [1u32, 2, 3, 7, 0x14] {
        for index in [MEMORY, CODE] {
            let mut bytes = valid();
            put(&mut bytes, field(index, FLAGS), &flags.to_le_bytes());
            assert_eq!(parse(&bytes), Err(E::SegmentFlags { index, flags }));
        }
    }
}

#[test]
fn segment_sizes() {
    for name in [OFFSET, ADDRESS, FILE_SIZE, MEMORY_SIZE] {
        let value = get_u64(&valid(), field(MEMORY, name)) + 1;
        assert_eq!(with_fields(&[(MEMORY, name, value)]), E::SegmentAlignment { index: MEMORY });
    }
    let empty = with_fields(&[(MEMORY, MEMORY_SIZE, 0), (MEMORY, FILE_SIZE, 0)]);
    assert_eq!(empty, E::SegmentSize { index: MEMORY, file: 0, memory: 0 });
    let larger = with_fields(&[(MEMORY, FILE_SIZE, 0x2_0000)]);
    assert_eq!(larger, E::SegmentSize { index: MEMORY, file: 0x2_0000, memory: 0x1_0000 });
    let beyond = E::SegmentFileRange { index: MEMORY };
    assert_eq!(with_fields(&[(MEMORY, OFFSET, 1 << 40)]), beyond);
    assert_eq!(with_fields(&[(MEMORY, OFFSET, u64::MAX - PAGE + 1)]), beyond);
}

#[test]
fn segment_regions() {
    let places = [
        0,
        RING_BASE,
        CONTEXT_END,
        GATE_PAGE,
        CODE_BASE,
        STACK_TOP - 0x1_0000,
        memory_base(64),
        u64::MAX - PAGE + 1,
    ];
    for address in places {
        for index in [MEMORY, CONTEXT] {
            let found = with_fields(&[(index, ADDRESS, address)]);
            assert_eq!(found, E::SegmentRegion { index, address }, "{address:#x}");
        }
    }
    // Across the end of the region: context, code, and the largest memory.
    for (index, address) in [
        (CONTEXT, CONTEXT_END - PAGE),
        (CODE, CODE_END),
        (RODATA, CODE_END),
        (MEMORY, memory_base(0) + MEMORY_MAX - PAGE),
    ] {
        assert_eq!(with_fields(&[(index, ADDRESS, address)]), E::SegmentRegion { index, address });
    }
    for (index, address) in [(CODE, CONTEXT_BASE), (CODE, memory_base(0)), (RODATA, memory_base(0))] {
        assert_eq!(with_fields(&[(index, ADDRESS, address)]), E::SegmentRegion { index, address });
    }
    let address = CONTEXT_BASE;
    assert_eq!(
        with_fields(&[(RESERVATION, ADDRESS, address)]),
        E::SegmentRegion { index: RESERVATION, address }
    );
}

#[test]
fn segments_to_each_other() {
    let found = with_fields(&[(RODATA, ADDRESS, CODE_BASE)]);
    assert!(matches!(found, E::SegmentOverlap { index: CODE | RODATA, address: CODE_BASE }), "{found}");

    let reservation = E::Reservation { index: RESERVATION };
    assert_eq!(with_fields(&[(RESERVATION, ADDRESS, memory_base(0) + PAGE)]), reservation);
    assert_eq!(with_fields(&[(RESERVATION, MEMORY_SIZE, MEMORY_RESERVED - PAGE)]), reservation);
    assert_eq!(with_fields(&[(RESERVATION, MEMORY_SIZE, MEMORY_RESERVED + PAGE)]), reservation);
    assert_eq!(with_fields(&[(RESERVATION, FILE_SIZE, PAGE)]), reservation);

    let other_memory = with_fields(&[(RESERVATION, ADDRESS, memory_base(1))]);
    assert_eq!(other_memory, E::ReservationOrder { index: MEMORY });
    let mut swapped = valid();
    let start = PROGRAM_HEADERS;
    let (first, second) = swapped[start..start + 2 * PROGRAM_HEADER].split_at_mut(PROGRAM_HEADER);
    first.swap_with_slice(second);
    assert_eq!(parse(&swapped), Err(E::ReservationOrder { index: 0 }));
}

#[test]
fn code_and_context() {
    let code = E::Code { expected: CODE_BASE };
    assert_eq!(with_fields(&[(CODE, ADDRESS, CODE_BASE + 0x10_0000)]), code);
    let mut bytes = valid();
    bytes[field(CODE, FLAGS)] = 4;
    assert_eq!(parse(&bytes), Err(E::Code { expected: CODE_BASE }));
    let mut bytes = valid();
    bytes[field(RODATA, FLAGS)] = 5;
    assert_eq!(parse(&bytes), Err(E::Code { expected: CODE_BASE }));
    // Zeros behind the code are no code.
    assert_eq!(with_fields(&[(CODE, FILE_SIZE, 0)]), code);

    let context = E::Context { expected: CONTEXT_BASE };
    assert_eq!(with_fields(&[(CONTEXT, ADDRESS, CONTEXT_BASE + PAGE)]), context);
    let mut bytes = valid();
    // Without any context: its header becomes another piece of read-only data.
    bytes[field(CONTEXT, FLAGS)] = 4;
    put(&mut bytes, field(CONTEXT, ADDRESS), &(CODE_BASE + 0x10_0000).to_le_bytes());
    assert_eq!(parse(&bytes), Err(E::Context { expected: CONTEXT_BASE }));
}

#[test]
fn sections() {
    let mut bytes = valid();
    put(&mut bytes, 40, &(1u64 << 50).to_le_bytes());
    assert_eq!(parse(&bytes), Err(E::HeadersTruncated("section")));
    let mut bytes = valid();
    put(&mut bytes, 60, &u16::MAX.to_le_bytes());
    assert_eq!(parse(&bytes), Err(E::HeadersTruncated("section")));
    let mut bytes = valid();
    put(&mut bytes, 62, &u16::MAX.to_le_bytes());
    assert_eq!(parse(&bytes), Err(E::Section(".shstrtab")));
    for name in [META_SECTION, SITES_SECTION, ".symtab", ".strtab"] {
        let mut bytes = valid();
        let header = section_header(&bytes, name);
        put(&mut bytes, header + 24, &u64::MAX.to_le_bytes());
        assert_eq!(parse(&bytes), Err(E::Section(name)));
        let mut bytes = valid();
        put(&mut bytes, header, &0u32.to_le_bytes());
        assert_eq!(parse(&bytes), Err(E::Section(name)));
    }
    let mut bytes = valid();
    replace_section(&mut bytes, SITES_SECTION, &[9, 0, 0, 0]);
    assert_eq!(parse(&bytes), Err(E::Sites));
    let mut bytes = valid();
    replace_section(&mut bytes, SITES_SECTION, &[0; 16]);
    assert_eq!(parse(&bytes), Err(E::Sites));
    let mut bytes = valid();
    replace_section(&mut bytes, META_SECTION, &[1, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert!(matches!(parse(&bytes), Err(E::Metadata(_))));
    let mut bytes = valid();
    let size = metadata::BYTES_MAX as usize + 1;
    replace_section(&mut bytes, META_SECTION, &vec![0; size]);
    assert_eq!(parse(&bytes), Err(E::MetadataSize { bytes: size, max: metadata::BYTES_MAX }));
    // A million empty names fit the section, but are refused before they are decoded.
    let found = with_metadata(|m| m.cpu_features = vec![String::new(); 1_000_000]);
    assert!(matches!(found, E::Metadata(_)), "{found}");
    // Two traps at the same address: padding that a lookup would have to read, and does not.
    let mut sites = crate::sites::Builder::new();
    for function in 0..4 {
        sites.function(function, 0, if function == 2 { &[1, 0, 1, 0] } else { &[] });
    }
    let mut bytes = valid();
    replace_section(&mut bytes, SITES_SECTION, &sites.finish(4));
    let artifact = Artifact::parse(&bytes[..]).expect("an artifact whose reports are wrong");
    assert_eq!(artifact.check_sites(), Err(E::Sites));
    assert!(matches!(artifact.summary(), Err(E::Sites)));
    let bytes = valid();
    assert_eq!(Artifact::parse(&bytes[..]).expect("an artifact").check_sites(), Ok(()));
}

#[test]
fn metadata_of_memories() {
    assert_eq!(with_metadata(|m| m.format += 1), E::Format { found: metadata::FORMAT + 1 });
    assert_eq!(with_metadata(|m| m.compiler.push('x')), E::Compiler);
    let count = with_metadata(|m| m.memories.clear());
    assert_eq!(count, E::MemoryCount { declared: 0, reserved: 1 });
    let count = with_metadata(|m| m.memories.push(m.memories[0]));
    assert_eq!(count, E::MemoryCount { declared: 2, reserved: 1 });
    let size = with_metadata(|m| m.memories[0].max_pages = 0);
    assert_eq!(size, E::MemorySize { index: 0, min: 1, max: 0 });
    let size = with_metadata(|m| m.memories[0].max_pages = 0x1_0001);
    assert_eq!(size, E::MemorySize { index: 0, min: 1, max: 0x1_0001 });
    let size = with_metadata(|m| (m.memories[0].memory64, m.memories[0].max_pages) = (true, 0x2_0001));
    assert_eq!(size, E::MemorySize { index: 0, min: 1, max: 0x2_0001 });
    for pages in [0, 2, 9] {
        assert_eq!(with_metadata(|m| m.memories[0].min_pages = pages), E::MemoryMapping { index: 0 });
    }
    let max = with_metadata(|m| m.memories[0].max_pages = 8);
    assert!(matches!(max, E::Descriptor { what: "memory", index: 0, .. }), "{max}");
    for address in [0, CONTEXT_BASE, memory_base(0), CODE_BASE, CONTEXT_BASE + 0x104, u64::MAX - 7] {
        let found = with_metadata(|m| m.memories[0].descriptor = address);
        assert_eq!(found, E::Descriptor { what: "memory", index: 0, address });
    }
}

#[test]
fn metadata_of_imports() {
    let import = |item: ImportItem| {
        with_metadata(move |m| {
            let (module, name) = ("m".to_owned(), "x".to_owned());
            m.imports.push(metadata::Import { module, name, item: item.clone() });
        })
    };
    let many = vec![ValType::I32; 1001];
    for item in [
        ImportItem::Function { params: many.clone(), results: Vec::new() },
        ImportItem::Function { params: Vec::new(), results: many },
        ImportItem::Global(99),
        ImportItem::Memory { index: 1, min: 1, max: None },
        ImportItem::Memory { index: 0, min: 2, max: None },
        ImportItem::Table { index: 9, min: 1, max: None },
        ImportItem::Table { index: 0, min: 77, max: None },
        ImportItem::Tag(9),
    ] {
        assert_eq!(import(item.clone()), E::Import { index: 0 }, "{item:?}");
    }
    // A global that is a constant of the code cannot be given another value.
    let constant = with_metadata(|m| {
        let item = ImportItem::Global(m.globals.len() as u32);
        m.globals.push(metadata::Global {
            reference: metadata::Reference::ANY,
            ty: ValType::I32,
            mutable: false,
            value: GlobalValue::Constant(0),
        });
        m.imports.push(metadata::Import { module: "m".to_owned(), name: "x".to_owned(), item });
    });
    assert_eq!(constant, E::Import { index: 0 });
}

#[test]
fn metadata_of_tables_and_globals() {
    let range = E::TableRange { index: 0 };
    assert_eq!(with_metadata(|m| m.tables[0].size = 4), range);
    assert_eq!(with_metadata(|m| m.tables[0].max = 1 << 40), range);
    assert_eq!(with_metadata(|m| m.tables[0].max = u64::MAX), range);
    for address in [0, 1, CONTEXT_BASE, CODE_BASE, memory_base(0), u64::MAX] {
        assert_eq!(with_metadata(|m| m.tables[0].base = address), range);
    }
    assert_eq!(with_metadata(|m| m.tables[0].base += 8), range);
    let descriptor = with_metadata(|m| m.tables[0].size = 2);
    assert!(matches!(descriptor, E::Descriptor { what: "table", index: 0, .. }), "{descriptor}");
    for address in [0, CONTEXT_BASE + 0x80, CONTEXT_BASE, CONTEXT_END, CODE_BASE, CONTEXT_BASE + 0x101] {
        let found = with_metadata(|m| m.globals[0].value = GlobalValue::Address(address));
        assert_eq!(found, E::GlobalAddress { index: 0 });
    }
}

#[test]
fn metadata_of_exports() {
    for address in [0, CODE_BASE - 1, CODE_BASE + PAGE, memory_base(0), u64::MAX] {
        let found = with_metadata(|m| m.start.as_mut().unwrap().code = address);
        assert_eq!(found, E::Entry { what: "the start function".into() });
        let found = with_metadata(|m| match &mut m.exports[3].item {
            ExportItem::Function { entry, .. } => entry.trampoline = address,
            other => panic!("{other:?}"),
        });
        assert_eq!(found, E::Entry { what: "export `f`".into() });
    }
    let found = with_metadata(|m| m.start.as_mut().unwrap().function = 4);
    assert_eq!(found, E::Entry { what: "the start function".into() });
    for (item, kind) in [
        (ExportItem::Memory(1), "memory"),
        (ExportItem::Table(1), "table"),
        (ExportItem::Global(u32::MAX), "global"),
    ] {
        let found = with_metadata(|m| m.exports[0].item = item);
        assert_eq!(found, E::ExportIndex { name: "memory".into(), kind });
    }
    let found = with_metadata(|m| m.exports[1].name = "memory".into());
    assert_eq!(found, E::ExportName { name: "memory".into() });
    let found = with_metadata(|m| match &mut m.exports[3].item {
        ExportItem::Function { results, .. } => *results = vec![ValType::I64; 1001],
        other => panic!("{other:?}"),
    });
    assert_eq!(found, E::ExportType { name: "f".into(), max: 1000 });
}

#[test]
fn metadata_of_the_rest() {
    for numbers in [vec![46], vec![3, 3], vec![3, 2], vec![u32::MAX]] {
        assert_eq!(with_metadata(|m| m.host_functions = numbers), E::HostFunctions);
    }
    for (address, count) in [(0, 2), (CONTEXT_BASE, 2), (CODE_BASE, 1), (u64::MAX - 15, 1)] {
        let found = with_metadata(|m| (m.descriptors, m.descriptor_count) = (address, count));
        assert_eq!(found, E::FunctionDescriptors);
    }
    for count in [0, 257, u32::MAX] {
        assert_eq!(with_metadata(|m| m.descriptor_count = count), E::FunctionDescriptors);
    }
    let found = with_metadata(|m| m.data_bytes -= PAGE);
    assert!(matches!(found, E::DataBytes { declared, mapped } if declared + PAGE == mapped), "{found}");
}

#[test]
fn a_summary_is_no_larger_than_the_artifact_warrants() {
    let functions = "(func)".repeat(300);
    let wat = format!("(module (func ${}) {functions})", "n".repeat(1000));
    let wasm = parse_text(wat.as_bytes()).unwrap();
    let mut bytes = compile(&wasm, &Options { threads: 1, ..Options::default() }).unwrap();
    let names = |bytes: &[u8]| -> usize {
        let summary = Artifact::parse(bytes).unwrap().summary().unwrap();
        assert_eq!(summary.functions.len(), 301);
        summary.functions.iter().map(|function| function.name.len()).sum()
    };
    assert!(names(&bytes) < 10_000);
    // All symbols get the name of the first.
    let symbols = get_u64(&bytes, section_header(&bytes, ".symtab") + 24) as usize;
    let first = *bytes[symbols + 24..].first_chunk::<4>().unwrap();
    (1..=301).for_each(|index| put(&mut bytes, symbols + 24 * index, &first));
    assert!(names(&bytes) <= bytes.len() + 301 * "wasm-function[300]".len());
    assert!(301 * 1000 > 2 * bytes.len());
}

#[test]
fn damaged_bytes_never_panic() {
    let bytes = valid();
    let start = get_u64(&bytes, section_header(&bytes, ".symtab") + 24) as usize;
    let mut rejected = 0;
    // The headers, then everything behind the segments.
    for at in (0..PROGRAM_HEADERS + SEGMENTS * PROGRAM_HEADER).chain(start..bytes.len()) {
        for flip in [0x01, 0x10, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            match Artifact::parse(&damaged[..]) {
                Ok(artifact) => {
                    for pc in [0, CODE_BASE, CODE_BASE + 0x45, CODE_BASE + 0x100, u64::MAX] {
                        artifact.symbolize(pc);
                        artifact.symbolize_return(pc);
                        artifact.trap_at(pc);
                    }
                    artifact.function_name(1);
                    let _ = artifact.summary();
                }
                Err(_) => rejected += 1,
            }
        }
    }
    assert!(rejected > 1000, "{rejected}");
    for length in (0..bytes.len()).step_by(97) {
        assert!(parse(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn names_come_from_the_module() {
    let bytes = valid();
    let artifact = Artifact::parse(&bytes[..]).unwrap();
    let names: Vec<_> = (0..4).map(|function| artifact.function_name(function).unwrap()).collect();
    assert_eq!(names, ["proc_exit", "sched_yield", "f", "start"]);
    assert_eq!(artifact.function_name(u32::MAX), None);
}

/// A module in whose code some references are called without a look at them, and its state at the start.
fn typed_references() -> (Artifact<Vec<u8>>, State) {
    let text = r#"(module
        (type $t (func (param i32) (result i32)))
        (table $typed 2 (ref null $t))
        (table $never 1 1 (ref $t) (ref.func $right))
        (global $typed (mut (ref $t)) (ref.func $right))
        (memory 1 3)
        (data $passive "passive")
        (elem declare func $wrong)
        (func $right (export "right") (param i32) (result i32) (local.get 0))
        (func $wrong (export "wrong") (param i64) (result i64) (local.get 0)))"#;
    let wasm = crate::parse_text(text.as_bytes()).unwrap();
    let artifact = Artifact::parse(crate::compile(&wasm, &Options::default()).unwrap()).unwrap();
    let state = State {
        memories: vec![MemoryState { bytes: 1 << 16, pieces: vec![(4096, vec![7; 4096])] }],
        tables: vec![
            TableState { size: 2, entries: vec![0; 32] },
            TableState { size: 1, entries: entry(&artifact, 1) },
        ],
        globals: vec![[1, 0]],
        segments: vec![7],
        asked: 0,
    };
    (artifact, state)
}

fn entry(artifact: &Artifact<Vec<u8>>, number: usize) -> Vec<u8> {
    artifact.descriptors(&Headers::parse(artifact.bytes()).unwrap()).unwrap()[number].to_vec()
}

#[test]
fn a_snapshot_holds_what_its_state_says_and_is_sound() {
    let (artifact, mut state) = typed_references();
    state.tables[0].entries[16..].copy_from_slice(&entry(&artifact, 1));
    state.memories[0].bytes = 2 << 16;
    state.segments[0] = 0;
    state.asked = u64::MAX;
    let bytes = artifact.snapshot("init", &state, &Caps::default()).unwrap();
    assert_eq!(bytes, artifact.snapshot("init", &state, &Caps::default()).unwrap());
    let snapshot = Artifact::parse(bytes).unwrap();
    let metadata = snapshot.metadata();
    assert_eq!((metadata.memories[0].min_pages, metadata.tables[0].size), (2, 2));
    let history = metadata.snapshot.as_ref().unwrap();
    assert_eq!((history.inits.as_slice(), history.asked.len()), (&["init".to_owned()][..], 4));
    assert_eq!(snapshot.function_name(0), artifact.function_name(0));
}

/// What a hostile instance can claim, and what becomes of it: references that code calls without a look at them first of all.
#[test]
fn a_hostile_state_is_an_error_that_names_the_lie() {
    let (artifact, _) = typed_references();
    let wrong = entry(&artifact, 2);
    let lie = |change: &dyn Fn(&mut State)| {
        let (_, mut state) = typed_references();
        change(&mut state);
        artifact.snapshot("init", &state, &Caps::default()).expect_err("a lie")
    };
    use SnapshotError as E;
    assert!(matches!(
        lie(&|s| s.tables[0].entries[..16].copy_from_slice(&wrong)),
        E::TableEntry { table: 0, entry: 0 }
    ));
    assert!(matches!(lie(&|s| s.tables[1].entries = vec![0; 16]), E::TableEntry { table: 1, entry: 0 }));
    assert!(matches!(lie(&|s| s.tables[0].entries[16] = 1), E::TableEntry { table: 0, entry: 1 }));
    for number in [0, 2, 3, u64::from(u32::MAX), (1 << 32) + 1, u64::MAX] {
        assert!(matches!(lie(&|s| s.globals[0] = [number, 0]), E::GlobalFunction { global: 0 }), "{number}");
    }
    assert!(matches!(lie(&|s| s.segments[0] = 6), E::SegmentLength { segment: 0, length: 6 }));
    for bytes in [0, 65_535, 4 << 16, u64::MAX] {
        assert!(matches!(lie(&|s| s.memories[0].bytes = bytes), E::MemorySize { memory: 0, .. }), "{bytes}");
    }
    for pieces in [
        vec![(u64::MAX, vec![1])],
        vec![(65_536, vec![1])],
        vec![(65_535, vec![1, 1])],
        vec![(9, vec![1, 1]), (10, vec![1])],
        vec![(9, vec![1]), (8, vec![1])],
    ] {
        let error = lie(&|s| s.memories[0].pieces = pieces.clone());
        assert!(matches!(error, E::MemoryContents { memory: 0 }), "{pieces:?}: {error}");
    }
    assert!(matches!(lie(&|s| s.tables[0].size = 3), E::TableSize { table: 0, .. }));
    assert!(matches!(lie(&|s| s.tables[0].entries.truncate(31)), E::Shape));
    assert!(matches!(lie(&|s| s.globals.truncate(0)), E::Shape));
    let caps = Caps { image_bytes: 1 << 12, ..Caps::default() };
    let (_, state) = typed_references();
    assert!(matches!(artifact.snapshot("init", &state, &caps), Err(E::Write(_))));
}

#[test]
fn metadata_of_passive_segments_and_snapshots() {
    for (address, length) in
        [(0, 1), (CONTEXT_BASE, 1), (CODE_BASE, 1), (CONTEXT_BASE + 0x101, 1), (u64::MAX, 1)]
    {
        let found = with_metadata(|m| m.segments = vec![metadata::PassiveSegment { address, length }]);
        assert_eq!(found, E::PassiveSegment { index: 0 }, "{address:#x}");
    }
    // The descriptor of the memory begins with an address, which is no segment's length.
    let of_memory = with_metadata(|m| {
        m.segments = vec![metadata::PassiveSegment { address: m.memories[0].descriptor, length: 1 }];
    });
    assert_eq!(of_memory, E::PassiveSegment { index: 0 });
    let made = |inits: &[&str], asked: &[metadata::Asked]| {
        Some(metadata::Snapshot {
            inits: inits.iter().map(|init| (*init).to_owned()).collect(),
            asked: asked.to_vec(),
        })
    };
    use metadata::Asked::{Random, Time};
    assert_eq!(with_metadata(|m| (m.start, m.snapshot) = (None, made(&[], &[]))), E::Snapshot);
    assert_eq!(with_metadata(|m| (m.start, m.snapshot) = (None, made(&["i"], &[Random, Time]))), E::Snapshot);
    let starts = with_metadata(|m| {
        let ExportItem::Function { entry, .. } = m
            .exports
            .iter()
            .find_map(|e| match &e.item {
                item @ ExportItem::Function { .. } => Some(item.clone()),
                _ => None,
            })
            .unwrap()
        else {
            unreachable!()
        };
        (m.start, m.snapshot) = (Some(entry), made(&["i"], &[]));
    });
    assert_eq!(starts, E::Snapshot);
}

/// A table that is listed many times would have a reader of all tables read far more than there is.
#[test]
fn tables_do_not_share_their_room() {
    let wasm = parse_text(
        b"(module (table $t 1 funcref) (func (drop (table.grow $t (ref.null func) (i32.const 1)))))",
    );
    let mut bytes = compile(&wasm.unwrap(), &Options { threads: 1, ..Options::default() }).unwrap();
    let mut metadata = Artifact::parse(&bytes[..]).unwrap().metadata().clone();
    let room = metadata.tables[0].max * 16;
    metadata.tables = vec![metadata.tables[0]; ((CONTEXT_END - CONTEXT_BASE) / room) as usize + 1];
    replace_section(&mut bytes, META_SECTION, &postcard::to_stdvec(&metadata).unwrap());
    assert_eq!(parse(&bytes), Err(E::TableRange { index: metadata.tables.len() - 1 }));
}
