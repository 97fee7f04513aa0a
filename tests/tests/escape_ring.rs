//! The ring against an instance that writes into it what it likes: the offender ends with a violation that says what
//! it did, and the supervisor serves the next job.

use std::mem::offset_of;

use ipc::interface::FunctionId;
use ipc::job::{INDICES_OFFSET, SUBMISSIONS_OFFSET};
use ipc::layout::RING_BASE;
use ipc::report::{Outcome, Violation};
use ipc::ring::{Indices, OUTPUT_HALF, Submission, pack_output};
use policies::Policy;
use whole_system_tests::attacker::Attacker;

const SUBMISSION_TAIL: u64 = RING_BASE + INDICES_OFFSET as u64 + offset_of!(Indices, submission_tail) as u64;
const PENDING_OUTPUT: u64 = RING_BASE + INDICES_OFFSET as u64 + offset_of!(Indices, output) as u64;
const FIRST_SLOT: u64 = RING_BASE + SUBMISSIONS_OFFSET as u64;

/// Where argument `index` of the first slot is.
const fn argument(index: u64) -> u64 {
    FIRST_SLOT + offset_of!(Submission, args) as u64 + 8 * index
}

/// Writes `value` at `address`, submits what is in the first `submitted` slots, and rings the doorbell. Returns the rule that
/// the report names.
async fn forge(attacker: &Attacker, address: u64, value: u64, submitted: u32) -> String {
    let args = [address, value, SUBMISSION_TAIL, u64::from(submitted)];
    match attacker.attack("forge-submission", &args).await.outcome {
        Outcome::Violated(Violation::Ring { rule }) => rule,
        other => panic!("{address:#x} = {value:#x}, {submitted} submitted: {other:?}"),
    }
}

#[tokio::test]
async fn forged_submissions_are_violations_that_say_what_was_wrong() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    for tail in [65, 1000, 0x7fff_ffff, u32::MAX] {
        let rule = forge(&attacker, FIRST_SLOT, 0, tail).await;
        assert!(rule.contains("more than 64 in flight"), "{rule}");
    }
    for function in [46u64, 1000, u64::from(u32::MAX)] {
        let rule = forge(&attacker, FIRST_SLOT, function, 1).await;
        assert!(rule.contains(&format!("unknown function {function}")), "{rule}");
    }
    // Its argument 1 is a range of the arena.
    let function = u64::from(FunctionId::fd_prestat_dir_name.number());
    for (offset, length) in
        [(0u64, u64::from(u32::MAX)), (u64::from(u32::MAX), 1), (0x40_0000, 1), (0x3f_ffff, 2)]
    {
        let rule = forge_range(&attacker, function, offset << 32 | length).await;
        assert!(rule.contains("not a valid range of the arena"), "{rule}");
        assert!(rule.contains("fd_prestat_dir_name"), "{rule}");
    }
    // None of this cost anybody else anything.
    assert!(attacker.answer("peek", &[RING_BASE]).await.is_some(), "the next job is served");
}

/// Queued output is the instance's word like everything else on the ring.
#[tokio::test]
async fn forged_output_is_a_violation_that_says_what_was_wrong() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    let half = OUTPUT_HALF as u32;
    for (stream, length) in [(0, 1), (3, 1), (255, half), (1, half + 1), (2, u32::MAX)] {
        let rule = forge(&attacker, PENDING_OUTPUT, pack_output(stream, 0, length), 0).await;
        assert!(rule.contains(&format!("stream {stream}, {length} bytes")), "{rule}");
    }
    // As much as there can be, and bits that mean nothing, are only output.
    for word in [pack_output(1, 1, half), pack_output(2, 0, 0) | 0xfe00] {
        let args = [PENDING_OUTPUT, word, SUBMISSION_TAIL, 0];
        let report = attacker.attack_for("forge-submission", &args, std::time::Duration::from_secs(1)).await;
        assert_eq!(report.exit_status(), 124, "{word:#x}: {:?}", report.outcome);
    }
}

/// As [`forge`], for a slot of `function` whose argument 1 is `range`.
async fn forge_range(attacker: &Attacker, function: u64, range: u64) -> String {
    match attacker.attack("forge-slot", &[function, argument(1), range, SUBMISSION_TAIL]).await.outcome {
        Outcome::Violated(Violation::Ring { rule }) => rule,
        other => panic!("range {range:#x}: {other:?}"),
    }
}

#[tokio::test]
async fn calls_of_local_functions_over_the_ring_are_answered_not_served() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    // `proc_exit` is the shim's own affair: asked over the ring, the supervisor has no such service. The weapon waits for
    // ever afterwards, so the job ends by its time limit, not by a crash of the supervisor.
    let report = attacker
        .attack_for(
            "forge-submission",
            &[FIRST_SLOT, u64::from(FunctionId::proc_exit.number()), SUBMISSION_TAIL, 1],
            std::time::Duration::from_secs(2),
        )
        .await;
    assert_eq!(report.exit_status(), 124, "{:?}", report.outcome);
    assert_eq!(report.usage.host_calls, 1);
}

#[tokio::test]
async fn host_calls_that_the_policy_does_not_grant_are_violations() {
    let attacker = Attacker::under(Policy::builtin("default").unwrap()).await;
    let compute = Policy::parse(
        "version = 1\nextends = \"default\"\n[host_calls]\nallow = [\"proc_exit\"]\n",
        "t.toml",
    );
    let denied = attacker.with_policy(compute.unwrap());
    // The artifact says that it calls everything, so under this policy it does not even start.
    let error = denied.try_attack("peek", &[RING_BASE]).await.unwrap_err().to_string();
    assert!(error.contains("does not grant"), "{error}");
}
