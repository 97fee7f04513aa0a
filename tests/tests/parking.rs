//! Instances that are forked ahead of their jobs. A program of its own, because it looks at every process below this one.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use compiler::Options;
use ipc::interface::FunctionId;
use ipc::job::{HEAD_OFFSET, RING_BYTES};
use ipc::report::{Outcome, Report, Value, Violation};
use ipc::ring::FINISHED;
use policies::Policy;
use supervisor::{
    Config, Entry, Error, Extern, HostFunction, Job, Module, ModuleSource, PoolLimits, Supervisor, ValType,
};
use tokio::sync::{Mutex, MutexGuard};
use whole_system_tests::assert_no_orphans;
use whole_system_tests::attacker::Attacker;
use whole_system_tests::instances::Pid;

/// Counts in linear memory, a global and a table, and returns the sum: 3 in a fresh instance.
const COUNTER: &str = r#"(module
    (memory 1)
    (global $g (mut i32) (i32.const 0))
    (table $t 2 funcref)
    (elem declare func $count)
    (func (export "endless") (loop (br 0)))
    (func $count (export "count") (result i32)
        (i32.store (i32.const 4096) (i32.add (i32.load (i32.const 4096)) (i32.const 1)))
        (global.set $g (i32.add (global.get $g) (i32.const 1)))
        (table.set $t (i32.eqz (ref.is_null (table.get $t (i32.const 0)))) (ref.func $count))
        (i32.add (i32.load (i32.const 4096))
            (i32.add (global.get $g)
                (i32.add (i32.eqz (ref.is_null (table.get $t (i32.const 0))))
                         (i32.eqz (ref.is_null (table.get $t (i32.const 1)))))))))"#;

/// The tests look at all children of this process, so that only one may run.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

fn supervisor(pool: PoolLimits) -> Supervisor {
    let compile = Options { open_imports: true, ..Options::default() };
    Supervisor::start(Config { pool, compile, ..Config::default() }).expect("a supervisor")
}

async fn load(supervisor: &Supervisor, text: &str) -> Module {
    supervisor.load(ModuleSource::Wasm(text.into())).await.expect("it loads")
}

fn default_policy() -> Arc<Policy> {
    Arc::new(Policy::builtin("default").expect("the default profile"))
}

async fn call(supervisor: &Supervisor, module: &Module, name: &str) -> Result<Report, Error> {
    let mut job = Job::command(module.clone(), default_policy());
    job.entry = Entry::Export { name: name.into(), args: Vec::new() };
    supervisor.run(job).await
}

#[track_caller]
fn assert_returned(report: Result<Report, Error>, value: i32) {
    match report.expect("a report").outcome {
        Outcome::Exited { code: 0, results } => assert_eq!(results, [Value::I32(value)]),
        other => panic!("{other:?}"),
    }
}

/// The only module zygote below this process.
fn module_zygote() -> Pid {
    Pid::only_child_of(Pid::only_child_of(std::process::id()).0 as u32)
}

/// Waits until the module zygote has so many children, and the shard knows all of them as parked: then it has their figures open,
/// and its next job finds them. They are made between jobs.
async fn parked(count: usize) -> Vec<Pid> {
    loop {
        let children = module_zygote().children();
        let open: Vec<_> = std::fs::read_dir("/proc/self/fd")
            .expect("/proc")
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .collect();
        let is_known = |pid: &Pid| open.contains(&format!("/proc/{}/statm", pid.0).into());
        let stat = |pid: &Pid| std::fs::read_to_string(format!("/proc/{}/stat", pid.0));
        let sleeps = |pid: &Pid| stat(pid).is_ok_and(|stat| stat.contains(") S "));
        if children.len() == count && children.iter().all(|pid| is_known(pid) && sleeps(pid)) {
            return children;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_job_wakes_a_parked_instance_and_no_instance_serves_twice() {
    let _alone = alone().await;
    let supervisor = supervisor(PoolLimits { min: 0, max: 1 });
    let module = load(&supervisor, COUNTER).await;
    assert_returned(call(&supervisor, &module, "count").await, 3);
    let mut seen = Vec::new();
    for _ in 0..20 {
        let waiting = parked(1).await[0];
        assert!(!seen.contains(&waiting), "{waiting:?} was there before");
        let report = call(&supervisor, &module, "count").await.expect("a report");
        assert!(report.usage.cpu_us > 0 && report.usage.peak_memory_bytes > 0, "{:?}", report.usage);
        assert_returned(Ok(report), 3);
        // It was this one that served: it is killed after its report.
        waiting.wait_until_dead();
        seen.push(waiting);
    }
}

#[tokio::test]
async fn the_pool_follows_the_demand_between_its_limits() {
    let _alone = alone().await;
    let supervisor = supervisor(PoolLimits { min: 0, max: 3 });
    let module = load(&supervisor, COUNTER).await;
    assert_returned(call(&supervisor, &module, "count").await, 3);
    parked(1).await;
    let many: Vec<_> = (0..16).map(|_| call(&supervisor, &module, "count")).collect();
    for report in futures(many).await {
        assert_returned(report, 3);
    }
    parked(3).await;
}

/// Runs futures at the same time.
async fn futures<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in &mut pending {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        match pending.iter().all(|(_, done)| done.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    pending.into_iter().filter_map(|(_, done)| done).collect()
}

#[tokio::test]
async fn with_a_limit_of_zero_nothing_is_parked() {
    let _alone = alone().await;
    let supervisor = supervisor(PoolLimits { min: 0, max: 0 });
    let module = load(&supervisor, COUNTER).await;
    for _ in 0..3 {
        assert_returned(call(&supervisor, &module, "count").await, 3);
        parked(0).await;
    }
}

/// A shard on the host app's own thread does all of the above.
#[tokio::test]
async fn a_local_shard_runs_jobs_on_the_calling_thread() {
    let _alone = alone().await;
    let supervisor = supervisor(PoolLimits { min: 0, max: 2 });
    let module = load(&supervisor, COUNTER).await;
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            let shard = supervisor.local_shard().expect("a shard");
            let run = |limit: Option<Duration>, name: &str| {
                let mut job = Job::command(module.clone(), default_policy());
                job.entry = Entry::Export { name: name.into(), args: Vec::new() };
                job.limits.wall_time = limit;
                shard.run(job)
            };
            assert_returned(run(None, "count").await, 3);
            let waiting = parked(1).await[0];
            assert_returned(run(None, "count").await, 3);
            // It is killed by a task of this thread.
            while module_zygote().children().contains(&waiting) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for report in futures((0..32).map(|_| run(None, "count")).collect()).await {
                assert_returned(report, 3);
            }
            // Whoever no longer waits for a job ends it.
            let mut endless = Box::pin(run(None, "endless"));
            let running = async {
                // Ten ticks of user time: no instance that is being parked needs that.
                let busy = |pid: &Pid| {
                    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.0)).unwrap_or_default();
                    let time = stat.rsplit_once(')').and_then(|(_, rest)| rest.split(' ').nth(12));
                    time.is_some_and(|ticks| ticks.parse::<u64>().is_ok_and(|ticks| ticks >= 10))
                };
                loop {
                    if let Some(pid) = module_zygote().children().into_iter().find(|pid| busy(pid)) {
                        return pid;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let pid = tokio::select! {
                report = &mut endless => panic!("{report:?}"),
                pid = running => pid,
            };
            drop(endless);
            pid.wait_until_dead();
            let limited = run(Some(Duration::from_millis(20)), "endless").await.expect("a report");
            assert!(matches!(limited.outcome, Outcome::LimitReached(_)), "{:?}", limited.outcome);
            assert_returned(run(None, "count").await, 3);
        })
        .await;
    drop(tasks);
    drop(supervisor);
    assert_no_orphans();
}

/// A job that is dropped gives its zygote's place to one that waits; and the shards of a host app are bounded in number.
#[tokio::test]
async fn a_dropped_job_of_a_local_shard_makes_room_and_shards_are_bounded() {
    let _alone = alone().await;
    let config = Config { module_zygotes: 1, ..Config::default() };
    let supervisor = Supervisor::start(config).expect("a supervisor");
    let endless = load(&supervisor, r#"(module (func (export "_start") (loop (br 0))))"#).await;
    let short = load(&supervisor, r#"(module (func (export "_start")))"#).await;
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            let shard = supervisor.local_shard().expect("a shard");
            let mut running = Box::pin(shard.run(Job::command(endless, default_policy())));
            let mut waiting = Box::pin(shard.run(Job::command(short, default_policy())));
            let root = || Pid(std::process::id() as i32).children();
            let below = |all: Vec<Pid>| all.into_iter().flat_map(Pid::children).collect::<Vec<_>>();
            let started = async {
                while below(below(root())).is_empty() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                report = &mut running => panic!("{report:?}"),
                () = started => {}
            }
            // It has nothing to wait for but the place of the other; after a few turns it waits for that.
            let turns = async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                report = &mut waiting => panic!("{report:?}"),
                () = turns => {}
            }
            drop(running);
            let report = waiting.await.expect("a report");
            assert!(matches!(report.outcome, Outcome::Exited { code: 0, .. }), "{:?}", report.outcome);

            let more: Vec<_> = (0..7).map(|_| supervisor.local_shard().expect("a shard")).collect();
            let error = supervisor.local_shard().expect_err("one too many");
            assert!(error.to_string().contains("8 shards"), "{error}");
            drop(more);
        })
        .await;
    drop(tasks);
    drop(supervisor);
    assert_no_orphans();
}

/// Descriptors on their way between processes are limited per user. A zygote must wait then, and lose no reply.
#[tokio::test]
async fn hundreds_of_jobs_at_once() {
    let _alone = alone().await;
    let supervisor = supervisor(PoolLimits::default());
    let module = load(&supervisor, COUNTER).await;
    for _ in 0..2 {
        let many: Vec<_> = (0..300).map(|_| call(&supervisor, &module, "count")).collect();
        for report in futures(many).await {
            assert_returned(report, 3);
        }
    }
}

#[tokio::test]
async fn a_parked_instance_that_was_killed_is_not_used() {
    let _alone = alone().await;
    let supervisor = supervisor(PoolLimits { min: 0, max: 1 });
    let module = load(&supervisor, COUNTER).await;
    assert_returned(call(&supervisor, &module, "count").await, 3);
    let waiting = parked(1).await[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(waiting.0), nix::sys::signal::Signal::SIGKILL).unwrap();
    waiting.wait_until_dead();
    parked(0).await;
    // The supervisor hears of the death from the zygote, on the same thread as of the job.
    assert_returned(call(&supervisor, &module, "count").await, 3);
}

/// Every kind of end, in an instance that was parked.
#[tokio::test]
async fn parked_instances_end_like_all_others() {
    let _alone = alone().await;
    let supervisor = supervisor(PoolLimits { min: 1, max: 1 });
    let module = load(
        &supervisor,
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "host" "f" (func $f (result i32)))
            (memory 1)
            (func (export "exit") (call $exit (i32.const 300)))
            (func (export "trap") (unreachable))
            (func (export "deep") (call 4))
            (func (export "call") (result i32) (call $f))
            (func (export "forever") (loop (br 0))))"#,
    )
    .await;
    let job = |name: &str| {
        let mut job = Job::command(module.clone(), default_policy());
        job.entry = Entry::Export { name: name.into(), args: Vec::new() };
        let function = HostFunction::immediate([], [ValType::I32], |_| Ok(vec![Value::I32(7)]));
        job.imports.define("host", "f", Extern::Function(function));
        if name == "forever" {
            job.limits.wall_time = Some(Duration::from_millis(50));
        }
        job
    };
    // The first one is forked on demand, and the rest are parked after it.
    supervisor.run(job("exit")).await.expect("a report");
    let run = async |name: &str| {
        parked(1).await;
        supervisor.run(job(name)).await.expect("a report").outcome
    };

    assert_eq!(run("exit").await, Outcome::Exited { code: 300, results: Vec::new() });
    assert!(matches!(run("trap").await, Outcome::Trapped(t) if t.message.contains("unreachable")));
    assert!(matches!(run("deep").await, Outcome::Trapped(t) if t.message == "call stack exhausted"));
    assert_eq!(run("call").await, Outcome::Exited { code: 0, results: vec![Value::I32(7)] });
    assert!(matches!(run("forever").await, Outcome::LimitReached(_)));
    drop(supervisor);
    assert_no_orphans();
}

/// Writes 300 pages, those of the module's data among them, and returns the sum of what was there.
const WRITER: &str = r#"(module
    (memory 20)
    (data (i32.const 65536) "\07")
    (func (export "write") (result i32) (local $at i32) (local $sum i32)
        (loop $next
            (local.set $sum (i32.add (local.get $sum) (i32.load (local.get $at))))
            (i32.store (local.get $at) (i32.const 1))
            (local.set $at (i32.add (local.get $at) (i32.const 4096)))
            (br_if $next (i32.lt_u (local.get $at) (i32.const 1228800))))
        (local.get $sum)))"#;

/// Resident memory, pages. The kernel may be wrong by some tens of them (proc_pid_statm(5)).
fn resident(pid: Pid) -> i64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", pid.0)).expect("it lives");
    statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number")
}

#[tokio::test]
async fn a_parked_instance_writes_the_pages_that_earlier_jobs_wrote() {
    let _alone = alone().await;
    let supervisor = supervisor(PoolLimits { min: 1, max: 1 });
    let module = load(&supervisor, WRITER).await;
    assert_returned(call(&supervisor, &module, "write").await, 7);
    let before = resident(parked(1).await[0]);
    // Jobs are looked at after their reports, so it takes some until it is known what they write.
    let mut jobs = 0;
    while resident(parked(1).await[0]) < before + 200 {
        assert_returned(call(&supervisor, &module, "write").await, 7);
        jobs += 1;
        assert!(jobs < 1000, "{before} pages at first, {} now", resident(parked(1).await[0]));
    }
    // It finds what every instance finds.
    assert_returned(call(&supervisor, &module, "write").await, 7);
    drop(supervisor);
    assert_no_orphans();
}

/// What it holds beyond that would have to be freed before the next instance.
#[tokio::test]
async fn a_parked_instance_holds_no_more_of_its_ring_than_the_head() {
    let _alone = alone().await;
    let supervisor = supervisor(PoolLimits { min: 1, max: 1 });
    let module = load(&supervisor, WRITER).await;
    assert_returned(call(&supervisor, &module, "write").await, 7);
    let _parked = parked(1).await;
    let files =
        std::fs::read_dir("/proc/self/fd").expect("/proc").filter_map(|entry| Some(entry.ok()?.path()));
    let is_ring = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|file| file.to_string_lossy().starts_with("/memfd:ring"))
    };
    let held: Vec<_> = files
        .filter(is_ring)
        .map(|path| std::fs::metadata(path).expect("an open file").blocks() * 512)
        .collect();
    let head = (RING_BYTES - HEAD_OFFSET) as u64;
    assert!(!held.is_empty() && held.iter().all(|bytes| *bytes <= head), "{held:?}");
    drop(supervisor);
    assert_no_orphans();
}

#[tokio::test]
async fn a_zygote_makes_room_for_another_after_its_instance_was_looked_at() {
    let _alone = alone().await;
    let compile = Options { open_imports: true, ..Options::default() };
    let pool = PoolLimits { min: 1, max: 1 };
    let config = Config { pool, compile, shards: 1, module_zygotes: 1, ..Config::default() };
    let supervisor = Supervisor::start(config).expect("a supervisor");
    // A look at so much memory takes longer than to park the next instance, after which the next job looks for room.
    let large = r#"(module (memory 1024) (func (export "f") (result i32) (i32.store (i32.const 0) (i32.const 1)) (i32.const 1)))"#;
    let large = load(&supervisor, large).await;
    let other = load(&supervisor, r#"(module (func (export "f") (result i32) (i32.const 2)))"#).await;
    assert_returned(call(&supervisor, &large, "f").await, 1);
    parked(1).await;
    // In the parked instance, which is looked at.
    assert_returned(call(&supervisor, &large, "f").await, 1);
    assert_returned(call(&supervisor, &other, "f").await, 2);
    drop(supervisor);
    assert_no_orphans();
}

/// A call of the shim's own, which the supervisor counts and answers with an error.
fn a_call() -> u64 {
    u64::from(FunctionId::proc_exit.number())
}

/// An instance that says that it has finished, but goes on submitting calls and ringing for ever.
#[tokio::test]
async fn an_instance_that_goes_on_after_its_end_is_killed_and_not_served() {
    let _alone = alone().await;
    let policy = || Policy::builtin("default").unwrap();
    let attacker = Attacker::with_pool(policy(), PoolLimits { min: 1, max: 1 }).await;
    // The first one is forked on demand, and one is parked after it.
    attacker.attack("peek", &[ipc::layout::RING_BASE]).await;
    let waiting = parked(1).await[0];
    let limit = Duration::from_millis(200);
    let report = attacker.attack_for("submit-two", &[a_call(), a_call()], limit).await;
    assert_eq!((report.usage.host_calls, report.exit_status()), (2, 124), "what it submits is served");
    waiting.wait_until_dead();

    let waiting = parked(1).await[0];
    let report = attacker.attack("submit-two", &[u64::from(FINISHED), a_call()]).await;
    assert_eq!(report.outcome, Outcome::Exited { code: 0, results: vec![Value::I64(FINISHED.into())] });
    assert_eq!(report.usage.host_calls, 0, "nothing is served after its end");
    waiting.wait_until_dead();
    // The next one is another.
    assert_ne!(parked(1).await[0], waiting);
    assert!(attacker.answer("peek", &[ipc::layout::RING_BASE]).await.is_some());
    drop(attacker);
    assert_no_orphans();
}

/// Only an instance that was told to wait at its end may say that it has finished.
#[tokio::test]
async fn finishing_without_having_been_asked_to_wait_is_a_violation() {
    let _alone = alone().await;
    let attacker =
        Attacker::with_pool(Policy::builtin("default").unwrap(), PoolLimits { min: 0, max: 0 }).await;
    let unknown = |outcome: &Outcome| match outcome {
        Outcome::Violated(Violation::Ring { rule }) => rule.contains(&format!("unknown function {FINISHED}")),
        _ => false,
    };
    let finish = [u64::from(FINISHED), a_call()];
    let report = attacker.attack("submit-two", &finish).await;
    assert!(unknown(&report.outcome), "forked on demand: {:?}", report.outcome);
    drop(attacker);
    assert_no_orphans();
}
