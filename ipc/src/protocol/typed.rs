//! Values of typed functions that a client serves, and the handles that it gives out.
//!
//! The types bound what a hostile peer can say: nothing nests deeper than a list of records, and no element takes much more memory
//! than bytes of a frame.

use serde::{Deserialize, Serialize};

use super::Bytes;

/// A value of fixed size that is no record.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum TypedScalar {
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
}

/// A value of an interface's type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TypedValue {
    /// A value of fixed size that is no record.
    Scalar(TypedScalar),
    /// `string`.
    String(String),
    /// `bytes`.
    Bytes(Bytes),
    /// A record, field by field.
    Record(Vec<TypedScalar>),
    /// A list of values that are no records; an empty list of anything.
    List(Vec<TypedScalar>),
    /// A list of records.
    Records {
        /// Fields of each; not 0.
        fields: u32,
        /// All fields of the first, then of the next.
        values: Vec<TypedScalar>,
    },
}

/// A handle that the client has given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedHandle {
    /// Its number: a generation, from 1, in the high half, a place in the low half. A place has one handle at a time, each of a
    /// higher generation than the one before.
    pub handle: u32,
    /// Its kind: a position among the types of the interface.
    pub kind: u32,
}

/// What has become of the handles of an interface, since the last answer of a function of this interface in this instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandleChanges {
    /// Handles that are no longer valid. They come first: their places can be used again.
    pub closed: Vec<u32>,
    /// Handles that are valid from now on.
    pub opened: Vec<OpenedHandle>,
}

impl HandleChanges {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.opened.is_empty()
    }
}
