//! The kinds of WebAssembly traps, and how compiled code marks the instructions that raise them.

use std::fmt;

use cranelift_codegen::ir::TrapCode;
use serde::{Deserialize, Serialize};

/// Why a guest trapped. `Display` writes the wording of the WebAssembly specification's tests and of Wasmtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum TrapKind {
    /// `unreachable` was executed.
    Unreachable = 1,
    /// An access outside of a linear memory.
    MemoryOutOfBounds = 2,
    /// An integer was divided by zero.
    IntegerDivideByZero = 3,
    /// The quotient of the smallest integer and -1.
    IntegerOverflow = 4,
    /// A float that is NaN or out of range was truncated to an integer.
    InvalidConversionToInteger = 5,
    /// An indirect call of a function that has another type.
    IndirectCallTypeMismatch = 6,
    /// An indirect call of a null reference.
    UninitializedElement = 7,
    /// An access outside of a table, by an indirect call too.
    TableOutOfBounds = 8,
    /// The guest's stack is used up. No instruction is marked with it: the guard page tells.
    StackExhausted = 9,
    /// An exception without a handler. Its site is the throw.
    UncaughtException = 10,
    /// `throw_ref` of a null reference.
    NullException = 11,
    /// More exceptions are referred to than have room.
    ExceptionMemory = 12,
    /// More fuel was used than the job gave.
    OutOfFuel = 13,
    /// An atomic access to an address that is no multiple of its width.
    UnalignedAtomic = 14,
    /// A wait on a memory that is not shared: nobody could wake the guest.
    ExpectedSharedMemory = 15,
    /// A call through a null reference of a function type.
    NullFunctionReference = 16,
    /// `ref.as_non_null` of the null reference.
    NullReference = 17,
    /// A function that the host side provides failed.
    HostFunction = 20,
}

impl TrapKind {
    /// Every kind.
    pub const ALL: [TrapKind; 18] = [
        TrapKind::Unreachable,
        TrapKind::MemoryOutOfBounds,
        TrapKind::IntegerDivideByZero,
        TrapKind::IntegerOverflow,
        TrapKind::InvalidConversionToInteger,
        TrapKind::IndirectCallTypeMismatch,
        TrapKind::UninitializedElement,
        TrapKind::TableOutOfBounds,
        TrapKind::StackExhausted,
        TrapKind::UncaughtException,
        TrapKind::NullException,
        TrapKind::ExceptionMemory,
        TrapKind::OutOfFuel,
        TrapKind::UnalignedAtomic,
        TrapKind::ExpectedSharedMemory,
        TrapKind::NullFunctionReference,
        TrapKind::NullReference,
        TrapKind::HostFunction,
    ];

    /// The kind with this number, as artifacts hold it.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The kind that an instruction marked with `code` raises.
    pub(crate) fn of_code(code: TrapCode) -> Option<Self> {
        Some(match code {
            UNREACHABLE => TrapKind::Unreachable,
            TABLE_OUT_OF_BOUNDS => TrapKind::TableOutOfBounds,
            NULL_ELEMENT => TrapKind::UninitializedElement,
            TYPE_MISMATCH => TrapKind::IndirectCallTypeMismatch,
            UNCAUGHT_EXCEPTION => TrapKind::UncaughtException,
            NULL_EXCEPTION => TrapKind::NullException,
            EXCEPTION_MEMORY => TrapKind::ExceptionMemory,
            OUT_OF_FUEL => TrapKind::OutOfFuel,
            UNALIGNED_ATOMIC => TrapKind::UnalignedAtomic,
            EXPECTED_SHARED => TrapKind::ExpectedSharedMemory,
            NULL_FUNCTION_REFERENCE => TrapKind::NullFunctionReference,
            NULL_REFERENCE => TrapKind::NullReference,
            HOST_FUNCTION => TrapKind::HostFunction,
            TrapCode::HEAP_OUT_OF_BOUNDS => TrapKind::MemoryOutOfBounds,
            TrapCode::INTEGER_DIVISION_BY_ZERO => TrapKind::IntegerDivideByZero,
            TrapCode::INTEGER_OVERFLOW => TrapKind::IntegerOverflow,
            TrapCode::BAD_CONVERSION_TO_INTEGER => TrapKind::InvalidConversionToInteger,
            TrapCode::STACK_OVERFLOW => TrapKind::StackExhausted,
            _ => return None,
        })
    }
}

impl fmt::Display for TrapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrapKind::Unreachable => "wasm `unreachable` instruction executed",
            TrapKind::MemoryOutOfBounds => "out of bounds memory access",
            TrapKind::IntegerDivideByZero => "integer divide by zero",
            TrapKind::IntegerOverflow => "integer overflow",
            TrapKind::InvalidConversionToInteger => "invalid conversion to integer",
            TrapKind::IndirectCallTypeMismatch => "indirect call type mismatch",
            TrapKind::UninitializedElement => "uninitialized element",
            TrapKind::TableOutOfBounds => "undefined element: out of bounds table access",
            TrapKind::StackExhausted => "call stack exhausted",
            TrapKind::UncaughtException => "thrown Wasm exception",
            TrapKind::NullException => "null exception reference",
            TrapKind::ExceptionMemory => "out of memory for exceptions",
            TrapKind::OutOfFuel => "all fuel consumed by WebAssembly",
            TrapKind::UnalignedAtomic => "unaligned atomic",
            TrapKind::ExpectedSharedMemory => "expected shared memory",
            TrapKind::NullFunctionReference => "null function reference",
            TrapKind::NullReference => "null reference",
            TrapKind::HostFunction => "host function failed",
        })
    }
}

pub(crate) const UNREACHABLE: TrapCode = TrapCode::unwrap_user(1);
pub(crate) const TABLE_OUT_OF_BOUNDS: TrapCode = TrapCode::unwrap_user(2);
pub(crate) const NULL_ELEMENT: TrapCode = TrapCode::unwrap_user(3);
pub(crate) const TYPE_MISMATCH: TrapCode = TrapCode::unwrap_user(4);
pub(crate) const UNCAUGHT_EXCEPTION: TrapCode = TrapCode::unwrap_user(5);
pub(crate) const NULL_EXCEPTION: TrapCode = TrapCode::unwrap_user(6);
pub(crate) const EXCEPTION_MEMORY: TrapCode = TrapCode::unwrap_user(7);
pub(crate) const OUT_OF_FUEL: TrapCode = TrapCode::unwrap_user(8);
pub(crate) const UNALIGNED_ATOMIC: TrapCode = TrapCode::unwrap_user(9);
pub(crate) const EXPECTED_SHARED: TrapCode = TrapCode::unwrap_user(10);
pub(crate) const NULL_FUNCTION_REFERENCE: TrapCode = TrapCode::unwrap_user(11);
pub(crate) const NULL_REFERENCE: TrapCode = TrapCode::unwrap_user(12);
pub(crate) const HOST_FUNCTION: TrapCode = TrapCode::unwrap_user(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_code_of_ours_or_of_cranelift() {
        let ours = (1..=u8::MAX).filter_map(TrapCode::user);
        let codes = ours.chain(TrapCode::non_user_traps().iter().copied());
        let mut kinds: Vec<u8> = codes.filter_map(TrapKind::of_code).map(|kind| kind as u8).collect();
        kinds.sort_unstable();
        let mut all = TrapKind::ALL.map(|kind| kind as u8);
        all.sort_unstable();
        assert_eq!(kinds, all);
    }

    #[test]
    fn numbers_round_trip() {
        for kind in TrapKind::ALL {
            assert_eq!(TrapKind::from_number(kind as u8), Some(kind));
        }
        assert_eq!(TrapKind::from_number(0), None);
        assert_eq!(TrapKind::from_number(60), None);
    }
}
