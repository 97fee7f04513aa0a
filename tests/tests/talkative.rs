//! Guests that make one waiting call after the other, which are watched from another processor while nobody else wants it: none of their
//! calls is lost, whatever makes the shard's thread come and go.

use std::time::Duration;

use ipc::report::Outcome;
use supervisor::{Config, Supervisor};
use whole_system_tests::sessions;

/// Calls of one guest: enough for many decisions where to be.
const CALLS: u64 = 30_000;

/// A guest whose every call must be answered, with pauses in which it computes after so many of them.
fn guest(calls_between_pauses: u64) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_filestat_get" (func $call (param i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func $pause (local $i i32)
                (loop $l (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $l (i32.lt_u (local.get $i) (i32.const 400000)))))
            (func (export "_start") (local $i i64)
                (loop $l
                    (if (call $call (i32.const 1) (i32.const 64)) (then unreachable))
                    (local.set $i (i64.add (local.get $i) (i64.const 1)))
                    (if (i64.eqz (i64.rem_u (local.get $i) (i64.const {calls_between_pauses}))) (then (call $pause)))
                    (br_if $l (i64.lt_u (local.get $i) (i64.const {CALLS}))))))"#
    )
}

async fn run(supervisor: &Supervisor, guest: &str) {
    let report = supervisor.run(sessions::job(supervisor, guest).await).await.expect("a report");
    assert_eq!(report.outcome, Outcome::Exited { code: 0, results: Vec::new() }, "{:?}", report.usage);
    assert_eq!(report.usage.host_calls, CALLS);
}

/// With one shard, a second job sends the thread home; with two, each may be in the other's way.
#[tokio::test]
async fn every_call_is_answered_whoever_comes_and_goes() {
    for shards in [1, 2] {
        let supervisor = Supervisor::start(Config { shards, ..Config::default() }).expect("a supervisor");
        // Pauses between two decisions, and such that a decision falls into them.
        for between in [CALLS, 128, 200, 1000] {
            run(&supervisor, &guest(between)).await;
        }
        let [long, short] = [guest(CALLS), guest(150)];
        tokio::join!(run(&supervisor, &long), run(&supervisor, &short), async {
            for _ in 0..20 {
                let nothing = r#"(module (func (export "_start")))"#;
                let job = sessions::job(&supervisor, nothing).await;
                assert_eq!(
                    supervisor.run(job).await.expect("a report").outcome,
                    Outcome::Exited { code: 0, results: Vec::new() }
                );
            }
        });
    }
}

/// A thread that watches must still see that its instance's time is over, and that the host app gives up.
#[tokio::test]
async fn a_watched_instance_can_be_stopped() {
    let supervisor = Supervisor::start(Config { shards: 1, ..Config::default() }).expect("a supervisor");
    let endless = guest(u64::MAX).replace(&format!("i64.const {CALLS}"), &format!("i64.const {}", i64::MAX));
    let mut job = sessions::job(&supervisor, &endless).await;
    job.limits.wall_time = Some(Duration::from_millis(300));
    let report = supervisor.run(job).await.expect("a report");
    assert!(matches!(report.outcome, Outcome::LimitReached(_)), "{:?}", report.outcome);
    let job = sessions::job(&supervisor, &endless).await;
    let report = supervisor.run_until(job, tokio::time::sleep(Duration::from_millis(50))).await;
    assert_eq!(report.expect("a report").outcome, Outcome::Cancelled);
    run(&supervisor, &guest(CALLS)).await;
}
