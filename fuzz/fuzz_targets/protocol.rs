//! The job protocol from the other side of a connection: a stream, cut anywhere, gives frames or an error; a frame gives a message or an
//! error; and what is a message comes out again as it went in.
#![no_main]

use interface::Value;
use ipc::protocol::{
    ClientHello, Descriptors, FRAME_MAX, FrameReader, HEADER_BYTES, HostResult, HostReturn, Payload, Request,
    Response, ServerHello, decode, encode,
};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    let Some((&piece, stream)) = data.split_first() else { return };
    message::<Request>(stream);
    message::<Response>(stream);
    values(stream);
    let _ = ClientHello::from_bytes(stream).map(ClientHello::agree);
    let _ = ServerHello::from_bytes(stream).map(|hello| hello.accepted());
    frames(stream, usize::from(piece) + 1);
});

/// Bytes that are a message are that message's, or another form of it: a varint has several.
fn message<T: Serialize + DeserializeOwned>(payload: &[u8]) {
    let Ok(message) = decode::<T>(payload) else { return };
    let wire = encode(&message).expect("what came out of a frame fits one");
    assert!(wire.len() <= HEADER_BYTES + payload.len(), "the shortest form");
    let again: T = decode(&wire[HEADER_BYTES..]).expect("what was encoded decodes");
    // Not by comparison: of a float only its bits are the same, which the bytes are.
    assert_eq!(encode(&again).expect("encode"), wire);
}

/// Typed values of an answer, as the daemon takes them over.
fn values(payload: &[u8]) {
    let Ok(Request::HostReturn(HostReturn { result, .. })) = decode(payload) else { return };
    let HostResult::Returned(Payload::Typed(values)) = result else { return };
    for value in values.into_iter().filter_map(|value| Value::of_wire(value).ok()) {
        assert!(value.to_wire().is_some(), "{value:?}");
    }
}

/// The stream in pieces: whatever it says, no more is kept than came.
fn frames(stream: &[u8], piece: usize) {
    let (mut reader, mut at) = (FrameReader::default(), 0);
    while at < stream.len() {
        let (space, descriptors) = reader.space();
        assert!(!space.is_empty() && descriptors.is_empty());
        let count = piece.min(space.len()).min(stream.len() - at);
        space[..count].copy_from_slice(&stream[at..at + count]);
        at += count;
        match reader.advance(count) {
            Ok(Some(frame)) => {
                assert!(frame.payload.len() <= FRAME_MAX);
                message::<Request>(&frame.payload);
                Descriptors::new(frame.descriptors).finish().expect("there are none");
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}
