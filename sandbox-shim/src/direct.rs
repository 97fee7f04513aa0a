//! Files that the instance reads and writes itself ([`ipc::direct`]).
//!
//! Every operation here either does what the supervisor would have done, or does nothing and says so: then the caller asks the
//! supervisor, which also knows what an error means.

use core::cell::UnsafeCell;

use ipc::direct::{SLOTS, ask, descriptor};
use ipc::job::job_flags;
use linux_raw_sys::general::{__NR_pread64, __NR_pwrite64, __NR_sched_yield};

use crate::guest_memory::{GuestMemory, OutOfBounds};
use crate::marshal::each_piece;
use crate::{arch, state};

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the guest.
    Read,
    /// From the guest.
    Write,
}

/// A slot that holds nothing.
const EMPTY: u32 = u32::MAX;

/// The guest's descriptors by slot, and the slot to be used next.
struct Slots {
    holds: [u32; SLOTS],
    next: usize,
}

struct SlotsCell(UnsafeCell<Slots>);
// SAFETY: the process has one thread; the signal handler does not look here.
unsafe impl Sync for SlotsCell {}
static SLOTS_CELL: SlotsCell = SlotsCell(UnsafeCell::new(Slots { holds: [EMPTY; SLOTS], next: 0 }));

fn with<R>(f: impl FnOnce(&mut Slots) -> R) -> R {
    // SAFETY: one thread, and no `f` in this file comes back here, so the reference is unique.
    f(unsafe { &mut *SLOTS_CELL.0.get() })
}

/// Whether the instance may ask for files.
pub fn is_possible() -> bool {
    state::with(|s| s.job.flags) & job_flags::DIRECT != 0
}

/// The slot that holds the file of a descriptor of the guest, if one does.
fn find(fd: u32) -> Option<usize> {
    with(|slots| slots.holds.iter().position(|held| *held == fd))
}

fn request(what: u64, fd: u32, slot: usize) -> bool {
    let args = [what, u64::from(fd), slot as u64, 0, 0, 0];
    // SAFETY: takes no pointer; the filter hands it over to the supervisor.
    let answer = unsafe { arch::syscall(__NR_sched_yield, args) };
    descriptor(slot).is_some_and(|number| answer == i64::from(number))
}

/// Asks for the file of a descriptor. What has been in a slot for the longest time makes room for it.
pub fn obtain(fd: u32) -> Option<i32> {
    let slot = with(|slots| match slots.holds.iter().position(|held| *held == EMPTY) {
        Some(free) => free,
        None => {
            slots.next = (slots.next + 1) % SLOTS;
            slots.next
        }
    });
    if !request(ask::FILE, fd, slot) {
        return None;
    }
    with(|slots| slots.holds[slot] = fd);
    descriptor(slot)
}

/// The number of the file of a descriptor of the guest, if it is here.
pub fn number(fd: u32) -> Option<i32> {
    find(fd).and_then(descriptor)
}

/// Gives a file back, before its descriptor is closed or gets another number.
pub fn give_back(fd: u32) {
    if let Some(slot) = find(fd) {
        // It is told no only when the instance is about to end.
        request(ask::RETURN, fd, slot);
        with(|slots| slots.holds[slot] = EMPTY);
    }
}

/// Moves data between the file `number` from `offset` on and the pieces of memory that an array of (address, length) pairs names,
/// until one is not done whole. `None`: nothing was moved, and the supervisor must say why.
pub fn transfer(way: Way, number: i32, offset: u64, array: u32, pairs: u32) -> Option<u32> {
    let memory = GuestMemory::current();
    // All of them before anything happens, as on the ring.
    each_piece(&memory, array, pairs, u32::MAX, |_, _| Ok(())).ok()?;
    let call = match way {
        Way::Read => __NR_pread64,
        Way::Write => __NR_pwrite64,
    };
    let mut total = 0u32;
    // The last call moved less than it could; what it gave.
    let mut last = None;
    let _ = each_piece(&memory, array, pairs, u32::MAX, |at, bytes| {
        let address = memory.address(at, u64::from(bytes))? as u64;
        let position = offset.wrapping_add(u64::from(total));
        let args = [number as u64, address, u64::from(bytes), position, 0, 0];
        // SAFETY: `bytes` bytes of accessible linear memory, which nothing of ours refers to; the kernel touches no others.
        let moved = unsafe { arch::syscall(call, args) };
        // At most `bytes`, when it is not an error.
        total = total.saturating_add(u32::try_from(moved).unwrap_or(0));
        if moved == i64::from(bytes) {
            return Ok(());
        }
        last = Some(moved);
        // Ends the walk.
        Err(OutOfBounds)
    });
    match (total, last) {
        // The end of the file.
        (0, Some(0)) if way == Way::Read => Some(0),
        (0, _) => None,
        _ => Some(total),
    }
}
