//! A module's imports compared with an interface.

use std::fmt;

use crate::lower::{Lowered, WasmType};

/// A function that a module imports. Types are as WebAssembly writes them, so that they can be any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Module name.
    pub module: String,
    /// Field name.
    pub name: String,
    /// Parameter types.
    pub params: Vec<String>,
    /// Result types.
    pub results: Vec<String>,
}

/// Mismatches that are told at most. A module of a stranger's can have a million of them, and each is compared with all that there is.
pub const MISMATCHES_MAX: usize = 32;

/// An import that the interface does not have, or not with this signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// `interface.function`.
    pub function: String,
    /// The interface's signature; what it has that is close, if it has no such function.
    pub expected: String,
    /// The module's signature.
    pub found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, expected, found } = self;
        write!(f, "{function}: the module imports {found}, the interface has {expected}")
    }
}

fn signature<T: fmt::Display>(params: &[T], results: &[T]) -> String {
    let list = |types: &[T]| types.iter().map(T::to_string).collect::<Vec<_>>().join(" ");
    format!("({}) -> ({})", list(params), list(results))
}

impl Lowered {
    /// The imports of this interface that do not fit it, the first [`MISMATCHES_MAX`] of them. Imports of other modules are not looked at.
    pub fn check<'m>(&self, imports: impl IntoIterator<Item = &'m Imported>) -> Vec<Mismatch> {
        let own = imports.into_iter().filter(|import| import.module == self.interface().name);
        own.filter_map(|import| {
            let names = |types: &[WasmType]| types.iter().map(WasmType::to_string).collect::<Vec<_>>();
            let expected = match self.function(&import.name) {
                Some(f) if names(f.params()) == import.params && names(f.results()) == import.results => {
                    return None;
                }
                Some(f) => signature(f.params(), f.results()),
                None => {
                    let valid = self.interface().functions.iter().map(|f| f.name.as_str());
                    format!("no such function ({})", policies::document::nearest(&import.name, valid))
                }
            };
            Some(Mismatch {
                function: format!("{}.{}", import.module, import.name),
                expected,
                found: signature(&import.params, &import.results),
            })
        })
        .take(MISMATCHES_MAX)
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Interface;

    #[test]
    fn functions_are_found_by_name_wherever_they_are() {
        let functions = ["mid", "zed", "ab", "a", "b", "last"];
        let tables = functions.map(|name| format!("[[function]]\nname = \"{name}\"\n"));
        let text = format!("interface = \"i\"\n{}", tables.concat());
        let lowered = Interface::parse(&text, "i.toml").expect("sound");
        for (position, name) in functions.iter().enumerate() {
            assert_eq!(lowered.position(name), Some(position));
            assert_eq!(lowered.function(name).map(|f| f.name().to_owned()), Some(format!("i.{name}")));
        }
        for name in ["", "aa", "c", "zee", "zeds"] {
            assert!(lowered.function(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_module_with_many_wrong_imports_costs_no_more_than_some() {
        let text = "interface = \"i\"\n[[function]]\nname = \"f\"\n";
        let lowered = Interface::parse(text, "i.toml").expect("sound");
        let import = |name: String| Imported { module: "i".into(), name, params: vec![], results: vec![] };
        let imports: Vec<_> = (0..=MISMATCHES_MAX).map(|n| import(format!("wrong{n}"))).collect();
        assert_eq!(lowered.check(&imports).len(), MISMATCHES_MAX);
        // Those that fit do not count.
        let imports: Vec<_> = vec![import("f".into()); MISMATCHES_MAX];
        assert_eq!(lowered.check(imports.iter().chain([&import("g".into())])).len(), 1);
    }
}
