//! Handles that a call gives out are the guest's when its results are, and otherwise gone.

use std::sync::Arc;

use interface::{Interface, Reply, Value as V};
use ipc::report::{CallOutcome, Value};
use supervisor::{CallContext, Config, HostError, Service, Session, Supervisor};
use whole_system_tests::sessions::{self, call};

const INTERFACE: &str = r#"interface = "m"
[[handle]]
name = "thing"
[[error]]
name = "fault"
cases = ["full", "other"]
[[function]]
name = "make"
params = [{ name = "mode", type = "u32" }]
results = [{ name = "made", type = "thing" }, { name = "label", type = "string" }]
error = "fault"
overflow = "full"
[[function]]
name = "strict"
params = [{ name = "mode", type = "u32" }]
results = [{ name = "made", type = "thing" }, { name = "label", type = "string" }]
[[function]]
name = "late"
params = [{ name = "mode", type = "u32" }]
results = [{ name = "made", type = "thing" }, { name = "label", type = "string" }]
deadline = "50ms"
"#;

const GUEST: &str = r#"(module
  (import "m" "make" (func $make (param i32 i32 i32 i32 i32) (result i32)))
  (import "m" "strict" (func $strict (param i32 i32 i32 i32 i32)))
  (import "m" "late" (func $late (param i32 i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (func (export "make") (param i32) (result i32)
    (call $make (local.get 0) (i32.const 8) (i32.const 16) (i32.const 4) (i32.const 24)))
  (func (export "strict") (param i32)
    (call $strict (local.get 0) (i32.const 8) (i32.const 16) (i32.const 4) (i32.const 24)))
  (func (export "late") (param i32)
    (call $late (local.get 0) (i32.const 8) (i32.const 16) (i32.const 4) (i32.const 24)))
  (func (export "_start")))"#;

/// One of these is behind every handle: as many as there are handles that are open.
type Token = Arc<()>;

const RIGHT: u32 = 0;
const TOO_LONG: u32 = 1;
const ERROR: u32 = 2;
const FAILURE: u32 = 3;
const PANIC: u32 = 4;
const NO_CASE: u32 = 5;
const WRONG_TYPE: u32 = 6;
const TOO_FEW: u32 = 7;
const LATE: u32 = 8;

async fn make(token: Token, context: CallContext, arguments: Vec<V>) -> Result<Reply, HostError> {
    let made = context.insert("thing", Arc::clone(&token))?;
    let spare = context.insert("thing", token)?;
    // What the function itself removes is gone already.
    context.remove::<Token>(&spare)?;
    let label = |text: &str| V::String(text.to_owned());
    match arguments[..] {
        [V::U32(RIGHT)] => Ok(Reply::Values(vec![made, label("four")])),
        [V::U32(TOO_LONG)] => Ok(Reply::Values(vec![made, label("fives")])),
        [V::U32(ERROR)] => Ok(Reply::Error(2)),
        [V::U32(PANIC)] => panic!("a host function of a test panics"),
        [V::U32(NO_CASE)] => Ok(Reply::Error(3)),
        [V::U32(WRONG_TYPE)] => Ok(Reply::Values(vec![made, V::U8(1)])),
        [V::U32(TOO_FEW)] => Ok(Reply::Values(vec![made])),
        [V::U32(LATE)] => std::future::pending().await,
        _ => Err("it was asked to".into()),
    }
}

async fn started(token: &Token) -> (Supervisor, Session) {
    let compile = compiler::Options { open_imports: true, ..compiler::Options::default() };
    let config = Config { compile, shards: 1, ..Config::default() };
    let supervisor = Supervisor::start(config).expect("a supervisor");
    let mut service = Service::new(Interface::parse(INTERFACE, "m.toml").expect("sound"));
    for name in ["make", "strict", "late"] {
        let token = Arc::clone(token);
        let serve = move |context, arguments| make(Arc::clone(&token), context, arguments);
        service.function(name, serve).expect("it is declared");
    }
    let mut job = sessions::job(&supervisor, GUEST).await;
    job.imports.serve(&service).expect("every function is served");
    drop(service);
    let session = sessions::started(&supervisor, job).await;
    (supervisor, session)
}

#[tokio::test]
async fn handles_of_a_call_without_results_are_taken_back() {
    let token = Token::default();
    let (_supervisor, mut session) = started(&token).await;
    let others = Arc::strong_count(&token);
    let open = || Arc::strong_count(&token) - others;
    let mode = |mode: u32| [Value::I32(mode as i32)];
    assert_eq!(call(&mut session, "make", &mode(RIGHT)).await, CallOutcome::Returned(vec![Value::I32(0)]));
    assert_eq!(open(), 1);
    let kept = session.read_memory("memory", 8, 4).await.expect("memory");
    for (count, code) in [(TOO_LONG, 1), (ERROR, 2)] {
        assert_eq!(
            call(&mut session, "make", &mode(count)).await,
            CallOutcome::Returned(vec![Value::I32(code)])
        );
        assert_eq!(open(), 1, "mode {count}");
    }
    for (name, modes) in [
        ("make", &[FAILURE, PANIC, NO_CASE, WRONG_TYPE, TOO_FEW][..]),
        ("strict", &[TOO_LONG, ERROR, FAILURE, PANIC, WRONG_TYPE, TOO_FEW]),
        ("late", &[LATE]),
    ] {
        for count in modes {
            let outcome = call(&mut session, name, &mode(*count)).await;
            assert!(matches!(outcome, CallOutcome::Trapped(_)), "{name} {count}: {outcome:?}");
            assert_eq!(open(), 1, "{name} {count}");
        }
    }
    assert_eq!(session.read_memory("memory", 8, 4).await.expect("memory"), kept, "nothing else has arrived");
    assert_eq!(call(&mut session, "strict", &mode(RIGHT)).await, CallOutcome::Returned(vec![]));
    assert_eq!(open(), 2, "what the guest has stays");
    session.end().await.expect("a report");
    assert!(Arc::strong_count(&token) <= others, "nothing outlives the session");
}
