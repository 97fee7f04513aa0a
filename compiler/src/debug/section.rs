//! The table of source lines in an artifact, for backtraces.
//!
//! Layout, little-endian: `u32` number of rows n, `u32` number of files m; n rows of three `u32` (byte offset in the module,
//! position of the file, line from 1 or 0 for none), ascending; m + 1 `u32`, where the path of each file begins in what
//! follows, the last one marking the end; the paths.

use super::Lines;

const ROW: usize = 12;
/// Bytes of a path that are reported at most.
const PATH_MAX: usize = 1024;

/// Encodes what backtraces need; `None` when nothing is known.
pub(crate) fn encode(lines: &Lines) -> Option<Vec<u8>> {
    let mut rows = Vec::with_capacity(lines.rows.len());
    for row in &lines.rows {
        let (file, line) = if row.line == 0 { (0, 0) } else { (row.file, row.line) };
        // Rows that only begin another column are of no use here.
        if rows.last().is_none_or(|&(_, f, l)| (f, l) != (file, line)) {
            rows.push((row.wasm, file, line));
        }
    }
    if rows.iter().all(|(_, _, line)| *line == 0) {
        return None;
    }
    let mut section = Vec::new();
    let mut put = |word: u32| section.extend_from_slice(&word.to_le_bytes());
    put(rows.len() as u32);
    put(lines.files.len() as u32);
    for (wasm, file, line) in rows {
        [wasm, file, line].into_iter().for_each(&mut put);
    }
    let mut paths = Vec::new();
    for file in &lines.files {
        put(paths.len() as u32);
        paths.extend_from_slice(lines.path(file).as_bytes());
    }
    put(paths.len() as u32);
    section.append(&mut paths);
    Some(section)
}

/// Reads the section. Its bytes are not trusted: what makes no sense is not found.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    rows: &'a [u8],
    files: &'a [u8],
    paths: &'a [u8],
}

impl<'a> Table<'a> {
    /// Splits the section; `None` when it is shorter than its own counts say.
    pub fn parse(section: &'a [u8]) -> Option<Self> {
        let (rows, files) = (word(section, 0)? as usize, word(section, 4)? as usize);
        let (rows, rest) = section.get(8..)?.split_at_checked(rows.checked_mul(ROW)?)?;
        let (files, paths) = rest.split_at_checked(files.checked_add(1)?.checked_mul(4)?)?;
        Some(Table { rows, files, paths })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows.len() / ROW
    }

    /// File and line of the operator at a byte offset in the module.
    pub fn find(&self, wasm: u32) -> Option<(String, u32)> {
        let (mut low, mut high) = (0, self.rows());
        while low < high {
            let middle = low + (high - low) / 2;
            if word(self.rows, middle * ROW)? <= wasm { low = middle + 1 } else { high = middle }
        }
        let row = low.checked_sub(1)? * ROW;
        let (file, line) = (word(self.rows, row + 4)? as usize, word(self.rows, row + 8)?);
        if line == 0 {
            return None;
        }
        let start = word(self.files, file.checked_mul(4)?)? as usize;
        let end = word(self.files, file.checked_add(1)?.checked_mul(4)?)? as usize;
        let path = self.paths.get(start..end)?;
        let path = path.get(..PATH_MAX).unwrap_or(path);
        Some((String::from_utf8_lossy(path).into_owned(), line))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::super::{File, Row, Unit};
    use super::*;

    fn section() -> Vec<u8> {
        let row = |wasm, file, line, column| Row { wasm, file, line, column };
        let file = |name: &str| File { unit: 0, directory: String::new(), name: name.into() };
        encode(&Lines {
            rows: vec![
                row(10, 0, 3, 1),
                row(12, 0, 3, 7),
                row(20, 1, 4, 0),
                row(30, 0, 0, 0),
                row(40, 0, 9, 0),
            ],
            files: vec![file("a.c"), file("b.h")],
            units: vec![Unit { name: "a.c".into(), directory: "/src".into() }],
        })
        .unwrap()
    }

    #[test]
    fn lines_are_found_by_offset() {
        let section = section();
        let table = Table::parse(&section).unwrap();
        assert_eq!(table.rows(), 4);
        let find = |wasm| table.find(wasm);
        assert_eq!(find(9), None);
        assert_eq!(find(10), Some(("/src/a.c".into(), 3)));
        assert_eq!(find(19), Some(("/src/a.c".into(), 3)));
        assert_eq!(find(20), Some(("/src/b.h".into(), 4)));
        assert_eq!(find(35), None);
        assert_eq!(find(u32::MAX), Some(("/src/a.c".into(), 9)));
        assert_eq!(encode(&Lines::default()), None);
    }

    #[test]
    fn damaged_sections_find_something_or_nothing_but_do_not_panic() {
        let section = section();
        for length in 0..section.len() {
            if let Some(table) = Table::parse(&section[..length]) {
                let _ = [0, 10, 25, 35, u32::MAX].map(|wasm| table.find(wasm));
            }
        }
        for at in 0..section.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut damaged = section.clone();
                damaged[at] ^= flip;
                if let Some(table) = Table::parse(&damaged) {
                    let _ = [0, 10, 25, 35, u32::MAX].map(|wasm| table.find(wasm));
                }
            }
        }
    }
}
