//! A module's calls in Wasmtime: they are chosen here, as the other side repeats them.

use compiler::TrapKind;
use wasmtime::{
    Config, Engine, Extern, ExternRef, HeapType, Instance, Module, OperatorCost, OptLevel, Ref, Store,
    ThrownException, Trap, Val, ValType,
};

use crate::loader::hash;
use crate::mode::{FUEL, Mode};
use crate::seen::{Call, Ended, Exported, Run, Seen, Value};

/// Instances of one module at most. After a trap by `unreachable` there is a new one: it may mean that the fuel is used up.
const INSTANCES: usize = 8;

/// How often each function is called, with other arguments each time.
const ROUNDS: u64 = 4;

/// Wasmtime, set up in every way that a [`Mode`] can ask for.
pub struct Engines([Engine; 8]);

impl Engines {
    /// Sets them up.
    pub fn new() -> wasmtime::Result<Self> {
        let engines =
            (0..8).map(|i| engine(i & 1 != 0, i & 2 != 0, i & 4 != 0)).collect::<Result<Vec<_>, _>>()?;
        engines.try_into().map(Self).map_err(|_| wasmtime::Error::msg("there are eight"))
    }

    /// The engine for a mode.
    pub fn of(&self, mode: Mode) -> &Engine {
        let bit = |value: bool, bit: usize| if value { bit } else { 0 };
        let [optimises, fuel, nan] = [mode.peer_optimises, mode.fuel, mode.nan_canonicalization];
        &self.0[bit(optimises, 1) | bit(fuel, 2) | bit(nan, 4)]
    }
}

fn engine(optimise: bool, fuel: bool, nan_canonicalization: bool) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .cranelift_opt_level(if optimise { OptLevel::Speed } else { OptLevel::None })
        .cranelift_nan_canonicalization(nan_canonicalization)
        .consume_fuel(fuel)
        .operator_cost(costs())
        .max_wasm_stack(1 << 20)
        .memory_init_cow(false)
        .wasm_reference_types(true)
        .wasm_function_references(true)
        .wasm_exceptions(true)
        .wasm_tail_call(true)
        .wasm_multi_memory(true)
        .wasm_memory64(true)
        .wasm_threads(true)
        .wasm_relaxed_simd(true)
        .wasm_wide_arithmetic(true);
    // What a relaxed operator does is up to the implementation. We do what x86 does at the cost of one instruction, and so does
    // Wasmtime but for multiplying and adding, which it rounds once on a processor that can.
    // SAFETY: an instruction less to be used.
    unsafe { config.cranelift_flag_set("has_fma", "false") };
    Engine::new(&config)
}

/// Wasmtime's default but for what a bulk operation's length costs, which is nothing on our side.
fn costs() -> OperatorCost {
    let mut costs = OperatorCost::new();
    let variable = &mut costs.variable;
    for cost in [
        &mut variable.memory_copy_per_byte,
        &mut variable.memory_fill_per_byte,
        &mut variable.memory_init_per_byte,
        &mut variable.memory_grow_per_page,
        &mut variable.table_copy_per_element,
        &mut variable.table_fill_per_element,
        &mut variable.table_init_per_element,
        &mut variable.table_grow_per_element,
    ] {
        *cost = 0;
    }
    costs
}

/// Runs every exported function with a few arguments, made of `seed`. An error: the module does not compile, or says
/// something that the comparison does not know.
pub fn run(engine: &Engine, wasm: &[u8], seed: u64) -> wasmtime::Result<Vec<Run>> {
    let module = Module::new(engine, wasm)?;
    let mut calls = Vec::new();
    for round in 0..ROUNDS {
        for (position, export) in module.exports().enumerate() {
            if let Some(function) = export.ty().func() {
                let random = crate::generate::bytes(seed ^ (position as u64) << 32 ^ round, 8 * 64);
                let words = random.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
                let arguments = function.params().zip(words.cycle()).map(|(ty, word)| argument(&ty, word));
                let arguments = arguments.collect::<Option<Vec<_>>>();
                let arguments =
                    arguments.ok_or_else(|| wasmtime::Error::msg("a parameter of unknown type"))?;
                calls.push(Call { export: export.name().to_owned(), arguments });
            }
        }
    }
    let mut calls = calls.into_iter().peekable();
    let mut runs = Vec::new();
    while runs.len() < INSTANCES && (runs.is_empty() || calls.peek().is_some()) {
        let mut store = Store::new(engine, ());
        // An error: it is not counted.
        let _ = store.set_fuel(FUEL as u64);
        let mut run = Run::default();
        let instance = match Instance::new(&mut store, &module, &[]) {
            Ok(instance) => instance,
            Err(error) => {
                let ended = failed(&mut store, &error);
                run.started = Some(Seen { ended, state: Vec::new(), fuel: None });
                runs.push(run);
                break;
            }
        };
        let state = state(&mut store, &instance, &module)?;
        run.started = Some(Seen { ended: Ended::Returned(Vec::new()), state, fuel: None });
        for call in calls.by_ref() {
            let seen = make(&mut store, &instance, &module, &call)?;
            let stop = matches!(seen.ended, Ended::Trapped(TrapKind::Unreachable | TrapKind::StackExhausted));
            run.calls.push((call, seen));
            if stop {
                break;
            }
        }
        runs.push(run);
    }
    Ok(runs)
}

fn make(store: &mut Store<()>, instance: &Instance, module: &Module, call: &Call) -> wasmtime::Result<Seen> {
    let function = instance.get_func(&mut *store, &call.export);
    let function = function.ok_or_else(|| wasmtime::Error::msg("an export is gone"))?;
    let ty = function.ty(&*store);
    let arguments = ty.params().zip(&call.arguments).map(|(ty, value)| to_val(store, &ty, *value));
    let arguments = arguments.collect::<wasmtime::Result<Vec<_>>>()?;
    let mut results = vec![Val::I32(0); ty.results().len()];
    let before = store.get_fuel().ok();
    let ended = match function.call(&mut *store, &arguments, &mut results) {
        Ok(()) => Ended::Returned(
            results.iter().map(|value| of_val(store, value)).collect::<wasmtime::Result<_>>()?,
        ),
        Err(error) => failed(store, &error),
    };
    let used = before.zip(store.get_fuel().ok()).map(|(before, after)| before - after);
    let fuel = used.filter(|_| matches!(ended, Ended::Returned(_)));
    Ok(Seen { ended, state: state(store, instance, module)?, fuel })
}

fn state(
    store: &mut Store<()>,
    instance: &Instance,
    module: &Module,
) -> wasmtime::Result<Vec<(String, Exported)>> {
    let mut state = Vec::new();
    for export in module.exports() {
        let exported = match instance.get_export(&mut *store, export.name()) {
            Some(Extern::Global(global)) => {
                let value = global.get(&mut *store);
                Exported::Global(of_val(store, &value)?)
            }
            Some(Extern::Memory(memory)) => {
                let bytes = memory.data(&*store);
                Exported::Memory(bytes.len() as u64, hash(bytes))
            }
            Some(Extern::Table(table)) => Exported::Table(table.size(&*store)),
            _ => continue,
        };
        state.push((export.name().to_owned(), exported));
    }
    Ok(state)
}

/// How a call ended that did not return. An exception that nobody caught is taken from the store.
fn failed(store: &mut Store<()>, error: &wasmtime::Error) -> Ended {
    if error.is::<ThrownException>() && store.take_pending_exception().is_some() {
        return Ended::Trapped(TrapKind::UncaughtException);
    }
    let kind = match error.downcast_ref::<Trap>() {
        Some(Trap::UnreachableCodeReached) => TrapKind::Unreachable,
        Some(Trap::MemoryOutOfBounds) => TrapKind::MemoryOutOfBounds,
        Some(Trap::IntegerDivisionByZero) => TrapKind::IntegerDivideByZero,
        Some(Trap::IntegerOverflow) => TrapKind::IntegerOverflow,
        Some(Trap::BadConversionToInteger) => TrapKind::InvalidConversionToInteger,
        Some(Trap::BadSignature) => TrapKind::IndirectCallTypeMismatch,
        Some(Trap::IndirectCallToNull) => TrapKind::UninitializedElement,
        Some(Trap::TableOutOfBounds) => TrapKind::TableOutOfBounds,
        Some(Trap::NullReference) => TrapKind::NullReference,
        Some(Trap::HeapMisaligned) => TrapKind::UnalignedAtomic,
        Some(Trap::AtomicWaitNonSharedMemory) => TrapKind::ExpectedSharedMemory,
        Some(Trap::StackOverflow) => TrapKind::StackExhausted,
        _ => return Ended::Broken(format!("{error:?}")),
    };
    Ended::Trapped(kind)
}

/// An argument out of a random word: half of them a value that is often special.
fn argument(ty: &ValType, word: u64) -> Option<Value> {
    const I32: [u32; 8] = [0, 1, u32::MAX, 1 << 31, (1 << 31) - 1, 8, 0xffff, 0x1_0000];
    const I64: [u64; 8] = [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 32, u32::MAX as u64, 64];
    const F32: [f32; 8] = [0.0, -0.0, 1.5, f32::INFINITY, f32::NAN, f32::MIN_POSITIVE, -2147483648.0, 4e9];
    const F64: [f64; 8] = [0.0, -0.0, 1.5, f64::INFINITY, f64::NAN, 5e-324, -9223372036854775808.0, 4e9];
    let (special, pick) = (word & 1 == 0, (word >> 1) as usize % 8);
    Some(match ty {
        ValType::I32 if special => Value::Bits(I32[pick].into()),
        ValType::I32 => Value::Bits(u128::from((word >> 4) as u32)),
        ValType::I64 if special => Value::Bits(I64[pick].into()),
        ValType::I64 => Value::Bits(word.rotate_left(20).into()),
        ValType::F32 if special => Value::Bits(F32[pick].to_bits().into()),
        ValType::F32 => Value::Bits(((word >> 4) as i32 as f32 / 256.0).to_bits().into()),
        ValType::F64 if special => Value::Bits(F64[pick].to_bits().into()),
        ValType::F64 => Value::Bits(((word as i64 >> 4) as f64 / 65536.0).to_bits().into()),
        ValType::Ref(ty) => match ty.heap_type() {
            HeapType::Func => Value::Function(false),
            HeapType::Exn => Value::Exception(false),
            HeapType::Extern => Value::Host((!special).then_some((word >> 4) as u32)),
            _ => return None,
        },
        // Lanes that are special numbers of one kind, or two words.
        ValType::V128 if special => match word >> 4 & 3 {
            0 => Value::Bits(u128::from(I32[pick]) * (u128::MAX / u128::from(u32::MAX))),
            1 => Value::Bits(u128::from(I64[pick]) << 64 | u128::from(I64[(pick + 3) % 8])),
            2 => Value::Bits(u128::from(F32[pick].to_bits()) * (u128::MAX / u128::from(u32::MAX))),
            _ => {
                Value::Bits(u128::from(F64[pick].to_bits()) << 64 | u128::from(F64[(pick + 5) % 8].to_bits()))
            }
        },
        ValType::V128 => {
            let high = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
            Value::Bits(u128::from(high) << 64 | u128::from(word))
        }
    })
}

fn to_val(store: &mut Store<()>, ty: &ValType, value: Value) -> wasmtime::Result<Val> {
    let bits = value.slot();
    Ok(match ty {
        ValType::I32 => Val::I32(bits as u32 as i32),
        ValType::I64 => Val::I64(bits as i64),
        ValType::F32 => Val::F32(bits as u32),
        ValType::F64 => Val::F64(bits as u64),
        ValType::Ref(ty) => match value {
            Value::Host(Some(host)) => Val::ExternRef(Some(ExternRef::new(&mut *store, host)?)),
            _ => Ref::null(ty.heap_type()).into(),
        },
        ValType::V128 => Val::V128(bits.into()),
    })
}

fn of_val(store: &mut Store<()>, value: &Val) -> wasmtime::Result<Value> {
    Ok(match value {
        Val::I32(value) => Value::Bits((*value as u32).into()),
        Val::I64(value) => Value::Bits((*value as u64).into()),
        Val::F32(bits) => Value::Bits((*bits).into()),
        Val::F64(bits) => Value::Bits((*bits).into()),
        Val::V128(value) => Value::Bits(value.as_u128()),
        Val::FuncRef(function) => Value::Function(function.is_some()),
        Val::ExnRef(exception) => Value::Exception(exception.is_some()),
        Val::ExternRef(None) => Value::Host(None),
        Val::ExternRef(Some(host)) => {
            Value::Host(host.data(&*store)?.and_then(|data| data.downcast_ref::<u32>()).copied())
        }
        other => return Err(wasmtime::Error::msg(format!("a value of unknown type: {other:?}"))),
    })
}
