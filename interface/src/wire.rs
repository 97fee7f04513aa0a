//! Interfaces and values on their way between a host app and the daemon, which trust each other no more than they must.

use ipc::protocol::{Bytes, TypedScalar, TypedValue};

use crate::lower::{Element, Lowered, LoweredFunction, Shape};
use crate::model::{Interface, ModelError, TypeKind, limits};
use crate::value::{HandleCheck, Value};

/// Why bytes are no interface.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// An interface cannot be written, or bytes are none.
    #[error("an interface cannot be sent or read: {0}")]
    Malformed(#[from] postcard::Error),
    /// Bytes come after it.
    #[error("an interface has {0} bytes too many")]
    TooLong(usize),
    /// It breaks a rule of interfaces.
    #[error(transparent)]
    Rule(#[from] ModelError),
}

impl Interface {
    /// The interface in [postcard](https://postcard.jamesmunns.com/wire-format) form, without descriptions.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DataError> {
        let mut bare = self.clone();
        bare.clear_docs();
        Ok(postcard::to_stdvec(&bare)?)
    }

    fn clear_docs(&mut self) {
        let Self { doc, types, functions, .. } = self;
        doc.clear();
        for ty in types {
            ty.doc.clear();
            match &mut ty.kind {
                TypeKind::Enum(named) | TypeKind::Error(named) | TypeKind::Flags(named) => {
                    named.iter_mut().for_each(|named| named.doc.clear());
                }
                TypeKind::Record(fields) => fields.iter_mut().for_each(|field| field.doc.clear()),
                TypeKind::Handle => {}
            }
        }
        for function in functions {
            function.doc.clear();
            function.params.iter_mut().chain(&mut function.results).for_each(|field| field.doc.clear());
        }
    }
}

impl Lowered {
    /// Reads and checks what [`Interface::to_bytes`] has written, or a stranger.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DataError> {
        let (interface, rest) = postcard::take_from_bytes::<Interface>(bytes)?;
        match rest.len() {
            0 => Ok(Self::new(interface)?),
            more => Err(DataError::TooLong(more)),
        }
    }
}

impl Value {
    /// The value as it goes over a socket; `None` for one that no interface has, such as a list of lists.
    pub fn to_wire(&self) -> Option<TypedValue> {
        Some(match self {
            Self::String(text) => TypedValue::String(text.clone()),
            Self::Bytes(bytes) => TypedValue::Bytes(Bytes(bytes.clone())),
            Self::Record(fields) => TypedValue::Record(scalars(fields)?),
            Self::List(elements) => match elements.first() {
                Some(Self::Record(first)) => {
                    let (count, mut values) = (first.len(), Vec::new());
                    for element in elements {
                        let Self::Record(fields) = element else { return None };
                        if fields.len() != count || count == 0 {
                            return None;
                        }
                        values.extend(scalars(fields)?);
                    }
                    TypedValue::Records { fields: u32::try_from(count).ok()?, values }
                }
                _ => TypedValue::List(scalars(elements)?),
            },
            scalar => TypedValue::Scalar(scalar.to_scalar()?),
        })
    }

    fn to_scalar(&self) -> Option<TypedScalar> {
        use TypedScalar as S;
        Some(match self {
            Self::Bool(value) => S::Bool(*value),
            Self::S8(value) => S::S8(*value),
            Self::U8(value) => S::U8(*value),
            Self::S16(value) => S::S16(*value),
            Self::U16(value) => S::U16(*value),
            Self::S32(value) => S::S32(*value),
            Self::U32(value) => S::U32(*value),
            Self::S64(value) => S::S64(*value),
            Self::U64(value) => S::U64(*value),
            Self::F32(value) => S::F32(*value),
            Self::F64(value) => S::F64(*value),
            Self::Enum(case) => S::Enum(*case),
            Self::Flags(bits) => S::Flags(*bits),
            Self::Handle(handle) => S::Handle(*handle),
            Self::String(_) | Self::Bytes(_) | Self::List(_) | Self::Record(_) => return None,
        })
    }

    /// The value that came over a socket. That it is one of a function's is checked elsewhere.
    pub fn of_wire(value: TypedValue) -> Result<Self, String> {
        let all = |values: Vec<TypedScalar>| values.into_iter().map(Self::of_scalar).collect();
        if let TypedValue::List(values) | TypedValue::Records { values, .. } = &value
            && values.len() > limits::LIST
        {
            return Err(format!("a list of {} values; {} are possible", values.len(), limits::LIST));
        }
        Ok(match value {
            TypedValue::Scalar(scalar) => Self::of_scalar(scalar),
            TypedValue::String(text) => Self::String(text),
            TypedValue::Bytes(Bytes(bytes)) => Self::Bytes(bytes),
            TypedValue::Record(values) => Self::Record(all(values)),
            TypedValue::List(values) => Self::List(all(values)),
            TypedValue::Records { fields, values } => {
                let whole =
                    usize::try_from(fields).ok().filter(|n| *n > 0 && values.len().is_multiple_of(*n));
                let Some(fields) = whole else {
                    return Err(format!("{} values are no records of {fields} fields", values.len()));
                };
                Self::List(values.chunks(fields).map(|record| Self::Record(all(record.to_vec()))).collect())
            }
        })
    }

    fn of_scalar(scalar: TypedScalar) -> Self {
        use TypedScalar as S;
        match scalar {
            S::Bool(value) => Self::Bool(value),
            S::S8(value) => Self::S8(value),
            S::U8(value) => Self::U8(value),
            S::S16(value) => Self::S16(value),
            S::U16(value) => Self::U16(value),
            S::S32(value) => Self::S32(value),
            S::U32(value) => Self::U32(value),
            S::S64(value) => Self::S64(value),
            S::U64(value) => Self::U64(value),
            S::F32(value) => Self::F32(value),
            S::F64(value) => Self::F64(value),
            S::Enum(case) => Self::Enum(case),
            S::Flags(bits) => Self::Flags(bits),
            S::Handle(handle) => Self::Handle(handle),
        }
    }
}

fn scalars(values: &[Value]) -> Option<Vec<TypedScalar>> {
    values.iter().map(Value::to_scalar).collect()
}

impl LoweredFunction {
    /// Whether these are arguments of this function, for a client that is told of a call: one per parameter, each valid for its
    /// type. Which handles are open is another question. An error says what is wrong.
    pub fn accepts(&self, arguments: &[Value]) -> Result<(), String> {
        if arguments.len() != self.params.len() {
            return Err(format!("{} arguments instead of {}", arguments.len(), self.params.len()));
        }
        for (slot, value) in self.params.iter().zip(arguments) {
            fits(&slot.shape, value).map_err(|why| format!("{}: {why}", slot.name))?;
        }
        Ok(())
    }
}

/// Takes every handle for open.
struct AnyHandle;

impl HandleCheck for AnyHandle {
    fn refuse(&self, _: u32, _: usize) -> Option<String> {
        None
    }
}

fn fits(shape: &Shape, value: &Value) -> Result<(), String> {
    match (shape, value) {
        (Shape::Scalar(scalar), value) => scalar.to_word(value, &AnyHandle).map(|_| ()),
        (Shape::Record(layout), value) => layout.to_bytes(value, &AnyHandle).map(|_| ()),
        (Shape::String, Value::String(_)) | (Shape::Bytes, Value::Bytes(_)) => Ok(()),
        (Shape::List(element), Value::List(values)) => values.iter().try_for_each(|value| match element {
            Element::Scalar(scalar) => scalar.to_word(value, &AnyHandle).map(|_| ()),
            Element::Record(layout) => layout.to_bytes(value, &AnyHandle).map(|_| ()),
        }),
        (_, value) => Err(format!("it is of another type than {}", value.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Field, Function, Type};

    #[test]
    fn values_go_over_and_come_back() {
        let record = |n| Value::Record(vec![Value::S8(n), Value::F64(0.5), Value::Handle(7)]);
        for value in [
            Value::Bool(true),
            Value::F32(f32::from_bits(0x7fa0_0001)),
            Value::String("é".into()),
            Value::Bytes(vec![0, 255]),
            record(1),
            Value::List(vec![]),
            Value::List(vec![Value::U16(1), Value::U16(2)]),
            Value::List(vec![record(1), record(-1)]),
        ] {
            let back = Value::of_wire(value.to_wire().expect("of an interface")).expect("sound");
            // Not by comparison, which no NaN passes.
            assert_eq!(format!("{back:?}"), format!("{value:?}"));
        }
        for nothing in [
            Value::List(vec![Value::List(vec![])]),
            Value::List(vec![Value::String(String::new())]),
            Value::List(vec![Value::U8(1), record(1)]),
            Value::List(vec![record(1), Value::U8(1)]),
            Value::List(vec![record(1), Value::Record(vec![Value::U8(1)])]),
            Value::List(vec![Value::Record(vec![])]),
            Value::Record(vec![record(1)]),
        ] {
            assert_eq!(nothing.to_wire(), None, "{nothing:?}");
        }
        let long = vec![TypedScalar::U8(1); limits::LIST + 1];
        assert!(Value::of_wire(TypedValue::List(long.clone())).is_err());
        assert!(Value::of_wire(TypedValue::Records { fields: 1, values: long }).is_err());
        for fields in [0, 2, 4, u32::MAX] {
            let values = vec![TypedScalar::U8(1); 3];
            assert!(Value::of_wire(TypedValue::Records { fields, values }).is_err(), "{fields}");
        }
    }

    #[test]
    fn an_interface_is_read_as_it_was_written_and_hostile_bytes_are_refused() {
        let text = include_str!("../../fuzz/fuzz_targets/interface.toml");
        let interface = Interface::parse(text, "t.toml").expect("sound").interface().clone();
        let bytes = interface.to_bytes().expect("bytes");
        let back = Lowered::from_bytes(&bytes).expect("sound");
        let mut bare = interface;
        bare.clear_docs();
        assert_eq!(*back.interface(), bare);
        for cut in 0..bytes.len() {
            assert!(Lowered::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(matches!(Lowered::from_bytes(&[&bytes[..], &[0]].concat()), Err(DataError::TooLong(1))));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                changed[at] = byte;
                let _ = Lowered::from_bytes(&changed);
            }
        }
    }

    #[test]
    fn an_error_about_any_name_is_one_line() {
        let interface = Interface { name: "a\u{7f}b\nc".into(), ..Interface::default() };
        let error = Lowered::from_bytes(&interface.to_bytes().expect("bytes")).expect_err("no name");
        assert!(!error.to_string().contains(['\n', '\u{7f}']), "{error}");
    }

    #[test]
    fn a_type_that_nests_without_end_does_not() {
        let deep = format!("{}u8{}", "list<".repeat(100_000), ">".repeat(100_000));
        let params = vec![Field { name: "p".into(), doc: String::new(), ty: Type::from(deep) }];
        let functions = vec![Function { name: "f".into(), params, ..Function::default() }];
        let interface = Interface { name: "i".into(), functions, ..Interface::default() };
        let bytes = interface.to_bytes().expect("bytes");
        assert!(matches!(Lowered::from_bytes(&bytes), Err(DataError::Rule(_))));
    }

    #[test]
    fn what_uses_a_record_shares_its_layout() {
        let fields: Vec<_> = (0..64).map(|n| format!("{{ name = \"f{n}\", type = \"u8\" }}")).collect();
        let text = format!(
            "interface = \"i\"\n[[record]]\nname = \"r\"\nfields = [{}]\n[[function]]\nname = \"f\"\n\
             params = [{{ name = \"a\", type = \"r\" }}, {{ name = \"b\", type = \"list<r>\" }}]\n",
            fields.join(", ")
        );
        let lowered = Interface::parse(&text, "t.toml").expect("sound");
        let [first, second] = &lowered.functions()[0].params[..] else { panic!("two parameters") };
        match (&first.shape, &second.shape) {
            (Shape::Record(one), Shape::List(Element::Record(other))) => {
                assert!(std::sync::Arc::ptr_eq(one, other));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_are_accepted_by_their_types() {
        let text = "interface = \"i\"\n[[function]]\nname = \"f\"\nparams = [{ name = \"a\", type = \"u8\" }, \
                    { name = \"b\", type = \"list<s16>\" }, { name = \"c\", type = \"string\" }]\n";
        let lowered = Interface::parse(text, "t.toml").expect("sound");
        let function = &lowered.functions()[0];
        let right = [Value::U8(1), Value::List(vec![Value::S16(1)]), Value::String("x".into())];
        assert_eq!(function.accepts(&right), Ok(()));
        assert_eq!(function.accepts(&right[..2]), Err("2 arguments instead of 3".to_owned()));
        for (index, wrong) in [
            (0, Value::S8(1)),
            (1, Value::U8(1)),
            (1, Value::List(vec![Value::U8(1)])),
            (2, Value::Bytes(vec![])),
        ] {
            let mut arguments = right.clone();
            arguments[index] = wrong;
            assert!(function.accepts(&arguments).is_err(), "{arguments:?}");
        }
    }
}
