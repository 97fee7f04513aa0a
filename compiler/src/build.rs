//! From a module to an artifact: plan, compile, link, lay out.

use std::mem::offset_of;
use std::ops::Range;

use cranelift_codegen::isa::CallConv;
use ipc::context::{ExceptionArena, MemoryDescriptor, TableDescriptor, TableEntry};
use ipc::layout::{self, CODE_BASE, CONTEXT_BASE, MEMORY_RESERVED, PAGE, WASM_PAGE};

use crate::artifact::metadata::{self, Entry, ExportItem, FORMAT, GlobalValue, ImportItem, Metadata};
use crate::artifact::write::{Access, Image, LINES_SECTION, SEGMENTS_MAX, Segment, Symbol, Symbols};
use crate::codegen::{self, Code, Compiler, Listing};
use crate::handlers;
use crate::initial::{Initial, Overlay, RUNS_MAX};
use crate::link::{self, Text};
use crate::module::{Export, ExportKind, ImportedFunction, Module, NULL_ITEM, OpenImport, OpenItem};
use crate::options::target_features;
use crate::plan::{ENTRY, ExceptionPlan, GlobalPlan, Plan};
use crate::progress::{Progress, Report};
use crate::sites;
use crate::translate::{Environment, Failure, import_thunk, instantiate, open_thunk};
use crate::types::{FuncType, ValType};
use crate::{Error, Options, debug, features, trampoline, version};

/// Compiles a module to an artifact, see [`crate::compile`].
pub(crate) fn compile(wasm: &[u8], options: &Options, report: Report<'_>) -> Result<Vec<u8>, Error> {
    let mut module = Module::parse(wasm, &options.caps, options.open_imports)?;
    let plan = Plan::new(&module)?;
    let isa = options.isa()?;
    let bodies = std::mem::take(&mut module.bodies);
    // All of them before any code is generated: what is not supported is refused at once, not after minutes.
    codegen::validate_bodies(wasm, &bodies, &options.caps, options.threads)?;
    let lines = if options.debug_info { Some(module.dwarf.lines(module.code_start)?) } else { None };
    let environment = Environment {
        module: &module,
        plan: &plan,
        isa: &*isa,
        caps: &options.caps,
        options: options.code(),
        lines: lines.as_ref(),
    };

    let imported = module.imports.len();
    let mut compiler = Compiler::new(environment, None);
    let ours = |failure| match failure {
        Failure::Other(error) => error,
        Failure::Invalid(error) => Error::invalid(&error),
    };
    let mut codes: Vec<Code> = Vec::with_capacity(module.functions.len());
    for (index, import) in module.imports.iter().enumerate() {
        let Some(ty) = module.function_type(index as u32) else { continue };
        let build = |function: &mut _, context: &mut _| {
            match *import {
                ImportedFunction::Host(id) => import_thunk(&*isa, index as u32, id, ty, function, context),
                ImportedFunction::Open(number) => {
                    open_thunk(&*isa, index as u32, number, ty, function, context);
                }
            }
            Ok(())
        };
        codes.push(compiler.compile_ours(index as u32, build).map_err(ours)?.0);
    }
    codes.append(&mut codegen::compile_bodies(
        environment,
        wasm,
        bodies,
        imported as u32,
        options.threads,
        report,
    )?);
    if module.needs_instantiation() {
        let index = codes.len() as u32;
        let build = |function: &mut _, context: &mut _| instantiate(environment, index, function, context);
        codes.push(compiler.compile_ours(index, build).map_err(ours)?.0);
    }
    let functions = codes.len();

    let trampolines = Trampolines::of(&module);
    for (i, ty) in trampolines.types.iter().enumerate() {
        let position = (functions + i) as u32;
        let build = |function: &mut _, context: &mut _| {
            trampoline::build(&*isa, position, ty, CallConv::Tail, function, context);
            Ok(())
        };
        codes.push(compiler.compile_ours(position, build).map_err(ours)?.0);
    }

    // The table of handlers is behind the rest of the read-only data.
    let handlers_offset = plan.rodata_bytes.next_multiple_of(8);
    let handlers_bytes = handlers::bytes(codes.iter().map(|code| &code.handlers[..]));
    let text = link::link(&mut codes, handlers_offset + handlers_bytes, &options.caps)?;
    let mut handlers = handlers::Table::default();
    for (code, offset) in codes.iter().zip(&text.offsets) {
        handlers.function(*offset, &code.handlers);
    }
    let mut site_table = sites::Builder::new();
    for (code, offset) in codes.iter().zip(&text.offsets).take(functions) {
        site_table.function(*offset, code.wasm, &code.sites);
    }
    let end = text.offsets.get(functions).copied().unwrap_or(text.bytes.len() as u32);
    let site_table = site_table.finish(end);
    let places: Vec<_> = codes.iter_mut().map(|code| std::mem::take(&mut code.places)).collect();
    drop(codes);
    let debug = lines.as_ref().map(|lines| debug_sections(lines, &module, &text, &places)).transpose()?;
    drop(places);

    let initial = Initial::new(&module, &plan);
    let entries = Entries { module: &module, plan: &plan, text: &text };
    let mut rodata = rodata(&entries);
    rodata.resize(handlers_offset as usize, 0);
    handlers.append(&mut rodata);
    let sites = (text.rodata + handlers_offset, handlers.sites.len() as u64);
    let context = context(&module, &plan, sites);
    let tables: Vec<Vec<u8>> = initial.tables.iter().map(|items| entries.bytes(items)).collect();
    let mut state = Overlay::default();
    state.write(CONTEXT_BASE, &context);
    for (table, bytes) in plan.tables.iter().zip(&tables) {
        state.write(table.base, bytes);
    }

    let mut segments = Vec::new();
    for (memory, contents) in plan.memories.iter().zip(&initial.memories) {
        segments.push(Segment {
            address: memory.base,
            memory_bytes: MEMORY_RESERVED,
            file_bytes: 0,
            access: Access::None,
            contents: Vec::new(),
        });
        let runs = runs_per_memory(plan.memories.len());
        writable_segments(&mut segments, memory.base..memory.base + memory.bytes, contents, runs);
    }
    writable_segments(&mut segments, CONTEXT_BASE..plan.context_end, &state, RUNS_MAX);
    let data_bytes = writable_bytes(&segments);
    code_segments(&mut segments, &text, &rodata);

    let metadata = Metadata {
        format: FORMAT,
        compiler: version(),
        cpu_features: target_features(&isa),
        options: options.code(),
        wasm_hash: blake3::hash(wasm).into(),
        functions: functions as u32,
        imports: module.open.iter().filter_map(|i| import(i, &module)).collect(),
        exports: module.exports.iter().filter_map(|e| export(e, &module, &text, &trampolines)).collect(),
        start: trampolines.start(&module, &text),
        start_trap: initial.trap,
        memories: plan
            .memories
            .iter()
            .map(|memory| metadata::Memory {
                min_pages: memory.bytes / WASM_PAGE,
                max_pages: memory.max_bytes / WASM_PAGE,
                memory64: memory.index64,
                descriptor: memory.descriptor,
            })
            .collect(),
        tables: module
            .tables
            .iter()
            .zip(&plan.tables)
            .map(|(table, plan)| metadata::Table {
                ty: table.ty,
                reference: table.reference,
                size: plan.size,
                max: plan.max,
                table64: plan.index64,
                base: plan.base,
                descriptor: plan.descriptor,
            })
            .collect(),
        globals: module
            .globals
            .iter()
            .zip(&plan.globals)
            .map(|(global, plan)| metadata::Global {
                ty: global.ty,
                reference: global.reference,
                mutable: global.mutable,
                value: match *plan {
                    GlobalPlan::Constant(bits) => GlobalValue::Constant(bits),
                    GlobalPlan::Address { address, .. } => GlobalValue::Address(address),
                },
            })
            .collect(),
        tags: (0..module.tags.len() as u32)
            .filter_map(|tag| Some(metadata::Tag { params: module.tag_type(tag)?.params.clone() }))
            .collect(),
        handlers: plan.exceptions.as_ref().map(|plan| metadata::Handlers {
            arena: plan.arena,
            sites: sites.0,
            sites_count: handlers.sites.len() as u32,
            clauses_count: handlers.clauses.len() as u32,
        }),
        host_functions: host_functions(&module),
        segments: plan
            .segment_lengths()
            .map(|(address, length)| metadata::PassiveSegment { address, length })
            .collect(),
        descriptors: text.rodata,
        descriptor_count: plan.descriptors.len() as u32 + 1,
        data_bytes,
        snapshot: None,
    };
    let names = (0..functions as u32).map(|index| match module.functions.get(index as usize) {
        Some(_) => module.function_name(index).into_owned(),
        None => "sandboxd::instantiate".to_owned(),
    });
    let image = Image {
        segments,
        text: (CODE_BASE, text.bytes.len() as u64),
        rodata: (text.rodata, rodata.len() as u64),
        symbols: Symbols::new(&symbols(&text, names)),
        metadata: metadata::encode(&metadata)?,
        sites: site_table,
        debug: debug.unwrap_or_default(),
    };
    image.write(&options.caps)
}

/// The sections about source lines, see [`debug`]. None where the module says nothing about them.
fn debug_sections(
    lines: &debug::Lines,
    module: &Module<'_>,
    text: &Text,
    places: &[Vec<debug::write::Place>],
) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let Some(table) = debug::section::encode(lines) else { return Ok(Vec::new()) };
    let code = text.offsets.iter().zip(&text.sizes);
    let functions = places.iter().zip(code).enumerate().map(|(index, (places, (&offset, &size)))| {
        let name = module.function_name(index as u32).into_owned();
        debug::write::Function { name, offset, size, places }
    });
    let mut sections = debug::write::write(lines, functions)?;
    sections.push((LINES_SECTION, table));
    Ok(sections)
}

/// Checks a module without generating code, see [`crate::validate`].
pub(crate) fn validate(wasm: &[u8], options: &Options) -> Result<(), Error> {
    let mut module = Module::parse(wasm, &options.caps, options.open_imports)?;
    let bodies = std::mem::take(&mut module.bodies);
    Plan::new(&module)?;
    codegen::validate_bodies(wasm, &bodies, &options.caps, options.threads)
}

/// What a module imports, see [`crate::imports`].
pub(crate) fn imports(wasm: &[u8], options: &Options) -> Result<Vec<metadata::Import>, Error> {
    let module = Module::parse(wasm, &options.caps, true)?;
    Ok(module.open.iter().filter_map(|open| import(open, &module)).collect())
}

/// Writes down every function of a module, one after the other; for people, not for speed.
pub(crate) fn list(
    wasm: &[u8],
    options: &Options,
    listing: Listing,
    report: Report<'_>,
) -> Result<String, Error> {
    let mut module = Module::parse(wasm, &options.caps, options.open_imports)?;
    let plan = Plan::new(&module)?;
    let isa = options.isa()?;
    let bodies = std::mem::take(&mut module.bodies);
    codegen::validate_bodies(wasm, &bodies, &options.caps, options.threads)?;
    let environment = Environment {
        module: &module,
        plan: &plan,
        isa: &*isa,
        caps: &options.caps,
        options: options.code(),
        lines: None,
    };
    let mut compiler = Compiler::new(environment, Some(listing));
    let first = module.imports.len() as u32;
    let mut out = String::new();
    let progress = Progress::begin(bodies.len(), report);
    for (position, body) in bodies.into_iter().enumerate() {
        let index = first + position as u32;
        let (_, text) = compiler.compile(index, body).map_err(|failure| match failure {
            Failure::Other(error) => error,
            Failure::Invalid(error) => features::explain(wasm, &error),
        })?;
        out.push_str(&format!("; function {index}: {}\n", module.function_name(index)));
        out.push_str(&text.unwrap_or_default());
        out.push('\n');
        progress.step();
    }
    Ok(out)
}

/// The function types that can be entered from outside, each with one trampoline behind the functions.
struct Trampolines<'m> {
    types: Vec<&'m FuncType>,
    /// Signature id → position in `types`.
    positions: Vec<Option<usize>>,
    /// Position of that of the function that instantiates the module, if it has one.
    instantiation: Option<usize>,
    /// Functions before the first trampoline.
    functions: usize,
}

/// Neither parameters nor results.
static NOTHING: FuncType = FuncType { params: Vec::new(), results: Vec::new() };

impl<'m> Trampolines<'m> {
    fn of(module: &'m Module<'_>) -> Self {
        let ids = module.signature_ids.iter().copied().max().unwrap_or(0) as usize;
        let mut trampolines = Trampolines {
            types: Vec::new(),
            positions: vec![None; ids + 1],
            instantiation: None,
            functions: module.functions.len(),
        };
        let exported = module.exports.iter().filter(|e| e.kind == ExportKind::Function).map(|e| e.index);
        for function in exported.chain(module.start) {
            let Some(ty) = module.function_type(function) else { continue };
            let position = trampolines.positions.get_mut(signature_id(module, function) as usize);
            if let Some(position @ None) = position {
                *position = Some(trampolines.types.len());
                trampolines.types.push(ty);
            }
        }
        if module.needs_instantiation() {
            trampolines.functions += 1;
            trampolines.instantiation = Some(trampolines.types.len());
            trampolines.types.push(&NOTHING);
        }
        trampolines
    }

    /// What runs first: the function that instantiates the module, or the module's own.
    fn start(&self, module: &Module<'_>, text: &Text) -> Option<Entry> {
        let Some(position) = self.instantiation else { return self.entry(module, text, module.start?) };
        let function = module.functions.len();
        Some(Entry {
            function: function as u32,
            code: text.address(function)?,
            trampoline: text.address(self.functions + position)?,
        })
    }

    fn entry(&self, module: &Module<'_>, text: &Text, function: u32) -> Option<Entry> {
        let position = (*self.positions.get(signature_id(module, function) as usize)?)?;
        Some(Entry {
            function,
            code: text.address(function as usize)?,
            trampoline: text.address(self.functions + position)?,
        })
    }
}

/// The signature id of a function; 0, which no function has, for an unknown one.
fn signature_id(module: &Module<'_>, function: u32) -> u32 {
    let ty = module.functions.get(function as usize);
    ty.and_then(|ty| module.signature_ids.get(*ty as usize)).copied().unwrap_or(0)
}

fn export(
    export: &Export<'_>,
    module: &Module<'_>,
    text: &Text,
    trampolines: &Trampolines<'_>,
) -> Option<metadata::Export> {
    let item = match export.kind {
        ExportKind::Function => {
            let ty = module.function_type(export.index)?;
            ExportItem::Function {
                entry: trampolines.entry(module, text, export.index)?,
                params: ty.params.clone(),
                results: ty.results.clone(),
            }
        }
        ExportKind::Memory => ExportItem::Memory(export.index),
        ExportKind::Table => ExportItem::Table(export.index),
        ExportKind::Global => ExportItem::Global(export.index),
        ExportKind::Tag => ExportItem::Tag(export.index),
    };
    Some(metadata::Export { name: export.name.to_owned(), item })
}

/// An import as the artifact declares it.
fn import(import: &OpenImport<'_>, module: &Module<'_>) -> Option<metadata::Import> {
    let item = match import.item {
        OpenItem::Function(index) => {
            let FuncType { params, results } = module.function_type(index)?.clone();
            ImportItem::Function { params, results }
        }
        OpenItem::Global(index) => ImportItem::Global(index),
        OpenItem::Memory { index, max } => {
            ImportItem::Memory { index, min: module.memories.get(index as usize)?.min, max }
        }
        OpenItem::Table { index, max } => {
            ImportItem::Table { index, min: module.tables.get(index as usize)?.min, max }
        }
        OpenItem::Tag(index) => ImportItem::Tag(index),
    };
    Some(metadata::Import { module: import.module.to_owned(), name: import.name.to_owned(), item })
}

fn host_functions(module: &Module<'_>) -> Vec<u32> {
    let mut numbers: Vec<u32> = module
        .imports
        .iter()
        .filter_map(|import| match import {
            ImportedFunction::Host(id) => Some(id.number()),
            ImportedFunction::Open(_) => None,
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Makes table entries of function indices.
struct Entries<'m> {
    module: &'m Module<'m>,
    plan: &'m Plan,
    text: &'m Text,
}

impl Entries<'_> {
    fn entry(&self, function: u32) -> TableEntry {
        let address = if function == NULL_ITEM { None } else { self.text.address(function as usize) };
        match address {
            Some(code) => TableEntry {
                code,
                signature: signature_id(self.module, function),
                reference: self.plan.references.get(function as usize).copied().unwrap_or(0),
            },
            None => TableEntry::default(),
        }
    }

    fn append(&self, items: &[u32], out: &mut Vec<u8>) {
        for &item in items {
            let entry = self.entry(item);
            out.extend_from_slice(&entry.code.to_le_bytes());
            out.extend_from_slice(&entry.signature.to_le_bytes());
            out.extend_from_slice(&entry.reference.to_le_bytes());
        }
    }

    fn bytes(&self, items: &[u32]) -> Vec<u8> {
        let mut out = Vec::with_capacity(items.len() * ENTRY as usize);
        self.append(items, &mut out);
        out
    }
}

/// The read-only data: function descriptors, then passive segments where the plan says.
fn rodata(entries: &Entries<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.plan.rodata_bytes as usize);
    entries.append(&[NULL_ITEM], &mut out);
    entries.append(&entries.plan.descriptors, &mut out);
    for (element, plan) in entries.module.elements.iter().zip(&entries.plan.elements) {
        if let Some(plan) = plan {
            debug_assert_eq!(plan.rodata, out.len() as u64);
            entries.append(&element.items, &mut out);
        }
    }
    for (data, plan) in entries.module.data.iter().zip(&entries.plan.data) {
        if let Some(plan) = plan {
            debug_assert_eq!(plan.rodata, out.len() as u64);
            out.extend_from_slice(data.bytes);
        }
    }
    out
}

/// The context's initial contents, from [`CONTEXT_BASE`] on: descriptors, lengths of passive segments, globals.
fn context(module: &Module<'_>, plan: &Plan, (sites, sites_count): (u64, u64)) -> Vec<u8> {
    let mut out = vec![0u8; (plan.tables_base - CONTEXT_BASE) as usize];
    let mut put = |address: u64, words: &[u64]| {
        for (i, word) in words.iter().enumerate() {
            let at = (address - CONTEXT_BASE) as usize + 8 * i;
            if let Some(field) = out.get_mut(at..at + 8) {
                field.copy_from_slice(&word.to_le_bytes());
            }
        }
    };
    let mut total = 0;
    for memory in &plan.memories {
        let MemoryDescriptor { base, bytes, max_bytes, reserved } = MemoryDescriptor {
            base: memory.base,
            bytes: memory.bytes,
            max_bytes: memory.max_bytes,
            reserved: 0,
        };
        put(memory.descriptor, &[base, bytes, max_bytes, reserved]);
        total += memory.bytes;
    }
    put(CONTEXT_BASE + ipc::context::MEMORY_TOTAL_OFFSET, &[total]);
    // As much as there can be, until the shim knows what the job has.
    put(ipc::context::FUEL, &[i64::MAX as u64]);
    for table in &plan.tables {
        let TableDescriptor { base, size, max, reserved } =
            TableDescriptor { base: table.base, size: table.size, max: table.max, reserved: 0 };
        put(table.descriptor, &[base, size, max, reserved]);
    }
    for (segment, length) in plan.segment_lengths() {
        put(segment, &[length]);
    }
    if let Some(plan) = &plan.exceptions {
        let ExceptionPlan { base, slot_bytes, capacity, globals, globals_count, tables, .. } = *plan;
        let tables_count = plan.table_descriptors.len() as u64;
        // In the order of `ExceptionArena`.
        put(plan.arena, &[base, slot_bytes, capacity, 0, 0, 0, globals, globals_count, tables, tables_count]);
        put(plan.arena + offset_of!(ExceptionArena, sites) as u64, &[sites, sites_count]);
        put(tables, &plan.table_descriptors);
    }
    for (global, plan) in module.globals.iter().zip(&plan.globals) {
        if let GlobalPlan::Address { address, init } = *plan {
            put(address, &[init as u64]);
            if global.ty == ValType::V128 {
                put(address + 8, &[(init >> 64) as u64]);
            }
        }
    }
    out
}

/// How many runs of contents each of `memories` memories may have, so that all segments fit an artifact: a memory takes
/// its reservation, the pages before the first run, and the runs; the context the same without a reservation; code
/// and read-only data are one each.
pub(crate) fn runs_per_memory(memories: usize) -> usize {
    let left = SEGMENTS_MAX - (RUNS_MAX + 1) - 2;
    (left / memories.max(1)).saturating_sub(2).clamp(1, RUNS_MAX)
}

const _: () = assert!(layout::MEMORIES_MAX as usize * 3 + (RUNS_MAX + 1) + 2 <= SEGMENTS_MAX);

/// Covers `range` with writable segments: one per run of contents, at most `runs`, each reaching to the next run, the
/// part beyond its contents being zero.
pub(crate) fn writable_segments<'a>(
    segments: &mut Vec<Segment<'a>>,
    range: Range<u64>,
    contents: &Overlay<'a>,
    runs: usize,
) {
    let runs = contents.runs(runs);
    let mut push = |start: u64, end: u64, run: Option<&Range<u64>>| {
        if start < end {
            segments.push(Segment {
                address: start,
                memory_bytes: end - start,
                file_bytes: run.map_or(0, |run| run.end - run.start),
                access: Access::ReadWrite,
                contents: run.map_or_else(Vec::new, |run| clipped(contents, run)),
            });
        }
    };
    push(range.start, runs.first().map_or(range.end, |run| run.start), None);
    for (i, run) in runs.iter().enumerate() {
        push(run.start, runs.get(i + 1).map_or(range.end, |next| next.start), Some(run));
    }
}

/// The pieces of `contents` inside a run, which may begin or end in the middle of a piece whose other pages are zero;
/// at offsets from the run's start.
fn clipped<'a>(contents: &Overlay<'a>, run: &Range<u64>) -> Vec<(u64, &'a [u8])> {
    contents
        .overlapping(run)
        .filter_map(|(start, bytes)| {
            let skip = run.start.saturating_sub(start) as usize;
            let keep = (run.end.saturating_sub(start) as usize).min(bytes.len());
            Some((start.max(run.start) - run.start, bytes.get(skip..keep)?))
        })
        .collect()
}

/// Bytes of address space that segments map privately and writable.
pub(crate) fn writable_bytes(segments: &[Segment<'_>]) -> u64 {
    segments
        .iter()
        .filter(|segment| segment.access == Access::ReadWrite)
        .map(|segment| segment.memory_bytes)
        .sum()
}

/// Appends the segments of the text and of the read-only data behind it.
pub(crate) fn code_segments<'a>(segments: &mut Vec<Segment<'a>>, text: &'a Text, rodata: &'a [u8]) {
    for (address, bytes, access) in
        [(CODE_BASE, &text.bytes[..], Access::ReadExecute), (text.rodata, rodata, Access::Read)]
    {
        let size = (bytes.len() as u64).next_multiple_of(PAGE);
        if size > 0 {
            let contents = vec![(0, bytes)];
            segments.push(Segment { address, memory_bytes: size, file_bytes: size, access, contents });
        }
    }
}

/// Symbols of the functions, by their names, and of the trampolines behind them.
pub(crate) fn symbols(text: &Text, names: impl Iterator<Item = String>) -> Vec<Symbol> {
    let trampolines = (0..).map(|i| format!("sandboxd::trampoline[{i}]"));
    names
        .chain(trampolines)
        .zip(text.offsets.iter().zip(&text.sizes))
        .map(|(name, (&offset, &size))| Symbol {
            name,
            address: CODE_BASE + u64::from(offset),
            size: size.into(),
        })
        .collect()
}

const _: () = assert!(layout::CODE_BASE.is_multiple_of(PAGE) && CONTEXT_BASE.is_multiple_of(PAGE));
