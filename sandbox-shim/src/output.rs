//! Small writes to standard output and standard error, for which the guest does not wait ([`ipc::ring::Output`]). The steps are
//! [`ipc::ring::output`]'s.
//!
//! The supervisor says for which streams that is right: those that fail only because nobody reads them any more. What cannot be
//! queued is a host call like any other, before which the supervisor takes what is queued. So the order stays.

use core::sync::atomic::Ordering;

use ipc::job::{ARENA_OFFSET, CALLS_BYTES};
use ipc::layout::RING_BASE;
use ipc::ring::{OUTPUT_HALF, output};

use crate::guest_memory::GuestMemory;
use crate::marshal::each_piece;
use crate::{ring_client, state};

/// Larger writes are worth a trip, and need one copy less then.
const LARGEST: u32 = 8 << 10;

/// Queues the bytes of an array of (address, length) pairs. How many; `None` if the supervisor must be asked.
pub fn queue(stream: u32, array: u32, pairs: u32) -> Option<u32> {
    let queue = &ring_client::indices().output;
    let is_stream = stream == 1 || stream == 2;
    if !is_stream
        || (queue.refused.0.load(Ordering::Acquire) | state::with(|s| s.streams_lost)) >> stream & 1 != 0
    {
        return None;
    }
    let memory = GuestMemory::current();
    let mut total = 0u32;
    each_piece(&memory, array, pairs, LARGEST + 1, |_, bytes| {
        total += bytes;
        Ok(())
    })
    .ok()?;
    if total == 0 || total > LARGEST {
        return None;
    }
    let place = Place { memory: &memory, array, pairs, total };
    let mut begun = state::with(|s| s.outputs);
    let copy = |half, length| place.copy(half, length);
    let queued = output::queue(queue, &mut begun, stream, total, copy, ring_client::ring_doorbell);
    state::with(|s| s.outputs = begun);
    queued.map(|()| total)
}

/// The bytes to be queued.
struct Place<'m> {
    memory: &'m GuestMemory,
    array: u32,
    pairs: u32,
    total: u32,
}

impl Place<'_> {
    /// Copies them to a half of the arena's part, behind `length` bytes. They fit.
    fn copy(&self, half: u32, length: u32) -> Option<()> {
        let start = RING_BASE as usize + ARENA_OFFSET + CALLS_BYTES + (half as usize & 1) * OUTPUT_HALF;
        let mut at = start + length as usize;
        each_piece(self.memory, self.array, self.pairs, self.total, |from, bytes| {
            // SAFETY: `length + total` is at most a half, so this stays in the output's part of the arena of the mapped ring.
            unsafe { self.memory.read(from, at as *mut u8, u64::from(bytes))? };
            at += bytes as usize;
            Ok(())
        })
        .ok()
    }
}

/// Says that a descriptor is not what it was: it was closed, or stands for something else.
pub fn lose(descriptor: u32) {
    if descriptor < 3 {
        state::with(|s| s.streams_lost |= 1 << descriptor);
    }
}
