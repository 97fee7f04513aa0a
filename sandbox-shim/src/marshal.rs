//! Marshalling by the interface table: a guest's parameters become a submission, the answer goes back.
//!
//! Input bytes are copied to the arena, output ranges are reserved there; every guest pointer is checked
//! before anything is sent. The arena belongs to one call at a time: inputs and variable outputs grow from its
//! start, fixed results from its end.

use ipc::interface::{ARGS_MAX, Arg, FunctionId};
use ipc::job::{ARENA_OFFSET, CALLS_BYTES};
use ipc::layout::RING_BASE;
use ipc::ring::{Submission, pack_range, submission_flags, unpack_range};

use crate::guest_memory::{GuestMemory, OutOfBounds};
use crate::{ring_client, state};

/// What the supervisor answered.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The WASI error number.
    pub errno: u32,
    /// Where the descriptor is now, if the call said where it was; what `path_open` opened.
    pub value: u64,
    /// The `fdstat` of what `path_open` opened.
    pub opened: [u64; 3],
}

impl Answer {
    /// Of a call that was not made.
    const fn refused(errno: u32) -> Self {
        Self { errno, value: 0, opened: [0; 3] }
    }
}

/// WASI error numbers that the shim itself answers (witx `$errno`).
pub mod errno {
    /// `2big`: more than the arena holds.
    pub const TOO_BIG: u32 = 1;
    /// `badf`.
    pub const BAD_DESCRIPTOR: u32 = 8;
    /// `fault`: a pointer outside the memory.
    pub const FAULT: u32 = 21;
    /// `inval`.
    pub const INVALID: u32 = 28;
    /// `nosys`.
    pub const NO_SYSTEM: u32 = 52;
}

/// Bytes of the arena kept for fixed results.
const RESULTS_BYTES: u32 = 4096;

struct Arena {
    /// End of what inputs and variable outputs take.
    low: u32,
    /// Start of what fixed results take.
    high: u32,
}

impl Arena {
    const LIMIT: u32 = CALLS_BYTES as u32 - RESULTS_BYTES;

    /// Room for inputs and variable outputs.
    fn room(&self) -> u32 {
        Self::LIMIT.saturating_sub(self.low)
    }

    /// Takes `bytes` (at most [`room`](Self::room)) from the start, rounded up so that the next range is aligned.
    fn take(&mut self, bytes: u32) -> u32 {
        let start = self.low;
        self.low = (start + bytes).next_multiple_of(8);
        start
    }

    /// Takes `bytes` for a fixed result. The table's results are far smaller than the reserve.
    fn take_result(&mut self, bytes: u32) -> u32 {
        self.high -= bytes.next_multiple_of(8);
        self.high
    }

    fn address(offset: u32) -> *mut u8 {
        (RING_BASE as usize + ARENA_OFFSET + offset as usize) as *mut u8
    }
}

/// Why a call is answered without asking the supervisor.
enum Refused {
    OutOfBounds,
    TooBig,
}

impl From<OutOfBounds> for Refused {
    fn from(_: OutOfBounds) -> Self {
        Self::OutOfBounds
    }
}

/// Makes a host call over the ring; `frame` holds its parameters. `position` is where its descriptor is, if the shim keeps that.
///
/// # Safety
/// `frame` must hold one readable word per parameter of `function`.
pub unsafe fn call(function: FunctionId, frame: *const u64, position: Option<u64>) -> Answer {
    let memory = GuestMemory::current();
    // SAFETY: parameter indices of the table are below the number of parameters (tested in `ipc`).
    let parameter = |index: u8| unsafe { frame.add(index as usize).read() };
    let args = function.declaration().args;
    let mut words = [0u64; ARGS_MAX];
    match prepare(args, &parameter, &memory, &mut words) {
        Ok(()) => {}
        Err(Refused::OutOfBounds) => return Answer::refused(errno::FAULT),
        Err(Refused::TooBig) => return Answer::refused(errno::TOO_BIG),
    }
    let sequence = state::with(|s| {
        s.sequence = s.sequence.wrapping_add(1);
        s.sequence
    });
    let completion = ring_client::call(&Submission {
        function: function.number(),
        sequence,
        args: words,
        flags: if position.is_some() { submission_flags::POSITION } else { 0 },
        position: position.unwrap_or(0),
        reserved: [0; 3],
    });
    let delivered = deliver(args, &parameter, &memory, &words, completion.errno == 0, completion.written);
    Answer {
        errno: delivered.map_or(errno::FAULT, |()| completion.errno),
        value: completion.value,
        opened: completion.opened,
    }
}

fn prepare(
    args: &[Arg],
    parameter: &impl Fn(u8) -> u64,
    memory: &GuestMemory,
    words: &mut [u64; ARGS_MAX],
) -> Result<(), Refused> {
    let mut arena = Arena { low: 0, high: CALLS_BYTES as u32 };
    for (arg, word) in args.iter().zip(words.iter_mut()) {
        *word = match *arg {
            Arg::Value(index) => parameter(index),
            Arg::In { ptr, len, stride } => {
                let (at, bytes) =
                    (parameter(ptr) as u32, u64::from(parameter(len) as u32) * u64::from(stride));
                memory.check(at, bytes)?;
                if bytes > u64::from(arena.room()) {
                    return Err(Refused::TooBig);
                }
                let start = arena.take(bytes as u32);
                // SAFETY: the range was just taken from the arena of the mapped ring.
                unsafe { memory.read(at, Arena::address(start), bytes)? };
                pack_range(start, bytes as u32)
            }
            Arg::Out { ptr, len, stride } => {
                let bytes = u64::from(parameter(len) as u32) * u64::from(stride);
                memory.check(parameter(ptr) as u32, bytes)?;
                let room = arena.room();
                let bytes = bytes.min(u64::from(room - room % stride)) as u32;
                pack_range(arena.take(bytes), bytes)
            }
            Arg::Result { ptr, bytes } => {
                memory.check(parameter(ptr) as u32, u64::from(bytes))?;
                pack_range(arena.take_result(bytes), bytes)
            }
            Arg::GatherIn { ptr, len } => {
                let start = arena.take(0);
                let room = arena.room();
                let mut total = 0;
                each_piece(memory, parameter(ptr) as u32, parameter(len) as u32, room, |at, bytes| {
                    // SAFETY: `total + bytes <= room` bytes from `start` lie in the arena of the mapped ring.
                    unsafe { memory.read(at, Arena::address(start + total), u64::from(bytes))? };
                    total += bytes;
                    Ok(())
                })?;
                arena.take(total);
                pack_range(start, total)
            }
            Arg::ScatterOut { ptr, len } => {
                let room = arena.room();
                let mut total = 0;
                each_piece(memory, parameter(ptr) as u32, parameter(len) as u32, room, |at, bytes| {
                    memory.check(at, u64::from(bytes))?;
                    total += bytes;
                    Ok(())
                })?;
                pack_range(arena.take(total), total)
            }
        };
    }
    Ok(())
}

/// Calls `f` with the pieces of a gather or scatter array, cut off after `room` bytes.
pub(crate) fn each_piece(
    memory: &GuestMemory,
    array: u32,
    pairs: u32,
    mut room: u32,
    mut f: impl FnMut(u32, u32) -> Result<(), OutOfBounds>,
) -> Result<(), OutOfBounds> {
    memory.check(array, u64::from(pairs) * 8)?;
    for index in 0..pairs {
        let (at, bytes) = memory.pair(array, index)?;
        memory.check(at, u64::from(bytes))?;
        let bytes = bytes.min(room);
        if bytes > 0 {
            f(at, bytes)?;
            room -= bytes;
        }
        if room == 0 {
            break;
        }
    }
    Ok(())
}

fn deliver(
    args: &[Arg],
    parameter: &impl Fn(u8) -> u64,
    memory: &GuestMemory,
    words: &[u64; ARGS_MAX],
    success: bool,
    written: u64,
) -> Result<(), OutOfBounds> {
    for (arg, word) in args.iter().zip(words) {
        let (start, bytes) = unpack_range(*word);
        let written = written.min(u64::from(bytes));
        match *arg {
            Arg::Value(_) | Arg::In { .. } | Arg::GatherIn { .. } => {}
            Arg::Result { ptr, bytes } if success => {
                // SAFETY: the range was reserved in the arena of the mapped ring by `prepare`.
                unsafe { memory.write(parameter(ptr) as u32, Arena::address(start), u64::from(bytes))? };
            }
            Arg::Result { .. } => {}
            Arg::Out { ptr, .. } => {
                // SAFETY: as above; `written` is at most what was reserved.
                unsafe { memory.write(parameter(ptr) as u32, Arena::address(start), written)? };
            }
            Arg::ScatterOut { ptr, len } => {
                let mut from = start;
                let (array, pairs) = (parameter(ptr) as u32, parameter(len) as u32);
                each_piece(memory, array, pairs, written as u32, |at, bytes| {
                    // SAFETY: the pieces add up to at most `written`, which is at most what was reserved.
                    unsafe { memory.write(at, Arena::address(from), u64::from(bytes))? };
                    from += bytes;
                    Ok(())
                })?;
            }
        }
    }
    Ok(())
}
