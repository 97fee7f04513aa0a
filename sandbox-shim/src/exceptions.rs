//! Exceptions: where they live, and the way to their handlers.
//!
//! Nothing is done for an exception before one is thrown. A throw follows the frame pointers of the guest stack and
//! looks up each return address in the table that the compiler made of all calls with handlers. An exception lives
//! in a slot of the artifact's arena. When a part of the arena is used, slots that no reference leads to become
//! free: references are looked for on the guest stack (any word that looks like one counts), in `exnref` globals and
//! tables, and in the exceptions that these lead to.

use ipc::context::{
    CATCH_ALL, EXCEPTION_VALUES, ExceptionArena, ExceptionClause, ExceptionHeader, ExceptionSite,
    TableDescriptor, TableEntry,
};
use ipc::layout::{CODE_BASE, CODE_END, STACK_TOP};

use crate::{session, signals};

/// Bytes of slots that are used before references are looked for: few, so that they stay in the caches.
const FIRST_LIMIT_BYTES: u64 = 64 << 10;
/// The same in slots, at least.
const FIRST_LIMIT_SLOTS: u64 = 16;

/// Where an exception continues.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Landing {
    /// The handler's code.
    pub pc: u64,
    /// The stack pointer there.
    pub stack: u64,
    /// The frame pointer there.
    pub frame: u64,
}

/// A fresh exception with the tag `tag`; 0 when there is no room. `stack` is the address of the lowest word on the
/// guest stack that can hold a reference.
///
/// # Safety
/// `arena` is the artifact's, mapped and only changed by this module; the stack is mapped from `stack` on.
pub(crate) unsafe extern "sysv64" fn allocate(arena: *mut ExceptionArena, tag: u32, stack: u64) -> u64 {
    session::reserve_stack();
    // SAFETY: by the contract; nothing else refers to it while this runs.
    let arena = unsafe { &mut *arena };
    if arena.free == 0 && arena.used >= arena.limit {
        if arena.limit == 0 {
            let slots = FIRST_LIMIT_BYTES.checked_div(arena.slot_bytes).unwrap_or(0);
            arena.limit = slots.max(FIRST_LIMIT_SLOTS).min(arena.capacity);
        } else {
            // SAFETY: by the contract.
            let live = unsafe { collect(arena, stack) };
            if live > arena.limit / 2 {
                arena.limit = arena.limit.saturating_mul(2).min(arena.capacity);
            }
        }
    }
    let slot = if arena.free != 0 {
        let slot = arena.free;
        // SAFETY: the free list is made of slots of the arena.
        arena.free = unsafe { (*(slot as *const ExceptionHeader)).next };
        slot
    } else if arena.used < arena.limit {
        let slot = arena.base + arena.used * arena.slot_bytes;
        arena.used += 1;
        slot
    } else {
        return 0;
    };
    // What an earlier exception left must not look like a reference.
    for at in (0..arena.slot_bytes).step_by(8) {
        // SAFETY: inside the slot.
        unsafe { ((slot + at) as *mut u64).write(0) };
    }
    // SAFETY: as above.
    unsafe { (*(slot as *mut ExceptionHeader)).tag = tag };
    slot
}

/// Puts every slot that nothing refers to on the free list, which is empty. Returns how many are referred to.
///
/// # Safety
/// As for [`allocate`].
unsafe fn collect(arena: &mut ExceptionArena, stack: u64) -> u64 {
    let mut marker = Marker { base: arena.base, slot: arena.slot_bytes, used: arena.used, list: 0, count: 0 };
    // SAFETY: the guest stack is mapped from `stack` to its top; globals, tables and slots are in the mapped context.
    unsafe {
        let mut at = stack & !7;
        while at < STACK_TOP {
            marker.mark((at as *const u64).read());
            at += 8;
        }
        for i in 0..arena.globals_count {
            marker.mark((arena.globals as *const u64).add(i as usize).read());
        }
        for i in 0..arena.tables_count {
            let table = (arena.tables as *const *const TableDescriptor).add(i as usize).read().read();
            for entry in 0..table.size {
                marker.mark((*(table.base as *const TableEntry).add(entry as usize)).code);
            }
        }
        while marker.list != 0 {
            let slot = marker.list;
            marker.list = (*(slot as *const ExceptionHeader)).next;
            for value in (EXCEPTION_VALUES..arena.slot_bytes).step_by(8) {
                marker.mark(((slot + value) as *const u64).read());
            }
        }
        for index in (0..arena.used).rev() {
            let slot = arena.base + index * arena.slot_bytes;
            let header = slot as *mut ExceptionHeader;
            if (*header).mark == 0 {
                (*header).next = arena.free;
                arena.free = slot;
            }
            (*header).mark = 0;
        }
    }
    marker.count
}

/// Marks what words refer to, and remembers the marked slots whose values are still to be looked at.
struct Marker {
    base: u64,
    slot: u64,
    used: u64,
    list: u64,
    count: u64,
}

impl Marker {
    /// # Safety
    /// The slots below `used` are mapped.
    unsafe fn mark(&mut self, word: u64) {
        let Some(index) = word.checked_sub(self.base).and_then(|offset| offset.checked_div(self.slot)) else {
            return;
        };
        if index >= self.used {
            return;
        }
        let slot = self.base + index * self.slot;
        // SAFETY: the slot is below `used`.
        let header = unsafe { &mut *(slot as *mut ExceptionHeader) };
        if header.mark == 0 {
            header.mark = 1;
            header.next = self.list;
            self.list = slot;
            self.count += 1;
        }
    }
}

/// Looks for the handler of an exception that is thrown by a call that returns to `return_address`, from the frame
/// at `frame`; `false` when there is none.
///
/// # Safety
/// `arena` is the artifact's; `exception` is one of its exceptions; `landing` is writable.
pub(crate) unsafe extern "sysv64" fn find(
    arena: *const ExceptionArena,
    exception: u64,
    mut return_address: u64,
    mut frame: u64,
    landing: *mut Landing,
) -> bool {
    // SAFETY: by the contract.
    let (arena, tag) = unsafe { (*arena, (*(exception as *const ExceptionHeader)).tag) };
    while (CODE_BASE..CODE_END).contains(&return_address) {
        let offset = (return_address - CODE_BASE) as u32;
        // SAFETY: the table is in the artifact's read-only data, as its check demands.
        let found = unsafe { handler(&arena, offset, tag) };
        if let Some((handler, frame_offset)) = found {
            let (pc, stack) = (CODE_BASE + u64::from(handler), frame.wrapping_sub(u64::from(frame_offset)));
            // SAFETY: by the contract.
            unsafe { landing.write(Landing { pc, stack, frame }) };
            return true;
        }
        if !signals::is_stack_frame(frame) {
            return false;
        }
        // SAFETY: two words inside the mapped part of the guest stack.
        let next = unsafe {
            return_address = (frame as *const u64).add(1).read();
            (frame as *const u64).read()
        };
        // Frames of callers are at higher addresses, so this ends.
        if next <= frame {
            return false;
        }
        frame = next;
    }
    false
}

/// The code offset of the handler for `tag` of the call that returns to `return_address`, and that call's frame offset.
///
/// # Safety
/// The arena's table of handlers is mapped.
unsafe fn handler(arena: &ExceptionArena, return_address: u32, tag: u32) -> Option<(u32, u32)> {
    let sites = arena.sites as *const ExceptionSite;
    // SAFETY: indices below the count.
    let site = |index: u64| unsafe { sites.add(index as usize).read() };
    let (mut low, mut high) = (0, arena.sites_count);
    while low < high {
        let middle = low + (high - low) / 2;
        if site(middle).return_address < return_address { low = middle + 1 } else { high = middle }
    }
    if low >= arena.sites_count || site(low).return_address != return_address {
        return None;
    }
    let found = site(low);
    // SAFETY: the clauses follow the sites.
    let clauses = unsafe { sites.add(arena.sites_count as usize) }.cast::<ExceptionClause>();
    for index in found.first..found.first.saturating_add(found.count) {
        // SAFETY: a site's clauses exist, as the artifact's check demands.
        let clause = unsafe { clauses.add(index as usize).read() };
        if clause.tag == tag || clause.tag == CATCH_ALL {
            return Some((clause.handler, found.frame_offset));
        }
    }
    None
}
