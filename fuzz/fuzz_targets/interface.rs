//! Text to the parser of interfaces, bytes to the reader of those that clients send, words of a hostile instance to the decoder of typed
//! calls of what it takes, and replies to the encoder: no panic, errors of one line, no copy of bytes that are not in the arena, nothing
//! written but where results go, and no text that is generated from it with its descriptions outside of comments.
#![no_main]

use interface::{Arena, HandleCheck, Interface, Lowered, LoweredFunction, Reply, Type, TypeKind, Value};
use ipc::interface::ARGS_MAX;
use ipc::ring::pack_range;
use ipc::typed::{Arg, OUT_HEAD};
use libfuzzer_sys::fuzz_target;

const ARENA: usize = 4096;

struct Bytes<'b>(&'b [u8]);

impl Arena for Bytes<'_> {
    fn bytes(&self) -> usize {
        ARENA
    }

    fn copy(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= ARENA);
        self.0.iter().copied().cycle().chain(std::iter::repeat(0)).skip(offset % 64).take(length).collect()
    }
}

struct Some7;

impl HandleCheck for Some7 {
    fn refuse(&self, handle: u32, _: usize) -> Option<String> {
        (handle != 7).then(|| "closed".to_owned())
    }
}

/// An interface with every kind of type.
const SOUND: &str = include_str!("interface.toml");

/// An interface of a client: what is read comes out as it went in.
fn sent(data: &[u8]) {
    match Lowered::from_bytes(data) {
        Ok(lowered) => {
            let bytes = lowered.interface().to_bytes().expect("what was read can be written");
            let again = Lowered::from_bytes(&bytes).expect("what was written can be read");
            assert_eq!(again.interface().to_bytes().expect("bytes"), bytes);
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}

/// A value of this type, most of the time.
fn value(ty: &Type, interface: &Interface, bytes: &mut impl Iterator<Item = u8>) -> Value {
    let mut byte = || bytes.next().unwrap_or_default();
    match ty {
        _ if byte() == 0xff => Value::U8(byte()),
        Type::Bool => Value::Bool(byte() % 2 == 1),
        Type::S8 => Value::S8(byte() as i8),
        Type::U8 => Value::U8(byte()),
        Type::S16 => Value::S16(i16::from(byte()) << 8),
        Type::U16 => Value::U16(u16::from(byte()) << 8),
        Type::S32 => Value::S32(i32::from(byte()) << 24),
        Type::U32 => Value::U32(u32::from(byte()) << 24),
        Type::S64 => Value::S64(i64::from(byte()) << 56),
        Type::U64 => Value::U64(u64::from(byte()) << 56),
        Type::F32 => Value::F32(f32::from(byte())),
        Type::F64 => Value::F64(f64::from(byte())),
        Type::String => Value::String("é".repeat(byte().into())),
        Type::Bytes => Value::Bytes(vec![byte(); usize::from(byte()) << (byte() % 8)]),
        Type::List(element) => {
            let count = byte();
            Value::List((0..count).map(|_| value(element, interface, bytes)).collect())
        }
        Type::Named(name) => match &interface.types.iter().find(|ty| ty.name == *name).expect("checked").kind
        {
            TypeKind::Enum(_) | TypeKind::Error(_) => Value::Enum(byte().into()),
            TypeKind::Flags(_) => Value::Flags(byte().into()),
            TypeKind::Handle => Value::Handle(u32::from(byte()) ^ 7),
            TypeKind::Record(fields) => {
                Value::Record(fields.iter().map(|field| value(&field.ty, interface, bytes)).collect())
            }
        },
    }
}

/// The words of a call as a shim would send it: ranges side by side, as far as there is room.
fn sound(function: &LoweredFunction, bytes: &mut impl Iterator<Item = u8>) -> [u64; ARGS_MAX] {
    let (mut words, mut at) = ([0; ARGS_MAX], 0);
    for (word, arg) in words.iter_mut().zip(function.args()) {
        let byte = u32::from(bytes.next().unwrap_or_default());
        let length = match arg {
            Arg::Value { .. } => {
                *word = byte.into();
                continue;
            }
            Arg::In { stride, .. } => byte * stride,
            Arg::Out { stride, .. } => OUT_HEAD as u32 + byte * stride,
            Arg::InFixed { bytes, .. } | Arg::OutFixed { bytes, .. } => bytes,
        };
        *word = pack_range(at, length);
        at += length;
    }
    words
}

/// Answers a call with these words.
fn call(
    function: &LoweredFunction,
    words: &[u64; ARGS_MAX],
    arena: &[u8],
    interface: &Interface,
    bytes: &mut impl Iterator<Item = u8>,
) {
    let Ok(call) = function.decode(words, &Bytes(arena), &Some7) else { return };
    assert_eq!(call.arguments.len(), function.declaration().params.len());
    let results = function.declaration().results.iter();
    let values = results.map(|result| value(&result.ty, interface, bytes)).collect();
    match function.encode(&call, Reply::Values(values), &Some7) {
        Ok(encoded) => {
            let mut written = [false; ARENA];
            for (at, bytes) in &encoded.writes {
                let range = &mut written[*at..at + bytes.len()];
                assert!(!range.contains(&true), "written twice");
                range.fill(true);
            }
        }
        Err(why) => assert!(!why.contains('\n'), "{why}"),
    }
}

// After a byte that begins no text, an interface as a client sends it. Else what comes before the first zero byte is an interface; what
// comes after it is words and an arena. Without text, the interface is the one above.
fuzz_target!(|data: &[u8]| {
    if let Some((0xff, data)) = data.split_first() {
        return sent(data);
    }
    let (text, rest) =
        data.iter().position(|b| *b == 0).map_or((data, &[][..]), |at| (&data[..at], &data[at + 1..]));
    let Ok(text) = std::str::from_utf8(text) else { return };
    let lowered = match Interface::parse(if text.is_empty() { SOUND } else { text }, "fuzz.toml") {
        Ok(lowered) => lowered,
        Err(error) => {
            assert!(!text.is_empty() && !error.to_string().contains('\n'), "{error}");
            assert!(error.position().is_none_or(|at| at.line > 0 && at.column > 0));
            return;
        }
    };
    let _ = lowered.warnings();
    if let Ok(header) = lowered.c_header() {
        assert_eq!(header.matches("/*").count(), header.matches("*/").count());
    }
    if let Ok(module) = lowered.rust_module() {
        assert!(!module.contains('\r') && lowered.rust_module() == Ok(module));
    }
    assert!(lowered.reference().starts_with("# Interface `"));
    let mut words = [0; ARGS_MAX];
    for (word, bytes) in words.iter_mut().zip(rest.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    }
    for function in lowered.functions() {
        assert!(function.args().count() <= words.len() && function.params().len() <= ipc::typed::PARAMS_MAX);
        let mut bytes = rest.iter().copied().skip(size_of_val(&words));
        call(function, &words, rest, lowered.interface(), &mut bytes);
        let sound = sound(function, &mut bytes);
        call(function, &sound, rest, lowered.interface(), &mut bytes);
        let _ = function.decode_refusal(&words);
    }
});
