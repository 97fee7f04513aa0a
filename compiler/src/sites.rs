//! The table that maps addresses in the code to what stands there in the module: which function, which byte offset,
//! and for an instruction that can trap, which trap.
//!
//! It is a section of the artifact that no instance maps; the supervisor reads it when an instance trapped.
//!
//! Layout, little-endian: `u32` number of functions n; n + 1 records of three `u32` (code offset of the function, byte
//! offset of its body in the module, position of its entries in the rest of the section), ascending, the last one
//! marking the end; then the entries. Entries of a function ascend by code offset, of which one may have two: a return
//! address, then a trap. Each is two LEB128 numbers: the code
//! offset's increase times 64 plus the kind (0 for a return address, else a [`TrapKind`]'s number), and
//! the byte offset's change, zigzag-encoded.

use std::ops::Range;

use crate::trap::TrapKind;

const RECORD: usize = 12;
const KIND_BITS: u32 = 6;

const _: () = assert!(TrapKind::ALL.len() < 1 << KIND_BITS);

/// One place in a function's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// Offset from the start of the function.
    pub code: u32,
    /// The trap that the instruction here raises, or none when a call returns to here.
    pub trap: Option<TrapKind>,
    /// Byte offset of the operator in the module.
    pub wasm: u32,
}

/// Encodes a function's sites, which must ascend by code offset.
pub(crate) fn encode(function_wasm: u32, sites: &[Site]) -> Vec<u8> {
    let mut out = Vec::with_capacity(sites.len() * 3);
    let (mut code, mut wasm) = (0, function_wasm);
    for site in sites {
        let kind = site.trap.map_or(0, |kind| kind as u64);
        let delta = i64::from(site.wasm) - i64::from(wasm);
        write_number(&mut out, u64::from(site.code - code) << KIND_BITS | kind);
        write_number(&mut out, ((delta << 1) ^ (delta >> 63)) as u64);
        (code, wasm) = (site.code, site.wasm);
    }
    out
}

fn write_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_number(bytes: &[u8], position: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*position)?;
        *position += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Builds the section.
pub(crate) struct Builder {
    records: Vec<u8>,
    entries: Vec<u8>,
    functions: u32,
}

impl Builder {
    pub fn new() -> Self {
        Builder { records: Vec::new(), entries: Vec::new(), functions: 0 }
    }

    /// Adds the next function: its code's offset in the text, its body's byte offset, its encoded sites.
    pub fn function(&mut self, code: u32, wasm: u32, sites: &[u8]) {
        self.record(code, wasm);
        self.entries.extend_from_slice(sites);
        self.functions += 1;
    }

    fn record(&mut self, code: u32, wasm: u32) {
        for word in [code, wasm, self.entries.len() as u32] {
            self.records.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// The section; `end` is the offset behind the last function's code.
    pub fn finish(mut self, end: u32) -> Vec<u8> {
        self.record(end, 0);
        let mut section = self.functions.to_le_bytes().to_vec();
        section.append(&mut self.records);
        section.append(&mut self.entries);
        section
    }
}

/// What [`Table::find`] knows about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Index of the function.
    pub function: u32,
    /// Byte offset in the module of the operator here, or of the last known one before, or of the body.
    pub wasm: u32,
    /// The trap that the instruction at exactly this address raises.
    pub trap: Option<TrapKind>,
}

/// Reads the section. Its bytes are not trusted: what makes no sense is not found.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    functions: u32,
    records: &'a [u8],
    entries: &'a [u8],
}

impl<'a> Table<'a> {
    /// Splits the section; `None` when it is shorter than its own count says.
    pub fn parse(section: &'a [u8]) -> Option<Self> {
        let (count, rest) = section.split_first_chunk::<4>()?;
        let functions = u32::from_le_bytes(*count);
        let records = (functions as usize).checked_add(1)?.checked_mul(RECORD)?;
        if records > rest.len() {
            return None;
        }
        let (records, entries) = rest.split_at(records);
        Some(Table { functions, records, entries })
    }

    /// Number of functions.
    pub fn functions(&self) -> u32 {
        self.functions
    }

    /// The code of a function, as offsets in the text.
    pub fn code(&self, index: u32) -> Option<Range<u32>> {
        Some(self.record(index)?[0]..self.record(index.checked_add(1)?)?[0])
    }

    /// How many entries there are of each kind: those of return addresses, then those of the [`TrapKind`] with that number.
    pub fn counts(&self) -> [u64; 1 << KIND_BITS] {
        let mut counts = [0; 1 << KIND_BITS];
        let mut position = 0;
        while let Some(head) = read_number(self.entries, &mut position) {
            counts[(head & ((1 << KIND_BITS) - 1)) as usize] += 1;
            if read_number(self.entries, &mut position).is_none() {
                break;
            }
        }
        counts
    }

    fn record(&self, index: u32) -> Option<[u32; 3]> {
        let start = (index as usize).checked_mul(RECORD)?;
        let bytes = self.records.get(start..start + RECORD)?;
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        Some([word(0)?, word(4)?, word(8)?])
    }

    /// Whether functions and their entries are in order and lie in `code_bytes` bytes of code, with at most one return
    /// address and one trap per offset. Reads the whole table; [`Self::find`] does not rely on it.
    pub fn is_ascending(&self, code_bytes: u64) -> bool {
        let function = |index: u32| {
            let ([start, _, first], [end, _, last]) = (self.record(index)?, self.record(index + 1)?);
            if start > end || u64::from(end) > code_bytes {
                return None;
            }
            let entries = self.entries.get(first as usize..last as usize)?;
            let (mut position, mut code, mut before) = (0, u64::from(start), None);
            while position < entries.len() {
                let head = read_number(entries, &mut position)?;
                read_number(entries, &mut position)?;
                code = code.checked_add(head >> KIND_BITS)?;
                let key = (code, head & ((1 << KIND_BITS) - 1) != 0);
                if code > u64::from(end) || before.is_some_and(|before| before >= key) {
                    return None;
                }
                before = Some(key);
            }
            Some(())
        };
        (0..self.functions).all(|index| function(index).is_some())
    }

    /// Looks up a code offset. With `returns` it is the address that a call returns to, else the address of an
    /// instruction; both can be the same. Takes no longer than the code before `offset` is long, whatever the table holds:
    /// entries that are not in order are not followed.
    pub fn find(&self, offset: u32, returns: bool) -> Option<Found> {
        // A return address may be the first byte behind the function, when its last instruction is a call.
        let inside = if returns { offset.checked_sub(1)? } else { offset };
        let (mut low, mut high) = (0, self.functions);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.record(middle)?[0] <= inside { low = middle + 1 } else { high = middle }
        }
        let function = low.checked_sub(1)?;
        let [start, mut wasm, first] = self.record(function)?;
        let [end, _, last] = self.record(function + 1)?;
        if inside >= end || inside < start {
            return None;
        }
        let entries = self.entries.get(first as usize..last as usize)?;
        let (mut position, mut code, mut before) = (0, u64::from(start), None);
        while position < entries.len() {
            let head = read_number(entries, &mut position)?;
            let delta = read_number(entries, &mut position)?;
            code = code.checked_add(head >> KIND_BITS)?;
            if code > u64::from(offset) {
                break;
            }
            let key = (code, head & ((1 << KIND_BITS) - 1) != 0);
            if before.is_some_and(|before| before >= key) {
                return None;
            }
            before = Some(key);
            let delta = (delta >> 1) as i64 ^ -((delta & 1) as i64);
            wasm = u32::try_from(i64::from(wasm).checked_add(delta)?).ok()?;
            let kind = (head & ((1 << KIND_BITS) - 1)) as u8;
            if code == u64::from(offset) && (kind == 0) == returns {
                return Some(Found { function, wasm, trap: TrapKind::from_number(kind) });
            }
        }
        Some(Found { function, wasm, trap: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<u8> {
        let mut builder = Builder::new();
        let trap = |code, trap, wasm| Site { code, trap: Some(trap), wasm };
        let call = |code, wasm| Site { code, trap: None, wasm };
        builder.function(0, 50, &encode(50, &[]));
        let sites = [
            trap(3, TrapKind::MemoryOutOfBounds, 100),
            call(9, 300),
            trap(9, TrapKind::Unreachable, 302),
            trap(200, TrapKind::IntegerDivideByZero, 110),
        ];
        builder.function(16, 90, &encode(90, &sites));
        builder.function(240, 400, &encode(400, &[call(16, 405)]));
        builder.finish(256)
    }

    #[test]
    fn finds_traps_and_return_addresses() {
        let section = table();
        let table = Table::parse(&section).unwrap();
        let find = |offset, returns| table.find(offset, returns).map(|f| (f.function, f.wasm, f.trap));
        assert_eq!(find(19, false), Some((1, 100, Some(TrapKind::MemoryOutOfBounds))));
        assert_eq!(find(25, true), Some((1, 300, None)));
        assert_eq!(find(25, false), Some((1, 302, Some(TrapKind::Unreachable))));
        assert_eq!(find(216, false), Some((1, 110, Some(TrapKind::IntegerDivideByZero))));
        assert_eq!(table.code(1), Some(16..240));
        assert_eq!(table.counts()[..4], [2, 1, 1, 1]);
        // Between sites: the last one before; before the first: the body.
        assert_eq!(find(20, false), Some((1, 100, None)));
        assert_eq!(find(16, false), Some((1, 90, None)));
        assert_eq!(find(0, false), Some((0, 50, None)));
        // A call as the last instruction of the last function returns behind it.
        assert_eq!(find(256, true), Some((2, 405, None)));
        assert_eq!(find(256, false), None);
        assert_eq!(find(u32::MAX, true), None);
        assert_eq!(find(0, true), None);
    }

    #[test]
    fn order_is_checked() {
        let ascending = |section: &[u8], code| Table::parse(section).unwrap().is_ascending(code);
        assert!(ascending(&table(), 256));
        assert!(!ascending(&table(), 255));
        let one = |sites: &[Site]| {
            let mut builder = Builder::new();
            builder.function(0, 50, &encode(50, sites));
            builder.finish(16)
        };
        let trap = Site { code: 3, trap: Some(TrapKind::Unreachable), wasm: 51 };
        let call = Site { trap: None, ..trap };
        assert!(ascending(&one(&[call, trap]), 16));
        assert!(!ascending(&one(&[trap, call]), 16));
        assert!(!ascending(&one(&[trap, trap]), 16));
        assert!(!ascending(&one(&[call, call]), 16));
        assert!(ascending(&one(&[Site { code: 16, ..call }]), 16));
        assert!(!ascending(&one(&[Site { code: 17, ..call }]), 32));
        // Functions in the wrong order.
        let mut builder = Builder::new();
        builder.function(8, 50, &[]);
        builder.function(4, 50, &[]);
        assert!(!ascending(&builder.finish(16), 16));
    }

    #[test]
    fn entries_out_of_order_are_not_followed() {
        let find = |sites: &[Site], offset| {
            let mut builder = Builder::new();
            builder.function(0, 50, &encode(50, sites));
            let section = builder.finish(16);
            Table::parse(&section).unwrap().find(offset, false).map(|found| found.wasm)
        };
        let trap = |code, wasm| Site { code, trap: Some(TrapKind::Unreachable), wasm };
        assert_eq!(find(&[trap(3, 51), trap(5, 52)], 5), Some(52));
        // As many entries for one offset as the file has room for must not be read one by one.
        let many = [vec![trap(3, 51); 1000], vec![trap(5, 52)]].concat();
        assert_eq!(find(&many, 5), None);
        let call = Site { code: 3, trap: None, wasm: 51 };
        assert_eq!(find(&[trap(3, 51), call, trap(5, 52)], 5), None);
        assert_eq!(find(&[call, trap(3, 51), trap(5, 52)], 5), Some(52));
        // What lies behind the offset is not looked at.
        assert_eq!(find(&[trap(3, 51), trap(5, 52), trap(5, 53)], 4), Some(51));
    }

    #[test]
    fn damaged_tables_find_nothing_or_something_but_do_not_panic() {
        let section = table();
        for length in 0..section.len() {
            if let Some(table) = Table::parse(&section[..length]) {
                for offset in 0..260 {
                    table.find(offset, offset % 2 == 0);
                }
            }
        }
        for at in 0..section.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut damaged = section.clone();
                damaged[at] ^= flip;
                if let Some(table) = Table::parse(&damaged) {
                    for offset in [0, 16, 19, 25, 216, 255, 256, u32::MAX] {
                        table.find(offset, false);
                        table.find(offset, true);
                    }
                }
            }
        }
    }
}
