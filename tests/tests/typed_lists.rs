//! Lists as results of typed functions: what arrives in the guest's memory, and every rule that a guest or a host function can break.

use std::sync::{Arc, Mutex};

use compiler::Options;
use interface::{Interface, Reply, Value as V};
use ipc::job::CALLS_BYTES;
use ipc::report::Value;
use supervisor::{CallOutcome, Config, Service, Session, Supervisor};
use whole_system_tests::sessions::{self, assert_trap, call, returned};

const INTERFACE: &str = r#"
interface = "t"
[[enum]]
name = "color"
cases = ["red", "green"]
[[error]]
name = "fault"
cases = ["gone", "too_small"]
[[flags]]
name = "opts"
flags = ["a", "b"]
[[handle]]
name = "thing"
[[record]]
name = "point"
fields = [{ name = "tag", type = "s8" }, { name = "x", type = "u64" }, { name = "color", type = "color" }]
[[function]]
name = "two"
results = [{ name = "points", type = "list<point>" }, { name = "numbers", type = "list<s16>" }]
[[function]]
name = "large"
results = [{ name = "text", type = "string" }, { name = "numbers", type = "list<s16>" }]
[[function]]
name = "told"
results = [{ name = "opts", type = "list<opts>" }, { name = "text", type = "string" }]
error = "fault"
overflow = "too_small"
[[function]]
name = "things"
results = [{ name = "all", type = "list<thing>" }]
[[function]]
name = "open"
results = [{ name = "thing", type = "thing" }]
[[function]]
name = "count"
params = [{ name = "numbers", type = "list<s16>" }]
results = [{ name = "count", type = "u32" }]
"#;

/// 5 MiB of memory, which is more than a call can carry.
const GUEST: &str = r#"(module
  (import "t" "two" (func $two (param i32 i32 i32 i32 i32 i32)))
  (import "t" "large" (func $large (param i32 i32 i32 i32 i32 i32)))
  (import "t" "told" (func $told (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "t" "things" (func $things (param i32 i32 i32)))
  (import "t" "open" (func $open (result i32)))
  (import "t" "count" (func $count (param i32 i32) (result i32)))
  (memory (export "memory") 80)
  (export "two" (func $two)) (export "large" (func $large)) (export "told" (func $told)) (export "things" (func $things)) (export "open" (func $open))
  (export "count" (func $count)))"#;

const MEMORY: u32 = 80 << 16;

/// A session whose host functions reply what is there.
struct Test {
    session: Session,
    replies: Arc<Mutex<Vec<V>>>,
    _supervisor: Supervisor,
}

impl Test {
    async fn new() -> Self {
        let mut service = Service::new(Interface::parse(INTERFACE, "t.toml").unwrap());
        let replies: Arc<Mutex<Vec<V>>> = Arc::default();
        for name in ["two", "large", "told", "things"] {
            let replies = Arc::clone(&replies);
            let reply = move |_, _| std::future::ready(Ok(Reply::Values(replies.lock().unwrap().clone())));
            service.function(name, reply).unwrap();
        }
        service
            .function("open", |context, _| {
                let opened = context.insert("thing", ()).map(|handle| Reply::Values(vec![handle]));
                std::future::ready(opened)
            })
            .unwrap()
            .function("count", |_, arguments| {
                let V::List(numbers) = &arguments[0] else { panic!("{arguments:?}") };
                std::future::ready(Ok(Reply::Values(vec![V::U32(numbers.len() as u32)])))
            })
            .unwrap();
        let compile = Options { open_imports: true, ..Options::default() };
        let supervisor = Supervisor::start(Config { compile, shards: 1, ..Config::default() }).unwrap();
        let mut job = sessions::job(&supervisor, GUEST).await;
        job.imports.serve(&service).unwrap();
        let session = sessions::started(&supervisor, job).await;
        Self { session, replies, _supervisor: supervisor }
    }

    /// A call of `name` to which the host function replies with these values.
    async fn call(&mut self, name: &str, args: &[u32], reply: &[V]) -> CallOutcome {
        *self.replies.lock().unwrap() = reply.to_vec();
        let args: Vec<Value> = args.iter().map(|arg| Value::I32(*arg as i32)).collect();
        call(&mut self.session, name, &args).await
    }

    async fn done(&mut self, name: &str, args: &[u32], reply: &[V]) {
        assert_eq!(self.call(name, args, reply).await, CallOutcome::Returned(Vec::new()), "{args:?}");
    }

    async fn memory(&mut self, at: u64, length: usize) -> Vec<u8> {
        self.session.read_memory("memory", at, length).await.unwrap()
    }

    async fn number(&mut self, at: u64) -> u32 {
        u32::from_le_bytes(self.memory(at, 4).await.try_into().unwrap())
    }
}

fn point(tag: i8, x: u64, color: u32) -> V {
    V::Record(vec![V::S8(tag), V::U64(x), V::Enum(color)])
}

fn numbers(count: usize) -> V {
    V::List((0..count).map(|number| V::S16(number as i16)).collect())
}

fn no_points() -> V {
    V::List(Vec::new())
}

#[tokio::test]
async fn lists_arrive_as_arrays_of_c_with_the_number_of_their_elements() {
    let mut test = Test::new().await;
    test.session.write_memory("memory", 0x100, &[0xff; 0x300]).await.unwrap();
    let reply = [V::List(vec![point(-1, 7, 1), point(2, u64::MAX, 0)]), numbers(3)];
    // Room for one more of the one, for as many as there are of the other.
    test.done("two", &[0x100, 3, 0x200, 0x300, 3, 0x204], &reply).await;
    let mut expected = [0; 48];
    (expected[0], expected[8], expected[16], expected[24]) = (0xff, 7, 1, 2);
    expected[32..40].fill(0xff);
    assert_eq!(test.memory(0x100, 48).await, expected);
    assert_eq!(test.memory(0x130, 24).await, [0xff; 24], "the element that there is room for");
    assert_eq!(test.memory(0x200, 8).await, [2, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(test.memory(0x300, 8).await, [0, 0, 1, 0, 2, 0, 0xff, 0xff]);
    // None, with and without room, also at the end of the memory.
    for (room, at) in [(3, 0x100), (0, MEMORY)] {
        test.done("two", &[at, room, 0x200, at + room * 24, 0, 0x204], &[no_points(), numbers(0)]).await;
        assert_eq!(test.memory(0x200, 8).await, [0; 8]);
    }
    assert_eq!(test.memory(0x100, 48).await, expected);
    // As many as there can be; the memory has more room than a call can carry.
    let most = 65_536;
    test.done(
        "two",
        &[0, 0, MEMORY - 4, 0x100, (MEMORY - 0x108) / 2, MEMORY - 8],
        &[no_points(), numbers(most)],
    )
    .await;
    assert_eq!((test.number(u64::from(MEMORY) - 8).await, MEMORY as usize > CALLS_BYTES), (65_536, true));
    let last = test.memory(0x100 + 2 * 65_535, 2).await;
    assert_eq!(last, [0xff, 0xff]);
    // And the same number back.
    assert_eq!(test.call("count", &[0x100, 65_536], &[]).await, returned(65_536));
}

/// What a call can carry is divided only if it does not suffice.
#[tokio::test]
async fn a_large_result_has_its_room_beside_a_small_one() {
    let mut test = Test::new().await;
    let (room, length) = (3 << 20, 5 << 19);
    let reply = [V::String("x".repeat(length)), numbers(3)];
    test.done("large", &[0x100, room, 0x10, 0x20, 8, 0x14], &reply).await;
    assert_eq!((test.number(0x10).await, test.number(0x14).await), (length as u32, 3));
    assert_eq!(test.memory(0x100 + length as u64 - 1, 2).await, *b"x\0");
    assert_eq!(test.memory(0x20, 8).await, [0, 0, 1, 0, 2, 0, 0, 0]);
    // Here it does not: each gets half.
    let outcome = test.call("large", &[0x100, room, 0x10, 0x100 + room, 1 << 19, 0x14], &reply).await;
    let CallOutcome::Trapped(trap) = outcome else { panic!("{outcome:?}") };
    assert!(
        trap.message.contains("result text: it has 2621440 bytes, but the guest has room for"),
        "{trap:?}"
    );
    test.done(
        "large",
        &[0x100, room, 0x10, 0x100 + room, 1 << 19, 0x14],
        &[V::String("y".repeat(1 << 20)), numbers(65_536)],
    )
    .await;
    assert_eq!((test.number(0x10).await, test.number(0x14).await), (1 << 20, 65_536));
}

#[tokio::test]
async fn lists_beyond_their_room_are_mistakes_or_tell_their_length() {
    let mut test = Test::new().await;
    for (points, numbers_room, why) in [
        (1, 9, "result points: it has 2 elements, but the guest has room for 1"),
        (0, 9, "result points: it has 2 elements, but the guest has room for 0"),
        (2, 2, "result numbers: it has 3 elements, but the guest has room for 2"),
    ] {
        let reply = [V::List(vec![point(1, 1, 1); 2]), numbers(3)];
        let args = [0x100, points, 0x200, 0x300, numbers_room, 0x204];
        let outcome = test.call("two", &args, &reply).await;
        assert_trap(&outcome, &format!("host function \"t.two\" failed: {why}"));
    }
    // Nothing of the list of 2 that did fit.
    assert_eq!(test.memory(0x100, 0x300).await, [0; 0x300]);
    let reply = [V::List(vec![V::Flags(3), V::Flags(1)]), V::String("text".into())];
    for (room, text) in [(1, 9), (0, 9), (2, 3), (1, 1)] {
        let outcome = test.call("told", &[0x100, room, 0x200, 0x110, text, 0x204], &reply).await;
        assert_eq!(outcome, returned(2), "{room} {text}");
        assert_eq!(test.memory(0x200, 8).await, [2, 0, 0, 0, 4, 0, 0, 0], "{room} {text}");
        assert_eq!(test.memory(0x100, 0x100).await, [0; 0x100], "{room} {text}");
    }
    assert_eq!(test.call("told", &[0x100, 2, 0x200, 0x110, 4, 0x204], &reply).await, returned(0));
    assert_eq!(test.memory(0x100, 0x14).await, *b"\x03\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0text");
}

#[tokio::test]
async fn ranges_of_lists_are_checked_against_the_memory_and_each_other() {
    let mut test = Test::new().await;
    let reply = [no_points(), numbers(0)];
    for (at, count) in [
        (MEMORY, 1),
        (MEMORY - 23, 1),
        (0, MEMORY / 24 + 1),
        (u32::MAX, 1),
        // 24 times these wraps to something small.
        (0, 0x0aaa_aaab),
        (0, 0x8000_0000),
        (0, u32::MAX),
        (MEMORY + 1, 0),
    ] {
        let outcome = test.call("two", &[at, count, 0x10, 0, 0, 0x20], &reply).await;
        let why = "points: not inside of the guest's memory";
        assert_trap(&outcome, &format!("host function \"t.two\" was called wrongly: {why}"));
    }
    for written in [MEMORY, MEMORY - 3, u32::MAX] {
        let outcome = test.call("two", &[0, 0, written, 0, 0, 0x20], &reply).await;
        let why = "points: not inside of the guest's memory";
        assert_trap(&outcome, &format!("host function \"t.two\" was called wrongly: {why}"));
    }
    for (args, result) in [
        // The last element of the one is the first of the other.
        ([0x100, 2, 0x10, 0x12e, 1, 0x20], "numbers"),
        ([0x100, 2, 0x10, 0x0ff, 1, 0x20], "numbers"),
        // A number of elements among elements.
        ([0x100, 2, 0x12c, 0x200, 1, 0x20], "points"),
        ([0x100, 2, 0x10, 0x200, 1, 0x12c], "numbers"),
        ([0x100, 2, 0x10, 0x200, 1, 0x10], "numbers"),
    ] {
        let outcome = test.call("two", &args, &reply).await;
        let why = format!("{result}: its memory overlaps that of another result");
        assert_trap(&outcome, &format!("host function \"t.two\" was called wrongly: {why}"));
    }
    test.done("two", &[0x100, 2, 0x10, 0x130, 1, 0x20], &reply).await;
}

#[tokio::test]
async fn every_element_of_a_reply_is_checked() {
    let mut test = Test::new().await;
    let args = [0x100, 99, 0x10, 0x2000, 99_999, 0x20];
    let points = |point: V| vec![V::List(vec![self::point(1, 1, 1), point]), numbers(0)];
    for (reply, why) in [
        (points(point(1, 1, 2)), "result points: element 1: field color: 2 is no case of color"),
        (points(V::U8(1)), "result points: element 1: it is of type u8, not a record"),
        (points(V::Record(vec![])), "result points: element 1: it has 0 fields, not 3"),
        (
            points(V::Record(vec![V::U8(1), V::U64(1), V::Enum(0)])),
            "result points: element 1: field tag: it is of type u8, not s8",
        ),
        (
            vec![no_points(), V::List(vec![V::U16(1)])],
            "result numbers: element 0: it is of type u16, not s16",
        ),
        (vec![no_points(), V::Bytes(vec![1, 2])], "result numbers: it is of type bytes, not a list"),
        (vec![no_points(), V::S16(1)], "result numbers: it is of type s16, not a list"),
        (vec![no_points(), numbers(65_537)], "result numbers: a list of 65537 elements; 65536 are possible"),
        (
            vec![V::List(vec![point(1, 1, 1); 21_846]), numbers(0)],
            "result points: a list of 21846 elements; 21845 are possible",
        ),
        (vec![no_points()], "it returned 1 values instead of 2"),
    ] {
        let outcome = test.call("two", &args, &reply).await;
        assert_trap(&outcome, &format!("host function \"t.two\" failed: {why}"));
        assert_eq!(test.memory(0, 0x3000).await, [0; 0x3000], "{why}");
    }
    let reply = [V::List(vec![V::Flags(3), V::Flags(4)]), V::String(String::new())];
    // Too long for its room as well, which would be no mistake.
    let outcome = test.call("told", &[0x100, 1, 0x200, 0x110, 4, 0x204], &reply).await;
    assert_trap(
        &outcome,
        "host function \"t.told\" failed: result opts: element 1: 0x4 are no flags of opts",
    );
}

#[tokio::test]
async fn handles_in_a_list_are_open_and_of_their_kind() {
    let mut test = Test::new().await;
    let open = async |test: &mut Test| match test.call("open", &[], &[]).await {
        CallOutcome::Returned(results) => match results[..] {
            [Value::I32(handle)] => handle as u32,
            _ => panic!("{results:?}"),
        },
        other => panic!("{other:?}"),
    };
    let things = [open(&mut test).await, open(&mut test).await];
    let list = |handles: &[u32]| [V::List(handles.iter().map(|handle| V::Handle(*handle)).collect())];
    test.done("things", &[0x100, 2, 0x10], &list(&things)).await;
    assert_eq!(test.memory(0x100, 8).await, things.map(u32::to_le_bytes).concat());
    for unknown in [0, 77, u32::MAX] {
        let outcome = test.call("things", &[0x100, 2, 0x10], &list(&[things[0], unknown])).await;
        let why =
            format!("result all: element 1: {unknown:#x} is no thing: the job was given no such handle");
        assert_trap(&outcome, &format!("host function \"t.things\" failed: {why}"));
    }
}
