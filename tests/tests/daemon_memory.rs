//! What hostile clients can make the daemon hold: interfaces that they declare are small on the wire and up to a hundred times that in memory.

use std::fs::File;
use std::os::fd::AsFd;

use interface::{Field, Function, Interface, Named, Type, TypeDef, TypeKind};
use ipc::protocol::{
    Bytes, ErrorKind, ErrorReply, INTERFACES_BYTES_MAX, INTERFACES_MAX, Request, Response, SessionId,
    SessionOperation, SessionRequest, SetupRequest,
};
use whole_system_tests::raw_client::{RawClient, setup};
use whole_system_tests::{Daemon, Scratch};

/// KiB of the daemon's own memory.
fn private_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Short names, the first ones that no language keeps.
fn names() -> impl Iterator<Item = String> {
    let letters = || 'a'..='z';
    let one = letters().map(String::from);
    let two = letters().flat_map(move |a| letters().map(move |b| format!("{a}{b}")));
    one.chain(two).filter(|name| interface::is_name(name))
}

/// Interfaces that take as much memory as possible for their bytes: functions of as many parameters as there can be, of a type with a name.
/// Different ones for every `salt`.
fn worst(salt: usize) -> Vec<Bytes> {
    let case = Named { name: "a".into(), doc: String::new() };
    let types = vec![TypeDef { name: "e".into(), doc: String::new(), kind: TypeKind::Enum(vec![case]) }];
    let field = |name| Field { name, doc: String::new(), ty: Type::Named("e".into()) };
    let params: Vec<_> = names().take(10).map(field).collect();
    let function = |name| Function { name, params: params.clone(), ..Function::default() };
    let functions: Vec<_> = names().take(interface::limits::FUNCTIONS).map(function).collect();
    let (mut all, mut left) = (Vec::new(), INTERFACES_BYTES_MAX);
    for number in 0..INTERFACES_MAX {
        let name = format!("s{salt}i{number}");
        let (types, functions) = (types.clone(), functions.clone());
        let bytes = Interface { name, doc: String::new(), types, functions }.to_bytes().expect("bytes");
        if bytes.len() > left {
            break;
        }
        left -= bytes.len();
        all.push(Bytes(bytes));
    }
    assert!(left < INTERFACES_BYTES_MAX / 4, "most of what is possible");
    all
}

/// A client that opens sessions, which wait for their start.
struct Opener {
    client: RawClient,
    module: File,
}

impl Opener {
    fn new(daemon: &Daemon) -> Self {
        let scratch = Scratch::new();
        let module = File::open(scratch.module("module.wasm", "(module (memory 1))")).expect("open");
        Self { client: RawClient::greeted(daemon), module }
    }

    fn open(&mut self, interfaces: Vec<Bytes>) -> Result<SessionId, ErrorReply> {
        let request = Request::OpenSession(SetupRequest { interfaces, ..setup() });
        self.client.request(&request, &[self.module.as_fd()]);
        match self.client.response() {
            Response::SessionOpened(session) => Ok(session),
            Response::Error(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, session: SessionId) {
        let request = SessionRequest { session, operation: SessionOperation::End };
        self.client.request(&Request::Session(request), &[]);
        assert!(matches!(self.client.response(), Response::Report(_)));
    }
}

/// KiB by which the daemon's memory has grown since `before`, for the reader of a log.
fn grown(daemon: &Daemon, before: u64, after: &str) -> u64 {
    let grown = private_kib(daemon).saturating_sub(before);
    println!("{grown} KiB more after {after}");
    grown
}

/// What the interfaces of a user may take, twice what is read at the same time, and room for what the allocator keeps: KiB. Those of 30 jobs
/// would take more than three times as much.
const BOUND_KIB: u64 = 160 << 10;

#[test]
fn different_interfaces_take_no_more_than_their_share() {
    let daemon = Daemon::start();
    let mut opener = Opener::new(&daemon);
    opener.open(vec![]).expect("a session without interfaces");
    let before = private_kib(&daemon);
    let mut sessions = Vec::new();
    let error = loop {
        assert!(sessions.len() < 30, "no end");
        match opener.open(worst(sessions.len())) {
            Ok(session) => sessions.push(session),
            Err(error) => break error,
        }
    };
    assert!(sessions.len() >= 2, "the worst that a job can have fits");
    assert_eq!(error.kind, ErrorKind::Job);
    assert!(error.message.contains("those of the jobs and sessions that this user has take"), "{error}");
    // It goes on trying.
    for salt in 100..130 {
        opener.open(worst(salt)).expect_err("there is no room");
    }
    let more = grown(&daemon, before, "all that it would take");
    assert!(more < BOUND_KIB, "{more}");
    // Nor has it by other connections.
    assert!(Opener::new(&daemon).open(worst(200)).is_err());
    // What is there can be had again, and jobs without interfaces run.
    opener.open(worst(0)).expect("it is there already");
    opener.open(vec![]).expect("nothing is taken");
    // Others fit when these are gone.
    sessions.into_iter().skip(1).for_each(|session| opener.end(session));
    opener.open(worst(300)).expect("there is room again");
}

#[test]
fn one_interface_of_many_sessions_is_there_once() {
    let daemon = Daemon::start();
    let mut opener = Opener::new(&daemon);
    let (interfaces, first) = (worst(0), worst(1));
    opener.open(first).expect("a session");
    let before = private_kib(&daemon);
    for _ in 0..40 {
        opener.open(interfaces.clone()).expect("a session");
    }
    let more = grown(&daemon, before, "40 sessions");
    assert!(more < BOUND_KIB / 2, "{more}");
}
