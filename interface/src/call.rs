//! From a submission of an instance to the arguments of a call. All of it is hostile: it is copied once, then checked, then used.

use ipc::interface::ARGS_MAX;
use ipc::ring::unpack_range;
use ipc::typed::{Arg, OUT_HEAD, refused};

use crate::lower::{LoweredFunction, Shape, Slot};
use crate::value::{HandleCheck, Value};

/// Memory that an instance shares and can change at any time.
pub trait Arena {
    /// Bytes in it.
    fn bytes(&self) -> usize;
    /// A private copy of `length` bytes at `offset`, which lie inside.
    fn copy(&self, offset: usize, length: usize) -> Vec<u8>;
}

/// Why there is no call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No shim of ours submits this: the instance is not what it was.
    Broken(String),
    /// The guest has passed something that is not valid; its call traps with this message.
    Mistake(String),
}

/// The arguments of a call, and where its results go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call {
    /// One value per parameter.
    pub arguments: Vec<Value>,
    /// Offset and length of the range of each result that goes through the arena.
    pub(crate) outs: Vec<(usize, usize)>,
}

impl LoweredFunction {
    /// The call that a submission makes with these words.
    pub fn decode(
        &self,
        words: &[u64; ARGS_MAX],
        arena: &dyn Arena,
        handles: &dyn HandleCheck,
    ) -> Result<Call, Refusal> {
        let mut words = words.iter().copied();
        let mut call = Call::default();
        // Every range before anything is copied.
        let mut inputs = Vec::with_capacity(self.params.len());
        for slot in &self.params {
            let word = words.next().unwrap_or(0);
            let range = match slot.arg {
                Some(Arg::Value { .. }) | None => (word as usize, 0),
                Some(arg) => self.range(slot, arg, word, arena)?,
            };
            inputs.push((word, range));
        }
        for slot in &self.results {
            let Some(arg) = slot.arg else { continue };
            let (offset, length) = self.range(slot, arg, words.next().unwrap_or(0), arena)?;
            let overlaps = |(from, bytes): &(usize, usize)| offset < from + bytes && *from < offset + length;
            if call.outs.iter().any(overlaps) {
                let rule = format!(
                    "{}: {}: bytes {offset}+{length} of the arena overlap another result's",
                    self.name, slot.name
                );
                return Err(Refusal::Broken(rule));
            }
            call.outs.push((offset, length));
        }
        for (slot, (word, (offset, length))) in self.params.iter().zip(inputs) {
            let value = argument(&slot.shape, word, offset, length, arena, handles);
            call.arguments.push(value.map_err(|why| self.mistake(&slot.name, &why))?);
        }
        Ok(call)
    }

    fn mistake(&self, parameter: &str, why: &str) -> Refusal {
        Refusal::Mistake(format!("host function \"{}\" was called wrongly: {parameter}: {why}", self.name))
    }

    /// A range of the arena, which is as long as it can be for what it holds.
    fn range(&self, slot: &Slot, arg: Arg, word: u64, arena: &dyn Arena) -> Result<(usize, usize), Refusal> {
        let (offset, length) = unpack_range(word);
        let (offset, length) = (offset as usize, length as usize);
        let fits = offset.checked_add(length).is_some_and(|end| end <= arena.bytes());
        let is_right = match arg {
            Arg::Value { .. } => true,
            Arg::In { stride, .. } => stride > 0 && length.is_multiple_of(stride as usize),
            Arg::InFixed { bytes, .. } | Arg::OutFixed { bytes, .. } => length == bytes as usize,
            Arg::Out { stride, .. } => {
                let room = length.checked_sub(OUT_HEAD);
                stride > 0 && room.is_some_and(|room| room.is_multiple_of(stride as usize))
            }
        };
        match fits && is_right {
            true => Ok((offset, length)),
            false => Err(Refusal::Broken(format!(
                "{}: {}: bytes {offset}+{length} are not a valid range of the arena for {arg:?}",
                self.name, slot.name
            ))),
        }
    }

    /// What an instance says by a submission that it did not marshal.
    pub fn decode_refusal(&self, words: &[u64; ARGS_MAX]) -> Refusal {
        let [index, why, ..] = *words;
        let slots = self.params.iter().chain(&self.results).filter(|slot| slot.arg.is_some());
        let slot = usize::try_from(index).ok().and_then(|index| slots.clone().nth(index));
        let why = match why {
            refused::OUT_OF_BOUNDS => "not inside of the guest's memory",
            refused::TOO_LARGE => "more bytes than a call can carry",
            refused::OVERLAP => "its memory overlaps that of another result",
            _ => return Refusal::Broken(format!("{}: refused for the unknown reason {why}", self.name)),
        };
        match slot {
            Some(slot) => self.mistake(&slot.name, why),
            None => Refusal::Broken(format!(
                "{}: refused for its parameter {index}, which it does not have",
                self.name
            )),
        }
    }
}

fn argument(
    shape: &Shape,
    word: u64,
    offset: usize,
    length: usize,
    arena: &dyn Arena,
    handles: &dyn HandleCheck,
) -> Result<Value, String> {
    match shape {
        Shape::Scalar(scalar) => scalar.of_word(word, handles),
        Shape::Record(layout) => layout.of_bytes(&arena.copy(offset, length), handles),
        Shape::Bytes => Ok(Value::Bytes(arena.copy(offset, length))),
        Shape::String => String::from_utf8(arena.copy(offset, length))
            .map(Value::String)
            .map_err(|error| format!("byte {} is not UTF-8", error.utf8_error().valid_up_to())),
        Shape::List(element) => {
            let (size, most) = (element.size().max(1) as usize, element.most());
            if length / size > most {
                return Err(format!("a list of {} elements; {most} are possible", length / size));
            }
            let bytes = arena.copy(offset, length);
            let elements = bytes.chunks_exact(size).enumerate().map(|(index, bytes)| {
                element.of_bytes(bytes, handles).map_err(|why| format!("element {index}: {why}"))
            });
            elements.collect::<Result<_, _>>().map(Value::List)
        }
    }
}
