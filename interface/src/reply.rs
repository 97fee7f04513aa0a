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
        let mut overflows = None;
        let mut outs = call.outs.iter().copied();
        for (slot, value) in self.results.iter().zip(values) {
            let wrong = |why: String| format!("result {}: {why}", slot.name);
            let mut out = || outs.next().unwrap_or_default();
            let type_error = |value: &Value, expected: &str| {
                Err(wrong(format!("it is of type {}, not {expected}", value.kind())))
            };
            match (&slot.shape, value) {
                (Shape::Scalar(scalar), value) => {
                    let word = scalar.to_word(&value, handles).map_err(wrong)?;
                    match slot.arg {
                        None => encoded.value = word,
                        Some(_) => {
                            let (offset, length) = out();
                            let bytes = word.to_le_bytes();
                            encoded.writes.push((offset, bytes.into_iter().take(length).collect()));
                        }
                    }
                }
                (Shape::Record(layout), value) => {
                    let (offset, _) = out();
                    encoded.writes.push((offset, layout.to_bytes(&value, handles).map_err(wrong)?));
                }
                (Shape::String, Value::String(text)) => {
                    overflows = overflows.or(variable(&mut encoded, out(), text.into_bytes(), &slot.name));
                }
                (Shape::Bytes, Value::Bytes(bytes)) => {
                    overflows = overflows.or(variable(&mut encoded, out(), bytes, &slot.name));
                }
                (Shape::String, value) => return type_error(&value, "string"),
                (Shape::Bytes, value) => return type_error(&value, "bytes"),
                (Shape::List(_), value) => return type_error(&value, "a result"),
            }
        }
        match (overflows, self.overflow) {
            (None, _) => Ok(encoded),
            (Some(why), None) => Err(why),
            (Some(_), Some(code)) => {
                // The lengths that there would have to be room for, and nothing else.
                encoded.writes.retain(|(at, bytes)| {
                    bytes.len() == OUT_HEAD && call.outs.iter().any(|(offset, _)| offset == at)
                });
                Ok(Encoded { value: u64::from(code), deliver: deliver::LENGTHS, ..encoded })
            }
        }
    }
}

/// Adds a string or bytes with their length; what is wrong if they are longer than their range.
fn variable(
    encoded: &mut Encoded,
    (offset, length): (usize, usize),
    bytes: Vec<u8>,
    name: &str,
) -> Option<String> {
    let room = length.saturating_sub(OUT_HEAD);
    let mut head = vec![0; OUT_HEAD];
    let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    head.iter_mut().zip(count.to_le_bytes()).for_each(|(to, from)| *to = from);
    encoded.writes.push((offset, head));
    if bytes.len() > room {
        return Some(format!(
            "result {name}: it has {} bytes, but the guest has room for {room}",
            bytes.len()
        ));
    }
    encoded.writes.push((offset + OUT_HEAD, bytes));
    None
}
