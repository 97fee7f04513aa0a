//! Pages that jobs write: what the first jobs of a zygote wrote, later instances write ahead of theirs, while they are parked.
//!
//! An instance that has finished, and waits to be killed, copies its memory out; a page that is not as the artifact has it was written. All of
//! this is the instance's own word. It decides which pages of their own memory later instances of the same tenant, module and policy touch,
//! at most [`PREFAULT_MAX`], and nothing else.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use compiler::InitialMemory;
use ipc::job::PREFAULT_MAX;
use ipc::layout::{MEMORY_BASE, PAGE};
use ipc::ring::Submission;
use ipc::ring::supervisor::{Next, Queues, unwatch};
use ipc::session::{Command, REPLY, command, status};
use tokio::time::timeout;

use super::seat::Seat;
use super::serve::wait;
use crate::module::Module;
use crate::zygote::module::ModuleZygote;

/// Jobs that are looked at. A page counts if all of them wrote it.
const JOBS: usize = 2;
/// Bytes of memory that are looked at.
const LOOKED_MAX: u64 = 64 << 20;
/// Bytes that are copied at a time; other jobs of the shard have their turn in between.
const PART: u64 = 256 << 10;
/// How long a look may take. An instance that is no longer accounted for lives no longer than that.
const PATIENCE: Duration = Duration::from_millis(200);
/// Looks at most, if some fail.
const LOOKS: usize = 8;

/// What is known of the pages that the jobs of one zygote write.
#[derive(Debug, Default)]
pub(crate) struct Prefault {
    /// Jobs that were looked at.
    jobs: Cell<usize>,
    looks: Cell<usize>,
    /// An instance is being looked at.
    looking: Cell<bool>,
    /// Numbers of pages in memory 0, ascending: what all of these jobs wrote.
    written: RefCell<Vec<u32>>,
}

impl Prefault {
    /// Pages that an instance is to write while it is parked: none before enough jobs were looked at.
    pub(crate) fn pages(&self) -> Vec<u32> {
        if self.jobs.get() < JOBS { Vec::new() } else { self.written.borrow().clone() }
    }

    /// Whether to look at one more job.
    pub(super) fn wants_more(&self) -> bool {
        self.jobs.get() < JOBS && self.looks.get() < LOOKS && !self.looking.get()
    }

    /// Takes note of the pages that one more job wrote.
    fn add(&self, pages: Vec<u32>) {
        let mut written = self.written.borrow_mut();
        match self.jobs.replace(self.jobs.get() + 1) {
            0 => *written = pages,
            _ => written.retain(|page| pages.binary_search(page).is_ok()),
        }
    }
}

/// An instance that has finished and waits, and can be looked at.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) zygote: Rc<ModuleZygote>,
    pub(super) module: Module,
    pub(super) queues: Queues,
    /// Of the submission that says so.
    pub(super) sequence: u32,
}

impl Waiting {
    /// Finds out which pages it wrote.
    pub(super) async fn look(self, seat: &Seat) {
        let zygote = Rc::clone(&self.zygote);
        let prefault = zygote.prefault();
        if !prefault.wants_more() {
            return;
        }
        prefault.looks.set(prefault.looks.get() + 1);
        prefault.looking.set(true);
        // Also when this is dropped half-way.
        let _looking = Looking(prefault);
        if let Ok(Some(pages)) = timeout(PATIENCE, self.written(seat)).await {
            prefault.add(pages);
        }
    }

    /// Pages that it wrote. `None`: it breaks the rules.
    async fn written(mut self, seat: &Seat) -> Option<Vec<u32>> {
        // As the serving may have left it, the instance would not ring.
        unwatch(&seat.shared, 0);
        let module = self.module.clone();
        let (mut pages, mut looked) = (Vec::new(), 0);
        for memory in module.artifact().initial_memory() {
            let mut offset = 0;
            while offset < memory.length && looked < LOOKED_MAX && pages.len() < PREFAULT_MAX {
                let length = PART.min(memory.length - offset);
                let bytes = self.read(seat, memory.address + offset, length).await?;
                pages.extend(written_pages(&memory, offset, &bytes));
                (offset, looked) = (offset + length, looked + length);
            }
        }
        pages.truncate(PREFAULT_MAX);
        Some(pages)
    }

    /// A copy of bytes of the instance's.
    async fn read(&mut self, seat: &Seat, address: u64, length: u64) -> Option<Vec<u8>> {
        let command =
            Command { sequence: self.sequence, kind: command::READ, address, length, ..Command::default() };
        self.queues.complete(&seat.shared, &command.into()).ok()?;
        let reply = self.reply(seat).await?;
        self.sequence = reply.sequence;
        (reply.function == REPLY && reply.args[0] == status::DONE)
            .then(|| seat.shared.arena().prefix(length as usize).copy_out())
    }

    async fn reply(&mut self, seat: &Seat) -> Option<Submission> {
        while self.queues.look(&seat.shared).ok()? != Next::Call {
            wait(&seat.doorbell).await.ok()?;
        }
        self.queues.take(&seat.shared)
    }
}

struct Looking<'p>(&'p Prefault);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.looking.set(false);
    }
}

/// Numbers of the pages in these bytes, which are `offset` bytes into a part of memory, that are not as they were.
fn written_pages(memory: &InitialMemory<'_>, offset: u64, bytes: &[u8]) -> Vec<u32> {
    let first = (memory.address + offset).saturating_sub(MEMORY_BASE) / PAGE;
    let contents = memory.contents.get(offset as usize..).unwrap_or_default();
    let mut before = contents.chunks(PAGE as usize);
    let is_written = |page: &[u8]| match before.next() {
        Some(before) => page != before,
        None => page.iter().any(|&byte| byte != 0),
    };
    let written: Vec<bool> = bytes.chunks(PAGE as usize).map(is_written).collect();
    (first..).zip(written).filter_map(|(page, written)| written.then(|| u32::try_from(page).ok())?).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_count_that_every_job_wrote() {
        let prefault = Prefault::default();
        assert!(prefault.wants_more());
        prefault.add(vec![1, 4, 9]);
        assert!(prefault.wants_more() && prefault.pages().is_empty(), "one job is not enough");
        prefault.add(vec![0, 4, 9, 10]);
        assert!(!prefault.wants_more());
        assert_eq!(prefault.pages(), [4, 9]);
    }

    #[test]
    fn pages_are_compared_with_what_the_artifact_has() {
        let page = PAGE as usize;
        let contents: Vec<u8> = (0..2 * page).map(|i| i as u8).collect();
        let memory = InitialMemory { address: MEMORY_BASE + 3 * PAGE, length: 5 * PAGE, contents: &contents };
        let mut bytes = contents.clone();
        bytes.resize(5 * page, 0);
        assert!(written_pages(&memory, 0, &bytes).is_empty());
        bytes[page + 1] ^= 1;
        bytes[5 * page - 1] = 1;
        assert_eq!(written_pages(&memory, 0, &bytes), [4, 7]);
        assert_eq!(written_pages(&memory, PAGE, &bytes[page..]), [4, 7]);
        assert_eq!(written_pages(&memory, 3 * PAGE, &bytes[3 * page..]), [7]);
    }
}
