//! What a module imports, compared with interfaces before it is compiled.

use compiler::metadata::{Import, ImportItem};
use interface::{Lowered, MISMATCHES_MAX, Mismatch};

use super::wire::Make;
use super::{CompileProgress, Compiler};
use crate::error::Error;
use crate::module::imported;

/// Longest list of imports that is read, bytes. It bounds what a worker that lies can make of this process's memory.
const LIST_MAX: usize = 8 << 20;

impl Compiler {
    /// What a module imports beyond WASI, which the host side is to provide.
    pub fn imports(&self, module: &[u8], options: &compiler::Options) -> Result<Vec<Import>, Error> {
        let list = self.make(Make::Imports, module, options, &CompileProgress::default())?.view()?;
        let bytes = list.as_ref();
        if bytes.len() > LIST_MAX {
            return Err(Error::ImportsTooLong { bytes: bytes.len(), max: LIST_MAX });
        }
        postcard::from_bytes(bytes).map_err(|_| Error::CompilerCrashed {
            what: String::from("gave no list of imports that makes sense"),
        })
    }

    /// Options to compile a module with that may import what these interfaces have and WASI, and nothing else.
    ///
    /// # Errors
    /// [`Error::ImportsRefused`] lists other imports, the first [`MISMATCHES_MAX`] of them. Two of the interfaces have the same name.
    pub fn options_for(
        &self,
        interfaces: &[Lowered],
        module: &[u8],
        options: &compiler::Options,
    ) -> Result<compiler::Options, Error> {
        let names: Vec<&str> =
            interfaces.iter().map(|interface| interface.interface().name.as_str()).collect();
        for (index, name) in names.iter().enumerate() {
            if names.iter().skip(index + 1).any(|other| other == name) {
                return Err(Error::SameInterface { name: (*name).to_owned() });
            }
        }
        let mismatches = mismatches(&self.imports(module, options)?, interfaces);
        match mismatches.is_empty() {
            true => Ok(compiler::Options { open_imports: true, ..*options }),
            false => Err(Error::ImportsRefused { interfaces: names.join(", "), mismatches }),
        }
    }
}

/// The imports that none of the interfaces has as it is declared, the first [`MISMATCHES_MAX`] of them.
pub fn mismatches(imports: &[Import], interfaces: &[Lowered]) -> Vec<Mismatch> {
    imports.iter().flat_map(|import| mismatch(import, interfaces)).take(MISMATCHES_MAX).collect()
}

fn mismatch(import: &Import, interfaces: &[Lowered]) -> Option<Mismatch> {
    let function = format!("{}.{}", import.module, import.name);
    let kind = match import.item {
        ImportItem::Function { .. } => "a function",
        ImportItem::Global(_) => "a global",
        ImportItem::Memory { .. } => "a memory",
        ImportItem::Table { .. } => "a table",
        ImportItem::Tag(_) => "a tag",
    };
    let Some(interface) = interfaces.iter().find(|interface| interface.interface().name == import.module)
    else {
        let valid = interfaces.iter().map(|interface| interface.interface().name.as_str());
        let hint = policies::document::nearest(&import.module, valid);
        let expected = format!("nothing named \"{}\" ({hint})", import.module);
        return Some(Mismatch { function, expected, found: kind.to_owned() });
    };
    match imported(import) {
        Some(imported) => interface.check([&imported]).pop(),
        None => Some(Mismatch { function, expected: "functions only".to_owned(), found: kind.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_imports_that_no_interface_has_cost_no_more_than_some() {
        let import = Import { module: "m".into(), name: "n".into(), item: ImportItem::Global(0) };
        assert_eq!(mismatches(&vec![import; MISMATCHES_MAX + 1], &[]).len(), MISMATCHES_MAX);
    }
}
