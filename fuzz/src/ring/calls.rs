//! Submissions of a hostile guest: as a shim would make them, or of any words.

use std::ops::Range;

use arbitrary::Unstructured;
use interface::Lowered;
use ipc::imports::{FUNCTIONS as IMPORTS, SLOT};
use ipc::interface::{Arg, FUNCTIONS};
use ipc::job::ARENA_BYTES;
use ipc::ring::{FINISHED, Submission, pack_range, submission_flags};
use ipc::typed::{OUT_HEAD, REFUSED};

use super::Peer;

/// What `path_*` calls name, mostly.
const PATHS: [&[u8]; 20] = [
    b"a",
    b"d",
    b"d/b",
    b"new",
    b"d/new",
    b"../secret",
    b"escape",
    b"absolute",
    b"loop",
    b"d/../../secret",
    b"..",
    b".",
    b"",
    b"/",
    b"a/",
    b"d/",
    b"fifo",
    b"d/up/secret",
    b"a\0",
    b"\xff",
];

/// How many values the functions of `surroundings::BARE` take or return.
const BARE_FUNCTIONS: [u32; 2] = [2, 0];

/// A well-formed call, and where its answer may write.
#[derive(Debug, Default)]
pub struct Call {
    /// The call.
    pub submission: Submission,
    /// Where its answer may write.
    pub writable: Vec<Range<usize>>,
    /// Bytes of the part that `written` of the completion counts.
    pub counted: usize,
    /// It is of a typed function.
    pub typed: bool,
}

/// Where the ranges of one call come to lie: side by side.
#[derive(Debug)]
pub struct Room {
    /// Where the next one goes.
    pub at: usize,
}

impl Room {
    fn take(&mut self, length: usize) -> usize {
        let at = self.at;
        self.at += length.next_multiple_of(8);
        at
    }
}

/// A number that often means something.
pub fn value(u: &mut Unstructured<'_>) -> arbitrary::Result<u64> {
    Ok(match u.int_in_range(0..=15)? {
        small @ 0..=9 => small,
        10 => u64::MAX,
        11 => u.arbitrary()?,
        12 => u64::from(u.arbitrary::<u32>()?),
        13 => (0x1_0000 << u.int_in_range(0..=1u64)?) + u.int_in_range(0..=2u64)?,
        14 => 1u64.wrapping_shl(u.arbitrary()?),
        _ => 4096,
    })
}

/// Bytes that a function may read: a path, subscriptions, or anything.
fn content(u: &mut Unstructured<'_>, name: &str, length: Option<usize>) -> arbitrary::Result<Vec<u8>> {
    let bytes = |u: &mut Unstructured<'_>| -> arbitrary::Result<Vec<u8>> {
        let few = u.int_in_range(0..=24)?;
        Ok(u.bytes(few.min(u.len()))?.to_vec())
    };
    let mut bytes = match name {
        _ if name.starts_with("path_") && u.ratio(7, 8)? => u.choose(&PATHS)?.to_vec(),
        "poll_oneoff" => {
            let mut all = Vec::new();
            for _ in 0..u.int_in_range(0..=3)? {
                let mut one = [0u8; 48];
                (one[8], one[16]) = (u.int_in_range(0..=3)?, u.int_in_range(0..=8)?);
                one[24..32].copy_from_slice(&(value(u)? & 0xffff).to_le_bytes());
                one[40] = u.int_in_range(0..=2)?;
                all.extend(one);
            }
            all
        }
        _ => bytes(u)?,
    };
    if let Some(length) = length {
        let filler = *bytes.first().unwrap_or(&b'x');
        bytes.resize(length, filler);
    }
    Ok(bytes)
}

/// A call of a function of the interface table, as a shim would marshal it.
pub fn wasi_call(u: &mut Unstructured<'_>, peer: &Peer, room: &mut Room) -> arbitrary::Result<Call> {
    let number = u.choose_index(FUNCTIONS.len())?;
    let function = &FUNCTIONS[number];
    let mut call = Call::default();
    call.submission.function = number as u32;
    for (word, arg) in call.submission.args.iter_mut().zip(function.args) {
        *word = match *arg {
            Arg::Value(_) => value(u)?,
            Arg::Result { bytes, .. } => {
                let at = room.take(bytes as usize);
                call.writable.push(at..at + bytes as usize);
                pack_range(at as u32, bytes)
            }
            Arg::In { .. } | Arg::GatherIn { .. } => {
                let length = match arg {
                    Arg::GatherIn { .. } => Some(*u.choose(&[0, 1, 8, 100, 4096])?),
                    _ => None,
                };
                let bytes = content(u, function.name, length)?;
                let at = room.take(bytes.len());
                peer.write(at, &bytes);
                pack_range(at as u32, bytes.len() as u32)
            }
            Arg::Out { stride, .. } => {
                let length = *u.choose(&[0, 1, 2, 24, 100])? * stride as usize;
                let at = room.take(length);
                call.writable.push(at..at + length);
                call.counted = length;
                pack_range(at as u32, length as u32)
            }
            Arg::ScatterOut { .. } => {
                let length = *u.choose(&[0usize, 1, 8, 100, 4096])?;
                let at = if u.ratio(1, 4)? { ARENA_BYTES - length } else { room.take(length) };
                call.writable.push(at..at + length);
                call.counted = length;
                pack_range(at as u32, length as u32)
            }
        };
    }
    // What a shim says of the files whose positions it keeps.
    let keeps = matches!(function.name, "fd_read" | "fd_write" | "fd_seek" | "fd_tell");
    if keeps && u.ratio(1, 2)? {
        call.submission.flags = submission_flags::POSITION;
        call.submission.position = value(u)?;
    }
    Ok(call)
}

/// A call of a typed function, or of one with bare values.
pub fn import_call(
    u: &mut Unstructured<'_>,
    interface: &Lowered,
    peer: &Peer,
    room: &mut Room,
) -> arbitrary::Result<Call> {
    use ipc::typed::Arg;
    let functions = interface.functions();
    let number = u.choose_index(functions.len() + BARE_FUNCTIONS.len())?;
    let mut call = Call { typed: number < functions.len(), ..Call::default() };
    call.submission.function = IMPORTS + number as u32;
    let Some(function) = functions.get(number) else {
        let length = BARE_FUNCTIONS[number - functions.len()] as usize * SLOT;
        let at = room.take(length);
        peer.write(at, &content(u, "", Some(length))?);
        call.submission.args[0] = pack_range(at as u32, length as u32);
        call.writable.push(at..at + length);
        return Ok(call);
    };
    if u.ratio(1, 16)? {
        call.submission.flags = REFUSED;
        call.submission.args[..2].copy_from_slice(&[value(u)?, value(u)?]);
        return Ok(call);
    }
    for (word, arg) in call.submission.args.iter_mut().zip(function.args()) {
        let count = *u.choose(&[0, 1, 2, 3, 20])?;
        let (length, reads) = match arg {
            Arg::Value { .. } => {
                *word = value(u)?;
                continue;
            }
            Arg::In { stride, .. } => (count * stride as usize, true),
            Arg::InFixed { bytes, .. } => (bytes as usize, true),
            Arg::Out { stride, .. } => (OUT_HEAD + count * stride as usize, false),
            Arg::OutFixed { bytes, .. } => (bytes as usize, false),
        };
        let at = room.take(length);
        match reads {
            true => {
                let mut bytes = content(u, "", Some(length))?;
                // Enums and handles that are some, wherever they lie.
                if u.ratio(3, 4)? {
                    let handle = (0x1_0000u32 + u32::from(u.arbitrary::<u8>()? % 3)).to_le_bytes();
                    bytes.iter_mut().zip(handle.iter().cycle()).for_each(|(to, from)| *to = *from);
                    if length == 24 {
                        bytes[16..24].copy_from_slice(&[1, 0, 0, 0, handle[0], 0, 1, 0]);
                    }
                }
                peer.write(at, &bytes);
            }
            false => call.writable.push(at..at + length),
        }
        *word = pack_range(at as u32, length as u32);
    }
    Ok(call)
}

/// Any words.
pub fn any_submission(u: &mut Unstructured<'_>) -> arbitrary::Result<Submission> {
    let function = match u.int_in_range(0..=7)? {
        0 => u.arbitrary()?,
        1 => FINISHED,
        2 => IMPORTS + u.int_in_range(0..=7)?,
        3 => ipc::session::REPLY,
        _ => u.choose_index(FUNCTIONS.len())? as u32,
    };
    let mut submission = Submission { function, sequence: u.arbitrary()?, ..Submission::default() };
    for word in &mut submission.args {
        *word = match u.int_in_range(0..=3)? {
            0 => value(u)?,
            1 => pack_range(u.arbitrary()?, u.arbitrary()?),
            _ => {
                let length = *u.choose(&[0, 1, 4, 8, 24, 48, 64, 4096, ARENA_BYTES as u32])?;
                let behind = u32::from(u.arbitrary::<u16>()?) & !7;
                let at = if u.arbitrary()? { behind } else { (ARENA_BYTES as u32).saturating_sub(behind) };
                pack_range(at, length)
            }
        };
    }
    if u.ratio(1, 8)? {
        (submission.flags, submission.position) = (value(u)?, value(u)?);
    }
    Ok(submission)
}
