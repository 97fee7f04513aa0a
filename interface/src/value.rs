//! Arguments and replies.

use serde::{Deserialize, Serialize};

/// A value of an interface's type. What it must be is in the function's declaration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// `bool`.
    Bool(bool),
    /// `s8`.
    S8(i8),
    /// `u8`.
    U8(u8),
    /// `s16`.
    S16(i16),
    /// `u16`.
    U16(u16),
    /// `s32`.
    S32(i32),
    /// `u32`.
    U32(u32),
    /// `s64`.
    S64(i64),
    /// `u64`.
    U64(u64),
    /// `f32`.
    F32(f32),
    /// `f64`.
    F64(f64),
    /// A case of an enum, by its number.
    Enum(u32),
    /// Flags, bit by bit.
    Flags(u64),
    /// A handle, as the guest has it.
    Handle(u32),
    /// `string`.
    String(String),
    /// `bytes`.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// A record, field by field.
    Record(Vec<Value>),
}

impl Value {
    /// The type's name, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::S8(_) => "s8",
            Self::U8(_) => "u8",
            Self::S16(_) => "s16",
            Self::U16(_) => "u16",
            Self::S32(_) => "s32",
            Self::U32(_) => "u32",
            Self::S64(_) => "s64",
            Self::U64(_) => "u64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Enum(_) => "enum",
            Self::Flags(_) => "flags",
            Self::Handle(_) => "handle",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Record(_) => "record",
        }
    }
}

/// What a function answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Its results.
    Values(Vec<Value>),
    /// It failed, with a case of its error by its number.
    Error(u32),
}

impl From<Vec<Value>> for Reply {
    fn from(values: Vec<Value>) -> Self {
        Self::Values(values)
    }
}

/// Who knows which handles are open.
pub trait HandleCheck {
    /// Why `handle` is none of this kind, a number of [`Interface::types`](crate::Interface::types); `None` if it is one.
    fn refuse(&self, handle: u32, kind: usize) -> Option<String>;
}
