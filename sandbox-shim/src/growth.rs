//! The builtins that compiled code calls for growth and for bulk operations.

use ipc::context::{
    ASKED_OFFSET, Builtins, MEMORY_LIMIT_OFFSET, MEMORY_TOTAL_OFFSET, MemoryDescriptor, REFUSED_GROWS_OFFSET,
    TableDescriptor,
};
use ipc::job::{exit_kind, job_flags};
use ipc::layout::{CONTEXT_BASE, WASM_PAGE};
use linux_raw_sys::general::{__NR_mprotect, PROT_READ, PROT_WRITE};

use crate::{arch, entry, host_call, imports, session, state};

/// The addresses that the zygote writes into the instance context.
pub fn builtins() -> Builtins {
    Builtins {
        host_call: host_call::host_call as *const () as u64,
        memory_grow: memory_grow as *const () as u64,
        table_grow: table_grow as *const () as u64,
        copy: copy as *const () as u64,
        fill: fill as *const () as u64,
        exception_new: arch::exception_new as *const () as u64,
        exception_throw: arch::exception_throw as *const () as u64,
        import_call: imports::import_call as *const () as u64,
    }
}

const fn context(offset: u64) -> *mut u64 {
    (CONTEXT_BASE + offset) as *mut u64
}

/// Prepares the context for a job: the limit and the running total of memory.
pub(crate) fn start(memory_limit: u64, initial: u64) {
    // SAFETY: the context is mapped readable and writable at its constant address in every instance.
    unsafe {
        context(MEMORY_LIMIT_OFFSET).write(memory_limit);
        context(MEMORY_TOTAL_OFFSET).write(initial);
        context(REFUSED_GROWS_OFFSET).write(0);
        context(ASKED_OFFSET).write(0);
    }
}

/// Remembers what the guest asks for: bits of [`ipc::context::asked`].
pub(crate) fn note_asked(bits: u64) {
    if bits != 0 {
        // SAFETY: as in `start`.
        unsafe { context(ASKED_OFFSET).write(context(ASKED_OFFSET).read() | bits) };
    }
}

/// Bytes of all memories, and growths refused.
pub(crate) fn usage() -> (u64, u64) {
    // SAFETY: as in `start`.
    unsafe { (context(MEMORY_TOTAL_OFFSET).read(), context(REFUSED_GROWS_OFFSET).read()) }
}

const REFUSED: u64 = u64::MAX;

/// `memory.grow`. Growing is making reserved pages accessible; the kernel counts them against `RLIMIT_DATA`.
///
/// # Safety
/// Called by compiled code only, with the address of a memory's descriptor.
unsafe extern "sysv64" fn memory_grow(memory: *mut MemoryDescriptor, delta: u64) -> u64 {
    session::reserve_stack();
    // SAFETY: a descriptor in the context, by the contract; nothing else refers to it while this runs.
    grow_memory(unsafe { &mut *memory }, delta).unwrap_or(REFUSED)
}

/// Grows a memory of the context by `delta` pages, if it may; its old size in pages.
pub(crate) fn grow_memory(memory: &mut MemoryDescriptor, delta: u64) -> Option<u64> {
    let old = memory.bytes / WASM_PAGE;
    let new = delta.checked_mul(WASM_PAGE).and_then(|d| memory.bytes.checked_add(d))?;
    if new > memory.max_bytes {
        return None;
    }
    let added = new - memory.bytes;
    if added == 0 {
        return Some(old);
    }
    let (total, _) = usage();
    // SAFETY: the context is mapped, as in `start`.
    let limit = unsafe { context(MEMORY_LIMIT_OFFSET).read() };
    let protection = u64::from(PROT_READ | PROT_WRITE);
    // SAFETY: `new <= max_bytes`, so the range lies in the memory's reservation, above its accessible part.
    let fits = total.checked_add(added).is_some_and(|t| t <= limit)
        && unsafe { arch::syscall(__NR_mprotect, [memory.base + memory.bytes, added, protection, 0, 0, 0]) }
            == 0;
    if !fits {
        // SAFETY: as in `start`.
        unsafe { context(REFUSED_GROWS_OFFSET).write(usage().1 + 1) };
        if state::with(|s| s.job.flags) & job_flags::KILL_ON_MEMORY_LIMIT != 0 {
            entry::finish(exit_kind::MEMORY_LIMIT, 0);
        }
        return None;
    }
    memory.bytes = new;
    // SAFETY: as in `start`.
    unsafe { context(MEMORY_TOTAL_OFFSET).write(total + added) };
    Some(old)
}

/// `table.grow`, for null entries: those beyond the size are mapped and zero already.
///
/// # Safety
/// Called by compiled code only, with the address of a table's descriptor.
unsafe extern "sysv64" fn table_grow(table: *mut TableDescriptor, delta: u64) -> u64 {
    session::reserve_stack();
    // SAFETY: a descriptor in the context, by the contract; nothing else refers to it while this runs.
    grow_table(unsafe { &mut *table }, delta).unwrap_or(REFUSED)
}

/// Grows a table of the context by `delta` null entries, if it may; its old size.
pub(crate) fn grow_table(table: &mut TableDescriptor, delta: u64) -> Option<u64> {
    let new = table.size.checked_add(delta).filter(|new| *new <= table.max)?;
    Some(core::mem::replace(&mut table.size, new))
}

/// Moves bytes.
///
/// # Safety
/// Called by compiled code only, after it checked both ranges.
unsafe extern "sysv64" fn copy(to: *mut u8, from: *const u8, bytes: u64) {
    // SAFETY: by the contract.
    unsafe { arch::copy(to, from, bytes as usize) }
}

/// Sets bytes.
///
/// # Safety
/// Called by compiled code only, after it checked the range.
unsafe extern "sysv64" fn fill(to: *mut u8, byte: u32, bytes: u64) {
    // SAFETY: by the contract.
    unsafe { arch::fill(to, byte as u8, bytes as usize) }
}
