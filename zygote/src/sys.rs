//! System calls, typed as far as the zygote needs them.

use core::sync::atomic::{AtomicBool, Ordering};

use linux_raw_sys::errno::EPERM;
use linux_raw_sys::general::{self as nr, __NR_close, __NR_close_range, __NR_dup3, __NR_exit_group};
use linux_raw_sys::general::{__NR_mmap, __NR_mprotect, __NR_munmap, __NR_prctl, __NR_prlimit64};

use crate::arch;

/// An error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// Whether calls go through the gate: from the moment the policy's filter is installed.
static THROUGH_GATE: AtomicBool = AtomicBool::new(false);

/// Sends all further calls through the gate.
pub fn use_gate() {
    THROUGH_GATE.store(true, Ordering::Relaxed);
}

/// Makes a system call.
///
/// # Safety
/// As for the call that `number` names with these arguments.
pub unsafe fn call(number: u32, args: [u64; 6]) -> Result<u64, Errno> {
    let result = if THROUGH_GATE.load(Ordering::Relaxed) {
        // SAFETY: the gate is mapped when the flag is set; the rest by the contract.
        unsafe { arch::gate_call(number, args) }
    } else {
        // SAFETY: by the contract.
        unsafe { sandbox_shim::arch::syscall(number, args) }
    };
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as u64) }
}

/// Ends the process.
pub fn exit(status: i32) -> ! {
    // SAFETY: takes no pointer.
    let _ = unsafe { call(__NR_exit_group, [status as u64, 0, 0, 0, 0, 0]) };
    sandbox_shim::arch::abort()
}

/// Closes a descriptor. There is nothing to do about an error.
pub fn close(fd: i32) {
    // SAFETY: takes no pointer.
    let _ = unsafe { call(__NR_close, [fd as u64, 0, 0, 0, 0, 0]) };
}

/// Closes every descriptor from `first` to `last`.
pub fn close_range(first: i32, last: u32) -> Result<(), Errno> {
    // SAFETY: takes no pointer.
    unsafe { call(__NR_close_range, [first as u64, u64::from(last), 0, 0, 0, 0]) }.map(|_| ())
}

/// Makes `to` refer to what `from` refers to.
pub fn dup_to(from: i32, to: i32) -> Result<(), Errno> {
    // SAFETY: takes no pointer.
    unsafe { call(__NR_dup3, [from as u64, to as u64, 0, 0, 0, 0]) }.map(|_| ())
}

/// Maps memory at exactly `address`; what was there is replaced.
///
/// # Safety
/// Nothing that is in use may be mapped in the range.
pub unsafe fn map(
    address: u64,
    bytes: u64,
    protection: u32,
    flags: u32,
    fd: i32,
    offset: u64,
) -> Result<(), Errno> {
    let flags = flags | nr::MAP_FIXED;
    let args = [address, bytes, u64::from(protection), u64::from(flags), fd as i64 as u64, offset];
    // SAFETY: by the contract.
    unsafe { call(__NR_mmap, args) }.map(|_| ())
}

/// Changes the protection of memory.
///
/// # Safety
/// Nothing may rely on the old protection.
pub unsafe fn protect(address: u64, bytes: u64, protection: u32) -> Result<(), Errno> {
    // SAFETY: by the contract.
    unsafe { call(__NR_mprotect, [address, bytes, u64::from(protection), 0, 0, 0]) }.map(|_| ())
}

/// Unmaps memory.
///
/// # Safety
/// Nothing that is in use may be mapped in the range.
pub unsafe fn unmap(address: u64, bytes: u64) -> Result<(), Errno> {
    // SAFETY: by the contract.
    unsafe { call(__NR_munmap, [address, bytes, 0, 0, 0, 0]) }.map(|_| ())
}

/// `prctl(2)` with integer arguments.
pub fn prctl(option: u32, a: u64, b: u64) -> Result<u64, Errno> {
    // SAFETY: the options used here take no pointers.
    unsafe { call(__NR_prctl, [u64::from(option), a, b, 0, 0, 0]) }
}

/// Sets soft and hard limit of a resource of this process. A hard limit that is stricter already stays.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let set = |limit: &nr::rlimit64| {
        // SAFETY: `limit` is readable during the call.
        unsafe { call(__NR_prlimit64, [0, u64::from(resource), limit as *const _ as u64, 0, 0, 0]) }
            .map(|_| ())
    };
    match set(&nr::rlimit64 { rlim_cur: soft, rlim_max: hard }) {
        // Only raising a hard limit is refused.
        Err(Errno(errno)) if errno == EPERM as i32 => {}
        result => return result,
    }
    let mut old = nr::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `old` is writable during the call.
    unsafe { call(__NR_prlimit64, [0, u64::from(resource), 0, &raw mut old as u64, 0, 0])? };
    set(&nr::rlimit64 { rlim_cur: soft.min(old.rlim_max), rlim_max: hard.min(old.rlim_max) })
}
