//! Interfaces as Rust traits: what [`host_functions`](crate::host_functions) and [`HostType`](derive@crate::HostType) generate refers to.
//!
//! * this file: which Rust type is which type of an interface, and its values.
//! * `declaration`: from Rust types to an [`Interface`](interface::Interface).
//! * `handle`: things behind handles.
//! * `returns`: what a function can return.
//! * `serving`: from an implementation to a [`Service`](crate::Service).

mod declaration;
mod handle;
#[cfg(doctest)]
mod mistakes;
mod returns;
mod serving;

use interface::{Type, Value};

pub use declaration::{Declaration, enumeration, flags, record};
pub use handle::{Handle, HandleType};
pub use returns::{ErrorType, HostReturn, Results, are_few, is_return};
pub use serving::{Arguments, Fields, ServiceOf};

use crate::imports::HostError;
use crate::service::CallContext;

/// A Rust type of the values of a type of an interface. Own types get it by `#[derive(HostType)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no type of a host function",
    note = "a type is a number, `bool`, `String`, `Vec<u8>`, `Vec<T>`, `Handle<T>`, or derives `HostType`"
)]
pub trait HostType: Sized + Send + 'static {
    /// Which type it is. One with a name becomes part of the interface.
    fn declare(declaration: &mut Declaration) -> Type;

    /// From an argument. A value of another kind is an error.
    fn from_value(value: Value, context: &CallContext) -> Result<Self, HostError>;

    /// As part of a reply.
    fn into_value(self, context: &CallContext) -> Result<Value, HostError>;
}

/// A type of fixed size that is no record: a field of a record can be one.
#[diagnostic::on_unimplemented(
    message = "a field of a record cannot be `{Self}`",
    note = "it is a number, `bool`, an enum, flags or a `Handle<T>`: a field has a fixed size"
)]
pub trait FixedSize: HostType {}

/// A type of the elements of a list.
#[diagnostic::on_unimplemented(
    message = "a list cannot have elements of type `{Self}`",
    note = "they are numbers, `bool`, enums, flags, records or `Handle<T>`: an element has a fixed size"
)]
pub trait Element: HostType {}

macro_rules! numbers {
    ($($rust:ty = $ty:ident $($element:ident)?),* $(,)?) => {
        $(
            impl HostType for $rust {
                fn declare(_: &mut Declaration) -> Type {
                    Type::$ty
                }

                fn from_value(value: Value, _: &CallContext) -> Result<Self, HostError> {
                    match value {
                        Value::$ty(value) => Ok(value),
                        other => Err(mismatch(&other, &Type::$ty.to_string())),
                    }
                }

                fn into_value(self, _: &CallContext) -> Result<Value, HostError> {
                    Ok(Value::$ty(self))
                }
            }

            impl FixedSize for $rust {}

            $(impl $element for $rust {})?
        )*
    };
}

// A list of u8 is bytes, which is another type.
numbers! {
    bool = Bool Element, i8 = S8 Element, u8 = U8, i16 = S16 Element, u16 = U16 Element, i32 = S32 Element, u32 = U32 Element,
    i64 = S64 Element, u64 = U64 Element, f32 = F32 Element, f64 = F64 Element,
}

impl HostType for String {
    fn declare(_: &mut Declaration) -> Type {
        Type::String
    }

    fn from_value(value: Value, _: &CallContext) -> Result<Self, HostError> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(mismatch(&other, "string")),
        }
    }

    fn into_value(self, _: &CallContext) -> Result<Value, HostError> {
        Ok(Value::String(self))
    }
}

impl HostType for Vec<u8> {
    fn declare(_: &mut Declaration) -> Type {
        Type::Bytes
    }

    fn from_value(value: Value, _: &CallContext) -> Result<Self, HostError> {
        match value {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(mismatch(&other, "bytes")),
        }
    }

    fn into_value(self, _: &CallContext) -> Result<Value, HostError> {
        Ok(Value::Bytes(self))
    }
}

impl<T: Element> HostType for Vec<T> {
    fn declare(declaration: &mut Declaration) -> Type {
        Type::List(Box::new(T::declare(declaration)))
    }

    fn from_value(value: Value, context: &CallContext) -> Result<Self, HostError> {
        match value {
            Value::List(elements) => {
                elements.into_iter().map(|element| T::from_value(element, context)).collect()
            }
            other => Err(mismatch(&other, "list")),
        }
    }

    fn into_value(self, context: &CallContext) -> Result<Value, HostError> {
        self.into_iter().map(|element| element.into_value(context)).collect::<Result<_, _>>().map(Value::List)
    }
}

/// The error of a value of another type than declared.
pub fn mismatch(value: &Value, expected: &str) -> HostError {
    match value {
        // A kind that has several types.
        Value::Enum(number) => format!("{number} is no case of {expected}").into(),
        Value::Flags(bits) => format!("{bits:#x} are no flags of {expected}").into(),
        other => format!("it is of type {}, not {expected}", other.kind()).into(),
    }
}

/// Compiles for types of parameters.
pub fn is_type<T: HostType>() {}

/// Compiles for types of fields.
pub fn is_fixed_size<T: FixedSize>() {}
