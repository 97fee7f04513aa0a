//! The protocol as a whole: its wire form, and what is no part of it.

use super::framing::GROWTH;
use super::*;
use crate::report::{CallOutcome, Report, Usage, Value};
use crate::types::{Export, ExportType, ValueType};

/// Feeds a stream to a reader, in pieces of at most `piece` bytes.
fn frames(stream: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let (mut reader, mut frames, mut at) = (FrameReader::default(), Vec::new(), 0);
    while at < stream.len() {
        let (space, _) = reader.space();
        assert!(!space.is_empty());
        let n = piece.min(space.len()).min(stream.len() - at);
        space[..n].copy_from_slice(&stream[at..at + n]);
        at += n;
        frames.extend(reader.advance(n)?.map(|f| f.payload));
    }
    assert!(!reader.in_frame());
    Ok(frames)
}

#[test]
fn frames_come_out_as_they_went_in_however_the_stream_is_cut() {
    let payloads = [vec![], vec![1], vec![7; GROWTH - 1], vec![8; GROWTH + 1], vec![9; FRAME_MAX]];
    let stream: Vec<u8> = payloads.iter().flat_map(|p| frame(p).expect("fits")).collect();
    for piece in [1, 3, 4, 5, 4096, usize::MAX] {
        assert_eq!(frames(&stream, piece).expect("frames"), payloads, "pieces of {piece}");
    }
}

#[test]
fn an_announced_length_allocates_nothing_and_too_long_a_one_is_refused() {
    let mut reader = FrameReader::default();
    reader.space().0.copy_from_slice(&(FRAME_MAX as u32).to_le_bytes());
    assert!(reader.advance(4).expect("largest").is_none());
    assert_eq!(reader.space().0.len(), GROWTH);
    for length in [FRAME_MAX as u32 + 1, u32::MAX] {
        let mut reader = FrameReader::default();
        reader.space().0.copy_from_slice(&length.to_le_bytes());
        assert!(matches!(reader.advance(4), Err(ProtocolError::FrameTooLong(n)) if n == length as usize));
    }
    assert!(matches!(frame(&vec![0; FRAME_MAX + 1]), Err(ProtocolError::MessageTooLong(_))));
}

#[test]
fn versions_are_agreed_on_or_refused_by_name() {
    let hello = ClientHello::from_bytes(&ClientHello::OURS.to_bytes()).expect("hello");
    assert_eq!(hello.agree(), Some(VERSION_MAX));
    assert_eq!(ClientHello { min: 0, max: u16::MAX }.agree(), Some(VERSION_MAX));
    assert_eq!(ClientHello { min: VERSION_MAX + 1, max: u16::MAX }.agree(), None);
    assert_eq!(ClientHello { min: 0, max: 0 }.agree(), None);
    assert_eq!(ClientHello { min: 9, max: 1 }.agree(), None);
    let answer = |a: ServerHello| ServerHello::from_bytes(&a.to_bytes()).expect("hello").accepted();
    assert_eq!(answer(ServerHello::answer(Some(VERSION_MAX))).expect("accepted"), VERSION_MAX);
    assert!(matches!(answer(ServerHello::answer(None)), Err(ProtocolError::Version { .. })));
    assert!(matches!(answer(ServerHello::answer(Some(99))), Err(ProtocolError::Version { .. })));
    assert!(
        matches!(answer(ServerHello::refuse("too\nmany")), Err(ProtocolError::Refused(m)) if m == "too many")
    );
    for bytes in [&b"GET / HTTP/1.1"[..], b"", b"sandboxd", b"sandboxd\x01\0\x01"] {
        assert!(matches!(ClientHello::from_bytes(bytes), Err(ProtocolError::NotHello)));
    }
}

fn setup() -> SetupRequest {
    SetupRequest {
        module: ModuleRef::Given(ModuleSource { file: Descriptor(0), format: ModuleFormat::Wasm }),
        policy: PolicyRequest::Named("default".into()),
        args: vec![b"m.wasm".to_vec(), b"\xff".to_vec()],
        env: vec![b"A=b".to_vec()],
        stdio: [None, Some(Descriptor(1)), Some(Descriptor(2))],
        preopens: vec![PreopenRequest { directory: Descriptor(3), guest_path: "/".into(), read_only: true }],
        sockets: vec![Descriptor(4)],
        imports: vec![ImportRequest {
            module: "m".into(),
            name: "f".into(),
            item: ImportItem::Function(FunctionImport {
                params: vec![ValueType::I32],
                results: vec![],
                deadline_ns: Some(7),
            }),
        }],
        interfaces: vec![Bytes(vec![5, 6])],
        limits: LimitsRequest { memory: Some(1 << 20), wall_time_ns: None, fuel: Some(9) },
        tenant: None,
    }
}

fn run_request() -> Request {
    let entry = EntryRequest::Invoke { name: "add".into(), args: vec!["1".into(), "2".into()] };
    Request::Run(RunRequest { setup: setup(), entry })
}

/// A request of every kind that versions 5 and 6 have added, with every import and operation.
fn requests() -> Vec<Request> {
    let import = |item| ImportRequest { module: "m".into(), name: "n".into(), item };
    let items = vec![
        ImportItem::Global { value: Value::V128(1 << 100), mutable: true },
        ImportItem::Memory { pages: 1, max: Some(2), memory64: true },
        ImportItem::Table { element: ValueType::FuncRef, entries: 3, max: None, table64: false },
        ImportItem::Tag { params: vec![ValueType::F32, ValueType::ExnRef] },
    ];
    let opened = SetupRequest { imports: items.into_iter().map(import).collect(), ..setup() };
    let memory = || MemoryName::Export("memory".into());
    let operations = vec![
        SessionOperation::Start { timeout_ns: None },
        SessionOperation::Call { name: "f".into(), args: vec![Value::I64(-1)], timeout_ns: Some(1) },
        SessionOperation::Read { memory: MemoryName::Index(1), offset: u64::MAX, length: u32::MAX },
        SessionOperation::Write { memory: memory(), offset: 0, bytes: Bytes(vec![1; 300]) },
        SessionOperation::MemorySize(memory()),
        SessionOperation::Global("g".into()),
        SessionOperation::SetGlobal { name: "g".into(), value: Value::F64(1) },
        SessionOperation::Exports { from: 1 },
        SessionOperation::Usage,
        SessionOperation::Reset,
        SessionOperation::End,
    ];
    let results = vec![
        HostResult::Returned(Payload::Values(vec![Value::FuncRef(false), Value::ExternRef(Some(1))])),
        HostResult::Failed("why".into()),
        HostResult::Trapped("trap".into()),
        HostResult::Error(3),
        HostResult::Returned(Payload::Typed(typed_values())),
    ];
    let operation = |operation| Request::Session(SessionRequest { session: SessionId(3), operation });
    let handles = HandleChanges { closed: vec![7], opened: vec![OpenedHandle { handle: 1 << 16, kind: 2 }] };
    let answer =
        |result| Request::HostReturn(HostReturn { call: CallId(1 << 40), result, handles: handles.clone() });
    let load = LoadRequest {
        module: ModuleSource { file: Descriptor(0), format: ModuleFormat::Artifact },
        open_imports: true,
    };
    let mut requests = vec![run_request(), Request::Load(load), Request::OpenSession(opened)];
    requests.extend(operations.into_iter().map(operation));
    requests.extend(results.into_iter().map(answer));
    requests
}

/// A value of every kind of interfaces' types.
fn typed_values() -> Vec<TypedValue> {
    use TypedScalar as S;
    let scalars = vec![
        S::Bool(true),
        S::S8(-1),
        S::U8(255),
        S::S16(-2),
        S::U16(3),
        S::S32(-4),
        S::U32(5),
        S::S64(-6),
        S::U64(7),
        S::F32(8.5),
        S::F64(-9.5),
        S::Enum(1),
        S::Flags(1 << 63),
        S::Handle(0x1_0000),
    ];
    let mut values: Vec<_> = scalars.iter().map(|scalar| TypedValue::Scalar(*scalar)).collect();
    values.extend([
        TypedValue::String("é".into()),
        TypedValue::Bytes(Bytes(vec![0xff; 130])),
        TypedValue::Record(scalars.clone()),
        TypedValue::List(vec![S::U32(1), S::U32(2)]),
        TypedValue::Records { fields: 7, values: scalars },
    ]);
    values
}

/// The same of responses.
fn responses() -> Vec<Response> {
    let function = ExportType::Function { params: vec![ValueType::I32], results: vec![ValueType::F64] };
    let exports = vec![
        Export { name: "f".into(), ty: function },
        Export { name: "g".into(), ty: ExportType::Global { value: ValueType::I64, mutable: true } },
        Export { name: "m".into(), ty: ExportType::Memory { index: 0, memory64: false } },
        Export { name: "t".into(), ty: ExportType::Table { element: ValueType::ExternRef } },
        Export { name: "e".into(), ty: ExportType::Tag { params: vec![] } },
    ];
    let trap = crate::report::Trap { message: "m".into(), backtrace: vec![] };
    let replies = vec![
        SessionReply::Called(CallOutcome::Returned(vec![Value::I32(1)])),
        SessionReply::Called(CallOutcome::Trapped(trap)),
        SessionReply::Called(CallOutcome::Ended(crate::report::Outcome::Cancelled)),
        SessionReply::Bytes(Bytes(vec![9; 200])),
        SessionReply::Size(1 << 33),
        SessionReply::Value(Value::F32(1)),
        SessionReply::Exports { exports, more: true },
        SessionReply::Usage(Usage { fuel: Some(1), ..Usage::default() }),
        SessionReply::Done,
    ];
    let raw = Invocation::Values { import: 1, arguments: vec![Value::V128(5)] };
    let typed = Invocation::Typed { interface: 1, function: 300, arguments: typed_values() };
    let mut responses = vec![
        Response::SessionOpened(SessionId(7)),
        Response::HostCall(HostCall { call: CallId(2), invocation: raw }),
        Response::HostCall(HostCall { call: CallId(3), invocation: typed }),
        Response::Status(Status { version: "v".into(), connections: 1, jobs: 2, sessions: 1 }),
        Response::Error(ErrorReply::new(ErrorKind::Session, "no")),
    ];
    responses.extend(replies.into_iter().map(Response::Session));
    responses
}

#[test]
fn a_request_survives_the_wire_and_nothing_but_itself_decodes() {
    for request in requests() {
        survives(&request);
    }
    assert!(decode::<Request>(&[0xff; 64]).is_err());
}

/// The message comes out as it went in; a part of it, or more than it, is no message.
#[track_caller]
fn survives<T>(message: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let wire = encode(message).expect("encode");
    let payload = &wire[HEADER_BYTES..];
    assert_eq!(wire[..HEADER_BYTES], (payload.len() as u32).to_le_bytes());
    assert_eq!(&decode::<T>(payload).expect("decode"), message);
    for cut in 0..payload.len() {
        assert!(decode::<T>(&payload[..cut]).is_err(), "{message:?} cut at {cut}");
    }
    let longer = [payload, &[0]].concat();
    assert!(matches!(decode::<T>(&longer), Err(ProtocolError::Malformed { .. })));
}

#[test]
fn a_response_survives_the_wire_and_nothing_but_itself_decodes() {
    for response in responses() {
        survives(&response);
    }
}

#[test]
fn reports_of_every_outcome_survive_the_wire() {
    use crate::report::{Frame, Limit, LimitReached, MissingLayer, Outcome, Trap, Violation};
    let values = vec![
        Value::I32(-1),
        Value::I64(2),
        Value::F32(3),
        Value::F64(4),
        Value::FuncRef(true),
        Value::ExternRef(Some(5)),
    ];
    let frame = Frame {
        function: 3,
        name: Some("f".into()),
        offset: Some(77),
        file: Some("a.c".into()),
        line: Some(3),
    };
    for outcome in [
        Outcome::Exited { code: 3, results: values },
        Outcome::Trapped(Trap { message: "unreachable".into(), backtrace: vec![frame] }),
        Outcome::Violated(Violation::Syscall {
            number: 57,
            name: "fork".into(),
            arch: "x86_64".into(),
            policy: "default".into(),
        }),
        Outcome::Violated(Violation::Fault { signal: "SIGSEGV".into(), pc: 1, address: 2 }),
        Outcome::Violated(Violation::Ring { rule: "r".into() }),
        Outcome::Violated(Violation::Died { how: "h".into() }),
        Outcome::LimitReached(LimitReached { limit: Limit::Output, value: 9 }),
        Outcome::Cancelled,
    ] {
        let response = Response::Report(Box::new(Report {
            outcome,
            usage: Usage { wall_ns: 1, ..Usage::default() },
            policy: "default".into(),
            dangers: [crate::report::PolicyDanger { policy: "p".into(), reason: "r".into() }].into(),
            layers: ["seccomp".into()].into(),
            missing_layers: [MissingLayer { layer: "l".into(), reason: "r".into() }].into(),
        }));
        let wire = encode(&response).expect("encode");
        assert_eq!(decode::<Response>(&wire[HEADER_BYTES..]).expect("decode"), response);
    }
}

#[test]
fn a_changed_byte_never_panics() {
    fn try_all<T: serde::Serialize + serde::de::DeserializeOwned>(message: &T) {
        let mut payload = encode(message).expect("encode")[HEADER_BYTES..].to_vec();
        for at in 0..payload.len() {
            let kept = payload[at];
            for byte in 0..=255 {
                payload[at] = byte;
                // Either a message or an error; a length that lies must not allocate what it claims.
                let _ = decode::<T>(&payload);
            }
            payload[at] = kept;
        }
    }
    requests().iter().for_each(try_all);
    responses().iter().for_each(try_all);
}

#[test]
fn the_wire_form_of_this_version_is_fixed() {
    // Changing any of these means a new protocol version.
    assert_eq!(encode(&Request::Cancel).expect("encode"), [1, 0, 0, 0, 1]);
    assert_eq!(encode(&Request::Unload(ModuleId(5))).expect("encode"), [2, 0, 0, 0, 3, 5]);
    assert_eq!(encode(&Request::Status).expect("encode"), [1, 0, 0, 0, 4]);
    assert_eq!(encode(&Request::Policies).expect("encode"), [1, 0, 0, 0, 6]);
    assert_eq!(encode(&Request::ReloadPolicies).expect("encode"), [1, 0, 0, 0, 7]);
    let usage = SessionRequest { session: SessionId(2), operation: SessionOperation::Usage };
    assert_eq!(encode(&Request::Session(usage)).expect("encode"), [3, 0, 0, 0, 9, 2, 8]);
    let result = HostResult::Returned(Payload::Values(vec![Value::I32(-1)]));
    let answer =
        Request::HostReturn(HostReturn { call: CallId(3), result, handles: HandleChanges::default() });
    assert_eq!(encode(&answer).expect("encode"), [9, 0, 0, 0, 10, 3, 0, 0, 1, 0, 1, 0, 0]);
    let handles = HandleChanges { closed: vec![], opened: vec![OpenedHandle { handle: 0x1_0000, kind: 2 }] };
    let answer = Request::HostReturn(HostReturn { call: CallId(3), result: HostResult::Error(2), handles });
    assert_eq!(encode(&answer).expect("encode"), [10, 0, 0, 0, 10, 3, 3, 2, 0, 1, 0x80, 0x80, 4, 2]);
    let arguments = vec![
        TypedValue::Scalar(TypedScalar::F32(1.0)),
        TypedValue::String("x".into()),
        TypedValue::Records { fields: 1, values: vec![TypedScalar::S8(-1)] },
    ];
    let invocation = Invocation::Typed { interface: 0, function: 1, arguments };
    let call = Response::HostCall(HostCall { call: CallId(3), invocation });
    let expected: &[u8] = &[
        10, 3, 1, 0, 1, 3, // HostCall 3: Typed, interface 0, function 1, 3 arguments
        0, 9, 0, 0, 0x80, 0x3f, // Scalar F32
        1, 1, b'x', // String
        5, 1, 1, 1, 0xff, // Records of 1 field, 1 value: S8
    ];
    assert_eq!(&encode(&call).expect("encode")[HEADER_BYTES..], expected);
    let wire = encode(&run_request()).expect("encode");
    let expected: &[u8] = &[
        0, // Run
        1, 0, 0, // Given, descriptor 0, Wasm
        0, 7, b'd', b'e', b'f', b'a', b'u', b'l', b't', // Named
        2, 6, b'm', b'.', b'w', b'a', b's', b'm', 1, 0xff, // args
        1, 3, b'A', b'=', b'b', // env
        0, 1, 1, 1, 2, // stdio
        1, 3, 1, b'/', 1, // preopens
        1, 4, // sockets
        1, 1, b'm', 1, b'f', 0, 1, 0, 0, 1, 7, // imports
        1, 2, 5, 6, // interfaces
        1, 0x80, 0x80, 0x40, 0, 1, 9, // limits
        0, // tenant
        2, 3, b'a', b'd', b'd', 2, 1, b'1', 1, b'2', // Invoke
    ];
    assert_eq!(&wire[HEADER_BYTES..], expected);
}

#[test]
fn every_descriptor_is_used_exactly_once() {
    let fd = || rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    let mut descriptors = Descriptors::new(vec![fd(), fd()]);
    assert!(descriptors.take(Descriptor(1)).is_ok());
    assert!(matches!(descriptors.take(Descriptor(1)), Err(ProtocolError::DescriptorTwice(1))));
    assert!(matches!(
        descriptors.take(Descriptor(2)),
        Err(ProtocolError::NoSuchDescriptor { index: 2, count: 2 })
    ));
    assert!(matches!(descriptors.finish(), Err(ProtocolError::DescriptorUnused(0))));
}
