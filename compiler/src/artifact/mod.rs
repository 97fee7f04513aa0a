//! Artifacts: what a module is compiled to, how it is read back, and how one is made of native code.
//!
//! An artifact is an ELF executable for x86-64 whose program headers say all that must be mapped ([`crate`]
//! describes them). Sections that are not loaded hold symbols, the [`Metadata`] and the table of code sites.
//! The bytes come from a compile worker or a file and are not trusted: [`Artifact::parse`] checks every rule
//! that the processes which use an artifact rely on.

mod elf;
mod error;
pub mod metadata;
mod raw;
mod snapshot;
mod summary;
mod verify;
pub(crate) mod write;

use std::ops::Range;

use ipc::layout::{CODE_BASE, MEMORY_MAX, memory_base};
use object::elf::Sym64;
use object::endian::LittleEndian;
use object::pod::from_bytes;

pub use error::ArtifactError;
pub use metadata::Metadata;
pub use raw::RawModule;
pub use snapshot::{MemoryState, SnapshotError, State, TableState};
pub use summary::{
    ExportSummary, FunctionSummary, ImportSummary, SegmentSummary, Sizes, SnapshotSummary, Summary,
};

use crate::debug::section;
use crate::sites;
use crate::trap::TrapKind;
use elf::Headers;
use metadata::ExportItem;
use write::{LINES_SECTION, META_SECTION, SITES_SECTION};

/// Longest function name that is reported, in bytes.
const NAME_MAX: usize = 1024;

/// An artifact that passed every check. `B` holds its bytes, which must not change: a slice, a vector, a mapping of a
/// sealed file.
#[derive(Clone, Debug)]
pub struct Artifact<B> {
    bytes: B,
    metadata: Metadata,
    symbols: Range<usize>,
    strings: Range<usize>,
    sites: Range<usize>,
    /// Length of the code: no address beyond it is looked up, so that no lookup takes longer than the code is long.
    code_bytes: u64,
    /// Empty in an artifact without source lines.
    lines: Range<usize>,
}

/// A part of a linear memory as every instance finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitialMemory<'a> {
    /// Its address, that of a page.
    pub address: u64,
    /// Its bytes, whole pages.
    pub length: u64,
    /// What the first of them are, whole pages; the others are zero.
    pub contents: &'a [u8],
}

/// Where in the module an address of the code is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Index of the function.
    pub function: u32,
    /// Its name: from the module's name section, else `wasm-function[N]`.
    pub name: String,
    /// Byte offset in the module of the operator; where the table of sites has none for the address, of the closest one
    /// before it in the function's code, else of the function's body.
    pub wasm_offset: u32,
    /// Path of the source file and the line in it, from 1, if the artifact says so.
    pub source: Option<(String, u32)>,
}

impl<B: AsRef<[u8]>> Artifact<B> {
    /// Reads and checks an artifact.
    pub fn parse(bytes: B) -> Result<Self, ArtifactError> {
        let file = bytes.as_ref();
        let headers = Headers::parse(file)?;
        let section = headers.section(META_SECTION)?;
        if section.len() as u64 > metadata::BYTES_MAX {
            return Err(ArtifactError::MetadataSize { bytes: section.len(), max: metadata::BYTES_MAX });
        }
        let (metadata, _) = postcard::take_from_bytes(file.get(section).unwrap_or_default())
            .map_err(ArtifactError::Metadata)?;
        verify::check(file, &headers.segments, &metadata)?;
        let sites = headers.section(SITES_SECTION)?;
        let table = sites::Table::parse(file.get(sites.clone()).unwrap_or_default());
        let code = headers.segments.iter().find(|segment| segment.access == write::Access::ReadExecute);
        let code_bytes = code.map_or(0, |code| code.memory_bytes);
        if table.is_none_or(|table| table.functions() != metadata.functions) {
            return Err(ArtifactError::Sites);
        }
        let (symbols, strings) = (headers.section(".symtab")?, headers.section(".strtab")?);
        let lines = headers.section(LINES_SECTION).unwrap_or_default();
        Ok(Artifact { metadata, symbols, strings, sites, code_bytes, lines, bytes })
    }

    /// Checks that the table of code sites is in order, from its beginning to its end. It is megabytes in a large artifact and only
    /// reports read it, so that [`Self::parse`] leaves this to whoever has made the artifact; looking up an address in a table
    /// that is not in order finds nothing or something else, in no more time.
    pub fn check_sites(&self) -> Result<(), ArtifactError> {
        let in_order = self.table().is_some_and(|table| table.is_ascending(self.code_bytes));
        if in_order { Ok(()) } else { Err(ArtifactError::Sites) }
    }

    /// The bytes, as they are to be mapped.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// What the artifact says about itself; checked.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The parts of memory 0 that are mapped from the start on. Takes time: it reads the headers again.
    pub fn initial_memory(&self) -> Vec<InitialMemory<'_>> {
        let file = self.bytes.as_ref();
        // It was parsed before.
        let segments = Headers::parse(file).map(|headers| headers.segments).unwrap_or_default();
        let memory = memory_base(0)..memory_base(0) + MEMORY_MAX;
        let is_part = |s: &&elf::Loaded| s.access == write::Access::ReadWrite && memory.contains(&s.address);
        let parts = segments.iter().filter(is_part).map(|segment| {
            let (start, length) = (segment.file_offset as usize, segment.file_bytes as usize);
            let contents = file.get(start..).and_then(|rest| rest.get(..length)).unwrap_or_default();
            InitialMemory { address: segment.address, length: segment.memory_bytes, contents }
        });
        parts.collect()
    }

    /// The export with this name.
    pub fn export(&self, name: &str) -> Option<&ExportItem> {
        self.metadata.exports.iter().find(|export| export.name == name).map(|export| &export.item)
    }

    /// Where the instruction at an address is in the module; `None` outside of the module's functions.
    pub fn symbolize(&self, pc: u64) -> Option<Frame> {
        self.frame(pc, false)
    }

    /// Like [`Self::symbolize`] for an address that a call returns to, as a backtrace has them.
    pub fn symbolize_return(&self, pc: u64) -> Option<Frame> {
        self.frame(pc, true)
    }

    /// The trap that the instruction at exactly this address raises; `None` when it cannot trap.
    pub fn trap_at(&self, pc: u64) -> Option<TrapKind> {
        self.table()?.find(self.code_offset(pc)?, false)?.trap
    }

    /// The name of a function of the module.
    pub fn function_name(&self, function: u32) -> Option<String> {
        let entry = size_of::<Sym64<LittleEndian>>();
        // The first symbol is the null one.
        let start = (function as usize).checked_add(1)?.checked_mul(entry)?;
        let symbol = self.section(&self.symbols).get(start..)?;
        let (symbol, _) = from_bytes::<Sym64<LittleEndian>>(symbol).ok()?;
        let name = self.section(&self.strings).get(symbol.st_name.get(LittleEndian) as usize..)?;
        let name = name.get(..NAME_MAX).unwrap_or(name);
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        name.get(..end).map(|name| String::from_utf8_lossy(name).into_owned())
    }

    fn frame(&self, pc: u64, returns: bool) -> Option<Frame> {
        let found = self.table()?.find(self.code_offset(pc)?, returns)?;
        let name = self.function_name(found.function);
        Some(Frame {
            function: found.function,
            name: name.unwrap_or_else(|| format!("wasm-function[{}]", found.function)),
            wasm_offset: found.wasm,
            source: section::Table::parse(self.section(&self.lines)).and_then(|table| table.find(found.wasm)),
        })
    }

    /// Of an instruction, or of the first byte behind the code, which is where a call may return to.
    fn code_offset(&self, pc: u64) -> Option<u32> {
        let offset = pc.checked_sub(CODE_BASE).filter(|offset| *offset <= self.code_bytes)?;
        u32::try_from(offset).ok()
    }

    fn table(&self) -> Option<sites::Table<'_>> {
        sites::Table::parse(self.section(&self.sites))
    }

    fn section(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.as_ref().get(range.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
