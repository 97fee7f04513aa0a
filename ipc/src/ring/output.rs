//! The instance's end of the queue of output.

use core::sync::atomic::Ordering;

use super::atomic::Atomic;
use super::{OUTPUT_HALF, Output, pack_output, unpack_output};

/// Queues `bytes` bytes (at most [`OUTPUT_HALF`]) of a stream; `None` if they cannot be, and must be written by a call.
///
/// `begun` counts how often this had to ring. `copy` puts the bytes into the given half of the arena's part, behind so many bytes; it
/// can refuse to, and may be asked a second time.
#[inline]
pub fn queue<W: Atomic<u32>, X: Atomic<u64>>(
    output: &Output<W, X>,
    begun: &mut u32,
    stream: u32,
    bytes: u32,
    copy: impl Fn(u32, u32) -> Option<()>,
    ring_doorbell: impl FnOnce(),
) -> Option<()> {
    add(output, stream, bytes, &copy).or_else(|| begin(output, begun, stream, bytes, &copy, ring_doorbell))
}

/// Adds to what waits already.
#[inline]
fn add<W: Atomic<u32>, X: Atomic<u64>>(
    output: &Output<W, X>,
    stream: u32,
    bytes: u32,
    copy: &impl Fn(u32, u32) -> Option<()>,
) -> Option<()> {
    let word = output.pending.0.load(Ordering::Acquire);
    let (waiting, half, length) = unpack_output(word);
    if waiting != stream || length as usize + bytes as usize > OUTPUT_HALF {
        return None;
    }
    copy(half, length)?;
    let more = pack_output(stream, half, length + bytes);
    // An error: the supervisor has taken it meanwhile.
    output.pending.0.compare_exchange(word, more, Ordering::AcqRel, Ordering::Acquire).ok().map(|_| ())
}

/// Begins anew, in the half that was not used last.
#[inline]
fn begin<W: Atomic<u32>, X: Atomic<u64>>(
    output: &Output<W, X>,
    begun: &mut u32,
    stream: u32,
    bytes: u32,
    copy: &impl Fn(u32, u32) -> Option<()>,
    ring_doorbell: impl FnOnce(),
) -> Option<()> {
    if output.pending.0.load(Ordering::Acquire) != 0 {
        return None;
    }
    // The one before the last was in the same half. It is written: the last is taken.
    let half = *begun & 1;
    copy(half, 0)?;
    *begun = begun.wrapping_add(1);
    output.pending.0.store(pack_output(stream, half, bytes), Ordering::Release);
    // Not before: the supervisor would find nothing, and wait for the next ring.
    ring_doorbell();
    Some(())
}
