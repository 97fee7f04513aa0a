//! What an interface says.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Host functions of one import module, and the types that they speak of.
///
/// Anybody can build one; [`Lowered::new`](crate::Lowered::new) checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The import module's name.
    pub name: String,
    /// What it is for.
    pub doc: String,
    /// Named types.
    pub types: Vec<TypeDef>,
    /// Functions.
    pub functions: Vec<Function>,
}

/// A named type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeDef {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub doc: String,
    /// What it is.
    pub kind: TypeKind,
}

/// What a named type is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TypeKind {
    /// One of several cases, numbered from 0; an `i32`.
    Enum(Vec<Named>),
    /// What a function can fail with: cases numbered from 1; 0 is success.
    Error(Vec<Named>),
    /// Any of several names: bit 0 is the first. An `i32` with up to 32 of them, else an `i64`.
    Flags(Vec<Named>),
    /// Something of the host's, by number; an `i32`. 0 is never one.
    Handle,
    /// Several values with the layout of a C structure.
    Record(Vec<Field>),
}

/// A case or a flag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// What it means.
    pub doc: String,
}

/// A parameter, a result, or a part of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What it means.
    pub doc: String,
    /// Its type.
    pub ty: Type,
}

/// A type. As data it is what TOML writes, so that no nesting has to be followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Type {
    /// `true` or `false`.
    Bool,
    /// 8 bits, signed.
    S8,
    /// 8 bits.
    U8,
    /// 16 bits, signed.
    S16,
    /// 16 bits.
    U16,
    /// 32 bits, signed.
    S32,
    /// 32 bits.
    U32,
    /// 64 bits, signed.
    S64,
    /// 64 bits.
    U64,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// UTF-8 text.
    String,
    /// Any bytes.
    Bytes,
    /// Elements of a type of fixed size.
    List(Box<Type>),
    /// A type of the interface.
    Named(String),
}

impl Type {
    /// The types that have names of their own.
    pub(crate) const BUILTIN: [(&'static str, Self); 13] = [
        ("bool", Self::Bool),
        ("s8", Self::S8),
        ("u8", Self::U8),
        ("s16", Self::S16),
        ("u16", Self::U16),
        ("s32", Self::S32),
        ("u32", Self::U32),
        ("s64", Self::S64),
        ("u64", Self::U64),
        ("f32", Self::F32),
        ("f64", Self::F64),
        ("string", Self::String),
        ("bytes", Self::Bytes),
    ];
}

impl From<Type> for String {
    fn from(ty: Type) -> Self {
        ty.to_string()
    }
}

/// As TOML writes it.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(element) => write!(f, "list<{element}>"),
            Self::Named(name) => f.write_str(name),
            other => {
                let builtin = Self::BUILTIN.iter().find(|(_, ty)| ty == other);
                f.write_str(builtin.map_or("", |(name, _)| name))
            }
        }
    }
}

/// A function of the host app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// The import's field name.
    pub name: String,
    /// What it does.
    pub doc: String,
    /// Parameters.
    pub params: Vec<Field>,
    /// Results.
    pub results: Vec<Field>,
    /// The [`TypeKind::Error`] that it can fail with.
    pub error: Option<String>,
    /// The case of the error that a guest gets when a result is longer than the room that it has.
    pub overflow: Option<String>,
    /// How long it may take; the guest's call traps after that.
    pub deadline: Option<Duration>,
    /// Whether it computes or blocks for long, so that it gets a thread of its own.
    pub blocking: bool,
}

/// How large an interface may be. They bound what one that comes from elsewhere can cost.
pub mod limits {
    /// Functions of an interface.
    pub const FUNCTIONS: usize = 512;
    /// Types of an interface.
    pub const TYPES: usize = 256;
    /// Cases of an enum or an error.
    pub const CASES: usize = 1024;
    /// Flags of one type.
    pub const FLAGS: usize = 64;
    /// Fields of a record.
    pub const FIELDS: usize = 64;
    /// Bytes of a name.
    pub const NAME: usize = 64;
    /// Bytes of a description.
    pub const DOC: usize = 4096;
    /// Elements of a list in one call; of records, fields of all of them together.
    pub const LIST: usize = 65_536;
    /// Parameters and results of a function together: the words of a call.
    pub const ARGS: usize = ipc::interface::ARGS_MAX;
}

/// Where in an interface something is. Numbers count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The interface itself.
    Interface,
    /// A type.
    Type(usize),
    /// A case, flag or field of a type.
    Member(usize, usize),
    /// A function.
    Function(usize),
    /// A parameter of a function.
    Param(usize, usize),
    /// A result of a function.
    Result(usize, usize),
}

/// A rule that an interface breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interface {interface:?}: {problem}{}", help.as_ref().map_or(String::new(), |help| format!("; {help}")))]
pub struct ModelError {
    /// The interface's name.
    pub interface: String,
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub help: Option<String>,
}
