//! Snapshots: an artifact beside the same code, whose memories, tables and globals are those of an instance that has run.
//!
//! What the instance holds is read out of it and is hostile: it is data, never an address or a size to rely on. Sizes are
//! compared with what the module may have, table entries with the module's own function descriptors, and every descriptor
//! that code and shim rely on is written from the artifact's metadata. So whatever an instance claims, the artifact that
//! comes out is one whose guest could have brought itself into that state, or an error.

use ipc::context::{MEMORY_TOTAL_OFFSET, MemoryDescriptor, TableDescriptor, TableEntry};
use ipc::layout::{CODE_BASE, CONTEXT_BASE, CONTEXT_END, MEMORY_RESERVED, WASM_PAGE, memory_base};
use ipc::nospec;
use std::mem::offset_of;

use super::elf::{Headers, Loaded};
use super::metadata::{self, Asked, GlobalValue, ImportItem, Metadata, Reference, Snapshot};
use super::write::{Access, Image, LINES_SECTION, SITES_SECTION, Segment, Symbols};
use super::{Artifact, ArtifactError};
use crate::build::{runs_per_memory, writable_bytes, writable_segments};
use crate::caps::Caps;
use crate::initial::{Overlay, RUNS_MAX};
use crate::types::ValType;

const ENTRY: usize = size_of::<TableEntry>();

/// What was read from an instance: hostile data.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// One for each memory.
    pub memories: Vec<MemoryState>,
    /// One for each table.
    pub tables: Vec<TableState>,
    /// One for each global, as its slot holds it; anything for a global that is a constant.
    pub globals: Vec<[u64; 2]>,
    /// The length of each of [`Metadata::segments`].
    pub segments: Vec<u64>,
    /// What the guest asked for: bits of [`ipc::context::asked`].
    pub asked: u64,
}

/// A linear memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryState {
    /// Its size in bytes.
    pub bytes: u64,
    /// Pieces of it, at offsets that ascend; what is between them is zero.
    pub pieces: Vec<(u64, Vec<u8>)>,
}

/// A table.
#[derive(Clone, Debug, Default)]
pub struct TableState {
    /// Its size in entries.
    pub size: u64,
    /// The entries, as they lie in the instance ([`TableEntry`]).
    pub entries: Vec<u8>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The module has a memory, a table or a global from the host app, which each instance gets afresh.
    #[error(
        "the module imports the {kind} {import}, which is another one for each instance: a snapshot cannot keep what is in it"
    )]
    Import {
        /// Its name.
        import: String,
        /// What it is.
        kind: &'static str,
    },
    /// The instance says that a memory has a size that it cannot have.
    #[error(
        "the instance says that memory {memory} has {bytes} bytes; it can have whole pages from {min} to {max} bytes"
    )]
    MemorySize {
        /// Which one.
        memory: usize,
        /// What it says.
        bytes: u64,
        /// What it has at first.
        min: u64,
        /// What it can have.
        max: u64,
    },
    /// What was read of a memory does not fit it.
    #[error("the contents of memory {memory} do not fit its size")]
    MemoryContents {
        /// Which one.
        memory: usize,
    },
    /// The instance says that a table has a size that it cannot have.
    #[error("the instance says that table {table} has {size} entries; it can have {min} to {max}")]
    TableSize {
        /// Which one.
        table: usize,
        /// What it says.
        size: u64,
        /// What it has at first.
        min: u64,
        /// What it can have.
        max: u64,
    },
    /// A table entry is not what the module has for any of its functions, or not for one that its type allows.
    #[error("entry {entry} of table {table} is no function of the module that its type allows")]
    TableEntry {
        /// Which table.
        table: usize,
        /// Which entry.
        entry: usize,
    },
    /// A table holds a reference that means something to one instance only.
    #[error(
        "entry {entry} of table {table} refers to {what}, which a snapshot cannot keep: clear it before the initialisation ends"
    )]
    TableReference {
        /// Which table.
        table: usize,
        /// Which entry.
        entry: usize,
        /// To what.
        what: &'static str,
    },
    /// A global refers to a function that the module does not have, or that its type does not allow.
    #[error("global {global} is no function of the module that its type allows")]
    GlobalFunction {
        /// Which one.
        global: usize,
    },
    /// A global holds a reference that means something to one instance only.
    #[error(
        "global {global} refers to {what}, which a snapshot cannot keep: clear it before the initialisation ends"
    )]
    GlobalReference {
        /// Which one.
        global: usize,
        /// To what.
        what: &'static str,
    },
    /// The instance says that a passive segment has a length that it cannot have.
    #[error(
        "the instance says that passive segment {segment} has length {length}, which is neither its own nor zero"
    )]
    SegmentLength {
        /// Which one.
        segment: usize,
        /// What it says.
        length: u64,
    },
    /// What was read has not one value for each thing that the module has.
    #[error("what was read of the instance is not the state of this module")]
    Shape,
    /// The artifact cannot be read any more.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The snapshot cannot be written: it is beyond a cap.
    #[error(transparent)]
    Write(#[from] crate::Error),
}

impl<B: AsRef<[u8]>> Artifact<B> {
    /// Fails if no snapshot of the module can be made, whatever its instances hold.
    pub fn check_snapshot(&self) -> Result<(), SnapshotError> {
        for import in &self.metadata.imports {
            let kind = match import.item {
                ImportItem::Function { .. } | ImportItem::Tag(_) => continue,
                ImportItem::Global(_) => "global",
                ImportItem::Memory { .. } => "memory",
                ImportItem::Table { .. } => "table",
            };
            return Err(SnapshotError::Import { import: format!("{}.{}", import.module, import.name), kind });
        }
        Ok(())
    }

    /// The size of a memory, if it can have as many bytes.
    pub fn checked_memory_size(&self, memory: usize, bytes: u64) -> Result<u64, SnapshotError> {
        let declared = self.metadata.memories.get(memory).ok_or(SnapshotError::Shape)?;
        let (min, max) = (declared.min_pages * WASM_PAGE, declared.max_pages * WASM_PAGE);
        if bytes.is_multiple_of(WASM_PAGE) && (min..=max).contains(&bytes) {
            Ok(bytes)
        } else {
            Err(SnapshotError::MemorySize { memory, bytes, min, max })
        }
    }

    /// The size of a table, if it can have as many entries.
    pub fn checked_table_size(&self, table: usize, size: u64) -> Result<u64, SnapshotError> {
        let declared = self.metadata.tables.get(table).ok_or(SnapshotError::Shape)?;
        if (declared.size..=declared.max).contains(&size) {
            Ok(size)
        } else {
            Err(SnapshotError::TableSize { table, size, min: declared.size, max: declared.max })
        }
    }

    /// An artifact with the same code whose instances begin with `state`, which is what the export `init` has left.
    ///
    /// The same artifact and state give the same bytes.
    pub fn snapshot(&self, init: &str, state: &State, caps: &Caps) -> Result<Vec<u8>, SnapshotError> {
        self.check_snapshot()?;
        let metadata = &self.metadata;
        let counts = [
            (state.memories.len(), metadata.memories.len()),
            (state.tables.len(), metadata.tables.len()),
            (state.globals.len(), metadata.globals.len()),
            (state.segments.len(), metadata.segments.len()),
        ];
        if counts.iter().any(|(found, expected)| found != expected) {
            return Err(SnapshotError::Shape);
        }
        let headers = Headers::parse(self.bytes())?;
        let mut changed = metadata.clone();
        let mut patches: Vec<(u64, Vec<u8>)> = Vec::new();
        self.patch_memories(state, &mut changed, &mut patches)?;
        self.patch_tables(&headers, state, &mut changed, &mut patches)?;
        self.patch_globals(&headers, state, &mut patches)?;
        for (index, (segment, &length)) in metadata.segments.iter().zip(&state.segments).enumerate() {
            if length != 0 && length != segment.length {
                return Err(SnapshotError::SegmentLength { segment: index, length });
            }
            patches.push((segment.address, length.to_le_bytes().to_vec()));
        }
        let history = changed.snapshot.take().unwrap_or(Snapshot { inits: Vec::new(), asked: Vec::new() });
        let mut asked = history.asked;
        asked.extend(Asked::of_bits(state.asked));
        asked.sort_unstable();
        asked.dedup();
        let mut inits = history.inits;
        inits.push(init.to_owned());
        changed.snapshot = Some(Snapshot { inits, asked });
        changed.start = None;
        self.write_snapshot(&headers, state, changed, &patches, caps)
    }

    fn patch_memories(
        &self,
        state: &State,
        changed: &mut Metadata,
        patches: &mut Vec<(u64, Vec<u8>)>,
    ) -> Result<(), SnapshotError> {
        let mut total = 0;
        for (index, (memory, found)) in changed.memories.iter_mut().zip(&state.memories).enumerate() {
            let bytes = self.checked_memory_size(index, found.bytes)?;
            let mut end = 0;
            for (offset, piece) in &found.pieces {
                let after = offset.checked_add(piece.len() as u64).filter(|after| *after <= bytes);
                end = after
                    .filter(|_| *offset >= end)
                    .ok_or(SnapshotError::MemoryContents { memory: index })?;
            }
            memory.min_pages = bytes / WASM_PAGE;
            total += bytes;
            let address = memory.descriptor + offset_of!(MemoryDescriptor, bytes) as u64;
            patches.push((address, bytes.to_le_bytes().to_vec()));
        }
        patches.push((CONTEXT_BASE + MEMORY_TOTAL_OFFSET, total.to_le_bytes().to_vec()));
        Ok(())
    }

    fn patch_tables(
        &self,
        headers: &Headers<'_>,
        state: &State,
        changed: &mut Metadata,
        patches: &mut Vec<(u64, Vec<u8>)>,
    ) -> Result<(), SnapshotError> {
        let descriptors = self.descriptors(headers).ok_or(SnapshotError::Shape)?;
        for (index, (table, found)) in changed.tables.iter_mut().zip(&state.tables).enumerate() {
            table.size = self.checked_table_size(index, found.size)?;
            let (entries, rest) = found.entries.as_chunks::<ENTRY>();
            if entries.len() as u64 != table.size || !rest.is_empty() {
                return Err(SnapshotError::Shape);
            }
            for (at, entry) in entries.iter().enumerate() {
                let is_null = entry.iter().all(|&byte| byte == 0);
                match table.ty {
                    _ if is_null && table.reference.nullable => {}
                    ValType::FuncRef => {
                        // The number of the reference says which; all the rest must be what the module has for it.
                        let [.., a, b, c, d] = *entry;
                        let number = u32::from_le_bytes([a, b, c, d]);
                        if descriptor(descriptors, table.reference, number) != Some(entry) {
                            return Err(SnapshotError::TableEntry { table: index, entry: at });
                        }
                    }
                    ty => {
                        let what = referent(ty);
                        return Err(SnapshotError::TableReference { table: index, entry: at, what });
                    }
                }
            }
            let address = table.descriptor + offset_of!(TableDescriptor, size) as u64;
            patches.push((address, table.size.to_le_bytes().to_vec()));
            patches.push((table.base, found.entries.clone()));
        }
        Ok(())
    }

    fn patch_globals(
        &self,
        headers: &Headers<'_>,
        state: &State,
        patches: &mut Vec<(u64, Vec<u8>)>,
    ) -> Result<(), SnapshotError> {
        let descriptors = self.descriptors(headers).ok_or(SnapshotError::Shape)?;
        for (index, (global, &[low, high])) in self.metadata.globals.iter().zip(&state.globals).enumerate() {
            let GlobalValue::Address(address) = global.value else { continue };
            let mut bytes = match global.ty {
                // Code may rely on zeros above the value.
                ValType::I32 | ValType::F32 => u64::from(low as u32).to_le_bytes().to_vec(),
                ValType::FuncRef => {
                    let known = u32::try_from(low).ok();
                    let known = known.filter(|n| descriptor(descriptors, global.reference, *n).is_some());
                    known.ok_or(SnapshotError::GlobalFunction { global: index })?;
                    low.to_le_bytes().to_vec()
                }
                ValType::I64 | ValType::F64 | ValType::V128 => low.to_le_bytes().to_vec(),
                ValType::ExternRef | ValType::ExnRef if low != 0 || !global.reference.nullable => {
                    return Err(SnapshotError::GlobalReference { global: index, what: referent(global.ty) });
                }
                ValType::ExternRef | ValType::ExnRef => vec![0; 8],
            };
            if global.ty == ValType::V128 {
                bytes.extend_from_slice(&high.to_le_bytes());
            }
            patches.push((address, bytes));
        }
        Ok(())
    }

    fn write_snapshot(
        &self,
        headers: &Headers<'_>,
        state: &State,
        mut metadata: Metadata,
        patches: &[(u64, Vec<u8>)],
        caps: &Caps,
    ) -> Result<Vec<u8>, SnapshotError> {
        let file = self.bytes();
        let contents = |segment: &Loaded| file_range(file, segment).unwrap_or_default();
        let mut context = Overlay::default();
        let mut context_end = CONTEXT_BASE;
        for segment in &headers.segments {
            if segment.access == Access::ReadWrite && segment.address < CONTEXT_END {
                context.write(segment.address, contents(segment));
                context_end = context_end.max(segment.end());
            }
        }
        for (address, bytes) in patches {
            context.write(*address, bytes);
        }
        let memories: Vec<Overlay<'_>> = (0u32..)
            .zip(&state.memories)
            .map(|(index, memory)| {
                let mut overlay = Overlay::default();
                for (offset, piece) in &memory.pieces {
                    overlay.write(memory_base(index) + offset, piece);
                }
                overlay
            })
            .collect();
        let mut segments = Vec::new();
        for (index, (overlay, memory)) in (0u32..).zip(memories.iter().zip(&state.memories)) {
            let base = memory_base(index);
            segments.push(Segment {
                address: base,
                memory_bytes: MEMORY_RESERVED,
                file_bytes: 0,
                access: Access::None,
                contents: Vec::new(),
            });
            let runs = runs_per_memory(memories.len());
            writable_segments(&mut segments, base..base + memory.bytes, overlay, runs);
        }
        writable_segments(&mut segments, CONTEXT_BASE..context_end, &context, RUNS_MAX);
        metadata.data_bytes = writable_bytes(&segments);
        // Code and what it only reads, as it is.
        let fixed = |segment: &&Loaded| matches!(segment.access, Access::Read | Access::ReadExecute);
        segments.extend(headers.segments.iter().filter(fixed).map(|segment| Segment {
            address: segment.address,
            memory_bytes: segment.memory_bytes,
            file_bytes: segment.file_bytes,
            access: segment.access,
            contents: vec![(0, contents(segment))],
        }));
        let section = |name: &'static str| -> Result<&[u8], ArtifactError> {
            Ok(file.get(headers.section(name)?).unwrap_or_default())
        };
        let debug = headers.sections()?.filter_map(|(name, range)| {
            let name = std::str::from_utf8(name).ok()?;
            let is_about_lines = name == LINES_SECTION || name.starts_with(".debug_");
            Some((name, file.get(range.filter(|_| is_about_lines)?)?.to_vec()))
        });
        let image = Image {
            segments,
            text: (CODE_BASE, section(".text")?.len() as u64),
            rodata: (metadata.descriptors, section(".rodata")?.len() as u64),
            symbols: Symbols {
                table: self.section(&self.symbols).into(),
                strings: self.section(&self.strings).into(),
            },
            metadata: metadata::encode(&metadata)?,
            sites: section(SITES_SECTION)?.to_vec(),
            debug: debug.collect(),
        };
        Ok(image.write(caps)?)
    }

    /// The module's function descriptors.
    pub(super) fn descriptors(&self, headers: &Headers<'_>) -> Option<&[[u8; ENTRY]]> {
        let start = self.metadata.descriptors;
        let segment =
            headers.segments.iter().find(|s| s.access == Access::Read && s.range().contains(&start))?;
        let bytes = file_range(self.bytes(), segment)?.get((start - segment.address) as usize..)?;
        bytes.as_chunks().0.get(..self.metadata.descriptor_count as usize)
    }
}

/// The descriptor of the function that a reference of this kind has the number of. Code calls some references without looking at
/// the signature or for null, so they must be what their type says.
fn descriptor(descriptors: &[[u8; ENTRY]], reference: Reference, number: u32) -> Option<&[u8; ENTRY]> {
    let number = number as usize;
    if number >= descriptors.len() {
        return None;
    }
    let found = descriptors.get(nospec::below(number, descriptors.len()))?;
    let at = offset_of!(TableEntry, signature);
    let signature = found.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
    let fits = if number == 0 {
        reference.nullable
    } else {
        reference.signature.is_none_or(|expected| expected == signature)
    };
    fits.then_some(found)
}

fn file_range<'f>(file: &'f [u8], segment: &Loaded) -> Option<&'f [u8]> {
    let start = usize::try_from(segment.file_offset).ok()?;
    file.get(start..start.checked_add(usize::try_from(segment.file_bytes).ok()?)?)
}

/// What a reference of this type is to.
fn referent(ty: ValType) -> &'static str {
    match ty {
        ValType::ExnRef => "an exception",
        _ => "something of the host's",
    }
}

const _: () = assert!(ENTRY == 16);
