//! The job protocol between a host app and the daemon. `docs/protocol.md` describes it for implementers.
//!
//! A connection carries *frames*: a length (`u32`, little endian), then that many bytes, at most [`FRAME_MAX`].
//! Bulk data does not travel in frames: modules, directories and stdio are file descriptors that come with the
//! first byte of the frame that speaks of them, and are named by their position ([`Descriptor`]).
//!
//! The first frame in each direction has a fixed layout ([`ClientHello`], [`ServerHello`]), the same in all
//! versions; every later frame is a [`Request`] or a [`Response`] in postcard form, as of the agreed version.
//! One request is answered by one response; a connection runs one job at a time.
//!
//! Either side treats the other's frames as hostile: lengths are checked before anything is allocated, a frame
//! must be used up to its last byte, every descriptor must be named exactly once.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fdpass::DESCRIPTORS_MAX;
use crate::report::{Report, Value};

/// First bytes of both hellos.
pub const MAGIC: [u8; 8] = *b"sandboxd";
/// Oldest version of the protocol that this build speaks.
pub const VERSION_MIN: u16 = 4;
/// Newest version of the protocol that this build speaks.
pub const VERSION_MAX: u16 = 4;
/// Bytes of the largest frame, its length not counted: the strings of a job (1 MiB), a policy, and room.
pub const FRAME_MAX: usize = 2 << 20;
/// Bytes of the length before each frame.
pub const HEADER_BYTES: usize = 4;
/// Bytes that the file of a module may have. What the compiler accepts may be less.
pub const MODULE_BYTES_MAX: u64 = 1 << 30;
/// Directories that a job may have.
pub const PREOPENS_MAX: usize = 64;
/// Most sockets of one job.
pub const SOCKETS_MAX: usize = 16;
/// Characters of a message in a reply; longer ones are cut.
pub const MESSAGE_MAX: usize = 4096;

/// Where a daemon of this user listens unless told otherwise: `/run/sandboxd/sandboxd.sock` for root, else
/// `sandboxd.sock` in the user's runtime directory (`XDG_RUNTIME_DIR`); `None` for a user without one.
pub fn default_socket() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/run/sandboxd/sandboxd.sock"));
    }
    let directory = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    directory.is_absolute().then(|| directory.join("sandboxd.sock"))
}

/// What is wrong with a frame or a message.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The length of a frame is beyond the maximum.
    #[error("a frame of {0} bytes is longer than the protocol allows ({FRAME_MAX}); is the peer a sandboxd?")]
    FrameTooLong(usize),
    /// The stream ended inside a frame.
    #[error("the connection ended in the middle of a frame")]
    FrameCut,
    /// More descriptors than any message may have.
    #[error("{0} file descriptors came with one frame; at most {DESCRIPTORS_MAX} may")]
    TooManyDescriptors(usize),
    /// The first frame of a peer is no hello.
    #[error("the peer does not speak the sandboxd protocol: its first frame is no hello")]
    NotHello,
    /// The peers have no version in common.
    #[error(
        "the daemon speaks versions {theirs_min} to {theirs_max} of the job protocol, this client {VERSION_MIN} \
         to {VERSION_MAX}; update the older of the two"
    )]
    Version {
        /// Oldest version of the daemon.
        theirs_min: u16,
        /// Newest version of the daemon.
        theirs_max: u16,
    },
    /// The daemon accepted the version, but not the connection.
    #[error("the daemon refused the connection: {0}")]
    Refused(String),
    /// A frame that is no message of the agreed version.
    #[error("a frame of {bytes} bytes is no valid message: {reason}")]
    Malformed {
        /// Bytes in the frame.
        bytes: usize,
        /// What postcard says.
        reason: String,
    },
    /// A message that does not fit a frame.
    #[error(
        "a message of {0} bytes does not fit a frame ({FRAME_MAX}); arguments, environment and policy are too long"
    )]
    MessageTooLong(usize),
    /// A message names a descriptor that did not come with it.
    #[error("the message names file descriptor {index}, but {count} came with it")]
    NoSuchDescriptor {
        /// Position that was named.
        index: u8,
        /// Descriptors that came.
        count: usize,
    },
    /// A message names a descriptor twice.
    #[error("the message names file descriptor {0} twice")]
    DescriptorTwice(u8),
    /// A descriptor came that the message does not name.
    #[error("file descriptor {0} came with the message, which does not name it")]
    DescriptorUnused(usize),
}

/// A complete frame.
#[derive(Debug)]
pub struct Frame {
    /// Its bytes, without the length.
    pub payload: Vec<u8>,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// Puts frames together from pieces of a stream. It never asks for bytes beyond the end of the current frame, so the
/// descriptors that it was given always belong to that frame.
#[derive(Debug, Default)]
pub struct FrameReader {
    header: [u8; HEADER_BYTES],
    /// Bytes of header and payload so far.
    filled: usize,
    payload: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// The payload's buffer grows in steps of this size, as bytes arrive: a peer that only announces a large frame
/// does not make us allocate one.
const GROWTH: usize = 64 << 10;

impl FrameReader {
    /// Where the next piece of the stream goes: never empty.
    pub fn space(&mut self) -> (&mut [u8], &mut Vec<OwnedFd>) {
        let bytes = match self.filled.checked_sub(HEADER_BYTES) {
            None => &mut self.header[self.filled..],
            Some(done) => {
                let size = self.length().min(done + GROWTH);
                if self.payload.len() < size {
                    self.payload.resize(size, 0);
                }
                &mut self.payload[done..size]
            }
        };
        (bytes, &mut self.descriptors)
    }

    /// Notes that the stream put `bytes` bytes into [`space`](Self::space). Returns the frame when it is complete.
    pub fn advance(&mut self, bytes: usize) -> Result<Option<Frame>, ProtocolError> {
        self.filled += bytes;
        if self.descriptors.len() > DESCRIPTORS_MAX {
            return Err(ProtocolError::TooManyDescriptors(self.descriptors.len()));
        }
        if self.filled < HEADER_BYTES {
            return Ok(None);
        }
        let length = self.length();
        if length > FRAME_MAX {
            return Err(ProtocolError::FrameTooLong(length));
        }
        if self.filled < HEADER_BYTES + length {
            return Ok(None);
        }
        self.filled = 0;
        Ok(Some(Frame {
            payload: std::mem::take(&mut self.payload),
            descriptors: std::mem::take(&mut self.descriptors),
        }))
    }

    /// Whether a frame has begun and is not complete.
    pub fn in_frame(&self) -> bool {
        self.filled > 0
    }

    fn length(&self) -> usize {
        u32::from_le_bytes(self.header) as usize
    }
}

/// A frame as it goes over the wire, from its payload.
pub fn frame(payload: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    if payload.len() > FRAME_MAX {
        return Err(ProtocolError::MessageTooLong(payload.len()));
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// A message as it goes over the wire, length included.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, ProtocolError> {
    let malformed = |e: postcard::Error| ProtocolError::Malformed { bytes: 0, reason: e.to_string() };
    let mut bytes = postcard::to_extend(message, vec![0; HEADER_BYTES]).map_err(malformed)?;
    let length = bytes.len() - HEADER_BYTES;
    if length > FRAME_MAX {
        return Err(ProtocolError::MessageTooLong(length));
    }
    bytes[..HEADER_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// The message in the payload of a frame, which must hold nothing else.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ProtocolError> {
    let malformed = |reason: String| ProtocolError::Malformed { bytes: payload.len(), reason };
    let (message, rest) = postcard::take_from_bytes(payload).map_err(|e| malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes too many", rest.len())));
    }
    Ok(message)
}

/// The first frame from a client. 12 bytes: [`MAGIC`], then two little-endian `u16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// Oldest version it speaks.
    pub min: u16,
    /// Newest version it speaks.
    pub max: u16,
}

impl ClientHello {
    /// What this build says.
    pub const OURS: Self = Self { min: VERSION_MIN, max: VERSION_MAX };

    /// The payload of the frame.
    pub fn to_bytes(self) -> Vec<u8> {
        [&MAGIC[..], &self.min.to_le_bytes(), &self.max.to_le_bytes()].concat()
    }

    /// From the payload of a frame. Later versions may append to it.
    pub fn from_bytes(payload: &[u8]) -> Result<Self, ProtocolError> {
        let rest = payload.strip_prefix(&MAGIC).ok_or(ProtocolError::NotHello)?;
        Ok(Self { min: word(rest, 0)?, max: word(rest, 1)? })
    }

    /// The newest version that both speak.
    pub fn agree(self) -> Option<u16> {
        let newest = self.max.min(VERSION_MAX);
        (newest >= self.min.max(VERSION_MIN)).then_some(newest)
    }
}

/// The first frame from the daemon: [`MAGIC`], three little-endian `u16`, then a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// The agreed version; 0 if the connection is refused, and closed after this frame.
    pub version: u16,
    /// Oldest version it speaks.
    pub min: u16,
    /// Newest version it speaks.
    pub max: u16,
    /// Why the connection is refused; empty if only the version is at fault.
    pub refusal: String,
}

impl ServerHello {
    /// Accepts a connection in `version`, or refuses the peer's versions (`None`).
    pub fn answer(version: Option<u16>) -> Self {
        Self { version: version.unwrap_or(0), min: VERSION_MIN, max: VERSION_MAX, refusal: String::new() }
    }

    /// Refuses a connection for another reason.
    pub fn refuse(reason: &str) -> Self {
        Self { refusal: one_line(reason), ..Self::answer(None) }
    }

    /// The payload of the frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = [self.version, self.min, self.max].map(u16::to_le_bytes).concat();
        [&MAGIC[..], &words, self.refusal.as_bytes()].concat()
    }

    /// From the payload of a frame.
    pub fn from_bytes(payload: &[u8]) -> Result<Self, ProtocolError> {
        let rest = payload.strip_prefix(&MAGIC).ok_or(ProtocolError::NotHello)?;
        let refusal = one_line(&String::from_utf8_lossy(rest.get(6..).unwrap_or_default()));
        Ok(Self { version: word(rest, 0)?, min: word(rest, 1)?, max: word(rest, 2)?, refusal })
    }

    /// The agreed version, or why there is none.
    pub fn accepted(&self) -> Result<u16, ProtocolError> {
        match self.version {
            VERSION_MIN..=VERSION_MAX => Ok(self.version),
            0 if !self.refusal.is_empty() => Err(ProtocolError::Refused(self.refusal.clone())),
            _ => Err(ProtocolError::Version { theirs_min: self.min, theirs_max: self.max }),
        }
    }
}

fn word(bytes: &[u8], index: usize) -> Result<u16, ProtocolError> {
    match bytes.get(2 * index..2 * index + 2) {
        Some(&[low, high]) => Ok(u16::from_le_bytes([low, high])),
        _ => Err(ProtocolError::NotHello),
    }
}

/// The text on one line and of bounded length, whatever it quotes.
pub fn one_line(text: &str) -> String {
    text.chars().take(MESSAGE_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A file descriptor, by its position among those that came with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor(pub u8);

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and few exist at a time")]
pub enum Request {
    /// Run a job. Answered by [`Response::Report`] when it has ended.
    Run(RunRequest),
    /// End the running job. Its report follows as usual. Without a running job nothing happens, and nothing is answered:
    /// the job may have ended while the request was under way.
    Cancel,
    /// Prepare a module for many jobs of this connection. Answered by [`Response::Loaded`].
    Load(ModuleSource),
    /// Forget a module. Answered by [`Response::Unloaded`].
    Unload(ModuleId),
    /// How the daemon is. Answered by [`Response::Status`].
    Status,
    /// What the daemon's host offers. Answered by [`Response::Doctor`].
    Doctor,
    /// Which policies have names. Answered by [`Response::Policies`].
    Policies,
    /// Read the directory of policies anew. Only for the daemon's own user and root. Answered by [`Response::Reloaded`], or by
    /// an error of kind [`ErrorKind::Policy`] when nothing has changed.
    ReloadPolicies,
}

/// A module, loaded through the same connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleId(pub u32);

/// Where the bytes of a module are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleSource {
    /// A regular file or a memfd, open for reading; it is read from its beginning.
    pub file: Descriptor,
    /// What is in it.
    pub format: ModuleFormat,
}

/// What the bytes of a module are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleFormat {
    /// A WebAssembly module, in binary or text form.
    Wasm,
    /// An artifact of the compiler.
    Artifact,
}

impl ModuleFormat {
    /// What bytes that begin like this are taken for. Artifacts are ELF images.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(b"\x7fELF") { ModuleFormat::Artifact } else { ModuleFormat::Wasm }
    }
}

/// One job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRequest {
    /// The module.
    pub module: ModuleRef,
    /// What runs.
    pub entry: EntryRequest,
    /// The policy.
    pub policy: PolicyRequest,
    /// Argument strings, with the program's name first.
    pub args: Vec<Vec<u8>>,
    /// Environment, each `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// Descriptors 0, 1 and 2 of the guest.
    pub stdio: [Option<Descriptor>; 3],
    /// Directories, from descriptor 3 on; at most [`PREOPENS_MAX`].
    pub preopens: Vec<PreopenRequest>,
    /// Sockets, listening or connected, behind the directories; at most [`SOCKETS_MAX`].
    pub sockets: Vec<Descriptor>,
    /// Narrower limits than the policy's.
    pub limits: LimitsRequest,
    /// The trust domain; by default one per user.
    pub tenant: Option<String>,
}

/// The module of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleRef {
    /// One that was loaded before.
    Loaded(ModuleId),
    /// One that comes with the request.
    Given(ModuleSource),
}

/// What a job runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EntryRequest {
    /// `_start`.
    Command,
    /// An export, with one value per parameter.
    Export {
        /// Its name.
        name: String,
        /// The values.
        args: Vec<Value>,
    },
    /// An export, with one text per parameter; the daemon reads them as the types of the parameters.
    Invoke {
        /// Its name.
        name: String,
        /// The texts.
        args: Vec<String>,
    },
}

/// The policy of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyRequest {
    /// A profile that the daemon knows.
    Named(String),
    /// The text of a policy file.
    Text {
        /// Its name, for messages.
        name: String,
        /// Its contents.
        toml: String,
    },
}

/// A directory that the guest may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreopenRequest {
    /// The open directory.
    pub directory: Descriptor,
    /// Its name in the guest.
    pub guest_path: String,
    /// Whether the guest may only read below it.
    pub read_only: bool,
}

/// Limits of one job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsRequest {
    /// Bytes of all linear memories together.
    pub memory: Option<u64>,
    /// Wall-clock time in nanoseconds.
    pub wall_time_ns: Option<u64>,
    /// Fuel: what the guest may execute. A module that comes with the request is compiled so that it counts.
    pub fuel: Option<u64>,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// How the job ended.
    Report(Box<Report>),
    /// The request could not be carried out. After [`ErrorKind::Protocol`] the daemon closes the connection.
    Error(ErrorReply),
    /// The module is ready.
    Loaded(ModuleId),
    /// The module is forgotten.
    Unloaded,
    /// How the daemon is.
    Status(Status),
    /// What the host offers, as a JSON object.
    Doctor(String),
    /// The policies that have names.
    Policies(Vec<PolicyInfo>),
    /// The policies were read anew.
    Reloaded(Reloaded),
}

/// A policy that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// Its name.
    pub name: String,
    /// Its file; `None` for a built-in one.
    pub file: Option<String>,
    /// What it extends.
    pub extends: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Whether it, or what it extends, may give more than a built-in policy.
    pub dangerous: bool,
}

/// What a reload has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// How many policies have names now, the built-in ones included.
    pub policies: u32,
    /// Names that are new.
    pub added: Vec<String>,
    /// Names of which the policy is another one now.
    pub changed: Vec<String>,
    /// Names that are gone.
    pub removed: Vec<String>,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorReply {
    /// Whose fault it is.
    pub kind: ErrorKind,
    /// One line.
    pub message: String,
}

impl ErrorReply {
    /// A reply from any error; its message is brought into one line.
    pub fn new(kind: ErrorKind, error: impl std::fmt::Display) -> Self {
        Self { kind, message: one_line(&error.to_string()) }
    }
}

/// Kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The client broke the rules of the protocol.
    Protocol,
    /// The module cannot be loaded.
    Module,
    /// The policy is unknown or wrong.
    Policy,
    /// The job cannot be run as asked for.
    Job,
    /// Something failed that the client has no part in.
    Internal,
    /// The client cancelled the job before it began.
    Cancelled,
}

/// How the daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon's build.
    pub version: String,
    /// Open connections, this one included.
    pub connections: u32,
    /// Running jobs.
    pub jobs: u32,
}

/// The descriptors of a frame, while its message is taken apart.
#[derive(Debug)]
pub struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    /// The descriptors that came with a frame.
    pub fn new(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors.into_iter().map(Some).collect())
    }

    /// Takes the descriptor that a message names.
    pub fn take(&mut self, Descriptor(index): Descriptor) -> Result<OwnedFd, ProtocolError> {
        let count = self.0.len();
        self.0
            .get_mut(usize::from(index))
            .ok_or(ProtocolError::NoSuchDescriptor { index, count })?
            .take()
            .ok_or(ProtocolError::DescriptorTwice(index))
    }

    /// Checks that none is left over.
    pub fn finish(self) -> Result<(), ProtocolError> {
        match self.0.iter().position(Option::is_some) {
            Some(index) => Err(ProtocolError::DescriptorUnused(index)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn run_request() -> Request {
        Request::Run(RunRequest {
            module: ModuleRef::Given(ModuleSource { file: Descriptor(0), format: ModuleFormat::Wasm }),
            entry: EntryRequest::Invoke { name: "add".into(), args: vec!["1".into(), "2".into()] },
            policy: PolicyRequest::Named("default".into()),
            args: vec![b"m.wasm".to_vec(), b"\xff".to_vec()],
            env: vec![b"A=b".to_vec()],
            stdio: [None, Some(Descriptor(1)), Some(Descriptor(2))],
            preopens: vec![PreopenRequest {
                directory: Descriptor(3),
                guest_path: "/".into(),
                read_only: true,
            }],
            sockets: vec![Descriptor(4)],
            limits: LimitsRequest { memory: Some(1 << 20), wall_time_ns: None, fuel: Some(9) },
            tenant: None,
        })
    }

    #[test]
    fn a_request_survives_the_wire_and_nothing_but_itself_decodes() {
        let request = run_request();
        let wire = encode(&request).expect("encode");
        let payload = &wire[HEADER_BYTES..];
        assert_eq!(wire[..HEADER_BYTES], (payload.len() as u32).to_le_bytes());
        assert_eq!(decode::<Request>(payload).expect("decode"), request);
        for cut in 0..payload.len() {
            assert!(decode::<Request>(&payload[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [payload, &[0]].concat();
        assert!(matches!(decode::<Request>(&longer), Err(ProtocolError::Malformed { .. })));
        assert!(decode::<Request>(&[0xff; 64]).is_err());
    }

    #[test]
    fn reports_of_every_outcome_survive_the_wire() {
        use crate::report::{Frame, Limit, LimitReached, MissingLayer, Outcome, Trap, Usage, Violation};
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
                dangers: vec![crate::report::PolicyDanger { policy: "p".into(), reason: "r".into() }],
                layers: vec!["seccomp".into()],
                missing_layers: vec![MissingLayer { layer: "l".into(), reason: "r".into() }],
            }));
            let wire = encode(&response).expect("encode");
            assert_eq!(decode::<Response>(&wire[HEADER_BYTES..]).expect("decode"), response);
        }
    }

    #[test]
    fn a_changed_byte_never_panics() {
        let wire = encode(&run_request()).expect("encode");
        let mut payload = wire[HEADER_BYTES..].to_vec();
        for at in 0..payload.len() {
            let kept = payload[at];
            for byte in 0..=255 {
                payload[at] = byte;
                // Either a message or an error; a length that lies must not allocate what it claims.
                let _ = decode::<Request>(&payload);
            }
            payload[at] = kept;
        }
    }

    #[test]
    fn the_wire_form_of_this_version_is_fixed() {
        // Changing any of these means a new protocol version.
        assert_eq!(encode(&Request::Cancel).expect("encode"), [1, 0, 0, 0, 1]);
        assert_eq!(encode(&Request::Unload(ModuleId(5))).expect("encode"), [2, 0, 0, 0, 3, 5]);
        assert_eq!(encode(&Request::Status).expect("encode"), [1, 0, 0, 0, 4]);
        assert_eq!(encode(&Request::Policies).expect("encode"), [1, 0, 0, 0, 6]);
        assert_eq!(encode(&Request::ReloadPolicies).expect("encode"), [1, 0, 0, 0, 7]);
        let wire = encode(&run_request()).expect("encode");
        let expected: &[u8] = &[
            0, // Run
            1, 0, 0, // Given, descriptor 0, Wasm
            2, 3, b'a', b'd', b'd', 2, 1, b'1', 1, b'2', // Invoke
            0, 7, b'd', b'e', b'f', b'a', b'u', b'l', b't', // Named
            2, 6, b'm', b'.', b'w', b'a', b's', b'm', 1, 0xff, // args
            1, 3, b'A', b'=', b'b', // env
            0, 1, 1, 1, 2, // stdio
            1, 3, 1, b'/', 1, // preopens
            1, 4, // sockets
            1, 0x80, 0x80, 0x40, 0, 1, 9, // limits
            0, // tenant
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
}
