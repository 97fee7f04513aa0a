//! Interfaces that are Rust traits: what they declare, and what their functions get from a confined guest and give it.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use compiler::Options;
use interface::{Interface, Type, TypeKind};
use ipc::report::Value;
use supervisor::{
    CallContext, CallOutcome, Config, Error, Handle, HostError, HostType, Service, Session, Supervisor,
    host_functions,
};
use whole_system_tests::sessions::{self, assert_trap, call, returned};

/// How warm it looks.
#[derive(HostType, Clone, Copy, Debug, PartialEq)]
enum Color {
    Red,
    /// Grass.
    DarkGreen,
    #[host(name = "azure")]
    Blue,
}

#[derive(HostType, Clone, Copy, Debug, PartialEq)]
#[host(flags)]
struct Opts {
    /// At the end.
    append: bool,
    sync: bool,
    truncate: bool,
}

/// A place.
#[derive(HostType, Clone, Debug, PartialEq)]
struct Point {
    /// Which one.
    tag: i8,
    x: f64,
    color: Color,
    opts: Opts,
}

#[derive(HostType, Debug, PartialEq)]
#[host(error, name = "kv_error")]
enum StoreError {
    NotFound,
    /// It does not fit.
    TooSmall,
}

/// Values by key.
#[derive(HostType, Debug)]
#[host(handle)]
struct Store {
    values: Mutex<BTreeMap<String, Vec<u8>>>,
    dropped: mpsc::Sender<&'static str>,
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.dropped.send("dropped");
    }
}

#[derive(HostType)]
#[host(handle)]
struct Other;

#[derive(HostType)]
struct Open {
    store: Handle<Store>,
    number: u32,
}

type Odd = (Vec<i16>, Vec<Point>, Vec<Handle<Store>>);

/// A store of keys and values,
/// and more.
#[host_functions(name = "kv")]
trait Kv {
    /// Numbers.
    #[expect(clippy::too_many_arguments, reason = "one of each type")]
    fn numbers(
        &self,
        /// Whether.
        flag: bool,
        a: i8,
        b: u16,
        c: i32,
        d: u64,
        e: f32,
        f: f64,
        color: Color,
        opts: Opts,
    ) -> u64;
    fn small(&self, a: u8, b: i16, c: i64) -> u32;
    async fn text(&self, words: &str, owned: String) -> u32;
    #[host(results("first", "second"))]
    fn split(&self, data: &[u8]) -> (Vec<u8>, String);
    async fn last(&self, all: &[Point], one: Point) -> Point;
    fn mirror(&self, color: Color, opts: Opts) -> (Color, Opts);
    #[host(overflow = "too_small", results("odd", "places", "stores"))]
    fn odd(&self, all: &[i16], store: &Handle<Store>) -> Result<Odd, StoreError>;
    /// Opens a store.
    async fn open(&self, name: &str) -> Result<Handle<Store>, StoreError>;
    fn other(&self) -> Handle<Other>;
    /// The value of a key.
    #[host(overflow = "too_small")]
    async fn get(&self, from: &Handle<Store>, key: &str) -> Result<Vec<u8>, StoreError>;
    /// The same handle once more.
    fn same(&self, open: Open) -> Handle<Store>;
    fn close(&self, store: Handle<Store>) -> Result<(), HostError>;
    /// Fails in both ways.
    fn fail(&self, how: u32) -> Result<Result<u32, StoreError>, HostError>;
    #[host(blocking)]
    fn compute(&self, from: &Handle<Store>, keys: Vec<u32>) -> Result<u64, StoreError>;
    #[host(blocking, deadline = "50ms")]
    fn hang(&self);
    #[host(deadline = "50ms")]
    async fn wait(&self);
    async fn panic_later(&self);
    fn panic_now(&self);
    /// Of the trait itself.
    async fn two(&self) -> u32 {
        2
    }
}

/// Keeps `hang` hanging while it is held.
type Gate = tokio::sync::Mutex<()>;

struct InMemory {
    dropped: mpsc::Sender<&'static str>,
    calls: AtomicUsize,
    gate: Arc<Gate>,
}

impl Kv for InMemory {
    fn numbers(
        &self,
        flag: bool,
        a: i8,
        b: u16,
        c: i32,
        d: u64,
        e: f32,
        f: f64,
        color: Color,
        opts: Opts,
    ) -> u64 {
        let got = (flag, a, b, c, d, e, f);
        assert_eq!(got, (true, -3, 65535, -1, u64::MAX, 1.5, -2.5));
        assert_eq!((color, opts), (Color::Blue, Opts { append: true, sync: false, truncate: true }));
        u64::MAX - 1
    }

    fn small(&self, a: u8, b: i16, c: i64) -> u32 {
        assert_eq!((a, b, c), (255, -2, i64::MIN));
        7
    }

    async fn text(&self, words: &str, owned: String) -> u32 {
        tokio::task::yield_now().await;
        (words.chars().count() + owned.chars().count()) as u32
    }

    fn split(&self, data: &[u8]) -> (Vec<u8>, String) {
        let (first, second) = data.split_at(data.len() / 2);
        (first.to_vec(), String::from_utf8_lossy(second).into_owned())
    }

    async fn last(&self, all: &[Point], one: Point) -> Point {
        all.last().cloned().unwrap_or(one)
    }

    fn mirror(&self, color: Color, opts: Opts) -> (Color, Opts) {
        (color, opts)
    }

    fn odd(&self, all: &[i16], store: &Handle<Store>) -> Result<Odd, StoreError> {
        let odd: Vec<_> = all.iter().copied().filter(|number| number % 2 != 0).collect();
        let opts = Opts { append: false, sync: true, truncate: false };
        let place = |number: &i16| Point { tag: -1, x: (*number).into(), color: Color::Blue, opts };
        let places = odd.iter().map(place).collect();
        Ok((odd, places, vec![store.clone()]))
    }

    async fn open(&self, name: &str) -> Result<Handle<Store>, StoreError> {
        if name.is_empty() {
            return Err(StoreError::NotFound);
        }
        let values = Mutex::new([("name".to_owned(), name.as_bytes().to_vec())].into());
        Ok(Handle::new(Store { values, dropped: self.dropped.clone() }))
    }

    fn other(&self) -> Handle<Other> {
        Handle::new(Other)
    }

    async fn get(&self, from: &Handle<Store>, key: &str) -> Result<Vec<u8>, StoreError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        from.values.lock().unwrap().get(key).cloned().ok_or(StoreError::NotFound)
    }

    fn same(&self, open: Open) -> Handle<Store> {
        assert_eq!(open.number, 5);
        open.store
    }

    fn close(&self, store: Handle<Store>) -> Result<(), HostError> {
        let other = store.clone();
        store.close()?;
        assert!(other.close().unwrap_err().to_string().contains("it was removed"));
        Ok(())
    }

    fn fail(&self, how: u32) -> Result<Result<u32, StoreError>, HostError> {
        match how {
            0 => Ok(Ok(9)),
            1 => Ok(Err(StoreError::TooSmall)),
            _ => Err("it does not want to".into()),
        }
    }

    fn compute(&self, from: &Handle<Store>, keys: Vec<u32>) -> Result<u64, StoreError> {
        assert_eq!(std::thread::current().name(), Some("host-function"));
        let names = from.values.lock().unwrap().len() as u64;
        Ok(names + keys.iter().copied().map(u64::from).sum::<u64>())
    }

    fn hang(&self) {
        drop(self.gate.blocking_lock());
    }

    async fn wait(&self) {
        pending().await
    }

    async fn panic_later(&self) {
        tokio::task::yield_now().await;
        panic!("a host function of a test panics later");
    }

    fn panic_now(&self) {
        panic!("a host function of a test panics at once");
    }
}

const GUEST: &str = r#"(module
  (import "kv" "numbers" (func $numbers (param i32 i32 i32 i32 i64 f32 f64 i32 i32) (result i64)))
  (import "kv" "small" (func $small (param i32 i32 i64) (result i32)))
  (import "kv" "text" (func $text (param i32 i32 i32 i32) (result i32)))
  (import "kv" "split" (func $split (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "kv" "last" (func $last (param i32 i32 i32 i32)))
  (import "kv" "mirror" (func $mirror (param i32 i32 i32 i32)))
  (import "kv" "odd" (func $odd (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "kv" "open" (func $open (param i32 i32 i32) (result i32)))
  (import "kv" "other" (func $other (result i32)))
  (import "kv" "get" (func $get (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "kv" "same" (func $same (param i32) (result i32)))
  (import "kv" "close" (func $close (param i32)))
  (import "kv" "fail" (func $fail (param i32 i32) (result i32)))
  (import "kv" "compute" (func $compute (param i32 i32 i32 i32) (result i32)))
  (import "kv" "hang" (func $hang))
  (import "kv" "wait" (func $wait))
  (import "kv" "panic_later" (func $panic_later))
  (import "kv" "panic_now" (func $panic_now))
  (import "kv" "two" (func $two (result i32)))
  (memory (export "memory") 1)
  (export "numbers" (func $numbers)) (export "small" (func $small)) (export "text" (func $text))
  (export "split" (func $split)) (export "last" (func $last)) (export "mirror" (func $mirror)) (export "odd" (func $odd))
  (export "open" (func $open))
  (export "other" (func $other)) (export "get" (func $get)) (export "same" (func $same)) (export "close" (func $close))
  (export "fail" (func $fail)) (export "compute" (func $compute)) (export "hang" (func $hang)) (export "wait" (func $wait))
  (export "panic_later" (func $panic_later)) (export "panic_now" (func $panic_now)) (export "two" (func $two)))"#;

/// What a test has besides its session.
struct Host {
    supervisor: Supervisor,
    dropped: mpsc::Receiver<&'static str>,
    kv: Service,
    gate: Arc<Gate>,
}

impl Host {
    fn new() -> Self {
        let (sender, dropped) = mpsc::channel();
        let gate: Arc<Gate> = Arc::default();
        let kv = InMemory { dropped: sender, calls: AtomicUsize::new(0), gate: Arc::clone(&gate) };
        let compile = Options { open_imports: true, ..Options::default() };
        let supervisor = Supervisor::start(Config { compile, shards: 1, ..Config::default() }).unwrap();
        Self { supervisor, dropped, kv: kv.service().unwrap(), gate }
    }

    async fn session(&self) -> Session {
        let mut job = sessions::job(&self.supervisor, GUEST).await;
        job.imports.serve(&self.kv).unwrap();
        sessions::started(&self.supervisor, job).await
    }
}

fn i32s(values: &[u32]) -> Vec<Value> {
    values.iter().map(|value| Value::I32(*value as i32)).collect()
}

async fn done(session: &mut Session, name: &str, args: &[u32]) {
    assert_eq!(call(session, name, &i32s(args)).await, CallOutcome::Returned(Vec::new()), "{name}");
}

/// Opens a store called "abc".
async fn opened(session: &mut Session) -> u32 {
    session.write_memory("memory", 8, b"abcname").await.unwrap();
    assert_eq!(call(session, "open", &i32s(&[8, 3, 0x20])).await, returned(0));
    let handle = session.read_memory("memory", 0x20, 4).await.unwrap();
    u32::from_le_bytes(handle.try_into().unwrap())
}

#[test]
fn a_trait_declares_what_its_types_and_documentation_say() {
    let lowered = InMemory::interface().unwrap();
    let interface = lowered.interface();
    assert_eq!(
        (interface.name.as_str(), interface.doc.as_str()),
        ("kv", "A store of keys and values,\nand more.")
    );
    let named = |name: &str| interface.types.iter().find(|ty| ty.name == name).unwrap();
    let TypeKind::Enum(cases) = &named("color").kind else { panic!("{interface:?}") };
    let cases: Vec<_> = cases.iter().map(|case| (case.name.as_str(), case.doc.as_str())).collect();
    assert_eq!(cases, [("red", ""), ("dark_green", "Grass."), ("azure", "")]);
    assert_eq!(named("color").doc, "How warm it looks.");
    let TypeKind::Record(fields) = &named("point").kind else { panic!("{interface:?}") };
    assert_eq!(
        (fields[0].name.as_str(), fields[0].doc.as_str(), &fields[0].ty),
        ("tag", "Which one.", &Type::S8)
    );
    assert_eq!(fields[3].ty, Type::Named("opts".to_owned()));
    assert_eq!((&named("store").kind, named("store").doc.as_str()), (&TypeKind::Handle, "Values by key."));
    let TypeKind::Error(cases) = &named("kv_error").kind else { panic!("{interface:?}") };
    assert_eq!((cases[1].name.as_str(), cases[1].doc.as_str()), ("too_small", "It does not fit."));
    let function = |name: &str| lowered.function(name).unwrap().declaration();
    let numbers = function("numbers");
    assert_eq!((numbers.params[0].doc.as_str(), numbers.doc.as_str()), ("Whether.", "Numbers."));
    let get = function("get");
    assert_eq!((get.error.as_deref(), get.overflow.as_deref()), (Some("kv_error"), Some("too_small")));
    assert_eq!((get.results[0].name.as_str(), &get.results[0].ty), ("result", &Type::Bytes));
    let split: Vec<_> = function("split").results.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(split, ["first", "second"]);
    let mirror: Vec<_> = function("mirror").results.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(mirror, ["result1", "result2"]);
    assert_eq!(
        (function("hang").blocking, function("hang").deadline),
        (true, Some(Duration::from_millis(50)))
    );
    assert_eq!(function("last").params[0].ty, Type::List(Box::new(Type::Named("point".to_owned()))));
    assert_eq!(function("close").error, None);
    assert_eq!(function("fail").error.as_deref(), Some("kv_error"));
    // And it is the same once written and read.
    let text = interface.to_toml();
    assert_eq!(Interface::parse(&text, "kv.toml").unwrap().interface(), interface, "{text}");
}

#[tokio::test]
async fn every_rust_type_arrives_from_a_guest_and_goes_back() {
    let host = Host::new();
    let mut session = host.session().await;
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
    assert_eq!(call(&mut session, "numbers", &args).await, CallOutcome::Returned(vec![Value::I64(-2)]));
    let args = [Value::I32(255), Value::I32(-2), Value::I64(i64::MIN)];
    assert_eq!(call(&mut session, "small", &args).await, returned(7));
    session.write_memory("memory", 8, "zwölfé".as_bytes()).await.unwrap();
    assert_eq!(call(&mut session, "text", &i32s(&[8, 6, 14, 2])).await, returned(6));
    session.write_memory("memory", 100, b"abcde").await.unwrap();
    done(&mut session, "split", &[100, 5, 0x200, 8, 0x300, 0x210, 3, 0x304]).await;
    let memory = session.read_memory("memory", 0x200, 0x14).await.unwrap();
    assert_eq!((&memory[..3], &memory[0x10..]), (&b"ab\0"[..], &b"cde\0"[..]));
    // The layout of a C structure: s8, 7 bytes, f64, i32, i32.
    let point = |tag: i8, x: f64, color: u32, opts: u32| {
        [&[tag as u8, 0, 0, 0, 0, 0, 0, 0][..], &x.to_le_bytes(), &color.to_le_bytes(), &opts.to_le_bytes()]
            .concat()
    };
    let (one, two) = (point(-1, 0.5, 0, 0), point(-2, 1.5, 1, 6));
    session.write_memory("memory", 0x500, &[one.clone(), two.clone()].concat()).await.unwrap();
    for (count, expected) in [(2, two), (0, one)] {
        done(&mut session, "last", &[0x500, count, 0x500, 0x600]).await;
        assert_eq!(session.read_memory("memory", 0x600, 24).await.unwrap(), expected);
    }
    done(&mut session, "mirror", &[1, 6, 0x700, 0x704]).await;
    assert_eq!(session.read_memory("memory", 0x700, 8).await.unwrap(), [1, 0, 0, 0, 6, 0, 0, 0]);
    let store = opened(&mut session).await;
    session.write_memory("memory", 0x800, &[1u32, 2, u32::MAX].map(u32::to_le_bytes).concat()).await.unwrap();
    assert_eq!(call(&mut session, "compute", &i32s(&[store, 0x800, 3, 0x810])).await, returned(0));
    let sum = session.read_memory("memory", 0x810, 8).await.unwrap();
    assert_eq!(u64::from_le_bytes(sum.try_into().unwrap()), 1 + 1 + 2 + u64::from(u32::MAX));
    // Lists of each kind as results.
    session.write_memory("memory", 0x820, &[3i16, 4, -5].map(i16::to_le_bytes).concat()).await.unwrap();
    let odd = |places: u32| i32s(&[0x820, 3, store, 0x900, 8, 0xa00, 0x910, places, 0xa04, 0x980, 1, 0xa08]);
    assert_eq!(call(&mut session, "odd", &odd(1)).await, returned(2), "too small");
    assert_eq!(call(&mut session, "odd", &odd(2)).await, returned(0));
    let lengths = session.read_memory("memory", 0xa00, 12).await.unwrap();
    assert_eq!(lengths, [2u32, 2, 1].map(u32::to_le_bytes).concat());
    assert_eq!(session.read_memory("memory", 0x900, 4).await.unwrap(), [3, 0, 0xfb, 0xff]);
    let places = session.read_memory("memory", 0x910, 48).await.unwrap();
    assert_eq!(places, [point(-1, 3.0, 2, 2), point(-1, -5.0, 2, 2)].concat());
    assert_eq!(session.read_memory("memory", 0x980, 4).await.unwrap(), store.to_le_bytes());
    assert_eq!(call(&mut session, "two", &[]).await, returned(2));
}

#[tokio::test]
async fn errors_overflows_panics_and_deadlines_of_a_trait_cost_the_call_and_nothing_else() {
    let host = Host::new();
    let gate = host.gate.try_lock().unwrap();
    let mut session = host.session().await;
    let store = opened(&mut session).await;
    let get = |key: u32, room: u32| i32s(&[store, 11, key, 0x100, room, 0x200]);
    assert_eq!(call(&mut session, "get", &get(4, 3)).await, returned(0));
    assert_eq!(session.read_memory("memory", 0x100, 4).await.unwrap(), b"abc\0");
    assert_eq!(call(&mut session, "get", &get(3, 3)).await, returned(1), "not found");
    session.write_memory("memory", 0x100, &[0; 4]).await.unwrap();
    assert_eq!(call(&mut session, "get", &get(4, 2)).await, returned(2), "too small");
    assert_eq!(session.read_memory("memory", 0x100, 4).await.unwrap(), [0; 4]);
    assert_eq!(session.read_memory("memory", 0x200, 4).await.unwrap(), [3, 0, 0, 0]);
    assert_eq!(call(&mut session, "open", &i32s(&[0, 0, 0x20])).await, returned(1));
    assert_eq!(call(&mut session, "fail", &i32s(&[0, 0x300])).await, returned(0));
    assert_eq!(session.read_memory("memory", 0x300, 1).await.unwrap(), [9]);
    assert_eq!(call(&mut session, "fail", &i32s(&[1, 0x300])).await, returned(2));
    for (name, args, message) in [
        ("fail", &[2, 0x300][..], "host function \"kv.fail\" failed: it does not want to"),
        ("panic_now", &[], "host function \"kv.panic_now\" failed: it panicked"),
        ("panic_later", &[], "host function \"kv.panic_later\" failed: it panicked"),
        ("wait", &[], "host function \"kv.wait\" failed: it did not answer within its deadline of 50ms"),
        ("hang", &[], "host function \"kv.hang\" failed: it did not answer within its deadline of 50ms"),
    ] {
        assert_trap(&call(&mut session, name, &i32s(args)).await, message);
    }
    drop(gate);
    assert_eq!(call(&mut session, "two", &[]).await, returned(2));
}

#[tokio::test]
async fn a_handle_of_a_trait_is_stale_after_its_close_and_its_thing_is_gone() {
    let host = Host::new();
    let mut session = host.session().await;
    let store = opened(&mut session).await;
    // In a record; it is the same handle, not another.
    session.write_memory("memory", 0x400, &[store.to_le_bytes(), 5u32.to_le_bytes()].concat()).await.unwrap();
    assert_eq!(call(&mut session, "same", &i32s(&[0x400])).await, returned(store as i32));
    let CallOutcome::Returned(other) = call(&mut session, "other", &[]).await else { panic!("no handle") };
    let [Value::I32(other)] = other[..] else { panic!("{other:?}") };
    let wrongly = |handle: u32, why: &str| {
        format!("host function \"kv.get\" was called wrongly: from: {handle:#x} is no store: {why}")
    };
    let get = |handle: u32| i32s(&[handle, 11, 4, 0x100, 3, 0x200]);
    let other = other as u32;
    let outcome = call(&mut session, "get", &get(other)).await;
    assert_trap(&outcome, &wrongly(other, "it is a handle of another kind"));
    assert!(host.dropped.try_recv().is_err());
    done(&mut session, "close", &[store]).await;
    assert_eq!(host.dropped.recv().unwrap(), "dropped");
    assert_trap(&call(&mut session, "get", &get(store)).await, &wrongly(store, "it was removed"));
    let again = opened(&mut session).await;
    assert_ne!(again, store);
    assert_eq!(call(&mut session, "get", &get(again)).await, returned(0));
    session.end().await.unwrap();
    assert_eq!(host.dropped.recv().unwrap(), "dropped");
}

/// A thing that the host app keeps is another handle in another job: numbers are a job's own.
#[tokio::test]
async fn a_handle_that_is_kept_is_given_anew_to_another_job() {
    #[derive(HostType)]
    #[host(handle)]
    struct Room(u32);

    #[host_functions(name = "rooms")]
    trait Rooms {
        fn enter(&self) -> Handle<Room>;
        fn keep(&self, room: Handle<Room>);
        fn number(&self, room: Handle<Room>) -> u32;
    }

    struct Hotel {
        entered: AtomicUsize,
        kept: Mutex<Option<Handle<Room>>>,
    }

    impl Rooms for Hotel {
        fn enter(&self) -> Handle<Room> {
            let kept = self.kept.lock().unwrap().clone();
            kept.unwrap_or_else(|| Handle::new(Room(self.entered.fetch_add(1, Ordering::Relaxed) as u32)))
        }
        fn keep(&self, room: Handle<Room>) {
            *self.kept.lock().unwrap() = Some(room);
        }
        fn number(&self, room: Handle<Room>) -> u32 {
            room.0
        }
    }

    let guest = r#"(module
      (import "rooms" "enter" (func $enter (result i32))) (import "rooms" "keep" (func $keep (param i32)))
      (import "rooms" "number" (func $number (param i32) (result i32)))
      (export "enter" (func $enter)) (export "keep" (func $keep)) (export "number" (func $number)))"#;
    let compile = Options { open_imports: true, ..Options::default() };
    let supervisor = Supervisor::start(Config { compile, shards: 1, ..Config::default() }).unwrap();
    let service = Hotel { entered: AtomicUsize::new(0), kept: Mutex::default() }.service().unwrap();
    let session = async || {
        let mut job = sessions::job(&supervisor, guest).await;
        job.imports.serve(&service).unwrap();
        sessions::started(&supervisor, job).await
    };
    let enter = async |session: &mut Session| match call(session, "enter", &[]).await {
        CallOutcome::Returned(results) => results[0],
        other => panic!("{other:?}"),
    };
    let (mut first, mut second) = (session().await, session().await);
    let [zero, one] = [enter(&mut first).await, enter(&mut first).await];
    assert_eq!(call(&mut first, "keep", &[one]).await, CallOutcome::Returned(Vec::new()));
    // In its own job it is the handle that it was; in the other it is the first that there is.
    assert_eq!(enter(&mut first).await, one);
    let theirs = enter(&mut second).await;
    assert_eq!(theirs, zero);
    assert_eq!(call(&mut second, "number", &[theirs]).await, returned(1));
    assert_eq!(call(&mut first, "number", &[zero]).await, returned(0));
}

#[test]
fn two_rust_types_of_one_name_are_no_interface() {
    mod elsewhere {
        #[derive(supervisor::HostType)]
        pub(super) enum Color {
            Yellow,
        }
    }

    #[host_functions]
    trait Colors {
        fn mix(&self, one: Color, other: elsewhere::Color);
    }

    struct Palette;

    impl Colors for Palette {
        fn mix(&self, _: Color, _: elsewhere::Color) {}
    }

    let error = Palette.service().unwrap_err();
    assert!(matches!(error, Error::Interface(_)), "{error:?}");
    assert_eq!(error.to_string(), "interface \"colors\": there is another type \"color\"");
}

/// No interface of the trait's own gives rise to it. Whoever calls its functions by another one gets an error.
#[tokio::test]
async fn a_value_of_another_kind_is_an_error_of_every_type() {
    use interface::{Reply, Value as V};

    /// Which of the values are of the type `T`, by their position.
    fn taken<T: HostType>(values: &[V], context: &CallContext) -> Vec<usize> {
        let mut taken = Vec::new();
        for (position, value) in values.iter().enumerate() {
            match T::from_value(value.clone(), context) {
                Ok(_) => taken.push(position),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        taken
    }

    fn check(context: &CallContext) -> Result<(), HostError> {
        let (dropped, _) = mpsc::channel();
        let store = context.insert("store", Store { values: Mutex::default(), dropped })?;
        let other = context.insert("other", Other)?;
        let point = |color: V| V::Record(vec![V::S8(1), V::F64(1.0), color, V::Flags(7)]);
        let values = [
            V::Bool(true),
            V::S8(1),
            V::U8(1),
            V::S16(1),
            V::U16(1),
            V::S32(1),
            V::U32(1),
            V::S64(1),
            V::U64(1),
            V::F32(1.0),
            V::F64(1.0),
            V::String("1".into()),
            V::Bytes(vec![1]),
            V::Enum(2),
            V::Enum(3),
            V::Flags(7),
            V::Flags(8),
            V::Handle(77),
            V::List(vec![V::S16(1)]),
            V::List(vec![V::S16(1), V::U16(1)]),
            V::List(vec![point(V::Enum(0))]),
            V::List(vec![point(V::Enum(3))]),
            point(V::Enum(0)),
            point(V::U32(0)),
            V::Record(vec![V::S8(1), V::F64(1.0), V::Enum(0)]),
            store.clone(),
            other,
            V::Record(vec![store.clone(), V::U32(1)]),
            V::Record(vec![V::U32(1), store]),
        ];
        let taken = [
            taken::<bool>(&values, context),
            taken::<i8>(&values, context),
            taken::<u8>(&values, context),
            taken::<i16>(&values, context),
            taken::<u16>(&values, context),
            taken::<i32>(&values, context),
            taken::<u32>(&values, context),
            taken::<i64>(&values, context),
            taken::<u64>(&values, context),
            taken::<f32>(&values, context),
            taken::<f64>(&values, context),
            taken::<String>(&values, context),
            taken::<Vec<u8>>(&values, context),
            taken::<Color>(&values, context),
            taken::<Opts>(&values, context),
            taken::<Vec<i16>>(&values, context),
            taken::<Vec<Point>>(&values, context),
            taken::<Point>(&values, context),
            taken::<Handle<Store>>(&values, context),
            taken::<Handle<Other>>(&values, context),
            taken::<Open>(&values, context),
        ];
        let expected = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 18, 20, 22, 25, 26, 27];
        assert_eq!(taken, expected.map(|position| vec![position]));
        let error = Point::from_value(point(V::U32(0)), context).unwrap_err();
        assert_eq!(error.to_string(), "field color: it is of type u32, not color");
        Ok(())
    }

    let text = "interface = \"t\"\n[[handle]]\nname = \"store\"\n[[handle]]\nname = \"other\"\n[[function]]\nname = \"check\"";
    let mut service = Service::new(Interface::parse(text, "t.toml").unwrap());
    let serve =
        |context: CallContext, _| std::future::ready(check(&context).map(|()| Reply::Values(Vec::new())));
    service.function("check", serve).unwrap();
    let host = Host::new();
    let guest = r#"(module (import "t" "check" (func $check)) (export "check" (func $check)))"#;
    let mut job = sessions::job(&host.supervisor, guest).await;
    job.imports.serve(&service).unwrap();
    let mut session = sessions::started(&host.supervisor, job).await;
    done(&mut session, "check", &[]).await;
}
