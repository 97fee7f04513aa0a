//! Sessions over the daemon's socket, and functions that the client serves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use client::{
    CallOutcome, Client, EntryRequest, Error, ErrorKind, ExportType, Extern, HostError, HostFunction,
    Imports, JobRequest, LimitsRequest, Module, ModuleFile, Session, ValType, Value, ValueType,
};
use ipc::protocol::{MEMORY_BYTES_MAX, SESSIONS_MAX};
use ipc::report::{Limit, LimitReached, Outcome};
use tokio::sync::Notify;
use whole_system_tests::instances::Pid;
use whole_system_tests::sessions::{assert_trap, returned};
use whole_system_tests::{Daemon, Scratch, assert_no_orphans};

const GUEST: &str = r#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 40 41)
  (global $count (export "count") (mut i32) (i32.const 40))
  (global (export "pi") f64 (f64.const 3.25))
  (data (i32.const 16) "abc")
  (func (export "bump") (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (global.get $count))
  (func (export "many") (param i32 i64 f32 f64 v128 externref) (result externref v128 f64 f32 i64 i32)
    (local.get 5) (local.get 4) (local.get 3) (local.get 2) (local.get 1) (local.get 0))
  (func (export "trap") (unreachable))
  (func (export "work") (param $n i32) (loop $l
    (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
  (func (export "spin") (loop (br 0)))
  (func (export "exit") (call $exit (i32.const 37))))"#;

const CALLER: &str = r#"(module
  (import "host" "f" (func $f (param i32) (result i32)))
  (import "host" "g" (global $g (mut i32)))
  (import "host" "memory" (memory 1))
  (export "memory" (memory 0))
  (func (export "f") (param i32) (result i32) (call $f (local.get 0)))
  (func (export "g") (result i32) (global.get $g))
  (func (export "_start") (drop (call $f (i32.const 5)))))"#;

async fn connect(daemon: &Daemon) -> Client {
    Client::connect(daemon.socket()).await.expect("a connection")
}

fn job(guest: &str) -> JobRequest {
    let scratch = Scratch::new();
    JobRequest::command(ModuleFile::open(&scratch.module("guest.wasm", guest)).expect("a module"))
}

async fn started(client: &mut Client, job: JobRequest) -> Session {
    let mut session = client.session(job).await.expect("a session");
    assert_eq!(session.start().await.expect("an outcome"), CallOutcome::Returned(vec![]));
    session
}

/// The kind and message of an error of the daemon's.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> (ErrorKind, String) {
    match result {
        Err(Error::Daemon(reply)) => (reply.kind, reply.message),
        other => panic!("{other:?}"),
    }
}

/// Root zygotes of a daemon: one for each shard that has run something.
fn root_zygotes(daemon: &Daemon) -> usize {
    let spawner = Pid(daemon.id() as i32).living_children();
    spawner.iter().map(|spawner| spawner.living_children().len()).sum()
}

/// Processes below `pid`.
fn descendants(pid: u32) -> BTreeSet<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|list| list.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<_>>())
        .collect();
    children.iter().copied().chain(children.iter().flat_map(|child| descendants(*child))).collect()
}

#[tokio::test]
async fn a_session_does_what_the_librarys_does() {
    let daemon = Daemon::start();
    let mut client = connect(&daemon).await;
    let mut session = client.session(job(GUEST)).await.unwrap();
    assert_eq!(refused(session.call("bump", &[]).await).0, ErrorKind::Session, "it is not started");
    session.start().await.unwrap();
    assert_eq!(refused(session.start().await).0, ErrorKind::Session, "it is started");
    for expected in 41..50 {
        assert_eq!(session.call("bump", &[]).await.unwrap(), returned(expected));
    }
    let args = [
        Value::I32(-1),
        Value::I64(i64::MIN),
        Value::F32(0x7fc0_0001),
        Value::F64(u64::MAX),
        Value::V128(1 << 100),
        Value::ExternRef(Some(9)),
    ];
    let mut reversed = args.to_vec();
    reversed.reverse();
    assert_eq!(session.call("many", &args).await.unwrap(), CallOutcome::Returned(reversed));
    assert_trap(&session.call("trap", &[]).await.unwrap(), "wasm `unreachable` instruction executed");
    assert_eq!(session.call("bump", &[]).await.unwrap(), returned(50));
    let (kind, message) = refused(session.call("none", &[]).await);
    assert!(kind == ErrorKind::Module && message.contains("no exported function \"none\""), "{message}");
    let (kind, message) = refused(session.call("bump", &[Value::I64(1)]).await);
    assert!(kind == ErrorKind::Module && message.contains("takes (), but was given (i64)"), "{message}");

    assert_eq!(session.global("count").await.unwrap(), Value::I32(50));
    session.set_global("count", Value::I32(7)).await.unwrap();
    assert_eq!(session.call("bump", &[]).await.unwrap(), returned(8));
    for (result, needle) in [
        (session.set_global("pi", Value::F64(1)).await, "immutable"),
        (session.set_global("count", Value::I64(1)).await, "takes a value of type i32"),
        (session.global("none").await.map(drop), "no global \"none\""),
    ] {
        let (kind, message) = refused(result);
        assert!(kind == ErrorKind::Session && message.contains(needle), "{message}");
    }
    let exports = session.exports().await.unwrap();
    let bump = ExportType::Function { params: vec![], results: vec![ValueType::I32] };
    assert!(exports.iter().any(|e| e.name == "bump" && e.ty == bump), "{exports:?}");
    let report = session.end().await.unwrap();
    assert_eq!(report.outcome, Outcome::Exited { code: 0, results: Vec::new() });
    assert_eq!(client.status().await.unwrap().sessions, 0);
    assert_no_orphans();
}

#[tokio::test]
async fn a_session_runs_where_its_connection_is_unless_another_shard_has_less_to_do() {
    let daemon = Daemon::start_with(&["--shards", "2"]);
    let mut client = connect(&daemon).await;
    for _ in 0..4 {
        let session = started(&mut client, job(GUEST)).await;
        session.end().await.unwrap();
        assert_eq!(root_zygotes(&daemon), 1);
    }
    // The first is still there.
    let first = started(&mut client, job(GUEST)).await;
    let second = started(&mut client, job(GUEST)).await;
    assert_eq!(root_zygotes(&daemon), 2);
    drop((first, second));
}

#[tokio::test]
async fn memory_is_read_and_written_within_bounds_and_in_pieces() {
    let daemon = Daemon::start();
    let mut client = connect(&daemon).await;
    let mut session = started(&mut client, job(GUEST)).await;
    let size = 40 << 16;
    assert!(size as usize > 2 * MEMORY_BYTES_MAX);
    assert_eq!(session.memory_size("memory").await.unwrap(), size);
    assert_eq!(session.read_memory("memory", 15, 5).await.unwrap(), b"\0abc\0");
    let bytes: Vec<u8> = (0..size as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    session.write_memory(0, 0, &bytes).await.unwrap();
    assert!(
        session.read_memory("memory", 0, bytes.len()).await.unwrap() == bytes,
        "the same bytes come back"
    );
    assert_eq!(session.read_memory(0, size, 0).await.unwrap(), b"");
    for (offset, length) in [(size - 1, 2), (size, 1), (u64::MAX, 1), (u64::MAX - 1, 4)] {
        let (kind, message) = refused(session.read_memory(0, offset, length).await);
        assert!(kind == ErrorKind::Session && message.contains("do not lie in the memory"), "{message}");
        let (kind, message) = refused(session.write_memory(0, offset, &vec![1; length]).await);
        assert!(kind == ErrorKind::Session && message.contains("do not lie in the memory"), "{message}");
    }
    assert!(refused(session.read_memory(1, 0, 1).await).1.contains("no memory number 1"));
    assert!(refused(session.memory_size("count").await).1.contains("no memory exported as \"count\""));
}

#[tokio::test]
async fn a_reset_gives_the_first_state_in_another_process_and_usage_counts_on() {
    // Without parked instances the processes below the daemon are zygotes and what runs.
    let scratch = Scratch::new();
    let config = scratch.write("sandboxd.toml", "[pool]\nmin = 0\nmax = 0\n");
    let daemon = Daemon::start_with(&["--config", config.to_str().expect("UTF-8"), "--shards", "1"]);
    let mut client = connect(&daemon).await;
    let mut session = started(&mut client, job(GUEST)).await;
    session.call("work", &[Value::I32(20_000_000)]).await.unwrap();
    session.call("bump", &[]).await.unwrap();
    session.write_memory("memory", 16, b"xyz").await.unwrap();
    let first = session.usage().await.unwrap();
    assert!(first.wall_ns > 0 && first.wasm_memory_bytes == 40 << 16, "{first:?}");
    let before = descendants(daemon.id());
    session.reset().await.unwrap();
    session.start().await.unwrap();
    let after = descendants(daemon.id());
    assert_eq!(after.difference(&before).count(), 1, "a new instance: {before:?} {after:?}");
    assert_eq!(session.call("bump", &[]).await.unwrap(), returned(41));
    assert_eq!(session.read_memory("memory", 16, 3).await.unwrap(), b"abc");
    let second = session.usage().await.unwrap();
    assert!(second.wall_ns > first.wall_ns && second.cpu_us >= first.cpu_us, "{first:?} {second:?}");
    // Whatever ended it.
    let exited = Outcome::Exited { code: 37, results: Vec::new() };
    assert_eq!(session.call("exit", &[]).await.unwrap(), CallOutcome::Ended(exited.clone()));
    assert_eq!(session.call("bump", &[]).await.unwrap(), CallOutcome::Ended(exited));
    assert_eq!(refused(session.global("count").await).0, ErrorKind::Session);
    session.reset().await.unwrap();
    session.start().await.unwrap();
    assert_eq!(session.call("bump", &[]).await.unwrap(), returned(41));
    assert!(session.end().await.unwrap().usage.wall_ns > second.wall_ns);
}

#[tokio::test]
async fn a_call_ends_by_its_time_limit_or_by_the_clients_wish() {
    let daemon = Daemon::start();
    let mut client = connect(&daemon).await;
    let mut session = started(&mut client, job(GUEST)).await;
    let limit = LimitReached { limit: Limit::WallTime, value: 20_000_000 };
    let outcome = session.call_within("spin", &[], Some(Duration::from_millis(20))).await.unwrap();
    assert_eq!(outcome, CallOutcome::Ended(Outcome::LimitReached(limit)));
    session.reset().await.unwrap();
    session.start().await.unwrap();
    let outcome = session.call_until("spin", &[], std::future::ready(())).await.unwrap();
    assert_eq!(outcome, CallOutcome::Ended(Outcome::Cancelled));
    assert_eq!(session.end().await.unwrap().outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn a_connection_holds_several_sessions_up_to_a_bound() {
    let daemon = Daemon::start_with(&["--max-jobs", "200"]);
    let mut client = connect(&daemon).await;
    let module = ModuleFile::open(&Scratch::new().module("guest.wasm", GUEST)).expect("a module");
    let id = client.load(&module).await.unwrap();
    let loaded = || JobRequest { module: Module::Loaded(id), ..job(GUEST) };
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS_MAX {
        sessions.push(started(&mut client, loaded()).await);
    }
    let (kind, message) = refused(client.session(loaded()).await);
    assert!(kind == ErrorKind::Session && message.contains("64 sessions open"), "{message}");
    for (number, session) in sessions.iter_mut().enumerate() {
        session.set_global("count", Value::I32(number as i32)).await.unwrap();
    }
    for (number, session) in sessions.iter_mut().enumerate() {
        assert_eq!(session.call("bump", &[]).await.unwrap(), returned(number as i32 + 1));
    }
    let status = client.status().await.unwrap();
    assert_eq!((status.jobs, status.sessions), (64, 64));
    // One that is dropped ends with the next request.
    sessions.pop();
    assert_eq!(client.status().await.unwrap().sessions, 63);
    let last = started(&mut client, loaded()).await;
    last.end().await.unwrap();
    drop(sessions);
    drop(client);
    let mut other = connect(&daemon).await;
    while other.status().await.unwrap().sessions > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn sessions_leave_places_for_jobs() {
    let daemon = Daemon::start_with(&["--max-jobs", "2"]);
    let (mut first, mut second) = (connect(&daemon).await, connect(&daemon).await);
    let session = started(&mut first, job(GUEST)).await;
    let (kind, message) = refused(second.session(job(GUEST)).await);
    assert!(kind == ErrorKind::Session && message.contains("the daemon has 1 sessions open"), "{message}");
    let run = JobRequest { entry: EntryRequest::Export { name: "bump".into(), args: vec![] }, ..job(GUEST) };
    let report = second.run(run).await.unwrap();
    assert_eq!(report.outcome, Outcome::Exited { code: 0, results: vec![Value::I32(41)] });
    session.end().await.unwrap();
    started(&mut second, job(GUEST)).await.end().await.unwrap();
}

fn imports(function: HostFunction) -> Imports {
    let mut imports = Imports::default();
    imports
        .define("host", "f", Extern::Function(function))
        .define("host", "g", Extern::Global { value: Value::I32(11), mutable: true })
        .define("host", "memory", Extern::Memory { pages: 2, max: None, memory64: false });
    imports
}

fn double() -> HostFunction {
    HostFunction::immediate([ValType::I32], [ValType::I32], |values| match values {
        [Value::I32(0)] => Err(HostError::from("no zero, please")),
        [Value::I32(1)] => Err(HostError::Trap("a trap of its own".into())),
        [Value::I32(2)] => Ok(vec![Value::I64(1)]),
        [Value::I32(3)] => panic!("a host function of a test panics"),
        [Value::I32(n)] => Ok(vec![Value::I32(n * 2)]),
        other => Err(format!("{other:?}").into()),
    })
}

#[tokio::test]
async fn functions_globals_and_memories_are_the_clients() {
    let daemon = Daemon::start();
    let mut client = connect(&daemon).await;
    let mut session = started(&mut client, JobRequest { imports: imports(double()), ..job(CALLER) }).await;
    for number in 10..50 {
        assert_eq!(session.call("f", &[Value::I32(number)]).await.unwrap(), returned(2 * number));
    }
    assert_eq!(session.call("g", &[]).await.unwrap(), returned(11));
    assert_eq!(session.memory_size("memory").await.unwrap(), 2 << 16);
    for (argument, message) in [
        (0, "host function \"host.f\" failed: no zero, please"),
        (1, "a trap of its own"),
        (2, "host function \"host.f\" failed: it returned an i64 instead of an i32 as value 0"),
        (3, "host function \"host.f\" failed: it panicked"),
    ] {
        assert_trap(&session.call("f", &[Value::I32(argument)]).await.unwrap(), message);
        assert_eq!(session.call("f", &[Value::I32(21)]).await.unwrap(), returned(42));
    }
    session.reset().await.unwrap();
    session.start().await.unwrap();
    assert_eq!(session.call("f", &[Value::I32(21)]).await.unwrap(), returned(42));
    assert_eq!(session.end().await.unwrap().usage.host_calls, 40 + 8 + 1);
    // A job is served in the same way; so is one of a module that was loaded for it.
    let entry = || EntryRequest::Export { name: "f".into(), args: vec![Value::I32(30)] };
    let exited = Outcome::Exited { code: 0, results: vec![Value::I32(60)] };
    let run = JobRequest { entry: entry(), imports: imports(double()), ..job(CALLER) };
    assert_eq!(client.run(run).await.unwrap().outcome, exited);
    let Module::File(file) = job(CALLER).module else { unreachable!("a file") };
    let id = client.load_open(&file).await.unwrap();
    let loaded =
        JobRequest { module: Module::Loaded(id), imports: imports(double()), entry: entry(), ..job(CALLER) };
    assert_eq!(client.run(loaded).await.unwrap().outcome, exited);
    // Without that, imports are what they always were.
    assert!(refused(client.load(&file).await).1.contains("host"), "no import is known");
}

#[tokio::test]
async fn imports_are_compared_with_the_module_and_the_policy() {
    let daemon = Daemon::start();
    let mut client = connect(&daemon).await;
    let other = HostFunction::immediate([ValType::I64], [ValType::I32], |_| Ok(vec![]));
    let (kind, message) =
        refused(client.session(JobRequest { imports: imports(other), ..job(CALLER) }).await);
    assert!(kind == ErrorKind::Job && message.contains("incompatible import type"), "{message}");
    let mut fewer = Imports::default();
    fewer.define("host", "f", Extern::Function(double()));
    let (kind, message) = refused(client.session(JobRequest { imports: fewer, ..job(CALLER) }).await);
    assert!(kind == ErrorKind::Job && message.contains("unknown import"), "{message}");
    let policy = client::PolicyRequest::Text {
        name: "narrow".into(),
        toml: "version = 1\nextends = \"default\"\n[host_calls]\nimports = false\n".into(),
    };
    let narrow = JobRequest { imports: imports(double()), policy, ..job(CALLER) };
    let (_, message) = refused(client.session(narrow).await);
    assert!(message.contains("policy \"narrow\" does not grant: host.f;"), "{message}");
}

/// A function that says when it is called, and returns when it is told to.
fn waiting() -> (HostFunction, Arc<Notify>, Arc<Notify>, Arc<AtomicUsize>) {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (entered, leave, dropped) =
        (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::<AtomicUsize>::default());
    let shared = (Arc::clone(&entered), Arc::clone(&leave), Arc::clone(&dropped));
    let function = HostFunction::new([ValType::I32], [ValType::I32], move |_| {
        let (entered, leave, dropped) = shared.clone();
        async move {
            let _dropped = Dropped(dropped);
            entered.notify_one();
            leave.notified().await;
            Ok(vec![Value::I32(7)])
        }
    });
    (function, entered, leave, dropped)
}

#[tokio::test]
async fn a_call_that_waits_for_its_client_blocks_nobody_else() {
    let daemon = Daemon::start_with(&["--shards", "1"]);
    let (function, entered, leave, _) = waiting();
    let (mut slow, mut quick) = (connect(&daemon).await, connect(&daemon).await);
    let mut suspended = started(&mut slow, JobRequest { imports: imports(function), ..job(CALLER) }).await;
    let mut other = started(&mut quick, JobRequest { imports: imports(double()), ..job(CALLER) }).await;
    let call = tokio::spawn(async move { suspended.call("f", &[Value::I32(5)]).await });
    entered.notified().await;
    for _ in 0..50 {
        assert_eq!(other.call("f", &[Value::I32(21)]).await.unwrap(), returned(42));
    }
    let run = JobRequest { entry: EntryRequest::Export { name: "bump".into(), args: vec![] }, ..job(GUEST) };
    assert!(matches!(quick.run(run).await.unwrap().outcome, Outcome::Exited { code: 0, .. }));
    assert!(!call.is_finished());
    leave.notify_one();
    assert_eq!(call.await.unwrap().unwrap(), returned(7));
}

#[tokio::test]
async fn a_cancelled_call_drops_what_it_waits_for() {
    let daemon = Daemon::start();
    let (function, entered, leave, dropped) = waiting();
    let mut client = connect(&daemon).await;
    let mut session = started(&mut client, JobRequest { imports: imports(function), ..job(CALLER) }).await;
    let cancelled = session.call_until("f", &[Value::I32(5)], entered.notified()).await.unwrap();
    assert_eq!(cancelled, CallOutcome::Ended(Outcome::Cancelled));
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    session.reset().await.unwrap();
    session.start().await.unwrap();
    leave.notify_one();
    assert_eq!(session.call("f", &[Value::I32(5)]).await.unwrap(), returned(7));
    // The same of a job.
    let (function, entered, _leave, dropped) = waiting();
    let run = JobRequest { imports: imports(function), ..job(CALLER) };
    let report = client.run_until(run, entered.notified()).await.unwrap();
    assert_eq!((report.outcome, dropped.load(Ordering::SeqCst)), (Outcome::Cancelled, 1));
}

#[tokio::test]
async fn a_function_that_never_answers_is_given_up_by_its_deadline_or_its_jobs() {
    let daemon = Daemon::start();
    let never = || HostFunction::new([ValType::I32], [ValType::I32], |_| std::future::pending());
    let mut client = connect(&daemon).await;
    let hurried = imports(never().within(Duration::from_millis(20)));
    let mut session = started(&mut client, JobRequest { imports: hurried, ..job(CALLER) }).await;
    for _ in 0..3 {
        let outcome = session.call("f", &[Value::I32(5)]).await.unwrap();
        assert_trap(
            &outcome,
            "host function \"host.f\" failed: it did not answer within its deadline of 20ms",
        );
        assert_eq!(session.call("g", &[]).await.unwrap(), returned(11));
    }
    let limits = LimitsRequest { wall_time_ns: Some(50_000_000), ..LimitsRequest::default() };
    let run = JobRequest { imports: imports(never()), limits, ..job(CALLER) };
    let limit = LimitReached { limit: Limit::WallTime, value: 50_000_000 };
    assert_eq!(client.run(run).await.unwrap().outcome, Outcome::LimitReached(limit));
}
