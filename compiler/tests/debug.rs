//! Source lines: from the DWARF of a module to that of its artifact and to frames of backtraces.

use std::collections::HashMap;

use compiler::{Artifact, Options, TrapKind};
use gimli::{AttributeValue, Dwarf, EndianSlice, LittleEndian};
use object::{Object, ObjectSection};

const MODULE: &[u8] = include_bytes!("../../examples/guests/lines.wasm");
const SOURCE: &str = include_str!("../../examples/guests/lines.c");

fn artifact(wasm: &[u8], debug_info: bool) -> Artifact<Vec<u8>> {
    Artifact::parse(compiler::compile(wasm, &Options { debug_info, ..Options::default() }).unwrap()).unwrap()
}

/// The line of the source that contains `text`, from 1.
fn line_of(text: &str) -> u32 {
    SOURCE.lines().position(|line| line.contains(text)).unwrap() as u32 + 1
}

/// What a debugger reads of an artifact: functions by name with their range, and rows of lines of the guest's own file.
struct Read {
    functions: HashMap<String, (u64, u64)>,
    rows: Vec<(u64, String, u64)>,
}

fn read(artifact: &Artifact<Vec<u8>>) -> Read {
    let file = object::File::parse(artifact.bytes()).unwrap();
    let section = |id: gimli::SectionId| {
        let data = file.section_by_name(id.name()).map_or(&[][..], |section| section.data().unwrap());
        Ok::<_, gimli::Error>(EndianSlice::new(data, LittleEndian))
    };
    let dwarf = Dwarf::load(section).unwrap();
    let (mut functions, mut rows) = (HashMap::new(), Vec::new());
    let mut units = dwarf.units();
    while let Some(header) = units.next().unwrap() {
        let unit = dwarf.unit(header).unwrap();
        let mut entries = unit.entries();
        while let Some(entry) = entries.next_dfs().unwrap() {
            if entry.tag() != gimli::DW_TAG_subprogram {
                continue;
            }
            let name = dwarf.attr_string(&unit, entry.attr_value(gimli::DW_AT_name).unwrap()).unwrap();
            let low = match entry.attr_value(gimli::DW_AT_low_pc).unwrap() {
                AttributeValue::Addr(address) => address,
                other => panic!("{other:?}"),
            };
            let size = entry.attr_value(gimli::DW_AT_high_pc).unwrap().udata_value().unwrap();
            functions.insert(name.to_string_lossy().into_owned(), (low, low + size));
        }
        let mut lines = unit.line_program.clone().unwrap().rows();
        while let Some((header, row)) = lines.next_row().unwrap() {
            let Some(file) = row.file(header).filter(|_| !row.end_sequence()) else { continue };
            let name = dwarf.attr_string(&unit, file.path_name()).unwrap().to_string_lossy().into_owned();
            rows.push((row.address(), name, row.line().map_or(0, |line| line.get())));
        }
    }
    Read { functions, rows }
}

#[test]
fn a_debugger_and_a_backtrace_find_the_line_of_an_instruction() {
    let artifact = artifact(MODULE, true);
    let read = read(&artifact);
    let (low, high) = read.functions["divide"];
    let (file, line) = ("/examples/lines.c".to_owned(), line_of("return number / by"));
    // The instruction that divides, as a trap's report names it.
    let division =
        (low..high).find(|pc| artifact.trap_at(*pc) == Some(TrapKind::IntegerDivideByZero)).unwrap();
    let frame = artifact.symbolize(division).unwrap();
    assert_eq!((frame.name.as_str(), frame.source), ("divide", Some((file, line))));
    // The same by the artifact's own DWARF.
    let mut rows: Vec<_> = read.rows.iter().filter(|(pc, ..)| (low..=division).contains(pc)).collect();
    rows.sort();
    assert_eq!(rows.last().map(|(_, name, line)| (name.as_str(), *line)), Some(("lines.c", u64::from(line))));
    // The call in `halve` is on another line, which a return address tells.
    let (low, high) = read.functions["halve"];
    let calls: Vec<_> =
        (low..high).filter_map(|pc| artifact.symbolize_return(pc)?.source).map(|(_, line)| line).collect();
    assert!(calls.contains(&line_of("sum += divide")), "{calls:?}");
}

#[test]
fn functions_without_dwarf_keep_their_offsets() {
    let plain = artifact(MODULE, false);
    let with = artifact(MODULE, true);
    assert!(read(&plain).functions.is_empty() && read(&plain).rows.is_empty());
    // The code itself is the same.
    let text = |artifact: &Artifact<Vec<u8>>| {
        let file = object::File::parse(artifact.bytes()).unwrap();
        file.section_by_name(".text").unwrap().data().unwrap().to_vec()
    };
    assert!(text(&plain) == text(&with));
    let (low, _) = read(&with).functions["divide"];
    let (with, plain) = (with.symbolize(low + 16).unwrap(), plain.symbolize(low + 16).unwrap());
    assert_eq!((with.wasm_offset, plain.source), (plain.wasm_offset, None));

    let none = compiler::parse_text(b"(module (func (export \"f\")))").unwrap();
    let none = artifact(&none, true);
    assert_eq!(none.symbolize(ipc::layout::CODE_BASE).unwrap().source, None);
}

#[test]
fn artifacts_name_no_path_of_the_host() {
    let artifact = artifact(MODULE, true);
    let here = std::env::current_dir().unwrap();
    for path in [here.to_str().unwrap(), env!("CARGO_MANIFEST_DIR")] {
        assert!(!artifact.bytes().windows(path.len()).any(|bytes| bytes == path.as_bytes()), "{path}");
    }
}

#[test]
fn a_function_begins_on_a_line() {
    let artifact = artifact(MODULE, true);
    let read = read(&artifact);
    let (low, _) = read.functions["divide"];
    let first = read.rows.iter().find(|(pc, ..)| *pc == low).unwrap();
    assert_eq!((first.1.as_str(), first.2), ("lines.c", u64::from(line_of("int divide"))));
}
