//! Sessions that go back to their first state, what they have used, and calls that wait for a function of the host app.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use compiler::Options;
use ipc::report::{Limit, LimitReached, Outcome, Value};
use policies::Policy;
use supervisor::{
    CallOutcome, Config, Error, Export, ExportType, Extern, HostFunction, Imports, JobLimits, ModuleSource,
    Supervisor, ValType, ValueType,
};
use tokio::sync::Notify;
use whole_system_tests::sessions::{self, assert_trap, call, returned};

const GUEST: &str = r#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1 4)
  (global $count (export "count") (mut i32) (i32.const 40))
  (table (export "table") 2 funcref)
  (data (i32.const 16) "abc")
  (data (i32.const 64) "\48\00\00\00\06\00\00\00hello\n")
  (func (export "bump") (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (global.get $count))
  (func (export "hello") (result i32)
    (drop (call $write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 80)))
    (i32.load (i32.const 80)))
  (func (export "grow") (result i32) (memory.grow (i32.const 1)))
  (func (export "trap") (unreachable))
  (func (export "spin") (loop (br 0)))
  (func (export "work") (param $n i32) (loop $l
    (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
  (func (export "exit") (call $exit (i32.const 37))))"#;

fn supervisor() -> Supervisor {
    Supervisor::start(Config::default()).expect("a supervisor")
}

#[tokio::test]
async fn a_reset_gives_the_first_state() {
    let supervisor = supervisor();
    let mut session = sessions::started(&supervisor, sessions::job(&supervisor, GUEST).await).await;
    for _ in 0..3 {
        assert_eq!(call(&mut session, "bump", &[]).await, returned(41));
        assert_eq!(call(&mut session, "grow", &[]).await, returned(1));
        session.write_memory("memory", 16, b"xyz").await.unwrap();
        session.write_memory("memory", 0x1_fff0, b"beyond").await.unwrap();
        assert_trap(&call(&mut session, "trap", &[]).await, "wasm `unreachable` instruction executed");
        session.reset().await.unwrap();
        // Nothing has run in it: not even the start.
        let error = session.call("bump", &[]).await.unwrap_err();
        assert!(matches!(error, Error::SessionState { .. }), "{error}");
        assert_eq!(session.start().await.unwrap(), CallOutcome::Returned(vec![]));
        assert_eq!(session.global("count").await.unwrap(), Value::I32(40));
        assert_eq!(session.memory_size("memory").await.unwrap(), 0x1_0000);
        assert_eq!(session.read_memory("memory", 16, 3).await.unwrap(), b"abc");
        assert!(session.read_memory("memory", 0, 16).await.unwrap().iter().all(|byte| *byte == 0));
    }
    assert_eq!(session.end().await.unwrap().outcome, Outcome::Exited { code: 0, results: Vec::new() });
}

#[tokio::test]
async fn a_session_that_has_ended_is_reset_like_any_other() {
    let supervisor = supervisor();
    let mut session = sessions::started(&supervisor, sessions::job(&supervisor, GUEST).await).await;
    let exited = Outcome::Exited { code: 37, results: Vec::new() };
    for _ in 0..2 {
        assert_eq!(call(&mut session, "exit", &[]).await, CallOutcome::Ended(exited.clone()));
        assert!(matches!(session.global("count").await, Err(Error::SessionEnded { .. })));
        session.reset().await.unwrap();
        session.start().await.unwrap();
        assert_eq!(call(&mut session, "bump", &[]).await, returned(41));
    }
    // Also one whose call was dropped, before it has a report.
    drop(tokio::time::timeout(Duration::from_millis(10), session.call("spin", &[])).await);
    session.reset().await.unwrap();
    session.start().await.unwrap();
    assert_eq!(call(&mut session, "bump", &[]).await, returned(41));
}

#[tokio::test]
async fn limits_are_those_of_an_instance_and_begin_anew_with_the_next() {
    let supervisor = supervisor();
    let limit = Duration::from_millis(300);
    let mut job = sessions::job(&supervisor, GUEST).await;
    job.limits = JobLimits { wall_time: Some(limit), ..JobLimits::default() };
    let mut session = sessions::started(&supervisor, job).await;
    let reached = LimitReached { limit: Limit::WallTime, value: 300_000_000 };
    for _ in 0..2 {
        let outcome = call(&mut session, "spin", &[]).await;
        assert_eq!(outcome, CallOutcome::Ended(Outcome::LimitReached(reached.clone())));
        session.reset().await.unwrap();
        // By the old count there would be no time left.
        assert_eq!(session.start().await.unwrap(), CallOutcome::Returned(vec![]));
    }
    assert!(session.end().await.unwrap().usage.wall_ns >= 600_000_000);
}

#[tokio::test]
async fn usage_grows_and_counts_on_over_resets() {
    let options = Options { fuel: true, ..Options::default() };
    let supervisor =
        Supervisor::start(Config { compile: options, ..Config::default() }).expect("a supervisor");
    let mut output = tempfile::tempfile().expect("a file");
    let mut job = sessions::job(&supervisor, GUEST).await;
    job.stdio[1] = Some(output.try_clone().expect("dup").into());
    let mut session = sessions::started(&supervisor, job).await;
    let before = session.usage().await.unwrap();
    assert_eq!((before.output_bytes, before.wasm_memory_bytes), (0, 0x1_0000));
    call(&mut session, "work", &[Value::I32(50_000_000)]).await;
    assert_eq!(call(&mut session, "hello", &[]).await, returned(6));
    assert_eq!(call(&mut session, "grow", &[]).await, returned(1));
    let first = session.usage().await.unwrap();
    assert!(first.wall_ns > before.wall_ns && first.fuel > before.fuel, "{before:?} {first:?}");
    assert!(first.fuel > Some(50_000_000), "{first:?}");
    assert!(first.cpu_us > before.cpu_us && first.peak_memory_bytes > 0, "{before:?} {first:?}");
    assert_eq!(first.wasm_memory_bytes, 0x2_0000);
    session.reset().await.unwrap();
    session.start().await.unwrap();
    assert_eq!(call(&mut session, "hello", &[]).await, returned(6));
    let second = session.usage().await.unwrap();
    assert!(second.wall_ns > first.wall_ns && second.cpu_us >= first.cpu_us, "{first:?} {second:?}");
    assert!(second.fuel > first.fuel, "{first:?} {second:?}");
    assert_eq!(second.wasm_memory_bytes, 0x1_0000, "of the instance that lives");
    let report = session.end().await.unwrap();
    assert!(report.usage.wall_ns > second.wall_ns && report.usage.fuel >= second.fuel);
    // Both instances wrote to the same open file, which the second found where the first had left it.
    assert_eq!(report.usage.output_bytes, 12);
    let mut written = String::new();
    output.seek(SeekFrom::Start(0)).expect("seek");
    output.read_to_string(&mut written).expect("read");
    assert_eq!(written, "hello\nhello\n");
}

#[tokio::test]
async fn usage_of_a_session_that_has_ended_is_that_of_its_report() {
    let supervisor = supervisor();
    let mut session = sessions::started(&supervisor, sessions::job(&supervisor, GUEST).await).await;
    call(&mut session, "exit", &[]).await;
    let usage = session.usage().await.unwrap();
    assert_eq!(usage, session.end().await.unwrap().usage);
}

/// Reading of a directory that the first instance was given goes on in the second.
#[tokio::test]
async fn directories_are_there_in_every_instance() {
    let guest = r#"(module
      (import "wasi_snapshot_preview1" "fd_prestat_get" (func $get (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "prestat") (result i32) (call $get (i32.const 3) (i32.const 0)))
      (func (export "close") (result i32) (call $close (i32.const 3))))"#;
    let supervisor = supervisor();
    let mut job = sessions::job(&supervisor, guest).await;
    let directory = File::open("/").expect("a directory").into();
    job.preopens = vec![supervisor::Preopen { directory, guest_path: "/d".into(), read_only: true }];
    job.policy = Arc::new(Policy::builtin("wasi").expect("the profile"));
    let mut session = sessions::started(&supervisor, job).await;
    for _ in 0..3 {
        assert_eq!(call(&mut session, "prestat", &[]).await, returned(0));
        assert_eq!(call(&mut session, "close", &[]).await, returned(0));
        assert_eq!(call(&mut session, "prestat", &[]).await, returned(8), "EBADF");
        session.reset().await.unwrap();
        session.start().await.unwrap();
    }
}

#[tokio::test]
async fn a_session_outlives_no_supervisor() {
    let supervisor = supervisor();
    let mut session = sessions::started(&supervisor, sessions::job(&supervisor, GUEST).await).await;
    drop(supervisor);
    assert!(matches!(session.reset().await, Err(Error::Stopped)));
    assert!(matches!(session.start().await, Err(Error::SessionState { .. } | Error::Stopped)));
}

#[tokio::test]
async fn exports_are_told_with_their_types() {
    let supervisor = supervisor();
    let session = supervisor.session(sessions::job(&supervisor, GUEST).await).await.unwrap();
    let exports: Vec<Export> = session.exports().collect();
    let ty = |name: &str| exports.iter().find(|e| e.name == name).map(|e| e.ty.clone());
    assert_eq!(exports.len(), 10);
    assert_eq!(ty("count"), Some(ExportType::Global { value: ValueType::I32, mutable: true }));
    assert_eq!(ty("memory"), Some(ExportType::Memory { index: 0, memory64: false }));
    assert_eq!(ty("table"), Some(ExportType::Table { element: ValueType::FuncRef }));
    assert_eq!(ty("work"), Some(ExportType::Function { params: vec![ValueType::I32], results: vec![] }));
}

/// Two sessions of one shard: one waits in a function of the host app, the other answers meanwhile.
#[tokio::test]
async fn a_call_that_waits_for_a_host_function_blocks_no_other_session() {
    let guest = r#"(module
      (import "host" "wait" (func $wait (result i32)))
      (func (export "wait") (result i32) (call $wait))
      (func (export "go") (result i32) (i32.const 5)))"#;
    let compile = Options { open_imports: true, ..Options::default() };
    let supervisor =
        Supervisor::start(Config { compile, shards: 1, ..Config::default() }).expect("a supervisor");
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let notifiers = (Arc::clone(&entered), Arc::clone(&leave));
    let wait = HostFunction::new([], [ValType::I32], move |_| {
        let (entered, leave) = notifiers.clone();
        async move {
            entered.notify_one();
            leave.notified().await;
            Ok(vec![Value::I32(7)])
        }
    });
    let mut imports = Imports::default();
    imports.define("host", "wait", Extern::Function(wait));
    let module = supervisor.load(ModuleSource::Wasm(guest.into())).await.unwrap();
    let job = || supervisor::Job {
        imports: imports.clone(),
        ..supervisor::Job::command(module.clone(), sessions::default_policy())
    };
    let mut waiting = sessions::started(&supervisor, job()).await;
    let mut other = sessions::started(&supervisor, job()).await;
    let suspended = tokio::spawn(async move {
        let outcome = call(&mut waiting, "wait", &[]).await;
        (waiting, outcome)
    });
    entered.notified().await;
    for _ in 0..100 {
        assert_eq!(call(&mut other, "go", &[]).await, returned(5));
    }
    other.reset().await.unwrap();
    other.start().await.unwrap();
    assert_eq!(call(&mut other, "go", &[]).await, returned(5));
    let report = supervisor.run(supervisor::Job {
        entry: supervisor::Entry::Export { name: "go".into(), args: vec![] },
        ..job()
    });
    assert_eq!(report.await.unwrap().outcome, Outcome::Exited { code: 0, results: vec![Value::I32(5)] });
    assert!(!suspended.is_finished());
    leave.notify_one();
    let (mut waiting, outcome) = suspended.await.unwrap();
    assert_eq!(outcome, returned(7));
    assert_eq!(call(&mut waiting, "go", &[]).await, returned(5));
}

#[tokio::test]
async fn a_host_function_that_misses_its_deadline_fails_its_call_only() {
    let guest = r#"(module
      (import "host" "never" (func $never))
      (func (export "never") (call $never))
      (func (export "go") (result i32) (i32.const 5)))"#;
    let compile = Options { open_imports: true, ..Options::default() };
    let supervisor = Supervisor::start(Config { compile, ..Config::default() }).expect("a supervisor");
    let never = HostFunction::new([], [], |_| std::future::pending()).within(Duration::from_millis(20));
    let mut job = sessions::job(&supervisor, guest).await;
    job.imports.define("host", "never", Extern::Function(never));
    let mut session = sessions::started(&supervisor, job).await;
    assert_trap(
        &call(&mut session, "never", &[]).await,
        "host function \"host.never\" failed: it did not answer within its deadline of 20ms",
    );
    assert_eq!(call(&mut session, "go", &[]).await, returned(5));
}
