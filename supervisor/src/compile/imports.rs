//! What a module imports, compared with interfaces before it is compiled.

use std::collections::HashMap;

use compiler::metadata::{Import, ImportItem};
use interface::{Lowered, MISMATCHES_MAX, Mismatch};

use super::wire::Make;
use super::{CompileProgress, Compiler};
use crate::error::Error;
use crate::module::{fits, imported};

/// Longest list of imports that is read, bytes.
const LIST_MAX: usize = 8 << 20;

/// What a module imports, as a compile worker says. It stays in the form in which it came: an import takes many times that once it is read,
/// and a worker that lies must not make more of this process's memory than it has written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportList {
    count: usize,
    /// The imports one after the other, each sound.
    bytes: Vec<u8>,
}

impl ImportList {
    /// Reads what a worker has written. `None`: it makes no sense.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (count, imports) = postcard::take_from_bytes::<usize>(bytes).ok()?;
        let mut rest = imports;
        for _ in 0..count {
            (_, rest) = postcard::take_from_bytes::<Import>(rest).ok()?;
        }
        rest.is_empty().then(|| Self { count, bytes: imports.to_vec() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The imports, each read as it is asked for.
    pub fn iter(&self) -> impl Iterator<Item = Import> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (import, after) = postcard::take_from_bytes(rest).ok()?;
            rest = after;
            Some(import)
        })
    }
}

impl Compiler {
    /// What a module imports beyond WASI, which the host side is to provide.
    pub fn imports(&self, module: &[u8], options: &compiler::Options) -> Result<ImportList, Error> {
        let list = self.make(Make::Imports, module, options, &CompileProgress::default())?.view()?;
        let bytes = list.as_ref();
        if bytes.len() > LIST_MAX {
            return Err(Error::ImportsTooLong { bytes: bytes.len(), max: LIST_MAX });
        }
        ImportList::read(bytes).ok_or_else(|| Error::CompilerCrashed {
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
        let mismatches = mismatches(self.imports(module, options)?.iter(), interfaces);
        match mismatches.is_empty() {
            true => Ok(compiler::Options { open_imports: true, ..*options }),
            false => Err(Error::ImportsRefused { interfaces: names.join(", "), mismatches }),
        }
    }
}

/// The imports that none of the interfaces has as it is declared, the first [`MISMATCHES_MAX`] of them.
pub fn mismatches(imports: impl IntoIterator<Item = Import>, interfaces: &[Lowered]) -> Vec<Mismatch> {
    let by_name: HashMap<&str, &Lowered> =
        interfaces.iter().map(|interface| (interface.interface().name.as_str(), interface)).collect();
    let mismatches = imports.into_iter().filter_map(|import| mismatch(&import, &by_name));
    mismatches.take(MISMATCHES_MAX).collect()
}

fn mismatch(import: &Import, interfaces: &HashMap<&str, &Lowered>) -> Option<Mismatch> {
    let interface = interfaces.get(import.module.as_str());
    if interface.is_some_and(|interface| fits(interface, import)) {
        return None;
    }
    let function = format!("{}.{}", import.module, import.name);
    let kind = match import.item {
        ImportItem::Function { .. } => "a function",
        ImportItem::Global(_) => "a global",
        ImportItem::Memory { .. } => "a memory",
        ImportItem::Table { .. } => "a table",
        ImportItem::Tag(_) => "a tag",
    };
    let Some(interface) = interface else {
        let mut valid: Vec<&str> = interfaces.keys().copied().collect();
        valid.sort_unstable();
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
        assert_eq!(mismatches(vec![import; MISMATCHES_MAX + 1], &[]).len(), MISMATCHES_MAX);
    }

    #[test]
    fn a_list_of_imports_takes_what_was_written_and_no_more() {
        let import =
            |name: &str| Import { module: "m".into(), name: name.into(), item: ImportItem::Global(7) };
        let imports = vec![import("a"), import(""), import("b")];
        let bytes = postcard::to_stdvec(&imports).unwrap();
        let list = ImportList::read(&bytes).unwrap();
        assert_eq!((list.len(), list.is_empty(), list.iter().collect::<Vec<_>>()), (3, false, imports));
        assert!(ImportList::read(&[0]).unwrap().is_empty());
        // As many as there can be in the longest list: each takes four bytes here, and twenty times that once it is read.
        let empty = import("");
        let one = postcard::to_stdvec(&Import { module: String::new(), ..empty }).unwrap();
        let count = (LIST_MAX - 8) / one.len();
        let many = [postcard::to_stdvec(&count).unwrap(), one.repeat(count)].concat();
        let list = ImportList::read(&many).unwrap();
        assert_eq!(list.len(), count);
        assert!(list.bytes.capacity() <= LIST_MAX);
        assert_eq!(list.iter().count(), count);
        // What makes no sense.
        let more = [postcard::to_stdvec(&(count + 1)).unwrap(), one.repeat(count)].concat();
        let fewer = [postcard::to_stdvec(&(count - 1)).unwrap(), one.repeat(count)].concat();
        for wrong in [&[][..], &[1], &[0xff; 40], &bytes[..bytes.len() - 1], &more, &fewer] {
            assert_eq!(ImportList::read(wrong), None);
        }
    }
}
