//! Machine code for every function of a module, in parallel.
//!
//! Functions are handed to threads in order; what a thread keeps of a function is its code, its relocations and its
//! encoded sites, so memory stays near the size of the output. The result does not depend on the number of threads, an
//! error neither: it is the one of the first function that has one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{ExternalName, Function, SourceLoc};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_codegen::{Context, Final, FinalizedMachReloc, FinalizedRelocTarget, MachSrcLoc, binemit};
use cranelift_frontend::FunctionBuilderContext;
use serde::{Deserialize, Serialize};
use wasmparser::{
    FuncToValidate, FuncValidator, FuncValidatorAllocations, FunctionBody, Operator, OperatorsReader,
    ValidatorResources,
};

use crate::caps::{Cap, Caps};
use crate::debug::Lines;
use crate::debug::write::{Place, UNKNOWN};
use crate::handlers::{self, CallHandlers};
use crate::module::Body;
use crate::progress::{Progress, Report};
use crate::sites::{self, Site};
use crate::translate::{self, Environment, Failure, RODATA_NAMESPACE};
use crate::trap::TrapKind;
use crate::types::FuncType;
use crate::{Error, features, link, trampoline};

/// Functions that a thread takes at once: enough that taking costs nothing, few enough that threads end together.
const BATCH: usize = 16;
/// Stack of a compiling thread. Nothing here recurses over input, but the code generator's passes have large frames.
const THREAD_STACK: usize = 8 << 20;

/// A function's code, not yet at its address.
#[derive(Debug, Default)]
pub(crate) struct Code {
    pub bytes: Vec<u8>,
    pub alignment: u32,
    pub relocations: Vec<Relocation>,
    /// Encoded by [`sites::encode`].
    pub sites: Vec<u8>,
    /// Byte offset of the body in the module.
    pub wasm: u32,
    /// Calls with handlers, ascending by return address.
    pub handlers: Vec<CallHandlers>,
    /// Where its instructions come from, if lines are wanted.
    pub places: Vec<Place>,
}

/// A 32-bit field that holds a distance to something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relocation {
    pub offset: u32,
    pub target: Target,
    pub addend: i64,
}

/// What a relocation refers to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// A function of the module, by index.
    Function(u32),
    /// The first byte of the read-only data.
    Rodata,
}

/// A form of a function for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listing {
    /// Cranelift IR before optimisation.
    Clif,
    /// Machine code.
    Assembly,
}

/// State that a thread reuses for one function after the other.
pub(crate) struct Compiler<'m> {
    environment: Environment<'m>,
    context: Context,
    frontend: FunctionBuilderContext,
    allocations: FuncValidatorAllocations,
    plane: ControlPlane,
    /// What to write down about each function.
    listing: Option<Listing>,
}

impl<'m> Compiler<'m> {
    pub fn new(environment: Environment<'m>, listing: Option<Listing>) -> Self {
        Compiler {
            environment,
            context: Context::new(),
            frontend: FunctionBuilderContext::new(),
            allocations: FuncValidatorAllocations::default(),
            plane: ControlPlane::default(),
            listing,
        }
    }

    /// Validates, translates and compiles one function; with a listing when one was asked for.
    pub fn compile(
        &mut self,
        index: u32,
        (function, body): Body<'_>,
    ) -> Result<(Code, Option<String>), Failure> {
        let start = body.range().start as u32;
        let mut validator = function.into_validator(std::mem::take(&mut self.allocations));
        self.context.clear();
        let translated = translate::translate(
            self.environment,
            &mut validator,
            &body,
            index,
            &mut self.context.func,
            &mut self.frontend,
        );
        self.allocations = validator.into_allocations();
        if let Err(failure) = translated {
            // An abandoned translation leaves its state behind.
            self.frontend = FunctionBuilderContext::new();
            return Err(failure);
        }
        self.finish(index, start)
    }

    /// Compiles a function of ours that `build` writes.
    pub fn compile_ours(
        &mut self,
        index: u32,
        build: impl FnOnce(&mut Function, &mut FunctionBuilderContext) -> Result<(), Failure>,
    ) -> Result<(Code, Option<String>), Failure> {
        self.context.clear();
        build(&mut self.context.func, &mut self.frontend)?;
        self.finish(index, 0)
    }

    fn finish(&mut self, index: u32, start: u32) -> Result<(Code, Option<String>), Failure> {
        let (isa, module) = (self.environment.isa, self.environment.module);
        let compiled =
            generate(&mut self.context, &mut self.plane, isa, start, self.environment.lines, self.listing);
        compiled.map_err(|message| {
            let name = module.function_name(index).into_owned();
            Failure::Other(Error::Codegen { function: index, name, message })
        })
    }
}

/// Compiles an entry trampoline outside of a module.
pub(crate) fn compile_trampoline(
    isa: &dyn TargetIsa,
    index: u32,
    ty: &FuncType,
    convention: CallConv,
) -> Result<Code, Error> {
    let mut context = Context::new();
    trampoline::build(isa, index, ty, convention, &mut context.func, &mut FunctionBuilderContext::new());
    match generate(&mut context, &mut ControlPlane::default(), isa, 0, None, None) {
        Ok((code, _)) => Ok(code),
        Err(message) => Err(Error::Codegen { function: index, name: "entry trampoline".into(), message }),
    }
}

/// Compiles the function in `context`. `start` is the byte offset in the module of what has no better one.
fn generate(
    context: &mut Context,
    plane: &mut ControlPlane,
    isa: &dyn TargetIsa,
    start: u32,
    lines: Option<&Lines>,
    listing: Option<Listing>,
) -> Result<(Code, Option<String>), String> {
    let mut text = (listing == Some(Listing::Clif)).then(|| context.func.display().to_string());
    context.set_disasm(listing == Some(Listing::Assembly));
    context.compile(isa, plane).map_err(|e| format!("{:?}", e.inner))?;
    let compiled = context.take_compiled_code().ok_or("the code generator made no code")?;
    let buffer = &compiled.buffer;
    let mut code = Code {
        bytes: buffer.data().to_vec(),
        alignment: buffer.alignment,
        relocations: Vec::with_capacity(buffer.relocs().len()),
        sites: Vec::new(),
        wasm: start,
        handlers: Vec::new(),
        places: Vec::new(),
    };
    if listing == Some(Listing::Assembly) {
        text = compiled.vcode.clone();
    }

    let locations = buffer.get_srclocs_sorted();
    // The operator whose code contains `offset`.
    let wasm = |offset: u32| {
        let after = locations.partition_point(|location| location.start <= offset);
        let location = after.checked_sub(1).and_then(|i| locations.get(i));
        match location {
            Some(location) if offset < location.end && location.loc != SourceLoc::default() => {
                location.loc.bits()
            }
            _ => start,
        }
    };
    if let Some(lines) = lines {
        code.places = places(lines, start, locations);
    }
    let mut found = Vec::with_capacity(buffer.traps().len());
    for trap in buffer.traps() {
        let kind = TrapKind::of_code(trap.code)
            .ok_or_else(|| format!("an instruction with the unknown trap {}", trap.code))?;
        found.push(Site { code: trap.offset, trap: Some(kind), wasm: wasm(trap.offset) });
    }
    for call in buffer.call_sites() {
        // A return address belongs to the instruction before it.
        let wasm = wasm(call.ret_addr.saturating_sub(1));
        found.push(Site { code: call.ret_addr, trap: None, wasm });
        code.handlers.extend(handlers::of_call(&call)?);
    }
    code.handlers.sort_by_key(|call| call.return_address);
    found.sort_by_key(|site| (site.code, site.trap.map_or(0, |kind| kind as u8)));
    // The table has at most one trap and one return address for an offset.
    found.dedup_by_key(|site| (site.code, site.trap.is_some()));
    code.sites = sites::encode(start, &found);

    for relocation in buffer.relocs() {
        let target = target(&context.func, relocation)?;
        code.relocations.push(Relocation { offset: relocation.offset, target, addend: relocation.addend });
    }
    Ok((code, text))
}

/// Where code comes from, by what the code generator says about it, ascending. What it says nothing about belongs to what is
/// before it: moves between registers, and the prologue, which belongs to the function's beginning at `start`.
fn places(lines: &Lines, start: u32, locations: &[MachSrcLoc<Final>]) -> Vec<Place> {
    let row = |wasm| lines.find(wasm).unwrap_or(UNKNOWN);
    let mut places = vec![Place { code: 0, row: row(start) }];
    for location in locations.iter().filter(|location| location.loc != SourceLoc::default()) {
        let place = Place { code: location.start, row: row(location.loc.bits()) };
        // What is empty counts for nothing.
        places.pop_if(|last| last.code == place.code);
        if places.last().is_none_or(|last| last.row != place.row) {
            places.push(place);
        }
    }
    places
}

/// What a relocation refers to. The kinds that are not distances in the text do not occur in our code.
fn target(function: &Function, relocation: &FinalizedMachReloc) -> Result<Target, String> {
    match relocation.kind {
        binemit::Reloc::X86PCRel4 | binemit::Reloc::X86CallPCRel4 => {}
        other => return Err(format!("a relocation of kind {other:?}")),
    }
    match &relocation.target {
        FinalizedRelocTarget::ExternalName(ExternalName::User(name)) => {
            match function.params.user_named_funcs().get(*name) {
                Some(name) if name.namespace == RODATA_NAMESPACE => Ok(Target::Rodata),
                Some(name) => Ok(Target::Function(name.index)),
                None => Err("a relocation to an undeclared name".to_owned()),
            }
        }
        other => Err(format!("a relocation to {other:?}, which an instance does not have")),
    }
}

/// The first error, with its function's position among the bodies.
struct FirstError {
    position: AtomicUsize,
    failure: Mutex<Option<(usize, Failure)>>,
}

impl FirstError {
    fn report(&self, position: usize, failure: Failure) {
        let mut first = self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if first.as_ref().is_none_or(|(earlier, _)| position < *earlier) {
            *first = Some((position, failure));
            self.position.fetch_min(position, Ordering::Relaxed);
        }
    }
}

/// Validates all bodies and compares them with the caps, as far as that takes no code.
pub(crate) fn validate_bodies(
    wasm: &[u8],
    bodies: &[Body<'_>],
    caps: &Caps,
    threads: usize,
) -> Result<(), Error> {
    let state = FuncValidatorAllocations::default;
    let validate = |allocations: &mut FuncValidatorAllocations, _, (function, body): &Body<'_>| {
        let function = FuncToValidate {
            resources: function.resources.clone(),
            index: function.index,
            ty: function.ty,
            features: function.features,
        };
        let mut validator = function.into_validator(std::mem::take(allocations));
        let result = validate_body(&mut validator, body, caps);
        *allocations = validator.into_allocations();
        result
    };
    for_each(wasm, bodies.iter().collect(), threads, state, validate).map(drop)
}

fn validate_body(
    validator: &mut FuncValidator<ValidatorResources>,
    body: &FunctionBody<'_>,
    caps: &Caps,
) -> Result<(), Failure> {
    // Before the validator, whose own limit names no key. It counts the parameters from the start.
    let mut locals = u64::from(validator.len_locals());
    for group in body.get_locals_reader()? {
        locals += u64::from(group?.0);
    }
    caps.check(Cap::Locals, "locals of one function", locals)?;
    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader)?;
    let mut operators = OperatorsReader::new(reader);
    let mut br_table_targets = 0u64;
    while !operators.eof() {
        let (operator, offset) = operators.read_with_offset()?;
        if let Operator::BrTable { targets } = &operator {
            let targets = u64::from(targets.len());
            caps.check(Cap::BrTableTargets, "`br_table` targets", targets)?;
            br_table_targets += targets;
            let what = "`br_table` targets in one function";
            caps.check(Cap::FunctionBrTableTargets, what, br_table_targets)?;
        }
        validator.op(offset, &operator)?;
        // The outermost one is the function.
        let nesting = validator.control_stack_height().saturating_sub(1);
        caps.check(Cap::Nesting, "control structures inside each other", nesting.into())?;
    }
    Ok(operators.finish()?)
}

/// Compiles all bodies; one [`Code`] each, in order. `first` is the index of the first body's function.
pub(crate) fn compile_bodies(
    environment: Environment<'_>,
    wasm: &[u8],
    bodies: Vec<Body<'_>>,
    first: u32,
    threads: usize,
    report: Report<'_>,
) -> Result<Vec<Code>, Error> {
    let progress = Progress::begin(bodies.len(), report);
    // The linker checks the same cap, exactly; here it stops a module whose code would fill the memory before that.
    let (cap, total) = (environment.caps.limit(Cap::CodeBytes), AtomicU64::new(0));
    let compile = |compiler: &mut Compiler<'_>, position: usize, body| {
        let (code, _) = compiler.compile(first + position as u32, body)?;
        progress.step();
        let bytes = (code.bytes.len() as u64).next_multiple_of(link::ALIGNMENT as u64);
        if total.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > cap {
            // How far beyond depends on the threads, which an error must not.
            environment.caps.check(Cap::CodeBytes, "bytes of machine code", cap.saturating_add(1))?;
        }
        Ok(code)
    };
    for_each(wasm, bodies, threads, || Compiler::new(environment, None), compile)
}

/// Does something with each item, one per body of the module, on several threads, each with its own state; the results in
/// order.
fn for_each<T: Send, S, R: Send>(
    wasm: &[u8],
    items: Vec<T>,
    threads: usize,
    state: impl Fn() -> S + Sync,
    each: impl Fn(&mut S, usize, T) -> Result<R, Failure> + Sync,
) -> Result<Vec<R>, Error> {
    let count = items.len();
    let queue = Mutex::new(items.into_iter().enumerate());
    let error = FirstError { position: AtomicUsize::new(usize::MAX), failure: Mutex::new(None) };
    let work = || {
        let mut state = state();
        let mut done: Vec<(usize, R)> = Vec::new();
        loop {
            let batch: Vec<_> = {
                let mut queue = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                queue.by_ref().take(BATCH).collect()
            };
            if batch.is_empty() {
                return done;
            }
            for (position, item) in batch {
                // Functions before the failed one are still done, so that the first error is always the same.
                if position > error.position.load(Ordering::Relaxed) {
                    return done;
                }
                match each(&mut state, position, item) {
                    Ok(result) => done.push((position, result)),
                    Err(failure) => {
                        error.report(position, failure);
                        return done;
                    }
                }
            }
        }
    };

    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
    .min(count.div_ceil(BATCH));
    let mut done = if threads <= 1 {
        work()
    } else {
        std::thread::scope(|scope| {
            let spawn = || std::thread::Builder::new().stack_size(THREAD_STACK).spawn_scoped(scope, work);
            // A thread that cannot be had is one fewer; this one takes part, so the work is always done.
            let others: Vec<_> = (1..threads).map_while(|_| spawn().ok()).collect();
            let mut done = work();
            for other in others {
                match other.join() {
                    Ok(mut more) => done.append(&mut more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            done
        })
    };
    let failed = error.failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    match failed {
        Some((_, Failure::Invalid(error))) => return Err(features::explain(wasm, &error)),
        Some((_, Failure::Other(error))) => return Err(error),
        None => {}
    }
    done.sort_unstable_by_key(|(position, _)| *position);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
