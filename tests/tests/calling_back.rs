//! Host functions that call the session whose call they serve: an error at once, by whatever way they come.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use compiler::Options;
use interface::{Interface, Reply};
use ipc::report::Outcome;
use supervisor::{
    CallOutcome, Config, Entry, Error, Extern, HostError, HostFunction, Imports, Service, SharedSession,
    Supervisor,
};
use tokio::runtime::Handle;
use whole_system_tests::sessions::{self, assert_trap, call, returned};

const INTERFACE: &str = r#"
interface = "t"
[[function]]
name = "go"
[[function]]
name = "go_blocking"
blocking = true
[[function]]
name = "go_late"
deadline = "50ms"
"#;

const GUEST: &str = r#"(module
  (import "t" "go" (func $go)) (import "t" "go_blocking" (func $go_blocking)) (import "t" "go_late" (func $go_late))
  (import "raw" "go" (func $raw))
  (export "go" (func $go)) (export "go_blocking" (func $go_blocking)) (export "go_late" (func $go_late))
  (export "raw" (func $raw))
  (func (export "one") (result i32) (i32.const 1)))"#;

/// The session that host functions call.
type Target = Arc<OnceLock<SharedSession>>;

fn text(error: Error) -> HostError {
    error.to_string().into()
}

async fn call_one(target: &Target) -> Result<(), HostError> {
    let session = target.get().ok_or("there is no session")?;
    let outcome = session.lock().await.map_err(text)?.call("one", &[]).await.map_err(text)?;
    match outcome {
        CallOutcome::Returned(_) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

/// Imports whose functions do what `go` does.
fn imports<F>(target: &Target, go: impl Fn(Target) -> F + Clone + Send + Sync + 'static) -> Imports
where
    F: Future<Output = Result<(), HostError>> + Send + 'static,
{
    let reply = |done: Result<(), HostError>| done.map(|()| Reply::Values(Vec::new()));
    let mut service = Service::new(Interface::parse(INTERFACE, "t.toml").unwrap());
    for name in ["go", "go_late"] {
        let (target, go) = (Arc::clone(target), go.clone());
        service
            .function(name, move |_, _| {
                let going = go(Arc::clone(&target));
                async move { reply(going.await) }
            })
            .unwrap();
    }
    let (at, going, runtime) = (Arc::clone(target), go.clone(), Handle::current());
    service.blocking("go_blocking", move |_, _| reply(runtime.block_on(going(Arc::clone(&at))))).unwrap();
    let mut imports = Imports::default();
    imports.serve(&service).unwrap();
    let at = Arc::clone(target);
    let raw = move |_| {
        let going = go(Arc::clone(&at));
        async move { going.await.map(|()| Vec::new()) }
    };
    imports.define("raw", "go", Extern::Function(HostFunction::new([], [], raw)));
    imports
}

fn supervisor() -> Supervisor {
    let compile = Options { open_imports: true, ..Options::default() };
    Supervisor::start(Config { compile, shards: 2, ..Config::default() }).expect("a supervisor")
}

async fn shared(supervisor: &Supervisor, imports: Imports) -> SharedSession {
    let mut job = sessions::job(supervisor, GUEST).await;
    job.imports = imports;
    sessions::started(supervisor, job).await.into()
}

/// What becomes of a call that would wait forever without the error.
async fn called(session: &SharedSession, name: &str) -> CallOutcome {
    let limit = Some(Duration::from_secs(60));
    session.lock().await.unwrap().call_within(name, &[], limit).await.unwrap()
}

fn called_back(function: &str) -> String {
    format!("host function \"{function}\" failed: {}", Error::SessionCalledBack)
}

#[tokio::test]
async fn a_function_that_calls_its_own_session_back_gets_an_error() {
    let supervisor = supervisor();
    let target = Target::default();
    let session = shared(&supervisor, imports(&target, async |target: Target| call_one(&target).await)).await;
    target.set(session.clone()).unwrap();
    for (export, function) in
        [("go", "t.go"), ("go_late", "t.go_late"), ("go_blocking", "t.go_blocking"), ("raw", "raw.go")]
    {
        assert_trap(&called(&session, export).await, &called_back(function));
    }
    // Nothing of that stays.
    assert_eq!(call(&mut session.lock().await.unwrap(), "one", &[]).await, returned(1));
}

#[tokio::test]
async fn so_does_one_that_comes_by_way_of_another_session() {
    let supervisor = supervisor();
    let (first, second) = (Target::default(), Target::default());
    let back = imports(&first, async |target: Target| call_one(&target).await);
    let inner = shared(&supervisor, back).await;
    second.set(inner.clone()).unwrap();
    // Each of its functions has the other session call `go_blocking`, whose trap it passes on.
    let forth = imports(&second, async |target: Target| {
        let session = target.get().ok_or("there is no session")?;
        let outcome = session.lock().await.map_err(text)?.call("go_blocking", &[]).await.map_err(text)?;
        match outcome {
            CallOutcome::Returned(_) => Ok(()),
            CallOutcome::Trapped(trap) => Err(trap.into()),
            other => Err(format!("{other:?}").into()),
        }
    });
    let outer = shared(&supervisor, forth).await;
    first.set(outer.clone()).unwrap();
    for export in ["go", "go_blocking", "raw"] {
        assert_trap(&called(&outer, export).await, &called_back("t.go_blocking"));
    }
    // From outside of the first it is no calling back: the inner one calls it, and it returns.
    assert_eq!(called(&inner, "go").await, CallOutcome::Returned(Vec::new()));
}

#[tokio::test]
async fn so_does_one_that_comes_by_way_of_a_job() {
    let supervisor = supervisor();
    let target = Target::default();
    let back = imports(&target, async |target: Target| call_one(&target).await);
    let runs = supervisor.clone();
    let run = imports(&target, move |_| {
        let (supervisor, imports) = (runs.clone(), back.clone());
        async move {
            let mut job = sessions::job(&supervisor, GUEST).await;
            job.imports = imports;
            job.entry = Entry::Export { name: "go".to_owned(), args: Vec::new() };
            match supervisor.run(job).await.map_err(text)?.outcome {
                Outcome::Trapped(trap) => Err(trap.into()),
                other => Err(format!("{other:?}").into()),
            }
        }
    });
    let session = shared(&supervisor, run).await;
    target.set(session.clone()).unwrap();
    for export in ["go", "go_blocking"] {
        assert_trap(&called(&session, export).await, &called_back("t.go"));
    }
}

/// A session that a host function opens, or has, is nobody else's: calls of it are no calling back, then or later.
#[tokio::test]
async fn other_sessions_can_be_called_and_callers_take_turns() {
    let supervisor = supervisor();
    let (own, opened) = (Target::default(), Target::default());
    let (opens, kept, at) = (supervisor.clone(), Arc::clone(&opened), Arc::clone(&own));
    let open = imports(&own, move |_| {
        let (supervisor, kept, at) = (opens.clone(), Arc::clone(&kept), Arc::clone(&at));
        async move {
            let session = shared(&supervisor, imports(&at, async |own: Target| call_one(&own).await)).await;
            let _ = kept.set(session);
            call_one(&kept).await
        }
    });
    let session = shared(&supervisor, open).await;
    own.set(session.clone()).unwrap();
    assert_eq!(called(&session, "go").await, CallOutcome::Returned(Vec::new()));
    // It was opened in a call of the first session, which is over.
    assert_eq!(called(opened.get().unwrap(), "go").await, CallOutcome::Returned(Vec::new()));
    let turns = (0..8).map(|_| {
        let session = session.clone();
        tokio::spawn(async move { call(&mut session.lock().await.unwrap(), "one", &[]).await })
    });
    for turn in turns.collect::<Vec<_>>() {
        assert_eq!(turn.await.unwrap(), returned(1));
    }
    let again = session.clone();
    let session = session.try_unwrap().expect_err("two clones and the target");
    drop((again, own));
    drop(session);
}

/// What a host function starts is not known to be its own: it waits, as long as the function may.
#[tokio::test]
async fn a_task_that_a_function_starts_waits_until_the_deadline() {
    let supervisor = supervisor();
    let target = Target::default();
    let runtime = Handle::current();
    let spawn = imports(&target, move |target: Target| {
        let task = runtime.spawn(async move { call_one(&target).await });
        async move { task.await.map_err(|error| error.to_string())? }
    });
    let session = shared(&supervisor, spawn).await;
    target.set(session.clone()).unwrap();
    let outcome = called(&session, "go_late").await;
    assert_trap(
        &outcome,
        "host function \"t.go_late\" failed: it did not answer within its deadline of 50ms",
    );
    // Once the call is over, the task gets its turn, and everybody else.
    assert_eq!(call(&mut session.lock().await.unwrap(), "one", &[]).await, returned(1));
}
