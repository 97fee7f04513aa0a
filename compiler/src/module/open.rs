//! Imports that the host side provides for each instance, and what of an instance's start has to wait for them.

use wasmparser::{CompositeInnerType, TypeRef};

use super::constant::{Constant, Evaluated, Expression};
use super::parse::{self, unexpected, unsupported};
use super::{Global, ImportedFunction, Memory, Module, SegmentMode, Table};
use crate::Error;
use crate::types::ValType;

/// An import that no host function of the interface table answers to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenImport<'a> {
    pub module: &'a str,
    pub name: &'a str,
    pub item: OpenItem,
}

/// What is imported, by its index among its like. Sizes are as declared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OpenItem {
    Function(u32),
    Global(u32),
    Memory { index: u32, max: Option<u64> },
    Table { index: u32, max: Option<u64> },
    Tag(u32),
}

/// Where a global's first value comes from.
#[derive(Clone, Debug)]
pub(crate) enum GlobalSource {
    /// It is known.
    Constant(Constant),
    /// The host side.
    Import,
    /// From other globals, when the module is instantiated.
    Expression(Expression),
}

impl From<Evaluated> for GlobalSource {
    fn from(evaluated: Evaluated) -> Self {
        match evaluated {
            Evaluated::Constant(constant) => GlobalSource::Constant(constant),
            Evaluated::Deferred(expression) => GlobalSource::Expression(expression),
        }
    }
}

impl Global {
    /// Its first value, where that is known.
    pub fn constant(&self) -> Option<Constant> {
        match (&self.source, self.ty) {
            (GlobalSource::Constant(constant), _) => Some(*constant),
            // The host side has no function and no exception to give.
            (_, ValType::FuncRef | ValType::ExnRef) if !self.mutable => Some(Constant::Null),
            _ => None,
        }
    }
}

impl<'a> Module<'a> {
    /// Takes an import over, to be provided when an instance starts.
    pub(super) fn open_import(&mut self, import: &wasmparser::Import<'a>) -> Result<(), Error> {
        let item = match import.ty {
            TypeRef::Func(ty) | TypeRef::FuncExact(ty) => {
                if self.never_null.get(ty as usize).copied().unwrap_or(true) {
                    return Err(never_null("results of imported functions"));
                }
                self.imports.push(ImportedFunction::Open(self.open.len() as u32));
                self.functions.push(ty);
                OpenItem::Function(self.functions.len() as u32 - 1)
            }
            TypeRef::Global(global) => {
                if is_never_null(global.content_type) {
                    return Err(never_null("imported globals"));
                }
                let ty =
                    ValType::of_wasm(global.content_type).ok_or_else(|| unexpected("a global's type"))?;
                let reference = self.reference_of(global.content_type);
                self.globals.push(Global {
                    ty,
                    reference,
                    mutable: global.mutable,
                    source: GlobalSource::Import,
                });
                OpenItem::Global(self.globals.len() as u32 - 1)
            }
            TypeRef::Memory(memory) => {
                self.memories.push(Memory { imported: true, ..parse::memory(&memory, 0)? });
                OpenItem::Memory { index: self.memories.len() as u32 - 1, max: memory.maximum }
            }
            TypeRef::Table(table) => {
                if !table.element_type.is_nullable() {
                    return Err(never_null("imported tables"));
                }
                self.tables.push(Table { imported: true, ..self.table(&table, Constant::Null)? });
                OpenItem::Table { index: self.tables.len() as u32 - 1, max: table.maximum }
            }
            TypeRef::Tag(tag) => {
                // What is imported twice is one tag. Of two types it cannot be, and nothing is provided for it.
                let index = self.tags.len() as u32;
                let first = *self.imported_tags.entry((import.module, import.name)).or_insert(index);
                self.tags.push(tag.func_type_idx);
                let is_same = self.tag_signature(first) == self.tag_signature(index);
                self.tag_numbers.push(if is_same { first } else { index });
                OpenItem::Tag(self.tags.len() as u32 - 1)
            }
        };
        self.open.push(OpenImport { module: import.module, name: import.name, item });
        Ok(())
    }

    /// The place of an active segment's offset: itself, or that of an expression.
    pub(super) fn active(&mut self, index: u32, offset: Evaluated) -> Result<SegmentMode, Error> {
        Ok(match offset {
            Evaluated::Constant(offset) => SegmentMode::Active { index, offset: parse::offset(offset)? },
            Evaluated::Deferred(expression) => {
                self.expressions.push(expression);
                SegmentMode::Deferred { index, offset: self.expressions.len() as u32 - 1 }
            }
        })
    }

    /// Leaves to the instance's start every active segment from the first on that may or may not fit, as only the start
    /// knows: its offset depends on an imported global, or it reaches beyond the declared size of an imported table or
    /// memory. Later ones wait with it, so that all take effect in order, up to the first that does not fit.
    pub(super) fn defer_segments(&mut self) {
        let tables: Vec<Option<u64>> = self.tables.iter().map(|t| t.imported.then_some(t.min)).collect();
        let memories: Vec<Option<u64>> =
            self.memories.iter().map(|m| m.imported.then_some(m.min * ipc::layout::WASM_PAGE)).collect();
        let waits = |mode: SegmentMode, length: usize, sizes: &[Option<u64>]| match mode {
            SegmentMode::Deferred { .. } => true,
            SegmentMode::Active { index, offset } => sizes
                .get(index as usize)
                .copied()
                .flatten()
                .is_some_and(|size| offset.saturating_add(length as u64) > size),
            SegmentMode::Passive | SegmentMode::Declared => false,
        };
        let element = self.elements.iter().position(|e| waits(e.mode, e.items.len(), &tables));
        let data = match element {
            Some(_) => Some(0),
            None => self.data.iter().position(|d| waits(d.mode, d.bytes.len(), &memories)),
        };
        let expressions = &mut self.expressions;
        let mut defer = |mode: &mut SegmentMode, wide: &[bool]| {
            if let SegmentMode::Active { index, offset } = *mode {
                let index64 = wide.get(index as usize).copied().unwrap_or(false);
                expressions.push(parse::offset_expression(offset, index64));
                *mode = SegmentMode::Deferred { index, offset: expressions.len() as u32 - 1 };
            }
        };
        let elements = self.elements.iter_mut().skip(element.unwrap_or(usize::MAX));
        let wide: Vec<bool> = self.tables.iter().map(|table| table.index64).collect();
        elements.for_each(|element| defer(&mut element.mode, &wide));
        let data = self.data.iter_mut().skip(data.unwrap_or(usize::MAX));
        let wide: Vec<bool> = self.memories.iter().map(|memory| memory.index64).collect();
        data.for_each(|data| defer(&mut data.mode, &wide));
    }

    /// Whether an instance's start has anything to do before the module's own start function.
    pub fn needs_instantiation(&self) -> bool {
        let waits = |mode: &SegmentMode| matches!(mode, SegmentMode::Deferred { .. });
        self.globals.iter().any(|global| matches!(global.source, GlobalSource::Expression(_)))
            || self.elements.iter().any(|element| waits(&element.mode))
            || self.data.iter().any(|data| waits(&data.mode))
    }
}

/// The host side has references to give only if they are null or external, and does not look closer at types.
fn never_null(of: &str) -> Error {
    unsupported(&format!("references that are never null as {of}"), 0)
}

fn is_never_null(ty: wasmparser::ValType) -> bool {
    matches!(ty, wasmparser::ValType::Ref(reference) if !reference.is_nullable())
}

/// Whether a function of this type returns references that are never null.
pub(super) fn returns_never_null(ty: &CompositeInnerType) -> bool {
    matches!(ty, CompositeInnerType::Func(ty) if ty.results().iter().copied().any(is_never_null))
}

/// An element segment's item that only an instance knows.
pub(super) fn unknown_item() -> Error {
    unsupported("imported references to host values in element segments", 0)
}
