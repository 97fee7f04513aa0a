//! A session: the instance carries out one command of the supervisor after the other ([`ipc::session`]).
//!
//! A trap inside a call does not end the instance. The signal handler records it and starts the loop below afresh, on the
//! stack where it first ran; whatever was on that stack, on the guest's and on the signal stack is abandoned. Nothing of the
//! shim is lost with it, because the handler comes here only when it interrupted guest code, or a function of the shim at its
//! very start (see `reserve_stack`).

use core::cell::UnsafeCell;

use ipc::job::{ARENA_BYTES, ARENA_OFFSET, VALUES_OFFSET, exit_kind};
use ipc::layout::{RING_BASE, STACK_TOP};
use ipc::ring::{FINISHED, Submission};
use ipc::session::{Command, REPLY, command, status};

use crate::{arch, entry, ring_client};

/// Stack that functions of the shim may use when guest code calls them, bytes. More than any of them takes.
const SHIM_STACK: usize = 16 << 10;

/// Bytes between the frame of [`run`] and the loop's stack.
const GAP: u64 = 256;

struct Top(UnsafeCell<u64>);
// SAFETY: one thread; written before any command is carried out, read afterwards.
unsafe impl Sync for Top {}
/// Top of the loop's stack; 0 while this instance has no session.
static TOP: Top = Top(UnsafeCell::new(0));

fn top() -> u64 {
    // SAFETY: a plain load of an integer, in a process with one thread.
    unsafe { TOP.0.get().read() }
}

/// Serves the session to its end.
///
/// # Safety
/// The artifact, the guest stack and the ring are mapped, and the addresses in commands are from the artifact's metadata.
pub(crate) unsafe fn run() -> ! {
    let top = (arch::stack_pointer() - GAP) & !15;
    // SAFETY: one thread, and nobody reads it yet.
    unsafe { TOP.0.get().write(top) };
    // SAFETY: below `top` lies the unused rest of this process's own stack.
    unsafe { arch::leave_for(status::READY, top, serve) }
}

/// Whether this instance has a session, to which [`resume`] can go back.
pub(crate) fn is_running() -> bool {
    top() != 0
}

/// Goes on with the session after a call that faulted, which the exit record describes.
///
/// # Safety
/// [`is_running`], and what was interrupted was guest code, or the start of a function that guest code called.
pub(crate) unsafe fn resume() -> ! {
    // SAFETY: what is on the loop's stack belongs to the call that faulted, and is given up.
    unsafe { arch::leave_for(status::FAULT, top(), serve) }
}

/// Makes sure, at the start of a function that guest code calls, that the stack suffices for all of it. Where it does not, the
/// call stack is exhausted here, before the function has begun anything that could be left half done.
#[inline(always)]
pub(crate) fn reserve_stack() {
    arch::probe_stack::<SHIM_STACK>();
}

/// Replies with the status and carries out the next command, for ever.
///
/// # Safety
/// As for [`run`].
unsafe extern "sysv64" fn serve(mut status: u64) -> ! {
    let arena = (RING_BASE as usize + ARENA_OFFSET) as *mut u8;
    loop {
        let Command { kind, code, trampoline, address, length, .. } = next(status);
        let length = (length as usize).min(ARENA_BYTES);
        status = match kind {
            command::CALL => {
                let values = (RING_BASE as usize + VALUES_OFFSET) as *mut [u64; 2];
                // SAFETY: the exit record is part of the mapped ring.
                unsafe { (*entry::record()).kind = exit_kind::NONE };
                // SAFETY: by the contract; the values lie in the mapped ring, and nothing is on the guest's stack
                // between two calls.
                unsafe { arch::call_on_stack(trampoline, code, values, STACK_TOP) };
                status::RETURNED
            }
            command::READ => {
                // SAFETY: by the contract.
                unsafe { read(address, length) };
                status::DONE
            }
            command::WRITE => {
                // SAFETY: as above.
                unsafe { arch::copy(address as *mut u8, arena, length) };
                status::DONE
            }
            _ => entry::finish(exit_kind::RETURNED, 0),
        };
    }
}

/// Copies bytes to the arena, as many as it has room for.
///
/// # Safety
/// They are mapped and readable.
unsafe fn read(address: u64, length: usize) {
    let arena = (RING_BASE as usize + ARENA_OFFSET) as *mut u8;
    // SAFETY: by the contract; the arena has room for them.
    unsafe { arch::copy(arena, address as *const u8, length.min(ARENA_BYTES)) };
}

/// Says that the job has finished and waits to be killed. Until then it copies out what it is told to.
///
/// # Safety
/// The addresses in commands are mapped.
pub(crate) unsafe fn wait_at_end() {
    let mut submission = Submission { function: FINISHED, ..Submission::default() };
    loop {
        let Command { kind, address, length, .. } = ring_client::call(&submission).into();
        if kind != command::READ {
            return;
        }
        // SAFETY: by the contract.
        unsafe { read(address, length as usize) };
        submission.function = REPLY;
        submission.args[0] = status::DONE;
    }
}

fn next(status: u64) -> Command {
    entry::record_usage();
    let mut reply = Submission { function: REPLY, ..Submission::default() };
    reply.args[0] = status;
    ring_client::call(&reply).into()
}
