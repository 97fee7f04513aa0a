//! Sessions of guests in text form.

use std::sync::Arc;

use ipc::report::Value;
use policies::Policy;
use supervisor::{CallOutcome, Job, ModuleSource, Session, Supervisor};

/// The profile `default`.
pub fn default_policy() -> Arc<Policy> {
    Arc::new(Policy::builtin("default").expect("the default profile"))
}

/// A job of the guest under the default policy.
pub async fn job(supervisor: &Supervisor, guest: &str) -> Job {
    let module = supervisor.load(ModuleSource::Wasm(guest.into())).await.expect("the guest loads");
    Job::command(module, default_policy())
}

/// A started session.
pub async fn started(supervisor: &Supervisor, job: Job) -> Session {
    let mut session = supervisor.session(job).await.expect("a session");
    assert_eq!(session.start().await.expect("an outcome"), CallOutcome::Returned(Vec::new()));
    session
}

/// What came of a call.
pub async fn call(session: &mut Session, name: &str, args: &[Value]) -> CallOutcome {
    session.call(name, args).await.expect("an outcome")
}

/// One `i32` as the result.
pub fn returned(value: i32) -> CallOutcome {
    CallOutcome::Returned(vec![Value::I32(value)])
}

/// Panics unless it is a trap with exactly this message.
#[track_caller]
pub fn assert_trap(outcome: &CallOutcome, message: &str) {
    match outcome {
        CallOutcome::Trapped(trap) => assert_eq!(trap.message, message),
        other => panic!("{message}: {other:?}"),
    }
}

/// The only result, 32 bits: a handle, for one.
#[track_caller]
pub fn number_in(outcome: CallOutcome) -> u32 {
    match outcome {
        CallOutcome::Returned(results) => match results[..] {
            [Value::I32(number)] => number as u32,
            _ => panic!("{results:?}"),
        },
        other => panic!("{other:?}"),
    }
}
