//! A parsed and validated module, without its function bodies' meaning.
//!
//! Parsing validates every section. Function bodies are validated where they are translated, by the same thread, so
//! that each is read once.

mod constant;
mod open;
mod parse;

use std::borrow::Cow;
use std::collections::HashMap;

use ipc::interface::FunctionId;
use wasmparser::{FuncToValidate, FunctionBody, ValidatorResources};

pub(crate) use constant::{Constant, Expression};
pub(crate) use open::{GlobalSource, OpenImport, OpenItem};

use crate::debug;
use crate::types::{FuncType, Reference, ValType};

/// Stands for the null reference among the items of an element segment.
pub(crate) const NULL_ITEM: u32 = u32::MAX;

/// A module, ready to be laid out and translated.
pub(crate) struct Module<'a> {
    /// Function types by type index.
    pub types: Vec<FuncType>,
    /// Type index → whether a function of this type returns references that are never null.
    pub never_null: Vec<bool>,
    /// Type index → signature id: equal for structurally equal types, from 1.
    pub signature_ids: Vec<u32>,
    /// Function index → type index; imported functions come first.
    pub functions: Vec<u32>,
    /// What is behind each imported function.
    pub imports: Vec<ImportedFunction>,
    /// What the host side provides for each instance, in the module's order.
    pub open: Vec<OpenImport<'a>>,
    /// Expressions that only an instance can evaluate, see [`SegmentMode::Deferred`].
    pub expressions: Vec<Expression>,
    pub tables: Vec<Table>,
    pub memories: Vec<Memory>,
    pub globals: Vec<Global>,
    /// Tag index → type index; its parameters are what an exception carries.
    pub tags: Vec<u32>,
    /// Tag index → the number that stands for it in exceptions: its own index, or that of an earlier import of the same.
    pub tag_numbers: Vec<u32>,
    /// The first import of a tag by each name.
    pub imported_tags: HashMap<(&'a str, &'a str), u32>,
    pub exports: Vec<Export<'a>>,
    pub start: Option<u32>,
    pub elements: Vec<Element>,
    pub data: Vec<Data<'a>>,
    /// Bodies of the functions that are not imported, in order.
    pub bodies: Vec<Body<'a>>,
    /// Function names from the name section, by function index; empty where there is none.
    pub names: Vec<&'a str>,
    /// Sections of DWARF.
    pub dwarf: debug::read::Sections<'a>,
    /// Byte offset of the contents of the code section, from which DWARF counts.
    pub code_start: u32,
}

/// A function that is still to be validated and translated.
pub(crate) type Body<'a> = (FuncToValidate<ValidatorResources>, FunctionBody<'a>);

/// What answers the calls of an imported function.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ImportedFunction {
    /// A function of the interface table.
    Host(FunctionId),
    /// The open import with this number.
    Open(u32),
}

/// A linear memory. Sizes are in WebAssembly pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub min: u64,
    /// The declared maximum, or what there is room for.
    pub max: u64,
    /// Indices have 64 bits.
    pub index64: bool,
    /// The host side may provide a larger one.
    pub imported: bool,
}

/// A table. Sizes are in entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub ty: ValType,
    pub min: u64,
    /// The declared maximum.
    pub max: Option<u64>,
    /// Indices have 64 bits.
    pub index64: bool,
    /// What every entry is at first.
    pub init: Constant,
    /// What every entry is.
    pub reference: Reference,
    /// The host side may provide a larger one.
    pub imported: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Global {
    pub ty: ValType,
    /// What its value is, if it is a reference.
    pub reference: Reference,
    pub mutable: bool,
    pub source: GlobalSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExportKind {
    Function,
    Table,
    Memory,
    Global,
    Tag,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Export<'a> {
    pub name: &'a str,
    pub kind: ExportKind,
    pub index: u32,
}

/// When a segment is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentMode {
    /// By an instruction.
    Passive,
    /// At instantiation, to this table or memory at this offset.
    Active { index: u32, offset: u64 },
    /// At instantiation likewise, by code that does it: the offset is that of the module's expressions with this number.
    Deferred { index: u32, offset: u32 },
    /// Never; it only declares that references to its functions are taken.
    Declared,
}

#[derive(Clone, Debug)]
pub(crate) struct Element {
    pub mode: SegmentMode,
    /// Function indices, or [`NULL_ITEM`].
    pub items: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Data<'a> {
    pub mode: SegmentMode,
    pub bytes: &'a [u8],
}

impl Module<'_> {
    /// The type of a function; `None` for an index that validation would have rejected.
    pub fn function_type(&self, function: u32) -> Option<&FuncType> {
        let ty = *self.functions.get(function as usize)?;
        self.types.get(ty as usize)
    }

    /// What exceptions with this tag carry; `None` for an index that validation would have rejected.
    pub fn tag_type(&self, tag: u32) -> Option<&FuncType> {
        let ty = *self.tags.get(tag as usize)?;
        self.types.get(ty as usize)
    }

    /// The signature id of what exceptions with this tag carry.
    pub fn tag_signature(&self, tag: u32) -> Option<u32> {
        let ty = *self.tags.get(tag as usize)?;
        self.signature_ids.get(ty as usize).copied()
    }

    /// The function's name for people: from the name section, else what the import is called, else its index.
    pub fn function_name(&self, function: u32) -> Cow<'_, str> {
        if let Some(name) = self.names.get(function as usize).filter(|name| !name.is_empty()) {
            return Cow::Borrowed(name);
        }
        match self.imports.get(function as usize) {
            Some(ImportedFunction::Host(id)) => Cow::Borrowed(id.declaration().name),
            Some(ImportedFunction::Open(number)) => {
                Cow::Borrowed(self.open.get(*number as usize).map_or("", |import| import.name))
            }
            None => Cow::Owned(format!("wasm-function[{function}]")),
        }
    }
}
