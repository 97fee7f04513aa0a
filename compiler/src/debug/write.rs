//! DWARF for the native code: for each compilation unit of the module a line table and an entry for each function.

use std::collections::HashMap;

use gimli::write::{
    Address, AttributeValue, Dwarf, EndianVec, FileId, LineProgram, LineString, Range, RangeList, Sections,
    Unit as WrittenUnit,
};
use gimli::{Encoding, Format, LineEncoding, LittleEndian};
use ipc::layout::CODE_BASE;

use super::Lines;
use crate::Error;

/// What every debugger and profiler reads.
const ENCODING: Encoding = Encoding { format: Format::Dwarf32, version: 4, address_size: 8 };

/// Stands for native code whose line is not known.
pub(crate) const UNKNOWN: u32 = u32::MAX;

/// From this offset in a function's code on, the code is that of a row of [`Lines::rows`], or [`UNKNOWN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub code: u32,
    pub row: u32,
}

/// A function's code.
pub(crate) struct Function<'a> {
    pub name: String,
    /// Offset in the text.
    pub offset: u32,
    pub size: u32,
    /// Ascending.
    pub places: &'a [Place],
}

/// The sections, by name, in a fixed order; none for a module without lines.
pub(crate) fn write<'a>(
    lines: &Lines,
    functions: impl Iterator<Item = Function<'a>>,
) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let failed = |error: gimli::write::Error| Error::Debug(error.to_string());
    let mut by_unit: Vec<Vec<Function<'_>>> = lines.units.iter().map(|_| Vec::new()).collect();
    for function in functions {
        // A function belongs to the unit of its first known line: code that was inlined is named in its table.
        let unit = function.places.iter().find_map(|place| unit_of(lines, place.row));
        if let Some(functions) = unit.and_then(|unit| by_unit.get_mut(unit as usize)) {
            functions.push(function);
        }
    }
    let mut dwarf = Dwarf::new();
    for (unit, functions) in lines.units.iter().zip(&by_unit) {
        if !functions.is_empty() {
            write_unit(&mut dwarf, lines, unit, functions);
        }
    }
    let mut sections = Sections::new(EndianVec::new(LittleEndian));
    dwarf.write(&mut sections).map_err(failed)?;
    let mut out = Vec::new();
    sections.for_each(|id, data| {
        if !data.slice().is_empty() {
            out.push((id.name(), data.slice().to_vec()));
        }
        Ok::<(), Error>(())
    })?;
    Ok(out)
}

fn unit_of(lines: &Lines, row: u32) -> Option<u32> {
    let row = lines.rows.get(row as usize)?;
    lines.files.get(row.file as usize).map(|file| file.unit)
}

fn write_unit(dwarf: &mut Dwarf, lines: &Lines, unit: &super::Unit, functions: &[Function<'_>]) {
    let text = |dwarf: &mut Dwarf, text: &str| AttributeValue::StringRef(dwarf.strings.add(clean(text)));
    let name = LineString::String(clean(&unit.name));
    let directory = LineString::String(clean(&unit.directory));
    let mut program = LineProgram::new(ENCODING, LineEncoding::default(), directory, None, name, None);
    let mut files: HashMap<u32, FileId> = HashMap::new();
    for function in functions {
        line_sequence(&mut program, &mut files, lines, function);
    }

    let mut written = WrittenUnit::new(ENCODING, program);
    let address = |function: &Function<'_>| Address::Constant(CODE_BASE + u64::from(function.offset));
    let ranges = functions
        .iter()
        .map(|function| Range::StartLength { begin: address(function), length: function.size.into() });
    let ranges = written.ranges.add(RangeList(ranges.collect()));
    let root = written.root();
    let attributes = [
        (gimli::DW_AT_producer, text(dwarf, "sandboxd-compiler")),
        (gimli::DW_AT_name, text(dwarf, &unit.name)),
        (gimli::DW_AT_comp_dir, text(dwarf, &unit.directory)),
        (gimli::DW_AT_language, AttributeValue::Language(gimli::DW_LANG_C99)),
        (gimli::DW_AT_low_pc, AttributeValue::Address(Address::Constant(0))),
        (gimli::DW_AT_ranges, AttributeValue::RangeListRef(ranges)),
    ];
    for (attribute, value) in attributes {
        written.get_mut(root).set(attribute, value);
    }
    for function in functions {
        let entry = written.add(root, gimli::DW_TAG_subprogram);
        let name = text(dwarf, &function.name);
        let entry = written.get_mut(entry);
        entry.set(gimli::DW_AT_name, name);
        entry.set(gimli::DW_AT_low_pc, AttributeValue::Address(address(function)));
        entry.set(gimli::DW_AT_high_pc, AttributeValue::Udata(function.size.into()));
    }
    dwarf.units.add(written);
}

/// The function's rows. Code whose line is not known gets line 0.
fn line_sequence(
    program: &mut LineProgram,
    files: &mut HashMap<u32, FileId>,
    lines: &Lines,
    function: &Function<'_>,
) {
    program.begin_sequence(Some(Address::Constant(CODE_BASE + u64::from(function.offset))));
    let mut before = None;
    for place in function.places {
        // The offsets come from the code generator in this order; the writer relies on it.
        if place.code >= function.size || before.is_some_and(|before| before >= place.code) {
            continue;
        }
        before = Some(place.code);
        let row = lines.rows.get(place.row as usize);
        let file = row.and_then(|row| {
            if let Some(file) = files.get(&row.file) {
                return Some(*file);
            }
            let source = lines.files.get(row.file as usize)?;
            let directory = match source.directory.as_str() {
                "" => program.default_directory(),
                directory => program.add_directory(LineString::String(clean(directory))),
            };
            let file = program.add_file(LineString::String(clean(&source.name)), directory, None);
            files.insert(row.file, file);
            Some(file)
        });
        let next = program.row();
        next.address_offset = place.code.into();
        (next.line, next.column) = (0, 0);
        if let (Some(row), Some(file)) = (row, file) {
            (next.file, next.line, next.column) = (file, row.line.into(), row.column.into());
        }
        program.generate_row();
    }
    program.end_sequence(function.size.into());
}

/// A string that the writer takes: not empty, without zeros.
fn clean(text: &str) -> Vec<u8> {
    let bytes: Vec<u8> = text.bytes().map(|byte| if byte == 0 { b'?' } else { byte }).collect();
    if bytes.is_empty() { b".".to_vec() } else { bytes }
}
