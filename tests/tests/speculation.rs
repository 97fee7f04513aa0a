//! Controls of speculative execution and of timers: what a policy asks for is in force, reported, and refused where the host
//! lacks it; and what guests and native code notice of it.

use std::process::Command;
use std::sync::Arc;

use ipc::control::layer;
use ipc::layout::{CODE_BASE, CODE_END};
use ipc::report::{Outcome, Report, Value, Violation};
use policies::Policy;
use supervisor::host::HostReport;
use supervisor::{CallOutcome, Config, Entry, Error, Job, ModuleSource, PoolLimits, Supervisor};
use whole_system_tests::attacker::Attacker;
use whole_system_tests::instances::Pid;
use whole_system_tests::native::{Native, assert_refused};

/// The line of a policy, and the layer that it asks for.
const CONTROLS: [(&str, u64); 4] = [
    ("indirect_branch = \"disable\"", layer::INDIRECT_BRANCH),
    ("store_bypass = \"disable\"", layer::STORE_BYPASS),
    ("core_scheduling = true", layer::CORE_SCHEDULING),
    ("timestamp_counter = false", layer::NO_TIMESTAMP_COUNTER),
];

fn name(bit: u64) -> &'static str {
    layer::ALL.iter().find(|(b, _)| *b == bit).expect("a layer").1
}

fn policy(text: &str) -> Policy {
    Policy::parse(&format!("version = 1\n{text}\n"), "speculation.toml").expect("a policy")
}

/// A policy that asks for a control, and one that requires it.
fn asks_and_requires(control: &str, bit: u64) -> (Policy, Policy) {
    let asks = policy(&format!("[speculation]\n{control}"));
    let required = layer::ALL.iter().filter(|(b, _)| b & (asks.required() | bit) != 0);
    let names: Vec<String> = required.map(|(_, name)| format!("{name:?}")).collect();
    let requires = format!("[speculation]\n{control}\n[require]\nlayers = [{}]", names.join(", "));
    (asks, policy(&requires))
}

fn without_counter() -> Policy {
    policy("[speculation]\ntimestamp_counter = false")
}

/// Parks nothing, so that the processes below are those that this test asks for.
async fn attacker() -> Attacker {
    Attacker::with_pool(Policy::builtin("default").unwrap(), PoolLimits { min: 0, max: 0 }).await
}

fn has(report: &Report, bit: u64) -> bool {
    report.layers.iter().any(|layer| layer == name(bit))
}

#[tokio::test]
async fn a_control_is_in_force_and_reported_or_refused_where_it_is_required() {
    let host = HostReport::probe();
    let attacker = attacker().await;
    let report = attacker.attack("rdtsc", &[]).await;
    for (control, bit) in CONTROLS {
        assert!(!has(&report, bit), "{control}: the default profile does not ask for it");
        let (asks, requires) = asks_and_requires(control, bit);
        let report = attacker.with_policy(asks).attack("peek", &[CODE_BASE]).await;
        let missing = report.missing_layers.iter().find(|missing| missing.layer == name(bit));
        let required = attacker.with_policy(requires).try_attack("peek", &[CODE_BASE]).await;
        if host.available_layers() & bit != 0 {
            assert!(has(&report, bit) && missing.is_none(), "{control}: {report:?}");
            assert!(has(&required.expect("a report"), bit), "{control}");
            continue;
        }
        println!("NOT CHECKED: {}: this host does not offer it", name(bit));
        assert!(!has(&report, bit), "{control}: {report:?}");
        assert!(missing.is_some_and(|missing| !missing.reason.is_empty()), "{control}: {report:?}");
        match required {
            Err(error @ Error::LayerMissing { .. }) => {
                let said = error.to_string();
                assert!(said.contains(&format!("requires the layer {}", name(bit))), "{said}");
                assert!(said.contains("sandboxctl doctor"), "{said}");
            }
            other => panic!("{control}: {other:?}"),
        }
    }
}

/// Every instance below this process.
fn instances() -> Vec<Pid> {
    let modules = Pid::only_child_of(std::process::id()).children();
    modules.iter().flat_map(|module| module.children()).collect()
}

/// The core-scheduling cookie of a process; `None` if the kernel has none or does not tell.
fn cookie(pid: Pid) -> Option<u64> {
    const GET: i32 = 0;
    const PIDTYPE_PID: i32 = 0;
    let mut cookie = 0u64;
    // SAFETY: prctl(2): writes the cookie to a writable word.
    let result = unsafe { libc::prctl(libc::PR_SCHED_CORE, GET, pid.0, PIDTYPE_PID, &raw mut cookie) };
    (result == 0).then_some(cookie)
}

/// Whether this is the process in which a test of this name is alone; if not, it has run there. For tests that look at every
/// instance below, or change this process.
fn in_a_process_of_its_own(test: &str) -> bool {
    const ROLE: &str = "SANDBOXD_TEST_ALONE";
    if std::env::var_os(ROLE).is_some() {
        return true;
    }
    let mut alone = Command::new(std::env::current_exe().unwrap());
    let output = alone.args(["--exact", test, "--nocapture"]).env(ROLE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    said.lines().filter(|line| line.contains("NOT CHECKED")).for_each(|line| println!("{line}"));
    false
}

/// What the kernel says of running instances, under each control that it has.
#[test]
fn the_kernel_confirms_the_controls() {
    if !in_a_process_of_its_own("the_kernel_confirms_the_controls") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let host = HostReport::probe();
        let offered = |bit: u64| host.available_layers() & bit != 0;
        let all: String = CONTROLS.iter().map(|(control, _)| format!("{control}\n")).collect();
        let attacker = attacker().await.with_policy(policy(&format!("[speculation]\n{all}")));
        let mut cookies = Vec::new();
        let mut sessions = Vec::new();
        let mut seen: Vec<Pid> = Vec::new();
        for tenant in ["one", "one", "two"] {
            sessions.push(attacker.session_of(tenant).await);
            let instance = instances().into_iter().find(|pid| !seen.contains(pid)).expect("a new instance");
            seen.push(instance);
            cookies.push(cookie(instance));
            let status = instance.status();
            for (bit, field, words) in [
                (
                    layer::STORE_BYPASS,
                    "Speculation_Store_Bypass",
                    ["force mitigated", "not vulnerable", "globally mitigated"],
                ),
                (
                    layer::INDIRECT_BRANCH,
                    "SpeculationIndirectBranch",
                    ["force disabled", "not affected", "always disabled"],
                ),
            ] {
                match status.get(field) {
                    Some(value) if offered(bit) => {
                        assert!(words.iter().any(|word| value.contains(word)), "{field}: {value}");
                    }
                    value => println!("NOT CHECKED: {field} is {value:?}, and this host offers no control"),
                }
            }
        }
        match cookies[..] {
            [Some(one), Some(again), Some(two)] if offered(layer::CORE_SCHEDULING) => {
                assert!(one != 0 && one == again && one != two, "{one:#x} {again:#x} {two:#x}");
            }
            _ => println!("NOT CHECKED: this host tells no cookies of core scheduling: {cookies:x?}"),
        }
    });
}

/// Pages of equal contents are one page where a host merges them, and writing to one tells.
#[test]
fn pages_of_instances_are_not_merged_with_others() {
    if !in_a_process_of_its_own("pages_of_instances_are_not_merged_with_others") {
        return;
    }
    // SAFETY: takes no pointer.
    if unsafe { libc::prctl(libc::PR_SET_MEMORY_MERGE, 1, 0, 0, 0) } != 0 {
        println!("NOT CHECKED: this kernel merges no pages: {}", std::io::Error::last_os_error());
        return;
    }
    let merges = |status: &[u8]| String::from_utf8_lossy(status).contains("ksm_merge_any: yes");
    let child = Command::new("cat").arg("/proc/self/ksm_stat").output().unwrap();
    assert!(merges(&child.stdout), "children inherit it: {child:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // An ordinary user may not look into an undumpable process.
        let policy = Policy::builtin("default").unwrap();
        let root = nix::unistd::geteuid().is_root();
        let policy = if root { policy } else { policy.without_layers(layer::UNDUMPABLE) };
        let attacker = attacker().await.with_policy(policy);
        let _session = attacker.session().await;
        let [instance] = instances()[..] else { panic!("one instance") };
        let status = instance.read("ksm_stat").expect("readable");
        assert!(!merges(&status) && !status.is_empty(), "{}", String::from_utf8_lossy(&status));
    });
}

/// Reads the time-stamp counter twice.
async fn counter(attacker: &Attacker, instruction: &str) -> Outcome {
    let before = attacker.attack(instruction, &[]).await.outcome;
    let after = attacker.attack(instruction, &[]).await.outcome;
    if let (Some(before), Some(after)) = (integer(&before), integer(&after)) {
        assert!(before < after, "{instruction}: {before} {after}");
    }
    after
}

fn integer(outcome: &Outcome) -> Option<i64> {
    match outcome {
        Outcome::Exited { results, .. } => match results[..] {
            [Value::I64(value)] => Some(value),
            _ => None,
        },
        _ => None,
    }
}

/// That an instruction of a weapon faulted.
#[track_caller]
fn assert_faulted(outcome: &Outcome) {
    match outcome {
        Outcome::Violated(Violation::Fault { signal, pc, .. }) => {
            assert_eq!(signal, "SIGSEGV");
            assert!((CODE_BASE..CODE_END).contains(pc), "{pc:#x}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn native_code_reads_no_timestamp_counter_where_the_policy_says_so() {
    let attacker = attacker().await;
    for instruction in ["rdtsc", "rdtscp"] {
        assert!(integer(&counter(&attacker, instruction).await).is_some(), "without the layer it can");
    }
    // The counters of performance events are open to nobody by default.
    assert_faulted(&attacker.attack("rdpmc", &[]).await.outcome);
    let closed = attacker.with_policy(without_counter());
    for instruction in ["rdtsc", "rdtscp"] {
        assert_faulted(&counter(&closed, instruction).await);
    }
    let report = closed.attack("rdtsc", &[]).await;
    assert!(has(&report, layer::NO_TIMESTAMP_COUNTER), "{report:?}");
    // The layer alone stops it, with hardly any other in force. But who may call prctl(2) switches it off again: the filter
    // is what keeps it on.
    let alone = |layers: u64| without_counter().without_layers(!(layers | layer::USER_NAMESPACE));
    let alone = attacker.with_policy(alone(layer::NO_TIMESTAMP_COUNTER));
    assert_faulted(&alone.attack("rdtsc", &[]).await.outcome);
    let mut native = Native::of(alone.session().await);
    let (set, enable) = (libc::PR_SET_TSC as u64, libc::PR_TSC_ENABLE as u64);
    assert_eq!(native.syscall(libc::SYS_prctl, &[set, enable]).await, 0);
    assert!(native.call("rdtsc", &[]).await > 0);
    native.end().await;
    assert_refused(&attacker, libc::SYS_prctl).await;
    match closed.attack("syscall", &[libc::SYS_prctl as u64, set, enable]).await.outcome {
        Outcome::Violated(Violation::Syscall { name, .. }) => assert_eq!(name, "prctl"),
        other => panic!("{other:?}"),
    }
}

/// Reads the two clocks, one of them twice, and asks for what there is not.
const CLOCKS: &str = r#"(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_res_get" (func $resolution (param i32 i32) (result i32)))
  (memory 1)
  (func $read (param $clock i32) (result i64)
    (if (call $time (local.get $clock) (i64.const 1) (i32.const 8)) (then (unreachable)))
    (i64.load (i32.const 8)))
  (func (export "read") (result i64 i64 i64 i64)
    (if (call $resolution (i32.const 1) (i32.const 16)) (then (unreachable)))
    (call $read (i32.const 0)) (call $read (i32.const 1)) (call $read (i32.const 1)) (i64.load (i32.const 16)))
  (func (export "errors") (result i32 i32 i32 i32)
    (call $time (i32.const 2) (i64.const 1) (i32.const 8))
    (call $time (i32.const 3) (i64.const 1) (i32.const 8))
    (call $time (i32.const 4) (i64.const 1) (i32.const 8))
    (call $time (i32.const 0) (i64.const 1) (i32.const 65529)))
  (func (export "trap") (drop (call $read (i32.const 0))) (unreachable)))"#;

fn real_time() -> i64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).unwrap();
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

#[tokio::test]
async fn guests_read_their_clocks_with_and_without_a_timestamp_counter() {
    const RESOLUTION: i64 = 1_000_000;
    let coarse = "[wasi]\nclock_resolution = \"1ms\"\n";
    let supervisor = Supervisor::start(Config::default()).unwrap();
    let module = supervisor.load(ModuleSource::Wasm(CLOCKS.into())).await.unwrap();
    for (text, off) in
        [(String::new(), false), ("[speculation]\ntimestamp_counter = false\n".to_owned(), true)]
    {
        let policy = Arc::new(policy(&format!("{text}{coarse}")));
        let run = async |export: &str| {
            let mut job = Job::command(module.clone(), Arc::clone(&policy));
            job.entry = Entry::Export { name: export.to_owned(), args: Vec::new() };
            supervisor.run(job).await.unwrap()
        };
        let before = real_time();
        let report = run("read").await;
        let after = real_time();
        assert_eq!(has(&report, layer::NO_TIMESTAMP_COUNTER), off);
        // Three readings are calls of the supervisor, or none.
        assert_eq!(
            (report.usage.host_calls, report.usage.local_host_calls),
            if off { (3, 1) } else { (0, 4) }
        );
        let Outcome::Exited { results, .. } = &report.outcome else { panic!("{report:?}") };
        let [Value::I64(real), Value::I64(first), Value::I64(second), Value::I64(resolution)] = results[..]
        else {
            panic!("{results:?}")
        };
        assert_eq!(resolution, RESOLUTION);
        for reading in [real, first, second] {
            assert_eq!(reading % RESOLUTION, 0, "{reading}");
        }
        assert!((before - RESOLUTION..=after).contains(&real), "{before} {real} {after}");
        assert!(first <= second && second >= 0, "{first} {second}");
        // The guest's clock starts near zero, whoever reads it.
        assert!(second < 3_600_000_000_000, "{second}");
        let errors = run("errors").await;
        let expected = [8, 8, 28, 21].map(Value::I32).to_vec();
        assert!(
            matches!(&errors.outcome, Outcome::Exited { results, .. } if *results == expected),
            "{errors:?}"
        );

        let mut session =
            supervisor.session(Job::command(module.clone(), Arc::clone(&policy))).await.unwrap();
        session.start().await.unwrap();
        let mut last = 0;
        for _ in 0..3 {
            match session.call("read", &[]).await.unwrap() {
                CallOutcome::Returned(values) => match values[1] {
                    Value::I64(now) => assert!(std::mem::replace(&mut last, now) <= now),
                    ref other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
            assert!(matches!(session.call("trap", &[]).await.unwrap(), CallOutcome::Trapped(_)));
        }
        session.end().await.unwrap();
    }
}
