//! From a reply to what the instance gets: every rule of the declaration holds, or nothing of it gets there.

use ipc::typed::{OUT_HEAD, deliver};

use crate::call::Call;
use crate::lower::{LoweredFunction, Shape};
use crate::value::{HandleCheck, Reply, Value};

/// A reply as the instance gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The WebAssembly result, if there is one.
    pub value: u64,
    /// Bits of [`ipc::typed::deliver`].
    pub deliver: u64,
    /// Bytes for the arena, by their offset. They lie in the ranges of the call.
    pub writes: Vec<(usize, Vec<u8>)>,
}

impl LoweredFunction {
    /// Checks a reply to a call. An error says which rule it breaks.
    pub fn encode(&self, call: &Call, reply: Reply, handles: &dyn HandleCheck) -> Result<Encoded, String> {
        let values = match reply {
            Reply::Values(values) => values,
            Reply::Error(code) => {
                return match &self.error {
                    None => Err(format!("it failed with error {code}, but declares none")),
                    // A guest that gets this case looks at lengths.
                    Some(_) if self.overflow == Some(code) => {
                        let lengths = self.results.iter().filter(|slot| slot.arg.is_some()).zip(&call.outs);
                        let lengths = lengths.filter(|(slot, _)| slot.shape.has_length());
                        let writes = lengths.map(|(_, (at, _))| (*at, head(0))).collect();
                        Ok(Encoded { value: u64::from(code), deliver: deliver::LENGTHS, writes })
                    }
                    Some((_, cases)) if (1..=*cases).contains(&code) => {
                        Ok(Encoded { value: u64::from(code), ..Encoded::default() })
                    }
                    Some((name, _)) => Err(format!("it failed with {code}, which is no case of {name}")),
                };
            }
        };
        if values.len() != self.results.len() {
            return Err(format!("it returned {} values instead of {}", values.len(), self.results.len()));
        }
        let mut encoded = Encoded { deliver: deliver::LENGTHS | deliver::BYTES, ..Encoded::default() };
        // How long results of any length are, and what is wrong with the first that is too long.
        let (mut heads, mut overflows) = (Vec::new(), None);
        let mut outs = call.outs.iter().copied();
        for (slot, value) in self.results.iter().zip(values) {
            let wrong = |why: String| format!("result {}: {why}", slot.name);
            if slot.arg.is_none()
                && let Shape::Scalar(scalar) = &slot.shape
            {
                encoded.value = scalar.to_word(&value, handles).map_err(wrong)?;
                continue;
            }
            let out = outs.next().unwrap_or_default();
            let variable = match slot.shape.written(value, handles).map_err(wrong)? {
                Written::Fixed(bytes) => {
                    encoded.writes.push((out.0, bytes));
                    continue;
                }
                Written::Variable(variable) => variable,
            };
            heads.push((out.0, head(variable.count)));
            match variable.check_room(out.1) {
                Ok(()) => encoded.writes.push((out.0 + OUT_HEAD, variable.bytes)),
                Err(why) => overflows = overflows.or(Some(wrong(why))),
            }
        }
        match (overflows, self.overflow) {
            (None, _) => {
                encoded.writes.append(&mut heads);
                Ok(encoded)
            }
            (Some(why), None) => Err(why),
            // The lengths that there would have to be room for, and nothing else.
            (Some(_), Some(code)) => {
                Ok(Encoded { value: u64::from(code), deliver: deliver::LENGTHS, writes: heads })
            }
        }
    }
}

/// A result that is written to the guest's memory.
enum Written {
    /// Of the size of its type.
    Fixed(Vec<u8>),
    Variable(Variable),
}

struct Variable {
    count: usize,
    /// Bytes in one element.
    stride: usize,
    unit: &'static str,
    bytes: Vec<u8>,
}

impl Shape {
    /// A value of this shape; an error says why it is none.
    fn written(&self, value: Value, handles: &dyn HandleCheck) -> Result<Written, String> {
        let in_bytes = |bytes: Vec<u8>| {
            Written::Variable(Variable { count: bytes.len(), stride: 1, unit: "bytes", bytes })
        };
        match (self, value) {
            (Self::Scalar(scalar), value) => scalar.to_bytes(&value, handles).map(Written::Fixed),
            (Self::Record(layout), value) => layout.to_bytes(&value, handles).map(Written::Fixed),
            (Self::String, Value::String(text)) => Ok(in_bytes(text.into_bytes())),
            (Self::Bytes, Value::Bytes(bytes)) => Ok(in_bytes(bytes)),
            (Self::List(element), Value::List(values)) => {
                let (count, most) = (values.len(), element.most());
                if count > most {
                    return Err(format!("a list of {count} elements; {most} are possible"));
                }
                let mut bytes = Vec::with_capacity(count * element.size() as usize);
                for (index, value) in values.iter().enumerate() {
                    let element = element.to_bytes(value, handles);
                    bytes.extend(element.map_err(|why| format!("element {index}: {why}"))?);
                }
                Ok(Written::Variable(Variable {
                    count,
                    stride: element.size() as usize,
                    unit: "elements",
                    bytes,
                }))
            }
            (shape, value) => {
                let expected = match shape {
                    Self::String => "string",
                    Self::Bytes => "bytes",
                    _ => "a list",
                };
                Err(format!("it is of type {}, not {expected}", value.kind()))
            }
        }
    }
}

/// What the range of a result of any length begins with.
fn head(count: usize) -> Vec<u8> {
    let mut head = vec![0; OUT_HEAD];
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    head.iter_mut().zip(count.to_le_bytes()).for_each(|(to, from)| *to = from);
    head
}

impl Variable {
    /// Whether it fits into a range of this length.
    fn check_room(&self, range: usize) -> Result<(), String> {
        let room = range.saturating_sub(OUT_HEAD);
        match self.bytes.len() <= room {
            true => Ok(()),
            false => Err(format!(
                "it has {} {unit}, but the guest has room for {}",
                self.count,
                room / self.stride.max(1),
                unit = self.unit
            )),
        }
    }
}
