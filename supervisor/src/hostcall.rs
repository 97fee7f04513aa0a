//! One host call, as it came from the ring: copied once, checked against the interface table, then used.

use std::marker::PhantomData;

use ipc::interface::{ARGS_MAX, Arg, FunctionId, HostFunction};
use ipc::job::ARENA_BYTES;
use ipc::nospec;
use ipc::report::{LimitReached, Violation};
use ipc::ring::{Submission, submission_flags, unpack_range};

/// Bytes of the arena of one ring. The instance can change them at any time, so they are only ever copied
/// out once, copied in, or handed to the kernel as the buffer of a read or write. Parts of a region are cut out without a branch
/// ([`nospec`]), so no access leaves it, not even one that the processor makes ahead of a check and takes back.
#[derive(Clone, Copy, Debug)]
pub struct SharedRegion<'r> {
    start: *mut u8,
    length: usize,
    ring: PhantomData<&'r ()>,
}

impl<'r> SharedRegion<'r> {
    /// A region of shared memory.
    ///
    /// # Safety
    /// `start .. start + length` must stay mapped, readable and writable, for `'r`.
    pub unsafe fn new(start: *mut u8, length: usize) -> Self {
        Self { start, length, ring: PhantomData }
    }

    /// Bytes in the region.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The address, for system calls that read or write at most [`len`](Self::len) bytes there.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// The first `length` bytes of the region (all, if it has fewer).
    pub fn prefix(&self, length: usize) -> SharedRegion<'r> {
        Self { length: nospec::at_most(length, self.length), ..*self }
    }

    /// The region without its first `bytes` bytes.
    pub fn skip(&self, bytes: usize) -> SharedRegion<'r> {
        let bytes = nospec::at_most(bytes, self.length);
        // SAFETY: `bytes <= length`, so the result stays inside (or one past) the region of `new`'s contract.
        Self { start: unsafe { self.start.add(bytes) }, length: self.length - bytes, ring: PhantomData }
    }

    /// A private copy. This is the only way to look at what an instance wrote.
    pub fn copy_out(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(self.length);
        // SAFETY: the region is mapped for `'r` (contract of `new`), and `copy` has room for `length` private bytes, all of which
        // are written before they count.
        unsafe {
            copy_shared(copy.as_mut_ptr(), self.start, self.length);
            copy.set_len(self.length);
        }
        #[cfg(feature = "fuzzing")]
        crate::fuzzing::was_read(self.start, self.length);
        copy
    }

    /// Copies `bytes` to offset `at`; what does not fit is left out. Returns how many bytes were copied.
    pub fn write(&self, at: usize, bytes: &[u8]) -> usize {
        let to = self.skip(at).prefix(bytes.len());
        // SAFETY: `to.length <= bytes.len()`, mapped for `'r` (contract of `new`); nothing else of ours refers to it.
        unsafe { copy_shared(to.start, bytes.as_ptr(), to.length) };
        to.length
    }
}

/// Copies bytes of which one side is shared with another process. The copy is opaque to the optimiser: it
/// cannot read twice what it should read once.
///
/// # Safety
/// Both ranges must be mapped and must not overlap.
pub(crate) unsafe fn copy_shared(to: *mut u8, from: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: by the contract; `rep movsb` changes only these registers and the destination.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") bytes => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for i in 0..bytes {
        // SAFETY: by the contract.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
}

/// A host call whose function exists and whose ranges lie in the arena.
#[derive(Clone, Copy, Debug)]
pub struct HostCall<'r> {
    /// The function.
    pub function: FunctionId,
    /// Comes back in the completion.
    pub sequence: u32,
    /// Where the call's descriptor is, a regular file whose position the instance keeps.
    pub position: Option<u64>,
    words: [u64; ARGS_MAX],
    arena: SharedRegion<'r>,
}

impl<'r> HostCall<'r> {
    /// Checks a submission (a private copy of a slot) against the interface table.
    pub fn check(submission: &Submission, arena: SharedRegion<'r>) -> Result<Self, Violation> {
        let broken = |rule: String| Violation::Ring { rule };
        let function = FunctionId::from_number(submission.function)
            .ok_or_else(|| broken(format!("host call of unknown function {}", submission.function)))?;
        if submission.flags & !submission_flags::ALL != 0 {
            return Err(broken(format!("host call with unknown flags {:#x}", submission.flags)));
        }
        let position = (submission.flags & submission_flags::POSITION != 0).then_some(submission.position);
        debug_assert!(arena.len() == ARENA_BYTES);
        for (arg, word) in function.declaration().args.iter().zip(submission.args) {
            let (offset, length) = unpack_range(word);
            let fits = (offset as usize).checked_add(length as usize).is_some_and(|end| end <= arena.len());
            let size_ok = match *arg {
                Arg::Value(_) => continue,
                Arg::Result { bytes, .. } => length == bytes,
                Arg::In { stride, .. } | Arg::Out { stride, .. } => length % stride == 0,
                Arg::GatherIn { .. } | Arg::ScatterOut { .. } => true,
            };
            if !fits || !size_ok {
                return Err(broken(format!(
                    "{}: bytes {offset}+{length} are not a valid range of the arena for {arg:?}",
                    function.declaration().name
                )));
            }
        }
        Ok(Self { function, sequence: submission.sequence, position, words: submission.args, arena })
    }

    /// The declaration of the function.
    pub fn declaration(&self) -> &'static HostFunction {
        self.function.declaration()
    }

    /// Value argument number `arg` (an index into [`HostFunction::args`], not of a WebAssembly parameter).
    pub fn value(&self, arg: usize) -> u64 {
        self.words.get(arg).copied().unwrap_or(0)
    }

    /// The low 32 bits of value argument number `arg`.
    pub fn value32(&self, arg: usize) -> u32 {
        self.value(arg) as u32
    }

    /// The arena bytes of range argument number `arg`.
    pub fn region(&self, arg: usize) -> SharedRegion<'r> {
        let (offset, length) = unpack_range(self.value(arg));
        self.arena.skip(offset as usize).prefix(length as usize)
    }
}

/// What the host does with a call.
#[derive(Debug)]
pub enum Answer {
    /// The call is done. `errno` is a WASI error number, 0 for success; `written` counts the bytes that were
    /// written to the `Out` or `ScatterOut` range. `Result` ranges must be written when `errno` is 0.
    Done {
        /// WASI error number.
        errno: u16,
        /// Bytes in the variable-length output.
        written: usize,
    },
    /// The call ends the job: a limit was reached.
    Limit(LimitReached),
}
