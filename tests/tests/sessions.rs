//! Sessions: several calls on one confined instance, with everything that may happen between and inside of them.

use std::mem::offset_of;
use std::sync::Arc;
use std::time::Duration;

use ipc::context::{Builtins, MemoryDescriptor};
use ipc::job::{EXIT_OFFSET, ExitRecord, INDICES_OFFSET, SUBMISSIONS_OFFSET};
use ipc::layout::{CODE_BASE, GATE_PAGE, MEMORY_BASE, RING_BASE};
use ipc::report::{Limit, LimitReached, Outcome, Report, Value, Violation};
use ipc::ring::{Indices, Submission};
use ipc::session::REPLY;
use policies::Policy;
use supervisor::{CallOutcome, Config, Error, Job, JobLimits, Session, Supervisor};
use whole_system_tests::attacker::{Attacker, weapon};
use whole_system_tests::sessions::{self, assert_trap, call, returned};

const GUEST: &str = r#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1 4)
  (global $count (export "count") (mut i32) (i32.const 40))
  (global (export "pi") f64 (f64.const 3.25))
  (global (export "vector") (mut v128) (v128.const i64x2 1 2))
  (table 2 funcref)
  (elem (i32.const 0) $bump)
  (type $nothing (func))
  (type $int (func (result i32)))
  (data (i32.const 16) "abc")
  (func $bump (export "bump") (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (global.get $count))
  (func (export "bump-and-trap")
    (drop (call $bump))
    (i32.store (i32.const 100) (i32.const 7))
    (unreachable))
  (func (export "divide") (param i32) (result i32) (i32.div_s (i32.const 84) (local.get 0)))
  (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "indirect") (param i32) (result i32) (call_indirect (type $int) (local.get 0)))
  (func $recurse (export "recurse") (param i32) (result i32)
    (i32.add (i32.const 1) (call $recurse (i32.add (local.get 0) (i32.const 1)))))
  (func $descend (export "descend-and-write") (param i32)
    ;; Runs out of stack somewhere below here, most likely inside of the host call's own functions.
    (drop (call $write (i32.const 9) (i32.const 0) (i32.const 0) (i32.const 0)))
    (call $descend (i32.add (local.get 0) (i32.const 1)))
    (drop (call $write (i32.const 9) (i32.const 0) (i32.const 0) (i32.const 0))))
  (func (export "grow") (result i32) (memory.grow (i32.const 1)))
  (func (export "spin") (loop (br 0)))
  (func (export "exit") (call $exit (i32.const 37)))
  (func (export "many") (param i32 i64 f32 f64 externref) (result externref f64 f32 i64 i32)
    (local.get 4) (local.get 3) (local.get 2) (local.get 1) (local.get 0)))"#;

async fn job(guest: &str) -> (Supervisor, Job) {
    let supervisor = Supervisor::start(Config::default()).expect("a supervisor");
    let job = sessions::job(&supervisor, guest).await;
    (supervisor, job)
}

async fn started(guest: &str) -> (Supervisor, Session) {
    let (supervisor, job) = job(guest).await;
    let session = sessions::started(&supervisor, job).await;
    (supervisor, session)
}

#[tokio::test]
async fn calls_see_what_earlier_calls_did_and_values_of_all_types_cross() {
    let (_supervisor, mut session) = started(GUEST).await;
    for expected in 41..60 {
        assert_eq!(call(&mut session, "bump", &[]).await, returned(expected));
    }
    let args =
        [Value::I32(-1), Value::I64(-2), Value::F32(0x7fc0_0001), Value::F64(1), Value::ExternRef(Some(9))];
    let mut reversed = args.to_vec();
    reversed.reverse();
    assert_eq!(call(&mut session, "many", &args).await, CallOutcome::Returned(reversed));
    let error = session.call("no-such", &[]).await.unwrap_err().to_string();
    assert!(error.contains("no exported function \"no-such\""), "{error}");
    let error = session.call("divide", &[Value::I64(1)]).await.unwrap_err().to_string();
    assert!(error.contains("takes (i32), but was given (i64)"), "{error}");
    assert_eq!(call(&mut session, "bump", &[]).await, returned(60));
    let report = session.end().await.unwrap();
    assert_eq!(report.outcome, Outcome::Exited { code: 0, results: Vec::new() });
    assert_eq!(report.usage.host_calls, 0);
    assert_eq!(report.usage.wasm_memory_bytes, 0x1_0000);
}

#[tokio::test]
async fn a_trap_ends_its_call_only_and_leaves_what_it_did() {
    let (_supervisor, mut session) = started(GUEST).await;
    for round in 0..50 {
        match call(&mut session, "bump-and-trap", &[]).await {
            CallOutcome::Trapped(trap) => {
                assert_eq!(trap.message, "wasm `unreachable` instruction executed");
                assert_eq!(trap.backtrace.len(), 1, "{:?}", trap.backtrace);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(session.global("count").await.unwrap(), Value::I32(41 + 2 * round));
        assert_eq!(call(&mut session, "bump", &[]).await, returned(42 + 2 * round));
        assert_eq!(call(&mut session, "load", &[Value::I32(100)]).await, returned(7));
        assert_trap(&call(&mut session, "divide", &[Value::I32(0)]).await, "integer divide by zero");
        assert_eq!(call(&mut session, "divide", &[Value::I32(2)]).await, returned(42));
        assert_trap(&call(&mut session, "load", &[Value::I32(65533)]).await, "out of bounds memory access");
        assert_trap(&call(&mut session, "indirect", &[Value::I32(1)]).await, "uninitialized element");
        session.write_memory("memory", 100, &[0; 4]).await.unwrap();
        assert_eq!(call(&mut session, "load", &[Value::I32(100)]).await, returned(0));
    }
    assert_eq!(session.end().await.unwrap().outcome, Outcome::Exited { code: 0, results: Vec::new() });
}

#[tokio::test]
async fn an_exhausted_stack_is_a_trap_like_any_other_also_inside_of_a_host_call() {
    let (_supervisor, mut session) = started(GUEST).await;
    for round in 0..3 {
        assert_trap(&call(&mut session, "recurse", &[Value::I32(0)]).await, "call stack exhausted");
        assert_trap(&call(&mut session, "descend-and-write", &[Value::I32(0)]).await, "call stack exhausted");
        assert_eq!(call(&mut session, "bump", &[]).await, returned(41 + round));
    }
    let report = session.end().await.unwrap();
    assert_eq!(report.outcome, Outcome::Exited { code: 0, results: Vec::new() });
    assert!(report.usage.host_calls > 1000, "{:?}", report.usage);
}

#[tokio::test]
async fn exceptions_work_after_the_stack_was_exhausted_among_them() {
    let guest = r#"(module
      (tag $e (param i32))
      (func $throw (export "throw") (param i32) (result i32)
        (block $caught (result i32)
          (try_table (result i32) (catch $e $caught) (throw $e (local.get 0)))))
      (func $descend (export "descend") (param i32) (result i32)
        (drop (call $throw (local.get 0)))
        (i32.add (i32.const 1) (call $descend (i32.add (local.get 0) (i32.const 1)))))
      (func $pad (export "pad") (param i32 i64 i64 i64) (result i32)
        ;; Each step moves what follows a little down the stack.
        (if (result i32) (i32.eqz (local.get 0))
          (then (call $descend (i32.const 0)))
          (else (i32.add (i32.const 1) (call $pad (i32.sub (local.get 0) (i32.const 1)) (i64.const 1) (i64.const 2) (i64.const 3))))))
      (func (export "many") (param i32) (result i32) (local $sum i32)
        (loop $next
          (local.set $sum (i32.add (local.get $sum) (call $throw (i32.const 1))))
          (br_if $next (i32.lt_s (local.get $sum) (local.get 0))))
        (local.get $sum)))"#;
    let (_supervisor, mut session) = started(guest).await;
    for steps in 0..8 {
        let args = [Value::I32(steps), Value::I64(0), Value::I64(0), Value::I64(0)];
        assert_trap(&call(&mut session, "pad", &args).await, "call stack exhausted");
        // Enough to look for free slots several times.
        assert_eq!(call(&mut session, "many", &[Value::I32(20_000)]).await, returned(20_000));
    }
}

#[tokio::test]
async fn memory_is_read_and_written_within_its_bounds() {
    let (_supervisor, mut session) = started(GUEST).await;
    assert_eq!(session.memory_size("memory").await.unwrap(), 0x1_0000);
    assert_eq!(session.read_memory("memory", 15, 5).await.unwrap(), b"\0abc\0");
    session.write_memory(0, 0xfffc, b"abcd").await.unwrap();
    assert_eq!(call(&mut session, "load", &[Value::I32(0xfffc)]).await, returned(0x6463_6261));
    assert_eq!(session.read_memory(0, 0x1_0000, 0).await.unwrap(), b"");
    for (offset, length) in [(0xfffd, 4), (0x1_0000, 1), (u64::MAX, 1), (0, 0x1_0001), (u64::MAX - 1, 4)] {
        let read = session.read_memory("memory", offset, length).await.unwrap_err();
        assert!(matches!(read, Error::MemoryRange { size: 0x1_0000, .. }), "{read}");
        let write = session.write_memory("memory", offset, &vec![1; length]).await.unwrap_err();
        assert!(matches!(write, Error::MemoryRange { size: 0x1_0000, .. }), "{write}");
    }
    let error = session.read_memory(1, 0, 1).await.unwrap_err().to_string();
    assert!(error.contains("no memory number 1"), "{error}");
    let error = session.memory_size("count").await.unwrap_err().to_string();
    assert!(error.contains("no memory exported as \"count\""), "{error}");
    // What has grown is there.
    assert_eq!(call(&mut session, "grow", &[]).await, returned(1));
    assert_eq!(session.memory_size(0).await.unwrap(), 0x2_0000);
    session.write_memory("memory", 0x1_fffc, &[1, 0, 0, 0]).await.unwrap();
    assert_eq!(call(&mut session, "load", &[Value::I32(0x1_fffc)]).await, returned(1));
}

#[tokio::test]
async fn more_bytes_than_the_arena_holds_cross_in_parts() {
    let guest = r#"(module (memory (export "memory") 160))"#;
    let (_supervisor, mut session) = started(guest).await;
    let bytes: Vec<u8> =
        (0..160 * 0x1_0000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    session.write_memory("memory", 0, &bytes).await.unwrap();
    assert!(
        session.read_memory("memory", 0, bytes.len()).await.unwrap() == bytes,
        "the same bytes come back"
    );
    assert_eq!(session.read_memory(0, 5_000_000, 3).await.unwrap(), bytes[5_000_000..5_000_003]);
}

#[tokio::test]
async fn globals_are_read_and_written_by_their_types() {
    let (_supervisor, mut session) = started(GUEST).await;
    assert_eq!(session.global("pi").await.unwrap(), Value::F64(3.25f64.to_bits()));
    assert_eq!(session.global("count").await.unwrap(), Value::I32(40));
    assert_eq!(session.global("vector").await.unwrap(), Value::V128(2 << 64 | 1));
    session.set_global("count", Value::I32(-7)).await.unwrap();
    session.set_global("vector", Value::V128(u128::MAX - 5)).await.unwrap();
    assert_eq!(call(&mut session, "bump", &[]).await, returned(-6));
    assert_eq!(session.global("vector").await.unwrap(), Value::V128(u128::MAX - 5));
    let error = session.set_global("pi", Value::F64(0)).await.unwrap_err().to_string();
    assert!(error.contains("\"pi\" is immutable"), "{error}");
    let error = session.set_global("count", Value::I64(0)).await.unwrap_err().to_string();
    assert!(error.contains("takes a value of type i32"), "{error}");
    let error = session.global("memory").await.unwrap_err().to_string();
    assert!(error.contains("no global \"memory\""), "{error}");
}

#[tokio::test]
async fn the_start_function_runs_first_and_may_trap() {
    let guest = r#"(module
      (global $g (export "g") (mut i32) (i32.const 1))
      (func $start (global.set $g (i32.const 2)))
      (func (export "f") (result i32) (global.get $g))
      (start $start))"#;
    let (supervisor, job) = job(guest).await;
    let mut session = supervisor.session(job).await.unwrap();
    assert_eq!(session.global("g").await.unwrap(), Value::I32(1));
    let error = session.call("f", &[]).await.unwrap_err().to_string();
    assert_eq!(error, "cannot call a function before the session is started");
    assert_eq!(session.start().await.unwrap(), CallOutcome::Returned(Vec::new()));
    assert_eq!(call(&mut session, "f", &[]).await, returned(2));
    let error = session.start().await.unwrap_err().to_string();
    assert_eq!(error, "cannot start a session a second time");

    let trapping = [
        (
            r#"(module (global (export "g") (mut i32) (i32.const 3)) (func $s unreachable) (start $s) (func (export "f")))"#,
            "wasm `unreachable` instruction executed",
        ),
        (
            r#"(module (global (export "g") (mut i32) (i32.const 3)) (memory 1) (data (i32.const 65536) "a") (func (export "f")))"#,
            "out of bounds memory access",
        ),
    ];
    for (guest, message) in trapping {
        let (supervisor, job) = self::job(guest).await;
        let mut session = supervisor.session(job).await.unwrap();
        assert_trap(&session.start().await.unwrap(), message);
        let error = session.call("f", &[]).await.unwrap_err().to_string();
        assert_eq!(error, "cannot call a function of a module whose start trapped");
        assert_eq!(session.global("g").await.unwrap(), Value::I32(3));
        assert_eq!(session.end().await.unwrap().outcome, Outcome::Exited { code: 0, results: Vec::new() });
    }
}

/// The session is over by `outcome`, and every further use says so.
async fn assert_over(mut session: Session, outcome: &Outcome) -> Report {
    assert_eq!(call(&mut session, "bump", &[]).await, CallOutcome::Ended(outcome.clone()));
    let error = session.read_memory("memory", 0, 1).await.unwrap_err();
    assert!(matches!(&error, Error::SessionEnded { outcome: o } if **o == *outcome), "{error}");
    let report = session.end().await.unwrap();
    assert_eq!(report.outcome, *outcome);
    report
}

#[tokio::test]
async fn an_exit_ends_the_session() {
    let (_supervisor, mut session) = started(GUEST).await;
    assert_eq!(call(&mut session, "bump", &[]).await, returned(41));
    let outcome = Outcome::Exited { code: 37, results: Vec::new() };
    assert_eq!(call(&mut session, "exit", &[]).await, CallOutcome::Ended(outcome.clone()));
    assert_over(session, &outcome).await;
}

#[tokio::test]
async fn a_session_that_is_over_says_so_every_time() {
    let outcome = Outcome::Exited { code: 37, results: Vec::new() };
    let (supervisor, mut session) = started(GUEST).await;
    assert_eq!(call(&mut session, "exit", &[]).await, CallOutcome::Ended(outcome.clone()));
    for _ in 0..3 {
        assert_eq!(call(&mut session, "bump", &[]).await, CallOutcome::Ended(outcome.clone()));
        for error in [
            session.memory_size("memory").await.unwrap_err(),
            session.write_memory("memory", 0, b"x").await.unwrap_err(),
            session.global("count").await.unwrap_err(),
            session.set_global("count", Value::I32(1)).await.unwrap_err(),
        ] {
            assert!(matches!(&error, Error::SessionEnded { outcome: o } if **o == outcome), "{error}");
            assert!(error.to_string().contains("session"), "{error}");
        }
        // What the instance is not needed for is still known.
        assert_eq!(session.global("pi").await.unwrap(), Value::F64(3.25f64.to_bits()));
    }

    // The supervisor goes away: no report ever comes, and no call waits for one.
    let mut session = sessions::started(&supervisor, sessions::job(&supervisor, GUEST).await).await;
    drop(supervisor);
    for _ in 0..3 {
        match session.call("bump", &[]).await {
            Err(Error::Stopped) | Ok(CallOutcome::Ended(Outcome::Cancelled)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        session.end().await,
        Err(Error::Stopped) | Ok(Report { outcome: Outcome::Cancelled, .. })
    ));
}

#[tokio::test]
async fn time_limits_of_a_call_and_of_the_session_end_it() {
    let (supervisor, mut session) = started(GUEST).await;
    let limit = Duration::from_secs(1);
    // A call that is fast enough has no consequence, and its time is not counted on.
    assert_eq!(session.call_within("bump", &[], Some(limit)).await.unwrap(), returned(41));
    let outcome =
        Outcome::LimitReached(LimitReached { limit: Limit::WallTime, value: limit.as_nanos() as u64 });
    // As much time goes by as it takes a later call to reach the same limit.
    let mut other = sessions::started(&supervisor, sessions::job(&supervisor, GUEST).await).await;
    let ended = other.call_within("spin", &[], Some(limit)).await.unwrap();
    assert_eq!(ended, CallOutcome::Ended(outcome.clone()));
    assert_eq!(call(&mut session, "bump", &[]).await, returned(42));
    let ended = session.call_within("spin", &[], Some(limit)).await.unwrap();
    assert_eq!(ended, CallOutcome::Ended(outcome.clone()));
    assert_over(session, &outcome).await;

    let mut job = sessions::job(&supervisor, GUEST).await;
    job.limits.wall_time = Some(limit);
    let mut session = supervisor.session(job).await.unwrap();
    session.start().await.unwrap();
    assert_eq!(call(&mut session, "spin", &[]).await, CallOutcome::Ended(outcome.clone()));
    assert_over(session, &outcome).await;
}

#[tokio::test]
async fn dropping_a_call_cancels_the_session() {
    let (_supervisor, mut session) = started(GUEST).await;
    let spin = session.call("spin", &[]);
    assert!(tokio::time::timeout(Duration::from_millis(100), spin).await.is_err());
    assert_over(session, &Outcome::Cancelled).await;
}

#[tokio::test]
async fn memory_beyond_the_limit_is_a_limit_before_and_during_the_session() {
    let (supervisor, mut job) = job(GUEST).await;
    job.limits.memory = Some(0x2_0000);
    let mut session = supervisor.session(job).await.unwrap();
    session.start().await.unwrap();
    assert_eq!(call(&mut session, "grow", &[]).await, returned(1));
    assert_eq!(call(&mut session, "grow", &[]).await, returned(-1));
    assert_eq!(session.end().await.unwrap().usage.refused_grows, 1);

    let (supervisor, mut job) = self::job(GUEST).await;
    job.limits.memory = Some(0x8000);
    let mut session = supervisor.session(job).await.unwrap();
    let outcome = Outcome::LimitReached(LimitReached { limit: Limit::Memory, value: 0x8000 });
    assert_eq!(session.start().await.unwrap(), CallOutcome::Ended(outcome.clone()));
    assert_eq!(session.end().await.unwrap().outcome, outcome);
}

#[tokio::test]
async fn errors_before_there_is_an_instance_come_from_opening_the_session() {
    let (supervisor, mut job) = job(GUEST).await;
    let policy =
        Policy::parse("version = 1\nextends = \"default\"\n[host_calls]\nallow = []\n", "t.toml").unwrap();
    job.policy = Arc::new(policy);
    let error = supervisor.session(job).await.unwrap_err().to_string();
    assert!(error.contains("does not grant"), "{error}");
}

#[tokio::test]
async fn a_refused_system_call_ends_the_session_as_a_violation_also_after_traps() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    let mut session = attacker.session().await;
    let peeked = weapon(&mut session, "peek", &[CODE_BASE]).await;
    assert!(matches!(peeked, CallOutcome::Returned(_)), "{peeked:?}");
    match weapon(&mut session, "syscall", &[libc::SYS_getpid as u64]).await {
        CallOutcome::Ended(Outcome::Violated(Violation::Syscall { name, .. })) => assert_eq!(name, "getpid"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(session.end().await.unwrap().outcome, Outcome::Violated(Violation::Syscall { .. })));
    // In particular no signal mask can be changed, and no signal frame be used, to resume anything.
    for number in [libc::SYS_rt_sigreturn, libc::SYS_rt_sigprocmask, libc::SYS_sigaltstack] {
        let mut session = attacker.session().await;
        let outcome = weapon(&mut session, "syscall", &[number as u64]).await;
        assert!(
            matches!(outcome, CallOutcome::Ended(Outcome::Violated(Violation::Syscall { number: n, .. })) if n == number as u64),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_fault_that_is_no_trap_ends_the_session_as_a_violation() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    // Inside of guest code, where the shim would go on; outside of it; and with no way to a mapped instruction.
    for (name, args) in [
        ("poke", [GATE_PAGE, 1]),
        ("poke", [CODE_BASE, 1]),
        ("poke", [MEMORY_BASE + 0x2_0000, 1]),
        ("peek", [8, 0]),
        ("jump", [MEMORY_BASE, 0]),
        ("jump", [GATE_PAGE, 0]),
        ("jump", [8, 0]),
    ] {
        let mut session = attacker.session().await;
        let outcome = weapon(&mut session, name, &args[..if name == "poke" { 2 } else { 1 }]).await;
        assert!(
            matches!(outcome, CallOutcome::Ended(Outcome::Violated(Violation::Fault { .. }))),
            "{name} {args:x?}: {outcome:?}"
        );
        let report = session.end().await.unwrap();
        assert!(matches!(report.outcome, Outcome::Violated(Violation::Fault { .. })), "{report:?}");
    }
}

#[tokio::test]
async fn a_fault_of_the_shim_itself_ends_the_session_as_a_violation() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    for target in [CODE_BASE, GATE_PAGE, MEMORY_BASE + 0x1_0000] {
        let mut session = attacker.session().await;
        // The shim's own copy function, called as compiled code would never call it.
        let copy = ipc::context::BUILTINS + offset_of!(Builtins, copy) as u64;
        let CallOutcome::Returned(copy) = weapon(&mut session, "peek", &[copy]).await else {
            panic!("the address of a builtin is there for compiled code");
        };
        let [Value::I64(copy)] = copy[..] else { panic!("{copy:?}") };
        let works = weapon(&mut session, "call", &[copy as u64, MEMORY_BASE, CODE_BASE, 8]).await;
        assert!(matches!(works, CallOutcome::Returned(_)), "{works:?}");
        let outcome = weapon(&mut session, "call", &[copy as u64, target, CODE_BASE, 8]).await;
        assert!(
            matches!(outcome, CallOutcome::Ended(Outcome::Violated(Violation::Fault { address, .. })) if address == target),
            "{target:#x}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_memory_has_no_more_than_its_maximum_and_the_limit_whatever_the_instance_says() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    let lie = ipc::context::COMPILER_BASE + offset_of!(MemoryDescriptor, bytes) as u64;
    let (one, two) = (0x1_0000, 0x2_0000);
    for (limit, size) in [(None, two), (Some(one), one), (Some(one + 1), one + 1), (Some(1 << 40), two)] {
        let mut session = attacker.session_within(JobLimits { memory: limit, ..JobLimits::default() }).await;
        assert_eq!(session.memory_size(0).await.unwrap(), one);
        let poked = weapon(&mut session, "poke", &[lie, u64::MAX]).await;
        assert!(matches!(poked, CallOutcome::Returned(_)), "{poked:?}");
        assert_eq!(session.memory_size(0).await.unwrap(), size, "{limit:?}");
        let refused = session.read_memory(0, size, 1).await.unwrap_err();
        assert!(matches!(refused, Error::MemoryRange { size: s, .. } if s == size), "{refused}");
        assert_eq!(session.read_memory(0, one - 1, 1).await.unwrap(), [0]);
    }
}

const SUBMISSION_TAIL: u64 = RING_BASE + INDICES_OFFSET as u64 + offset_of!(Indices, submission_tail) as u64;
const COMPLETION_HEAD: u64 = RING_BASE + INDICES_OFFSET as u64 + offset_of!(Indices, completion_head) as u64;

/// Address of a field of a submission slot.
fn slot(index: u64, field: usize) -> u64 {
    RING_BASE + SUBMISSIONS_OFFSET as u64 + index * size_of::<Submission>() as u64 + field as u64
}

#[tokio::test]
async fn replies_that_fit_no_command_are_violations() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    for status in [0u64, 3, 4, 1 << 32 | 1, u64::MAX] {
        let mut session = attacker.session().await;
        // Slot 0 held the first reply, slot 1 holds that to this call.
        let poked = weapon(&mut session, "poke", &[slot(2, offset_of!(Submission, args)), status]).await;
        assert!(matches!(poked, CallOutcome::Returned(_)), "{poked:?}");
        let forged = [slot(2, 0), u64::from(REPLY), SUBMISSION_TAIL, 3];
        match weapon(&mut session, "forge-submission", &forged).await {
            CallOutcome::Ended(Outcome::Violated(Violation::Ring { rule })) => {
                assert!(rule.contains(&format!("status {status}")), "{rule}");
            }
            other => panic!("status {status}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn forged_replies_and_indices_hurt_only_the_session_that_forges_them() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    // A forged "returned" is believed, as it says nothing about anybody else; but the instance, which spins, does not do
    // what it is asked for next.
    let mut session = attacker.session().await;
    weapon(&mut session, "poke", &[slot(2, offset_of!(Submission, args)), 1]).await;
    let forged = [slot(2, 0), u64::from(REPLY), SUBMISSION_TAIL, 3];
    let outcome = weapon(&mut session, "forge-submission", &forged).await;
    assert!(matches!(outcome, CallOutcome::Returned(_)), "{outcome:?}");
    let end = session.call_within("peek", &[Value::I64(0)], Some(Duration::from_millis(200))).await.unwrap();
    assert!(matches!(end, CallOutcome::Ended(Outcome::LimitReached(_))), "{end:?}");

    // A further reply that lies in wait answers the command to end, which has no answer.
    let mut session = attacker.session().await;
    weapon(&mut session, "poke", &[slot(4, offset_of!(Submission, args)), 1]).await;
    weapon(&mut session, "poke", &[slot(5, offset_of!(Submission, args)), 1]).await;
    weapon(&mut session, "poke", &[slot(5, 0), u64::from(REPLY)]).await;
    let forged = [slot(4, 0), u64::from(REPLY), SUBMISSION_TAIL, 6];
    let outcome = weapon(&mut session, "forge-submission", &forged).await;
    assert!(matches!(outcome, CallOutcome::Returned(_)), "{outcome:?}");
    match session.end().await.unwrap().outcome {
        Outcome::Violated(Violation::Ring { rule }) => assert!(rule.contains("status 1"), "{rule}"),
        other => panic!("{other:?}"),
    }

    // Indices that jump.
    for tail in [70u64, 1000, u64::from(u32::MAX)] {
        let mut session = attacker.session().await;
        let forged = [slot(2, 0), u64::from(REPLY), SUBMISSION_TAIL, tail];
        match weapon(&mut session, "forge-submission", &forged).await {
            CallOutcome::Ended(Outcome::Violated(Violation::Ring { rule })) => {
                assert!(rule.contains("more than 64 in flight"), "{rule}");
            }
            other => panic!("tail {tail}: {other:?}"),
        }
    }
    // An index of its own: it takes commands from slots that nobody wrote, and ends by what it finds there, unless the
    // supervisor sees the index first. Either way it has only harmed itself.
    let mut session = attacker.session().await;
    let assert_ended = |outcome: &CallOutcome| match outcome {
        CallOutcome::Ended(Outcome::Violated(Violation::Ring { rule })) => {
            // It may have taken one more by then.
            assert!(
                rule.contains("completion index 100") && rule.contains("more taken than given"),
                "{rule}"
            );
        }
        CallOutcome::Ended(Outcome::Exited { code: 0, .. }) => {}
        other => panic!("{other:?}"),
    };
    match weapon(&mut session, "poke", &[COMPLETION_HEAD, 1000]).await {
        // The reply to the poke is served before the index is looked at.
        CallOutcome::Returned(_) => assert_ended(&weapon(&mut session, "peek", &[CODE_BASE]).await),
        ended => assert_ended(&ended),
    }
    // A fault that the instance makes up, with counts beyond every array.
    let mut session = attacker.session().await;
    let record = RING_BASE + EXIT_OFFSET as u64;
    weapon(&mut session, "poke", &[record + offset_of!(ExitRecord, backtrace_len) as u64, u64::MAX]).await;
    weapon(&mut session, "poke", &[record + offset_of!(ExitRecord, pc) as u64, u64::MAX]).await;
    weapon(&mut session, "poke", &[slot(4, offset_of!(Submission, args)), 2]).await;
    let forged = [slot(4, 0), u64::from(REPLY), SUBMISSION_TAIL, 5];
    let outcome = weapon(&mut session, "forge-submission", &forged).await;
    assert!(matches!(outcome, CallOutcome::Ended(Outcome::Violated(Violation::Fault { .. }))), "{outcome:?}");
    // Nobody else noticed.
    assert!(attacker.answer("peek", &[RING_BASE]).await.is_some());
}

#[tokio::test]
async fn a_job_has_no_replies() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    let forged = [slot(0, 0), u64::from(REPLY), SUBMISSION_TAIL, 1];
    match attacker.attack("forge-submission", &forged).await.outcome {
        Outcome::Violated(Violation::Ring { rule }) => assert!(rule.contains("unknown function"), "{rule}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn sessions_live_side_by_side_and_with_jobs() {
    let (supervisor, mut first) = started(GUEST).await;
    let mut second = sessions::started(&supervisor, sessions::job(&supervisor, GUEST).await).await;
    for expected in 41..45 {
        assert_eq!(call(&mut first, "bump", &[]).await, returned(expected));
        assert_eq!(call(&mut second, "bump", &[]).await, returned(expected));
    }
    drop(second);
    assert_eq!(call(&mut first, "bump", &[]).await, returned(45));
    assert_eq!(first.end().await.unwrap().outcome, Outcome::Exited { code: 0, results: Vec::new() });
}
