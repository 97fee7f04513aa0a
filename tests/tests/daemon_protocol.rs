//! The daemon against clients that break the rules, vanish, or come too many.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use ipc::fdpass;
use ipc::protocol::{
    ClientHello, Descriptor, EntryRequest, ErrorKind, FRAME_MAX, LoadRequest, ModuleFormat, ModuleId,
    ModuleRef, ModuleSource, PolicyRequest, PreopenRequest, Request, Response, RunRequest, ServerHello,
    SetupRequest, VERSION_MAX, VERSION_MIN, encode, frame,
};
use ipc::report::Outcome;
use nix::sys::signal::Signal;
use whole_system_tests::raw_client::{RawClient, setup};
use whole_system_tests::{Daemon, PATIENCE, Scratch, assert_no_orphans, guests, run, sandboxd};

fn module(scratch: &Scratch, text: &str) -> File {
    File::open(scratch.module("module.wasm", text)).expect("open")
}

/// A job of this instance that runs `_start`.
fn job_of(setup: SetupRequest) -> RunRequest {
    RunRequest { setup, entry: EntryRequest::Command }
}

fn job() -> RunRequest {
    job_of(setup())
}

/// The daemon still serves: a job runs to its end.
fn assert_serves(daemon: &Daemon) {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    assert_eq!(
        run(scratch.sandboxctl_run(Some(daemon)).arg("hello.wasm")).expect_status(0).text(),
        "hello\n"
    );
}

#[test]
fn a_first_frame_that_is_no_hello() {
    let daemon = Daemon::start();
    for (bytes, needle) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "longer than the protocol allows"),
        (b"\x04\0\0\0hell", "no hello"),
        (b"\0\0\0\0", "no hello"),
        (b"\x0a\0\0\0sandboxd\x01\0", "no hello"),
    ] {
        let mut client = RawClient::connect(&daemon);
        client.send(bytes, &[]);
        let hello = ServerHello::from_bytes(&client.receive().expect("hello").payload).expect("hello");
        assert_eq!(hello.version, 0);
        assert!(hello.refusal.contains(needle), "{needle:?} expected in: {}", hello.refusal);
        assert!(client.receive().is_none());
    }
    assert_serves(&daemon);
}

#[test]
fn versions_that_do_not_meet() {
    let daemon = Daemon::start();
    for (min, max) in [(0, VERSION_MIN - 1), (VERSION_MAX + 1, 9), (u16::MAX, u16::MAX), (9, 1)] {
        let mut client = RawClient::connect(&daemon);
        client.send(&frame(&ClientHello { min, max }.to_bytes()).expect("frame"), &[]);
        let hello = ServerHello::from_bytes(&client.receive().expect("hello").payload).expect("hello");
        assert_eq!((hello.version, hello.min, hello.max), (0, VERSION_MIN, VERSION_MAX));
        assert!(client.receive().is_none());
    }
    // A longer hello is one of a later version, which still speaks ours.
    let mut client = RawClient::connect(&daemon);
    let longer = [&ClientHello { min: 1, max: VERSION_MAX + 5 }.to_bytes()[..], b"more"].concat();
    client.send(&frame(&longer).expect("frame"), &[]);
    let hello = ServerHello::from_bytes(&client.receive().expect("hello").payload).expect("hello");
    assert_eq!(hello.accepted().expect("accepted"), VERSION_MAX);
    assert_eq!(client.jobs(), 0);
}

#[test]
fn frames_that_are_no_requests() {
    let daemon = Daemon::start();
    let payload_of = |request: &Request| encode(request).expect("encode")[4..].to_vec();
    let whole = payload_of(&Request::Run(job()));
    for payload in
        [vec![], vec![0xff; 100], vec![99], whole[..whole.len() - 1].to_vec(), [&whole[..], &[0]].concat()]
    {
        let mut client = RawClient::greeted(&daemon);
        client.send(&frame(&payload).expect("frame"), &[]);
        client.expect_end("no valid message");
    }
    let mut client = RawClient::greeted(&daemon);
    client.send(&(FRAME_MAX as u32 + 1).to_le_bytes(), &[]);
    client.expect_end("longer than the protocol allows");
    let mut client = RawClient::greeted(&daemon);
    client.send(&[8, 0, 0, 0, 1, 2], &[]);
    client.0.shutdown(std::net::Shutdown::Write).expect("shutdown");
    client.expect_end("in the middle of a frame");
    assert_serves(&daemon);
}

#[test]
fn descriptors_must_be_named_exactly_once() {
    let (daemon, scratch) = (Daemon::start(), Scratch::new());
    let file = module(&scratch, guests::HELLO);
    let descriptors = [file.as_fd(), file.as_fd()];
    let run = |request: RunRequest, count: usize| {
        let mut client = RawClient::greeted(&daemon);
        client.request(&Request::Run(request), &descriptors[..count]);
        client
    };
    run(job(), 0).expect_end("names file descriptor 0, but 0 came");
    let stdout = |index| job_of(SetupRequest { stdio: [None, Some(Descriptor(index)), None], ..setup() });
    run(stdout(1), 1).expect_end("names file descriptor 1, but 1 came");
    run(stdout(255), 2).expect_end("names file descriptor 255, but 2 came");
    run(stdout(0), 2).expect_end("names file descriptor 0 twice");
    run(job(), 2).expect_end("file descriptor 1 came with the message, which does not name it");
    let mut client = RawClient::greeted(&daemon);
    client.request(&Request::Status, &descriptors[..1]);
    client.expect_end("does not name it");
    assert_serves(&daemon);
}

#[test]
fn more_descriptors_than_a_message_may_have() {
    let (daemon, scratch) = (Daemon::start(), Scratch::new());
    let file = module(&scratch, guests::HELLO);
    let many = vec![file.as_fd(); fdpass::DESCRIPTORS_MAX];
    let bytes = encode(&Request::Run(job())).expect("encode");
    let mut client = RawClient::greeted(&daemon);
    // Each half brings as many as a whole frame may.
    assert_eq!(fdpass::send(&client.0, &bytes[..6], &many).expect("send"), 6);
    client.send(&bytes[6..], &many);
    client.expect_end("at most 84 may");
    assert_serves(&daemon);
}

#[test]
fn descriptors_of_the_wrong_kind() {
    let (daemon, scratch) = (Daemon::start(), Scratch::new());
    let file = module(&scratch, guests::HELLO);
    let mut client = RawClient::greeted(&daemon);
    let (reader, _writer) = std::io::pipe().expect("pipe");
    let null = File::open("/dev/null").expect("open");
    let directory = File::open("/").expect("open");
    let writable = File::options().write(true).open(scratch.file("module.wasm")).expect("open");
    for (descriptor, needle) in [
        (OwnedFd::from(reader), "not a pipe"),
        (null.into(), "not a character device"),
        (directory.into(), "not a directory"),
        (writable.into(), "cannot be read"),
    ] {
        client.request(&Request::Run(job()), &[descriptor.as_fd()]);
        let (kind, message) = client.error();
        assert_eq!(kind, ErrorKind::Module);
        assert!(message.contains(needle), "{needle:?} expected in: {message}");
    }
    let preopen = PreopenRequest { directory: Descriptor(1), guest_path: "/d".into(), read_only: true };
    client.request(
        &Request::Run(job_of(SetupRequest { preopens: vec![preopen], ..setup() })),
        &[file.as_fd(), file.as_fd()],
    );
    let (kind, message) = client.error();
    assert_eq!(kind, ErrorKind::Job);
    assert!(message.contains("\"/d\" is not a directory but a regular file"), "{message}");
    // None of these ends the connection.
    assert_eq!(client.jobs(), 0);
}

#[test]
fn values_that_a_job_cannot_have() {
    let (daemon, scratch) = (Daemon::start(), Scratch::new());
    let file = module(&scratch, guests::HELLO);
    let mut client = RawClient::greeted(&daemon);
    for (request, kind, needle) in [
        (job_of(SetupRequest { tenant: Some("a/b".into()), ..setup() }), ErrorKind::Job, "tenant"),
        (
            job_of(SetupRequest { policy: PolicyRequest::Named("/etc/passwd".into()), ..setup() }),
            ErrorKind::Policy,
            "passwd",
        ),
        (job_of(SetupRequest { args: vec![vec![b'x'; 1 << 20]], ..setup() }), ErrorKind::Job, "1048576"),
        (job_of(SetupRequest { args: vec![b"a\0b".to_vec()], ..setup() }), ErrorKind::Job, "zero byte"),
        (
            RunRequest { entry: EntryRequest::Export { name: "x".repeat(100_000), args: vec![] }, ..job() },
            ErrorKind::Module,
            "no exported function",
        ),
    ] {
        client.request(&Request::Run(request), &[file.as_fd()]);
        let (found, message) = client.error();
        assert_eq!(found, kind, "{message}");
        assert!(message.contains(needle), "{needle:?} expected in: {message}");
        assert!(message.len() < 5000, "{} bytes", message.len());
    }
    client.request(
        &Request::Run(job_of(SetupRequest { module: ModuleRef::Loaded(ModuleId(0)), ..setup() })),
        &[],
    );
    assert!(client.error().1.contains("module 0 is not loaded"));
    client.request(&Request::Unload(ModuleId(7)), &[]);
    assert!(client.error().1.contains("module 7 is not loaded"));
    assert_eq!(client.jobs(), 0);
}

/// Starts a guest that computes forever and returns when it does.
fn spinning(daemon: &Daemon) -> RawClient {
    let scratch = Scratch::new();
    let file = module(&scratch, guests::SPIN);
    let (reader, writer) = std::io::pipe().expect("pipe");
    let mut client = RawClient::greeted(daemon);
    let request = job_of(SetupRequest { stdio: [None, Some(Descriptor(1)), None], ..setup() });
    client.request(&Request::Run(request), &[file.as_fd(), writer.as_fd()]);
    drop(writer);
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).expect("output");
    assert_eq!(line, "ready\n");
    client
}

/// Processes below `pid`.
fn descendants(pid: u32) -> Vec<u32> {
    let children = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = children.filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|t| t.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<_>>())
        .collect();
    children.iter().flat_map(|c| std::iter::once(*c).chain(descendants(*c)).collect::<Vec<_>>()).collect()
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

/// Waits until the daemon says that it runs no job.
fn wait_until_idle(daemon: &Daemon) {
    let mut observer = RawClient::greeted(daemon);
    wait_until("the daemon is idle", || observer.jobs() == 0);
}

#[test]
fn a_client_that_vanishes_takes_its_job_with_it() {
    let daemon = Daemon::start();
    assert_serves(&daemon);
    for vanish in [
        // Gone altogether.
        |client: RawClient| drop(client),
        // Its sending side closed: it will never cancel, so it counts as gone.
        |client: RawClient| {
            client.0.shutdown(std::net::Shutdown::Write).expect("shutdown");
            std::thread::spawn(move || {
                drop({
                    let mut c = client;
                    c.receive()
                })
            });
        },
        // Gone in the middle of a frame.
        |mut client: RawClient| client.send(&[9, 0, 0, 0, 1], &[]),
    ] {
        let client = spinning(&daemon);
        assert_eq!(RawClient::greeted(&daemon).jobs(), 1);
        let running = descendants(daemon.id());
        vanish(client);
        wait_until_idle(&daemon);
        // The instance goes; zygotes stay for the next job, and parked instances may come.
        let gone = |now: &[u32]| running.iter().filter(|pid| !now.contains(pid)).count();
        wait_until("the instance is gone", || gone(&descendants(daemon.id())) > 0);
    }
    assert_serves(&daemon);
}

#[test]
fn cancelling_ends_the_job_and_reports() {
    let daemon = Daemon::start();
    let mut client = spinning(&daemon);
    client.request(&Request::Cancel, &[]);
    match client.response() {
        Response::Report(report) => assert_eq!(report.outcome, Outcome::Cancelled),
        other => panic!("{other:?}"),
    }
    // A cancellation that comes too late means nothing and is not answered.
    client.request(&Request::Cancel, &[]);
    assert_eq!(client.jobs(), 0);
}

#[test]
fn one_request_at_a_time() {
    let daemon = Daemon::start();
    let mut client = spinning(&daemon);
    client.request(&Request::Status, &[]);
    client.expect_end("while another was being served");
    wait_until_idle(&daemon);
    assert_serves(&daemon);
}

#[test]
fn a_loaded_module_runs_many_jobs() {
    let (daemon, scratch) = (Daemon::start(), Scratch::new());
    let file = module(&scratch, guests::HELLO);
    let mut client = RawClient::greeted(&daemon);
    let source = ModuleSource { file: Descriptor(0), format: ModuleFormat::Wasm };
    client.request(&Request::Load(LoadRequest { module: source, open_imports: false }), &[file.as_fd()]);
    let Response::Loaded(id) = client.response() else { panic!("not loaded") };
    for _ in 0..3 {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let request = job_of(SetupRequest {
            module: ModuleRef::Loaded(id),
            stdio: [None, Some(Descriptor(0)), None],
            ..setup()
        });
        client.request(&Request::Run(request), &[writer.as_fd()]);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("output");
        assert_eq!(text, "hello\n");
        match client.response() {
            Response::Report(report) => assert_eq!(report.exit_status(), 0),
            other => panic!("{other:?}"),
        }
    }
    client.request(&Request::Unload(id), &[]);
    assert_eq!(client.response(), Response::Unloaded);
    client.request(&Request::Run(job_of(SetupRequest { module: ModuleRef::Loaded(id), ..setup() })), &[]);
    assert!(client.error().1.contains("is not loaded"));
}

#[test]
fn connections_beyond_the_maximum_are_told_so() {
    let daemon = Daemon::start_with(&["--max-connections", "2"]);
    let (first, second) = (RawClient::greeted(&daemon), RawClient::greeted(&daemon));
    let mut third = RawClient::connect(&daemon);
    let hello = ServerHello::from_bytes(&third.receive().expect("hello").payload).expect("hello");
    assert!(hello.refusal.contains("2 connections already"), "{}", hello.refusal);
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    run(scratch.sandboxctl_run(Some(&daemon)).arg("hello.wasm")).expect_own_error(&["2 connections already"]);
    drop((first, second, third));
    // The daemon notices that they are gone before or after the next one comes.
    wait_until("connections that are gone count no more", || {
        run(scratch.sandboxctl_run(Some(&daemon)).arg("hello.wasm")).status == Some(0)
    });
}

/// A client with a loaded module that spins, and a request to run it with descriptor 0 as its output: nothing but
/// `--max-jobs` can hold such a job up.
fn loaded_spin(daemon: &Daemon) -> (RawClient, Request) {
    let scratch = Scratch::new();
    let mut client = RawClient::greeted(daemon);
    let source = ModuleSource { file: Descriptor(0), format: ModuleFormat::Wasm };
    client.request(
        &Request::Load(LoadRequest { module: source, open_imports: false }),
        &[module(&scratch, guests::SPIN).as_fd()],
    );
    let Response::Loaded(id) = client.response() else { panic!("not loaded") };
    let stdio = [None, Some(Descriptor(0)), None];
    (client, Request::Run(job_of(SetupRequest { module: ModuleRef::Loaded(id), stdio, ..setup() })))
}

#[test]
fn jobs_beyond_the_maximum_wait() {
    let daemon = Daemon::start_with(&["--max-jobs", "1"]);
    let (mut waiting, request) = loaded_spin(&daemon);
    let spinning = spinning(&daemon);
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    waiting.request(&request, &[writer.as_fd()]);
    drop(writer);
    // The daemon has one thread: it has seen the request when it answers those that come after it.
    assert_eq!(RawClient::greeted(&daemon).jobs(), 1);
    drop(spinning);
    let mut ready = [0; 6];
    reader.read_exact(&mut ready).expect("output");
    assert_eq!(&ready, b"ready\n");
    waiting.request(&Request::Cancel, &[]);
    match waiting.response() {
        Response::Report(report) => assert_eq!(report.outcome, Outcome::Cancelled),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_socket_is_private_and_the_end_leaves_nothing() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start();
        let mode = std::fs::metadata(daemon.socket()).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let client = spinning(&daemon);
        assert!(daemon.end(signal).success());
        drop(client);
        assert!(
            !daemon.scratch().names().iter().any(|n| n.contains("sock")),
            "{:?}",
            daemon.scratch().names()
        );
        assert_no_orphans();
    }
}

#[test]
fn a_killed_daemon_takes_its_instances_with_it_and_can_be_replaced() {
    let mut daemon = Daemon::start();
    let mut client = spinning(&daemon);
    let _ = daemon.end(Signal::SIGKILL);
    assert!(client.receive().is_none());
    assert_no_orphans();
    assert!(daemon.socket().exists(), "nobody could remove it");
    let mut next = std::process::Command::new(sandboxd());
    next.arg("--socket").arg(daemon.socket()).arg("--state-dir").arg(daemon.scratch().file("state"));
    let next = whole_system_tests::spawn(&mut next);
    wait_until("the stale socket is replaced", || UnixStream::connect(daemon.socket()).is_ok());
    next.signal(Signal::SIGTERM);
    assert!(next.wait().0.success());
}

#[test]
fn a_second_daemon_for_the_same_socket_is_refused() {
    let daemon = Daemon::start();
    let output = run(std::process::Command::new(sandboxd()).arg("--socket").arg(daemon.socket()));
    output.expect_status(1);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    assert!(output.stderr.contains("another daemon serves"), "{}", output.stderr);
    assert_serves(&daemon);
}

#[test]
fn a_job_that_waits_for_a_place_can_be_cancelled() {
    let daemon = Daemon::start_with(&["--max-jobs", "1"]);
    let (mut waiting, request) = loaded_spin(&daemon);
    let _spinning = spinning(&daemon);
    let (_reader, writer) = std::io::pipe().expect("pipe");
    waiting.request(&request, &[writer.as_fd()]);
    assert_eq!(RawClient::greeted(&daemon).jobs(), 1);
    waiting.request(&Request::Cancel, &[]);
    assert_eq!(waiting.error().0, ErrorKind::Cancelled);
}
