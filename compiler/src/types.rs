//! WebAssembly value and function types, as this crate and its artifacts carry them.

use std::fmt;

use cranelift_codegen::ir;
use serde::{Deserialize, Serialize};

/// A WebAssembly value type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ValType {
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// 128-bit vector.
    V128,
    /// Reference to a function, of whatever type; its value is an index into the artifact's function descriptors, 0 is
    /// null. Validation has used up what a typed reference says beyond that.
    FuncRef,
    /// Opaque reference to a host value; host value `n` is `n + 1`, 0 is null.
    ExternRef,
    /// Reference to an exception; 0 is null.
    ExnRef,
}

impl ValType {
    /// The type that holds such a value in Cranelift IR.
    pub(crate) fn ir(self) -> ir::Type {
        match self {
            ValType::I32 => ir::types::I32,
            ValType::I64 | ValType::FuncRef | ValType::ExternRef | ValType::ExnRef => ir::types::I64,
            ValType::F32 => ir::types::F32,
            ValType::F64 => ir::types::F64,
            // Every vector is of this type between operators, whatever its lanes.
            ValType::V128 => ir::types::I8X16,
        }
    }

    /// The type that a host function declares as `ty`.
    pub(crate) fn of_host(ty: ipc::interface::ValueType) -> Self {
        match ty {
            ipc::interface::ValueType::I32 => ValType::I32,
            ipc::interface::ValueType::I64 => ValType::I64,
        }
    }

    /// Our name for a parsed type; `None` for the types of proposals that are rejected by validation.
    pub(crate) fn of_wasm(ty: wasmparser::ValType) -> Option<Self> {
        match ty {
            wasmparser::ValType::I32 => Some(ValType::I32),
            wasmparser::ValType::I64 => Some(ValType::I64),
            wasmparser::ValType::F32 => Some(ValType::F32),
            wasmparser::ValType::F64 => Some(ValType::F64),
            wasmparser::ValType::V128 => Some(ValType::V128),
            wasmparser::ValType::Ref(r) => Self::of_ref(r),
        }
    }

    /// Our name for a parsed reference type, see [`Self::of_wasm`].
    pub(crate) fn of_ref(ty: wasmparser::RefType) -> Option<Self> {
        use wasmparser::{AbstractHeapType, HeapType};
        match ty.heap_type() {
            HeapType::Abstract { shared: false, ty: AbstractHeapType::Func } => Some(ValType::FuncRef),
            HeapType::Abstract { shared: false, ty: AbstractHeapType::Extern } => Some(ValType::ExternRef),
            HeapType::Abstract { shared: false, ty: AbstractHeapType::Exn } => Some(ValType::ExnRef),
            // Without garbage collection, only function types are defined.
            HeapType::Concrete(_) => Some(ValType::FuncRef),
            _ => None,
        }
    }
}

impl fmt::Display for ValType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ValType::I32 => "i32",
            ValType::I64 => "i64",
            ValType::F32 => "f32",
            ValType::F64 => "f64",
            ValType::V128 => "v128",
            ValType::FuncRef => "funcref",
            ValType::ExternRef => "externref",
            ValType::ExnRef => "exnref",
        })
    }
}

/// What a reference is, beyond its type: code relies on it without a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The signature id of the function, where the type tells.
    pub signature: Option<u32>,
    /// Whether it can be null.
    pub nullable: bool,
}

impl Reference {
    /// Any of its type, or null. Of what is no reference, it says nothing.
    pub const ANY: Self = Self { signature: None, nullable: true };
}

/// A function type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FuncType {
    /// Parameter types.
    pub params: Vec<ValType>,
    /// Result types.
    pub results: Vec<ValType>,
}

impl fmt::Display for FuncType {
    /// Writes the type as `(i32, i64) -> (i32)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}) -> ({})", List(&self.params), List(&self.results))
    }
}

struct List<'a>(&'a [ValType]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, ty) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{ty}")?;
        }
        Ok(())
    }
}
