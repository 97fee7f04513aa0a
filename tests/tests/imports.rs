//! Imports that the host app provides: functions, globals, memories, tables and tags, in jobs and in sessions.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use compiler::Options;
use ipc::job::{INDICES_OFFSET, SUBMISSIONS_OFFSET};
use ipc::layout::RING_BASE;
use ipc::report::{Limit, LimitReached, Outcome, Value, Violation};
use policies::Policy;
use supervisor::{
    CallOutcome, Config, Entry, Error, Extern, HostError, HostFunction, Imports, Job, ModuleSource, Session,
    Supervisor, ValType,
};
use whole_system_tests::attacker::Attacker;
use whole_system_tests::sessions::{self, assert_trap, call, returned};

use ValType::{ExternRef, F32, F64, FuncRef, I32, I64, V128};

fn supervisor() -> Supervisor {
    let compile = Options { open_imports: true, ..Options::default() };
    Supervisor::start(Config { compile, ..Config::default() }).expect("a supervisor")
}

async fn job(supervisor: &Supervisor, guest: &str, imports: Imports) -> Job {
    let mut job = sessions::job(supervisor, guest).await;
    job.imports = imports;
    job
}

/// A session of the guest, not started.
async fn opened(supervisor: &Supervisor, guest: &str, imports: Imports) -> Session {
    supervisor.session(job(supervisor, guest, imports).await).await.expect("a session")
}

async fn started(supervisor: &Supervisor, guest: &str, imports: Imports) -> Session {
    sessions::started(supervisor, job(supervisor, guest, imports).await).await
}

fn one(module: &str, name: &str, item: Extern) -> Imports {
    let mut imports = Imports::default();
    imports.define(module, name, item);
    imports
}

fn immutable(value: Value) -> Extern {
    Extern::Global { value, mutable: false }
}

#[tokio::test]
async fn functions_get_and_return_values_of_every_type() {
    let guest = r#"(module
      (import "host" "reverse" (func $reverse (param i32 i64 f32 f64 v128 externref funcref)
        (result funcref externref v128 f64 f32 i64 i32)))
      (import "host" "nothing" (func $nothing))
      (func (export "pass") (param i32 i64 f32 f64 v128 externref)
        (result funcref externref v128 f64 f32 i64 i32)
        (call $nothing)
        (call $reverse (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)
          (ref.null func)))
      (export "direct" (func $reverse)))"#;
    let params = [I32, I64, F32, F64, V128, ExternRef, FuncRef];
    let mut results = params;
    results.reverse();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let mut imports = Imports::default();
    imports
        .define(
            "host",
            "reverse",
            Extern::Function(HostFunction::new(params, results, |mut values| async move {
                // A host function may wait.
                tokio::task::yield_now().await;
                values.reverse();
                Ok(values)
            })),
        )
        .define(
            "host",
            "nothing",
            Extern::Function(HostFunction::immediate([], [], move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok(Vec::new())
            })),
        );
    let args = [
        Value::I32(-1),
        Value::I64(i64::MIN),
        Value::F32(0x7fc0_0001),
        Value::F64(u64::MAX),
        Value::V128(0x0123_4567_89ab_cdef_1122_3344_5566_7788),
        Value::ExternRef(Some(7)),
    ];
    let mut expected: Vec<Value> = args.to_vec();
    expected.push(Value::FuncRef(false));
    expected.reverse();

    let supervisor = supervisor();
    let mut session = started(&supervisor, guest, imports.clone()).await;
    for _ in 0..100 {
        assert_eq!(call(&mut session, "pass", &args).await, CallOutcome::Returned(expected.clone()));
    }
    let mut all = args.to_vec();
    all.push(Value::FuncRef(false));
    assert_eq!(call(&mut session, "direct", &all).await, CallOutcome::Returned(expected.clone()));
    assert_eq!(calls.load(Ordering::Relaxed), 100);
    assert_eq!(session.end().await.unwrap().usage.host_calls, 201);

    // A job is served in the same way.
    let mut job = job(&supervisor, guest, imports).await;
    job.entry = Entry::Export { name: "pass".into(), args: args.to_vec() };
    let report = supervisor.run(job).await.unwrap();
    assert_eq!(report.outcome, Outcome::Exited { code: 0, results: expected });
    assert_eq!(report.usage.host_calls, 2);
}

#[tokio::test]
async fn a_failing_function_traps_the_call_and_says_why() {
    let guest = r#"(module
      (import "host" "f" (func $f (param i32) (result i32)))
      (func (export "f") (param i32) (result i32) (i32.add (call $f (local.get 0)) (i32.const 1))))"#;
    let function = HostFunction::immediate([I32], [I32], |values| match values {
        [Value::I32(0)] => Err(HostError::from("no zero, please")),
        [Value::I32(1)] => Ok(vec![Value::I64(1)]),
        [Value::I32(2)] => Ok(Vec::new()),
        [Value::I32(3)] => Ok(vec![Value::I32(1), Value::I32(2)]),
        [Value::I32(4)] => panic!("a host function of a test panics"),
        [Value::I32(n)] => Ok(vec![Value::I32(n * 2)]),
        other => Err(format!("{other:?}").into()),
    });
    let imports = one("host", "f", Extern::Function(function));
    let supervisor = supervisor();
    let mut session = started(&supervisor, guest, imports.clone()).await;
    for (argument, message) in [
        (0, "no zero, please"),
        (1, "it returned [I64(1)] instead of values of type (i32) -> (i32)"),
        (2, "it returned [] instead of values of type (i32) -> (i32)"),
        (3, "it returned [I32(1), I32(2)] instead of values of type (i32) -> (i32)"),
        (4, "it panicked"),
    ] {
        let outcome = call(&mut session, "f", &[Value::I32(argument)]).await;
        assert_trap(&outcome, &format!("host function \"host.f\" failed: {message}"));
        let CallOutcome::Trapped(trap) = outcome else { unreachable!() };
        let frames: Vec<u32> = trap.backtrace.iter().map(|frame| frame.function).collect();
        assert_eq!(frames, [0, 1]);
        assert_eq!(call(&mut session, "f", &[Value::I32(20)]).await, returned(41));
    }
    let mut job = job(&supervisor, guest, imports).await;
    job.entry = Entry::Export { name: "f".into(), args: vec![Value::I32(0)] };
    match supervisor.run(job).await.unwrap().outcome {
        Outcome::Trapped(trap) => {
            assert_eq!(trap.message, "host function \"host.f\" failed: no zero, please");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_function_calls_into_another_session_and_passes_its_trap_on() {
    let callee = r#"(module
      (global $calls (mut i32) (i32.const 0))
      (func (export "divide") (param i32) (result i32)
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.add (global.get $calls) (i32.div_s (i32.const 100) (local.get 0)))))"#;
    let caller = r#"(module
      (import "other" "divide" (func $divide (param i32) (result i32)))
      (tag $own)
      (func (export "divide") (param i32) (result i32)
        (block $caught
          (try_table (catch_all $caught) (return (call $divide (local.get 0)))))
        (i32.const -1)))"#;
    let supervisor = supervisor();
    let other = started(&supervisor, callee, Imports::default()).await;
    let other = Arc::new(tokio::sync::Mutex::new(other));
    let callee = Arc::clone(&other);
    let divide = HostFunction::new([I32], [I32], move |values| {
        let callee = Arc::clone(&callee);
        async move {
            match callee.lock().await.call("divide", &values).await.map_err(|error| error.to_string())? {
                CallOutcome::Returned(results) => Ok(results),
                CallOutcome::Trapped(trap) => Err(trap.into()),
                CallOutcome::Ended(outcome) => Err(format!("it ended: {outcome:?}").into()),
            }
        }
    });
    let mut session = started(&supervisor, caller, one("other", "divide", Extern::Function(divide))).await;
    for round in 0..10 {
        assert_eq!(call(&mut session, "divide", &[Value::I32(2)]).await, returned(51 + 2 * round));
        let trapped = call(&mut session, "divide", &[Value::I32(0)]).await;
        // In the words of the trap itself, with the caller's frames, and past the caller's handler.
        assert_trap(&trapped, "integer divide by zero");
        let CallOutcome::Trapped(trap) = trapped else { unreachable!() };
        assert_eq!(trap.backtrace.iter().map(|frame| frame.function).collect::<Vec<_>>(), [0, 1]);
    }
    let other = Arc::clone(&other);
    let mut other = other.lock().await;
    assert_eq!(call(&mut other, "divide", &[Value::I32(100)]).await, returned(22));
}

#[tokio::test]
async fn a_function_that_never_answers_costs_its_own_session_only() {
    let guest = r#"(module (import "host" "wait" (func $wait)) (func (export "wait") (call $wait))
      (func (export "one") (result i32) (i32.const 1)))"#;
    let wait = HostFunction::new([], [], |_| std::future::pending());
    let imports = one("host", "wait", Extern::Function(wait));
    let supervisor = supervisor();
    let mut other = started(&supervisor, guest, imports.clone()).await;
    let mut session = started(&supervisor, guest, imports).await;
    let limit = Duration::from_millis(200);
    let outcome =
        Outcome::LimitReached(LimitReached { limit: Limit::WallTime, value: limit.as_nanos() as u64 });
    let ended = session.call_within("wait", &[], Some(limit));
    let (ended, one) = tokio::join!(ended, other.call("one", &[]));
    assert_eq!((ended.unwrap(), one.unwrap()), (CallOutcome::Ended(outcome), returned(1)));
}

#[tokio::test]
async fn calls_count_and_need_the_policys_grant() {
    let guest = r#"(module (import "host" "f" (func $f)) (func (export "f") (loop (call $f) (br 0))))"#;
    let nothing = || HostFunction::immediate([], [], |_| Ok(Vec::new()));
    let supervisor = supervisor();
    let parse = |text: &str| {
        let text = format!("version = 1\nextends = \"default\"\n{text}");
        Arc::new(Policy::parse(&text, "t.toml").unwrap())
    };
    let mut limited = job(&supervisor, guest, one("host", "f", Extern::Function(nothing()))).await;
    limited.policy = parse("[limits]\nhost_calls = 10\n");
    let mut session = supervisor.session(limited).await.unwrap();
    session.start().await.unwrap();
    let outcome = Outcome::LimitReached(LimitReached { limit: Limit::HostCalls, value: 10 });
    assert_eq!(call(&mut session, "f", &[]).await, CallOutcome::Ended(outcome));

    let mut denied = job(&supervisor, guest, one("host", "f", Extern::Function(nothing()))).await;
    denied.policy = parse("[host_calls]\nimports = false\n");
    let error = supervisor.session(denied).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the module imports functions of the host app that policy \"t.toml\" does not grant: host.f; list them in imports \
         under [host_calls] or choose another policy"
    );
}

#[tokio::test]
async fn a_policy_grants_functions_by_their_names() {
    let guest = r#"(module
      (import "kv" "get" (func)) (import "kv" "put" (func)) (import "kv" "get" (func)) (import "log" "write" (func))
      (import "a.b" "c" (func)) (import "a" "b.c" (func)) (import "m" "memory" (memory 1))
      (func (export "f") (result i32) (i32.const 1)))"#;
    let provided = || {
        let mut imports = one("m", "memory", Extern::Memory { pages: 1, max: None, memory64: false });
        for (module, name) in [("kv", "get"), ("kv", "put"), ("log", "write"), ("a.b", "c"), ("a", "b.c")] {
            imports.define(module, name, Extern::Function(HostFunction::immediate([], [], |_| Ok(vec![]))));
        }
        imports
    };
    let supervisor = supervisor();
    for (granted, refused) in [
        (r#"["kv.*", "log.write", "a.b.c", "a.*"]"#, None),
        ("true", None),
        ("[]", Some("a.b.c, kv.get, kv.put, log.write; ")),
        (r#"["kv.gte", "a.b.*"]"#, Some("a.b.c, kv.get, kv.put, log.write")),
        (r#"["a.b.c", "kv.get", "log.*"]"#, Some("a.b.c, kv.put (it grants \"a.b.c\"); ")),
        (r#"["a.*", "a.b.*", "kv.gett", "kv.put", "log.*"]"#, Some("kv.get (it grants \"kv.gett\"); ")),
        (r#"["a.*", "a.b.*", "kv", "log.*"]"#, None),
    ] {
        let text = format!("version = 1\nextends = \"default\"\n[host_calls]\nimports = {granted}\n");
        let Ok(policy) = Policy::parse(&text, "t.toml") else {
            assert!(granted.contains("\"kv\""), "{granted}");
            continue;
        };
        let mut job = job(&supervisor, guest, provided()).await;
        job.policy = Arc::new(policy);
        match (supervisor.session(job).await, refused) {
            (Ok(mut session), None) => {
                session.start().await.unwrap();
                assert_eq!(call(&mut session, "f", &[]).await, returned(1));
            }
            (Err(error), Some(refused)) => {
                let error = error.to_string();
                assert!(error.contains(&format!("does not grant: {refused}")), "{granted}: {error}");
            }
            (other, _) => panic!("{granted}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn globals_memories_and_tables_are_fresh_and_as_the_job_says() {
    let guest = r#"(module
      (import "m" "i" (global $i i32))
      (import "m" "l" (global $l (mut i64)))
      (import "m" "v" (global $v v128))
      (import "m" "r" (global $r externref))
      (import "m" "mem" (memory $mem 1 8))
      (import "m" "tab" (table $tab 2 externref))
      (export "memory" (memory $mem))
      (export "l" (global $l))
      (export "v" (global $v))
      (data (i32.const 65530) "abcdef")
      (func (export "get") (result i32 i64 v128 externref i32 i32)
        (table.set $tab (i32.const 3) (global.get $r))
        (global.get $i) (global.get $l) (global.get $v) (table.get $tab (i32.const 3))
        (memory.size) (table.size $tab))
      (func (export "bump") (result i64)
        (global.set $l (i64.add (global.get $l) (i64.const 1))) (global.get $l))
      (func (export "grow") (result i32) (memory.grow (i32.const 1)))
      (func (export "grow-table") (result i32) (table.grow $tab (ref.null extern) (i32.const 1))))"#;
    let mut imports = Imports::default();
    imports
        .define("m", "i", immutable(Value::I32(-5)))
        .define("m", "l", Extern::Global { value: Value::I64(1 << 40), mutable: true })
        .define("m", "v", immutable(Value::V128(u128::MAX / 3)))
        .define("m", "r", immutable(Value::ExternRef(Some(99))))
        .define("m", "mem", Extern::Memory { pages: 3, max: Some(4), memory64: false })
        .define("m", "tab", Extern::Table { ty: ExternRef, entries: 5, max: Some(6), table64: false });
    let supervisor = supervisor();
    for _ in 0..2 {
        let mut session = started(&supervisor, guest, imports.clone()).await;
        let expected = vec![
            Value::I32(-5),
            Value::I64(1 << 40),
            Value::V128(u128::MAX / 3),
            Value::ExternRef(Some(99)),
            Value::I32(3),
            Value::I32(5),
        ];
        assert_eq!(call(&mut session, "get", &[]).await, CallOutcome::Returned(expected));
        assert_eq!(session.global("v").await.unwrap(), Value::V128(u128::MAX / 3));
        let bumped = Value::I64((1 << 40) + 1);
        assert_eq!(call(&mut session, "bump", &[]).await, CallOutcome::Returned(vec![bumped]));
        assert_eq!(session.global("l").await.unwrap(), bumped);
        // The segment, the part that the job added, and the maxima, which are the narrower ones.
        assert_eq!(session.read_memory("memory", 65530, 7).await.unwrap(), b"abcdef\0");
        session.write_memory("memory", 3 * 65536 - 1, b"x").await.unwrap();
        assert_eq!(call(&mut session, "grow", &[]).await, returned(3));
        assert_eq!(call(&mut session, "grow", &[]).await, returned(-1));
        assert_eq!(call(&mut session, "grow-table", &[]).await, returned(5));
        assert_eq!(call(&mut session, "grow-table", &[]).await, returned(-1));
    }
}

#[tokio::test]
async fn provided_memory_counts_against_the_limit() {
    let guest = r#"(module (import "m" "mem" (memory 1)) (func (export "f")))"#;
    let supervisor = supervisor();
    let mut job =
        job(&supervisor, guest, one("m", "mem", Extern::Memory { pages: 3, max: None, memory64: false }))
            .await;
    job.limits.memory = Some(2 * 65536);
    job.entry = Entry::Export { name: "f".into(), args: Vec::new() };
    let outcome = Outcome::LimitReached(LimitReached { limit: Limit::Memory, value: 2 * 65536 });
    assert_eq!(supervisor.run(job).await.unwrap().outcome, outcome);
}

#[tokio::test]
async fn what_is_missing_or_does_not_fit_is_an_error_that_names_it() {
    let supervisor = supervisor();
    let f = |params: &[ValType], results: &[ValType]| {
        Extern::Function(HostFunction::immediate(params, results, |_| Ok(Vec::new())))
    };
    let memory = |pages, max| Extern::Memory { pages, max, memory64: false };
    let table = |ty, entries, max| Extern::Table { ty, entries, max, table64: false };
    let cases: Vec<(&str, Option<Extern>, &str)> = vec![
        ("(func)", None, r#"unknown import: the module imports function "m" "x""#),
        ("(global i32)", None, r#"unknown import: the module imports global "m" "x""#),
        ("(memory 1)", None, r#"unknown import: the module imports memory "m" "x""#),
        ("(table 1 funcref)", None, r#"unknown import: the module imports table "m" "x""#),
        ("(tag)", None, r#"unknown import: the module imports tag "m" "x""#),
        (
            "(func (param i32))",
            Some(f(&[I64], &[])),
            "must be a function (i32) -> (), but the job provides a function (i64) -> ()",
        ),
        ("(func (result i32))", Some(f(&[], &[])), "a function () -> (i32)"),
        ("(func)", Some(memory(1, None)), "must be a function, but the job provides a memory"),
        ("(global i32)", Some(immutable(Value::I64(0))), "must be immutable global of type i32"),
        ("(global (mut i32))", Some(immutable(Value::I32(0))), "must be mutable global of type i32"),
        (
            "(global funcref)",
            Some(immutable(Value::FuncRef(true))),
            "must be immutable global of type funcref",
        ),
        ("(global i32)", Some(f(&[], &[])), "must be a global, but the job provides a function"),
        (
            "(memory 2)",
            Some(memory(1, None)),
            "a memory with 2 pages, but the job provides a memory with 1 pages",
        ),
        ("(memory 1 2)", Some(memory(1, None)), "a memory with 1 pages, at most 2"),
        ("(memory 1 2)", Some(memory(1, Some(3))), "but the job provides a memory with 1 pages, at most 3"),
        ("(memory 1)", Some(memory(4, Some(3))), "a memory with 4 pages, at most 3"),
        ("(table 2 funcref)", Some(table(FuncRef, 1, None)), "a table of funcref with 2 entries"),
        (
            "(table 2 funcref)",
            Some(table(ExternRef, 2, None)),
            "provides a table of externref with 2 entries",
        ),
        ("(table 2 3 funcref)", Some(table(FuncRef, 2, Some(4))), "at most 4"),
        ("(table 2 funcref)", Some(table(FuncRef, 70_000, None)), "the artifact has room for 65536"),
        ("(tag (param i32))", Some(Extern::Tag { params: vec![I64] }), "must be a tag (i32) -> ()"),
    ];
    for (import, item, message) in cases {
        let guest = format!(r#"(module (import "m" "x" {import}) (func (export "f")))"#);
        let mut imports = Imports::default();
        if let Some(item) = item {
            imports.define("m", "x", item);
        }
        let error = supervisor.session(job(&supervisor, &guest, imports.clone()).await).await.unwrap_err();
        assert!(error.to_string().contains(message), "{import}: {error}");
        let is_import_error = matches!(
            error,
            Error::UnknownImport { .. } | Error::IncompatibleImport { .. } | Error::ImportRoom { .. }
        );
        assert!(is_import_error, "{import}: {error:?}");
        let mut job = job(&supervisor, &guest, imports).await;
        job.entry = Entry::Export { name: "f".into(), args: Vec::new() };
        assert_eq!(supervisor.run(job).await.unwrap_err().to_string(), error.to_string());
    }
}

#[tokio::test]
async fn without_the_option_an_unknown_import_is_an_error_of_the_compiler() {
    let supervisor = Supervisor::start(Config::default()).unwrap();
    for import in ["(func)", "(global i32)", "(memory 1)"] {
        let guest = format!(r#"(module (import "m" "x" {import}))"#);
        let error = supervisor.load(ModuleSource::Wasm(guest.into_bytes())).await.unwrap_err().to_string();
        assert!(error.contains("`m` `x`"), "{error}");
    }
}

const DEPENDS: &str = r#"(module
  (import "m" "base" (global $base i32))
  (import "m" "far" (global $far i64))
  (import "m" "mem" (memory 1))
  (import "m" "tab" (table 4 funcref))
  (import "m" "note" (func $note (param i32)))
  (type $int (func (result i32)))
  (global $next (export "next") i32 (i32.add (global.get $base) (i32.mul (i32.const 3) (i32.const 4))))
  (global $copy (export "copy") (mut i64) (i64.sub (global.get $far) (i64.const 1)))
  (global $chain (export "chain") i32 (i32.sub (i32.const 14) (global.get $base)))
  (export "memory" (memory 0))
  (elem (i32.const 0) $a)
  (elem (offset (i32.add (global.get $base) (i32.const 1))) $b $a)
  (elem (i32.const 1) $a)
  (data (i32.const 0) "static")
  (data (offset (i32.add (global.get $base) (i32.const 2))) "XY")
  (data (i32.const 1) "Z")
  (data $passive "passive")
  (func $a (result i32) (i32.const 10))
  (func $b (result i32) (i32.const 20))
  (func (export "call") (param i32) (result i32) (call_indirect (type $int) (local.get 0)))
  (func (export "init") (param i32) (memory.init $passive (local.get 0) (i32.const 0) (i32.const 7)))
  (func $start (call $note (i32.add (global.get $chain) (i32.load8_u (i32.const 1)))))
  (start $start))"#;

fn depends(base: i32, pages: u64, entries: u64, notes: &Arc<Mutex<Vec<i32>>>) -> Imports {
    let notes = Arc::clone(notes);
    let note = HostFunction::immediate([I32], [], move |values| {
        if let [Value::I32(n)] = values {
            notes.lock().unwrap().push(*n);
        }
        Ok(Vec::new())
    });
    let mut imports = Imports::default();
    imports
        .define("m", "base", immutable(Value::I32(base)))
        .define("m", "far", immutable(Value::I64(1 << 33)))
        .define("m", "mem", Extern::Memory { pages, max: None, memory64: false })
        .define("m", "tab", Extern::Table { ty: FuncRef, entries, max: None, table64: false })
        .define("m", "note", Extern::Function(note));
    imports
}

#[tokio::test]
async fn initial_values_offsets_and_segments_follow_the_imports() {
    let supervisor = supervisor();
    let notes = Arc::new(Mutex::new(Vec::new()));
    let mut session = started(&supervisor, DEPENDS, depends(2, 1, 5, &notes)).await;
    assert_eq!(session.global("next").await.unwrap(), Value::I32(14));
    assert_eq!(session.global("copy").await.unwrap(), Value::I64((1 << 33) - 1));
    assert_eq!(session.global("chain").await.unwrap(), Value::I32(12));
    // "static", then "XY" at 4, then "Z" at 1.
    assert_eq!(session.read_memory("memory", 0, 7).await.unwrap(), b"sZatXY\0");
    for (index, value) in [(0, 10), (1, 10), (3, 20), (4, 10)] {
        assert_eq!(call(&mut session, "call", &[Value::I32(index)]).await, returned(value), "{index}");
    }
    assert_trap(&call(&mut session, "call", &[Value::I32(2)]).await, "uninitialized element");
    assert_eq!(*notes.lock().unwrap(), [12 + i32::from(b'Z')], "the start function ran last, once");
    assert_eq!(call(&mut session, "init", &[Value::I32(100)]).await, CallOutcome::Returned(Vec::new()));
    assert_eq!(session.read_memory("memory", 100, 7).await.unwrap(), b"passive");
    // The same artifact with other imports.
    let mut session = started(&supervisor, DEPENDS, depends(0x8000, 2, 0x8003, &notes)).await;
    assert_eq!(session.global("next").await.unwrap(), Value::I32(0x800c));
    assert_eq!(session.read_memory("memory", 0x8002, 2).await.unwrap(), b"XY");
    assert_eq!(call(&mut session, "call", &[Value::I32(0x8001)]).await, returned(20));
}

#[tokio::test]
async fn an_instantiation_traps_at_the_first_segment_that_does_not_fit() {
    let supervisor = supervisor();
    let notes = Arc::new(Mutex::new(Vec::new()));
    // The element segment ends beyond the table.
    let mut session = opened(&supervisor, DEPENDS, depends(2, 1, 4, &notes)).await;
    let outcome = session.start().await.unwrap();
    assert_trap(&outcome, "undefined element: out of bounds table access");
    assert_eq!(session.read_memory("memory", 0, 6).await.unwrap(), b"\0\0\0\0\0\0", "no data was written");
    // The table is large enough; the first data segment is written, the second does not fit.
    let mut session = opened(&supervisor, DEPENDS, depends(0xfffd, 1, 0x1_0000, &notes)).await;
    let error = session.start().await.unwrap();
    assert_trap(&error, "out of bounds memory access");
    assert_eq!(session.read_memory("memory", 0, 6).await.unwrap(), b"static");
    let error = session.call("init", &[Value::I32(0)]).await.unwrap_err().to_string();
    assert_eq!(error, "cannot call a function of a module whose start trapped");
    assert_eq!(*notes.lock().unwrap(), Vec::<i32>::new(), "the start function did not run");
    // Negative offsets are large ones.
    let mut session = opened(&supervisor, DEPENDS, depends(-2, 1, 5, &notes)).await;
    assert_trap(&session.start().await.unwrap(), "undefined element: out of bounds table access");
    // A job ends with the trap.
    let mut job = job(&supervisor, DEPENDS, depends(2, 1, 4, &notes)).await;
    job.entry = Entry::Export { name: "init".into(), args: vec![Value::I32(0)] };
    let outcome = supervisor.run(job).await.unwrap().outcome;
    assert!(
        matches!(&outcome, Outcome::Trapped(t) if t.message.contains("out of bounds table access")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_segment_beyond_the_declared_size_fits_when_the_import_is_larger() {
    let guest = r#"(module
      (import "m" "mem" (memory 0))
      (import "m" "tab" (table 0 funcref))
      (export "memory" (memory 0))
      (elem (i32.const 1) $f)
      (data (i32.const 65536) "beyond")
      (func $f (export "f") (result i32) (call_indirect (result i32) (i32.const 0)))
      (func (export "g") (result i32) (call_indirect (result i32) (i32.const 1))))"#;
    let provide = |pages, entries| {
        let mut imports = Imports::default();
        imports.define("m", "mem", Extern::Memory { pages, max: None, memory64: false }).define(
            "m",
            "tab",
            Extern::Table { ty: FuncRef, entries, max: None, table64: false },
        );
        imports
    };
    let supervisor = supervisor();
    let mut session = started(&supervisor, guest, provide(2, 2)).await;
    assert_eq!(session.read_memory("memory", 0x1_0000, 6).await.unwrap(), b"beyond");
    assert_trap(&call(&mut session, "g", &[]).await, "uninitialized element");
    let mut session = opened(&supervisor, guest, provide(1, 2)).await;
    assert_trap(&session.start().await.unwrap(), "out of bounds memory access");
}

#[tokio::test]
async fn memories_and_tables_with_64_bit_indices_are_provided_as_such() {
    let guest = r#"(module
      (import "m" "at" (global $at i64))
      (import "m" "mem" (memory i64 1))
      (import "m" "tab" (table i64 1 funcref))
      (export "memory" (memory 0))
      (elem (table 0) (offset (global.get $at)) func $f)
      (data (offset (i64.add (global.get $at) (i64.const 65536))) "wide")
      (func $f (export "f") (result i32) (call_indirect (result i32) (i64.const 1)))
      (func $one (result i32) (i32.const 1)))"#;
    let provide = |at, is_wide| {
        let mut imports = Imports::default();
        imports
            .define("m", "at", immutable(Value::I64(at)))
            .define("m", "mem", Extern::Memory { pages: 2, max: None, memory64: is_wide })
            .define("m", "tab", Extern::Table { ty: FuncRef, entries: 8, max: None, table64: is_wide });
        imports
    };
    let supervisor = supervisor();
    let mut session = started(&supervisor, guest, provide(5, true)).await;
    assert_eq!(session.read_memory("memory", 65541, 4).await.unwrap(), b"wide");
    assert_trap(&call(&mut session, "f", &[]).await, "uninitialized element");
    let mut session = opened(&supervisor, guest, provide(-1, true)).await;
    assert_trap(&session.start().await.unwrap(), "undefined element: out of bounds table access");
    let error = supervisor.session(job(&supervisor, guest, provide(5, false)).await).await.unwrap_err();
    assert!(error.to_string().contains("must be a 64-bit memory"), "{error}");
}

#[tokio::test]
async fn an_imported_tag_is_thrown_and_caught() {
    let guest = r#"(module
      (import "m" "t" (tag $t (param i32)))
      (import "m" "u" (tag $u (param i32)))
      (import "m" "t" (tag $again (param i32)))
      (func (export "f") (param i32) (result i32)
        (block $caught (result i32)
          (try_table (result i32) (catch $t $caught) (throw $t (local.get 0)))))
      (func (export "same") (param i32) (result i32)
        (block $caught (result i32)
          (try_table (result i32) (catch $u $caught) (catch $t $caught) (throw $again (local.get 0)))))
      (func (export "other") (param i32) (result i32)
        (block $caught (result i32)
          (try_table (result i32) (catch $again $caught) (throw $u (local.get 0))))))"#;
    let supervisor = supervisor();
    let tag = || Extern::Tag { params: vec![I32] };
    let mut imports = one("m", "t", tag());
    imports.define("m", "u", tag());
    let mut session = started(&supervisor, guest, imports).await;
    assert_eq!(call(&mut session, "f", &[Value::I32(17)]).await, returned(17));
    assert_eq!(call(&mut session, "same", &[Value::I32(18)]).await, returned(18));
    assert_trap(&call(&mut session, "other", &[Value::I32(19)]).await, "thrown Wasm exception");
}

#[tokio::test]
async fn an_instance_cannot_call_what_its_module_does_not_import() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    let slot = RING_BASE + SUBMISSIONS_OFFSET as u64;
    let tail = RING_BASE + INDICES_OFFSET as u64;
    for number in [0u64, 1, 0xff_ffff] {
        let function = u64::from(ipc::imports::FUNCTIONS) + number;
        match attacker.attack("forge-submission", &[slot, function, tail, 1]).await.outcome {
            Outcome::Violated(Violation::Ring { rule }) => {
                assert!(rule.contains(&format!("imported function {number}")), "{rule}");
            }
            other => panic!("{number}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_policy_without_the_rings_calls_cannot_hold_a_session() {
    let supervisor = supervisor();
    let mut job = job(&supervisor, r#"(module (func (export "f")))"#, Imports::default()).await;
    job.policy = Arc::new(Policy::builtin("compute").unwrap());
    let error = supervisor.session(job).await.unwrap_err().to_string();
    assert!(error.contains("policy \"compute\" does not allow write"), "{error}");
}
