//! Parsing and validating the sections of a module.

use std::collections::HashMap;

use ipc::interface::FunctionId;
use wasmparser::types::CoreTypeId;
use wasmparser::{
    BinaryReader, CompositeInnerType, DataKind, ElementItems, ElementKind, ExternalKind, HeapType,
    KnownCustom, Name, Parser, Payload, TableInit, TypeRef, UnpackedIndex, ValidPayload, Validator,
};

use super::constant::{self, Constant, Evaluated, Expression};
use super::{Data, Element, Export, ExportKind, Global, GlobalSource, ImportedFunction, Memory, Module};
use super::{NULL_ITEM, SegmentMode, Table, open};
use crate::caps::{self, Cap, NO_ROOM, Raise};
use crate::debug::read::Sections;
use crate::features;
use crate::types::{FuncType, Reference, ValType};
use crate::{Caps, Error};

/// WebAssembly pages that a 32-bit memory can have.
const MEMORY32_PAGES: u64 = 1 << 16;
/// WebAssembly pages that a 64-bit memory has room for.
const MEMORY64_PAGES: u64 = ipc::layout::MEMORY_MAX / ipc::layout::WASM_PAGE;

impl<'a> Module<'a> {
    /// Parses `wasm` and validates everything but function bodies.
    pub fn parse(wasm: &'a [u8], caps: &Caps, open_imports: bool) -> Result<Self, Error> {
        caps.check(Cap::InputBytes, "bytes", wasm.len() as u64)?;
        if !wasm.starts_with(b"\0asm") {
            return Err(Error::NotWasm);
        }
        if Parser::is_component(wasm) {
            return Err(Error::Component);
        }
        let mut module = Module {
            types: Vec::new(),
            signature_ids: Vec::new(),
            never_null: Vec::new(),
            functions: Vec::new(),
            imports: Vec::new(),
            open: Vec::new(),
            expressions: Vec::new(),
            tables: Vec::new(),
            memories: Vec::new(),
            globals: Vec::new(),
            tags: Vec::new(),
            tag_numbers: Vec::new(),
            imported_tags: HashMap::new(),
            exports: Vec::new(),
            start: None,
            elements: Vec::new(),
            data: Vec::new(),
            bodies: Vec::new(),
            names: Vec::new(),
            dwarf: Sections::default(),
            code_start: 0,
        };
        let mut names = None;
        let mut validator = Validator::new_with_features(features::SUPPORTED);
        let explain = |e: wasmparser::Error| features::explain(wasm, &e);
        for payload in features::parser().parse_all(wasm) {
            let payload = payload.map_err(explain)?;
            module.check_counts(&payload, wasm, caps)?;
            if let ValidPayload::Func(function, body) = validator.payload(&payload).map_err(explain)? {
                module.bodies.push((function, body));
            }
            if let Payload::CustomSection(section) = &payload {
                match section.as_known() {
                    KnownCustom::Name(reader) => names = Some(reader),
                    _ => module.dwarf.take(section.name(), section.data()),
                }
            } else {
                let are_types = matches!(payload, Payload::TypeSection(_));
                module.section(payload, caps, open_imports)?;
                if are_types {
                    module.number_signatures(&validator);
                }
            }
        }
        module.defer_segments();
        if let Some(names) = names {
            module.read_names(names);
        }
        Ok(module)
    }

    /// What the caps say about a section, as far as its counts tell, and before the validator looks at it: that has limits of
    /// its own, and names no key.
    fn check_counts(&self, payload: &Payload<'_>, wasm: &[u8], caps: &Caps) -> Result<(), Error> {
        match payload {
            Payload::FunctionSection(reader) => {
                let found = self.functions.len() as u64 + u64::from(reader.count());
                caps.check(Cap::Functions, "functions", found)
            }
            Payload::ElementSection(reader) => {
                caps.check(Cap::ElementSegments, "element segments", reader.count().into())
            }
            Payload::DataCountSection { count, .. } => {
                caps.check(Cap::DataSegments, "data segments", (*count).into())
            }
            Payload::DataSection(reader) => {
                caps.check(Cap::DataSegments, "data segments", reader.count().into())
            }
            Payload::CodeSectionStart { range, .. } => {
                let section = wasm.get(range.clone()).unwrap_or_default();
                body_sizes(section, |bytes| caps.check(Cap::FunctionBytes, "bytes in one function", bytes))
            }
            _ => Ok(()),
        }
    }

    /// Takes over what one section says, which the validator has accepted.
    fn section(&mut self, payload: Payload<'a>, caps: &Caps, open_imports: bool) -> Result<(), Error> {
        let invalid = |e: wasmparser::Error| Error::invalid(&e);
        match payload {
            Payload::TypeSection(reader) => {
                for group in reader {
                    for ty in group.map_err(invalid)?.types() {
                        self.types.push(function_type(&ty.composite_type.inner)?);
                        self.never_null.push(open::returns_never_null(&ty.composite_type.inner));
                    }
                }
            }
            Payload::ImportSection(reader) => {
                for import in reader.into_imports() {
                    let import = import.map_err(invalid)?;
                    self.resolve_import(&import, open_imports)?;
                }
                self.check_sizes(caps)?;
                caps.check(Cap::Functions, "functions", self.functions.len() as u64)?;
            }
            Payload::FunctionSection(reader) => {
                for ty in reader {
                    self.functions.push(ty.map_err(invalid)?);
                }
            }
            Payload::TableSection(reader) => {
                for table in reader {
                    let table = table.map_err(invalid)?;
                    let init = match &table.init {
                        TableInit::RefNull => Constant::Null,
                        TableInit::Expr(expression) => {
                            match constant::evaluate(expression, &self.global_values())? {
                                Evaluated::Constant(init) => init,
                                Evaluated::Deferred(_) => return Err(open::unknown_item()),
                            }
                        }
                    };
                    let table = self.table(&table.ty, init)?;
                    self.tables.push(table);
                }
                self.check_sizes(caps)?;
            }
            Payload::MemorySection(reader) => {
                for memory in reader.into_iter_with_offsets() {
                    let (offset, memory) = memory.map_err(invalid)?;
                    self.memories.push(self::memory(&memory, offset)?);
                }
                self.check_sizes(caps)?;
            }
            Payload::GlobalSection(reader) => {
                let mut values = self.global_values();
                for global in reader {
                    let global = global.map_err(invalid)?;
                    let ty = ValType::of_wasm(global.ty.content_type)
                        .ok_or_else(|| unexpected("a global's type"))?;
                    let source = GlobalSource::from(constant::evaluate(&global.init_expr, &values)?);
                    let reference = self.reference_of(global.ty.content_type);
                    let global = Global { ty, reference, mutable: global.ty.mutable, source };
                    values.push(global.constant());
                    self.globals.push(global);
                }
            }
            Payload::ExportSection(reader) => {
                for export in reader {
                    let export = export.map_err(invalid)?;
                    let kind = match export.kind {
                        ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Function,
                        ExternalKind::Table => ExportKind::Table,
                        ExternalKind::Memory => ExportKind::Memory,
                        ExternalKind::Global => ExportKind::Global,
                        ExternalKind::Tag => ExportKind::Tag,
                    };
                    self.exports.push(Export { name: export.name, kind, index: export.index });
                }
            }
            Payload::TagSection(reader) => {
                for tag in reader {
                    self.tag_numbers.push(self.tags.len() as u32);
                    self.tags.push(tag.map_err(invalid)?.func_type_idx);
                }
            }
            Payload::CodeSectionStart { range, .. } => self.code_start = range.start as u32,
            Payload::StartSection { func, .. } => self.start = Some(func),
            Payload::ElementSection(reader) => {
                let globals = self.global_values();
                let mut items = 0u64;
                for element in reader {
                    let element = element.map_err(invalid)?;
                    items += match &element.items {
                        ElementItems::Functions(reader) => u64::from(reader.count()),
                        ElementItems::Expressions(_, reader) => u64::from(reader.count()),
                    };
                    caps.check(Cap::ElementItems, "items of element segments", items)?;
                    let element = self.parse_element(element, &globals)?;
                    self.elements.push(element);
                }
            }
            Payload::DataSection(reader) => {
                let globals = self.global_values();
                let mut bytes = 0u64;
                for data in reader {
                    let data = data.map_err(invalid)?;
                    bytes += data.data.len() as u64;
                    caps.check(Cap::DataBytes, "bytes of data segments", bytes)?;
                    let mode = match data.kind {
                        DataKind::Passive => SegmentMode::Passive,
                        DataKind::Active { memory_index, offset_expr } => {
                            self.active(memory_index, constant::evaluate(&offset_expr, &globals)?)?
                        }
                    };
                    self.data.push(Data { mode, bytes: data.data });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A table by its type, with these entries at first.
    pub(super) fn table(&self, ty: &wasmparser::TableType, init: Constant) -> Result<Table, Error> {
        let element = ty.element_type;
        Ok(Table {
            ty: ValType::of_ref(element).ok_or_else(|| unexpected("a table type"))?,
            min: ty.initial,
            max: ty.maximum,
            index64: ty.table64,
            init,
            reference: self.reference(element),
            imported: false,
        })
    }

    /// What a type of references says beyond the kind of its values.
    fn reference(&self, ty: wasmparser::RefType) -> Reference {
        let signature = match ty.heap_type() {
            HeapType::Concrete(UnpackedIndex::Module(index)) => {
                self.signature_ids.get(index as usize).copied()
            }
            _ => None,
        };
        Reference { signature, nullable: ty.is_nullable() }
    }

    /// The same for a type of values.
    pub(super) fn reference_of(&self, ty: wasmparser::ValType) -> Reference {
        match ty {
            wasmparser::ValType::Ref(ty) => self.reference(ty),
            _ => Reference::ANY,
        }
    }

    /// What the caps say about tables and memories, so far.
    fn check_sizes(&self, caps: &Caps) -> Result<(), Error> {
        let entries = self.tables.iter().fold(0u64, |sum, t| sum.saturating_add(t.min));
        caps.check(Cap::TableEntries, "initial table entries", entries)?;
        caps::check("memories", self.memories.len() as u64, ipc::layout::MEMORIES_MAX, NO_ROOM)?;
        let pages = self.memories.iter().fold(0u64, |sum, m| sum.saturating_add(m.min));
        caps.check(Cap::MemoryPages, "initial memory pages", pages)
    }

    fn global_values(&self) -> Vec<Option<Constant>> {
        self.globals.iter().map(Global::constant).collect()
    }

    /// Gives equal types the same id, so that a signature check is one comparison. The validator knows which are equal:
    /// types that refer to other types are the same when those are.
    fn number_signatures(&mut self, validator: &Validator) {
        let Some(types) = validator.types(0) else { return };
        let mut ids: HashMap<CoreTypeId, u32> = HashMap::new();
        let number = |index| {
            let next = ids.len() as u32 + 1;
            *ids.entry(types.core_type_at_in_module(index)).or_insert(next)
        };
        self.signature_ids = (0..self.types.len() as u32).map(number).collect();
    }

    /// Finds the host function behind an import and compares the types. With `open_imports` the host side provides the rest.
    fn resolve_import(&mut self, import: &wasmparser::Import<'a>, open_imports: bool) -> Result<(), Error> {
        if open_imports && FunctionId::by_name(import.module, import.name).is_none() {
            return self.open_import(import);
        }
        let (module, name) = (import.module.to_owned(), import.name.to_owned());
        let ty = match import.ty {
            TypeRef::Func(ty) | TypeRef::FuncExact(ty) => ty,
            TypeRef::Table(_) => return Err(Error::ImportKind { module, name, kind: "table" }),
            TypeRef::Memory(_) => return Err(Error::ImportKind { module, name, kind: "memory" }),
            TypeRef::Global(_) => return Err(Error::ImportKind { module, name, kind: "global" }),
            TypeRef::Tag(_) => return Err(Error::ImportKind { module, name, kind: "tag" }),
        };
        let Some(id) = FunctionId::by_name(import.module, import.name) else {
            return Err(Error::UnknownImport { module, name });
        };
        let declaration = id.declaration();
        let host = |types: &[ipc::interface::ValueType]| types.iter().map(|t| ValType::of_host(*t)).collect();
        let expected = FuncType { params: host(declaration.params), results: host(declaration.results) };
        let found = self.types.get(ty as usize).ok_or_else(|| unexpected("an import's type"))?;
        if *found != expected {
            let (expected, found) = (Box::new(expected), Box::new(found.clone()));
            return Err(Error::ImportType { module, name, expected, found });
        }
        self.imports.push(ImportedFunction::Host(id));
        self.functions.push(ty);
        Ok(())
    }

    /// Takes over an element segment.
    fn parse_element(
        &mut self,
        element: wasmparser::Element<'_>,
        globals: &[Option<Constant>],
    ) -> Result<Element, Error> {
        let invalid = |e: wasmparser::Error| Error::invalid(&e);
        let mode = match element.kind {
            ElementKind::Passive => SegmentMode::Passive,
            ElementKind::Declared => SegmentMode::Declared,
            ElementKind::Active { table_index, offset_expr } => {
                self.active(table_index.unwrap_or(0), constant::evaluate(&offset_expr, globals)?)?
            }
        };
        let mut items = Vec::new();
        match element.items {
            ElementItems::Functions(reader) => {
                for item in reader {
                    items.push(item.map_err(invalid)?);
                }
            }
            ElementItems::Expressions(_, reader) => {
                for item in reader {
                    items.push(match constant::evaluate(&item.map_err(invalid)?, globals)? {
                        Evaluated::Constant(Constant::Function(index)) => index,
                        Evaluated::Constant(Constant::Null) => NULL_ITEM,
                        Evaluated::Deferred(_) => return Err(open::unknown_item()),
                        _ => return Err(unexpected("an element segment's item")),
                    });
                }
            }
        }
        Ok(Element { mode, items })
    }

    /// Reads function names. The name section is a hint: what is wrong in it is ignored.
    fn read_names(&mut self, reader: wasmparser::NameSectionReader<'a>) {
        for subsection in reader {
            let Ok(Name::Function(map)) = subsection else { continue };
            for naming in map {
                let Ok(naming) = naming else { break };
                let index = naming.index as usize;
                if index >= self.functions.len() {
                    continue;
                }
                if self.names.is_empty() {
                    self.names = vec![""; self.functions.len()];
                }
                if let Some(name) = self.names.get_mut(index) {
                    *name = naming.name;
                }
            }
        }
    }
}

/// Calls `each` with the size of every function body of a code section. What cannot be read is left to the parser.
fn body_sizes(section: &[u8], mut each: impl FnMut(u64) -> Result<(), Error>) -> Result<(), Error> {
    let mut reader = BinaryReader::new(section, 0);
    let Ok(count) = reader.read_var_u32() else { return Ok(()) };
    for _ in 0..count {
        let Ok(size) = reader.read_var_u32() else { break };
        each(size.into())?;
        if reader.read_bytes(size as usize).is_err() {
            break;
        }
    }
    Ok(())
}

fn function_type(ty: &CompositeInnerType) -> Result<FuncType, Error> {
    let CompositeInnerType::Func(ty) = ty else {
        return Err(unexpected("a type that is not a function type"));
    };
    let convert = |types: &[wasmparser::ValType]| {
        types
            .iter()
            .map(|t| ValType::of_wasm(*t))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| unexpected("a value type"))
    };
    Ok(FuncType { params: convert(ty.params())?, results: convert(ty.results())? })
}

/// A memory by its type.
pub(super) fn memory(ty: &wasmparser::MemoryType, offset: usize) -> Result<Memory, Error> {
    if ty.shared {
        return Err(unsupported("shared memory (threads)", offset));
    }
    let room = if ty.memory64 { MEMORY64_PAGES } else { MEMORY32_PAGES };
    let raise = if ty.memory64 { NO_ROOM } else { Raise::Fixed("32-bit addresses reach no further") };
    caps::check("initial pages of one memory", ty.initial, room, raise)?;
    let max = ty.maximum.unwrap_or(room).min(room);
    Ok(Memory { min: ty.initial, max, index64: ty.memory64, imported: false })
}

/// The expression of a known offset.
pub(super) fn offset_expression(offset: u64, index64: bool) -> Expression {
    vec![if index64 {
        wasmparser::Operator::I64Const { value: offset as i64 }
    } else {
        wasmparser::Operator::I32Const { value: offset as u32 as i32 }
    }]
}

/// A segment's offset, which validation says is an integer.
pub(super) fn offset(value: Constant) -> Result<u64, Error> {
    match value {
        Constant::I32(offset) => Ok(offset.into()),
        Constant::I64(offset) => Ok(offset),
        _ => Err(unexpected("a segment's offset")),
    }
}

/// A part of a supported proposal that is not compiled.
pub(super) fn unsupported(feature: &str, offset: usize) -> Error {
    Error::UnsupportedFeature {
        feature: feature.to_owned(),
        detail: format!("the module uses {feature}"),
        offset,
    }
}

/// Something that the validator should have rejected: an error rather than a panic if the two ever disagree.
pub(super) fn unexpected(what: &str) -> Error {
    Error::Invalid { message: format!("{what} belongs to a feature that is not supported"), offset: 0 }
}
