//! What compiled code calls for an import.

use ipc::interface::{FunctionId, Place};

use crate::{descriptors, growth, local, session};

/// The builtin behind every import thunk.
///
/// # Safety
/// Called by compiled code only: `frame` holds a word per parameter of the function and takes one per result.
pub unsafe extern "sysv64" fn host_call(function: u32, frame: *mut u64) {
    session::reserve_stack();
    let Some(function) = FunctionId::from_number(function) else {
        // Compiled code carries numbers that the compiler took from the same table.
        crate::entry::end(134);
    };
    growth::note_asked(function.asks());
    let errno = match function.declaration().place {
        // SAFETY: the frame is as the table declares it, by this function's contract.
        Place::Instance => unsafe { local::call(function, frame) },
        // SAFETY: as above.
        Place::Supervisor => unsafe { descriptors::call(function, frame) },
    };
    // SAFETY: every function that returns has one i32 result, and the frame has room for it.
    unsafe { frame.write(u64::from(errno)) };
}
