//! What the host side provides for imports: values and sizes before the start, function calls over the ring.

use ipc::context::{MemoryDescriptor, TableDescriptor, asked};
use ipc::imports::{FUNCTIONS, RECORDS_MAX, Record, SLOT, VALUES_MAX, kind};
use ipc::job::{ARENA_OFFSET, exit_kind};
use ipc::layout::RING_BASE;
use ipc::ring::{Submission, pack_range};

use crate::{arch, entry, growth, ring_client, session, state, typed};

const ARENA: usize = RING_BASE as usize + ARENA_OFFSET;

/// Takes over the records of the arena: values of globals, sizes and maxima of memories and tables.
///
/// # Safety
/// The ring and the artifact are mapped, and the supervisor has written `count` records whose addresses are from the
/// artifact's metadata. No guest code runs.
pub(crate) unsafe fn apply(count: u32) {
    for index in 0..(count as usize).min(RECORDS_MAX) {
        // SAFETY: `index < RECORDS_MAX`, so the record lies in the arena of the mapped ring.
        let Record { kind, address, words: [first, second] } =
            unsafe { (ARENA as *const Record).add(index).read() };
        let done = match kind {
            kind::GLOBAL => {
                // SAFETY: by the contract a global of 8 bytes.
                unsafe { (address as *mut u64).write(first) };
                true
            }
            kind::WIDE_GLOBAL => {
                // SAFETY: by the contract a global of 16 bytes.
                unsafe { (address as *mut [u64; 2]).write_unaligned([first, second]) };
                true
            }
            // SAFETY: by the contract the descriptor of a memory, to which nothing else refers now.
            kind::MEMORY => unsafe {
                let memory = address as *mut MemoryDescriptor;
                (*memory).max_bytes = (*memory).max_bytes.min(second);
                growth::grow_memory(&mut *memory, first).is_some()
            },
            // SAFETY: by the contract the descriptor of a table, likewise.
            kind::TABLE => unsafe {
                let table = address as *mut TableDescriptor;
                (*table).max = (*table).max.min(second);
                growth::grow_table(&mut *table, first).is_some()
            },
            _ => false,
        };
        if !done {
            entry::finish(exit_kind::MEMORY_LIMIT, 0);
        }
    }
}

/// The builtin behind the thunks of imports that the host side provides. Returns 0 when the call succeeded.
///
/// # Safety
/// Called by compiled code only: `frame` holds a slot per parameter and takes one per result.
pub unsafe extern "sysv64" fn import_call(
    number: u32,
    frame: *mut [u64; 2],
    params: u32,
    results: u32,
) -> u32 {
    session::reserve_stack();
    growth::note_asked(asked::HOST_FUNCTIONS);
    let (params, results) = ((params as usize).min(VALUES_MAX), (results as usize).min(VALUES_MAX));
    if let Some(function) = typed::function(number) {
        // SAFETY: by the contract.
        return unsafe { typed::call(number, &function, frame, params, results) };
    }
    let arena = ARENA as *mut u8;
    // SAFETY: the frame by the contract; the arena has room for `VALUES_MAX` slots, and no other call uses it.
    unsafe { arch::copy(arena, frame.cast(), params * SLOT) };
    let sequence = state::with(|s| {
        s.sequence = s.sequence.wrapping_add(1);
        s.sequence
    });
    let mut submission =
        Submission { function: FUNCTIONS.wrapping_add(number), sequence, ..Submission::default() };
    submission.args[0] = pack_range(0, (params.max(results) * SLOT) as u32);
    let completion = ring_client::call(&submission);
    if completion.errno == 0 {
        // SAFETY: as above.
        unsafe { arch::copy(frame.cast(), arena, results * SLOT) };
    }
    completion.errno
}
