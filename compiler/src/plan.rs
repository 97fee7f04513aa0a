//! Where everything of an instance lives: the addresses that compiled code contains.
//!
//! The context region holds, from [`ipc::context::COMPILER_BASE`]: memory descriptors, table descriptors, the lengths of
//! passive segments, globals; then, on the next page, the tables. Read-only data follows the code, so its
//! addresses are known only after linking; they are kept as offsets.

use ipc::context::{
    COMPILER_BASE, EXCEPTION_VALUE, EXCEPTION_VALUES, ExceptionArena, MemoryDescriptor, TableDescriptor,
    TableEntry,
};
use ipc::layout;
use wasmparser::Operator;

use crate::Error;
use crate::caps::{NO_ROOM, check};
use crate::module::{Constant, ExportKind, Global, GlobalSource, Module, NULL_ITEM, SegmentMode};
use crate::types::ValType;

/// Entries that a growable table can have at least: its whole room is mapped from the start, as a table must
/// not move.
const GROWABLE_TABLE_ENTRIES: u64 = 1 << 20;

/// Entries that an imported table can have at least when the module does not grow it: the host side may provide a larger one
/// than the module declares.
const IMPORTED_TABLE_ENTRIES: u64 = 1 << 16;

/// Bytes of one table entry.
pub(crate) const ENTRY: u64 = size_of::<TableEntry>() as u64;

/// Addresses of one memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryPlan {
    pub descriptor: u64,
    pub base: u64,
    /// Initial size in bytes.
    pub bytes: u64,
    /// Size in bytes that it may not exceed.
    pub max_bytes: u64,
    /// Indices have 64 bits.
    pub index64: bool,
}

/// Addresses of one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TablePlan {
    pub descriptor: u64,
    pub base: u64,
    /// Initial size in entries.
    pub size: u64,
    /// Entries that have room.
    pub max: u64,
    /// Indices have 64 bits.
    pub index64: bool,
}

impl TablePlan {
    /// Whether the size is a constant.
    pub fn is_fixed(&self) -> bool {
        self.size == self.max
    }
}

/// Where a global's value is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GlobalPlan {
    /// It never changes: these bits.
    Constant(u128),
    /// In the context, with these bits at first. A vector has 16 bytes, anything else 8.
    Address { address: u64, init: u128 },
}

/// A passive segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentPlan {
    /// Address of the `u64` that holds its length: 0 once it is dropped.
    pub length: u64,
    /// Its length at first, in entries or bytes.
    pub initial_length: u64,
    /// Offset of its contents in the read-only data.
    pub rodata: u64,
}

/// Bytes for exceptions at least, and how many of the largest there is room for.
const EXCEPTION_BYTES: u64 = 1 << 20;
const EXCEPTIONS_MIN: u64 = 256;

/// Where exceptions live.
#[derive(Clone, Debug)]
pub(crate) struct ExceptionPlan {
    /// Address of the [`ExceptionArena`].
    pub arena: u64,
    /// Address of the array of table descriptors' addresses behind it.
    pub tables: u64,
    /// Descriptors of the `exnref` tables.
    pub table_descriptors: Vec<u64>,
    /// Address of the first `exnref` global that can change; the others follow.
    pub globals: u64,
    pub globals_count: u64,
    /// Address of the first slot.
    pub base: u64,
    pub slot_bytes: u64,
    pub capacity: u64,
}

/// All addresses of a module.
pub(crate) struct Plan {
    pub memories: Vec<MemoryPlan>,
    pub tables: Vec<TablePlan>,
    pub globals: Vec<GlobalPlan>,
    /// In a module that has tags.
    pub exceptions: Option<ExceptionPlan>,
    /// By element segment; `None` where it is not passive, which is the same as dropped.
    pub elements: Vec<Option<SegmentPlan>>,
    /// By data segment, likewise.
    pub data: Vec<Option<SegmentPlan>>,
    /// First address after context and globals; the tables begin on this page boundary.
    pub tables_base: u64,
    /// First address after the tables, page-aligned.
    pub context_end: u64,
    /// Functions whose reference is taken, in the order of their descriptors; descriptor 0 is null.
    pub descriptors: Vec<u32>,
    /// Function index → index of its descriptor, 0 where it has none.
    pub references: Vec<u32>,
    /// Bytes of read-only data.
    pub rodata_bytes: u64,
}

impl Plan {
    /// Assigns every address of `module`.
    pub fn new(module: &Module<'_>) -> Result<Self, Error> {
        let (descriptors, references) = address_taken(module);
        let mut next = COMPILER_BASE;
        // At a multiple of its size, which is a power of two.
        let mut place = |bytes: u64| {
            let address = next.next_multiple_of(bytes);
            next = address + bytes;
            address
        };

        let memories = module
            .memories
            .iter()
            .enumerate()
            .map(|(i, memory)| MemoryPlan {
                descriptor: place(size_of::<MemoryDescriptor>() as u64),
                base: layout::memory_base(i as u32),
                bytes: memory.min * layout::WASM_PAGE,
                max_bytes: memory.max * layout::WASM_PAGE,
                index64: memory.index64,
            })
            .collect();
        let descriptors_of_tables: Vec<u64> =
            module.tables.iter().map(|_| place(size_of::<TableDescriptor>() as u64)).collect();

        let mut rodata_bytes = ENTRY * (1 + descriptors.len() as u64);
        let mut segment = |passive: bool, length: usize, unit: u64, place: &mut dyn FnMut(u64) -> u64| {
            passive.then(|| {
                let initial_length = length as u64;
                let plan = SegmentPlan { length: place(8), initial_length, rodata: rodata_bytes };
                rodata_bytes += initial_length * unit;
                plan
            })
        };
        // Elements before data: entries stay aligned.
        let elements = module
            .elements
            .iter()
            .map(|e| segment(is_kept(e.mode), e.items.len(), ENTRY, &mut place))
            .collect();
        let data =
            module.data.iter().map(|d| segment(is_kept(d.mode), d.bytes.len(), 1, &mut place)).collect();

        let exnref_tables: Vec<u64> = module
            .tables
            .iter()
            .zip(&descriptors_of_tables)
            .filter_map(|(table, descriptor)| (table.ty == ValType::ExnRef).then_some(*descriptor))
            .collect();
        // The shim finds these globals by the first one's address.
        let is_root = |global: &Global| global.ty == ValType::ExnRef && global.mutable;
        let roots: Vec<u64> = module.globals.iter().filter(|g| is_root(g)).map(|_| place(8)).collect();
        let mut exceptions = (!module.tags.is_empty()).then(|| {
            // Words that follow each other: `place` puts nothing between them.
            let words: Vec<u64> = (0..ARENA_WORDS).map(|_| place(8)).collect();
            let arena = words.first().copied().unwrap_or(0);
            let pointers: Vec<u64> = exnref_tables.iter().map(|_| place(8)).collect();
            let values = module.tags.iter().enumerate().filter_map(|(tag, _)| module.tag_type(tag as u32));
            let values = values.map(|ty| ty.params.len() as u64).max().unwrap_or(0);
            let slot_bytes = EXCEPTION_VALUES + EXCEPTION_VALUE * values;
            ExceptionPlan {
                arena,
                tables: pointers.first().copied().unwrap_or(0),
                table_descriptors: exnref_tables,
                globals: roots.first().copied().unwrap_or(0),
                globals_count: roots.len() as u64,
                base: 0,
                slot_bytes,
                capacity: (EXCEPTION_BYTES / slot_bytes).max(EXCEPTIONS_MIN),
            }
        });
        let mut roots = roots.into_iter();

        let globals = module
            .globals
            .iter()
            .map(|global| {
                let init = global.constant().map_or(0, |constant| constant_bits(constant, &references));
                if is_root(global) {
                    GlobalPlan::Address { address: roots.next().unwrap_or(0), init }
                } else if global.mutable || !matches!(global.source, GlobalSource::Constant(_)) {
                    GlobalPlan::Address { address: place(global.ty.ir().bytes().max(8).into()), init }
                } else {
                    GlobalPlan::Constant(init)
                }
            })
            .collect();

        let tables_base = next.next_multiple_of(layout::PAGE);
        let grown = grown_tables(module);
        let mut next = tables_base;
        let mut tables = Vec::with_capacity(module.tables.len());
        for (i, (table, descriptor)) in module.tables.iter().zip(descriptors_of_tables).enumerate() {
            let room = match (grown.get(i).copied().unwrap_or(false), table.imported) {
                (true, _) => GROWABLE_TABLE_ENTRIES,
                (false, true) => IMPORTED_TABLE_ENTRIES,
                (false, false) => table.min,
            };
            let max = table.max.unwrap_or(u64::MAX).min(table.min.max(room));
            tables.push(TablePlan { descriptor, base: next, size: table.min, max, index64: table.index64 });
            next = next.saturating_add(max.saturating_mul(ENTRY));
            check("bytes of context and tables", next - layout::CONTEXT_BASE, CONTEXT_BYTES, NO_ROOM)?;
        }
        next = next.next_multiple_of(layout::PAGE);
        if let Some(exceptions) = &mut exceptions {
            exceptions.base = next;
            next = next.saturating_add(exceptions.capacity * exceptions.slot_bytes);
        }
        let context_end = next.next_multiple_of(layout::PAGE);
        check("bytes of context and tables", context_end - layout::CONTEXT_BASE, CONTEXT_BYTES, NO_ROOM)?;
        Ok(Plan {
            memories,
            tables,
            globals,
            exceptions,
            elements,
            data,
            tables_base,
            context_end,
            descriptors,
            references,
            rodata_bytes,
        })
    }

    /// The address and first value of every passive segment's length.
    pub fn segment_lengths(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.elements
            .iter()
            .chain(&self.data)
            .flatten()
            .map(|segment| (segment.length, segment.initial_length))
    }
}

const ARENA_WORDS: usize = size_of::<ExceptionArena>() / 8;

const CONTEXT_BYTES: u64 = layout::CONTEXT_END - layout::CONTEXT_BASE;

/// The bits of a constant as a global or constant of its type holds them.
pub(crate) fn constant_bits(constant: Constant, references: &[u32]) -> u128 {
    match constant {
        Constant::I32(bits) | Constant::F32(bits) => bits.into(),
        Constant::I64(bits) | Constant::F64(bits) => bits.into(),
        Constant::V128(bits) => bits,
        Constant::Null => 0,
        Constant::Function(index) => reference(index, references).into(),
    }
}

/// The `funcref` value of a function, or of [`NULL_ITEM`].
pub(crate) fn reference(function: u32, references: &[u32]) -> u64 {
    references.get(function as usize).copied().unwrap_or(0).into()
}

/// Functions that a reference can name: those in element segments, in initial values of globals and tables, and, as
/// `ref.func` may name them, exported ones.
fn address_taken(module: &Module<'_>) -> (Vec<u32>, Vec<u32>) {
    let mut taken = vec![false; module.functions.len()];
    let items = module.elements.iter().flat_map(|e| e.items.iter().copied()).filter(|&i| i != NULL_ITEM);
    let inits = module.globals.iter().filter_map(|global| match global.source {
        GlobalSource::Constant(constant) => Some(constant),
        _ => None,
    });
    let inits = inits.chain(module.tables.iter().map(|table| table.init));
    let inits = inits.filter_map(|init| match init {
        Constant::Function(index) => Some(index),
        _ => None,
    });
    let exports = module.exports.iter().filter(|e| e.kind == ExportKind::Function).map(|e| e.index);
    for index in items.chain(inits).chain(exports) {
        if let Some(taken) = taken.get_mut(index as usize) {
            *taken = true;
        }
    }
    let mut descriptors = Vec::new();
    let mut references = vec![0; module.functions.len()];
    for (function, reference) in references.iter_mut().enumerate() {
        if taken.get(function).copied().unwrap_or(false) {
            descriptors.push(function as u32);
            *reference = descriptors.len() as u32;
        }
    }
    (descriptors, references)
}

/// Whether a segment's contents are needed when an instance runs.
fn is_kept(mode: SegmentMode) -> bool {
    matches!(mode, SegmentMode::Passive | SegmentMode::Deferred { .. })
}

/// Which tables some instruction grows. A table that cannot grow needs neither room nor a size in memory.
fn grown_tables(module: &Module<'_>) -> Vec<bool> {
    let mut grown = vec![false; module.tables.len()];
    if module.tables.iter().all(|table| table.max == Some(table.min)) {
        return grown;
    }
    for (_, body) in &module.bodies {
        // The bodies are not validated yet; what cannot be read is an error when it is translated.
        let Ok(mut reader) = body.get_operators_reader() else { continue };
        while !reader.eof() {
            match reader.read() {
                Ok(Operator::TableGrow { table }) => {
                    if let Some(grown) = grown.get_mut(table as usize) {
                        *grown = true;
                    }
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    grown
}
