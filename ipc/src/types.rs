//! Types of values and of exports, as they are told to other processes.

use serde::{Deserialize, Serialize};

use crate::report::Value;

/// Type of a [`Value`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueType {
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
    /// Function reference.
    FuncRef,
    /// Opaque reference of the host.
    ExternRef,
    /// Reference to an exception.
    ExnRef,
}

impl ValueType {
    /// The type of a value.
    pub fn of(value: &Value) -> Self {
        match value {
            Value::I32(_) => Self::I32,
            Value::I64(_) => Self::I64,
            Value::F32(_) => Self::F32,
            Value::F64(_) => Self::F64,
            Value::V128(_) => Self::V128,
            Value::FuncRef(_) => Self::FuncRef,
            Value::ExternRef(_) => Self::ExternRef,
            Value::ExnRef(_) => Self::ExnRef,
        }
    }

    /// What is wrong with values that should be of these types, if anything is. One short line, however many there are.
    pub fn mismatch(types: &[ValueType], values: &[Value]) -> Option<String> {
        if values.len() != types.len() {
            return Some(format!("{} values instead of {}", values.len(), types.len()));
        }
        let found = values.iter().map(Self::of);
        let (index, (found, expected)) =
            found.zip(types).enumerate().find(|(_, (found, expected))| found != *expected)?;
        Some(format!("an {found} instead of an {expected} as value {index}"))
    }
}

impl std::fmt::Display for ValueType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::V128 => "v128",
            Self::FuncRef => "funcref",
            Self::ExternRef => "externref",
            Self::ExnRef => "exnref",
        })
    }
}

/// An export of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// What it is.
    pub ty: ExportType,
}

/// What an export is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExportType {
    /// A function.
    Function {
        /// Types of its parameters.
        params: Vec<ValueType>,
        /// Types of its results.
        results: Vec<ValueType>,
    },
    /// A global.
    Global {
        /// Type of its value.
        value: ValueType,
        /// Whether it can be given another value.
        mutable: bool,
    },
    /// A linear memory.
    Memory {
        /// Its index in the module.
        index: u32,
        /// Indices have 64 bits.
        memory64: bool,
    },
    /// A table.
    Table {
        /// Type of its entries.
        element: ValueType,
    },
    /// A tag of exceptions.
    Tag {
        /// Types of the values that they carry.
        params: Vec<ValueType>,
    },
}

impl std::fmt::Display for ExportType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |types: &[ValueType]| {
            let names: Vec<String> = types.iter().map(ToString::to_string).collect();
            format!("({})", names.join(", "))
        };
        match self {
            Self::Function { params, results } => write!(f, "func {} -> {}", list(params), list(results)),
            Self::Global { value, mutable: true } => write!(f, "global mut {value}"),
            Self::Global { value, mutable: false } => write!(f, "global {value}"),
            Self::Memory { index, memory64: false } => write!(f, "memory {index}"),
            Self::Memory { index, memory64: true } => write!(f, "memory {index} of 64 bits"),
            Self::Table { element } => write!(f, "table of {element}"),
            Self::Tag { params } => write!(f, "tag {}", list(params)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_with_types_in_number_and_kind() {
        let types = [ValueType::I32, ValueType::F64];
        assert_eq!(ValueType::mismatch(&types, &[Value::I32(1), Value::F64(2)]), None);
        let mismatch = |values: &[Value]| ValueType::mismatch(&types, values).expect("a mismatch");
        assert_eq!(mismatch(&[]), "0 values instead of 2");
        assert_eq!(mismatch(&[Value::I32(1); 3]), "3 values instead of 2");
        assert_eq!(mismatch(&[Value::I32(1), Value::I64(2)]), "an i64 instead of an f64 as value 1");
    }
}
