//! An artifact's bytes in a memory file that nobody can change any more, and how they get there.
//!
//! What is checked must be what zygotes map, whatever happens to the file that it came from: so a file is copied once, by the kernel,
//! from its pages into those of the memory file, and everything that is computed about the artifact is computed about the copy.
//! While one thread copies, another computes the digest of what is there already, which takes a third as long: the job waits for both.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use ipc::protocol::MODULE_BYTES_MAX;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::error::{Error, errno, system};
use crate::process;

/// Bytes that are copied at a time: few enough to be in the processor's caches still when their digest is computed.
const PIECE: usize = 1 << 20;
/// Bytes that are read at a time for the digest.
const BUFFER: usize = 128 << 10;
/// From this length on a second thread pays: starting one takes as long as the digest of some 100 KiB.
const TWO_THREADS: usize = 2 << 20;

/// An artifact's bytes in a memory file that nobody can change any more.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    length: usize,
    /// Of its bytes, where it is known already.
    hash: Option<blake3::Hash>,
}

impl Image {
    /// A sealed copy of `bytes`.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut file = process::memory_file(c"artifact")?;
        file.write_all(bytes).map_err(system("write an artifact's memory file"))?;
        Self::seal(file, bytes.len())
    }

    /// A sealed copy of an artifact's file, from its beginning, and the hash of its bytes.
    pub(crate) fn from_file(file: &File) -> Result<(Self, blake3::Hash), Error> {
        let length = file.metadata().map_err(system("examine an artifact's file"))?.len();
        if length > MODULE_BYTES_MAX {
            let source = io::Error::from(io::ErrorKind::FileTooLarge);
            return Err(Error::System { what: "read an artifact's file", source });
        }
        let mut hasher = blake3::Hasher::new();
        let image = Self::copied(file, 0, length as usize, &mut hasher)?;
        let hash = hasher.finalize();
        Ok((Self { hash: Some(hash), ..image }, hash))
    }

    /// A sealed copy of `length` bytes of a file from `start` on, which `hasher` gets too: as they are in the copy. A file that changes
    /// meanwhile gives a mixture; one that is shorter is an error.
    pub(crate) fn copied(
        source: &File,
        start: u64,
        length: usize,
        hasher: &mut blake3::Hasher,
    ) -> Result<Self, Error> {
        let copy = process::memory_file(c"artifact")?;
        let mut digest = Digest { copy: &copy, hasher, buffer: vec![0; BUFFER.min(length)] };
        let copied = if length < TWO_THREADS {
            copy_pieces(source, start, &copy, length, |piece| digest.add(piece))
        } else {
            copy_and_digest(source, start, length, &mut digest)
        };
        copied.map_err(system("copy an artifact into its memory file"))?;
        Self::seal(copy, length)
    }

    /// Takes a file that is sealed against every change already.
    pub(crate) fn sealed(file: File, length: usize) -> Self {
        Self { file, length, hash: None }
    }

    /// Seals a file of this length.
    pub(crate) fn seal(file: File, length: usize) -> Result<Self, Error> {
        let seals =
            SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(errno("seal an artifact's memory file"))?;
        Ok(Self { file, length, hash: None })
    }

    /// The hash of its bytes, where it is known already.
    pub(crate) fn hash(&self) -> Option<blake3::Hash> {
        self.hash
    }

    /// The bytes, mapped for as long as the view lives.
    pub(crate) fn view(&self) -> Result<View, Error> {
        let Some(length) = NonZeroUsize::new(self.length) else {
            return Ok(View { start: NonNull::dangling(), length: 0 });
        };
        // Private: kernels before 6.7 refuse a shared mapping of what is sealed against writes. Nothing is ever written, so no page
        // becomes this mapping's own.
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, &self.file, 0) }
            .map_err(errno("map an artifact's memory file"))?
            .cast();
        Ok(View { start, length: self.length })
    }
}

/// Copies in pieces, and tells `copied` of each where it is in the copy.
fn copy_pieces(
    source: &File,
    start: u64,
    mut copy: &File,
    length: usize,
    mut copied: impl FnMut(Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = 0;
    while at < length {
        let count = copy_some(source, start + at as u64, &mut copy, PIECE.min(length - at))?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        copied(at..at + count)?;
        at += count;
    }
    Ok(())
}

/// Appends at most `most` bytes to the copy: how many.
fn copy_some(source: &File, from: u64, copy: &mut &File, most: usize) -> io::Result<usize> {
    loop {
        let mut offset = from;
        match rustix::fs::sendfile(*copy, source, Some(&mut offset), most) {
            Err(rustix::io::Errno::INTR) => {}
            // Not every file system can do that.
            Err(rustix::io::Errno::INVAL) => return copy_by_buffer(source, from, copy, most),
            other => return other.map_err(io::Error::from),
        }
    }
}

/// The same through this process's memory.
fn copy_by_buffer(source: &File, from: u64, copy: &mut &File, most: usize) -> io::Result<usize> {
    let mut buffer = vec![0; BUFFER.min(most)];
    let count = loop {
        match source.read_at(&mut buffer, from) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    copy.write_all(buffer.get(..count).unwrap_or_default())?;
    Ok(count)
}

/// Copies on this thread and computes the digest on another one, a piece behind; on this one where the host has no more threads.
fn copy_and_digest(source: &File, start: u64, length: usize, digest: &mut Digest<'_>) -> io::Result<()> {
    let copy = digest.copy;
    let (there, pieces) = mpsc::channel();
    let digest = Mutex::new(digest);
    let add = |piece| digest.lock().unwrap_or_else(PoisonError::into_inner).add(piece);
    thread::scope(|scope| {
        let follow = || pieces.into_iter().try_for_each(add);
        let Ok(follower) = thread::Builder::new().name("digest".into()).spawn_scoped(scope, follow) else {
            return copy_pieces(source, start, copy, length, add);
        };
        // A follower that has failed does not listen any more; its error is the one to tell.
        let copied = copy_pieces(source, start, copy, length, |piece| {
            there.send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
        });
        drop(there);
        let followed = follower.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
        followed.and(copied)
    })
}

/// The digest of a copy as it grows.
struct Digest<'a> {
    copy: &'a File,
    hasher: &'a mut blake3::Hasher,
    buffer: Vec<u8>,
}

impl Digest<'_> {
    /// Adds a piece that is there. In their order.
    fn add(&mut self, piece: Range<usize>) -> io::Result<()> {
        let mut at = piece.start;
        while at < piece.end {
            let count = self.buffer.len().min(piece.end - at);
            let part = self.buffer.get_mut(..count).unwrap_or_default();
            self.copy.read_exact_at(part, at as u64)?;
            self.hasher.update(part);
            at += count;
        }
        Ok(())
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Bytes in sealed memory, mapped to be read: they never change.
#[derive(Debug)]
pub struct View {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to this value and is only ever read.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `length` mapped bytes (or none), which the seals keep from ever changing or shrinking.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: the mapping of `Image::view`; every borrow of its bytes borrows `self`.
            let _ = unsafe { munmap(self.start.cast(), self.length) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Bytes of which no page is like another.
    fn bytes(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&length.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn file(contents: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(contents).unwrap();
        file
    }

    fn contents(image: &Image) -> Vec<u8> {
        image.view().unwrap().as_ref().to_vec()
    }

    #[test]
    fn a_copy_is_the_file_and_its_digest() {
        for length in [0, 1, 4097, PIECE - 1, TWO_THREADS - 1, TWO_THREADS, 2 * TWO_THREADS + BUFFER + 1] {
            let bytes = bytes(length);
            let (image, hash) = Image::from_file(&file(&bytes)).unwrap();
            assert!(contents(&image) == bytes, "{length} bytes");
            assert_eq!(hash, blake3::hash(&bytes), "{length} bytes");
            assert_eq!(image.hash(), Some(hash));
        }
    }

    #[test]
    fn a_part_of_a_file_is_copied_too() {
        let bytes = bytes(TWO_THREADS + 5000);
        let file = file(&bytes);
        for (start, end) in [(48, 148), (4096, TWO_THREADS), (48, bytes.len())] {
            let mut hasher = blake3::Hasher::new();
            let image = Image::copied(&file, start as u64, end - start, &mut hasher).unwrap();
            assert!(contents(&image) == bytes[start..end], "{start}..{end}");
            assert_eq!(hasher.finalize(), blake3::hash(&bytes[start..end]), "{start}..{end}");
        }
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        for length in [100, TWO_THREADS + 100] {
            let mut hasher = blake3::Hasher::new();
            let error = Image::copied(&file(&bytes(length)), 0, length + 1, &mut hasher).unwrap_err();
            let Error::System { source, .. } = error else { panic!("{error}") };
            assert_eq!(source.kind(), io::ErrorKind::UnexpectedEof, "{length} bytes");
        }
    }

    #[test]
    fn what_cannot_be_sent_is_copied_through_a_buffer() {
        let bytes = bytes(3 * BUFFER + 100);
        let (source, copy) = (file(&bytes), process::memory_file(c"artifact").unwrap());
        let mut at = 0;
        while at < bytes.len() {
            let count = copy_by_buffer(&source, at as u64, &mut &copy, bytes.len() - at).unwrap();
            assert!(count > 0);
            at += count;
        }
        assert_eq!(copy_by_buffer(&source, at as u64, &mut &copy, 1).unwrap(), 0);
        assert!(contents(&Image::seal(copy, bytes.len()).unwrap()) == bytes);
    }

    #[test]
    fn nobody_can_change_what_was_checked() {
        let bytes = bytes(3 * 4096);
        let source = file(&bytes);
        let (image, hash) = Image::from_file(&source).unwrap();
        let view = image.view().unwrap();
        let mapped = Image::sealed(source.try_clone().unwrap(), bytes.len()).view().unwrap();
        let digest = |view: &View| blake3::hash(view.as_ref());
        // The attack: the file is written after it was checked. Whoever maps the file itself gets what was never checked.
        assert_eq!(digest(&mapped), hash);
        source.write_all_at(b"evil", 4096).unwrap();
        assert_ne!(digest(&mapped), hash);
        assert_eq!(digest(&view), hash);
        // The copy itself, through its own descriptor.
        let copy = File::from(image.as_fd().try_clone_to_owned().unwrap());
        assert!(copy.write_all_at(b"evil", 4096).is_err());
        assert!(copy.set_len(0).is_err());
        assert!(copy.set_len(bytes.len() as u64 + 1).is_err());
        let length = NonZeroUsize::new(bytes.len()).unwrap();
        // SAFETY: a new mapping, if there is one, which nothing uses.
        let writable = unsafe { mmap(None, length, ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, &copy, 0) };
        assert!(writable.is_err());
        assert_eq!(digest(&view), hash);
    }

    #[test]
    fn a_file_that_is_being_written_gives_what_its_digest_says() {
        for length in [64 << 10, 2 * TWO_THREADS] {
            let source = file(&bytes(length));
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    let mut round = 0u8;
                    while !done.load(Ordering::Relaxed) {
                        round = round.wrapping_add(1);
                        for at in (0..length).step_by(4096) {
                            source.write_all_at(&[round; 8], at as u64).unwrap();
                        }
                    }
                });
                let (mut different, mut last) = (0, None);
                while different < 10 && !writer.is_finished() {
                    let (image, hash) = Image::from_file(&source).unwrap();
                    assert_eq!(blake3::hash(image.view().unwrap().as_ref()), hash);
                    different += usize::from(last.replace(hash) != Some(hash));
                }
                done.store(true, Ordering::Relaxed);
                writer.join().unwrap();
            });
        }
    }
}
