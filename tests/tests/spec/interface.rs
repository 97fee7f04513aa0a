//! What the binary form of a module says about itself, as far as linking it with other instances needs it.

use wasmparser::{DataKind, ElementKind, Parser, Payload, TypeRef};

/// A module's imports, and what else an artifact does not tell.
#[derive(Default)]
pub struct Interface {
    pub imports: Vec<Import>,
    /// Declared maxima of its memories.
    pub memory_max: Vec<Option<u64>>,
    /// Declared maxima of its tables.
    pub table_max: Vec<Option<u64>>,
    /// Whether it has something of its own that a call can change.
    pub has_state: bool,
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
                        TypeRef::Global(global) => global.mutable,
                        TypeRef::Memory(memory) => {
                            self.memory_max.push(memory.maximum);
                            self.imported_memories += 1;
                            true
                        }
                        TypeRef::Table(table) => {
                            self.table_max.push(table.maximum);
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
                    self.has_state = true;
                }
            }
            Payload::MemorySection(reader) => {
                for memory in reader {
                    self.memory_max.push(memory?.maximum);
                    self.has_state = true;
                }
            }
            Payload::GlobalSection(reader) => {
                for global in reader {
                    self.has_state |= global?.ty.mutable;
                }
            }
            Payload::StartSection { .. } => self.acts_at_start = true,
            // Passive segments are state, too: they can be dropped.
            Payload::ElementSection(reader) => {
                for element in reader {
                    match element?.kind {
                        ElementKind::Active { table_index, .. } => {
                            self.acts_at_start |= table_index.unwrap_or(0) < self.imported_tables;
                        }
                        ElementKind::Passive | ElementKind::Declared => self.has_state = true,
                    }
                }
            }
            Payload::DataSection(reader) => {
                for data in reader {
                    match data?.kind {
                        DataKind::Active { memory_index, .. } => {
                            self.acts_at_start |= memory_index < self.imported_memories;
                        }
                        DataKind::Passive => self.has_state = true,
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
