//! How far a worker says it is.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};

use super::wire::PROGRESS_BYTES;
use crate::error::{Error, errno, system};
use crate::process;

/// How far a compilation is. Clones see the same; give one to the compilation and ask another.
#[derive(Clone, Debug, Default)]
pub struct CompileProgress(Arc<Mutex<Option<File>>>);

impl CompileProgress {
    /// Functions compiled, and functions to compile; both are 0 before the worker has said so.
    ///
    /// They are the worker's word, which a hostile module may have taken over: any numbers, but the first is never larger than
    /// the second.
    pub fn get(&self) -> (u64, u64) {
        let mut bytes = [0; PROGRESS_BYTES];
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What cannot be read stays 0.
        let _ = file.as_ref().map(|file| file.read_exact_at(&mut bytes, 0));
        let [done, total] = [0, 8].map(|at| {
            bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |word| u64::from_ne_bytes(*word))
        });
        (done.min(total), total)
    }

    /// From now on this tells what is written to the file that this returns: two words, no more and no fewer.
    pub(super) fn begin(&self) -> Result<File, Error> {
        let file = process::memory_file(c"compile-progress")?;
        file.set_len(PROGRESS_BYTES as u64).map_err(system("size a worker's memory file"))?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK))
            .map_err(errno("seal a worker's memory file"))?;
        let theirs = file.try_clone().map_err(system("duplicate a worker's memory file"))?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(theirs)
    }
}
