//! What the binary form of a module says about itself, as far as linking it with other instances needs it.

use wasmparser::{
    AbstractHeapType, DataKind, ElementKind, ExternalKind, HeapType, Operator, Parser, Payload, RefType,
    TypeRef, ValType,
};

/// A module's imports, and what else an artifact does not tell.
#[derive(Default)]
pub struct Interface {
    pub imports: Vec<Import>,
    /// Declared maxima of its memories.
    pub memory_max: Vec<Option<u64>>,
    /// Declared maxima of its tables.
    pub table_max: Vec<Option<u64>>,
    /// Whether it has something of its own that calls can change. May be so where it is not.
    pub has_state: bool,
    /// Whether anybody can tell if what it imports is shared or its own.
    pub can_tell: bool,
    /// Whether it imports globals or tables of references to functions.
    pub imports_function_references: bool,
    /// Whether its instantiation runs code, or writes to what it imports.
    pub acts_at_start: bool,
    imported_memories: u32,
    imported_tables: u32,
}

pub struct Import {
    pub module: String,
    pub name: String,
    /// Whether having it is a way to change the state of the instance that it comes from.
    pub reaches: bool,
}

impl Interface {
    /// Reads a module; what does not parse is left out, as such a module is refused anyway.
    pub fn read(wasm: &[u8]) -> Self {
        let mut interface = Self::default();
        // An error ends it.
        let _ = Parser::new(0)
            .parse_all(wasm)
            .try_for_each(|payload| payload.and_then(|payload| interface.section(payload)));
        interface
    }

    fn section(&mut self, payload: Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::ImportSection(reader) => {
                for import in reader.into_imports() {
                    let import = import?;
                    let reaches = match import.ty {
                        TypeRef::Func(_) | TypeRef::FuncExact(_) => true,
                        TypeRef::Tag(_) => false,
                        TypeRef::Global(global) => {
                            if let ValType::Ref(reference) = global.content_type {
                                self.imports_function_references |= is_of_functions(reference);
                            }
                            global.mutable
                        }
                        TypeRef::Memory(memory) => {
                            self.memory_max.push(memory.maximum);
                            self.imported_memories += 1;
                            true
                        }
                        TypeRef::Table(table) => {
                            self.table_max.push(table.maximum);
                            self.imports_function_references |= is_of_functions(table.element_type);
                            self.imported_tables += 1;
                            true
                        }
                    };
                    let (module, name) = (import.module.to_owned(), import.name.to_owned());
                    self.imports.push(Import { module, name, reaches });
                }
            }
            Payload::TableSection(reader) => {
                for table in reader {
                    self.table_max.push(table?.ty.maximum);
                }
            }
            Payload::MemorySection(reader) => {
                for memory in reader {
                    self.memory_max.push(memory?.maximum);
                    self.has_state = true;
                }
            }
            // Who imports a mutable global or a table can change it.
            Payload::ExportSection(reader) => {
                for export in reader {
                    self.can_tell = true;
                    self.has_state |= matches!(export?.kind, ExternalKind::Global | ExternalKind::Table);
                }
            }
            Payload::CodeSectionEntry(body) => {
                self.can_tell = true;
                let mut operators = body.get_operators_reader()?;
                while !operators.eof() {
                    self.has_state |= changes(&operators.read()?);
                }
            }
            Payload::StartSection { .. } => (self.acts_at_start, self.can_tell) = (true, true),
            Payload::ElementSection(reader) => {
                for element in reader {
                    match element?.kind {
                        ElementKind::Active { table_index, .. } => {
                            let imported = table_index.unwrap_or(0) < self.imported_tables;
                            self.acts_at_start |= imported;
                            self.can_tell |= imported;
                        }
                        ElementKind::Passive | ElementKind::Declared => {}
                    }
                }
            }
            Payload::DataSection(reader) => {
                for data in reader {
                    match data?.kind {
                        DataKind::Active { memory_index, .. } => {
                            let imported = memory_index < self.imported_memories;
                            self.acts_at_start |= imported;
                            self.can_tell |= imported;
                        }
                        DataKind::Passive => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether an operator changes a global, a table or a passive segment. Whoever has a memory counts as changing it.
fn changes(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::GlobalSet { .. }
            | Operator::TableSet { .. }
            | Operator::TableGrow { .. }
            | Operator::TableFill { .. }
            | Operator::TableCopy { .. }
            | Operator::TableInit { .. }
            | Operator::ElemDrop { .. }
            | Operator::DataDrop { .. }
    )
}

/// Whether a reference is to functions of any or of one type.
fn is_of_functions(reference: RefType) -> bool {
    match reference.heap_type() {
        HeapType::Abstract { ty, .. } => matches!(ty, AbstractHeapType::Func | AbstractHeapType::NoFunc),
        _ => true,
    }
}
