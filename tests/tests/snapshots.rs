//! Snapshots: instances that begin where an initialisation has ended, and instances that lie about it.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use compiler::metadata::Asked;
use compiler::{Artifact, RawModule};
use ipc::context::COMPILER_BASE;
use ipc::layout::{CODE_BASE, CONTEXT_BASE, MEMORY_BASE, WASM_PAGE};
use ipc::report::{Outcome, Report, Value};
use policies::Policy;
use supervisor::{
    Config, Entry, Error, Extern, Imports, Job, Module, ModuleSource, Observed, Preopen, Supervisor,
};
use whole_system_tests::sessions::{assert_trap, call, default_policy, job, returned, started};
use whole_system_tests::{Scratch, run};

const GUEST: &str = r#"(module
  (memory (export "memory") 1 400)
  (global $count (mut i32) (i32.const 1))
  (global $wide (mut v128) (v128.const i64x2 0 0))
  (global $float (mut f64) (f64.const 0))
  (global $function (mut funcref) (ref.null func))
  (type $int (func (result i32)))
  (table $t 2 10 funcref)
  (elem $functions func $seven $eight)
  (data $kept "kept")
  (data $dropped "gone")
  (start $begin)
  (func $begin (global.set $count (i32.add (global.get $count) (i32.const 1))))
  (func (export "_initialize") (global.set $count (i32.mul (global.get $count) (i32.const 10))))
  (func $seven (result i32) (i32.const 7))
  (func $eight (result i32) (i32.const 8))
  (func (export "init")
    (global.set $count (i32.add (global.get $count) (i32.const 3)))
    (global.set $wide (v128.const i64x2 11 22))
    (global.set $float (f64.const 2.5))
    (global.set $function (ref.func $eight))
    (drop (memory.grow (i32.const 300)))
    (i32.store (i32.const 40) (i32.const 99))
    (i32.store (i32.const 19000000) (i32.const 98))
    (drop (table.grow $t (ref.func $eight) (i32.const 3)))
    (table.set $t (i32.const 1) (ref.func $seven))
    (data.drop $dropped)
    (elem.drop $functions))
  (func (export "again") (global.set $count (i32.add (global.get $count) (i32.const 100))))
  (func (export "results") (result i32) (i32.const 1))
  (func (export "trap") (unreachable))
  (func (export "count") (result i32) (global.get $count))
  (func (export "wide") (result v128) (global.get $wide))
  (func (export "float") (result f64) (global.get $float))
  (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "pages") (result i32) (memory.size))
  (func (export "grow") (result i32) (memory.grow (i32.const 1)))
  (func (export "entries") (result i32) (table.size $t))
  (func (export "indirect") (param i32) (result i32) (call_indirect (type $int) (local.get 0)))
  (func (export "through-global") (result i32)
    (table.set $t (i32.const 0) (global.get $function))
    (call_indirect (type $int) (i32.const 0)))
  (func (export "copy-kept") (memory.init $kept (i32.const 0) (i32.const 0) (i32.const 4)))
  (func (export "copy-dropped") (memory.init $dropped (i32.const 0) (i32.const 0) (i32.const 4)))
  (func (export "copy-functions") (table.init $t $functions (i32.const 0) (i32.const 0) (i32.const 2))))"#;

fn supervisor() -> Supervisor {
    Supervisor::start(Config::default()).expect("a supervisor")
}

async fn snapshot(supervisor: &Supervisor, guest: &str, init: &str) -> Result<Module, Error> {
    supervisor.snapshot(job(supervisor, guest).await, init).await
}

/// The module that anybody would load from the snapshot's bytes.
async fn reloaded(supervisor: &Supervisor, snapshot: &Module) -> Module {
    let bytes = snapshot.artifact_bytes().to_vec();
    supervisor.load(ModuleSource::Artifact(bytes)).await.expect("a snapshot loads like any artifact")
}

async fn run_export(supervisor: &Supervisor, module: &Module, name: &str) -> Report {
    let mut job = Job::command(module.clone(), default_policy());
    job.entry = Entry::Export { name: name.to_owned(), args: Vec::new() };
    supervisor.run(job).await.expect("a report")
}

#[tokio::test]
async fn instances_of_a_snapshot_begin_where_the_initialisation_ended() {
    let supervisor = supervisor();
    let made = snapshot(&supervisor, GUEST, "init").await.expect("a snapshot");
    let module = reloaded(&supervisor, &made).await;
    // Twice: what one instance does is not the next one's beginning.
    for _ in 0..2 {
        let mut session = started(&supervisor, Job::command(module.clone(), default_policy())).await;
        // (1 + 1) * 10 + 3: start function, `_initialize`, `init`, each once.
        assert_eq!(call(&mut session, "count", &[]).await, returned(23));
        let wide = Value::V128(22 << 64 | 11);
        assert_eq!(call(&mut session, "wide", &[]).await, supervisor::CallOutcome::Returned(vec![wide]));
        let float = Value::F64(2.5f64.to_bits());
        assert_eq!(call(&mut session, "float", &[]).await, supervisor::CallOutcome::Returned(vec![float]));
        for (address, value) in [(40, 99), (19_000_000, 98), (18_000_000, 0), (301 * 65536 - 4, 0)] {
            assert_eq!(
                call(&mut session, "load", &[Value::I32(address)]).await,
                returned(value),
                "{address}"
            );
        }
        assert_trap(
            &call(&mut session, "load", &[Value::I32(301 * 65536)]).await,
            "out of bounds memory access",
        );
        assert_eq!(call(&mut session, "pages", &[]).await, returned(301));
        assert_eq!(call(&mut session, "grow", &[]).await, returned(301));
        assert_eq!(call(&mut session, "pages", &[]).await, returned(302));
        assert_eq!(call(&mut session, "entries", &[]).await, returned(5));
        for (entry, value) in [(1, 7), (2, 8), (4, 8)] {
            assert_eq!(call(&mut session, "indirect", &[Value::I32(entry)]).await, returned(value));
        }
        assert_trap(&call(&mut session, "indirect", &[Value::I32(0)]).await, "uninitialized element");
        assert_eq!(call(&mut session, "through-global", &[]).await, returned(8));
        assert_eq!(call(&mut session, "copy-kept", &[]).await, supervisor::CallOutcome::Returned(Vec::new()));
        assert_eq!(
            call(&mut session, "load", &[Value::I32(0)]).await,
            returned(i32::from_le_bytes(*b"kept"))
        );
        assert_trap(&call(&mut session, "copy-dropped", &[]).await, "out of bounds memory access");
        assert_trap(
            &call(&mut session, "copy-functions", &[]).await,
            "undefined element: out of bounds table access",
        );
    }
    // As a job too.
    let report = run_export(&supervisor, &module, "count").await;
    assert_eq!(report.outcome, Outcome::Exited { code: 0, results: vec![Value::I32(23)] });
}

#[tokio::test]
async fn a_snapshot_of_a_snapshot_goes_on_and_says_so() {
    let supervisor = supervisor();
    let first = snapshot(&supervisor, GUEST, "init").await.expect("a snapshot");
    let second = supervisor.snapshot(Job::command(first, default_policy()), "again").await.expect("another");
    let report = run_export(&supervisor, &second, "count").await;
    assert_eq!(report.outcome, Outcome::Exited { code: 0, results: vec![Value::I32(123)] });
    let history = second.snapshot().expect("it says that it is one");
    assert_eq!(history.inits, ["init", "again"]);
    assert!(history.is_pure());
}

#[tokio::test]
async fn the_same_inputs_give_the_same_bytes_and_empty_pages_are_not_stored() {
    let (one, other) = (supervisor(), supervisor());
    let first = snapshot(&one, GUEST, "init").await.expect("a snapshot");
    let second = snapshot(&other, GUEST, "init").await.expect("a snapshot");
    assert!(first.artifact_bytes() == second.artifact_bytes(), "the same bytes");
    // Nineteen megabytes of memory, two pages of it used.
    assert!(first.artifact_bytes().len() < 200_000, "{} bytes", first.artifact_bytes().len());
}

/// Every way in which there is no snapshot says why.
#[tokio::test]
async fn what_cannot_be_a_snapshot_is_refused_by_name() {
    let supervisor = supervisor();
    let refused = async |guest: &str, init: &str, needles: &[&str]| {
        let error = snapshot(&supervisor, guest, init).await.expect_err(init).to_string();
        for needle in needles {
            assert!(error.contains(needle), "{needle:?} in {error}");
        }
    };
    refused(GUEST, "nothing", &["nothing"]).await;
    refused(GUEST, "load", &["load"]).await;
    refused(GUEST, "results", &["results"]).await;
    refused(GUEST, "trap", &["\"trap\" trapped", "unreachable"]).await;
    let exits = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (func (export "init") (call $exit (i32.const 3))))"#;
    refused(exits, "init", &["exit code 3", "must return"]).await;
    let starts = r#"(module (func $start (unreachable)) (start $start) (func (export "init")))"#;
    refused(starts, "init", &["trapped"]).await;
    let exception = r#"(module (tag $t) (global $kept (mut exnref) (ref.null exn))
        (func (export "init")
          (global.set $kept (block $caught (result exnref) (try_table (catch_all_ref $caught) (throw $t)) (unreachable)))))"#;
    refused(exception, "init", &["global 0", "an exception", "clear it"]).await;
    let in_table = r#"(module (tag $t) (table $kept 2 exnref)
        (func (export "init")
          (table.set $kept (i32.const 1)
            (block $caught (result exnref) (try_table (catch_all_ref $caught) (throw $t)) (unreachable)))))"#;
    refused(in_table, "init", &["entry 1 of table 0", "an exception"]).await;
}

#[tokio::test]
async fn what_the_host_app_gives_to_each_instance_is_not_kept() {
    let supervisor = supervisor();
    let guest = r#"(module (import "host" "counter" (global (mut i32))) (func (export "init")))"#;
    let options = compiler::Options { open_imports: true, ..supervisor.compile_options() };
    let module = supervisor.load_with(ModuleSource::Wasm(guest.into()), options).await.expect("loads");
    let mut imports = Imports::default();
    imports.define("host", "counter", Extern::Global { value: Value::I32(1), mutable: true });
    let job = Job { imports, ..Job::command(module, default_policy()) };
    let error = supervisor.snapshot(job, "init").await.expect_err("no snapshot").to_string();
    assert!(error.contains("global host.counter"), "{error}");
}

const ASKING: &str = r#"(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "nothing") (drop (call $args (i32.const 0) (i32.const 4))))
  (func (export "ask-time") (drop (call $time (i32.const 0) (i64.const 0) (i32.const 0))))
  (func (export "ask-random") (drop (call $random (i32.const 0) (i32.const 8))))
  (func (export "ask-input") (drop (call $read (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 32))))
  (func (export "old") (result i64) (i64.load (i32.const 0)))
  (func (export "args") (result i32)
    (drop (call $args (i32.const 0) (i32.const 4)))
    (i32.load (i32.const 0)))
  (func (export "fresh") (result i64)
    (drop (call $random (i32.const 8) (i32.const 8)))
    (i64.load (i32.const 8))))"#;

#[tokio::test]
async fn a_snapshot_says_whether_it_is_pure() {
    let supervisor = supervisor();
    for (init, asked, pure) in [
        ("nothing", &[][..], true),
        ("ask-input", &[Asked::Files], true),
        ("ask-time", &[Asked::Time], false),
        ("ask-random", &[Asked::Random], false),
    ] {
        let made = snapshot(&supervisor, ASKING, init).await.expect("a snapshot");
        let history = made.snapshot().expect("it says that it is one");
        assert_eq!((&history.asked[..], history.is_pure()), (asked, pure), "{init}");
    }
}

#[tokio::test]
async fn random_bytes_and_arguments_are_those_of_each_instance() {
    let supervisor = supervisor();
    let mut initialisation = job(&supervisor, ASKING).await;
    initialisation.args = vec![b"init".to_vec()];
    let made = supervisor.snapshot(initialisation, "ask-random").await.expect("a snapshot");
    let value = async |export: &str| {
        let mut job = Job::command(made.clone(), default_policy());
        job.args = vec![b"one".to_vec(), b"two".to_vec(), b"three".to_vec()];
        job.entry = Entry::Export { name: export.to_owned(), args: Vec::new() };
        match supervisor.run(job).await.expect("a report").outcome {
            Outcome::Exited { results, .. } => results[0],
            other => panic!("{export}: {other:?}"),
        }
    };
    // What the guest itself keeps of the initialisation's random bytes is the same in every instance: that is the caveat.
    let old = value("old").await;
    assert_ne!(old, Value::I64(0));
    assert_eq!(value("old").await, old);
    // What it asks for is not.
    let (first, second) = (value("fresh").await, value("fresh").await);
    assert!(first != second && first != old && second != old, "{first:?} {second:?} {old:?}");
    assert_eq!(value("args").await, Value::I32(3));
}

#[tokio::test]
async fn open_files_are_refused_and_closed_ones_are_not() {
    let scratch = Scratch::new();
    scratch.write("file", "contents");
    let supervisor = supervisor();
    let guest = r#"(module
      (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 16) "file")
      (func $leave (export "leave-open")
        (if (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 4) (i32.const 0) (i64.const 2) (i64.const 0)
                        (i32.const 0) (i32.const 32))
          (then (unreachable))))
      (func (export "close-it") (call $leave) (if (call $close (i32.load (i32.const 32))) (then (unreachable))))
      (func (export "close-input") (if (call $close (i32.const 0)) (then (unreachable)))))"#;
    let made = async |init: &str| {
        let mut job = job(&supervisor, guest).await;
        let directory = File::open(scratch.path()).expect("the directory").into();
        job.preopens = vec![Preopen { directory, guest_path: String::from("/"), read_only: true }];
        supervisor.snapshot(job, init).await
    };
    let message = |result: Result<Module, Error>| result.expect_err("no snapshot").to_string();
    assert!(message(made("leave-open").await).contains("descriptors 4 are not what they were"));
    assert!(message(made("close-input").await).contains("descriptors 0 are not what they were"));
    assert_eq!(made("close-it").await.expect("a snapshot").snapshot().expect("one").asked, [Asked::Files]);
}

/// Machine code of an initialisation that writes words anywhere in its process.
fn writes(words: &[(u64, u64)]) -> Vec<u8> {
    let mut code = Vec::new();
    for (address, value) in words {
        code.extend([0x48, 0xb8]); // mov rax, address
        code.extend(address.to_le_bytes());
        code.extend([0x48, 0xb9]); // mov rcx, value
        code.extend(value.to_le_bytes());
        code.extend([0x48, 0x89, 0x08]); // mov [rax], rcx
    }
    code.push(0xc3); // ret
    code
}

async fn attacker(supervisor: &Supervisor, words: &[(u64, u64)]) -> Result<Module, Error> {
    let raw = RawModule {
        code: writes(words),
        functions: vec![("init".to_owned(), 0, 0, 0)],
        memory_pages: 1,
        memory_max_pages: 2,
        table_entries: 4,
        imports: Vec::new(),
    };
    let artifact = raw.build().expect("the attacker's artifact");
    let module = supervisor.load(ModuleSource::Artifact(artifact)).await.expect("loads");
    supervisor.snapshot(Job::command(module, default_policy()), "init").await
}

/// Bytes that are mapped, by the address, of an artifact's writable segments.
fn context_of(module: &Module) -> Vec<u8> {
    let summary = Artifact::parse(module.artifact_bytes()).expect("sound").summary().expect("a summary");
    let segment = summary.segments.iter().find(|s| s.address == CONTEXT_BASE).expect("a context");
    let before = summary.segments.iter().take_while(|s| s.address != CONTEXT_BASE);
    // Contents follow the headers, in the order of the segments, from the second page on.
    let start = 4096 + before.map(|s| s.file_bytes).sum::<u64>() as usize;
    module.artifact_bytes()[start..start + segment.file_bytes as usize].to_vec()
}

#[tokio::test]
async fn a_hostile_instance_gets_an_error_or_only_its_own_wrong_state() {
    let supervisor = supervisor();
    let memory_bytes = COMPILER_BASE + 8;
    let table_size = RawModule::TABLE + 8;
    for (words, needle) in [
        (vec![(memory_bytes, WASM_PAGE + 1)], "memory 0"),
        (vec![(memory_bytes, 0)], "memory 0"),
        (vec![(memory_bytes, 3 * WASM_PAGE)], "memory 0"),
        (vec![(memory_bytes, u64::MAX)], "memory 0"),
        (vec![(memory_bytes, u64::MAX - WASM_PAGE + 1)], "memory 0"),
        (vec![(table_size, u64::MAX)], "table 0"),
        (vec![(table_size, 3)], "table 0"),
        (vec![(table_size, 1 << 60)], "table 0"),
        // Code of its choice as a function, with any number.
        (vec![(RawModule::ENTRIES, CODE_BASE)], "entry 0 of table 0 is no function"),
        (
            vec![(RawModule::ENTRIES + 16, CODE_BASE), (RawModule::ENTRIES + 24, 1 << 32)],
            "entry 1 of table 0",
        ),
        (vec![(RawModule::ENTRIES + 56, u64::MAX)], "entry 3 of table 0"),
        (vec![(RawModule::FUNCTION_GLOBAL, 1)], "global 0 is no function"),
        (vec![(RawModule::FUNCTION_GLOBAL, u64::MAX)], "global 0 is no function"),
        (vec![(RawModule::HOST_GLOBAL, 1)], "global 1 refers to something of the host's"),
    ] {
        let error = attacker(&supervisor, &words).await.expect_err(needle).to_string();
        assert!(error.contains(needle), "{words:x?}: {error}");
    }

    // Everything native that an instance holds, overwritten: the snapshot is the same as without that, but for the memory.
    let honest = attacker(&supervisor, &[(MEMORY_BASE + 64, 5)]).await.expect("a snapshot");
    let garbage = 0x4141_4141_4141_4141;
    let mut words: Vec<(u64, u64)> = (0..8).map(|i| (CONTEXT_BASE + 8 * i, garbage)).collect();
    // Base, maximum and the reserved word of both descriptors; totals, limits, fuel; beyond everything that is declared.
    words.extend([0, 16, 24].map(|at| (COMPILER_BASE + at, garbage)));
    words.extend([0, 16, 24].map(|at| (RawModule::TABLE + at, garbage)));
    words.extend([0x80, 0x88, 0x90, 0x98, 0x700].map(|at| (CONTEXT_BASE + at, garbage)));
    words.push((MEMORY_BASE + 64, 5));
    let hostile = attacker(&supervisor, &words).await.expect("a snapshot");
    assert_ne!(hostile.artifact_bytes(), honest.artifact_bytes(), "the codes differ");
    assert_eq!(context_of(&hostile), context_of(&honest));
    assert!(!hostile.artifact_bytes().windows(16).any(|bytes| bytes == [0x41; 16]), "no garbage is kept");
}

/// A limit of the policy ends the initialisation as it ends a job.
#[tokio::test]
async fn the_initialisation_is_confined_like_a_job() {
    let supervisor = supervisor();
    let guest = r#"(module (func (export "init") (loop (br 0))))"#;
    let mut spinning = job(&supervisor, guest).await;
    spinning.limits.wall_time = Some(Duration::from_millis(50));
    let error = supervisor.snapshot(spinning, "init").await.expect_err("it does not end").to_string();
    assert!(error.contains("LimitReached"), "{error}");
}

/// A policy that initialises the module, and what instances of three jobs and a session then find.
#[tokio::test]
async fn a_policy_initialises_once_per_tenant_and_the_snapshot_survives_a_restart() {
    let scratch = Scratch::new();
    let text = "version = 1\n[instance]\ninit = \"ask-random\"\nargs = [\"one\"]\nenv = [\"A=b\"]\n";
    let policy = |text: &str| Arc::new(Policy::parse(text, "init.toml").expect("a policy"));
    let start = || {
        let config = Config { state_dir: Some(scratch.file("state")), ..Config::default() };
        Supervisor::start(config).expect("a supervisor")
    };
    let old = async |supervisor: &Supervisor, policy: &Arc<Policy>, tenant: &str| {
        let mut job = job(supervisor, ASKING).await;
        job.policy = Arc::clone(policy);
        job.tenant = tenant.to_owned();
        job.entry = Entry::Export { name: "old".to_owned(), args: Vec::new() };
        match supervisor.run(job).await.expect("a report").outcome {
            Outcome::Exited { results, .. } => results[0],
            other => panic!("{other:?}"),
        }
    };
    let first = start();
    let policy_of_first = policy(text);
    // The initialisation stores random bytes, so another one would store others.
    let value = old(&first, &policy_of_first, "a").await;
    assert_ne!(value, Value::I64(0));
    assert_eq!(old(&first, &policy_of_first, "a").await, value, "the same policy");
    assert_eq!(old(&first, &policy(text), "a").await, value, "an equal policy");
    let mut for_session = job(&first, ASKING).await;
    for_session.policy = Arc::clone(&policy_of_first);
    for_session.tenant = "a".to_owned();
    let mut session = started(&first, for_session).await;
    assert_eq!(call(&mut session, "old", &[]).await, supervisor::CallOutcome::Returned(vec![value]));
    drop(session);
    let local = tokio::task::LocalSet::new();
    let on_this_thread = local.run_until(async {
        let mut job = job(&first, ASKING).await;
        job.policy = Arc::clone(&policy_of_first);
        job.tenant = "a".to_owned();
        job.entry = Entry::Export { name: "old".to_owned(), args: Vec::new() };
        first.local_shard().expect("a shard").run(job).await.expect("a report").outcome
    });
    assert_eq!(on_this_thread.await, Outcome::Exited { code: 0, results: vec![value] });
    drop(local);
    assert_ne!(old(&first, &policy_of_first, "b").await, value, "another tenant");
    assert_ne!(old(&first, &policy(&text.replace("one", "two")), "a").await, value, "another input");
    drop(first);
    assert_eq!(old(&start(), &policy(text), "a").await, value, "another supervisor with the same cache");

    let mut failing = job(&start(), GUEST).await;
    failing.policy = policy("version = 1\n[instance]\ninit = \"trap\"\n");
    let error = start().run(failing).await.expect_err("no job without its initialisation").to_string();
    assert!(error.contains("unreachable"), "{error}");
}

#[tokio::test]
async fn a_job_is_observed_after_its_initialisation_and_cancelled_during_it() {
    let supervisor = supervisor();
    let under = async |text: &str, guest: &str, export: &str| {
        let mut job = job(&supervisor, guest).await;
        job.policy = Arc::new(Policy::parse(&format!("version = 1\n{text}"), "init.toml").expect("a policy"));
        job.entry = Entry::Export { name: export.to_owned(), args: Vec::new() };
        job
    };
    let begun = under("[instance]\ninit = \"init\"", GUEST, "pages").await;
    let (report, observed) = supervisor.observe(begun, std::future::pending()).await.expect("a report");
    assert_eq!(report.outcome, Outcome::Exited { code: 0, results: vec![Value::I32(301)] });
    assert_eq!(observed.initial_memory, 301 * WASM_PAGE);

    let endless = r#"(module (func (export "init") (loop (br 0))))"#;
    let why = "allow_dangerous = true\ndangerous_reason = \"the test wants it\"\n[instance]\ninit = \"init\"";
    let never = under(why, endless, "init").await;
    let (report, observed) = supervisor.observe(never, std::future::ready(())).await.expect("a report");
    assert_eq!(report.outcome, Outcome::Cancelled);
    assert_eq!(report.dangers.len(), 1);
    assert_eq!(observed, Observed::default());
}

#[test]
fn a_snapshot_from_the_command_line_runs_and_is_described() {
    let scratch = Scratch::new();
    scratch.module("guest.wasm", GUEST);
    scratch.module("asking.wasm", ASKING);
    let make = |arguments: &[&str]| run(scratch.sandboxctl().arg("snapshot").args(arguments));
    let made = make(&["guest.wasm", "--init", "init", "-o", "guest.snap"]);
    made.expect_status(0);
    assert!(made.stderr.contains("pure") && !made.stderr.contains("not pure"), "{}", made.stderr);
    let ran = run(scratch.sandboxctl_run(None).args(["--invoke", "count", "guest.snap"]));
    assert_eq!(ran.expect_status(0).text(), "23\n");
    let inspected = run(std::process::Command::new(whole_system_tests::sandboxc())
        .args(["inspect"])
        .arg(scratch.file("guest.snap")));
    let text = inspected.expect_status(0).text().to_owned();
    assert!(text.contains("snapshot    after \"init\", pure"), "{text}");

    let made = make(&["asking.wasm", "--init", "ask-time", "-o", "asking.snap", "--", "an", "argument"]);
    assert!(made.expect_status(0).stderr.contains("not pure: it asked for time"), "{}", made.stderr);
    make(&["guest.wasm", "--init", "trap", "-o", "no.snap"]).expect_own_error(&["guest.wasm", "unreachable"]);
    assert!(!scratch.names().contains(&String::from("no.snap")));
}
