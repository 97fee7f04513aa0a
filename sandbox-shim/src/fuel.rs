//! The counter that code compiled with fuel counts down. Other code leaves it alone.

use ipc::context::FUEL;

/// Gives the job its fuel.
pub(crate) fn start(fuel: u64) {
    // SAFETY: the context is mapped readable and writable at its constant address in every instance.
    unsafe { (FUEL as *mut i64).write(i64::try_from(fuel).unwrap_or(i64::MAX)) };
}

/// What is left of it.
pub(crate) fn left() -> i64 {
    // SAFETY: as in `start`.
    unsafe { (FUEL as *const i64).read() }
}
