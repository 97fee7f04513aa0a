//! What a host app provides for imports, in the form in which a client of the daemon says it.

use std::time::Duration;

use ipc::protocol::{FunctionImport, ImportItem, ImportRequest};
use ipc::types::ValueType;

use crate::imports::{Extern, HostFunction, Imports};
use crate::module::{wire_type, wire_types};

impl Imports {
    /// The same as part of a request to the daemon, sorted by names, and at the same positions the functions that the client is to
    /// serve.
    pub fn requests(&self) -> (Vec<ImportRequest>, Vec<Option<HostFunction>>) {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_by_key(|(module, name, _)| (*module, *name));
        let request = |(module, name, item): (&str, &str, &Extern)| {
            let function = match item {
                Extern::Function(function) => Some(function.clone()),
                _ => None,
            };
            (
                ImportRequest { module: module.to_owned(), name: name.to_owned(), item: wire_item(item) },
                function,
            )
        };
        all.into_iter().map(request).unzip()
    }
}

impl HostFunction {
    /// Types of its parameters and of its results, as they are told to other processes.
    pub fn wire_type(&self) -> (Vec<ValueType>, Vec<ValueType>) {
        (wire_types(&self.ty().params), wire_types(&self.ty().results))
    }
}

fn wire_item(item: &Extern) -> ImportItem {
    match item {
        Extern::Function(function) => {
            let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            let (params, results) = function.wire_type();
            let deadline_ns = function.deadline().map(nanoseconds);
            ImportItem::Function(FunctionImport { params, results, deadline_ns })
        }
        Extern::Global { value, mutable } => ImportItem::Global { value: *value, mutable: *mutable },
        Extern::Memory { pages, max, memory64 } => {
            ImportItem::Memory { pages: *pages, max: *max, memory64: *memory64 }
        }
        Extern::Table { ty, entries, max, table64 } => {
            ImportItem::Table { element: wire_type(*ty), entries: *entries, max: *max, table64: *table64 }
        }
        Extern::Tag { params } => ImportItem::Tag { params: wire_types(params) },
    }
}

#[cfg(test)]
mod tests {
    use ipc::report::Value;

    use super::*;
    use crate::ValType;

    #[test]
    fn requests_are_sorted_and_functions_stand_where_they_are_asked_for() {
        let function =
            HostFunction::immediate([ValType::I32], [], |_| Ok(vec![])).within(Duration::from_secs(1));
        let mut imports = Imports::default();
        imports
            .define("m", "z", Extern::Function(function))
            .define("m", "a", Extern::Global { value: Value::I32(1), mutable: true })
            .define("a", "z", Extern::Tag { params: vec![ValType::F64] });
        let (requests, functions) = imports.requests();
        let names: Vec<_> = requests.iter().map(|r| (r.module.as_str(), r.name.as_str())).collect();
        assert_eq!(names, [("a", "z"), ("m", "a"), ("m", "z")]);
        assert_eq!(functions.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true]);
        let ImportItem::Function(function) = &requests[2].item else { panic!("a function") };
        assert_eq!(function.deadline_ns, Some(1_000_000_000));
    }
}
