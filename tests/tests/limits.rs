//! Every limit against native code inside the instance: each is enforced by the kernel or the supervisor, and the report says which.

use std::future::Future;
use std::time::Duration;

use ipc::interface::FunctionId;
use ipc::job::ARENA_OFFSET;
use ipc::layout::{MEMORY_BASE, RING_BASE};
use ipc::report::{Limit, LimitReached, Outcome, Report, Violation};
use ipc::ring::{Completion, Submission, pack_range};
use policies::Policy;
use supervisor::CallOutcome;
use whole_system_tests::attacker::Attacker;
use whole_system_tests::native::Native;
use whole_system_tests::{Scratch, lifecycle};
use zerocopy::{FromBytes, IntoBytes};

fn policy(limits: &str) -> Policy {
    Policy::parse(&format!("version = 1\n[limits]\n{limits}\n"), "limits.toml").expect("a policy")
}

async fn attacker() -> Attacker {
    Attacker::under(policy("")).await
}

#[track_caller]
fn assert_limit(report: &Report, limit: Limit, value: u64) {
    assert_eq!(report.outcome, Outcome::LimitReached(LimitReached { limit, value }), "{:?}", report.usage);
}

/// An instance may make the reservation of its memories accessible, and that is the only way to more memory: RLIMIT_DATA bounds it.
#[tokio::test]
async fn memory_ends_at_its_limit_whatever_asks_for_it() {
    const RW: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let attacker = attacker().await;
    let grow = async |attacker: &Attacker, bytes: u64| {
        attacker.answer("syscall", &[libc::SYS_mprotect as u64, MEMORY_BASE, bytes, RW]).await
    };
    assert_eq!(grow(&attacker, 1 << 30).await, Some(0), "a GiB of the 4 of this policy");
    let small = attacker.with_policy(policy("memory = \"2MiB\""));
    assert_eq!(grow(&small, 2 << 20).await, Some(0));
    // The stack, which counts too, is not all in use.
    for bytes in [32 << 20, 1 << 30, 8 << 30] {
        assert_eq!(grow(&small, bytes).await, Some(-i64::from(libc::ENOMEM)), "{bytes}");
    }
}

#[tokio::test]
async fn time_ends_native_loops() {
    let attacker = attacker().await;
    let cpu = attacker.with_policy(policy("cpu_time = \"1s\""));
    let report = cpu.attack("spin", &[]).await;
    assert_limit(&report, Limit::CpuTime, 1_000_000_000);
    assert!(report.usage.cpu_us > 500_000, "{:?}", report.usage);
    let wall = attacker.with_policy(policy("wall_time = \"200ms\""));
    let report = wall.attack("spin", &[]).await;
    assert_limit(&report, Limit::WallTime, 200_000_000);
    assert!(report.usage.wall_ns >= 200_000_000, "{:?}", report.usage);
    // What the job asks for beyond the policy does not count.
    let report = wall.attack_for("spin", &[], Duration::from_secs(3600)).await;
    assert_limit(&report, Limit::WallTime, 200_000_000);
}

#[tokio::test]
async fn the_stack_ends_at_its_guard() {
    for stack in ["64KiB", "8MiB"] {
        let attacker = Attacker::under(policy(&format!("stack = \"{stack}\""))).await;
        match attacker.attack("push", &[]).await.outcome {
            Outcome::Trapped(trap) => assert_eq!(trap.message, "call stack exhausted"),
            other => panic!("{stack}: {other:?}"),
        }
    }
}

/// A call with three arguments, submitted for ever; with the last one 0, no answer is taken.
fn flood(function: FunctionId, args: [u64; 3]) -> [u64; 4] {
    [u64::from(function.number()), args[0], args[1], args[2]]
}

#[tokio::test]
async fn host_calls_and_output_are_counted_by_the_supervisor() {
    let attacker = attacker().await;
    let calls = attacker.with_policy(policy("host_calls = 1000"));
    let report = calls.attack("flood", &flood(FunctionId::fd_close, [99, 0, 1])).await;
    assert_limit(&report, Limit::HostCalls, 1000);
    assert_eq!(report.usage.host_calls, 1000);

    let output = attacker.with_policy(policy("output = \"100KiB\""));
    let mut job =
        output.job("flood", &flood(FunctionId::fd_write, [1, pack_range(0, 4096), pack_range(8192, 4)]));
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    job.stdio[1] = Some(writer.into());
    let read = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut bytes).expect("output");
        bytes.len()
    });
    let report = output.supervisor.run(job).await.expect("a report");
    assert_limit(&report, Limit::Output, 100 << 10);
    assert_eq!(report.usage.output_bytes, read.join().expect("reader") as u64);
    assert!(report.usage.output_bytes <= 100 << 10, "{:?}", report.usage);
}

/// Whoever takes no answers is told from the full queue; whoever only rings costs nobody else the shard.
#[tokio::test]
async fn a_flooded_ring_costs_its_own_job_only() {
    let attacker = attacker().await;
    let report = attacker.attack("flood", &flood(FunctionId::fd_close, [99, 0, 0])).await;
    match &report.outcome {
        Outcome::Violated(Violation::Ring { rule }) => {
            assert!(rule.contains("completions not taken"), "{rule}")
        }
        other => panic!("{other:?}"),
    }
    for weapon in ["ring", "flood"] {
        let args = flood(FunctionId::fd_close, [99, 0, 1]);
        let args: &[u64] = if weapon == "flood" { &args } else { &[] };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let flooding =
            attacker.supervisor.run_until(attacker.job(weapon, args), async { drop(stopped.await) });
        // On the same thread of the supervisor as the flood, and while it goes on: the flood ends only after these.
        let others = async {
            for _ in 0..20 {
                let seen = attacker.answer("peek", &[MEMORY_BASE]).await;
                assert_eq!(seen, Some(0));
            }
            drop(stop);
        };
        let (flooded, ()) = tokio::join!(flooding, others);
        assert_eq!(flooded.expect("a report").outcome, Outcome::Cancelled, "{weapon}");
    }
}

/// Opens a file again and again over the ring, and closes none. What it has got, and how it ended.
async fn hoard(native: &mut Native) -> (Vec<u64>, CallOutcome) {
    // Where in the arena a session's own traffic does not come.
    const NAME: u32 = 0x10_0000;
    const RESULT: u32 = 0x20_0000;
    const TOO_MANY_HANDLES: u32 = 33;
    const READ: u64 = 1 << 1;
    let mut submission = Submission { function: FunctionId::path_open.number(), ..Submission::default() };
    let (name, result) = (pack_range(NAME, 4), pack_range(RESULT, 4));
    submission.args[..8].copy_from_slice(&[3, 0, name, 0, READ, 0, 0, result]);
    let at = native.put(submission.as_bytes()).await;
    let file = u64::from(u32::from_le_bytes(*b"file"));
    let mut opened = Vec::new();
    loop {
        native.call("poke", &[RING_BASE + ARENA_OFFSET as u64 + u64::from(NAME), file]).await;
        // The weapon leaves the answer where it found the question.
        for (word, bytes) in (0..).zip(submission.as_bytes().chunks(8)) {
            let bytes = u64::from_le_bytes(bytes.try_into().expect("whole words"));
            native.call("poke", &[at + 8 * word, bytes]).await;
        }
        match native.try_call("host-call", &[at]).await {
            CallOutcome::Returned(_) => {}
            ended => return (opened, ended),
        }
        let bytes = native.get(at, size_of::<Completion>()).await;
        let completion = Completion::read_from_bytes(&bytes).expect("a completion");
        match completion.errno {
            0 => opened.push(completion.value),
            errno => assert_eq!(errno, TOO_MANY_HANDLES, "after {} files", opened.len()),
        }
    }
}

/// Handles are the supervisor's: an instance that asks for them without end gets as many as its policy says, and takes no more
/// descriptors of the supervisor than that.
#[tokio::test]
async fn handles_end_at_their_limit_however_often_native_code_asks() {
    let files = Scratch::new();
    files.write("file", "contents");
    let attacker = attacker().await.with_policy(policy("open_files = 12\nhost_calls = 100"));
    let opens = || {
        let path = files.file("file");
        let open = std::fs::read_dir("/proc/self/fd").expect("/proc").flatten();
        open.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == path)).count()
    };
    let directory = std::fs::File::open(files.path()).expect("a directory").into();
    let mut native = Native::of(attacker.session_with(directory).await);
    let (opened, ended) = hoard(&mut native).await;
    // Streams and the directory are four of the twelve.
    assert_eq!(opened, (4..12).collect::<Vec<u64>>());
    let limit = Outcome::LimitReached(LimitReached { limit: Limit::HostCalls, value: 100 });
    assert_eq!(ended, CallOutcome::Ended(limit.clone()));
    let report = native.end().await;
    assert_eq!((&report.outcome, report.usage.host_calls), (&limit, 100), "{:?}", report.usage);
    lifecycle::eventually("with the instance its handles go", || opens() == 0);
    // While it lives they are there, once each.
    let attacker = attacker.with_policy(policy("open_files = 12"));
    let directory = std::fs::File::open(files.path()).expect("a directory").into();
    let mut native = Native::of(attacker.session_with(directory).await);
    let mut hoarding = std::pin::pin!(hoard(&mut native));
    let never = std::future::poll_fn(|context| {
        // As long as it finds no end.
        if hoarding.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(false);
        }
        if opens() >= 8 { std::task::Poll::Ready(true) } else { std::task::Poll::Pending }
    });
    assert!(never.await, "it was stopped by something else");
    assert_eq!(opens(), 8);
}
