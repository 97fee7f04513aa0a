//! Checks that an artifact's metadata is true of its segments.

use std::collections::HashSet;
use std::mem::offset_of;

use ipc::context::{
    CATCH_ALL, COMPILER_BASE, ExceptionArena, ExceptionClause, ExceptionSite, MemoryDescriptor,
    TableDescriptor, TableEntry,
};
use ipc::interface::FunctionId;
use ipc::layout::{CONTEXT_BASE, CONTEXT_END, MEMORY_MAX, STACK_MAX, WASM_PAGE, memory_base};

use super::elf::{Loaded, memory_of};
use super::error::ArtifactError;
use super::metadata::{Entry, ExportItem, FORMAT, GlobalValue, Handlers, ImportItem, Metadata};
use super::write::Access;
use crate::types::ValType;

/// Parameters and results that WebAssembly's implementations allow at most.
const VALUES_MAX: usize = 1000;
/// WebAssembly pages that a 32-bit memory can have.
const PAGES_MAX: u64 = 1 << 16;
/// WebAssembly pages that a 64-bit memory has room for.
const PAGES64_MAX: u64 = MEMORY_MAX / WASM_PAGE;

/// Checks every statement of the metadata.
pub(super) fn check(file: &[u8], segments: &[Loaded], metadata: &Metadata) -> Result<(), ArtifactError> {
    if metadata.format != FORMAT {
        return Err(ArtifactError::Format { found: metadata.format });
    }
    if metadata.compiler != crate::version() {
        return Err(ArtifactError::Compiler);
    }
    let check = Check { file, segments, metadata };
    check.memories()?;
    check.tables()?;
    check.globals()?;
    check.imports()?;
    check.exports()?;
    check.host_functions()?;
    check.passive_segments()?;
    check.snapshot()?;
    check.function_descriptors()?;
    check.handlers()?;
    check.data_bytes()
}

struct Check<'a> {
    file: &'a [u8],
    segments: &'a [Loaded],
    metadata: &'a Metadata,
}

impl Check<'_> {
    /// The memories are those that are reserved, in order, with exactly their initial pages mapped.
    fn memories(&self) -> Result<(), ArtifactError> {
        let declared = self.metadata.memories.len();
        let reserved = self.segments.iter().filter(|segment| segment.access == Access::None).count();
        let in_order = |index: &usize| {
            self.segments.iter().any(|s| s.access == Access::None && s.address == memory_base(*index as u32))
        };
        if declared != reserved || !(0..declared).all(|index| in_order(&index)) {
            return Err(ArtifactError::MemoryCount { declared, reserved });
        }
        for (index, memory) in self.metadata.memories.iter().enumerate() {
            let (min, max) = (memory.min_pages, memory.max_pages);
            if min > max || max > if memory.memory64 { PAGES64_MAX } else { PAGES_MAX } {
                return Err(ArtifactError::MemorySize { index, min, max });
            }
            let base = memory_base(index as u32);
            let (bytes, max_bytes) = (min * WASM_PAGE, max * WASM_PAGE);
            let mapped = self
                .segments
                .iter()
                .filter(|s| s.access == Access::ReadWrite && memory_of(s.address) == Some(index as u32));
            // They do not overlap, so they cover the initial pages when they lie inside and add up.
            let (inside, sum) = mapped.fold((true, 0), |(inside, sum), s| {
                (inside && s.end() <= base + bytes, sum + s.memory_bytes)
            });
            if !inside || sum != bytes {
                return Err(ArtifactError::MemoryMapping { index });
            }
            let expected = [base, bytes, max_bytes, 0];
            let address = memory.descriptor;
            if !self.context_holds(address, size_of::<MemoryDescriptor>() as u64)
                || self.words(address) != Some(expected)
            {
                return Err(ArtifactError::Descriptor { what: "memory", index, address });
            }
        }
        Ok(())
    }

    fn tables(&self) -> Result<(), ArtifactError> {
        // They do not overlap, so that who reads all of them reads no more than the context.
        let mut left = CONTEXT_END - CONTEXT_BASE;
        for (index, table) in self.metadata.tables.iter().enumerate() {
            let room = table.max.checked_mul(size_of::<TableEntry>() as u64);
            let rest = room.and_then(|room| left.checked_sub(room));
            left = rest.ok_or(ArtifactError::TableRange { index })?;
            let fits =
                room.is_some_and(|room| table.size <= table.max && self.context_holds(table.base, room));
            if !fits || table.base % size_of::<TableEntry>() as u64 != 0 {
                return Err(ArtifactError::TableRange { index });
            }
            let expected = [table.base, table.size, table.max, 0];
            let address = table.descriptor;
            if !self.context_holds(address, size_of::<TableDescriptor>() as u64)
                || self.words(address) != Some(expected)
            {
                return Err(ArtifactError::Descriptor { what: "table", index, address });
            }
        }
        Ok(())
    }

    fn globals(&self) -> Result<(), ArtifactError> {
        for (index, global) in self.metadata.globals.iter().enumerate() {
            let bytes = if global.ty == ValType::V128 { 16 } else { 8 };
            if let GlobalValue::Address(address) = global.value
                && (!address.is_multiple_of(bytes) || !self.context_holds(address, bytes))
            {
                return Err(ArtifactError::GlobalAddress { index });
            }
        }
        Ok(())
    }

    /// What is imported exists, at the sizes that the imports say, and a global's value can be written.
    fn imports(&self) -> Result<(), ArtifactError> {
        let metadata = self.metadata;
        for (index, import) in metadata.imports.iter().enumerate() {
            let sound = match &import.item {
                ImportItem::Function { params, results } => {
                    params.len() <= VALUES_MAX && results.len() <= VALUES_MAX
                }
                ImportItem::Global(global) => metadata
                    .globals
                    .get(*global as usize)
                    .is_some_and(|global| matches!(global.value, GlobalValue::Address(_))),
                ImportItem::Memory { index, min, .. } => {
                    metadata.memories.get(*index as usize).is_some_and(|memory| memory.min_pages == *min)
                }
                ImportItem::Table { index, min, .. } => {
                    metadata.tables.get(*index as usize).is_some_and(|table| table.size == *min)
                }
                ImportItem::Tag(tag) => metadata.tags.get(*tag as usize).is_some(),
            };
            if !sound {
                return Err(ArtifactError::Import { index });
            }
        }
        Ok(())
    }

    fn exports(&self) -> Result<(), ArtifactError> {
        if let Some(entry) = &self.metadata.start {
            self.entry(entry, || "the start function".into())?;
        }
        let mut names = HashSet::with_capacity(self.metadata.exports.len());
        for export in &self.metadata.exports {
            let name = || export.name.clone();
            if !names.insert(export.name.as_str()) {
                return Err(ArtifactError::ExportName { name: name() });
            }
            let exists = |index: u32, count: usize, kind| {
                if (index as usize) < count {
                    Ok(())
                } else {
                    Err(ArtifactError::ExportIndex { name: name(), kind })
                }
            };
            match &export.item {
                ExportItem::Function { entry, params, results } => {
                    self.entry(entry, || format!("export `{}`", export.name))?;
                    if params.len() > VALUES_MAX || results.len() > VALUES_MAX {
                        return Err(ArtifactError::ExportType { name: name(), max: VALUES_MAX });
                    }
                }
                ExportItem::Memory(index) => exists(*index, self.metadata.memories.len(), "memory")?,
                ExportItem::Table(index) => exists(*index, self.metadata.tables.len(), "table")?,
                ExportItem::Global(index) => exists(*index, self.metadata.globals.len(), "global")?,
                ExportItem::Tag(index) => exists(*index, self.metadata.tags.len(), "tag")?,
            }
        }
        Ok(())
    }

    /// An entry's addresses are in the code. That they are a function's is not checked, and need not be: the guest's
    /// code may do anything that an instance may do.
    fn entry(&self, entry: &Entry, what: impl Fn() -> String) -> Result<(), ArtifactError> {
        let code = self.segments.iter().find(|segment| segment.access == Access::ReadExecute);
        let inside = |address: u64| code.is_some_and(|code| code.range().contains(&address));
        if inside(entry.code) && inside(entry.trampoline) && entry.function < self.metadata.functions {
            Ok(())
        } else {
            Err(ArtifactError::Entry { what: what() })
        }
    }

    fn host_functions(&self) -> Result<(), ArtifactError> {
        let numbers = &self.metadata.host_functions;
        let known = numbers.iter().all(|number| FunctionId::from_number(*number).is_some());
        if known && numbers.is_sorted_by(|a, b| a < b) { Ok(()) } else { Err(ArtifactError::HostFunctions) }
    }

    fn passive_segments(&self) -> Result<(), ArtifactError> {
        for (index, segment) in self.metadata.segments.iter().enumerate() {
            let is_held = self.context_holds(segment.address, 8)
                && self.word(segment.address).is_some_and(|length| length == 0 || length == segment.length);
            if !is_held {
                return Err(ArtifactError::PassiveSegment { index });
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<(), ArtifactError> {
        let Metadata { snapshot, start, start_trap, .. } = self.metadata;
        let is_ready = |s: &super::metadata::Snapshot| {
            !s.inits.is_empty()
                && s.asked.is_sorted_by(|a, b| a < b)
                && start.is_none()
                && start_trap.is_none()
        };
        if snapshot.as_ref().is_none_or(is_ready) { Ok(()) } else { Err(ArtifactError::Snapshot) }
    }

    fn function_descriptors(&self) -> Result<(), ArtifactError> {
        let start = self.metadata.descriptors;
        let bytes = u64::from(self.metadata.descriptor_count) * size_of::<TableEntry>() as u64;
        let inside = |segment: &Loaded| {
            segment.access == Access::Read
                && start >= segment.address
                && start.checked_add(bytes).is_some_and(|end| end <= segment.end())
        };
        if self.metadata.descriptor_count > 0 && self.segments.iter().any(inside) {
            Ok(())
        } else {
            Err(ArtifactError::FunctionDescriptors)
        }
    }

    /// The table of handlers is in the read-only data, ascends, and names code.
    fn handlers(&self) -> Result<(), ArtifactError> {
        let Some(handlers) = &self.metadata.handlers else { return Ok(()) };
        match self.handlers_are_sound(handlers) {
            Some(true) => Ok(()),
            _ => Err(ArtifactError::Handlers),
        }
    }

    fn handlers_are_sound(&self, handlers: &Handlers) -> Option<bool> {
        let code = self.segments.iter().find(|s| s.access == Access::ReadExecute)?.memory_bytes;
        let sites_bytes = u64::from(handlers.sites_count) * size_of::<ExceptionSite>() as u64;
        let bytes = sites_bytes + u64::from(handlers.clauses_count) * size_of::<ExceptionClause>() as u64;
        let arena = handlers.arena;
        if !self.context_holds(arena, size_of::<ExceptionArena>() as u64)
            || self.word(arena.checked_add(offset_of!(ExceptionArena, sites) as u64)?)? != handlers.sites
            || self.word(arena.checked_add(offset_of!(ExceptionArena, sites_count) as u64)?)?
                != u64::from(handlers.sites_count)
        {
            return Some(false);
        }
        if bytes == 0 {
            return Some(true);
        }
        let segment = self.segments.iter().find(|s| {
            s.access == Access::Read
                && handlers.sites >= s.address
                && handlers.sites.checked_add(bytes).is_some_and(|end| end <= s.address + s.file_bytes)
        })?;
        let start = usize::try_from(segment.file_offset + (handlers.sites - segment.address)).ok()?;
        let table = self.file.get(start..start.checked_add(bytes as usize)?)?;
        let (sites, clauses) = table.split_at_checked(sites_bytes as usize)?;
        let word = |bytes: &[u8], at: usize| bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b));
        let mut before = None;
        for site in sites.chunks_exact(size_of::<ExceptionSite>()) {
            let [address, frame, first, count] =
                [word(site, 0)?, word(site, 4)?, word(site, 8)?, word(site, 12)?];
            let fits = first.checked_add(count).is_some_and(|end| end <= handlers.clauses_count);
            let ascends = before.is_none_or(|before| before < address);
            if !fits
                || !ascends
                || u64::from(address) > code
                || u64::from(frame) > STACK_MAX
                || frame % 16 != 0
            {
                return Some(false);
            }
            before = Some(address);
        }
        let tags = self.metadata.tags.len() as u64;
        let known = |tag: u32| tag == CATCH_ALL || u64::from(tag) < tags;
        Some(clauses.chunks_exact(size_of::<ExceptionClause>()).all(|clause| {
            word(clause, 0).is_some_and(known) && word(clause, 4).is_some_and(|at| u64::from(at) < code)
        }))
    }

    fn data_bytes(&self) -> Result<(), ArtifactError> {
        let writable = self.segments.iter().filter(|segment| segment.access == Access::ReadWrite);
        // At most 256 segments of at most 8 GiB.
        let mapped = writable.map(|segment| segment.memory_bytes).sum();
        let declared = self.metadata.data_bytes;
        if declared == mapped { Ok(()) } else { Err(ArtifactError::DataBytes { declared, mapped }) }
    }

    /// Whether the part of the context that the compiler uses holds these bytes.
    fn context_holds(&self, address: u64, bytes: u64) -> bool {
        let context = self.segments.iter().filter(|segment| segment.range().start < CONTEXT_END);
        let end = context.map(Loaded::end).max().unwrap_or(CONTEXT_BASE);
        address >= COMPILER_BASE && address.checked_add(bytes).is_some_and(|last| last <= end)
    }

    /// The four words at an address, as they are when an instance starts.
    fn words(&self, address: u64) -> Option<[u64; 4]> {
        let mut words = [0; 4];
        for (word, at) in words.iter_mut().zip((address..).step_by(8)) {
            *word = self.word(at)?;
        }
        Some(words)
    }

    fn word(&self, address: u64) -> Option<u64> {
        if !address.is_multiple_of(8) {
            return None;
        }
        let accessible =
            |segment: &&Loaded| segment.access != Access::None && segment.range().contains(&address);
        let segment = self.segments.iter().find(accessible)?;
        let offset = address - segment.address;
        if offset >= segment.file_bytes {
            return Some(0);
        }
        let start = usize::try_from(segment.file_offset.checked_add(offset)?).ok()?;
        self.file.get(start..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }
}
