//! The daemon against clients that break the rules of sessions and of functions that they serve.

use std::fs::File;
use std::os::fd::AsFd;

use ipc::protocol::{
    CallId, EntryRequest, ErrorKind, FRAME_MAX, FunctionImport, HandleChanges, HostCall, HostResult,
    HostReturn, IMPORTS_MAX, ImportItem, ImportRequest, Invocation, LimitsRequest, MEMORY_BYTES_MAX,
    MemoryName, Payload, Request, Response, RunRequest, SessionId, SessionOperation, SessionReply,
    SessionRequest, SetupRequest, encode,
};
use ipc::report::{CallOutcome, Limit, LimitReached, Outcome, Value};
use ipc::types::ValueType;
use whole_system_tests::raw_client::{RawClient, setup};
use whole_system_tests::{Daemon, PATIENCE, Scratch, assert_no_orphans, guests, run};

const CALLER: &str = r#"(module
  (import "host" "f" (func $f (result i32)))
  (memory (export "memory") 1)
  (func (export "f") (result i32) (call $f))
  (func (export "go") (result i32) (i32.const 5))
  (func (export "_start") (drop (call $f))))"#;

fn module(text: &str) -> File {
    File::open(Scratch::new().module("module.wasm", text)).expect("open")
}

fn function(params: usize, deadline_ns: Option<u64>) -> ImportItem {
    let (params, results) = (vec![ValueType::I32; params], vec![ValueType::I32]);
    ImportItem::Function(FunctionImport { params, results, deadline_ns })
}

fn import(name: &str, item: ImportItem) -> ImportRequest {
    ImportRequest { module: "host".into(), name: name.into(), item }
}

fn caller() -> SetupRequest {
    SetupRequest { imports: vec![import("f", function(0, None))], ..setup() }
}

fn run_of(setup: SetupRequest) -> Request {
    Request::Run(RunRequest { setup, entry: EntryRequest::Command })
}

fn returned(call: CallId, values: &[Value]) -> Request {
    answered(call, HostResult::Returned(Payload::Values(values.to_vec())))
}

fn answered(call: CallId, result: HostResult) -> Request {
    Request::HostReturn(HostReturn { call, result, handles: HandleChanges::default() })
}

fn host_call(client: &mut RawClient) -> CallId {
    match client.response() {
        Response::HostCall(HostCall { call, invocation: Invocation::Values { import: 0, arguments } })
            if arguments.is_empty() =>
        {
            call
        }
        other => panic!("{other:?}"),
    }
}

/// A client with a session of [`CALLER`] that is started.
fn session(daemon: &Daemon, setup: SetupRequest) -> (RawClient, SessionId) {
    let mut client = RawClient::greeted(daemon);
    client.request(&Request::OpenSession(setup), &[module(CALLER).as_fd()]);
    let Response::SessionOpened(id) = client.response() else { panic!("not opened") };
    operate(&mut client, id, SessionOperation::Start { timeout_ns: None });
    assert_eq!(called(&mut client), CallOutcome::Returned(vec![]));
    (client, id)
}

fn operate(client: &mut RawClient, session: SessionId, operation: SessionOperation) {
    client.request(&Request::Session(SessionRequest { session, operation }), &[]);
}

fn call(name: &str) -> SessionOperation {
    SessionOperation::Call { name: name.into(), args: vec![], timeout_ns: None }
}

#[track_caller]
fn called(client: &mut RawClient) -> CallOutcome {
    match client.response() {
        Response::Session(SessionReply::Called(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn expect_trap(client: &mut RawClient, message: &str) {
    match called(client) {
        CallOutcome::Trapped(trap) => {
            assert_eq!(trap.message, format!("host function \"host.f\" failed: {message}"))
        }
        other => panic!("{other:?}"),
    }
}

/// The daemon still serves.
fn assert_serves(daemon: &Daemon) {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    assert_eq!(
        run(scratch.sandboxctl_run(Some(daemon)).arg("hello.wasm")).expect_status(0).text(),
        "hello\n"
    );
}

#[test]
fn an_answer_to_no_call_ends_the_connection() {
    let daemon = Daemon::start();
    // Before there was any job; and while a job waits for another answer.
    let mut client = RawClient::greeted(&daemon);
    client.request(&returned(CallId(0), &[]), &[]);
    client.expect_end("call 0 is answered, which was never made");
    let mut client = RawClient::greeted(&daemon);
    client.request(&run_of(caller()), &[module(CALLER).as_fd()]);
    let CallId(id) = host_call(&mut client);
    client.request(&returned(CallId(id + 1), &[Value::I32(1)]), &[]);
    client.expect_end("is answered, which was never made");
    // With a descriptor.
    let mut client = RawClient::greeted(&daemon);
    client.request(&run_of(caller()), &[module(CALLER).as_fd()]);
    let id = host_call(&mut client);
    client.request(&returned(id, &[Value::I32(1)]), &[module(CALLER).as_fd()]);
    client.expect_end("does not name it");
    assert_serves(&daemon);
    assert_no_orphans();
}

#[test]
fn a_second_answer_ends_the_connection() {
    let daemon = Daemon::start();
    let (mut client, session) = session(&daemon, caller());
    operate(&mut client, session, call("f"));
    let id = host_call(&mut client);
    client.request(&returned(id, &[Value::I32(1)]), &[]);
    assert_eq!(called(&mut client), CallOutcome::Returned(vec![Value::I32(1)]));
    client.request(&returned(id, &[Value::I32(2)]), &[]);
    client.expect_end("is answered a second time");
    // The same while another call waits, which it must not reach.
    let (mut client, session) = self::session(&daemon, caller());
    operate(&mut client, session, call("f"));
    let first = host_call(&mut client);
    client.request(&returned(first, &[Value::I32(1)]), &[]);
    assert_eq!(called(&mut client), CallOutcome::Returned(vec![Value::I32(1)]));
    operate(&mut client, session, call("f"));
    assert_ne!(host_call(&mut client), first);
    client.request(&returned(first, &[Value::I32(2)]), &[]);
    client.expect_end("is answered a second time");
    assert_serves(&daemon);
}

#[test]
fn an_answer_of_other_values_fails_its_call_only() {
    let daemon = Daemon::start();
    let (mut client, session) = session(&daemon, caller());
    for (values, message) in [
        (&[][..], "the client's answer has 0 values instead of 1"),
        (&[Value::I32(1), Value::I32(2)], "the client's answer has 2 values instead of 1"),
        (&[Value::I64(1)], "the client's answer has an i64 instead of an i32 as value 0"),
        (&[Value::FuncRef(true)], "the client's answer has an funcref instead of an i32 as value 0"),
        (&[Value::I32(1); 100_000], "the client's answer has 100000 values instead of 1"),
    ] {
        operate(&mut client, session, call("f"));
        let id = host_call(&mut client);
        client.request(&returned(id, values), &[]);
        expect_trap(&mut client, message);
    }
    for (result, message) in [
        (HostResult::Failed("two\nlines".into()), "two lines".to_owned()),
        (HostResult::Failed("x".repeat(1 << 20)), "x".repeat(ipc::protocol::MESSAGE_MAX)),
        (
            HostResult::Error(1),
            "the client's answer is of an interface, which the function is not".to_owned(),
        ),
    ] {
        operate(&mut client, session, call("f"));
        let id = host_call(&mut client);
        client.request(&answered(id, result), &[]);
        expect_trap(&mut client, &message);
    }
    operate(&mut client, session, call("go"));
    assert_eq!(called(&mut client), CallOutcome::Returned(vec![Value::I32(5)]));
}

#[test]
fn an_answer_that_comes_too_late_is_ignored_once() {
    let daemon = Daemon::start();
    // By a deadline.
    let hurried = SetupRequest { imports: vec![import("f", function(0, Some(20_000_000)))], ..setup() };
    let (mut client, session) = session(&daemon, hurried);
    operate(&mut client, session, call("f"));
    let late = host_call(&mut client);
    expect_trap(&mut client, "it did not answer within its deadline of 20ms");
    client.request(&returned(late, &[Value::I32(1)]), &[]);
    operate(&mut client, session, call("go"));
    assert_eq!(called(&mut client), CallOutcome::Returned(vec![Value::I32(5)]));
    client.request(&returned(late, &[Value::I32(1)]), &[]);
    client.expect_end("is answered a second time");
    // By a cancellation.
    let mut client = RawClient::greeted(&daemon);
    client.request(&run_of(caller()), &[module(CALLER).as_fd()]);
    let late = host_call(&mut client);
    client.request(&Request::Cancel, &[]);
    match client.response() {
        Response::Report(report) => assert_eq!(report.outcome, Outcome::Cancelled),
        other => panic!("{other:?}"),
    }
    client.request(&returned(late, &[Value::I32(1)]), &[]);
    assert_eq!(client.jobs(), 0);
    assert_serves(&daemon);
}

#[test]
fn a_client_that_never_answers_is_waited_for_no_longer_than_its_job() {
    let daemon = Daemon::start();
    let limits = LimitsRequest { wall_time_ns: Some(50_000_000), ..LimitsRequest::default() };
    let mut client = RawClient::greeted(&daemon);
    client.request(&run_of(SetupRequest { limits, ..caller() }), &[module(CALLER).as_fd()]);
    host_call(&mut client);
    match client.response() {
        Response::Report(report) => {
            let limit = LimitReached { limit: Limit::WallTime, value: 50_000_000 };
            assert_eq!(report.outcome, Outcome::LimitReached(limit));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(client.jobs(), 0);
}

#[test]
fn another_request_while_a_call_waits_ends_the_connection() {
    let daemon = Daemon::start();
    let (mut client, session) = session(&daemon, caller());
    operate(&mut client, session, call("f"));
    host_call(&mut client);
    operate(&mut client, session, call("go"));
    client.expect_end("a request came while another was being served");
    let mut observer = RawClient::greeted(&daemon);
    wait_until("the session is gone", || observer.jobs() == 0);
}

#[test]
fn a_client_that_vanishes_takes_its_sessions_with_it() {
    let daemon = Daemon::start();
    let (waiting, session) = session(&daemon, caller());
    let (idle, _) = self::session(&daemon, caller());
    let mut waiting = waiting;
    operate(&mut waiting, session, call("f"));
    host_call(&mut waiting);
    let mut observer = RawClient::greeted(&daemon);
    assert_eq!(observer.jobs(), 2);
    drop((waiting, idle));
    wait_until("the sessions are gone", || observer.jobs() == 0);
    assert_serves(&daemon);
}

/// Waits for something that another process does.
#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "in vain waited until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn imports_that_cannot_be() {
    let daemon = Daemon::start();
    let mut client = RawClient::greeted(&daemon);
    let many = (0..=IMPORTS_MAX).map(|n| import(&n.to_string(), function(0, None))).collect();
    for (imports, needle) in [
        (many, "1025 imports are provided; a job or session may have 1024"),
        (
            vec![import("f", function(0, None)), import("f", function(1, None))],
            "\"host\" \"f\" is provided twice",
        ),
        (vec![import("f", function(1025, None))], "1025 parameters or results; at most 1024"),
        (
            vec![import("f", ImportItem::Global { value: Value::FuncRef(true), mutable: false })],
            "incompatible",
        ),
        (
            vec![import("f", ImportItem::Memory { pages: u64::MAX, max: Some(0), memory64: true })],
            "incompatible",
        ),
        (vec![import("f", function(1, None))], "incompatible"),
        (vec![import("g", function(0, None))], "unknown import"),
    ] {
        for request in [run_of, Request::OpenSession as fn(SetupRequest) -> Request] {
            let request = request(SetupRequest { imports: imports.clone(), ..setup() });
            client.request(&request, &[module(CALLER).as_fd()]);
            let (kind, message) = client.error();
            assert_eq!(kind, ErrorKind::Job, "{message}");
            assert!(message.contains(needle), "{needle:?} expected in: {message}");
        }
    }
    assert_eq!(client.jobs(), 0);
}

#[test]
fn sessions_that_there_are_not_and_messages_that_are_too_large() {
    let daemon = Daemon::start();
    let (mut client, session) = session(&daemon, caller());
    let SessionId(number) = session;
    let (mut other, _) = self::session(&daemon, caller());
    let memory = || MemoryName::Index(0);
    let refused = |client: &mut RawClient, session, operation, needle: &str| {
        operate(client, session, operation);
        let (kind, message) = client.error();
        assert_eq!(kind, ErrorKind::Session);
        assert!(message.contains(needle), "{needle:?} expected in: {message}");
    };
    let absent = SessionId(number + 1);
    for operation in [SessionOperation::Usage, call("go"), SessionOperation::Reset, SessionOperation::End] {
        refused(&mut client, absent, operation, "is not open on this connection");
    }
    let length = MEMORY_BYTES_MAX as u32 + 1;
    let read = |length| SessionOperation::Read { memory: memory(), offset: 0, length };
    refused(&mut client, session, read(length), "one message may have 1048576");
    refused(&mut client, session, read(u32::MAX), "one message may have 1048576");
    refused(&mut client, session, read(MEMORY_BYTES_MAX as u32), "do not lie in the memory");
    let bytes = ipc::protocol::Bytes(vec![1; MEMORY_BYTES_MAX + 1]);
    let write = SessionOperation::Write { memory: memory(), offset: 0, bytes };
    refused(&mut client, session, write, "one message may have 1048576");
    // An end is one.
    operate(&mut client, session, SessionOperation::End);
    assert!(matches!(client.response(), Response::Report(_)));
    refused(&mut client, session, SessionOperation::End, "is not open");
    // Ids mean nothing on another connection.
    operate(&mut other, SessionId(number), SessionOperation::Usage);
    assert!(matches!(other.response(), Response::Session(SessionReply::Usage(_))));
    // A frame beyond the maximum, announced while a call waits.
    let (mut client, session) = self::session(&daemon, caller());
    operate(&mut client, session, call("f"));
    host_call(&mut client);
    client.send(&(FRAME_MAX as u32 + 1).to_le_bytes(), &[]);
    client.expect_end("longer than the protocol allows");
    let (mut client, session) = self::session(&daemon, caller());
    operate(&mut client, session, call("f"));
    let id = host_call(&mut client);
    let mut cut = encode(&returned(id, &[Value::I32(1)])).expect("encode");
    cut[4..].fill(0xff);
    client.send(&cut, &[]);
    client.expect_end("no valid message");
    assert_serves(&daemon);
}

#[test]
fn a_session_takes_no_descriptors_after_it_is_open() {
    let daemon = Daemon::start();
    let (mut client, session) = session(&daemon, caller());
    let request = Request::Session(SessionRequest { session, operation: SessionOperation::Usage });
    client.request(&request, &[module(CALLER).as_fd()]);
    client.expect_end("does not name it");
}
