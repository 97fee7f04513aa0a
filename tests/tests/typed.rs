//! Typed functions of the host app: what arrives, what goes back, and every rule that a guest or a host function can break.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use compiler::Options;
use interface::{Interface, Lowered, Reply, Value as V};
use ipc::report::{Outcome, Value};
use supervisor::{CallContext, CallOutcome, Config, Error, HostError, Imports, Service, Session, Supervisor};
use whole_system_tests::sessions::{self, assert_trap, call, returned};

const INTERFACE: &str = r#"
interface = "t"
[[enum]]
name = "color"
cases = ["red", "green", "blue"]
[[error]]
name = "fault"
cases = ["not_found", "too_small"]
[[flags]]
name = "opts"
flags = ["a", "b", "c"]
[[handle]]
name = "thing"
[[handle]]
name = "other"
[[record]]
name = "point"
fields = [{ name = "tag", type = "s8" }, { name = "x", type = "f64" }, { name = "color", type = "color" }, { name = "opts", type = "opts" }]
[[function]]
name = "scalars"
params = [
  { name = "flag", type = "bool" }, { name = "small", type = "s8" }, { name = "medium", type = "u16" }, { name = "number", type = "s32" },
  { name = "wide", type = "u64" }, { name = "single", type = "f32" }, { name = "real", type = "f64" }, { name = "color", type = "color" },
  { name = "opts", type = "opts" },
]
results = [{ name = "sum", type = "u64" }]
[[function]]
name = "text"
params = [{ name = "words", type = "string" }]
results = [{ name = "count", type = "u32" }]
[[function]]
name = "split"
params = [{ name = "data", type = "bytes" }]
results = [{ name = "first", type = "bytes" }, { name = "second", type = "string" }]
[[function]]
name = "points"
params = [{ name = "all", type = "list<point>" }, { name = "one", type = "point" }]
results = [{ name = "last", type = "point" }]
[[function]]
name = "get"
params = [{ name = "from", type = "thing" }, { name = "key", type = "string" }]
results = [{ name = "value", type = "bytes" }]
error = "fault"
overflow = "too_small"
[[function]]
name = "open"
results = [{ name = "opened", type = "thing" }]
[[function]]
name = "close"
params = [{ name = "closed", type = "thing" }]
[[function]]
name = "open_other"
results = [{ name = "opened", type = "other" }]
[[function]]
name = "answer"
params = [{ name = "kind", type = "u32" }]
results = [{ name = "color", type = "color" }, { name = "text", type = "string" }, { name = "opts", type = "opts" }, { name = "thing", type = "thing" }]
[[function]]
name = "wait"
deadline = "50ms"
[[function]]
name = "forever"
[[function]]
name = "hang"
blocking = true
[[function]]
name = "hang_briefly"
blocking = true
deadline = "50ms"
[[function]]
name = "panic_now"
params = [{ name = "kind", type = "u32" }]
"#;

/// A guest that exports what it imports, as it is.
const GUEST: &str = r#"(module
  (import "t" "scalars" (func $scalars (param i32 i32 i32 i32 i64 f32 f64 i32 i32) (result i64)))
  (import "t" "text" (func $text (param i32 i32) (result i32)))
  (import "t" "split" (func $split (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "t" "points" (func $points (param i32 i32 i32 i32)))
  (import "t" "get" (func $get (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "t" "open" (func $open (result i32)))
  (import "t" "close" (func $close (param i32)))
  (import "t" "open_other" (func $open_other (result i32)))
  (import "t" "answer" (func $answer (param i32 i32 i32 i32 i32 i32 i32)))
  (import "t" "wait" (func $wait))
  (import "t" "forever" (func $forever))
  (import "t" "hang" (func $hang))
  (import "t" "hang_briefly" (func $hang_briefly))
  (import "t" "panic_now" (func $panic_now (param i32)))
  (memory (export "memory") 1)
  (export "scalars" (func $scalars)) (export "text" (func $text)) (export "split" (func $split))
  (export "points" (func $points)) (export "get" (func $get)) (export "open" (func $open)) (export "close" (func $close))
  (export "open_other" (func $open_other)) (export "answer" (func $answer)) (export "wait" (func $wait))
  (export "forever" (func $forever)) (export "hang" (func $hang)) (export "hang_briefly" (func $hang_briefly))
  (export "panic_now" (func $panic_now))
  (func (export "one") (result i32) (i32.const 1)))"#;

fn interface() -> Lowered {
    Interface::parse(INTERFACE, "t.toml").expect("a sound interface")
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a destructor of a test panics");
    }
}

/// Tells when it is dropped.
struct Tells(mpsc::Sender<&'static str>);

impl Drop for Tells {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

/// What the functions of a test share with it.
#[derive(Clone, Default)]
struct Shared {
    calls: Arc<AtomicUsize>,
    /// Keeps `hang` hanging; dropped to release it.
    gate: Arc<tokio::sync::Mutex<()>>,
    events: Option<mpsc::Sender<&'static str>>,
}

fn values(values: impl Into<Vec<V>>) -> Result<Reply, HostError> {
    Ok(Reply::Values(values.into()))
}

fn service(shared: &Shared) -> Service {
    let mut service = Service::new(interface());
    let calls = Arc::clone(&shared.calls);
    let events = shared.events.clone();
    let in_forever = events.clone();
    let gate = Arc::clone(&shared.gate);
    let serve =
        |service: &mut Service, name: &str, f: fn(CallContext, Vec<V>) -> Result<Reply, HostError>| {
            let calls = Arc::clone(&calls);
            service
                .function(name, move |context, arguments| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    std::future::ready(f(context, arguments))
                })
                .expect(name);
        };
    serve(&mut service, "scalars", |_, arguments| {
        let expected = [
            V::Bool(true),
            V::S8(-3),
            V::U16(65535),
            V::S32(-1),
            V::U64(u64::MAX),
            V::F32(1.5),
            V::F64(-2.5),
            V::Enum(2),
            V::Flags(5),
        ];
        assert_eq!(arguments, expected);
        values([V::U64(u64::MAX - 1)])
    });
    serve(&mut service, "text", |_, arguments| match &arguments[..] {
        [V::String(words)] => values([V::U32(words.chars().count() as u32)]),
        other => Err(format!("{other:?}").into()),
    });
    serve(&mut service, "split", |_, arguments| match &arguments[..] {
        [V::Bytes(data)] => {
            let (first, second) = data.split_at(data.len() / 2);
            values([V::Bytes(first.to_vec()), V::String(String::from_utf8_lossy(second).into_owned())])
        }
        other => Err(format!("{other:?}").into()),
    });
    serve(&mut service, "points", |_, arguments| match &arguments[..] {
        [V::List(all), one @ V::Record(_)] => values([all.last().unwrap_or(one).clone()]),
        other => Err(format!("{other:?}").into()),
    });
    serve(&mut service, "get", |context, arguments| match &arguments[..] {
        [from, V::String(key)] => {
            let thing = context.get::<String>(from)?;
            match key.as_str() {
                "" => Ok(Reply::Error(1)),
                "bad" => Ok(Reply::Error(3)),
                _ => values([V::Bytes([thing.as_bytes(), key.as_bytes()].concat())]),
            }
        }
        other => Err(format!("{other:?}").into()),
    });
    serve(&mut service, "open", |context, _| values([context.insert("thing", "thing/".to_owned())?]));
    serve(&mut service, "close", |context, arguments| {
        context.remove::<String>(&arguments[0])?;
        values([])
    });
    serve(&mut service, "open_other", |context, _| values([context.insert("other", 1u8)?]));
    serve(&mut service, "answer", |context, arguments| {
        let mut right =
            vec![V::Enum(1), V::String("é".into()), V::Flags(7), context.insert("thing", String::new())?];
        match arguments[0] {
            V::U32(0) => {}
            V::U32(1) => right[0] = V::Enum(3),
            V::U32(2) => right[0] = V::U32(1),
            V::U32(3) => right[1] = V::Bytes(vec![b'x']),
            V::U32(4) => right[1] = V::String("far too long".into()),
            V::U32(5) => right[2] = V::Flags(8),
            V::U32(6) => right[3] = V::Handle(77),
            V::U32(7) => right[3] = context.insert("other", 1u8)?,
            V::U32(8) => right.truncate(3),
            V::U32(9) => return Ok(Reply::Error(1)),
            _ => return Err("no such answer".into()),
        }
        values(right)
    });
    let never = |service: &mut Service, name: &str, events: Option<mpsc::Sender<&'static str>>| {
        service
            .function(name, move |_, _| {
                let tells = events.clone().map(Tells);
                if let Some(Tells(events)) = &tells {
                    let _ = events.send("called");
                }
                async move {
                    let _tells = tells;
                    std::future::pending().await
                }
            })
            .expect(name);
    };
    never(&mut service, "wait", events);
    never(&mut service, "forever", in_forever);
    for name in ["hang", "hang_briefly"] {
        let (gate, events) = (Arc::clone(&gate), shared.events.clone());
        service
            .blocking(name, move |_, _| {
                if let Some(events) = &events {
                    let _ = events.send("hangs");
                }
                drop(gate.blocking_lock());
                values([])
            })
            .expect(name);
    }
    service
        .function("panic_now", |_, arguments| {
            let kind = arguments[0].clone();
            assert_ne!(kind, V::U32(0), "a host function of a test panics at once");
            let bomb = (kind == V::U32(2)).then_some(Bomb);
            async move {
                if kind == V::U32(1) {
                    tokio::task::yield_now().await;
                    panic!("a host function of a test panics later");
                }
                let _bomb = bomb;
                std::future::pending().await
            }
        })
        .expect("panic_now");
    service
}

fn supervisor() -> Supervisor {
    let compile = Options { open_imports: true, ..Options::default() };
    Supervisor::start(Config { compile, shards: 1, ..Config::default() }).expect("a supervisor")
}

async fn started(supervisor: &Supervisor, shared: &Shared) -> Session {
    let mut job = sessions::job(supervisor, GUEST).await;
    job.imports.serve(&service(shared)).expect("every function is served");
    sessions::started(supervisor, job).await
}

fn i32s(values: &[u32]) -> Vec<Value> {
    values.iter().map(|value| Value::I32(*value as i32)).collect()
}

/// Calls `name`, which returns nothing.
async fn done(session: &mut Session, name: &str, args: &[u32]) {
    assert_eq!(call(session, name, &i32s(args)).await, CallOutcome::Returned(Vec::new()), "{name}");
}

async fn handle(session: &mut Session, name: &str) -> u32 {
    sessions::number_in(call(session, name, &[]).await)
}

/// A call that traps because the guest passed something wrong; the host function is not called.
async fn mistake(session: &mut Session, shared: &Shared, name: &str, args: &[u32], why: &str) {
    let before = shared.calls.load(Ordering::Relaxed);
    let outcome = call(session, name, &i32s(args)).await;
    assert_trap(&outcome, &format!("host function \"t.{name}\" was called wrongly: {why}"));
    assert_eq!(shared.calls.load(Ordering::Relaxed), before, "{name}: {why}");
}

#[tokio::test]
async fn every_type_arrives_and_goes_back() {
    let shared = Shared::default();
    let supervisor = supervisor();
    let mut session = started(&supervisor, &shared).await;
    let args = [
        Value::I32(1),
        Value::I32(-3),
        Value::I32(65535),
        Value::I32(-1),
        Value::I64(-1),
        Value::F32(1.5f32.to_bits()),
        Value::F64((-2.5f64).to_bits()),
        Value::I32(2),
        Value::I32(5),
    ];
    assert_eq!(call(&mut session, "scalars", &args).await, CallOutcome::Returned(vec![Value::I64(-2)]));

    session.write_memory("memory", 8, "zwölf".as_bytes()).await.unwrap();
    assert_eq!(call(&mut session, "text", &i32s(&[8, 6])).await, returned(5));
    assert_eq!(call(&mut session, "text", &i32s(&[0x1_0000, 0])).await, returned(0));

    session.write_memory("memory", 100, b"abcde").await.unwrap();
    // More room than there is to carry is no mistake.
    done(&mut session, "split", &[100, 5, 0x200, 0x100, 0x300, 0x400, 3, 0x304]).await;
    let memory = session.read_memory("memory", 0x200, 0x208).await.unwrap();
    assert_eq!((&memory[..3], &memory[0x100..0x108]), (&b"ab\0"[..], &[2, 0, 0, 0, 3, 0, 0, 0][..]));
    assert_eq!(session.read_memory("memory", 0x400, 4).await.unwrap(), b"cde\0");

    // The layout of a C structure: s8, 7 bytes, f64, i32, i32.
    let point = |tag: i8, x: f64, color: u32, opts: u32| {
        [&[tag as u8, 9, 9, 9, 9, 9, 9, 9][..], &x.to_le_bytes(), &color.to_le_bytes(), &opts.to_le_bytes()]
            .concat()
    };
    session
        .write_memory("memory", 0x500, &[point(-1, 0.5, 0, 0), point(-2, 1.5, 2, 6)].concat())
        .await
        .unwrap();
    session.write_memory("memory", 0x600, &[0xff; 24]).await.unwrap();
    done(&mut session, "points", &[0x500, 2, 0x500, 0x600]).await;
    let mut expected = point(-2, 1.5, 2, 6);
    // Nothing of the host's is between the fields.
    expected[1..8].fill(0);
    assert_eq!(session.read_memory("memory", 0x600, 24).await.unwrap(), expected);
    done(&mut session, "points", &[0, 0, 0x500, 0x600]).await;
    assert_eq!(session.read_memory("memory", 0x600, 1).await.unwrap(), [0xff], "-1");
    let usage = session.end().await.unwrap().usage;
    assert_eq!(usage.host_calls, 6);
}

#[tokio::test]
async fn errors_are_codes_and_results_that_are_too_long_tell_their_length() {
    let shared = Shared::default();
    let supervisor = supervisor();
    let mut session = started(&supervisor, &shared).await;
    let thing = handle(&mut session, "open").await;
    session.write_memory("memory", 8, b"key").await.unwrap();
    let get = |key: u32, room: u32| i32s(&[thing, 8, key, 0x100, room, 0x200]);
    assert_eq!(call(&mut session, "get", &get(3, 9)).await, returned(0));
    assert_eq!(session.read_memory("memory", 0x100, 10).await.unwrap(), b"thing/key\0");
    assert_eq!(session.read_memory("memory", 0x200, 4).await.unwrap(), [9, 0, 0, 0]);
    session.write_memory("memory", 0x100, &[0; 0x104]).await.unwrap();
    // Not found: nothing is written.
    assert_eq!(call(&mut session, "get", &get(0, 9)).await, returned(1));
    assert_eq!(session.read_memory("memory", 0x100, 0x104).await.unwrap(), [0; 0x104]);
    // Too small: only the length.
    for room in [8, 1, 0] {
        assert_eq!(call(&mut session, "get", &get(3, room)).await, returned(2), "{room}");
        assert_eq!(session.read_memory("memory", 0x100, 0x100).await.unwrap(), [0; 0x100], "{room}");
        assert_eq!(session.read_memory("memory", 0x200, 4).await.unwrap(), [9, 0, 0, 0], "{room}");
    }
    session.write_memory("memory", 8, b"bad").await.unwrap();
    let outcome = call(&mut session, "get", &get(3, 9)).await;
    assert_trap(&outcome, "host function \"t.get\" failed: it failed with 3, which is no case of fault");
}

#[tokio::test]
async fn pointers_and_lengths_beyond_the_memory_are_refused() {
    const OUTSIDE: &str = "not inside of the guest's memory";
    let shared = Shared::default();
    let supervisor = supervisor();
    let mut session = started(&supervisor, &shared).await;
    for (at, length) in [
        (0x1_0000, 1),
        (0xffff, 2),
        (0, 0x1_0001),
        (u32::MAX, 1),
        (1, u32::MAX),
        (u32::MAX, u32::MAX),
        (0x1_0001, 0),
    ] {
        mistake(&mut session, &shared, "text", &[at, length], &format!("words: {OUTSIDE}")).await;
        let split = [at, length, 0, 1, 8, 16, 1, 24];
        mistake(&mut session, &shared, "split", &split, &format!("data: {OUTSIDE}")).await;
        let split = [0, 0, at, length, 8, 16, 1, 24];
        mistake(&mut session, &shared, "split", &split, &format!("first: {OUTSIDE}")).await;
    }
    // The last bytes there are.
    assert_eq!(call(&mut session, "text", &i32s(&[0xffff, 1])).await, returned(1));
    // The number of bytes written, a record in, a record out, a list whose length wraps.
    for at in [0xfffd, 0x1_0000, u32::MAX] {
        let split = [0, 0, 0, 1, at, 16, 1, 24];
        mistake(&mut session, &shared, "split", &split, &format!("first: {OUTSIDE}")).await;
        mistake(&mut session, &shared, "points", &[0, 0, at, 0], &format!("one: {OUTSIDE}")).await;
        mistake(&mut session, &shared, "points", &[0, 0, 0, at], &format!("last: {OUTSIDE}")).await;
    }
    for length in [0x1000_0000, 0x0aaa_aaab, u32::MAX, 2731] {
        mistake(&mut session, &shared, "points", &[0, length, 0, 0], &format!("all: {OUTSIDE}")).await;
    }
}

#[tokio::test]
async fn results_that_would_overlap_are_refused() {
    const OVERLAP: &str = "its memory overlaps that of another result";
    let shared = Shared::default();
    let supervisor = supervisor();
    let mut session = started(&supervisor, &shared).await;
    for (args, result) in [
        ([0, 0, 0x100, 16, 0x200, 0x10f, 16, 0x204], "second"),
        ([0, 0, 0x100, 16, 0x200, 0x100, 16, 0x204], "second"),
        ([0, 0, 0x100, 16, 0x10c, 0x300, 16, 0x204], "first"),
        ([0, 0, 0x100, 16, 0x200, 0x300, 16, 0x203], "second"),
        ([0, 0, 0x100, 16, 0x200, 0x300, 16, 0x0fd], "second"),
    ] {
        mistake(&mut session, &shared, "split", &args, &format!("{result}: {OVERLAP}")).await;
    }
    // Side by side, without room, or over what was read.
    for args in [
        [0, 0, 0x100, 16, 0x200, 0x110, 16, 0x204],
        [0, 0, 0x100, 0, 0x200, 0x100, 0, 0x204],
        [0x100, 2, 0x100, 16, 0x200, 0x110, 16, 0x204],
    ] {
        done(&mut session, "split", &args).await;
    }
}

#[tokio::test]
async fn values_that_are_none_of_their_type_are_refused() {
    let shared = Shared::default();
    let supervisor = supervisor();
    let mut session = started(&supervisor, &shared).await;
    let right = [1, -3, 65535, -1, -1, 0, 0, 2, 5];
    for (position, value, why) in [
        (0, 2, "flag: 2 is not 0 to 1"),
        (0, -1, "flag: 4294967295 is not 0 to 1"),
        (1, 128, "small: 128 is not -128 to 127"),
        (1, -129, "small: -129 is not -128 to 127"),
        (2, 65536, "medium: 65536 is not 0 to 65535"),
        (7, 3, "color: 3 is no case of color"),
        (7, -1, "color: 4294967295 is no case of color"),
        (8, 8, "opts: 0x8 are no flags of opts"),
        (8, -1, "opts: 0xfffffff8 are no flags of opts"),
    ] {
        let mut args = right;
        args[position] = value;
        let args: Vec<Value> = args
            .iter()
            .enumerate()
            .map(|(index, value)| match index {
                4 => Value::I64(i64::from(*value)),
                5 => Value::F32(0),
                6 => Value::F64(0),
                _ => Value::I32(*value),
            })
            .collect();
        let outcome = call(&mut session, "scalars", &args).await;
        assert_trap(&outcome, &format!("host function \"t.scalars\" was called wrongly: {why}"));
    }
    session.write_memory("memory", 8, b"ab\xffcd\xc3").await.unwrap();
    mistake(&mut session, &shared, "text", &[8, 5], "words: byte 2 is not UTF-8").await;
    mistake(&mut session, &shared, "text", &[12, 2], "words: byte 1 is not UTF-8").await;
    // In records, and in elements of a list.
    session.write_memory("memory", 0x110, &[3]).await.unwrap();
    mistake(
        &mut session,
        &shared,
        "points",
        &[0, 0, 0x100, 0x200],
        "one: field color: 3 is no case of color",
    )
    .await;
    mistake(
        &mut session,
        &shared,
        "points",
        &[0xe8, 2, 0, 0x200],
        "all: element 1: field color: 3 is no case of color",
    )
    .await;
    session.write_memory("memory", 0x110, &[0, 0, 0, 0, 9]).await.unwrap();
    mistake(
        &mut session,
        &shared,
        "points",
        &[0, 0, 0x100, 0x200],
        "one: field opts: 0x8 are no flags of opts",
    )
    .await;
}

#[tokio::test]
async fn stale_and_foreign_handles_are_refused() {
    let supervisor = supervisor();
    let shared = Shared::default();
    let mut session = started(&supervisor, &shared).await;
    let mut neighbour = started(&supervisor, &shared).await;
    let other = handle(&mut session, "open_other").await;
    let thing = handle(&mut session, "open").await;
    let get = |handle: u32| [handle, 8, 0, 0x100, 9, 0x200];
    let why = |handle: u32, why: &str| format!("from: {handle:#x} is no thing: {why}");
    assert_eq!(call(&mut session, "get", &i32s(&get(thing))).await, returned(1));
    mistake(&mut session, &shared, "get", &get(other), &why(other, "it is a handle of another kind")).await;
    for unknown in [0, 1, thing + 1, u32::MAX] {
        mistake(
            &mut session,
            &shared,
            "get",
            &get(unknown),
            &why(unknown, "the job was given no such handle"),
        )
        .await;
    }
    // Another job's.
    mistake(&mut neighbour, &shared, "get", &get(thing), &why(thing, "the job was given no such handle"))
        .await;
    done(&mut session, "close", &[thing]).await;
    mistake(&mut session, &shared, "get", &get(thing), &why(thing, "it was removed")).await;
    let again = handle(&mut session, "open").await;
    assert_ne!(again, thing);
    mistake(&mut session, &shared, "get", &get(thing), &why(thing, "it was removed")).await;
    assert_eq!(call(&mut session, "get", &i32s(&get(again))).await, returned(1));
}

#[tokio::test]
async fn replies_that_break_their_declaration_cost_the_call() {
    let shared = Shared::default();
    let supervisor = supervisor();
    let mut session = started(&supervisor, &shared).await;
    let answer = |kind: u32| i32s(&[kind, 0x100, 0x110, 4, 0x120, 0x130, 0x140]);
    assert_eq!(call(&mut session, "answer", &answer(0)).await, CallOutcome::Returned(Vec::new()));
    let memory = session.read_memory("memory", 0x100, 0x44).await.unwrap();
    assert_eq!((memory[0], &memory[0x10..0x13], memory[0x20], memory[0x30]), (1, &b"\xc3\xa9\0"[..], 2, 7));
    session.write_memory("memory", 0x100, &[0; 0x44]).await.unwrap();
    for (kind, why) in [
        (1, "result color: 3 is no case of color"),
        (2, "result color: it is of type u32, not color"),
        (3, "result text: it is of type bytes, not string"),
        (4, "result text: it has 12 bytes, but the guest has room for 4"),
        (5, "result opts: 0x8 are no flags of opts"),
        (6, "result thing: 0x4d is no thing: the job was given no such handle"),
        (7, "is no thing: it is a handle of another kind"),
        (8, "it returned 3 values instead of 4"),
        (9, "it failed with error 1, but declares none"),
        (10, "no such answer"),
    ] {
        match call(&mut session, "answer", &answer(kind)).await {
            CallOutcome::Trapped(trap) => {
                assert!(trap.message.starts_with("host function \"t.answer\" failed: "), "{}", trap.message);
                assert!(trap.message.ends_with(why), "{}", trap.message);
            }
            other => panic!("{why}: {other:?}"),
        }
        // And nothing of it has come.
        assert_eq!(session.read_memory("memory", 0x100, 0x44).await.unwrap(), [0; 0x44], "{why}");
    }
}

#[tokio::test]
async fn deadlines_and_panics_cost_the_call_and_nothing_else() {
    let (events, seen) = mpsc::channel();
    let shared = Shared { events: Some(events), ..Shared::default() };
    let held = Arc::clone(&shared.gate);
    let gate = held.try_lock().unwrap();
    let supervisor = supervisor();
    let mut session = started(&supervisor, &shared).await;
    for _ in 0..2 {
        let outcome = call(&mut session, "wait", &[]).await;
        assert_trap(
            &outcome,
            "host function \"t.wait\" failed: it did not answer within its deadline of 50ms",
        );
        assert_eq!([seen.recv().unwrap(), seen.recv().unwrap()], ["called", "dropped"]);
    }
    let outcome = call(&mut session, "hang_briefly", &[]).await;
    assert_trap(
        &outcome,
        "host function \"t.hang_briefly\" failed: it did not answer within its deadline of 50ms",
    );
    for kind in [0, 1] {
        let outcome = call(&mut session, "panic_now", &i32s(&[kind])).await;
        assert_trap(&outcome, "host function \"t.panic_now\" failed: it panicked");
    }
    // What answers now goes nowhere.
    drop(gate);
    assert_eq!(call(&mut session, "one", &[]).await, returned(1));
    assert_eq!(call(&mut session, "hang", &[]).await, CallOutcome::Returned(Vec::new()));
}

#[tokio::test]
async fn a_hanging_function_hurts_its_own_job_only_and_its_late_answer_goes_nowhere() {
    let (events, seen) = mpsc::channel();
    let shared = Shared { events: Some(events), ..Shared::default() };
    let held = Arc::clone(&shared.gate);
    let supervisor = supervisor();
    let mut other = started(&supervisor, &shared).await;
    let gate = held.try_lock().unwrap();
    for (name, first) in [("hang", "hangs"), ("forever", "called")] {
        let mut session = started(&supervisor, &shared).await;
        let limit = Duration::from_millis(300);
        let (ended, served) = tokio::join!(session.call_within(name, &[], Some(limit)), async {
            // On the same shard, while it hangs.
            while seen.try_recv() != Ok(first) {
                tokio::task::yield_now().await;
            }
            handle(&mut other, "open").await
        });
        assert_ne!(served, 0);
        assert!(matches!(ended.unwrap(), CallOutcome::Ended(Outcome::LimitReached(_))), "{name}");
    }
    // Cancelled, the future is gone.
    assert_eq!(seen.recv().unwrap(), "dropped");
    drop(gate);
    assert_eq!(call(&mut other, "one", &[]).await, returned(1));
    // One whose destructor panics, cancelled.
    let mut session = started(&supervisor, &shared).await;
    let ended = session.call_within("panic_now", &i32s(&[2]), Some(Duration::from_millis(50))).await.unwrap();
    assert!(matches!(ended, CallOutcome::Ended(Outcome::LimitReached(_))), "{ended:?}");
    assert_eq!(call(&mut other, "one", &[]).await, returned(1));
}

#[tokio::test]
async fn things_behind_handles_end_with_the_job() {
    let (events, seen) = mpsc::channel();
    let mut service = service(&Shared::default());
    service
        .function("open", move |context, _| {
            let thing = context.insert("thing", Mutex::new(Tells(events.clone())));
            std::future::ready(thing.map(|thing| Reply::Values(vec![thing])))
        })
        .unwrap();
    let supervisor = supervisor();
    let mut job = sessions::job(&supervisor, GUEST).await;
    job.imports.serve(&service).unwrap();
    let mut session = sessions::started(&supervisor, job).await;
    handle(&mut session, "open").await;
    assert!(seen.try_recv().is_err());
    session.end().await.unwrap();
    assert_eq!(seen.recv().unwrap(), "dropped");
}

/// A session whose call waits for a host function is locked: one that calls it back can only give up, or meet its deadline.
#[tokio::test]
async fn a_function_that_calls_its_own_session_back_meets_its_deadline() {
    type Slot = Arc<tokio::sync::Mutex<Option<Session>>>;
    let slot: Slot = Arc::default();
    let mut service = service(&Shared::default());
    let own = Arc::clone(&slot);
    service
        .function("wait", move |_, _| {
            let own = Arc::clone(&own);
            async move {
                assert!(own.try_lock().is_err(), "the session is in a call");
                let mut session = own.lock().await;
                if let Some(session) = session.as_mut() {
                    session.call("one", &[]).await.map_err(|error| error.to_string())?;
                }
                values([])
            }
        })
        .unwrap();
    let supervisor = supervisor();
    let mut job = sessions::job(&supervisor, GUEST).await;
    job.imports.serve(&service).unwrap();
    *slot.lock().await = Some(sessions::started(&supervisor, job).await);
    let mut session = slot.lock().await;
    let session = session.as_mut().unwrap();
    let outcome = call(session, "wait", &[]).await;
    assert_trap(&outcome, "host function \"t.wait\" failed: it did not answer within its deadline of 50ms");
    assert_eq!(call(session, "one", &[]).await, returned(1));
}

#[tokio::test]
async fn imports_that_do_not_fit_the_interface_are_all_named() {
    let guest = r#"(module
      (import "t" "text" (func (param i32) (result i32)))
      (import "t" "opem" (func (result i32)))
      (import "t" "close" (func (param i32))))"#;
    let supervisor = supervisor();
    let mut job = sessions::job(&supervisor, guest).await;
    job.imports.serve(&service(&Shared::default())).unwrap();
    let error = supervisor.session(job).await.unwrap_err();
    let Error::InterfaceMismatch { mismatches, .. } = &error else { panic!("{error:?}") };
    assert_eq!(mismatches.len(), 2);
    let message = error.to_string();
    assert!(
        message.contains("t.text: the module imports (i32) -> (i32), the interface has (i32 i32) -> (i32)"),
        "{message}"
    );
    assert!(message.contains("t.opem: the module imports () -> (i32), the interface has no such function (did you mean \"open\"?)"), "{message}");
}

#[test]
fn a_service_serves_what_its_interface_declares() {
    let mut service = Service::new(interface());
    let error = Imports::default().serve(&service).unwrap_err().to_string();
    assert!(error.contains("nothing serves t.scalars"), "{error}");
    let reply = |_: CallContext, _: Vec<V>| std::future::ready(values([]));
    let error = service.function("txt", reply).unwrap_err().to_string();
    assert!(error.contains("did you mean \"text\"?"), "{error}");
    let error = service.function("hang", reply).unwrap_err().to_string();
    assert!(error.contains("declares t.hang as blocking"), "{error}");
    let error = service.blocking("text", |_, _| values([])).unwrap_err().to_string();
    assert!(error.contains("declares t.text as not blocking"), "{error}");
}
