//! Typed functions of the host app ([`ipc::typed`]): a guest's parameters become words and ranges of the arena, the answer goes back.
//!
//! Every range of guest memory is checked before anything is sent, and again when it is written. What this instance's table says is
//! believed as far as it can only spoil the instance's own memory: indices of parameters are checked against the frame.

use ipc::imports::FUNCTIONS;
use ipc::interface::ARGS_MAX;
use ipc::job::{ARENA_OFFSET, CALLS_BYTES, TABLE_OFFSET};
use ipc::layout::RING_BASE;
use ipc::ring::{Completion, Submission, pack_range, unpack_range};
use ipc::typed::{Arg, OUT_HEAD, REFUSED, deliver, refused, unpack_entry};

use crate::guest_memory::{GuestMemory, OutOfBounds};
use crate::{ring_client, state};

const TABLE: usize = RING_BASE as usize + TABLE_OFFSET;

/// Ranges of guest memory that one call can have the host write: two for each [`Arg`].
const OUTS_MAX: usize = 2 * ARGS_MAX;

/// Ranges in the arena begin at multiples of this.
const ALIGNMENT: u32 = 16;

/// The [`Arg`]s of one function.
pub(crate) struct Function {
    args: [u64; ARGS_MAX],
    count: usize,
}

/// The function behind an import, if it is typed.
pub(crate) fn function(number: u32) -> Option<Function> {
    if number >= state::with(|s| s.job.typed) {
        return None;
    }
    let word = |index: usize| {
        let index = index.min(ipc::typed::TABLE_WORDS - 1);
        // SAFETY: the index is below the number of words of the table, which is part of the mapped ring.
        unsafe { (TABLE as *const u64).add(index).read() }
    };
    let (first, count) = unpack_entry(word(number as usize))?;
    let mut args = [0; ARGS_MAX];
    for (index, arg) in args.iter_mut().take(count).enumerate() {
        *arg = word(first + index);
    }
    Some(Function { args, count })
}

/// Why a call is not sent: of which [`Arg`], one of [`refused`].
struct Refused(usize, u64);

/// The parameters of a call.
#[derive(Clone, Copy)]
struct Parameters {
    frame: *const [u64; 2],
    count: usize,
}

impl Parameters {
    /// Parameter `index`; 0 if the function has none of this index, which no table of the supervisor's says.
    fn get(&self, index: u8) -> u64 {
        if usize::from(index) >= self.count {
            return 0;
        }
        // SAFETY: below the number of slots of the frame, by the contract of `call`.
        unsafe { (*self.frame.add(usize::from(index)))[0] }
    }

    fn get32(&self, index: u8) -> u32 {
        self.get(index) as u32
    }
}

/// Ranges that the host will write, which must not overlap: `(start, end)`.
struct Outs {
    ranges: [(u64, u64); OUTS_MAX],
    count: usize,
}

impl Outs {
    /// Adds a range; `false` if it overlaps another.
    fn add(&mut self, at: u32, bytes: u64) -> bool {
        let (start, end) = (u64::from(at), u64::from(at) + bytes);
        let known = self.ranges.iter().take(self.count);
        if bytes > 0 && known.clone().any(|(from, to)| start < *to && *from < end) {
            return false;
        }
        if let Some(range) = self.ranges.get_mut(self.count)
            && bytes > 0
        {
            *range = (start, end);
            self.count += 1;
        }
        true
    }
}

/// Makes the call of import `number`. Returns 0 when the guest's call returns.
///
/// # Safety
/// `frame` holds a slot for each of `params` parameters, and takes one for each of `results` results.
pub(crate) unsafe fn call(
    number: u32,
    function: &Function,
    frame: *mut [u64; 2],
    params: usize,
    results: usize,
) -> u32 {
    let memory = GuestMemory::current();
    let parameters = Parameters { frame, count: params };
    let mut submission = Submission { function: FUNCTIONS.wrapping_add(number), ..Submission::default() };
    if let Err(Refused(index, why)) = prepare(function, parameters, &memory, &mut submission.args) {
        submission.args = [0; ARGS_MAX];
        submission.args[0] = index as u64;
        submission.args[1] = why;
        submission.flags = REFUSED;
    }
    submission.sequence = state::with(|s| {
        s.sequence = s.sequence.wrapping_add(1);
        s.sequence
    });
    let completion = ring_client::call(&submission);
    if completion.errno != 0 {
        return completion.errno;
    }
    // The same ranges were checked above, and no memory shrinks.
    if submission.flags == 0 && deliver(function, parameters, &memory, &submission.args, &completion).is_err()
    {
        return 1;
    }
    if results > 0 {
        // SAFETY: by the contract.
        unsafe { frame.write([completion.value, 0]) };
    }
    0
}

fn address(offset: u32) -> *mut u8 {
    (RING_BASE as usize + ARENA_OFFSET + offset as usize) as *mut u8
}

/// Takes bytes of the arena behind those up to `low`, if there are as many.
fn take(low: &mut u32, bytes: u64) -> Option<u32> {
    let start = *low;
    let end = u64::from(start) + bytes;
    if end > CALLS_BYTES as u64 {
        return None;
    }
    *low = (end as u32).next_multiple_of(ALIGNMENT);
    Some(start)
}

fn prepare(
    function: &Function,
    parameters: Parameters,
    memory: &GuestMemory,
    words: &mut [u64; ARGS_MAX],
) -> Result<(), Refused> {
    let args = || function.args.iter().take(function.count).map(|word| Arg::unpack(*word)).enumerate();
    let mut low = 0;
    let mut outs = Outs { ranges: [(0, 0); OUTS_MAX], count: 0 };
    let mut open = 0;
    // First everything that has a size of its own; the rest shares what is left.
    for (index, arg) in args() {
        let outside = |_: OutOfBounds| Refused(index, refused::OUT_OF_BOUNDS);
        let mut copied = |ptr: u8, bytes: u64| {
            memory.check(parameters.get32(ptr), bytes).map_err(outside)?;
            let start = take(&mut low, bytes).ok_or(Refused(index, refused::TOO_LARGE))?;
            Ok((parameters.get32(ptr), start, bytes))
        };
        words[index] = match arg {
            None => 0,
            Some(Arg::Value { index }) => parameters.get(index),
            Some(Arg::In { ptr, len, stride }) => {
                let (at, start, bytes) = copied(ptr, elements(parameters, len, stride))?;
                // SAFETY: the range was just taken from the arena of the mapped ring.
                unsafe { memory.read(at, address(start), bytes).map_err(outside)? };
                pack_range(start, bytes as u32)
            }
            Some(Arg::InFixed { ptr, bytes }) => {
                let (at, start, bytes) = copied(ptr, u64::from(bytes))?;
                // SAFETY: as above.
                unsafe { memory.read(at, address(start), bytes).map_err(outside)? };
                pack_range(start, bytes as u32)
            }
            Some(Arg::OutFixed { ptr, bytes }) => {
                let (at, start, bytes) = copied(ptr, u64::from(bytes))?;
                if !outs.add(at, bytes) {
                    return Err(Refused(index, refused::OVERLAP));
                }
                pack_range(start, bytes as u32)
            }
            Some(Arg::Out { ptr, capacity, written, stride }) => {
                let (at, bytes) = (parameters.get32(ptr), elements(parameters, capacity, stride));
                memory.check(at, bytes).map_err(outside)?;
                memory.check(parameters.get32(written), 4).map_err(outside)?;
                if !outs.add(at, bytes) || !outs.add(parameters.get32(written), 4) {
                    return Err(Refused(index, refused::OVERLAP));
                }
                open += 1;
                0
            }
        };
    }
    let head = (OUT_HEAD as u64) + u64::from(ALIGNMENT);
    let left = |low: u32| u64::from((CALLS_BYTES as u32).saturating_sub(low));
    let wanted = args().map(|(_, arg)| match arg {
        Some(Arg::Out { capacity, stride, .. }) => {
            head.saturating_add(elements(parameters, capacity, stride))
        }
        _ => 0,
    });
    // Only if not all of them have the room that the guest has.
    let shares = wanted.fold(0, u64::saturating_add) > left(low);
    for (index, arg) in args() {
        let Some(Arg::Out { capacity, stride, .. }) = arg else { continue };
        let room = if shares { left(low) / open } else { left(low) };
        open -= 1;
        let bytes = room.checked_sub(head).map(|room| room.min(elements(parameters, capacity, stride)));
        let range = bytes.and_then(|bytes| {
            // Whole elements.
            let bytes = OUT_HEAD as u64 + bytes - bytes.checked_rem(stride.into())?;
            Some(pack_range(take(&mut low, bytes)?, bytes as u32))
        });
        words[index] = range.ok_or(Refused(index, refused::TOO_LARGE))?;
    }
    Ok(())
}

/// Bytes of as many elements as a parameter says.
fn elements(parameters: Parameters, count: u8, stride: u32) -> u64 {
    u64::from(parameters.get32(count)) * u64::from(stride)
}

fn deliver(
    function: &Function,
    parameters: Parameters,
    memory: &GuestMemory,
    words: &[u64; ARGS_MAX],
    completion: &Completion,
) -> Result<(), OutOfBounds> {
    let delivers = |bit| completion.written & bit != 0;
    for (arg, range) in function.args.iter().take(function.count).zip(words) {
        let (start, reserved) = unpack_range(*range);
        match Arg::unpack(*arg) {
            Some(Arg::Out { ptr, written, stride, .. }) => {
                // SAFETY: `prepare` reserved OUT_HEAD bytes there at least, at a multiple of ALIGNMENT.
                let count = unsafe { address(start).cast::<u32>().read() };
                let room = u64::from(reserved.saturating_sub(OUT_HEAD as u32));
                let bytes = (u64::from(count) * u64::from(stride)).min(room);
                if delivers(deliver::BYTES) {
                    // SAFETY: at most what was reserved behind the head.
                    unsafe { memory.write(parameters.get32(ptr), address(start + OUT_HEAD as u32), bytes)? };
                }
                if delivers(deliver::LENGTHS) {
                    memory.write_u32(parameters.get32(written), count)?;
                }
            }
            Some(Arg::OutFixed { ptr, bytes }) if delivers(deliver::BYTES) => {
                // SAFETY: `prepare` reserved as many bytes.
                unsafe { memory.write(parameters.get32(ptr), address(start), u64::from(bytes))? };
            }
            _ => {}
        }
    }
    Ok(())
}
