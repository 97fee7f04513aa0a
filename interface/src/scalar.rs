//! Values of fixed size: their words and bytes, and what is valid.

use crate::value::{HandleCheck, Value};

/// A type whose values have a fixed size and are no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    Bool,
    S8,
    U8,
    S16,
    U16,
    S32,
    U32,
    S64,
    U64,
    F32,
    F64,
    /// Cases from 0.
    Enum {
        name: String,
        cases: u32,
    },
    /// Valid bits.
    Flags {
        name: String,
        mask: u64,
        wide: bool,
    },
    /// Number of the type, and its name.
    Handle {
        name: String,
        kind: usize,
    },
}

impl Scalar {
    /// Bytes, which are also its alignment.
    pub(crate) fn size(&self) -> u32 {
        match self {
            Self::Bool | Self::S8 | Self::U8 => 1,
            Self::S16 | Self::U16 => 2,
            Self::S32 | Self::U32 | Self::F32 | Self::Enum { .. } | Self::Handle { .. } => 4,
            Self::S64 | Self::U64 | Self::F64 => 8,
            Self::Flags { wide, .. } => {
                if *wide {
                    8
                } else {
                    4
                }
            }
        }
    }

    /// The value of a WebAssembly parameter: an `i32` is in the low half, sign extension is the guest's.
    pub(crate) fn of_word(&self, word: u64, handles: &dyn HandleCheck) -> Result<Value, String> {
        let low = word as u32;
        let narrow = |found: i64, min: i64, max: i64| {
            (min..=max)
                .contains(&found)
                .then_some(found)
                .ok_or_else(|| format!("{found} is not {min} to {max}"))
        };
        let signed = |min: i64, max: i64| narrow(i64::from(low as i32), min, max);
        let unsigned = |max: i64| narrow(i64::from(low), 0, max);
        Ok(match self {
            Self::Bool => Value::Bool(unsigned(1)? == 1),
            Self::S8 => Value::S8(signed(i8::MIN.into(), i8::MAX.into())? as i8),
            Self::U8 => Value::U8(unsigned(u8::MAX.into())? as u8),
            Self::S16 => Value::S16(signed(i16::MIN.into(), i16::MAX.into())? as i16),
            Self::U16 => Value::U16(unsigned(u16::MAX.into())? as u16),
            Self::S32 => Value::S32(low as i32),
            Self::U32 => Value::U32(low),
            Self::S64 => Value::S64(word as i64),
            Self::U64 => Value::U64(word),
            Self::F32 => Value::F32(f32::from_bits(low)),
            Self::F64 => Value::F64(f64::from_bits(word)),
            Self::Enum { .. } | Self::Flags { .. } | Self::Handle { .. } => {
                let wide = matches!(self, Self::Flags { wide: true, .. });
                return self.named(if wide { word } else { u64::from(low) }, handles);
            }
        })
    }

    /// The value that these bytes are, as many as [`size`](Self::size) says.
    pub(crate) fn of_bytes(&self, bytes: &[u8], handles: &dyn HandleCheck) -> Result<Value, String> {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(bytes) {
            *to = *from;
        }
        let word = u64::from_le_bytes(word);
        Ok(match self {
            // The word of an `i32` has the sign bits that memory does not have.
            Self::S8 => Value::S8(word as i8),
            Self::S16 => Value::S16(word as i16),
            _ => return self.of_word(word, handles),
        })
    }

    fn named(&self, number: u64, handles: &dyn HandleCheck) -> Result<Value, String> {
        match self {
            Self::Enum { name, cases } => match u32::try_from(number).ok().filter(|n| n < cases) {
                Some(case) => Ok(Value::Enum(case)),
                None => Err(format!("{number} is no case of {name}")),
            },
            Self::Flags { name, mask, .. } => match number & !mask {
                0 => Ok(Value::Flags(number)),
                unknown => Err(format!("{unknown:#x} are no flags of {name}")),
            },
            Self::Handle { name, kind } => match handles.refuse(number as u32, *kind) {
                None => Ok(Value::Handle(number as u32)),
                Some(why) => Err(format!("{:#x} is no {name}: {why}", number as u32)),
            },
            _ => Err("it has no named values".to_owned()),
        }
    }

    /// The word of a value, with the sign bits of an `i32` in its low half; `Err` says what is wrong with it.
    pub(crate) fn to_word(&self, value: &Value, handles: &dyn HandleCheck) -> Result<u64, String> {
        let sign = |value: i32| u64::from(value as u32);
        Ok(match (self, value) {
            (Self::Bool, Value::Bool(value)) => u64::from(*value),
            (Self::S8, Value::S8(value)) => sign((*value).into()),
            (Self::U8, Value::U8(value)) => u64::from(*value),
            (Self::S16, Value::S16(value)) => sign((*value).into()),
            (Self::U16, Value::U16(value)) => u64::from(*value),
            (Self::S32, Value::S32(value)) => sign(*value),
            (Self::U32, Value::U32(value)) => u64::from(*value),
            (Self::S64, Value::S64(value)) => *value as u64,
            (Self::U64, Value::U64(value)) => *value,
            (Self::F32, Value::F32(value)) => u64::from(value.to_bits()),
            (Self::F64, Value::F64(value)) => value.to_bits(),
            (Self::Enum { .. }, Value::Enum(number)) => {
                self.named(u64::from(*number), handles)?;
                u64::from(*number)
            }
            (Self::Flags { .. }, Value::Flags(bits)) => {
                self.named(*bits, handles)?;
                *bits
            }
            (Self::Handle { .. }, Value::Handle(handle)) => {
                self.named(u64::from(*handle), handles)?;
                u64::from(*handle)
            }
            (expected, found) => {
                return Err(format!("it is of type {}, not {}", found.kind(), expected.name()));
            }
        })
    }

    /// Writes the bytes of a value, as many as [`size`](Self::size) says.
    pub(crate) fn write(
        &self,
        value: &Value,
        to: &mut [u8],
        handles: &dyn HandleCheck,
    ) -> Result<(), String> {
        let word = self.to_word(value, handles)?;
        for (to, from) in to.iter_mut().zip(word.to_le_bytes()) {
            *to = from;
        }
        Ok(())
    }

    /// The bytes of a value, as many as [`size`](Self::size) says.
    pub(crate) fn to_bytes(&self, value: &Value, handles: &dyn HandleCheck) -> Result<Vec<u8>, String> {
        let word = self.to_word(value, handles)?;
        Ok(word.to_le_bytes().into_iter().take(self.size() as usize).collect())
    }

    fn name(&self) -> &str {
        match self {
            Self::Bool => "bool",
            Self::S8 => "s8",
            Self::U8 => "u8",
            Self::S16 => "s16",
            Self::U16 => "u16",
            Self::S32 => "s32",
            Self::U32 => "u32",
            Self::S64 => "s64",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Enum { name, .. } | Self::Flags { name, .. } | Self::Handle { name, .. } => name,
        }
    }
}

/// Several values with the layout of a C structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Name and offset of each, in ascending order of offsets.
    pub(crate) fields: Vec<(String, u32, Scalar)>,
    /// Bytes, with the padding at the end; not 0.
    pub(crate) size: u32,
}

impl Layout {
    pub(crate) fn new(fields: impl IntoIterator<Item = (String, Scalar)>) -> Self {
        let (mut end, mut alignment) = (0u32, 1);
        let mut placed = Vec::new();
        for (name, scalar) in fields {
            let size = scalar.size();
            let offset = end.next_multiple_of(size);
            (end, alignment) = (offset + size, alignment.max(size));
            placed.push((name, offset, scalar));
        }
        Self { fields: placed, size: end.next_multiple_of(alignment) }
    }

    pub(crate) fn of_bytes(&self, bytes: &[u8], handles: &dyn HandleCheck) -> Result<Value, String> {
        let fields = self.fields.iter().map(|(name, offset, scalar)| {
            let bytes = bytes.get(*offset as usize..).unwrap_or_default();
            let bytes = bytes.get(..scalar.size() as usize).unwrap_or_default();
            scalar.of_bytes(bytes, handles).map_err(|why| format!("field {name}: {why}"))
        });
        fields.collect::<Result<_, _>>().map(Value::Record)
    }

    /// Bytes between fields become 0.
    pub(crate) fn to_bytes(&self, value: &Value, handles: &dyn HandleCheck) -> Result<Vec<u8>, String> {
        let Value::Record(values) = value else {
            return Err(format!("it is of type {}, not a record", value.kind()));
        };
        if values.len() != self.fields.len() {
            return Err(format!("it has {} fields, not {}", values.len(), self.fields.len()));
        }
        let mut bytes = vec![0; self.size as usize];
        for ((name, offset, scalar), value) in self.fields.iter().zip(values) {
            let to = bytes.get_mut(*offset as usize..).unwrap_or_default();
            let to = to.get_mut(..scalar.size() as usize).unwrap_or_default();
            scalar.write(value, to, handles).map_err(|why| format!("field {name}: {why}"))?;
        }
        Ok(bytes)
    }
}
