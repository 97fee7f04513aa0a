//! A typed interface, a guest that exports what it imports of it, and a service: for tests of both sides of the daemon's socket.

use std::sync::mpsc;

use interface::{Interface, Lowered, Reply, Value as V};
use ipc::report::Value;
use supervisor::{CallContext, HostError, Service};

/// The interface.
pub const INTERFACE: &str = r#"
interface = "t"
[[enum]]
name = "color"
cases = ["red", "green", "blue"]
[[error]]
name = "fault"
cases = ["not_found", "too_small"]
[[handle]]
name = "thing"
[[handle]]
name = "other"
[[record]]
name = "point"
fields = [{ name = "tag", type = "s8" }, { name = "x", type = "f64" }, { name = "color", type = "color" }]
[[function]]
name = "add"
params = [{ name = "a", type = "s32" }, { name = "b", type = "u8" }]
results = [{ name = "sum", type = "s32" }]
[[function]]
name = "points"
params = [{ name = "all", type = "list<point>" }, { name = "words", type = "string" }, { name = "numbers", type = "list<u32>" }]
results = [{ name = "last", type = "point" }, { name = "text", type = "string" }]
[[function]]
name = "get"
params = [{ name = "from", type = "thing" }, { name = "key", type = "bytes" }]
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
results = [{ name = "color", type = "color" }, { name = "text", type = "string" }, { name = "thing", type = "thing" }]
[[function]]
name = "take"
params = [{ name = "data", type = "bytes" }]
[[function]]
name = "give"
params = [{ name = "count", type = "u32" }]
results = [{ name = "data", type = "bytes" }]
[[function]]
name = "wait"
deadline = "50ms"
[[function]]
name = "forever"
[[function]]
name = "slow"
blocking = true
[[function]]
name = "panic_now"
"#;

/// The guest.
pub const GUEST: &str = r#"(module
  (import "t" "add" (func $add (param i32 i32) (result i32)))
  (import "t" "points" (func $points (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "t" "get" (func $get (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "t" "open" (func $open (result i32)))
  (import "t" "close" (func $close (param i32)))
  (import "t" "open_other" (func $open_other (result i32)))
  (import "t" "answer" (func $answer (param i32 i32 i32 i32 i32 i32)))
  (import "t" "take" (func $take (param i32 i32)))
  (import "t" "give" (func $give (param i32 i32 i32 i32)))
  (import "t" "wait" (func $wait))
  (import "t" "forever" (func $forever))
  (import "t" "slow" (func $slow))
  (import "t" "panic_now" (func $panic_now))
  (memory (export "memory") 64)
  (export "add" (func $add)) (export "points" (func $points)) (export "get" (func $get)) (export "open" (func $open))
  (export "close" (func $close)) (export "open_other" (func $open_other)) (export "answer" (func $answer))
  (export "take" (func $take)) (export "give" (func $give)) (export "wait" (func $wait)) (export "forever" (func $forever))
  (export "slow" (func $slow)) (export "panic_now" (func $panic_now))
  (func (export "one") (result i32) (i32.const 1))
  (func (export "_start") (drop (call $open)) (drop (call $open)) (call $close (call $open))))"#;

/// The interface, checked.
pub fn interface() -> Lowered {
    Interface::parse(INTERFACE, "t.toml").expect("a sound interface")
}

/// The position of a function in the interface.
pub fn number(name: &str) -> u32 {
    let interface = interface();
    let found = interface.interface().functions.iter().position(|function| function.name == name);
    found.expect("a function of the interface") as u32
}

/// The position of a handle type in the interface.
pub fn kind(name: &str) -> u32 {
    interface().handle_kind(name).expect("a handle type") as u32
}

/// Arguments for the guest.
pub fn i32s(values: &[u32]) -> Vec<Value> {
    values.iter().map(|value| Value::I32(*value as i32)).collect()
}

/// A thing behind a handle. It tells when it is dropped.
struct Thing(&'static str, mpsc::Sender<&'static str>);

impl Drop for Thing {
    fn drop(&mut self) {
        let _ = self.1.send("dropped");
    }
}

fn values(values: impl Into<Vec<V>>) -> Result<Reply, HostError> {
    Ok(Reply::Values(values.into()))
}

/// What serves the interface. It sends `called` when `forever` is called, and `dropped` when a thing or that call is.
pub fn service(events: &mpsc::Sender<&'static str>) -> Service {
    type Serve = fn(&mpsc::Sender<&'static str>, CallContext, Vec<V>) -> Result<Reply, HostError>;
    let mut service = Service::new(interface());
    let functions: [(&str, Serve); 10] = [
        ("add", |_, _, arguments| match arguments[..] {
            [V::S32(a), V::U8(b)] => values([V::S32(a + i32::from(b))]),
            _ => Err(format!("{arguments:?}").into()),
        }),
        ("points", |_, _, arguments| match &arguments[..] {
            [V::List(all), V::String(words), V::List(numbers)] => {
                let last = all.last().ok_or("there are none")?;
                values([last.clone(), V::String(format!("{words} {numbers:?}"))])
            }
            _ => Err(format!("{arguments:?}").into()),
        }),
        ("get", |_, context, arguments| match &arguments[..] {
            [from, V::Bytes(key)] => {
                let thing = context.get::<Thing>(from)?;
                match &key[..] {
                    b"" => Ok(Reply::Error(1)),
                    b"bad" => Ok(Reply::Error(3)),
                    _ => values([V::Bytes([thing.0.as_bytes(), key].concat())]),
                }
            }
            _ => Err(format!("{arguments:?}").into()),
        }),
        ("open", |events, context, _| values([context.insert("thing", Thing("a/", events.clone()))?])),
        ("close", |_, context, arguments| context.remove::<Thing>(&arguments[0]).and_then(|_| values([]))),
        ("open_other", |_, context, _| values([context.insert("other", 1u8)?])),
        ("answer", |events, context, arguments| {
            let thing = context.insert("thing", Thing("b/", events.clone()))?;
            let mut right = vec![V::Enum(1), V::String("é".into()), thing];
            match arguments[0] {
                V::U32(0) => {}
                V::U32(1) => right[0] = V::Enum(3),
                V::U32(2) => right[0] = V::U32(1),
                V::U32(3) => right[1] = V::Bytes(vec![b'x']),
                V::U32(4) => right[1] = V::String("far too long for its room".into()),
                V::U32(5) => right[2] = V::Handle(77),
                V::U32(6) => right[2] = context.insert("other", 1u8)?,
                V::U32(7) => right.truncate(2),
                V::U32(8) => right.push(V::U8(1)),
                V::U32(9) => return Ok(Reply::Error(1)),
                V::U32(10) => return Err(HostError::Trap("exactly this".into())),
                _ => return Err("no such answer".into()),
            }
            values(right)
        }),
        ("take", |_, _, _| values([])),
        ("give", |_, _, arguments| match arguments[..] {
            [V::U32(count)] => values([V::Bytes(vec![7; count as usize])]),
            _ => Err(format!("{arguments:?}").into()),
        }),
        ("panic_now", |_, _, _| panic!("a host function of a test panics")),
    ];
    for (name, serve) in functions {
        let events = events.clone();
        let serve = move |context, arguments| {
            let reply = serve(&events, context, arguments);
            std::future::ready(reply)
        };
        service.function(name, serve).expect(name);
    }
    for name in ["wait", "forever"] {
        let events = events.clone();
        let serve = move |_, _| {
            let _ = events.send("called");
            let thing = Thing("", events.clone());
            async move {
                let _thing = thing;
                std::future::pending().await
            }
        };
        service.function(name, serve).expect(name);
    }
    service.blocking("slow", |_, _| values([])).expect("slow");
    service
}
