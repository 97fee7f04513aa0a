//! The call gate: the one page from which the seccomp filter lets the zygote's own calls pass.
//!
//! The filter compares the instruction pointer, so the right to make these calls is a mapping. Dropping the
//! mapping drops the right: what an instance may still call cannot map anything, and no other `syscall`
//! instruction returns to [`GATE_RETURN`].

use ipc::layout::{GATE_LANDING, GATE_PAGE, GATE_RETURN, GATE_SYSCALL, PAGE};
use linux_raw_sys::general::{__NR_mseal, MAP_ANONYMOUS, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE};

use crate::arch::{GATE_CODE, LANDING_CODE};
use crate::sys::{self, Errno};

/// Maps the gate and its landing page, executable and not writable.
pub fn map() -> Result<(), Errno> {
    // SAFETY: the pages are reserved for the gate by the layout; nothing else is mapped there.
    unsafe {
        sys::map(GATE_PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
        (GATE_SYSCALL as *mut [u8; 2]).write(GATE_CODE);
        (GATE_RETURN as *mut [u8; 1]).write(LANDING_CODE);
        sys::protect(GATE_PAGE, 2 * PAGE, PROT_READ | PROT_EXEC)
    }
}

/// Seals the landing page. The gate itself must stay unmappable.
pub fn seal_landing() -> Result<(), Errno> {
    seal(GATE_LANDING, PAGE)
}

/// Seals mappings against unmapping, remapping and changes of protection (`mseal(2)`, Linux 6.10).
pub fn seal(address: u64, bytes: u64) -> Result<(), Errno> {
    // SAFETY: takes away rights only.
    unsafe { sys::call(__NR_mseal, [address, bytes, 0, 0, 0, 0]) }.map(|_| ())
}

/// Drops the gate. The call returns to the landing page, which stays.
pub fn drop_for_good() -> Result<(), Errno> {
    // SAFETY: the page is not needed after the `syscall` instruction on it: the return address lies behind it.
    unsafe { sys::unmap(GATE_PAGE, PAGE) }
}
