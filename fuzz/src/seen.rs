//! What can be seen of an instance from outside, in the same terms for both sides.

use compiler::{TrapKind, ValType};

/// A value of a parameter, result or global.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number or a vector by its bits, zero-extended.
    Bits(u128),
    /// A function reference: whether it is one.
    Function(bool),
    /// A host reference.
    Host(Option<u32>),
    /// An exception: whether it is one.
    Exception(bool),
}

impl Value {
    /// The value that our code holds as `slot`.
    pub fn of_slot(slot: u128, ty: ValType) -> Self {
        // A narrower value's slot has a second word of which nothing is said.
        let word = slot as u64;
        match ty {
            ValType::V128 => Value::Bits(slot),
            ValType::FuncRef => Value::Function(word != 0),
            ValType::ExnRef => Value::Exception(word != 0),
            ValType::ExternRef => {
                Value::Host(word.checked_sub(1).map(|n| u32::try_from(n).unwrap_or(u32::MAX)))
            }
            // A narrow result must be zero-extended, or what is above its bits shows up as a difference.
            _ => Value::Bits(word.into()),
        }
    }

    /// What our code takes for it; a reference to a function or an exception can only be null.
    pub fn slot(self) -> u128 {
        match self {
            Value::Bits(bits) => bits,
            Value::Function(_) | Value::Exception(_) => 0,
            Value::Host(value) => value.map_or(0, |value| u128::from(value) + 1),
        }
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It returned these.
    Returned(Vec<Value>),
    /// It trapped.
    Trapped(TrapKind),
    /// Something that no module may do; with what is known about it.
    Broken(String),
}

/// The state of one export that has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exported {
    /// A global's value.
    Global(Value),
    /// A memory's bytes: how many, and their hash.
    Memory(u64, u64),
    /// A table's entries.
    Table(u64),
}

/// What is seen after a call: how it ended, and the exports' state by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How the call ended.
    pub ended: Ended,
    /// Exported globals, memories and tables, in the module's order.
    pub state: Vec<(String, Exported)>,
    /// The fuel that a call used which returned, where it is counted and can be read.
    pub fuel: Option<u64>,
}

/// A call of an export.
#[derive(Clone, Debug)]
pub struct Call {
    /// The export.
    pub export: String,
    /// Its arguments.
    pub arguments: Vec<Value>,
}

/// What happened in one instance: its start, then its calls.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The calls, each with what was seen after it.
    pub calls: Vec<(Call, Seen)>,
    /// What was seen after the instantiation and the start function.
    pub started: Option<Seen>,
}
