//! Clients of the daemon that do only what they are told, also what no client should do.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use ipc::fdpass;
use ipc::protocol::{
    ClientHello, Descriptor, ErrorKind, Frame, FrameReader, ModuleFormat, ModuleRef, ModuleSource,
    PolicyRequest, Request, Response, ServerHello, SetupRequest, decode, encode, frame,
};

use crate::{Daemon, PATIENCE};

/// An instance whose module is descriptor 0.
pub fn setup() -> SetupRequest {
    SetupRequest {
        module: ModuleRef::Given(ModuleSource { file: Descriptor(0), format: ModuleFormat::Wasm }),
        policy: PolicyRequest::Named("default".into()),
        args: vec![],
        env: vec![],
        stdio: [None; 3],
        preopens: vec![],
        sockets: vec![],
        imports: vec![],
        interfaces: vec![],
        limits: Default::default(),
        tenant: None,
    }
}

/// A client that does only what it is told.
#[derive(Debug)]
pub struct RawClient(pub UnixStream);

impl RawClient {
    /// One that has said nothing.
    pub fn connect(daemon: &Daemon) -> Self {
        let stream = UnixStream::connect(daemon.socket()).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        Self(stream)
    }

    /// One that has agreed on a version.
    pub fn greeted(daemon: &Daemon) -> Self {
        let mut client = Self::connect(daemon);
        client.send(&frame(&ClientHello::OURS.to_bytes()).expect("frame"), &[]);
        let hello = client.receive().expect("hello");
        ServerHello::from_bytes(&hello.payload).expect("hello").accepted().expect("accepted");
        client
    }

    /// Sends bytes, with descriptors beside the first.
    pub fn send(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let sent = fdpass::send(&self.0, bytes, descriptors).expect("send");
        self.0.write_all(&bytes[sent..]).expect("send");
    }

    /// Sends a request.
    pub fn request(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) {
        self.send(&encode(request).expect("encode"), descriptors);
    }

    /// The next frame; `None` when the daemon has closed the connection.
    pub fn receive(&mut self) -> Option<Frame> {
        let mut reader = FrameReader::default();
        loop {
            let (space, descriptors) = reader.space();
            let bytes = match fdpass::receive(&self.0, space, descriptors) {
                Ok(0) => return None,
                // What the daemon says when it closes a connection from which it has not read everything.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                result => result.expect("receive"),
            };
            if let Some(frame) = reader.advance(bytes).expect("frame") {
                return Some(frame);
            }
        }
    }

    /// The next response.
    pub fn response(&mut self) -> Response {
        decode(&self.receive().expect("a response").payload).expect("response")
    }

    /// The next response, which must be an error.
    pub fn error(&mut self) -> (ErrorKind, String) {
        match self.response() {
            Response::Error(reply) => (reply.kind, reply.message),
            other => panic!("{other:?}"),
        }
    }

    /// The daemon says what is wrong and closes the connection.
    #[track_caller]
    pub fn expect_end(mut self, needle: &str) {
        let (kind, message) = self.error();
        assert_eq!(kind, ErrorKind::Protocol);
        assert!(message.contains(needle), "{needle:?} expected in: {message}");
        assert!(self.receive().is_none(), "the connection must be closed");
    }

    /// Running jobs, by the daemon's word.
    pub fn jobs(&mut self) -> u32 {
        self.request(&Request::Status, &[]);
        match self.response() {
            Response::Status(status) => status.jobs,
            other => panic!("{other:?}"),
        }
    }
}
