//! What the host app or the host itself brings along must not change what a job's end means.

use std::sync::Arc;

use ipc::report::{Limit, Outcome};
use nix::sys::signal::SigSet;
use policies::Policy;
use supervisor::{Config, Entry, Job, ModuleSource, Supervisor};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn outcome(text: &str, export: &str, policy: &str) -> Outcome {
    let supervisor = Supervisor::start(Config::default()).unwrap();
    let module = supervisor.load(ModuleSource::Wasm(text.into())).await.unwrap();
    let mut job = Job::command(module, Arc::new(Policy::parse(policy, "test.toml").unwrap()));
    job.entry = Entry::Export { name: export.to_owned(), args: Vec::new() };
    supervisor.run(job).await.unwrap().outcome
}

const DEFAULT: &str = "version = 1\nextends = \"default\"\n";

#[test]
fn a_host_app_that_blocks_its_signals_still_gets_traps() {
    std::thread::spawn(|| {
        SigSet::all().thread_block().unwrap();
        for (body, message) in [
            ("unreachable", "unreachable"),
            ("(drop (i32.load (i32.const -1)))", "out of bounds memory access"),
            ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", "integer divide by zero"),
            ("(call 0)", "call stack exhausted"),
        ] {
            let text = format!("(module (memory 1) (func (export \"f\") {body}))");
            match block_on(outcome(&text, "f", DEFAULT)) {
                Outcome::Trapped(trap) => assert!(trap.message.contains(message), "{body}: {}", trap.message),
                other => panic!("{body}: {other:?}"),
            }
        }
    })
    .join()
    .unwrap();
}

#[test]
fn a_limit_of_cpu_time_is_reported_as_one() {
    let text = "(module (func (export \"spin\") (loop (br 0))))";
    let policy = format!("{DEFAULT}[limits]\ncpu_time = \"1s\"\n");
    match block_on(outcome(text, "spin", &policy)) {
        Outcome::LimitReached(reached) => {
            assert_eq!((reached.limit, reached.value), (Limit::CpuTime, 1_000_000_000));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refused_growth_ends_the_job_where_the_policy_says_so() {
    let text = "(module (memory 1) (func (export \"grow\") (drop (memory.grow (i32.const 1000)))))";
    let limits = "[limits]\nmemory = \"1MiB\"\n";
    let outcome_with = |more: &str| block_on(outcome(text, "grow", &format!("{DEFAULT}{limits}{more}")));
    assert!(
        matches!(outcome_with(""), Outcome::Exited { code: 0, .. }),
        "a failed growth is the guest's to handle"
    );
    match outcome_with("memory_exceeded = \"kill\"\n") {
        Outcome::LimitReached(reached) => {
            assert_eq!((reached.limit, reached.value), (Limit::Memory, 1 << 20))
        }
        other => panic!("{other:?}"),
    }
}
