//! The daemon against clients that break the rules of typed functions: what they reply, what they tell of handles, what interfaces they
//! send. A guest sees at worst a trap, and other clients nothing.

use std::fs::File;
use std::os::fd::AsFd;

use ipc::protocol::{
    Bytes, CallId, EntryRequest, ErrorKind, HandleChanges, HostCall, HostResult, HostReturn,
    INTERFACES_BYTES_MAX, INTERFACES_MAX, ImportItem, ImportRequest, Invocation, OpenedHandle, Payload,
    Request, Response, RunRequest, SessionId, SessionOperation, SessionReply, SessionRequest, SetupRequest,
    TypedScalar as S, TypedValue as V, encode,
};
use ipc::report::{CallOutcome, Outcome, Value};
use whole_system_tests::raw_client::{RawClient, setup};
use whole_system_tests::typed_guest::{GUEST, i32s, interface, kind, number};
use whole_system_tests::{Daemon, Scratch, assert_no_orphans, guests, run};

fn module(text: &str) -> File {
    File::open(Scratch::new().module("module.wasm", text)).expect("open")
}

fn bytes() -> Vec<u8> {
    interface().interface().to_bytes().expect("bytes")
}

fn typed() -> SetupRequest {
    SetupRequest { interfaces: vec![Bytes(bytes())], ..setup() }
}

fn run_of(setup: SetupRequest) -> Request {
    Request::Run(RunRequest { setup, entry: EntryRequest::Command })
}

/// A client with a started session of [`GUEST`].
struct Typed {
    client: RawClient,
    session: SessionId,
}

impl Typed {
    fn new(daemon: &Daemon) -> Self {
        let mut client = RawClient::greeted(daemon);
        client.request(&Request::OpenSession(typed()), &[module(GUEST).as_fd()]);
        let Response::SessionOpened(session) = client.response() else { panic!("not opened") };
        let mut typed = Self { client, session };
        typed.operate(SessionOperation::Start { timeout_ns: None });
        assert_eq!(typed.outcome(), CallOutcome::Returned(vec![]));
        typed
    }

    fn operate(&mut self, operation: SessionOperation) {
        self.client.request(&Request::Session(SessionRequest { session: self.session, operation }), &[]);
    }

    /// Has the guest call a function.
    fn begin(&mut self, name: &str, args: &[u32]) {
        self.operate(SessionOperation::Call { name: name.into(), args: i32s(args), timeout_ns: None });
    }

    /// The same, and the call arrives here.
    fn called(&mut self, name: &str, args: &[u32]) -> (CallId, Vec<V>) {
        self.begin(name, args);
        match self.client.response() {
            Response::HostCall(HostCall {
                call,
                invocation: Invocation::Typed { interface: 0, function, arguments },
            }) if function == number(name) => (call, arguments),
            other => panic!("{name}: {other:?}"),
        }
    }

    fn answer(&mut self, call: CallId, result: HostResult, handles: HandleChanges) {
        self.client.request(&Request::HostReturn(HostReturn { call, result, handles }), &[]);
    }

    #[track_caller]
    fn outcome(&mut self) -> CallOutcome {
        match self.client.response() {
            Response::Session(SessionReply::Called(outcome)) => outcome,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn expect_trap(&mut self, why: &str) {
        match self.outcome() {
            CallOutcome::Trapped(trap) => {
                assert!(trap.message.contains(why), "{why:?} expected in: {trap:?}")
            }
            other => panic!("{why}: {other:?}"),
        }
    }

    /// Has the guest get a handle that this client gives out as it likes.
    fn open(&mut self, handle: u32) {
        let (call, _) = self.called("open", &[]);
        self.answer(call, values(vec![V::Scalar(S::Handle(handle))]), opened(&[(handle, kind("thing"))]));
        assert_eq!(self.outcome(), CallOutcome::Returned(i32s(&[handle])));
    }

    fn expect_end(self, why: &str) {
        self.client.expect_end(why);
    }
}

fn values(values: Vec<V>) -> HostResult {
    HostResult::Returned(Payload::Typed(values))
}

fn unchanged() -> HandleChanges {
    HandleChanges::default()
}

fn opened(handles: &[(u32, u32)]) -> HandleChanges {
    let opened = handles.iter().map(|(handle, kind)| OpenedHandle { handle: *handle, kind: *kind });
    HandleChanges { closed: vec![], opened: opened.collect() }
}

fn closed(handles: &[u32]) -> HandleChanges {
    HandleChanges { closed: handles.to_vec(), opened: vec![] }
}

fn assert_serves(daemon: &Daemon) {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    let output = run(scratch.sandboxctl_run(Some(daemon)).arg("hello.wasm"));
    assert_eq!(output.expect_status(0).text(), "hello\n");
}

#[test]
fn a_reply_that_breaks_a_rule_fails_its_call_only() {
    let daemon = Daemon::start();
    let mut typed = Typed::new(&daemon);
    let text = |text: &str| V::String(text.into());
    let color = |case| V::Scalar(S::Enum(case));
    let thing = |handle| V::Scalar(S::Handle(handle));
    let right = || vec![color(1), text("x"), thing(0x1_0000)];
    let with = |at: usize, value| {
        let mut values = right();
        values[at] = value;
        values
    };
    typed.open(0x1_0000);
    for (result, why) in [
        (values(vec![]), "it returned 0 values instead of 3"),
        (values([right(), right()].concat()), "it returned 6 values instead of 3"),
        (values(vec![color(1); 100_000]), "it returned 100000 values instead of 3"),
        (values(with(0, color(3))), "result color: 3 is no case of color"),
        (values(with(0, V::Scalar(S::U32(1)))), "result color: it is of type u32, not color"),
        (values(with(0, text("red"))), "result color: it is of type string, not color"),
        (values(with(0, V::Record(vec![S::Enum(1)]))), "result color: it is of type record, not color"),
        (values(with(0, V::List(vec![S::Enum(1)]))), "result color: it is of type list, not color"),
        (values(with(1, V::Bytes(Bytes(vec![0xff])))), "result text: it is of type bytes, not string"),
        (
            values(with(1, text("more than the room"))),
            "result text: it has 18 bytes, but the guest has room for 8",
        ),
        (values(with(1, text(&"x".repeat(2_000_000)))), "but the guest has room for 8"),
        (values(with(2, thing(0))), "result thing: 0x0 is no thing: the job was given no such handle"),
        (values(with(2, thing(0x2_0000))), "no thing"),
        (values(with(2, thing(u32::MAX))), "the job was given no such handle"),
        (values(with(1, V::Records { fields: 0, values: vec![] })), "0 values are no records of 0 fields"),
        (
            values(with(1, V::Records { fields: 2, values: vec![S::U8(0); 3] })),
            "3 values are no records of 2 fields",
        ),
        (
            HostResult::Returned(Payload::Values(vec![Value::I32(1)])),
            "the client's answer has values of no interface",
        ),
        (HostResult::Error(1), "it failed with error 1, but declares none"),
        (HostResult::Failed("two\nlines".into()), "host function \"t.answer\" failed: two lines"),
    ] {
        let (call, _) = typed.called("answer", &[0, 700, 704, 8, 712, 716]);
        typed.answer(call, result, unchanged());
        typed.expect_trap(why);
    }
    // Nothing of a reply that is wrong in its last value has arrived.
    typed.operate(SessionOperation::Read {
        memory: ipc::protocol::MemoryName::Index(0),
        offset: 700,
        length: 20,
    });
    let Response::Session(SessionReply::Bytes(Bytes(memory))) = typed.client.response() else {
        panic!("bytes")
    };
    assert_eq!(memory, [0; 20]);
    // A case of an error that there is not.
    for case in [0, 3, u32::MAX] {
        let (call, _) = typed.called("get", &[0x1_0000, 0, 0, 500, 16, 600]);
        typed.answer(call, HostResult::Error(case), unchanged());
        typed.expect_trap(&format!("it failed with {case}, which is no case of fault"));
    }
    let (call, arguments) = typed.called("add", &[1, 2]);
    assert_eq!(arguments, [V::Scalar(S::S32(1)), V::Scalar(S::U8(2))]);
    typed.answer(call, values(vec![V::Scalar(S::S32(3))]), unchanged());
    assert_eq!(typed.outcome(), CallOutcome::Returned(i32s(&[3])));
    assert_no_orphans();
}

#[test]
fn what_a_guest_passes_wrongly_never_reaches_the_client() {
    let daemon = Daemon::start();
    let mut typed = Typed::new(&daemon);
    typed.open(0x1_0000);
    let (call, _) = typed.called("open_other", &[]);
    typed.answer(call, values(vec![V::Scalar(S::Handle(0x1_0001))]), opened(&[(0x1_0001, kind("other"))]));
    assert_eq!(typed.outcome(), CallOutcome::Returned(i32s(&[0x1_0001])));
    let (call, _) = typed.called("close", &[0x1_0000]);
    typed.answer(call, values(vec![]), closed(&[0x1_0000]));
    assert_eq!(typed.outcome(), CallOutcome::Returned(vec![]));
    // No call comes out of these, but the trap.
    for (name, args, why) in [
        ("close", &[0x1_0000][..], "it was removed"),
        ("close", &[0x1_0001], "it is a handle of another kind"),
        ("close", &[0x2_0001], "the job was given no such handle"),
        ("close", &[0], "the job was given no such handle"),
        ("add", &[1, 256], "256 is not 0 to 255"),
        ("take", &[u32::MAX, 1], "not inside of the guest's memory"),
    ] {
        typed.begin(name, args);
        typed.expect_trap(why);
    }
    // A handle of another session of the same client is none here.
    let mut other = Typed::new(&daemon);
    other.open(0x1_0003);
    typed.begin("close", &[0x1_0003]);
    typed.expect_trap("the job was given no such handle");
    // After a reset those of the instance before are none.
    typed.open(0x2_0000);
    typed.operate(SessionOperation::Reset);
    assert_eq!(typed.client.response(), Response::Session(SessionReply::Done));
    typed.operate(SessionOperation::Start { timeout_ns: None });
    assert_eq!(typed.outcome(), CallOutcome::Returned(vec![]));
    typed.begin("close", &[0x2_0000]);
    typed.expect_trap("the job was given no such handle");
}

#[test]
fn impossible_changes_of_handles_end_the_connection() {
    let daemon = Daemon::start();
    let thing = kind("thing");
    for (changes, why) in [
        (opened(&[(0x1_0000, thing)]), "it opens the handle 0x10000: its place is taken"),
        (opened(&[(0x2_0000, thing)]), "its place is taken"),
        (opened(&[(0x1_0001, thing), (0x1_0001, thing)]), "its place is taken"),
        (opened(&[(0x0_0001, thing)]), "its generation was used before"),
        (opened(&[(0x1_ffff, thing)]), "its place is beyond 65535"),
        (opened(&[(0x1_0001, 0)]), "of the kind 0, which is none"),
        (opened(&[(0x1_0001, u32::MAX)]), "which is none"),
        (closed(&[0x1_0001]), "it closes the handle 0x10001: the job was given no such handle"),
        (closed(&[0x1_0000, 0x1_0000]), "it closes the handle 0x10000: it was removed"),
    ] {
        let mut typed = Typed::new(&daemon);
        typed.open(0x1_0000);
        let (call, _) = typed.called("add", &[1, 2]);
        typed.answer(call, values(vec![V::Scalar(S::S32(3))]), changes);
        typed.expect_end(why);
    }
    // A stale number cannot become valid again.
    let mut typed = Typed::new(&daemon);
    typed.open(0x1_0000);
    let (call, _) = typed.called("close", &[0x1_0000]);
    let opened_again = OpenedHandle { handle: 0x1_0000, kind: thing };
    typed.answer(call, values(vec![]), HandleChanges { closed: vec![0x1_0000], opened: vec![opened_again] });
    typed.expect_end("its generation was used before");
    // Handles of a function that has none.
    let mut client = RawClient::greeted(&daemon);
    let function = ipc::protocol::FunctionImport { params: vec![], results: vec![], deadline_ns: None };
    let import =
        ImportRequest { module: "host".into(), name: "f".into(), item: ImportItem::Function(function) };
    let text = r#"(module (import "host" "f" (func $f)) (func (export "_start") (call $f)))"#;
    client.request(&run_of(SetupRequest { imports: vec![import], ..setup() }), &[module(text).as_fd()]);
    let Response::HostCall(HostCall { call, .. }) = client.response() else { panic!("no call") };
    let result = HostResult::Returned(Payload::Values(vec![]));
    let handles = opened(&[(0x1_0000, 0)]);
    client.request(&Request::HostReturn(HostReturn { call, result, handles }), &[]);
    client.expect_end("tells of handles, and the function has none");
    assert_serves(&daemon);
}

#[test]
fn as_many_handles_as_there_may_be() {
    let daemon = Daemon::start();
    let mut typed = Typed::new(&daemon);
    let thing = kind("thing");
    let most: Vec<_> = (0..65_535).map(|place| (0x1_0000 | place, thing)).collect();
    let (call, _) = typed.called("open", &[]);
    typed.answer(call, values(vec![V::Scalar(S::Handle(0x1_fffe))]), opened(&most));
    assert_eq!(typed.outcome(), CallOutcome::Returned(i32s(&[0x1_fffe])));
    let (call, _) = typed.called("open", &[]);
    typed.answer(call, values(vec![V::Scalar(S::Handle(0x1_ffff))]), opened(&[(0x1_ffff, thing)]));
    typed.expect_end("its place is beyond 65535, which is the limit");
}

#[test]
fn a_late_answer_is_ignored_but_for_its_handles() {
    let daemon = Daemon::start();
    let mut typed = Typed::new(&daemon);
    let (late, _) = typed.called("wait", &[]);
    typed.expect_trap("it did not answer within its deadline of 50ms");
    typed.answer(late, values(vec![V::Scalar(S::U8(1))]), opened(&[(0x1_0000, kind("thing"))]));
    let (call, arguments) = typed.called("close", &[0x1_0000]);
    assert_eq!(arguments, [V::Scalar(S::Handle(0x1_0000))]);
    typed.answer(call, values(vec![]), closed(&[0x1_0000]));
    assert_eq!(typed.outcome(), CallOutcome::Returned(vec![]));
    // What it tells must be possible all the same.
    let (late, _) = typed.called("wait", &[]);
    typed.expect_trap("deadline");
    typed.answer(late, values(vec![]), closed(&[0x1_0000]));
    typed.expect_end("it closes the handle 0x10000: it was removed");
    // Of an instance that is gone nothing is to be told any more.
    let mut typed = Typed::new(&daemon);
    let (late, _) = typed.called("forever", &[]);
    typed.client.request(&Request::Cancel, &[]);
    assert_eq!(typed.outcome(), CallOutcome::Ended(Outcome::Cancelled));
    typed.answer(late, values(vec![]), opened(&[(0x1_0000, kind("thing"))]));
    typed.operate(SessionOperation::Reset);
    assert_eq!(typed.client.response(), Response::Session(SessionReply::Done));
    typed.operate(SessionOperation::Start { timeout_ns: None });
    assert_eq!(typed.outcome(), CallOutcome::Returned(vec![]));
    typed.begin("close", &[0x1_0000]);
    typed.expect_trap("the job was given no such handle");
}

#[test]
fn answers_to_typed_calls_that_were_not_made_or_are_answered() {
    let daemon = Daemon::start();
    let mut typed = Typed::new(&daemon);
    let (CallId(id), _) = typed.called("forever", &[]);
    typed.answer(CallId(id + 1), values(vec![]), unchanged());
    typed.expect_end("is answered, which was never made");
    let mut typed = Typed::new(&daemon);
    let (call, _) = typed.called("forever", &[]);
    typed.answer(call, values(vec![]), unchanged());
    assert_eq!(typed.outcome(), CallOutcome::Returned(vec![]));
    typed.answer(call, values(vec![]), unchanged());
    typed.expect_end("is answered a second time");
    // One whose arguments fit no message was not made either.
    let mut typed = Typed::new(&daemon);
    typed.begin("take", &[0, ipc::protocol::FRAME_MAX as u32]);
    typed.expect_trap("its arguments take");
    typed.answer(call, values(vec![]), unchanged());
    typed.expect_end("is answered a second time, or long after its end");
    // No value that there is not: the frame is no message.
    let mut typed = Typed::new(&daemon);
    let (call, _) = typed.called("forever", &[]);
    let answer = HostReturn { call, result: values(vec![V::List(vec![])]), handles: unchanged() };
    let mut wire = encode(&Request::HostReturn(answer)).expect("encode");
    let at = wire.len() - 4;
    assert_eq!(wire[at], 4, "a list");
    wire[at] = 6;
    typed.client.send(&wire, &[]);
    typed.expect_end("is no valid message");
    assert_serves(&daemon);
    assert_no_orphans();
}

#[test]
fn interfaces_that_are_none() {
    let daemon = Daemon::start();
    let mut client = RawClient::greeted(&daemon);
    let sound = bytes();
    let changed = |from: &[u8], to: &[u8]| {
        let at = sound.windows(from.len()).position(|window| window == from).expect("it has this");
        [&sound[..at], to, &sound[at + from.len()..]].concat()
    };
    let deep = {
        let ty = "list<".repeat(20_000) + "u8" + &">".repeat(20_000);
        let field = interface::Field { name: "p".into(), doc: String::new(), ty: ty.into() };
        let function = interface::Function { name: "f".into(), params: vec![field], ..Default::default() };
        interface::Interface { name: "d".into(), functions: vec![function], ..Default::default() }
    };
    let many = vec![sound.clone(); INTERFACES_MAX + 1];
    for (interfaces, why) in [
        (vec![vec![]], "interface 0 of the request: an interface cannot be sent or read"),
        (vec![vec![0xff; 1000]], "an interface cannot be sent or read"),
        (vec![sound[..sound.len() - 1].to_vec()], "an interface cannot be sent or read"),
        (vec![[&sound[..], &[0]].concat()], "an interface has 1 bytes too many"),
        (vec![sound.clone(), changed(b"\x01t", b"\x01T")], "interface 1 of the request: interface \"T\""),
        (vec![changed(b"\x04blue", b"\x04BLUE")], "\"BLUE\" cannot be the name of a case"),
        (vec![changed(b"\x05color", b"\x05colon")], "there is no type \"color\""),
        (vec![sound.clone(), sound.clone()], "the interface \"t\" is served twice"),
        (many, "17 interfaces are served; a job or session may have 16"),
        (vec![vec![0; INTERFACES_BYTES_MAX], vec![0]], "interfaces have 262145 bytes together"),
        (vec![deep.to_bytes().expect("bytes")], "interface \"d\""),
    ] {
        let interfaces: Vec<_> = interfaces.into_iter().map(Bytes).collect();
        for request in [run_of, Request::OpenSession as fn(SetupRequest) -> Request] {
            let request = request(SetupRequest { interfaces: interfaces.clone(), ..setup() });
            client.request(&request, &[module(GUEST).as_fd()]);
            let (kind, message) = client.error();
            assert_eq!(kind, ErrorKind::Job, "{message}");
            assert!(message.contains(why) && message.len() < 5000, "{why:?} expected in: {message}");
        }
    }
    assert_eq!(client.jobs(), 0);
    assert_serves(&daemon);
}
