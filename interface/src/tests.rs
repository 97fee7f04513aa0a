//! The parser, the lowering, and the decoder of hostile submissions.

use std::cell::RefCell;

use ipc::interface::ARGS_MAX;
use ipc::ring::pack_range;
use ipc::typed::{Arg, deliver};

use crate::{Arena, HandleCheck, Interface, Refusal, Reply, Value, WasmType};

const SOUND: &str = r#"
interface = "k"
[[enum]]
name = "color"
cases = ["red", { name = "green", doc = "Grass." }]
[[error]]
name = "fault"
cases = ["gone", "full"]
[[flags]]
name = "wide"
flags = ["f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9", "f10", "f11", "f12", "f13", "f14", "f15", "f16", "f17", "f18",
  "f19", "f20", "f21", "f22", "f23", "f24", "f25", "f26", "f27", "f28", "f29", "f30", "f31", "f32"]
[[handle]]
name = "thing"
[[record]]
name = "both"
fields = [{ name = "a", type = "u8" }, { name = "b", type = "u64" }, { name = "c", type = "u16" }]
[[function]]
name = "plain"
params = [{ name = "x", type = "wide" }, { name = "y", type = "f64" }]
results = [{ name = "z", type = "f32" }]
[[function]]
name = "full"
doc = "With everything."
params = [{ name = "s", type = "string" }, { name = "l", type = "list<both>" }, { name = "r", type = "both" }, { name = "t", type = "thing" }]
results = [{ name = "out", type = "bytes" }, { name = "num", type = "u16" }, { name = "rec", type = "both" }]
error = "fault"
overflow = "full"
deadline = "1s"
blocking = true
"#;

struct Open;

impl HandleCheck for Open {
    fn refuse(&self, handle: u32, _: usize) -> Option<String> {
        (handle != 7).then(|| "closed".to_owned())
    }
}

/// Memory that is changed after every copy, and knows what was copied.
struct Changing {
    bytes: RefCell<Vec<u8>>,
    copies: RefCell<Vec<(usize, usize)>>,
}

impl Arena for Changing {
    fn bytes(&self) -> usize {
        self.bytes.borrow().len()
    }

    fn copy(&self, offset: usize, length: usize) -> Vec<u8> {
        let copy = self.bytes.borrow()[offset..offset + length].to_vec();
        self.bytes.borrow_mut().fill(0xff);
        self.copies.borrow_mut().push((offset, length));
        copy
    }
}

fn words(all: &[u64]) -> [u64; ARGS_MAX] {
    let mut words = [0; ARGS_MAX];
    words[..all.len()].copy_from_slice(all);
    words
}

#[test]
fn functions_are_lowered_as_the_reference_says() {
    use WasmType::{F32, F64, I32, I64};
    let lowered = Interface::parse(SOUND, "k.toml").unwrap();
    let plain = lowered.function("plain").unwrap();
    assert_eq!((plain.params(), plain.results()), (&[I64, F64][..], &[F32][..]));
    let full = lowered.function("full").unwrap();
    assert_eq!((full.params(), full.results()), (&[I32; 11][..], &[I32][..]));
    let args: Vec<Arg> = full.args().collect();
    let expected = [
        Arg::In { ptr: 0, len: 1, stride: 1 },
        Arg::In { ptr: 2, len: 3, stride: 24 },
        Arg::InFixed { ptr: 4, bytes: 24 },
        Arg::Value { index: 5 },
        Arg::Out { ptr: 6, capacity: 7, written: 8, stride: 1 },
        Arg::OutFixed { ptr: 9, bytes: 2 },
        Arg::OutFixed { ptr: 10, bytes: 24 },
    ];
    assert_eq!(args, expected);
}

#[test]
fn every_byte_is_copied_once() {
    let lowered = Interface::parse(SOUND, "k.toml").unwrap();
    let full = lowered.function("full").unwrap();
    let ranges = [(0, 2), (8, 24), (32, 24)].map(|(offset, length)| pack_range(offset, length));
    let outs = [(64, 16), (80, 2), (96, 24)].map(|(offset, length)| pack_range(offset, length));
    let all = words(&[&ranges[..], &[7], &outs[..]].concat());
    // Each range is sound while it is copied, and garbage after that.
    let arena = Changing { bytes: RefCell::new(vec![0x61; 128]), copies: RefCell::default() };
    let call = full.decode(&all, &arena, &Open);
    // What was changed before it was copied first is as it was then: no type refuses numbers.
    let call = call.unwrap();
    assert_eq!(call.arguments[0], Value::String("aa".into()));
    assert_eq!(*arena.copies.borrow(), [(0, 2), (8, 24), (32, 24)]);
    // Too long, but told by its case; then as long as can be.
    let reply = |bytes: usize| {
        Reply::Values(vec![
            Value::Bytes(vec![1; bytes]),
            Value::U16(9),
            Value::Record(vec![Value::U8(1), Value::U64(2), Value::U16(3)]),
        ])
    };
    let short = full.encode(&call, reply(9), &Open).unwrap();
    assert_eq!((short.value, short.writes.len()), (2, 1));
    // The case from the function itself comes with lengths too, which the guest reads; another does not.
    let own = full.encode(&call, Reply::Error(2), &Open).unwrap();
    assert_eq!((own.value, own.deliver, own.writes), (2, deliver::LENGTHS, vec![(64, vec![0; 8])]));
    let other = full.encode(&call, Reply::Error(1), &Open).unwrap();
    assert_eq!((other.value, other.deliver, other.writes), (1, 0, vec![]));
    let whole = full.encode(&call, reply(8), &Open).unwrap();
    assert_eq!((whole.value, whole.writes.len()), (0, 4));
    // Nothing is written outside of what the call reserved for results.
    assert!(whole.writes.iter().all(|(at, bytes)| *at >= 64 && at + bytes.len() <= 120));
}

#[test]
fn a_list_as_a_result_is_lowered_and_encoded_as_bytes_are() {
    use WasmType::I32;
    let text = SOUND.replace("name = \"out\", type = \"bytes\"", "name = \"out\", type = \"list<both>\"");
    let lowered = Interface::parse(&text, "k.toml").unwrap();
    let full = lowered.function("full").unwrap();
    assert_eq!((full.params(), full.results()), (&[I32; 11][..], &[I32][..]));
    let out = full.args().find(|arg| matches!(arg, Arg::Out { .. }));
    assert_eq!(out, Some(Arg::Out { ptr: 6, capacity: 7, written: 8, stride: 24 }));
    let call = |room: u32| {
        let ranges = [(0, 2), (8, 24), (32, 24)].map(|(offset, length)| pack_range(offset, length));
        let outs = [(64, 8 + room), (160, 2), (176, 24)].map(|(offset, length)| pack_range(offset, length));
        let arena = Changing { bytes: RefCell::new(vec![0x61; 200]), copies: RefCell::default() };
        full.decode(&words(&[&ranges[..], &[7], &outs[..]].concat()), &arena, &Open)
    };
    let both = |a| Value::Record(vec![Value::U8(a), Value::U64(2), Value::U16(3)]);
    let reply =
        |count: u8| Reply::Values(vec![Value::List((0..count).map(both).collect()), Value::U16(9), both(1)]);
    let whole = full.encode(&call(72).unwrap(), reply(3), &Open).unwrap();
    let (_, elements) = whole.writes.iter().find(|(at, _)| *at == 72).unwrap();
    assert_eq!((elements.len(), elements[0], elements[24], elements[64]), (72, 0, 1, 3));
    assert!(whole.writes.contains(&(64, vec![3, 0, 0, 0, 0, 0, 0, 0])));
    let short = full.encode(&call(48).unwrap(), reply(3), &Open).unwrap();
    assert_eq!((short.value, short.writes), (2, vec![(64, vec![3, 0, 0, 0, 0, 0, 0, 0])]));
    // Of a range that is not of whole elements there is no shim.
    for room in [1, 23, 25, 71] {
        assert!(matches!(call(room), Err(Refusal::Broken(_))), "{room}");
    }
}

#[test]
fn an_interface_is_the_same_once_written_and_read() {
    let text = SOUND.replace("Grass.", "\\\"Grass\\\",\\n\\\\ é");
    let lowered = Interface::parse(&text, "k.toml").unwrap();
    let written = lowered.interface().to_toml();
    assert_eq!(Interface::parse(&written, "k.toml").unwrap().interface(), lowered.interface(), "{written}");
    assert!(written.contains("deadline = \"1s\"\nblocking = true"), "{written}");
}

#[test]
fn hostile_words_are_refused_before_anything_is_copied() {
    let lowered = Interface::parse(SOUND, "k.toml").unwrap();
    let full = lowered.function("full").unwrap();
    for word in [0, 1, u64::MAX, pack_range(128, 1), pack_range(u32::MAX, u32::MAX), pack_range(0, 129)] {
        let arena = Changing { bytes: RefCell::new(vec![0; 128]), copies: RefCell::default() };
        assert!(
            matches!(full.decode(&[word; ARGS_MAX], &arena, &Open), Err(Refusal::Broken(_))),
            "{word:#x}"
        );
        assert!(arena.copies.borrow().is_empty());
    }
}

#[test]
fn mistakes_have_their_place_and_help() {
    let function = |rest: &str| format!("interface = \"k\"\n[[function]]\nname = \"f\"\n{rest}\n");
    for (text, line, part) in [
        (function("params = [{ name = \"a\", type = \"strin\" }]"), 4, "did you mean \"string\"?"),
        (function("param = []"), 4, "did you mean \"params\"?"),
        (function("results = [{ name = \"a\", type = \"list<u8>\" }]"), 4, "a list of u8 is bytes"),
        (function("results = [{ name = \"a\", type = \"list<string>\" }]"), 4, "size is not fixed"),
        (function("params = [{ name = \"a\", type = \"list<string>\" }]"), 4, "size is not fixed"),
        (function("params = [{ name = \"a\", type = \"list<list<u32>>\" }]"), 4, "there is no type"),
        (function("params = [{ name = \"int\", type = \"u8\" }]"), 4, "C or Rust uses it"),
        (
            function("params = [{ name = \"a\", type = \"u8\" }, { name = \"a\", type = \"u8\" }]"),
            4,
            "there is another",
        ),
        (function("error = \"fault\""), 3, "there is no type \"fault\""),
        (function("overflow = \"x\""), 3, "it has none"),
        (function("deadline = \"0s\""), 3, "no time to answer"),
        ("interface = \"wasi_snapshot_preview1\"\n".to_owned(), 1, "others use"),
        ("interface = \"K\"\n".to_owned(), 1, "a name is a small letter"),
        ("interface = \"k\"\n".to_owned(), 1, "0 functions"),
        (
            SOUND.replace("\"fault\"\noverflow = \"full\"", "\"fault\"\noverflow = \"ful\""),
            33,
            "did you mean \"full\"?",
        ),
        (
            SOUND.replace(
                "type = \"u16\" }]\n[[function]]\nname = \"plain\"",
                "type = \"both\" }]\n[[function]]\nname = \"plain\"",
            ),
            17,
            "cannot be of type both",
        ),
    ] {
        let error = Interface::parse(&text, "k.toml").unwrap_err();
        assert!(error.to_string().contains(part), "{part}: {error}");
        let at = error.position().expect("a place");
        assert!(part == "did you mean \"full\"?" || at.line == line, "{error}: line {}", at.line);
    }
}

#[test]
fn what_is_hardly_meant_is_told() {
    assert_eq!(
        Interface::parse(SOUND, "k.toml").unwrap().warnings(),
        ["type color: no function uses it"],
        "the record that a list has is used"
    );
    let text = SOUND
        .replace("overflow = \"full\"\ndeadline = \"1s\"", "")
        .replace("\"c\", type = \"u16\"", "\"c\", type = \"color\"");
    let warnings = Interface::parse(&text, "k.toml").unwrap().warnings();
    assert!(warnings[0].contains("function full: a guest traps whose room for out"), "{warnings:?}");
    assert_eq!(warnings[1..], ["function full: it is blocking and has no deadline"]);
    let text = format!(
        "{SOUND}[[handle]]\nname = \"k_thing\"\n[[function]]\nname = \"f\"\nparams = [{{ name = \"a\", type = \"k_thing\" }}]\n"
    );
    let warnings = Interface::parse(&text, "k.toml").unwrap().warnings();
    assert!(
        warnings[1].contains("in C, type k_thing would have the name `k_thing_t` of type thing"),
        "{warnings:?}"
    );
}
