//! Typed functions that a client of the daemon serves: the same rules hold as for a host app with the library.

use std::sync::mpsc;
use std::time::Duration;

use client::interface::Interface;
use client::{
    CallOutcome, Client, Error, ErrorKind, JobRequest, ModuleFile, PolicyRequest, Service, Session,
};
use compiler::Options;
use ipc::protocol::{FRAME_MAX, INTERFACES_BYTES_MAX, INTERFACES_MAX};
use ipc::report::{Limit, LimitReached, Outcome};
use supervisor::{Config, Supervisor};
use whole_system_tests::sessions::{self, assert_trap, returned};
use whole_system_tests::typed_guest::{GUEST, i32s, interface, service};
use whole_system_tests::{Daemon, PATIENCE, Scratch, assert_no_orphans};

type Events = mpsc::Receiver<&'static str>;

async fn connect(daemon: &Daemon) -> Client {
    Client::connect(daemon.socket()).await.expect("a connection")
}

fn job_of(guest: &str, service: &Service) -> JobRequest {
    let scratch = Scratch::new();
    let module = ModuleFile::open(&scratch.module("guest.wasm", guest)).expect("a module");
    let mut job = JobRequest::command(module);
    job.imports.serve(service).expect("every function is served");
    job
}

fn job() -> (JobRequest, Events) {
    let (sender, events) = mpsc::channel();
    (job_of(GUEST, &service(&sender)), events)
}

async fn started(client: &mut Client) -> (Session, Events) {
    let (job, events) = job();
    let mut session = client.session(job).await.expect("a session");
    assert_eq!(session.start().await.expect("an outcome"), CallOutcome::Returned(vec![]));
    (session, events)
}

async fn call(session: &mut Session, name: &str, args: &[u32]) -> CallOutcome {
    session.call(name, &i32s(args)).await.expect("an outcome")
}

async fn handle(session: &mut Session, name: &str) -> u32 {
    sessions::number_in(call(session, name, &[]).await)
}

fn dropped(events: &Events) -> usize {
    events.try_iter().filter(|event| *event == "dropped").count()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> (ErrorKind, String) {
    match result {
        Err(Error::Daemon(reply)) => (reply.kind, reply.message),
        other => panic!("{other:?}"),
    }
}

/// What a guest does; each with a name, arguments, and bytes of the memory that are of interest afterwards.
const STEPS: &[(&str, &[u32], u64)] = &[
    ("add", &[-5i32 as u32, 7], 0),
    ("add", &[1, 256], 0),
    ("points", &[8, 2, 100, 3, 64, 2, 200, 300, 32, 400], 200),
    ("points", &[8, 2, 100, 3, 64, 2, 200, 300, 7, 400], 300),
    ("points", &[8, 2, 101, 1, 64, 2, 200, 300, 16, 400], 200),
    ("points", &[8, 0, 100, 3, 64, 2, 200, 300, 16, 400], 200),
    ("points", &[8, 2, 100, 3, 64, 2, 0xffff_fff0, 300, 16, 400], 200),
    ("open", &[], 0),
    ("open_other", &[], 0),
    ("get", &[0x1_0000, 100, 3, 500, 16, 600], 500),
    ("get", &[0x1_0000, 100, 0, 500, 16, 600], 500),
    ("get", &[0x1_0000, 120, 3, 500, 16, 600], 500),
    ("get", &[0x1_0000, 100, 3, 500, 2, 600], 600),
    ("get", &[0x1_0001, 100, 3, 500, 16, 600], 500),
    ("get", &[0, 100, 3, 500, 16, 600], 500),
    ("close", &[0x1_0000], 0),
    ("close", &[0x1_0000], 0),
    ("get", &[0x1_0000, 100, 3, 500, 16, 600], 500),
    ("open", &[], 0),
    ("get", &[0x2_0000, 100, 3, 500, 16, 600], 500),
    ("answer", &[0, 700, 704, 8, 712, 716], 704),
    ("answer", &[1, 700, 704, 8, 712, 716], 704),
    ("answer", &[2, 700, 704, 8, 712, 716], 704),
    ("answer", &[3, 700, 704, 8, 712, 716], 704),
    ("answer", &[4, 700, 704, 8, 712, 716], 704),
    ("answer", &[5, 700, 704, 8, 712, 716], 704),
    ("answer", &[6, 700, 704, 8, 712, 716], 704),
    ("answer", &[8, 700, 704, 8, 712, 716], 704),
    ("answer", &[9, 700, 704, 8, 712, 716], 704),
    ("answer", &[10, 700, 704, 8, 712, 716], 704),
    ("answer", &[11, 700, 704, 8, 712, 716], 704),
    ("answer", &[7, 700, 704, 8, 712, 716], 704),
    ("take", &[0, 1 << 20], 0),
    ("give", &[1 << 20, 1024, 1 << 20, 0], 0),
    ("wait", &[], 0),
    ("slow", &[], 0),
    ("panic_now", &[], 0),
    ("one", &[], 0),
];

/// The memory that they find: two points at 8, two numbers at 64, words at 100, a bad key at 120.
fn memory() -> Vec<u8> {
    let mut memory = vec![0; 128];
    for (at, tag, x, color) in [(8, 1i8, 0.5f64, 2u32), (32, -2, 1.5, 1)] {
        memory[at] = tag as u8;
        memory[at + 8..at + 16].copy_from_slice(&x.to_le_bytes());
        memory[at + 16..at + 20].copy_from_slice(&color.to_le_bytes());
    }
    memory[64] = 5;
    memory[68] = 6;
    memory[100..103].copy_from_slice("é!".as_bytes());
    memory[120..123].copy_from_slice(b"bad");
    memory
}

/// The outcome, whatever number a handle has that a reply was refused for: a client is not told of the refusal, so that what it has inserted
/// for the reply stays, and the next handle has another place.
fn without_handle(outcome: &CallOutcome) -> CallOutcome {
    let CallOutcome::Trapped(trap) = outcome else { return outcome.clone() };
    let mut trap = trap.clone();
    if let Some((before, after)) = trap.message.split_once("result thing: 0x") {
        let after = after.trim_start_matches(|c: char| c.is_ascii_hexdigit());
        trap.message = format!("{before}result thing: {after}");
    }
    CallOutcome::Trapped(trap)
}

#[tokio::test]
async fn a_client_gets_and_answers_what_a_host_app_does() {
    let daemon = Daemon::start();
    let mut client = connect(&daemon).await;
    let (mut over_socket, _events) = started(&mut client).await;
    let compile = Options { open_imports: true, ..Options::default() };
    let supervisor =
        Supervisor::start(Config { compile, shards: 1, ..Config::default() }).expect("a supervisor");
    let (sender, _library_events) = mpsc::channel();
    let mut job = sessions::job(&supervisor, GUEST).await;
    job.imports.serve(&service(&sender)).expect("every function is served");
    let mut in_library = sessions::started(&supervisor, job).await;
    over_socket.write_memory("memory", 0, &memory()).await.unwrap();
    in_library.write_memory("memory", 0, &memory()).await.unwrap();
    let (mut returned, mut trapped) = (0, 0);
    for (number, (name, args, at)) in STEPS.iter().enumerate() {
        let outcome = call(&mut over_socket, name, args).await;
        let expected = sessions::call(&mut in_library, name, &i32s(args)).await;
        assert_eq!(without_handle(&outcome), without_handle(&expected), "{number}: {name}");
        match outcome {
            CallOutcome::Returned(_) => returned += 1,
            CallOutcome::Trapped(_) => trapped += 1,
            CallOutcome::Ended(_) => panic!("{number}: {name}: {outcome:?}"),
        }
        let seen = over_socket.read_memory("memory", *at, 128).await.unwrap();
        assert_eq!(seen, in_library.read_memory("memory", *at, 128).await.unwrap(), "{number}: {name}");
    }
    assert_eq!((returned, trapped), (15, 23), "of the {} steps", STEPS.len());
}

#[tokio::test]
async fn handles_live_in_the_client_and_end_with_their_instance() {
    let daemon = Daemon::start();
    let mut client = connect(&daemon).await;
    let (mut session, events) = started(&mut client).await;
    let (first, second) = (handle(&mut session, "open").await, handle(&mut session, "open").await);
    assert_ne!(first, second);
    assert_eq!(call(&mut session, "close", &[first]).await, CallOutcome::Returned(vec![]));
    assert_eq!(dropped(&events), 1);
    // Its place is used again under another number.
    let third = handle(&mut session, "open").await;
    assert!(third != first && third as u16 == first as u16);
    assert_trap(
        &call(&mut session, "close", &[first]).await,
        &format!(
            "host function \"t.close\" was called wrongly: closed: {first:#x} is no thing: it was removed"
        ),
    );
    // Things end with the instance that had them, and so do handles.
    session.reset().await.unwrap();
    assert_eq!(dropped(&events), 2);
    session.start().await.unwrap();
    assert_trap(
        &call(&mut session, "close", &[second]).await,
        &format!(
            "host function \"t.close\" was called wrongly: closed: {second:#x} is no thing: the job was given no such handle"
        ),
    );
    assert_eq!(handle(&mut session, "open").await, 0x1_0000);
    // An instance that ends, too.
    let outcome = session.call_until("forever", &[], std::future::ready(())).await.unwrap();
    assert_eq!(outcome, CallOutcome::Ended(Outcome::Cancelled));
    assert!(dropped(&events) >= 1);
    session.end().await.unwrap();
    // And a job's.
    let (job, events) = job();
    let report = client.run(job).await.unwrap();
    assert_eq!(report.outcome, Outcome::Exited { code: 0, results: vec![] });
    assert_eq!(dropped(&events), 3);
    assert_no_orphans();
}

#[tokio::test]
async fn a_call_that_is_given_up_is_dropped_in_the_client() {
    let daemon = Daemon::start();
    let mut client = connect(&daemon).await;
    let (mut session, events) = started(&mut client).await;
    assert_trap(
        &call(&mut session, "wait", &[]).await,
        "host function \"t.wait\" failed: it did not answer within its deadline of 50ms",
    );
    assert_eq!(events.try_iter().collect::<Vec<_>>(), ["called", "dropped"]);
    assert_eq!(call(&mut session, "one", &[]).await, returned(1));
    // Long enough for the call to arrive before it, however busy the machine is.
    let limit = Duration::from_secs(2);
    let outcome = session.call_within("forever", &[], Some(limit)).await.unwrap();
    let reached = LimitReached { limit: Limit::WallTime, value: limit.as_nanos() as u64 };
    assert_eq!(outcome, CallOutcome::Ended(Outcome::LimitReached(reached)));
    assert_eq!(events.recv_timeout(PATIENCE), Ok("called"));
    assert_eq!(events.recv_timeout(PATIENCE), Ok("dropped"));
    session.reset().await.unwrap();
    session.start().await.unwrap();
    assert_eq!(call(&mut session, "one", &[]).await, returned(1));
}

#[tokio::test]
async fn what_does_not_fit_a_message_fails_its_call_only() {
    let daemon = Daemon::start();
    let mut client = connect(&daemon).await;
    let (mut session, _events) = started(&mut client).await;
    let size = FRAME_MAX as u32 + 1;
    for (name, args, what) in
        [("take", &[0, size][..], "its arguments take"), ("give", &[size, 1024, size, 0], "its answer takes")]
    {
        match call(&mut session, name, args).await {
            CallOutcome::Trapped(trap) => {
                assert!(trap.message.contains(what) && trap.message.contains("at most 2097152"), "{trap:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(call(&mut session, "add", &[1, 2]).await, returned(3));
}

#[tokio::test]
async fn a_policy_grants_functions_of_an_interface() {
    let daemon = Daemon::start();
    let mut client = connect(&daemon).await;
    let text = |imports: &str| PolicyRequest::Text {
        name: "p.toml".into(),
        toml: format!("version = 1\n[host_calls]\nimports = {imports}\n"),
    };
    let mut run = async |imports: &str| {
        let (mut job, _events) = job();
        job.policy = text(imports);
        client.run(job).await
    };
    for imports in ["true", r#"["t.*"]"#, r#"["x.y", "t.*"]"#] {
        assert_eq!(run(imports).await.unwrap().outcome, Outcome::Exited { code: 0, results: vec![] });
    }
    let all = "t.add, t.answer, t.close, t.forever, t.get, t.give, t.open, t.open_other, t.panic_now, t.points, t.slow, t.take, t.wait";
    let but_two = all.replace("t.close, ", "").replace("t.open, ", "");
    for (imports, missing) in
        [("false", all), (r#"["u.*"]"#, all), (r#"["t.open", "t.close", "u.add"]"#, &but_two)]
    {
        let (kind, message) = refused(run(imports).await);
        assert_eq!(kind, ErrorKind::Job);
        assert!(message.contains("policy \"p.toml\" does not grant"), "{message}");
        assert!(message.contains(missing), "{missing} expected in: {message}");
    }
}

#[tokio::test]
async fn interfaces_that_do_not_fit() {
    let daemon = Daemon::start();
    let mut client = connect(&daemon).await;
    let (sender, _events) = mpsc::channel();
    // All of a module's imports that do not fit are named.
    let module = r#"(module (import "t" "add" (func (param i64))) (import "t" "opens" (func)) (func (export "_start")))"#;
    let (kind, message) = refused(client.run(job_of(module, &service(&sender))).await);
    assert_eq!(kind, ErrorKind::Job);
    for part in ["t.add: the module imports (i64) -> ()", "t.opens: the module imports () -> ()", "\"open\""]
    {
        assert!(message.contains(part), "{part:?} expected in: {message}");
    }
    // More than a request may have, which the client's library finds.
    let many = |count: usize, functions: usize| {
        let mut job = job_of(GUEST, &service(&sender));
        for number in 1..count {
            let mut text = format!("interface = \"i{number}\"\n");
            for function in 0..functions {
                text.push_str(&format!("[[function]]\nname = \"{}{function}\"\n", "f".repeat(60)));
            }
            let lowered = Interface::parse(&text, "i.toml").expect("sound");
            let names: Vec<_> = lowered.interface().functions.iter().map(|f| f.name.clone()).collect();
            let mut service = Service::new(lowered);
            for name in names {
                service.function(&name, |_, _| std::future::pending()).expect("a function");
            }
            job.imports.serve(&service).expect("served");
        }
        job
    };
    let error = client.run(many(INTERFACES_MAX + 1, 1)).await.unwrap_err();
    assert!(matches!(error, Error::TooManyInterfaces(n) if n == INTERFACES_MAX + 1), "{error}");
    let error = client.run(many(9, 512)).await.unwrap_err();
    assert!(matches!(error, Error::InterfacesTooLong(bytes) if bytes > INTERFACES_BYTES_MAX), "{error}");
    // As many as there may be are served.
    let report = client.run(many(INTERFACES_MAX, 20)).await.unwrap();
    assert_eq!(report.outcome, Outcome::Exited { code: 0, results: vec![] });
    // A service that lacks a function is not.
    let mut job = job_of(GUEST, &service(&sender));
    assert!(matches!(
        job.imports.serve(&Service::new(interface())),
        Err(supervisor::Error::NotServed { .. })
    ));
}
