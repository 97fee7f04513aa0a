//! The instance's end of a ring, without an instance: a mapping of its memory to which anything can be written at any time.

pub mod calls;
pub mod surroundings;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use ipc::job::{COMPLETIONS_OFFSET, INDICES_OFFSET, RING_BYTES, SUBMISSIONS_OFFSET};
use ipc::ring::instance::InstanceEnd;
use ipc::ring::{Completion, Indices, Slot, Submission};

/// A mapping of a ring's memory, and a doorbell.
#[derive(Debug)]
pub struct Peer {
    start: *mut u8,
    doorbell: OwnedFd,
}

// SAFETY: the memory is shared, and accessed by volatile and atomic accesses and by copies that expect others to write meanwhile.
unsafe impl Send for Peer {}
// SAFETY: as above.
unsafe impl Sync for Peer {}

impl Peer {
    /// Of a ring's memory file and doorbell.
    pub fn new(memory: BorrowedFd<'_>, doorbell: BorrowedFd<'_>) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let doorbell = doorbell.try_clone_to_owned()?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), RING_BYTES, protection, libc::MAP_SHARED, memory.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), doorbell })
    }

    /// Writes bytes; what lies outside of the ring is left out.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let offset = offset.min(RING_BYTES);
        for (i, byte) in bytes.iter().enumerate().take(RING_BYTES - offset) {
            // SAFETY: inside the mapping, which lives as long as `self`.
            unsafe { self.start.add(offset + i).write_volatile(*byte) };
        }
    }

    /// Appends a copy of the bytes in this range, as far as it lies in the ring. For callers that know that nobody writes there
    /// meanwhile.
    pub fn read(&self, offset: usize, length: usize, to: &mut Vec<u8>) {
        let offset = offset.min(RING_BYTES);
        let length = length.min(RING_BYTES - offset);
        to.reserve(length);
        // SAFETY: inside the mapping, which lives as long as `self`; there is room. Nobody writes it meanwhile: the only caller
        // (`Hostile::call`, `check`) reads while no thread races and no call is on its way, on the thread that also serves the ring.
        unsafe {
            std::ptr::copy_nonoverlapping(self.start.add(offset), to.as_mut_ptr().add(to.len()), length);
            to.set_len(to.len() + length);
        }
    }

    /// Writes an aligned word, the nearest before `offset`.
    pub fn poke(&self, offset: usize, value: u64) {
        let offset = offset.min(RING_BYTES - 8) & !7;
        // SAFETY: an aligned word of the mapping.
        unsafe { AtomicU64::from_ptr(self.start.add(offset).cast()) }.store(value, Ordering::Relaxed);
    }

    /// An aligned word of 32 bits.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset <= RING_BYTES - 4 && offset.is_multiple_of(4));
        // SAFETY: an aligned word of the mapping, which lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.start.add(offset).cast()) }
    }

    /// Whether these bytes are anywhere in this range of the ring.
    pub fn has(&self, offset: usize, length: usize, bytes: &[u8]) -> bool {
        let offset = offset.min(RING_BYTES);
        let length = length.min(RING_BYTES - offset);
        // SAFETY: both ranges are mapped; nothing but the answer comes of them.
        let found = unsafe {
            libc::memmem(self.start.add(offset).cast(), length, bytes.as_ptr().cast(), bytes.len())
        };
        !found.is_null()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; nothing refers to it any more.
        unsafe { libc::munmap(self.start.cast(), RING_BYTES) };
    }
}

impl InstanceEnd for Peer {
    type Word = AtomicU32;
    type Wide = AtomicU64;

    fn indices(&self) -> &Indices {
        // SAFETY: aligned, inside the mapping, and made of atomics only.
        unsafe { &*self.start.add(INDICES_OFFSET).cast() }
    }

    fn write_submission(&self, slot: Slot, submission: &Submission) {
        let to = SUBMISSIONS_OFFSET + slot.number() * size_of::<Submission>();
        // SAFETY: a slot of the mapping.
        unsafe { self.start.add(to).cast::<Submission>().write_volatile(*submission) };
    }

    fn read_completion(&self, slot: Slot) -> Completion {
        let from = COMPLETIONS_OFFSET + slot.number() * size_of::<Completion>();
        // SAFETY: a slot of the mapping; any bytes are a completion.
        unsafe { self.start.add(from).cast::<Completion>().read_volatile() }
    }

    fn ring_doorbell(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes. A doorbell that is rung too often for its counter is the caller's own affair.
        unsafe { libc::write(self.doorbell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn wait(&self, _: &AtomicU32, _: u32) {
        unreachable!("nobody takes a completion that is not there");
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn pause(&self) {
        std::hint::spin_loop();
    }
}
