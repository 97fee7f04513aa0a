//! The supervisor's view of one instance's shared memory. The other side can change every byte at any time:
//! what is read here is copied first.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use ipc::job::{
    ARENA_BYTES, ARENA_OFFSET, CALLS_BYTES, COMPLETIONS_OFFSET, EXIT_OFFSET, ExitRecord, HEAD_OFFSET,
    INDICES_OFFSET, JOB_OFFSET, JobHeader, PREFAULT_MAX, PREFAULT_OFFSET, RING_BYTES, STRINGS_BYTES,
    STRINGS_OFFSET, SUBMISSIONS_OFFSET, TABLE_BYTES, TABLE_OFFSET, VALUES_MAX, VALUES_OFFSET, go,
};
use ipc::ring::supervisor::{self, SupervisorEnd, publish};
use ipc::ring::{Completion, Indices, OUTPUT_HALF, Slot, Submission};
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use zerocopy::IntoBytes;

use crate::error::{Error, errno, system};
use crate::hostcall::{SharedRegion, copy_shared};
pub(crate) use crate::module::RawValue;
use crate::process;

/// Bytes of the head, which is always in memory, so that mapping it costs an instance one page fault (the kernel maps the
/// neighbouring pages along).
pub(crate) const HEAD_BYTES: usize = RING_BYTES - HEAD_OFFSET;

/// Unit of `st_blocks` (stat(3type)).
const STAT_BLOCK: u64 = 512;

/// One ring, mapped.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    file: OwnedFd,
    start: NonNull<u8>,
}

impl SharedMemory {
    /// Zeroed shared memory of a size that nobody can change any more.
    pub(crate) fn new() -> Result<Self, Error> {
        let file = process::memory_file(c"ring")?;
        file.set_len(RING_BYTES as u64).map_err(system("size a ring's memory file"))?;
        // Without the seals a process below could cut the file short and have the supervisor fault.
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(errno("seal a ring's memory file"))?;
        let length = NonZeroUsize::new(RING_BYTES).unwrap_or(NonZeroUsize::MIN);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0) }
            .map_err(errno("map a ring"))?
            .cast();
        let memory = Self { file: file.into(), start };
        memory.clear_head();
        Ok(memory)
    }

    /// Makes all of it zero again. Nobody else may have it mapped any more.
    pub(super) fn renew(&self) -> Result<(), Error> {
        self.clear_head();
        // The head is always there: whatever else holds memory lies before it.
        let status = nix::sys::stat::fstat(&self.file).map_err(errno("examine a used ring"))?;
        if status.st_blocks as u64 * STAT_BLOCK > HEAD_BYTES as u64 {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(&self.file, hole, 0, HEAD_OFFSET as i64).map_err(errno("empty a used ring"))?;
        }
        Ok(())
    }

    fn clear_head(&self) {
        // SAFETY: the head lies in the mapping, and nobody else has it mapped: it is new, or by the contract of `renew`.
        unsafe { self.start.add(HEAD_OFFSET).write_bytes(0, HEAD_BYTES) };
    }

    /// The descriptor, for the zygote.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        debug_assert!(offset + size_of::<T>() <= RING_BYTES);
        // SAFETY: every offset in this file is a constant of `ipc::job` or bounded below one, inside the mapping.
        unsafe { self.start.as_ptr().add(offset).cast() }
    }

    /// Writes the job. Its `go` must be [`go::PARKED`]; [`go`](Self::go) starts it.
    pub(crate) fn write_job(&self, job: &JobHeader) {
        // SAFETY: the header's place in the mapping; the instance reads it only after `go`.
        unsafe { self.at::<JobHeader>(JOB_OFFSET).write_volatile(*job) };
    }

    /// Writes strings; `false` if they do not fit.
    pub(crate) fn write_strings<'s>(&self, strings: impl Iterator<Item = &'s [u8]>) -> bool {
        // SAFETY: the strings' region lies in the mapping, which lives as long as `self`.
        let region = unsafe { SharedRegion::new(self.at(STRINGS_OFFSET), STRINGS_BYTES) };
        let mut at = 0;
        for string in strings {
            if at + string.len() + 1 > STRINGS_BYTES {
                return false;
            }
            // The memory is fresh and zero: the terminator is there.
            at += region.write(at, string) + 1;
        }
        true
    }

    /// Writes the table of typed functions, which fits.
    pub(crate) fn write_table(&self, words: &[u64]) {
        // SAFETY: the table's region lies in the mapping, which lives as long as `self`.
        let region = unsafe { SharedRegion::new(self.at(TABLE_OFFSET), TABLE_BYTES) };
        region.write(0, words.as_bytes());
    }

    /// Writes which pages an instance is to write while it is parked. For one that is not forked yet.
    pub(crate) fn write_prefault(&self, pages: &[u32]) {
        let count = pages.len().min(PREFAULT_MAX);
        for (i, page) in pages.iter().take(count).enumerate() {
            // SAFETY: `i < PREFAULT_MAX`, so the place lies in the mapping.
            unsafe { self.at::<u32>(PREFAULT_OFFSET + i * size_of::<u32>()).write_volatile(*page) };
        }
        let word = JOB_OFFSET + std::mem::offset_of!(JobHeader, prefault);
        // SAFETY: a word of the mapping.
        unsafe { self.at::<u32>(word).write_volatile(count as u32) };
    }

    /// Writes the arguments of the entry point.
    pub(crate) fn write_values(&self, values: &[RawValue]) {
        for (i, value) in values.iter().take(VALUES_MAX).enumerate() {
            // SAFETY: `i < VALUES_MAX`, so the place lies in the mapping.
            unsafe { self.at::<RawValue>(VALUES_OFFSET + i * size_of::<RawValue>()).write_volatile(*value) };
        }
    }

    /// A copy of the results of the entry point.
    pub(crate) fn values(&self, count: usize) -> Vec<RawValue> {
        (0..count.min(VALUES_MAX))
            // SAFETY: `i < VALUES_MAX`, so the place lies in the mapping; any bytes are a value.
            .map(|i| unsafe {
                self.at::<RawValue>(VALUES_OFFSET + i * size_of::<RawValue>()).read_volatile()
            })
            .collect()
    }

    /// Starts the job, whether the instance is parked already or not there yet.
    pub(crate) fn go(&self) {
        publish(self.go_word(), go::GIVEN, |word| self.wake(word));
    }

    /// Whether the job was given and nobody has taken it, by the word of whoever could.
    pub(crate) fn is_untaken(&self) -> bool {
        self.go_word().load(Ordering::Acquire) == go::GIVEN
    }

    fn go_word(&self) -> &AtomicU32 {
        // SAFETY: an aligned word of the mapping, used as an atomic by both sides once the job is given.
        unsafe { AtomicU32::from_ptr(self.at::<u32>(JOB_OFFSET + std::mem::offset_of!(JobHeader, go))) }
    }

    /// Whether output waits.
    pub(crate) fn has_output(&self) -> bool {
        supervisor::has_output(self)
    }

    /// The bytes of one half of the output's part of the arena.
    pub(crate) fn output(&self, half: u32) -> SharedRegion<'_> {
        self.arena().skip(CALLS_BYTES + (half as usize & 1) * OUTPUT_HALF).prefix(OUTPUT_HALF)
    }

    /// Where it is mapped.
    #[cfg(feature = "fuzzing")]
    pub(super) fn start(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// The arena.
    pub(crate) fn arena(&self) -> SharedRegion<'_> {
        // SAFETY: the arena lies in the mapping, which lives as long as `self`.
        unsafe { SharedRegion::new(self.at(ARENA_OFFSET), ARENA_BYTES) }
    }

    /// A copy of the exit record.
    pub(crate) fn exit_record(&self) -> ExitRecord {
        // SAFETY: the record lies in the mapping; it is plain integers, so any bytes are a value. The instance is
        // dead or, in a session, may write: a torn copy is only a wrong report of a hostile instance about itself.
        unsafe { self.at::<ExitRecord>(EXIT_OFFSET).read_volatile() }
    }
}

impl SupervisorEnd for SharedMemory {
    type Word = AtomicU32;
    type Wide = AtomicU64;

    fn indices(&self) -> &Indices {
        // SAFETY: aligned, inside the mapping, and made of atomics only, so the other side's writes are no data race.
        unsafe { &*self.at::<Indices>(INDICES_OFFSET) }
    }

    fn read_submission(&self, slot: Slot) -> Submission {
        let mut copy = Submission::default();
        let from = self.at::<u8>(SUBMISSIONS_OFFSET + slot.number() * size_of::<Submission>());
        // SAFETY: a slot's number is below SLOTS, so the source lies in the mapping; `copy` is private and any bytes are a value.
        unsafe { copy_shared((&raw mut copy).cast(), from, size_of::<Submission>()) };
        #[cfg(feature = "fuzzing")]
        crate::fuzzing::was_read(from, size_of::<Submission>());
        copy
    }

    fn write_completion(&self, slot: Slot, completion: &Completion) {
        let to = self.at::<Completion>(COMPLETIONS_OFFSET + slot.number() * size_of::<Completion>());
        // SAFETY: a slot's number is below SLOTS, so the place lies in the mapping.
        unsafe { to.write_volatile(*completion) };
    }

    fn wake(&self, word: &AtomicU32) {
        // SAFETY: FUTEX_WAKE does not touch the word; a failure would mean an unmapped address, which it is not.
        let woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
        debug_assert!(woken >= 0, "{}", io::Error::last_os_error());
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, to which nothing refers any more: every view borrows `self`.
        let _ = unsafe { munmap(self.start.cast(), RING_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_ring_is_zero() {
        let shared = SharedMemory::new().unwrap();
        let all = || {
            // SAFETY: the whole mapping, which lives as long as `shared`.
            unsafe { SharedRegion::new(shared.start.as_ptr(), RING_BYTES) }
        };
        let places = [
            0,
            STRINGS_OFFSET,
            TABLE_OFFSET,
            VALUES_OFFSET,
            PREFAULT_OFFSET,
            HEAD_OFFSET - 1,
            HEAD_OFFSET,
            EXIT_OFFSET,
            RING_BYTES - 1,
        ];
        for place in places {
            all().skip(place).write(0, b"!");
            shared.renew().unwrap();
            assert!(all().copy_out().iter().all(|byte| *byte == 0), "{place:#x}");
            // What was only read above holds memory now, too.
            shared.renew().unwrap();
        }
        for place in places {
            all().skip(place).write(0, b"!");
        }
        shared.renew().unwrap();
        assert!(all().copy_out().iter().all(|byte| *byte == 0));
    }
}
