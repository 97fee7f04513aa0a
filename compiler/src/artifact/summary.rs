//! What is in an artifact, for people and programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::elf::Headers;
use super::metadata::{Asked, Global, Import, ImportItem, Memory, Metadata, Table, Tag};
use super::write::Access;
use super::{Artifact, ArtifactError, ExportItem};
use crate::sites;
use crate::types::{FuncType, ValType};
use crate::{CodeOptions, TrapKind};

/// What is in an artifact.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What compiled it.
    pub compiler: String,
    /// How.
    pub options: CodeOptions,
    /// CPU features that the code uses.
    pub cpu_features: Vec<String>,
    /// Those of them that this machine lacks.
    pub missing_cpu_features: Vec<String>,
    /// BLAKE3 hash of the artifact, in hexadecimal digits.
    pub hash: String,
    /// BLAKE3 hash of the module.
    pub wasm_hash: String,
    /// Sizes of its parts.
    pub sizes: Sizes,
    /// What is mapped, in this order.
    pub segments: Vec<SegmentSummary>,
    /// Host functions that the code may call.
    pub imports: Vec<ImportSummary>,
    /// What the host app has to provide.
    pub open_imports: Vec<OpenImportSummary>,
    /// Exports.
    pub exports: Vec<ExportSummary>,
    /// In a snapshot, how it came about.
    pub snapshot: Option<SnapshotSummary>,
    /// The start function.
    pub start: Option<u32>,
    /// Instantiation traps.
    pub start_trap: Option<TrapKind>,
    /// Linear memories.
    pub memories: Vec<Memory>,
    /// Tables.
    pub tables: Vec<Table>,
    /// Globals.
    pub globals: Vec<Global>,
    /// Tags of exceptions.
    pub tags: Vec<Tag>,
    /// Instructions that can trap, by the trap.
    pub trap_sites: BTreeMap<String, u64>,
    /// Places that calls return to.
    pub call_sites: u64,
    /// The module's functions.
    pub functions: Vec<FunctionSummary>,
}

/// How a snapshot came about.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotSummary {
    /// The exports that have run, the first one first.
    pub inits: Vec<String>,
    /// What the guest asked for that is not the same every time, by its own word.
    pub asked: Vec<Asked>,
    /// Whether the inputs decide it, see [`Snapshot::is_pure`](super::metadata::Snapshot::is_pure).
    pub pure: bool,
}

/// Sizes in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sizes {
    /// The artifact.
    pub file: u64,
    /// Machine code, in whole pages.
    pub code: u64,
    /// Read-only data, in whole pages.
    pub rodata: u64,
    /// Private writable memory that is mapped from the start.
    pub data: u64,
    /// The part of it that comes from the file.
    pub data_in_file: u64,
    /// Everything that is not mapped: names, metadata, the tables that explain addresses, source lines.
    pub unmapped: u64,
}

/// A mapped range.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SegmentSummary {
    /// First address.
    pub address: u64,
    /// Bytes of address space.
    pub bytes: u64,
    /// Bytes of them that come from the file.
    pub file_bytes: u64,
    /// `---`, `r--`, `rw-` or `r-x`.
    pub access: &'static str,
}

/// A host function.
#[derive(Clone, Debug, Serialize)]
pub struct ImportSummary {
    /// Name of its module.
    pub module: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Parameters and results.
    pub signature: String,
}

/// An import that the host app provides.
#[derive(Clone, Debug, Serialize)]
pub struct OpenImportSummary {
    /// Name of its module.
    pub module: String,
    /// Its name.
    pub name: String,
    /// `function`, `memory`, `table`, `global` or `tag`.
    pub kind: &'static str,
    /// Parameters and results of a function; what else is declared of others.
    pub ty: String,
}

/// An export.
#[derive(Clone, Debug, Serialize)]
pub struct ExportSummary {
    /// Its name.
    pub name: String,
    /// `function`, `memory`, `table`, `global` or `tag`.
    pub kind: &'static str,
    /// Its index among those.
    pub index: u32,
    /// Parameters and results of a function.
    pub signature: Option<String>,
    /// Address of a function's code.
    pub address: Option<u64>,
}

/// A function of the module.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionSummary {
    /// Its name.
    pub name: String,
    /// Address of its code.
    pub address: u64,
    /// Bytes of its code, padding behind it included.
    pub bytes: u64,
}

impl<B: AsRef<[u8]>> Artifact<B> {
    /// What is in the artifact.
    pub fn summary(&self) -> Result<Summary, ArtifactError> {
        let (file, metadata) = (self.bytes(), self.metadata());
        let segments = Headers::parse(file)?.segments;
        let sum = |access: Access, part: fn(&super::elf::Loaded) -> u64| -> u64 {
            segments.iter().filter(|segment| segment.access == access).map(part).sum()
        };
        let sizes = Sizes {
            file: file.len() as u64,
            code: sum(Access::ReadExecute, |s| s.memory_bytes),
            rodata: sum(Access::Read, |s| s.memory_bytes),
            data: metadata.data_bytes,
            data_in_file: sum(Access::ReadWrite, |s| s.file_bytes),
            unmapped: (file.len() as u64).saturating_sub(segments.iter().map(|s| s.file_bytes).sum()),
        };
        self.check_sites()?;
        let table = self.table().ok_or(ArtifactError::Sites)?;
        let counts = table.counts();
        let trap_sites = TrapKind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind.to_string(), *counts.get(kind as usize)?)))
            .filter(|(_, count)| *count > 0)
            .collect();
        Ok(Summary {
            compiler: metadata.compiler.clone(),
            options: metadata.options,
            cpu_features: metadata.cpu_features.clone(),
            missing_cpu_features: metadata.missing_cpu_features().into_iter().map(str::to_owned).collect(),
            hash: blake3::hash(file).to_hex().to_string(),
            wasm_hash: blake3::Hash::from_bytes(metadata.wasm_hash).to_hex().to_string(),
            sizes,
            segments: segments
                .iter()
                .map(|segment| SegmentSummary {
                    address: segment.address,
                    bytes: segment.memory_bytes,
                    file_bytes: segment.file_bytes,
                    access: match segment.access {
                        Access::None => "---",
                        Access::Read => "r--",
                        Access::ReadWrite => "rw-",
                        Access::ReadExecute => "r-x",
                    },
                })
                .collect(),
            imports: imports(metadata),
            open_imports: metadata.imports.iter().map(|import| open_import(metadata, import)).collect(),
            exports: metadata.exports.iter().map(export).collect(),
            snapshot: metadata.snapshot.as_ref().map(|snapshot| SnapshotSummary {
                inits: snapshot.inits.clone(),
                asked: snapshot.asked.clone(),
                pure: snapshot.is_pure(),
            }),
            start: metadata.start.as_ref().map(|start| start.function),
            start_trap: metadata.start_trap,
            memories: metadata.memories.clone(),
            tables: metadata.tables.clone(),
            globals: metadata.globals.clone(),
            tags: metadata.tags.clone(),
            trap_sites,
            call_sites: counts.first().copied().unwrap_or(0),
            functions: self.functions(table),
        })
    }

    fn functions(&self, table: sites::Table<'_>) -> Vec<FunctionSummary> {
        // Any number of functions may have the same long name. All of them together get no more room than the file has.
        let mut room = self.bytes().len();
        (0..table.functions())
            .filter_map(|index| {
                let range = table.code(index)?;
                let name = self.function_name(index).and_then(|name| {
                    room = room.checked_sub(name.len())?;
                    Some(name)
                });
                Some(FunctionSummary {
                    name: name.unwrap_or_else(|| format!("wasm-function[{index}]")),
                    address: ipc::layout::CODE_BASE + u64::from(range.start),
                    bytes: u64::from(range.end.saturating_sub(range.start)),
                })
            })
            .collect()
    }
}

fn imports(metadata: &Metadata) -> Vec<ImportSummary> {
    let host = |types: &[ipc::interface::ValueType]| types.iter().map(|ty| ValType::of_host(*ty)).collect();
    metadata
        .host_functions()
        .map(|id| {
            let declaration = id.declaration();
            let ty = FuncType { params: host(declaration.params), results: host(declaration.results) };
            ImportSummary { module: declaration.module, name: declaration.name, signature: ty.to_string() }
        })
        .collect()
}

fn open_import(metadata: &Metadata, import: &Import) -> OpenImportSummary {
    let size = |min: u64, max: Option<u64>| match max {
        Some(max) => format!("{min} to {max}"),
        None => format!("{min} or more"),
    };
    let signature = |params: &[ValType], results: &[ValType]| {
        FuncType { params: params.to_vec(), results: results.to_vec() }.to_string()
    };
    let at = |index: u32| index as usize;
    // Indices are those of a checked artifact.
    let (kind, ty) = match &import.item {
        ImportItem::Function { params, results } => ("function", signature(params, results)),
        ImportItem::Global(index) => {
            let global = metadata.globals.get(at(*index));
            let ty =
                global.map(|global| format!("{}{}", if global.mutable { "mutable " } else { "" }, global.ty));
            ("global", ty.unwrap_or_default())
        }
        ImportItem::Memory { index, min, max } => {
            let wide = metadata.memories.get(at(*index)).is_some_and(|memory| memory.memory64);
            ("memory", format!("{} pages{}", size(*min, *max), if wide { ", 64-bit" } else { "" }))
        }
        ImportItem::Table { index, min, max } => {
            let table = metadata.tables.get(at(*index));
            let element = table.map(|table| table.ty.to_string()).unwrap_or_default();
            let wide = table.is_some_and(|table| table.table64);
            ("table", format!("{} of {element}{}", size(*min, *max), if wide { ", 64-bit" } else { "" }))
        }
        ImportItem::Tag(index) => {
            let params = metadata.tags.get(at(*index)).map(|tag| signature(&tag.params, &[]));
            ("tag", params.unwrap_or_default())
        }
    };
    OpenImportSummary { module: import.module.clone(), name: import.name.clone(), kind, ty }
}

fn export(export: &super::metadata::Export) -> ExportSummary {
    let (kind, index, function) = match &export.item {
        ExportItem::Function { entry, params, results } => {
            let ty = FuncType { params: params.clone(), results: results.clone() };
            ("function", entry.function, Some((ty.to_string(), entry.code)))
        }
        ExportItem::Memory(index) => ("memory", *index, None),
        ExportItem::Table(index) => ("table", *index, None),
        ExportItem::Global(index) => ("global", *index, None),
        ExportItem::Tag(index) => ("tag", *index, None),
    };
    let (signature, address) = function.unzip();
    ExportSummary { name: export.name.clone(), kind, index, signature, address }
}
