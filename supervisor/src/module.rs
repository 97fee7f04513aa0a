//! A loaded module: a checked artifact in sealed memory, ready to be mapped by zygotes.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use compiler::metadata::{Entry as CompiledEntry, ExportItem, Import, ImportItem, Metadata, Snapshot};
use compiler::{Artifact, ValType};
use interface::{Imported, Lowered, MISMATCHES_MAX, Mismatch, WasmType};
use ipc::interface::FunctionId;
use ipc::report::Value;
use ipc::types::{Export, ExportType, ValueType};

use crate::error::Error;
use crate::image::{Image, View};
use crate::imports::value_type;
use crate::job::Entry;

/// Where a module comes from.
#[derive(Clone, Debug)]
pub enum ModuleSource {
    /// WebAssembly, binary or text.
    Wasm(Vec<u8>),
    /// An artifact that `sandboxc` or `sandboxctl compile` made.
    Artifact(Vec<u8>),
    /// The same in a file that is read from its beginning. It is copied once, so that it may change afterwards.
    ArtifactFile(Arc<File>),
}

/// The imports of an interface that do not fit it, the first [`MISMATCHES_MAX`] of them.
pub(crate) fn mismatches(metadata: &Metadata, interface: &Lowered) -> Vec<Mismatch> {
    let own = metadata.imports.iter().filter(|import| import.module == interface.interface().name);
    let wrong = own.filter(|import| !fits(interface, import));
    // One by one: many times what the metadata takes would be needed for all of them.
    wrong.filter_map(imported).flat_map(|import| interface.check([&import])).take(MISMATCHES_MAX).collect()
}

/// Whether an interface has a function as it is imported. Takes no memory: a module can have a million imports.
pub(crate) fn fits(interface: &Lowered, import: &Import) -> bool {
    let ImportItem::Function { params, results } = &import.item else { return false };
    let same =
        |types: &[ValType], declared: &[WasmType]| declared.iter().map(value_type).eq(types.iter().copied());
    let function = interface.function(&import.name);
    function.is_some_and(|function| same(params, function.params()) && same(results, function.results()))
}

/// An import as interfaces know it, if it is a function.
pub(crate) fn imported(import: &Import) -> Option<Imported> {
    let names = |types: &[ValType]| types.iter().map(ToString::to_string).collect();
    match &import.item {
        ImportItem::Function { params, results } => Some(Imported {
            module: import.module.clone(),
            name: import.name.clone(),
            params: names(params),
            results: names(results),
        }),
        _ => None,
    }
}

/// A loaded module. Cheap to clone; all clones are the same module.
#[derive(Clone, Debug)]
pub struct Module(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    artifact: Artifact<View>,
    /// Identifies the artifact's bytes.
    hash: blake3::Hash,
    /// The artifact in sealed memory, once per tenant: tenants share no page.
    images: Mutex<Images>,
    cached: bool,
    cache_problem: Option<String>,
}

#[derive(Debug)]
struct Images {
    first: Option<Arc<Image>>,
    by_tenant: HashMap<String, Arc<Image>>,
}

impl Module {
    /// Checks an image and makes it a module. `cached` tells whether it came from the cache.
    pub(crate) fn new(image: Image, cached: bool, cache_problem: Option<String>) -> Result<Self, Error> {
        let artifact = Artifact::parse(image.view()?)?;
        let missing = artifact.metadata().missing_cpu_features();
        if !missing.is_empty() {
            return Err(Error::CpuFeatures { missing: missing.join(", ") });
        }
        let hash = image.hash().unwrap_or_else(|| blake3::hash(artifact.bytes()));
        let images = Mutex::new(Images { first: Some(Arc::new(image)), by_tenant: HashMap::new() });
        Ok(Self(Arc::new(Inner { artifact, hash, images, cached, cache_problem })))
    }

    /// The checked artifact.
    pub(crate) fn artifact(&self) -> &Artifact<View> {
        &self.0.artifact
    }

    /// The artifact's bytes.
    pub fn artifact_bytes(&self) -> &[u8] {
        self.0.artifact.bytes()
    }

    /// The same module, with why it could not be kept in the cache. For a module that has no clones yet.
    pub(crate) fn with_cache_problem(mut self, problem: Option<String>) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.cache_problem = problem;
        }
        self
    }

    /// Whether the artifact came from the cache, so that nothing was compiled.
    pub fn was_cached(&self) -> bool {
        self.0.cached
    }

    /// Why the artifact could not be kept in the cache, if it could not.
    pub fn cache_problem(&self) -> Option<&str> {
        self.0.cache_problem.as_deref()
    }

    /// Bytes of the artifact.
    pub(crate) fn image_bytes(&self) -> usize {
        self.0.artifact.bytes().len()
    }

    pub(crate) fn hash(&self) -> blake3::Hash {
        self.0.hash
    }

    /// The tenant's own copy of the artifact in sealed memory.
    pub(crate) fn image_for(&self, tenant: &str) -> Result<Arc<Image>, Error> {
        // A poisoned lock only means that another thread panicked between two complete states.
        let mut images = self.0.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = images.by_tenant.get(tenant) {
            return Ok(Arc::clone(image));
        }
        let image = match (images.first.take(), images.by_tenant.values().next()) {
            (Some(first), _) => first,
            (None, Some(other)) => Arc::new(Image::from_bytes(other.view()?.as_ref())?),
            (None, None) => return Err(Error::Stopped),
        };
        images.by_tenant.insert(tenant.to_owned(), Arc::clone(&image));
        Ok(image)
    }

    /// Bytes of all linear memories at the start.
    pub(crate) fn initial_memory(&self) -> u64 {
        let pages = self.0.artifact.metadata().memories.iter().map(|m| m.min_pages);
        pages.fold(0u64, u64::saturating_add).saturating_mul(ipc::layout::WASM_PAGE)
    }

    /// Address of the descriptor of memory 0, or 0.
    pub(crate) fn memory_descriptor(&self) -> u64 {
        self.0.artifact.metadata().memories.first().map_or(0, |m| m.descriptor)
    }

    /// What runs, checked against the module's exports.
    pub(crate) fn entry_point(&self, entry: &Entry) -> Result<EntryPoint, Error> {
        let (name, args) = match entry {
            Entry::Command => ("_start", &[][..]),
            Entry::Export { name, args } => (name.as_str(), args.as_slice()),
        };
        let function = self.function(name)?;
        let metadata = self.0.artifact.metadata();
        let given: Vec<ValType> = args.iter().map(ValueKind::of).map(|k| k.0).collect();
        if given != function.params {
            return Err(Error::WrongArguments {
                name: name.to_owned(),
                expected: type_list(function.params),
                given: type_list(&given),
            });
        }
        let raw = |v: &Value| {
            raw_value(v).ok_or_else(|| unsupported(name, "a reference argument that is not null"))
        };
        let values = args.iter().map(raw).collect::<Result<Vec<_>, _>>()?;
        let results = function.results.iter().map(|ty| ValueKind(*ty)).collect();
        Ok(EntryPoint {
            start: metadata.start,
            init: self.initialiser(entry)?,
            entry: function.entry,
            values,
            results,
        })
    }

    /// How to initialise the module for a snapshot: with the export `name`, which has neither parameters nor results.
    pub(crate) fn initialisation(&self, name: &str) -> Result<EntryPoint, Error> {
        let point = self.entry_point(&Entry::Export { name: name.to_owned(), args: Vec::new() })?;
        if point.results.is_empty() {
            Ok(point)
        } else {
            Err(unsupported(name, "results, which an initialisation does not have"))
        }
    }

    /// How the module came about, if it is a snapshot.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.0.artifact.metadata().snapshot.as_ref()
    }

    /// A reactor's initialiser, which runs before an export is called.
    fn initialiser(&self, entry: &Entry) -> Result<Option<CompiledEntry>, Error> {
        const NAME: &str = "_initialize";
        if self.snapshot().is_some() {
            // It has run.
            return Ok(None);
        }
        match (entry, self.function(NAME)) {
            (Entry::Command, _) | (_, Err(_)) => Ok(None),
            (Entry::Export { name, .. }, _) if name == NAME => Ok(None),
            (_, Ok(f)) if f.params.is_empty() && f.results.is_empty() => Ok(Some(f.entry)),
            (_, Ok(_)) => Err(unsupported(NAME, "parameters or results")),
        }
    }

    /// The exported function called `name`.
    fn function(&self, name: &str) -> Result<Function<'_>, Error> {
        match self.0.artifact.export(name) {
            Some(ExportItem::Function { entry, params, results }) => {
                Ok(Function { entry: *entry, params, results })
            }
            _ => Err(Error::NoSuchExport { name: name.to_owned(), available: self.exported_functions() }),
        }
    }

    /// The host functions that it imports. A policy that does not allow one of them does not let the module run.
    pub fn host_functions(&self) -> impl Iterator<Item = FunctionId> {
        self.artifact().metadata().host_functions.iter().filter_map(|number| FunctionId::from_number(*number))
    }

    /// The imports of this interface that do not fit it, the first [`interface::MISMATCHES_MAX`] of them.
    pub fn mismatches(&self, interface: &Lowered) -> Vec<Mismatch> {
        mismatches(self.artifact().metadata(), interface)
    }

    /// Parameter and result types of an exported function.
    pub fn function_type(&self, name: &str) -> Result<(&[ValType], &[ValType]), Error> {
        self.function(name).map(|f| (f.params, f.results))
    }

    /// What the module exports, in its order.
    pub fn exports(&self) -> impl Iterator<Item = Export> {
        let metadata = self.0.artifact.metadata();
        metadata.exports.iter().filter_map(|export| {
            let ty = match &export.item {
                ExportItem::Function { params, results, .. } => {
                    ExportType::Function { params: wire_types(params), results: wire_types(results) }
                }
                ExportItem::Global(index) => {
                    let global = metadata.globals.get(*index as usize)?;
                    ExportType::Global { value: wire_type(global.ty), mutable: global.mutable }
                }
                ExportItem::Memory(index) => {
                    let memory = metadata.memories.get(*index as usize)?;
                    ExportType::Memory { index: *index, memory64: memory.memory64 }
                }
                ExportItem::Table(index) => {
                    ExportType::Table { element: wire_type(metadata.tables.get(*index as usize)?.ty) }
                }
                ExportItem::Tag(index) => {
                    ExportType::Tag { params: wire_types(&metadata.tags.get(*index as usize)?.params) }
                }
            };
            Some(Export { name: export.name.clone(), ty })
        })
    }

    fn exported_functions(&self) -> String {
        const SHOWN: usize = 8;
        let names: Vec<&str> = self
            .0
            .artifact
            .metadata()
            .exports
            .iter()
            .filter(|e| matches!(e.item, ExportItem::Function { .. }))
            .map(|e| e.name.as_str())
            .collect();
        match names.len() {
            0 => "no function".to_owned(),
            n if n <= SHOWN => names.join(", "),
            n => format!("{}, and {} more", names[..SHOWN].join(", "), n - SHOWN),
        }
    }
}

fn unsupported(name: &str, what: &str) -> Error {
    Error::UnsupportedSignature { name: name.to_owned(), what: what.to_owned() }
}

/// A type as it is told to other processes.
pub(crate) fn wire_type(ty: ValType) -> ValueType {
    match ty {
        ValType::I32 => ValueType::I32,
        ValType::I64 => ValueType::I64,
        ValType::F32 => ValueType::F32,
        ValType::F64 => ValueType::F64,
        ValType::V128 => ValueType::V128,
        ValType::FuncRef => ValueType::FuncRef,
        ValType::ExternRef => ValueType::ExternRef,
        ValType::ExnRef => ValueType::ExnRef,
    }
}

/// Types, told in the same way.
pub(crate) fn wire_types(types: &[ValType]) -> Vec<ValueType> {
    types.iter().copied().map(wire_type).collect()
}

/// A type that another process has told.
pub(crate) fn type_of_wire(ty: ValueType) -> ValType {
    match ty {
        ValueType::I32 => ValType::I32,
        ValueType::I64 => ValType::I64,
        ValueType::F32 => ValType::F32,
        ValueType::F64 => ValType::F64,
        ValueType::V128 => ValType::V128,
        ValueType::FuncRef => ValType::FuncRef,
        ValueType::ExternRef => ValType::ExternRef,
        ValueType::ExnRef => ValType::ExnRef,
    }
}

fn type_list(types: &[ValType]) -> String {
    let names: Vec<String> = types.iter().map(ToString::to_string).collect();
    format!("({})", names.join(", "))
}

/// An exported function.
struct Function<'m> {
    entry: CompiledEntry,
    params: &'m [ValType],
    results: &'m [ValType],
}

/// Where a job starts.
#[derive(Debug)]
pub(crate) struct EntryPoint {
    /// The module's start function.
    pub(crate) start: Option<CompiledEntry>,
    /// Its initialiser.
    pub(crate) init: Option<CompiledEntry>,
    /// What the job asks for.
    pub(crate) entry: CompiledEntry,
    /// Arguments as they lie in the shared memory.
    pub(crate) values: Vec<RawValue>,
    pub(crate) results: Vec<ValueKind>,
}

impl EntryPoint {
    /// Nowhere: a session calls later what it wants.
    pub(crate) fn none() -> Self {
        let entry = CompiledEntry { function: 0, code: 0, trampoline: 0 };
        Self { start: None, init: None, entry, values: Vec::new(), results: Vec::new() }
    }
}

/// A value type that can cross between host app and guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValueKind(ValType);

/// A value as it lies in the shared memory.
pub(crate) type RawValue = [u64; 2];

impl From<ValType> for ValueKind {
    fn from(ty: ValType) -> Self {
        Self(ty)
    }
}

impl ValueKind {
    /// Bytes that a global of this type takes.
    pub(crate) fn bytes(self) -> usize {
        if self.0 == ValType::V128 { 16 } else { 8 }
    }

    pub(crate) fn of(value: &Value) -> Self {
        Self(match value {
            Value::I32(_) => ValType::I32,
            Value::I64(_) => ValType::I64,
            Value::F32(_) => ValType::F32,
            Value::F64(_) => ValType::F64,
            Value::V128(_) => ValType::V128,
            Value::FuncRef(_) => ValType::FuncRef,
            Value::ExternRef(_) => ValType::ExternRef,
            Value::ExnRef(_) => ValType::ExnRef,
        })
    }

    /// The value that `raw` holds. References are the compiler's: 0 is null, an external one is its number plus 1.
    pub(crate) fn value(self, [low, high]: RawValue) -> Value {
        match self.0 {
            ValType::I32 => Value::I32(low as i32),
            ValType::I64 => Value::I64(low as i64),
            ValType::F32 => Value::F32(low as u32),
            ValType::F64 => Value::F64(low),
            ValType::V128 => Value::V128(u128::from(high) << 64 | u128::from(low)),
            ValType::FuncRef => Value::FuncRef(low != 0),
            ValType::ExternRef => Value::ExternRef(low.checked_sub(1).map(|n| n as u32)),
            ValType::ExnRef => Value::ExnRef(low != 0),
        }
    }
}

/// A value as it lies in the shared memory. `None` for a function or an exception: the host has none to give.
pub(crate) fn raw_value(value: &Value) -> Option<RawValue> {
    let low = match *value {
        Value::I32(v) => u64::from(v as u32),
        Value::I64(v) => v as u64,
        Value::F32(bits) => u64::from(bits),
        Value::F64(bits) => bits,
        Value::V128(bits) => return Some([bits as u64, (bits >> 64) as u64]),
        Value::FuncRef(false) | Value::ExternRef(None) | Value::ExnRef(false) => 0,
        Value::FuncRef(true) | Value::ExnRef(true) => return None,
        Value::ExternRef(Some(n)) => u64::from(n) + 1,
    };
    Some([low, 0])
}
