//! Reads the line tables of a module.
//!
//! The tables of `.debug_line` lie one behind the other and are read in that order, each once, so the work is
//! proportional to the section's size. `.debug_info` is only asked for the name and the directory of each compilation
//! unit, which are at its very beginning; there the first abbreviation of the unit's table describes them in all
//! toolchains' output, and no further one is looked at.

use std::collections::HashMap;

use gimli::{
    AttributeValue, DebugAbbrev, DebugAbbrevOffset, DebugInfo, DebugLine, DebugLineOffset,
    DebugLineStrOffset, DebugStrOffset, EndianSlice, LineProgramHeader, LittleEndian, Reader,
};

use super::{File, Lines, Row, Unit};
use crate::Error;
use crate::caps::{Raise, check};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Bytes of `.debug_line` that are read at most: the table of files of one unit takes many times its size in memory.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Files of all units together.
const FILES_MAX: u64 = 1 << 20;
/// Bytes of all names together: many may stand for one string of the input.
const NAME_BYTES_MAX: u64 = 64 << 20;
/// The way out is to do without.
const FIXED: Raise = Raise::Fixed("the module compiles without debugging information");
/// Bytes of a path; longer ones are cut.
const PATH_MAX: usize = 4096;
/// Offsets of functions that the linker has thrown away are replaced by 0 or by something from here on.
const GONE: u64 = 0xffff_fff0;
/// Size of addresses in the DWARF of a 32-bit module, for tables that do not say it.
const ADDRESS_SIZE: u8 = 4;

/// The sections that matter, by name; empty where the module has none.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sections<'a> {
    pub line: &'a [u8],
    pub line_str: &'a [u8],
    pub string: &'a [u8],
    pub info: &'a [u8],
    pub abbrev: &'a [u8],
}

impl<'a> Sections<'a> {
    /// Takes a custom section, if it is one of them.
    pub fn take(&mut self, name: &str, bytes: &'a [u8]) {
        match name {
            ".debug_line" => self.line = bytes,
            ".debug_line_str" => self.line_str = bytes,
            ".debug_str" => self.string = bytes,
            ".debug_info" => self.info = bytes,
            ".debug_abbrev" => self.abbrev = bytes,
            _ => {}
        }
    }

    /// Reads all line tables. `code` is the byte offset in the module that addresses count from: that of the code section's
    /// contents. What cannot be read is left out; only a cap is an error.
    pub fn lines(&self, code: u32) -> Result<Lines, Error> {
        check("bytes of source line tables", self.line.len() as u64, LINE_BYTES_MAX, FIXED)?;
        let (named, lines) = (self.unit_names(), Lines::default());
        let mut reading = Reading { sections: *self, code, named, name_bytes: 0, lines };
        let section = DebugLine::new(self.line, LittleEndian);
        let mut offset = 0usize;
        while let Ok(program) = section.program(DebugLineOffset(offset), ADDRESS_SIZE, None, None) {
            let header = program.header().clone();
            // A program that is damaged ends itself; its length tells where the next one is.
            reading.program(program, &header, offset)?;
            let length_bytes = usize::from(header.format().initial_length_size());
            let next = offset.checked_add(length_bytes).and_then(|at| at.checked_add(header.unit_length()));
            match next.filter(|next| *next > offset && *next < self.line.len()) {
                Some(next) => offset = next,
                None => break,
            }
        }
        let mut lines = reading.lines;
        // What was said last about an offset counts: an end of a sequence is where the next may begin.
        lines.rows.reverse();
        lines.rows.sort_by_key(|row| (row.wasm, row.line == 0));
        lines.rows.dedup_by_key(|row| row.wasm);
        Ok(lines)
    }

    /// Name and directory of each compilation unit, by the offset of its line table.
    fn unit_names(&self) -> HashMap<usize, Unit> {
        let (mut named, mut bytes) = (HashMap::new(), 0u64);
        let mut units = DebugInfo::new(self.info, LittleEndian).units();
        while let Ok(Some(unit)) = units.next() {
            let declaration = match first_declaration(self.abbrev, unit.debug_abbrev_offset().0) {
                Some(declaration) => declaration,
                None => continue,
            };
            let Ok(abbreviations) =
                DebugAbbrev::new(&declaration, LittleEndian).abbreviations(DebugAbbrevOffset(0))
            else {
                continue;
            };
            let Ok(mut entries) = unit.entries_raw(&abbreviations, None) else { continue };
            let Ok(Some(declared)) = entries.read_abbreviation() else { continue };
            let (mut table, mut names) = (None, Unit::default());
            for specification in declared.attributes() {
                let Ok(attribute) = entries.read_attribute(*specification) else { break };
                let text = || self.text(&attribute.value());
                match attribute.name() {
                    gimli::DW_AT_name => names.name = text(),
                    gimli::DW_AT_comp_dir => names.directory = text(),
                    gimli::DW_AT_stmt_list => {
                        if let AttributeValue::DebugLineRef(offset) = attribute.value() {
                            table = Some(offset.0);
                        }
                    }
                    _ => {}
                }
            }
            bytes += (names.name.len() + names.directory.len()) as u64;
            if bytes > NAME_BYTES_MAX {
                break;
            }
            if let Some(table) = table {
                named.entry(table).or_insert(names);
            }
        }
        named
    }

    /// A string attribute's text; empty for what is none that can be read here.
    fn text(&self, value: &AttributeValue<Slice<'_>>) -> String {
        let bytes = match *value {
            AttributeValue::String(bytes) => bytes.slice(),
            AttributeValue::DebugStrRef(DebugStrOffset(offset)) => {
                self.string.get(offset..).unwrap_or_default()
            }
            AttributeValue::DebugLineStrRef(DebugLineStrOffset(offset)) => {
                self.line_str.get(offset..).unwrap_or_default()
            }
            _ => return String::new(),
        };
        // Cut before the end is looked for: a section without one would be searched to its end for every reference.
        let bytes = bytes.get(..PATH_MAX).unwrap_or(bytes);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
    }
}

/// The first declaration of the table of abbreviations at `offset`, as a table of its own. Reading the whole table for each
/// unit would let a module have one large table read very often.
fn first_declaration(section: &[u8], offset: usize) -> Option<Vec<u8>> {
    /// Bytes of a declaration, of which those of units have about thirty.
    const BYTES_MAX: usize = 512;
    let table = section.get(offset..)?;
    let table = table.get(..BYTES_MAX).unwrap_or(table);
    let mut reader = EndianSlice::new(table, LittleEndian);
    let number = |reader: &mut Slice<'_>| reader.read_uleb128().ok();
    number(&mut reader)?;
    number(&mut reader)?;
    reader.read_u8().ok()?;
    loop {
        let (name, form) = (number(&mut reader)?, number(&mut reader)?);
        if form == u64::from(gimli::DW_FORM_implicit_const.0) {
            reader.read_sleb128().ok()?;
        }
        if (name, form) == (0, 0) {
            break;
        }
    }
    let mut declaration = table.get(..table.len() - reader.len())?.to_vec();
    declaration.push(0);
    Some(declaration)
}

struct Reading<'a> {
    sections: Sections<'a>,
    code: u32,
    named: HashMap<usize, Unit>,
    /// Bytes of names in `lines`.
    name_bytes: u64,
    lines: Lines,
}

impl<'a> Reading<'a> {
    fn program(
        &mut self,
        program: gimli::IncompleteLineProgram<Slice<'a>>,
        header: &LineProgramHeader<Slice<'a>>,
        offset: usize,
    ) -> Result<(), Error> {
        let unit = self.lines.units.len() as u32;
        let mut names = self.named.remove(&offset).unwrap_or_default();
        if names.directory.is_empty() && header.version() >= 5 {
            names.directory = header.directory(0).map(|value| self.sections.text(&value)).unwrap_or_default();
        }
        if names.name.is_empty() {
            let first = header.file(u64::from(header.version() < 5));
            names.name = first.map(|file| self.sections.text(&file.path_name())).unwrap_or_default();
        }
        self.count_names(&names.name, &names.directory)?;
        self.lines.units.push(names);

        let mut files: HashMap<u64, u32> = HashMap::new();
        let mut rows = program.rows();
        // Whether the sequence is about a function that is still there.
        let (mut first, mut gone) = (true, false);
        while let Ok(Some((_, row))) = rows.next_row() {
            if first {
                gone = row.address() == 0 || row.address() >= GONE;
                first = false;
            }
            if row.end_sequence() {
                first = true;
            }
            let wasm = row.address().checked_add(self.code.into()).and_then(|at| u32::try_from(at).ok());
            let (Some(wasm), false) = (wasm, gone) else { continue };
            let line = row.line().and_then(|line| u32::try_from(line.get()).ok()).unwrap_or(0);
            if row.end_sequence() || line == 0 {
                self.lines.rows.push(Row { wasm, file: 0, line: 0, column: 0 });
                continue;
            }
            let file = match files.get(&row.file_index()) {
                Some(file) => *file,
                None => {
                    let Some(file) = self.file(unit, row.file_index(), header)? else { continue };
                    files.insert(row.file_index(), file);
                    file
                }
            };
            let column = match row.column() {
                gimli::ColumnType::LeftEdge => 0,
                gimli::ColumnType::Column(column) => u32::try_from(column.get()).unwrap_or(0),
            };
            self.lines.rows.push(Row { wasm, file, line, column });
        }
        Ok(())
    }

    fn count_names(&mut self, name: &str, directory: &str) -> Result<(), Error> {
        self.name_bytes += (name.len() + directory.len()) as u64;
        check("bytes of names of source files", self.name_bytes, NAME_BYTES_MAX, FIXED)
    }

    /// Takes over a file of the unit's table.
    fn file(
        &mut self,
        unit: u32,
        index: u64,
        header: &LineProgramHeader<Slice<'a>>,
    ) -> Result<Option<u32>, Error> {
        let Some(entry) = header.file(index) else { return Ok(None) };
        // Directory 0 is the unit's own, which is known already.
        let directory = match entry.directory_index() {
            0 => String::new(),
            directory => header.directory(directory).map(|d| self.sections.text(&d)).unwrap_or_default(),
        };
        let position = self.lines.files.len();
        check("source files", position as u64, FILES_MAX, FIXED)?;
        let name = self.sections.text(&entry.path_name());
        // What a table of lines names is the unit's directory, too, once more for each file.
        let unit_directory = self.lines.units.get(unit as usize).map_or(0, |unit| unit.directory.len());
        self.name_bytes += unit_directory as u64;
        self.count_names(&name, &directory)?;
        self.lines.files.push(File { unit, directory, name });
        Ok(Some(position as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{section, write};
    use super::*;

    /// The sections of a module that a toolchain made.
    fn sections() -> Vec<(String, Vec<u8>)> {
        let wasm = include_bytes!("../../../examples/guests/lines.wasm");
        wasmparser::Parser::new(0)
            .parse_all(wasm)
            .filter_map(|payload| match payload.unwrap() {
                wasmparser::Payload::CustomSection(custom) => {
                    Some((custom.name().to_owned(), custom.data().to_vec()))
                }
                _ => None,
            })
            .collect()
    }

    fn lines(sections: &[(String, Vec<u8>)]) -> Result<Lines, Error> {
        let mut taken = Sections::default();
        sections.iter().for_each(|(name, bytes)| taken.take(name, bytes));
        taken.lines(100)
    }

    /// Everything that is made of lines, whatever they are.
    fn use_all(lines: &Lines) {
        assert!(lines.rows.is_sorted_by(|a, b| a.wasm < b.wasm));
        let places: Vec<_> =
            (0..lines.rows.len() as u32).map(|row| write::Place { code: row * 3, row }).collect();
        let size = places.len() as u32 * 3 + 1;
        let function = write::Function { name: "f".into(), offset: 0, size, places: &places };
        write::write(lines, std::iter::once(function)).unwrap();
        if let Some(encoded) = section::encode(lines) {
            section::Table::parse(&encoded).unwrap().find(500);
        }
    }

    #[test]
    fn units_have_their_names_and_rows_their_lines() {
        let lines = lines(&sections()).unwrap();
        let unit = lines.units.iter().position(|unit| unit.name == "lines.c").unwrap();
        assert_eq!(lines.units[unit].directory, "/examples");
        let file =
            lines.files.iter().position(|file| file.unit == unit as u32 && file.name == "lines.c").unwrap();
        assert_eq!(lines.path(&lines.files[file]), "/examples/lines.c");
        assert!(lines.rows.iter().any(|row| row.file == file as u32 && row.line == 5));
        use_all(&lines);
    }

    #[test]
    fn damaged_dwarf_costs_lines_but_no_panic() {
        let whole = sections();
        // A simple generator: the same damage on every run.
        let mut state = 1u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below.max(1)
        };
        for round in 0..400 {
            let mut damaged = whole.clone();
            let debug = damaged.iter_mut().filter(|(name, _)| name.starts_with(".debug_"));
            for (_, bytes) in debug {
                if round % 4 == 0 {
                    bytes.truncate(random(bytes.len()));
                }
                for _ in 0..random(8) {
                    let at = random(bytes.len());
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
                    }
                }
            }
            use_all(&lines(&damaged).unwrap());
        }
    }

    #[test]
    fn a_table_of_any_size_is_read_once() {
        // Many units that all name one large table of abbreviations: each looks at its first declaration only.
        let unit = [&[7u8, 0, 0, 0, 4, 0, 0, 0, 0, 0, 4][..]].concat();
        let declaration = [1u8, 0x11, 0, 0x03, 0x08, 0, 0];
        let many = vec![
            (".debug_info".to_owned(), unit.repeat(200_000)),
            (".debug_abbrev".to_owned(), declaration.repeat(200_000)),
        ];
        assert!(lines(&many).unwrap().units.is_empty());
        let large = vec![(".debug_line".to_owned(), vec![0; LINE_BYTES_MAX as usize + 1])];
        assert!(lines(&large).unwrap_err().to_string().contains("source line tables"));
    }

    /// The header of a unit of version 4 whose entry has these bytes after its code, and a declaration of these attributes.
    fn unit(attributes: &[u8], values: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let length = (8 + values.len()) as u32;
        let unit = [&length.to_le_bytes()[..], &[4, 0, 0, 0, 0, 0, 4, 1], values].concat();
        (unit, [&[1, 0x11, 0], attributes, &[0, 0, 0]].concat())
    }

    /// A table of version 4 with this many files, each of which has a row.
    fn table_of_files(files: u64) -> Vec<u8> {
        let mut header = vec![1, 1, 1, 0xfb, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0];
        // What sets the address to 16.
        let mut program = vec![0, 5, 2, 16, 0, 0, 0];
        for file in 1..=files {
            header.extend_from_slice(b"f\0\0\0\0");
            // The file, then a row.
            program.extend_from_slice(&[
                4,
                file as u8 | 0x80,
                (file >> 7) as u8 | 0x80,
                (file >> 14) as u8,
                1,
            ]);
        }
        header.push(0);
        let body = [&[4, 0][..], &(header.len() as u32).to_le_bytes(), &header, &program].concat();
        [&(body.len() as u32).to_le_bytes()[..], &body].concat()
    }

    #[test]
    fn a_text_costs_no_more_than_a_path_for_each_reference() {
        // Each of many units refers to one large text without an end: by its name, DW_FORM_strp.
        let (unit, declaration) = unit(&[0x03, 0x0e], &[0; 4]);
        let many = vec![
            (".debug_info".to_owned(), unit.repeat(1_000_000)),
            (".debug_abbrev".to_owned(), declaration),
            (".debug_str".to_owned(), vec![b'x'; 64 << 20]),
        ];
        // 2^46 bytes, if each was read to its end.
        assert!(lines(&many).unwrap().units.is_empty());
    }

    #[test]
    fn the_directory_of_a_unit_counts_for_each_of_its_files() {
        // Its directory is in .debug_str, its table of lines is the first.
        let (unit, declaration) = unit(&[0x1b, 0x0e, 0x10, 0x17], &[0; 8]);
        let module = |files| {
            vec![
                (".debug_info".to_owned(), unit.clone()),
                (".debug_abbrev".to_owned(), declaration.clone()),
                (".debug_str".to_owned(), vec![b'd'; PATH_MAX]),
                (".debug_line".to_owned(), table_of_files(files)),
            ]
        };
        let few = lines(&module(100)).unwrap();
        assert_eq!((few.files.len(), few.units[0].directory.len()), (100, PATH_MAX));
        let fit = NAME_BYTES_MAX / PATH_MAX as u64;
        let error = lines(&module(fit + 1)).unwrap_err().to_string();
        assert!(error.contains("names of source files"), "{error}");
    }
}
