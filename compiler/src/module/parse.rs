//! Parsing and validating the sections of a module.

use std::collections::HashMap;

use ipc::interface::FunctionId;
use wasmparser::types::CoreTypeId;
use wasmparser::{
    CompositeInnerType, DataKind, ElementItems, ElementKind, ExternalKind, HeapType, KnownCustom, Name,
    Parser, Payload, TableInit, TypeRef, UnpackedIndex, ValidPayload, Validator,
};

use super::constant::{self, Constant};
use super::{Data, Element, Export, ExportKind, Global, Memory, Module, NULL_ITEM, SegmentMode, Table};
use crate::debug::read::Sections;
use crate::error::check_cap;
use crate::features;
use crate::types::{FuncType, ValType};
use crate::{Caps, Error};

/// WebAssembly pages that a 32-bit memory can have.
const MEMORY32_PAGES: u64 = 1 << 16;
/// WebAssembly pages that a 64-bit memory has room for.
const MEMORY64_PAGES: u64 = ipc::layout::MEMORY_MAX / ipc::layout::WASM_PAGE;

impl<'a> Module<'a> {
    /// Parses `wasm` and validates everything but function bodies.
    pub fn parse(wasm: &'a [u8], caps: &Caps) -> Result<Self, Error> {
        check_cap("bytes", wasm.len() as u64, caps.input_bytes)?;
        if !wasm.starts_with(b"\0asm") {
            return Err(Error::NotWasm);
        }
        if Parser::is_component(wasm) {
            return Err(Error::Component);
        }
        let mut module = Module {
            types: Vec::new(),
            signature_ids: Vec::new(),
            functions: Vec::new(),
            imports: Vec::new(),
            tables: Vec::new(),
            memories: Vec::new(),
            globals: Vec::new(),
            tags: Vec::new(),
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
                module.section(payload, caps)?;
                if are_types {
                    module.number_signatures(&validator);
                }
            }
        }
        if let Some(names) = names {
            module.read_names(names);
        }
        Ok(module)
    }

    /// Takes over what one section says, which the validator has accepted.
    fn section(&mut self, payload: Payload<'a>, caps: &Caps) -> Result<(), Error> {
        let invalid = |e: wasmparser::Error| Error::invalid(&e);
        match payload {
            Payload::TypeSection(reader) => {
                for group in reader {
                    for ty in group.map_err(invalid)?.types() {
                        self.types.push(function_type(&ty.composite_type.inner)?);
                    }
                }
            }
            Payload::ImportSection(reader) => {
                for import in reader.into_imports() {
                    let import = import.map_err(invalid)?;
                    self.resolve_import(&import)?;
                }
                check_cap("functions", self.functions.len() as u64, caps.functions)?;
            }
            Payload::FunctionSection(reader) => {
                check_cap(
                    "functions",
                    self.functions.len() as u64 + u64::from(reader.count()),
                    caps.functions,
                )?;
                for ty in reader {
                    self.functions.push(ty.map_err(invalid)?);
                }
            }
            Payload::TableSection(reader) => {
                for table in reader {
                    let table = self.table(&table.map_err(invalid)?)?;
                    self.tables.push(table);
                }
                let entries = self.tables.iter().fold(0u64, |sum, t| sum.saturating_add(t.min));
                check_cap("initial table entries", entries, caps.table_entries)?;
            }
            Payload::MemorySection(reader) => {
                for memory in reader.into_iter_with_offsets() {
                    let (offset, memory) = memory.map_err(invalid)?;
                    if memory.shared {
                        return Err(unsupported("shared memory (threads)", offset));
                    }
                    let room = if memory.memory64 { MEMORY64_PAGES } else { MEMORY32_PAGES };
                    check_cap("initial pages of one memory", memory.initial, room)?;
                    let max = memory.maximum.unwrap_or(room).min(room);
                    self.memories.push(Memory { min: memory.initial, max, index64: memory.memory64 });
                }
                check_cap("memories", self.memories.len() as u64, ipc::layout::MEMORIES_MAX)?;
                let pages = self.memories.iter().fold(0u64, |sum, m| sum.saturating_add(m.min));
                check_cap("initial memory pages", pages, caps.memory_pages)?;
            }
            Payload::GlobalSection(reader) => {
                let mut values = Vec::new();
                for global in reader {
                    let global = global.map_err(invalid)?;
                    let ty = ValType::of_wasm(global.ty.content_type)
                        .ok_or_else(|| unexpected("a global's type"))?;
                    let init = constant::evaluate(&global.init_expr, &values)?;
                    values.push(init);
                    self.globals.push(Global { ty, mutable: global.ty.mutable, init });
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
                    self.tags.push(tag.map_err(invalid)?.func_type_idx);
                }
            }
            Payload::CodeSectionStart { range, .. } => self.code_start = range.start as u32,
            Payload::StartSection { func, .. } => self.start = Some(func),
            Payload::ElementSection(reader) => {
                let globals = self.global_values();
                for element in reader {
                    let element = parse_element(element.map_err(invalid)?, &globals)?;
                    self.elements.push(element);
                }
            }
            Payload::DataSection(reader) => {
                let globals = self.global_values();
                for data in reader {
                    let data = data.map_err(invalid)?;
                    let mode = match data.kind {
                        DataKind::Passive => SegmentMode::Passive,
                        DataKind::Active { memory_index, offset_expr } => SegmentMode::Active {
                            index: memory_index,
                            offset: offset(constant::evaluate(&offset_expr, &globals)?)?,
                        },
                    };
                    self.data.push(Data { mode, bytes: data.data });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn table(&self, table: &wasmparser::Table<'_>) -> Result<Table, Error> {
        let element = table.ty.element_type;
        let init = match &table.init {
            TableInit::RefNull => Constant::Null,
            TableInit::Expr(expression) => constant::evaluate(expression, &self.global_values())?,
        };
        let signature = match element.heap_type() {
            HeapType::Concrete(UnpackedIndex::Module(index)) => {
                self.signature_ids.get(index as usize).copied()
            }
            _ => None,
        };
        Ok(Table {
            ty: ValType::of_ref(element).ok_or_else(|| unexpected("a table type"))?,
            min: table.ty.initial,
            max: table.ty.maximum,
            index64: table.ty.table64,
            init,
            signature,
            nullable: element.is_nullable(),
        })
    }

    fn global_values(&self) -> Vec<Constant> {
        self.globals.iter().map(|global| global.init).collect()
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

    /// Finds the host function behind an import and compares the types.
    fn resolve_import(&mut self, import: &wasmparser::Import<'_>) -> Result<(), Error> {
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
        self.imports.push(id);
        self.functions.push(ty);
        Ok(())
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

fn parse_element(element: wasmparser::Element<'_>, globals: &[Constant]) -> Result<Element, Error> {
    let invalid = |e: wasmparser::Error| Error::invalid(&e);
    let mode = match element.kind {
        ElementKind::Passive => SegmentMode::Passive,
        ElementKind::Declared => SegmentMode::Declared,
        ElementKind::Active { table_index, offset_expr } => SegmentMode::Active {
            index: table_index.unwrap_or(0),
            offset: offset(constant::evaluate(&offset_expr, globals)?)?,
        },
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
                    Constant::Function(index) => index,
                    Constant::Null => NULL_ITEM,
                    _ => return Err(unexpected("an element segment's item")),
                });
            }
        }
    }
    Ok(Element { mode, items })
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

/// A segment's offset, which validation says is an integer.
fn offset(value: Constant) -> Result<u64, Error> {
    match value {
        Constant::I32(offset) => Ok(offset.into()),
        Constant::I64(offset) => Ok(offset),
        _ => Err(unexpected("a segment's offset")),
    }
}

/// A part of a supported proposal that is not compiled.
fn unsupported(feature: &str, offset: usize) -> Error {
    Error::UnsupportedFeature {
        feature: feature.to_owned(),
        detail: format!("the module uses {feature}"),
        offset,
    }
}

/// Something that the validator should have rejected: an error rather than a panic if the two ever disagree.
fn unexpected(what: &str) -> Error {
    Error::Invalid { message: format!("{what} belongs to a feature that is not supported"), offset: 0 }
}
