//! The imports of one instance: compared with what the module declares, and in the form in which the instance takes them over.

use std::collections::HashMap;
use std::sync::Arc;

use compiler::metadata::{GlobalValue, Import, ImportItem, Metadata};
use compiler::{FuncType, ValType};
use interface::{Lowered, MISMATCHES_MAX, Mismatch};
use ipc::imports::{FUNCTIONS, FUNCTIONS_MAX, RECORDS_MAX, Record, SLOT, kind};
use ipc::interface::ARGS_MAX;
use ipc::layout::WASM_PAGE;
use ipc::nospec;
use ipc::report::Violation;
use ipc::ring::{Submission, unpack_range};
use ipc::typed::{Arg, TABLE_WORDS, pack_entry};

use super::typed::{Returned, TypedCall};
use crate::error::Error;
use crate::handles::{Handles, Places};
use crate::hostcall::SharedRegion;
use crate::imports::{Extern, HostError, HostFunction, Imports};
use crate::module::{RawValue, ValueKind, imported, raw_value};
use crate::service::{CallContext, TypedFunction};

/// What a job provides for its module's imports; all of it fits.
#[derive(Debug, Default)]
pub(crate) struct Provided {
    /// For the instance's start.
    pub(crate) records: Vec<Record>,
    /// Bytes that memories have beyond what the module declares.
    pub(crate) added_memory: u64,
    /// The table of typed functions ([`ipc::typed`]).
    pub(crate) table: Vec<u64>,
    table_entries: u32,
    /// By the number of an import, where its function is below; [`NO_FUNCTION`] for imports of other kinds.
    numbers: Vec<u32>,
    /// Each once, however often the module imports it: it can do so a million times.
    functions: Vec<Function>,
    /// This job's handles, by the interface's name.
    handles: HashMap<String, Arc<Handles>>,
    places: Places,
}

/// Things of the host app end with the job.
impl Drop for Provided {
    fn drop(&mut self) {
        self.handles.values().for_each(|handles| handles.close());
    }
}

/// No place among functions: there are never so many.
const NO_FUNCTION: u32 = u32::MAX;

#[derive(Debug)]
struct Function {
    name: String,
    function: HostFunction,
    /// Of a typed function.
    context: Option<CallContext>,
}

impl Provided {
    pub(crate) fn new(metadata: &Metadata, imports: &Imports) -> Result<Self, Error> {
        check_interfaces(metadata, imports)?;
        let mut provided = Self::default();
        let mut known: HashMap<(&str, &str), u32> = HashMap::new();
        for import in &metadata.imports {
            let names = (import.module.as_str(), import.name.as_str());
            if let (ImportItem::Function { params, results }, Some(place)) = (&import.item, known.get(&names))
            {
                let function = provided.functions.get(*place as usize).ok_or(Error::Stopped)?;
                check_type(import, &function.function, params, results)?;
                provided.numbers.push(*place);
                continue;
            }
            let item = imports.get(&import.module, &import.name).ok_or_else(|| Error::UnknownImport {
                kind: kind_name(&import.item),
                module: import.module.clone(),
                name: import.name.clone(),
            })?;
            let (record, function) = provided.item(metadata, import, item)?;
            provided.records.extend(record);
            let place = function.as_ref().map_or(NO_FUNCTION, |_| provided.functions.len() as u32);
            provided.numbers.push(place);
            if let Some(function) = function {
                provided.functions.push(function);
                known.insert(names, place);
            }
        }
        provided.fill_table()?;
        if provided.records.len() > RECORDS_MAX {
            return Err(Error::TooManyImports { found: provided.records.len(), limit: RECORDS_MAX });
        }
        Ok(provided)
    }

    fn item(
        &mut self,
        metadata: &Metadata,
        import: &Import,
        item: Extern,
    ) -> Result<(Option<Record>, Option<Function>), Error> {
        let incompatible = |expected: String, found: String| incompatible(import, expected, found);
        match (&import.item, item) {
            (ImportItem::Function { params, results }, Extern::Function(function)) => {
                check_type(import, &function, params, results)?;
                let name = format!("{}.{}", import.module, import.name);
                let context = function.as_typed().map(|typed| {
                    let interface = typed.interface.interface().name.clone();
                    let table = || Arc::new(Handles::new(&self.places));
                    let handles = Arc::clone(self.handles.entry(interface).or_insert_with(table));
                    CallContext::new(Arc::clone(&typed.interface), handles)
                });
                Ok((None, Some(Function { name, function, context })))
            }
            (ImportItem::Global(index), Extern::Global { value, mutable }) => {
                let global = metadata.globals.get(*index as usize).ok_or(Error::Stopped)?;
                let is_mutable = |mutable: bool| if mutable { "mutable" } else { "immutable" };
                let raw = raw_value(&value).filter(|_| {
                    ValueKind::of(&value) == ValueKind::from(global.ty) && mutable == global.mutable
                });
                let (Some(words), GlobalValue::Address(address)) = (raw, global.value) else {
                    let expected = format!("{} global of type {}", is_mutable(global.mutable), global.ty);
                    let found = format!("{} global with the value {value:?}", is_mutable(mutable));
                    return Err(incompatible(expected, found));
                };
                let wide = ValueKind::from(global.ty).bytes() > 8;
                let kind = if wide { kind::WIDE_GLOBAL } else { kind::GLOBAL };
                Ok((Some(Record { kind, address, words }), None))
            }
            (
                ImportItem::Memory { index, min, max },
                Extern::Memory { pages, max: provided_max, memory64 },
            ) => {
                let memory = metadata.memories.get(*index as usize).ok_or(Error::Stopped)?;
                let largest = provided_max.unwrap_or(memory.max_pages).min(memory.max_pages);
                if memory64 != memory.memory64
                    || !fits((pages, provided_max), (*min, *max))
                    || pages > largest
                {
                    let what = |is_wide| format!("{}memory", width(is_wide));
                    let expected = limits(&what(memory.memory64), "pages", *min, *max);
                    let found = limits(&what(memory64), "pages", pages, provided_max);
                    return Err(incompatible(expected, found));
                }
                let added = pages - min;
                self.added_memory = self.added_memory.saturating_add(added.saturating_mul(WASM_PAGE));
                let words = [added, largest.saturating_mul(WASM_PAGE)];
                Ok((Some(Record { kind: kind::MEMORY, address: memory.descriptor, words }), None))
            }
            (
                ImportItem::Table { index, min, max },
                Extern::Table { ty, entries, max: provided_max, table64 },
            ) => {
                let table = metadata.tables.get(*index as usize).ok_or(Error::Stopped)?;
                let what = |ty, is_wide| format!("{}table of {ty}", width(is_wide));
                if ty != table.ty
                    || table64 != table.table64
                    || !fits((entries, provided_max), (*min, *max))
                    || provided_max.is_some_and(|max| entries > max)
                {
                    let expected = limits(&what(table.ty, table.table64), "entries", *min, *max);
                    let found = limits(&what(ty, table64), "entries", entries, provided_max);
                    return Err(incompatible(expected, found));
                }
                if entries > table.max {
                    let (module, name) = (import.module.clone(), import.name.clone());
                    return Err(Error::ImportRoom { module, name, entries, room: table.max });
                }
                let words = [entries - min, provided_max.unwrap_or(table.max).min(table.max)];
                Ok((Some(Record { kind: kind::TABLE, address: table.descriptor, words }), None))
            }
            (ImportItem::Tag(index), Extern::Tag { params }) => {
                let tag = metadata.tags.get(*index as usize).ok_or(Error::Stopped)?;
                if tag.params != params {
                    let signature =
                        |params: &[_]| FuncType { params: params.to_vec(), results: Vec::new() }.to_string();
                    let expected = format!("a tag {}", signature(&tag.params));
                    return Err(incompatible(expected, format!("a tag {}", signature(&params))));
                }
                Ok((None, None))
            }
            (expected, found) => {
                let found = match found {
                    Extern::Function(_) => "function",
                    Extern::Global { .. } => "global",
                    Extern::Memory { .. } => "memory",
                    Extern::Table { .. } => "table",
                    Extern::Tag { .. } => "tag",
                };
                Err(incompatible(format!("a {}", kind_name(expected)), format!("a {found}")))
            }
        }
    }

    /// Entries by import number, then the [`Arg`](ipc::typed::Arg)s of each typed function.
    fn fill_table(&mut self) -> Result<(), Error> {
        let typed = |place: &u32| {
            let function = self.functions.get(*place as usize);
            function.and_then(|function| function.function.as_typed())
        };
        let entries =
            self.numbers.iter().rposition(|place| typed(place).is_some()).map_or(0, |last| last + 1);
        let lowered = |function: &Function| function.function.as_typed()?.lowered().map(|f| f.args().count());
        let words = entries + self.functions.iter().filter_map(lowered).sum::<usize>();
        let limit = TABLE_WORDS - ARGS_MAX;
        if words > limit {
            return Err(Error::TooManyTypedFunctions { found: words, limit });
        }
        let mut table = vec![0; entries];
        let of_functions: Vec<u64> = (self.functions.iter())
            .map(|function| {
                let Some(lowered) = function.function.as_typed().and_then(TypedFunction::lowered) else {
                    return 0;
                };
                let first = table.len();
                table.extend(lowered.args().map(Arg::pack));
                pack_entry(first as u32, (table.len() - first) as u32)
            })
            .collect();
        for (entry, place) in table.iter_mut().zip(self.numbers.iter().take(entries)) {
            *entry = of_functions.get(*place as usize).copied().unwrap_or(0);
        }
        self.table = table;
        self.table_entries = entries as u32;
        Ok(())
    }

    /// Import numbers that the table has an entry for.
    pub(crate) fn table_entries(&self) -> u32 {
        self.table_entries
    }

    /// The number of the imported function that a submission calls; `None` if it is of another kind.
    pub(crate) fn number(submission: &Submission) -> Option<u32> {
        submission.function.checked_sub(FUNCTIONS).filter(|number| *number < FUNCTIONS_MAX)
    }

    /// Checks a call (a private copy of a slot) against what the module imports.
    pub(crate) fn check<'p, 'r>(
        &'p self,
        submission: &Submission,
        arena: SharedRegion<'r>,
    ) -> Result<ImportCall<'p, 'r>, Violation> {
        let broken = |rule: String| Violation::Ring { rule };
        let number = Self::number(submission).unwrap_or(u32::MAX);
        let known = (number as usize) < self.numbers.len();
        let index = nospec::below(number as usize, self.numbers.len());
        let place = self.numbers.get(index).filter(|_| known);
        let Some(function) = place.and_then(|place| self.functions.get(*place as usize)) else {
            return Err(broken(format!(
                "call of imported function {number}, which the module does not have"
            )));
        };
        if let (Some(typed), Some(context)) = (function.function.as_typed(), &function.context) {
            return TypedCall::check(typed, context, submission, arena).map(ImportCall::Typed);
        }
        let FuncType { params, results } = function.function.ty();
        let (offset, length) = unpack_range(submission.args[0]);
        let inside = (offset as usize).checked_add(length as usize).is_some_and(|end| end <= arena.len());
        if !inside || length as usize != params.len().max(results.len()) * SLOT {
            return Err(broken(format!(
                "{}: bytes {offset}+{length} are not a valid range of the arena for its values",
                function.name
            )));
        }
        let frame = arena.skip(offset as usize).prefix(length as usize);
        Ok(ImportCall::Raw(RawCall { function, frame }))
    }
}

/// A call of an imported function, checked.
#[derive(Debug)]
pub(crate) enum ImportCall<'p, 'r> {
    Raw(RawCall<'p, 'r>),
    Typed(TypedCall<'p, 'r>),
}

impl ImportCall<'_, '_> {
    /// Calls the function and writes its results to the arena. A failure is a message for the guest's trap.
    pub(crate) async fn serve(self) -> Result<Returned, String> {
        match self {
            Self::Raw(call) => call.serve().await.map(|()| Returned::default()),
            Self::Typed(call) => call.serve().await,
        }
    }
}

/// A call with bare values, and a sound range of the arena.
#[derive(Debug)]
pub(crate) struct RawCall<'p, 'r> {
    function: &'p Function,
    frame: SharedRegion<'r>,
}

impl RawCall<'_, '_> {
    async fn serve(&self) -> Result<(), String> {
        let Function { name, function, .. } = self.function;
        let FuncType { params, results } = function.ty();
        let copy = self.frame.prefix(params.len() * SLOT).copy_out();
        let values = params
            .iter()
            .zip(copy.chunks_exact(SLOT))
            .map(|(ty, slot)| ValueKind::from(*ty).value(raw(slot)));
        let failed = |error: HostError| failure(name, error);
        let returned = function.call(values.collect()).await.map_err(failed)?;
        let types: Vec<_> = returned.iter().map(ValueKind::of).collect();
        if types != results.iter().copied().map(ValueKind::from).collect::<Vec<_>>() {
            let error = format!("it returned {returned:?} instead of values of type {}", function.ty());
            return Err(failed(error.into()));
        }
        let mut bytes = Vec::with_capacity(results.len() * SLOT);
        for value in &returned {
            let Some([low, high]) = raw_value(value) else {
                return Err(failed(format!("it returned {value:?}, which only a guest can have").into()));
            };
            bytes.extend_from_slice(&low.to_le_bytes());
            bytes.extend_from_slice(&high.to_le_bytes());
        }
        self.frame.write(0, &bytes);
        Ok(())
    }
}

/// Why a call traps whose function failed.
pub(super) fn failure(name: &str, error: HostError) -> String {
    match error {
        HostError::Failed(why) => format!("host function \"{name}\" failed: {why}"),
        HostError::Trap(message) => message,
    }
}

/// Whether the module imports what the interfaces of the job have, all of it. An error has the first interface of which that is not true.
fn check_interfaces(metadata: &Metadata, imports: &Imports) -> Result<(), Error> {
    let mut refused: Option<(&Lowered, Vec<Mismatch>)> = None;
    for import in &metadata.imports {
        let Some(interface) = imports.interface(&import.module) else { continue };
        let of_another = refused.as_ref().is_some_and(|(first, _)| !std::ptr::eq(*first, interface));
        if of_another || crate::module::fits(interface, import) {
            continue;
        }
        // What is no function was defined beside the interface.
        let mismatch = imported(import).and_then(|import| interface.check([&import]).pop());
        let Some(mismatch) = mismatch else { continue };
        let (_, mismatches) = refused.get_or_insert((interface, Vec::new()));
        mismatches.push(mismatch);
        if mismatches.len() >= MISMATCHES_MAX {
            break;
        }
    }
    match refused {
        None => Ok(()),
        Some((interface, mismatches)) => {
            Err(Error::InterfaceMismatch { interface: interface.interface().name.clone(), mismatches })
        }
    }
}

fn incompatible(import: &Import, expected: String, found: String) -> Error {
    Error::IncompatibleImport { module: import.module.clone(), name: import.name.clone(), expected, found }
}

/// Whether a function is of the type that the module imports it with.
fn check_type(
    import: &Import,
    function: &HostFunction,
    params: &[ValType],
    results: &[ValType],
) -> Result<(), Error> {
    if function.ty().params == params && function.ty().results == results {
        return Ok(());
    }
    let expected = FuncType { params: params.to_vec(), results: results.to_vec() };
    let found = format!("a function {}", function.ty());
    Err(incompatible(import, format!("a function {expected}"), found))
}

/// The words of a slot.
fn raw(slot: &[u8]) -> RawValue {
    let word = |at: usize| slot.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
    [word(0), word(8)]
}

/// Whether something of this size and maximum may stand for what is declared.
fn fits((size, size_max): (u64, Option<u64>), (min, max): (u64, Option<u64>)) -> bool {
    size >= min && max.is_none_or(|max| size_max.is_some_and(|size_max| size_max <= max))
}

fn limits(what: &str, unit: &str, size: u64, max: Option<u64>) -> String {
    match max {
        Some(max) => format!("a {what} with {size} {unit}, at most {max}"),
        None => format!("a {what} with {size} {unit}"),
    }
}

fn width(is_wide: bool) -> &'static str {
    if is_wide { "64-bit " } else { "" }
}

fn kind_name(item: &ImportItem) -> &'static str {
    match item {
        ImportItem::Function { .. } => "function",
        ImportItem::Global(_) => "global",
        ImportItem::Memory { .. } => "memory",
        ImportItem::Table { .. } => "table",
        ImportItem::Tag(_) => "tag",
    }
}

/// The functions that a module imports from the host app, by module and name.
pub(crate) fn functions(metadata: &Metadata) -> impl Iterator<Item = (&str, &str)> {
    let functions = metadata.imports.iter().filter(|i| matches!(i.item, ImportItem::Function { .. }));
    functions.map(|function| (function.module.as_str(), function.name.as_str()))
}

#[cfg(test)]
mod tests {
    use ipc::report::Value;

    use super::*;

    #[test]
    fn a_size_stands_for_smaller_declarations_and_a_maximum_for_larger_ones() {
        assert!(fits((1, None), (0, None)) && fits((1, Some(1)), (1, None)));
        assert!(fits((2, Some(3)), (1, Some(4))) && fits((2, Some(3)), (2, Some(3))));
        assert!(!fits((1, None), (2, None)), "too small");
        assert!(!fits((1, None), (1, Some(2))), "without a maximum");
        assert!(!fits((1, Some(3)), (1, Some(2))), "with a larger maximum");
    }

    #[test]
    fn a_table_has_no_more_entries_than_its_own_maximum() {
        let module = compiler::parse_text(br#"(module (import "m" "t" (table 1 funcref)))"#).unwrap();
        let options = compiler::Options { open_imports: true, ..Default::default() };
        let artifact = compiler::Artifact::parse(compiler::compile(&module, &options).unwrap()).unwrap();
        let provide = |entries, max| {
            let ty = compiler::ValType::FuncRef;
            let mut imports = Imports::default();
            imports.define("m", "t", Extern::Table { ty, entries, max, table64: false });
            Provided::new(artifact.metadata(), &imports)
        };
        assert!(provide(2, Some(2)).is_ok());
        assert!(matches!(provide(3, Some(2)), Err(Error::IncompatibleImport { .. })));
    }

    #[test]
    fn calls_are_compared_with_what_the_module_imports() {
        let module = compiler::parse_text(
            br#"(module (import "m" "g" (global i32)) (import "m" "f" (func (param i32 i64))))"#,
        )
        .unwrap();
        let options = compiler::Options { open_imports: true, ..Default::default() };
        let artifact = compiler::Artifact::parse(compiler::compile(&module, &options).unwrap()).unwrap();
        let mut imports = Imports::default();
        let i32_i64 = [compiler::ValType::I32, compiler::ValType::I64];
        imports
            .define("m", "f", Extern::Function(HostFunction::immediate(i32_i64, [], |_| Ok(Vec::new()))))
            .define("m", "g", Extern::Global { value: Value::I32(1), mutable: false });
        let provided = Provided::new(artifact.metadata(), &imports).unwrap();
        let mut bytes = [0u8; 64];
        // SAFETY: the bytes live as long as the region, and nothing else refers to them.
        let arena = unsafe { SharedRegion::new(bytes.as_mut_ptr(), bytes.len()) };
        let check = |function: u32, offset: u32, length: u32| {
            let mut submission = Submission { function, ..Submission::default() };
            submission.args[0] = ipc::ring::pack_range(offset, length);
            provided.check(&submission, arena).map(|_| ())
        };
        assert_eq!(check(FUNCTIONS + 1, 0, 32), Ok(()));
        assert_eq!(check(FUNCTIONS + 1, 32, 32), Ok(()));
        for (function, offset, length) in [
            (FUNCTIONS, 0, 32),
            (FUNCTIONS + 2, 0, 32),
            (FUNCTIONS + FUNCTIONS_MAX, 0, 32),
            (FUNCTIONS + 1, 33, 32),
            (FUNCTIONS + 1, 0, 16),
            (FUNCTIONS + 1, 0, 48),
            (FUNCTIONS + 1, u32::MAX, 32),
            (FUNCTIONS + 1, 0, u32::MAX),
        ] {
            assert!(check(function, offset, length).is_err(), "{function:#x} {offset}+{length}");
        }
    }
}
