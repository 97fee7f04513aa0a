//! Source lines: from the module's DWARF to debuggers and backtraces.
//!
//! A module's DWARF says for byte offsets of its code which source line they come from. Three things are made of it:
//!
//! * [`read`] reads its line tables into one [`Lines`]. The input is hostile: it costs memory and time in proportion to
//!   its size, and what makes no sense is left out.
//! * [`section`] is that table in the artifact, in a form that a frame of a backtrace is looked up in without reading
//!   the rest.
//! * [`write`] makes DWARF of it for the native code, in sections that are not loaded: line tables and one entry per
//!   function. Variables and types are not carried over.

pub(crate) mod read;
pub(crate) mod section;
pub(crate) mod write;

/// Where in the source an operator comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Byte offset in the module of the first operator that this is about, up to the next row.
    pub wasm: u32,
    /// Position in [`Lines::files`].
    pub file: u32,
    /// From 1; 0: nothing is known from here on.
    pub line: u32,
    /// From 1; 0: unknown.
    pub column: u32,
}

/// A source file, as one compilation unit names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Position in [`Lines::units`].
    pub unit: u32,
    /// As it is written: relative to the unit's directory, or absolute; may be empty.
    pub directory: String,
    pub name: String,
}

/// A compilation unit of the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Name of its main source file.
    pub name: String,
    /// The directory that it was compiled in; empty if unknown.
    pub directory: String,
}

/// What a module's DWARF says about lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Ascending by `wasm`, no offset twice.
    pub rows: Vec<Row>,
    pub files: Vec<File>,
    pub units: Vec<Unit>,
}

impl Lines {
    /// The position of the row for an operator, if its line is known.
    pub fn find(&self, wasm: u32) -> Option<u32> {
        let after = self.rows.partition_point(|row| row.wasm <= wasm);
        let position = after.checked_sub(1)?;
        self.rows.get(position).filter(|row| row.line != 0).map(|_| position as u32)
    }

    /// A file's path: absolute if its unit's directory is known or it is absolute itself.
    pub fn path(&self, file: &File) -> String {
        let unit = self.units.get(file.unit as usize).map_or("", |unit| &unit.directory);
        join(&join(unit, &file.directory), &file.name)
    }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() || name.starts_with('/') {
        name.to_owned()
    } else if name.is_empty() {
        directory.to_owned()
    } else {
        format!("{}/{name}", directory.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_as_file_systems_do() {
        let lines = |unit: &str| Lines {
            units: vec![Unit { name: "x".into(), directory: unit.into() }],
            ..Lines::default()
        };
        let file =
            |directory: &str, name: &str| File { unit: 0, directory: directory.into(), name: name.into() };
        assert_eq!(lines("/src").path(&file("", "a.c")), "/src/a.c");
        assert_eq!(lines("/src/").path(&file("lib", "a.c")), "/src/lib/a.c");
        assert_eq!(lines("/src").path(&file("/usr", "a.c")), "/usr/a.c");
        assert_eq!(lines("/src").path(&file("lib", "/a.c")), "/a.c");
        assert_eq!(lines("").path(&file("", "a.c")), "a.c");
        assert_eq!(lines("").path(&File { unit: 9, ..file("d", "a.c") }), "d/a.c");
    }

    #[test]
    fn an_operator_belongs_to_the_last_row_before_it() {
        let row = |wasm, line| Row { wasm, file: 0, line, column: 0 };
        let lines = Lines { rows: vec![row(10, 1), row(20, 0), row(30, 2)], ..Lines::default() };
        let line = |wasm| lines.find(wasm).map(|row| lines.rows[row as usize].line);
        assert_eq!(
            [9, 10, 19, 20, 29, 30, 99].map(line),
            [None, Some(1), Some(1), None, None, Some(2), Some(2)]
        );
    }
}
