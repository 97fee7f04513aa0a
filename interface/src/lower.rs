//! What an interface becomes in WebAssembly.
//!
//! Parameters first, in order: a value is one parameter; a string, bytes or a list is an address and a number of bytes or elements; a record is
//! an address. A function without an error whose only result is a plain value returns that. Otherwise results are written by
//! address, after the parameters: a value or a record is an address; a string, bytes or a list is an address, the room there in bytes or
//! elements, and the address of a `u32` for how many were written. A function with an error returns an `i32`: 0, or the error's number.

use std::fmt;
use std::sync::Arc;

use ipc::typed::Arg;

use crate::model::{Function, Interface, ModelError, TypeKind, limits};
use crate::rules::Rules;
use crate::scalar::{Layout, Scalar};
use crate::value::{HandleCheck, Value};

/// A type of WebAssembly values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WasmType {
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

impl fmt::Display for WasmType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        })
    }
}

/// A resolved type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Scalar(Scalar),
    Record(Arc<Layout>),
    String,
    Bytes,
    List(Element),
}

impl Shape {
    /// Whether the length of a value is not known before the call.
    pub(crate) fn has_length(&self) -> bool {
        matches!(self, Self::String | Self::Bytes | Self::List(_))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Scalar(Scalar),
    Record(Arc<Layout>),
}

impl Element {
    pub(crate) fn size(&self) -> u32 {
        match self {
            Self::Scalar(scalar) => scalar.size(),
            Self::Record(layout) => layout.size,
        }
    }

    /// Elements of a list, at most.
    pub(crate) fn most(&self) -> usize {
        match self {
            Self::Scalar(_) => limits::LIST,
            Self::Record(layout) => limits::LIST / layout.fields.len().max(1),
        }
    }

    /// The value of the bytes of one.
    pub(crate) fn of_bytes(&self, bytes: &[u8], handles: &dyn HandleCheck) -> Result<Value, String> {
        match self {
            Self::Scalar(scalar) => scalar.of_bytes(bytes, handles),
            Self::Record(layout) => layout.of_bytes(bytes, handles),
        }
    }

    /// The bytes of one.
    pub(crate) fn to_bytes(&self, value: &Value, handles: &dyn HandleCheck) -> Result<Vec<u8>, String> {
        match self {
            Self::Scalar(scalar) => scalar.to_bytes(value, handles),
            Self::Record(layout) => layout.to_bytes(value, handles),
        }
    }
}

/// One parameter or result.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    /// How it is marshalled; `None` for the WebAssembly result.
    pub(crate) arg: Option<Arg>,
}

/// Name of an error, and how many cases it has.
pub(crate) type ErrorCases = (String, u32);

/// A function, lowered.
#[derive(Clone, Debug)]
pub struct LoweredFunction {
    pub(crate) name: String,
    pub(crate) wasm_params: Vec<WasmType>,
    pub(crate) wasm_results: Vec<WasmType>,
    pub(crate) params: Vec<Slot>,
    pub(crate) results: Vec<Slot>,
    /// Name and cases of its error.
    pub(crate) error: Option<ErrorCases>,
    /// Number of the case for results that are too long.
    pub(crate) overflow: Option<u32>,
    pub(crate) declaration: Function,
}

impl LoweredFunction {
    /// `interface.function`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The import's field name.
    fn field(&self) -> &str {
        &self.declaration.name
    }

    /// What the interface says.
    pub fn declaration(&self) -> &Function {
        &self.declaration
    }

    /// WebAssembly parameters.
    pub fn params(&self) -> &[WasmType] {
        &self.wasm_params
    }

    /// WebAssembly results.
    pub fn results(&self) -> &[WasmType] {
        &self.wasm_results
    }

    /// How its calls are marshalled.
    pub fn args(&self) -> impl Iterator<Item = Arg> {
        self.params.iter().chain(&self.results).filter_map(|slot| slot.arg)
    }
}

/// A checked interface.
#[derive(Clone, Debug)]
pub struct Lowered {
    interface: Interface,
    pub(crate) functions: Vec<LoweredFunction>,
    /// Positions of the functions, sorted by their names: a module of a stranger's has many imports to be found among them.
    by_name: Vec<u16>,
}

const _: () = assert!(limits::FUNCTIONS <= u16::MAX as usize, "a position has 16 bits");

impl Lowered {
    /// Checks an interface and lowers it.
    pub fn new(interface: Interface) -> Result<Self, ModelError> {
        let rules = Rules::new(&interface);
        rules.check()?;
        let functions = interface.functions.iter().enumerate();
        let functions: Vec<_> =
            functions.map(|(index, function)| rules.lower(index, function)).collect::<Result<_, _>>()?;
        let mut by_name: Vec<u16> = (0..functions.len() as u16).collect();
        by_name.sort_by_key(|index| functions.get(usize::from(*index)).map(LoweredFunction::field));
        Ok(Self { interface, functions, by_name })
    }

    /// What it was made of.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Its functions, in order.
    pub fn functions(&self) -> &[LoweredFunction] {
        &self.functions
    }

    /// The function with this name.
    pub fn function(&self, name: &str) -> Option<&LoweredFunction> {
        self.functions.get(self.position(name)?)
    }

    /// The position of the function with this name.
    pub fn position(&self, name: &str) -> Option<usize> {
        let field = |index: &u16| self.functions.get(usize::from(*index)).map(LoweredFunction::field);
        let found = self.by_name.binary_search_by_key(&Some(name), field).ok()?;
        self.by_name.get(found).copied().map(usize::from)
    }

    /// Number of the handle type with this name.
    pub fn handle_kind(&self, name: &str) -> Option<usize> {
        self.interface.types.iter().position(|ty| ty.name == name && ty.kind == TypeKind::Handle)
    }
}
