//! Reading out of an instance what a snapshot keeps.
//!
//! The instance copies the bytes itself, on the session's command, so all of it is its own word. Sizes are checked before
//! anything is read by them; what the bytes mean is checked where they are written ([`compiler::Artifact::snapshot`]).

use std::mem::offset_of;
use std::time::{Duration, Instant};

use compiler::metadata::{GlobalValue, Metadata};
use compiler::{MemoryState, State, TableState};
use ipc::context::{ASKED, MemoryDescriptor, TableDescriptor, TableEntry};
use ipc::job::ARENA_BYTES;
use ipc::layout::{PAGE, memory_base};

use crate::error::Error;
use crate::session::Session;

/// How long the reading may take altogether. It takes a second per gigabyte; an instance that takes longer is a hostile one.
const PATIENCE: Duration = Duration::from_secs(60);

/// Copies bytes out of an instance.
struct Reader<'s> {
    session: &'s mut Session,
    deadline: Instant,
}

impl Reader<'_> {
    /// A copy, in as many parts as it takes.
    async fn read(&mut self, address: u64, length: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            if Instant::now() > self.deadline {
                return Err(Error::SnapshotTime { limit: PATIENCE });
            }
            let part = (length - bytes.len() as u64).min(ARENA_BYTES as u64) as usize;
            bytes.extend(self.session.copy_out(address + bytes.len() as u64, part).await?);
        }
        Ok(bytes)
    }
}

/// The context of an instance, or the part of it that was read.
struct Context {
    start: u64,
    bytes: Vec<u8>,
}

impl Context {
    /// Reads from the first to the last address that is asked for.
    async fn read(reader: &mut Reader<'_>, addresses: &[u64]) -> Result<Self, Error> {
        let start = addresses.iter().copied().min().unwrap_or(ASKED);
        let last = addresses.iter().copied().max().unwrap_or(ASKED);
        // A vector has 16 bytes and never crosses a page, and the context has whole pages.
        let end = (last + 16).min(last - last % PAGE + PAGE);
        let bytes = reader.read(start, end - start).await?;
        Ok(Self { start, bytes })
    }

    fn word(&self, address: u64) -> u64 {
        let at = address.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let bytes = at.and_then(|at| self.bytes.get(at..)?.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// Reads the state of an instance that runs nothing now. `bytes_max` is what may be kept of it.
pub(crate) async fn read_state(session: &mut Session, bytes_max: u64) -> Result<State, Error> {
    let module = session.module().clone();
    let artifact = module.artifact();
    let metadata: &Metadata = artifact.metadata();
    let mut reader = Reader { session, deadline: Instant::now() + PATIENCE };
    let context = Context::read(&mut reader, &addresses(metadata)).await?;
    let mut state = State { asked: context.word(ASKED), ..State::default() };
    state.segments = metadata.segments.iter().map(|segment| context.word(segment.address)).collect();
    state.globals = metadata
        .globals
        .iter()
        .map(|global| match global.value {
            GlobalValue::Constant(_) => [0; 2],
            GlobalValue::Address(address) => [context.word(address), context.word(address.saturating_add(8))],
        })
        .collect();
    for (index, table) in metadata.tables.iter().enumerate() {
        let size = context.word(table.descriptor + offset_of!(TableDescriptor, size) as u64);
        let size = artifact.checked_table_size(index, size)?;
        let entries = reader.read(table.base, size * size_of::<TableEntry>() as u64).await?;
        state.tables.push(TableState { size, entries });
    }
    let mut kept = 0u64;
    for (index, memory) in (0u32..).zip(&metadata.memories) {
        let bytes = context.word(memory.descriptor + offset_of!(MemoryDescriptor, bytes) as u64);
        let bytes = artifact.checked_memory_size(index as usize, bytes)?;
        let mut pieces = Vec::new();
        let mut offset = 0;
        while offset < bytes {
            let length = (bytes - offset).min(ARENA_BYTES as u64);
            let part = reader.read(memory_base(index) + offset, length).await?;
            for (at, piece) in pieces_of(&part) {
                kept += piece.len() as u64;
                if kept > bytes_max {
                    return Err(Error::SnapshotSize { max: bytes_max });
                }
                pieces.push((offset + at as u64, piece.to_vec()));
            }
            offset += length;
        }
        state.memories.push(MemoryState { bytes, pieces });
    }
    Ok(state)
}

/// Where in the context something is that is read.
fn addresses(metadata: &Metadata) -> Vec<u64> {
    let mut addresses = vec![ASKED];
    addresses.extend(metadata.segments.iter().map(|segment| segment.address));
    addresses.extend(metadata.globals.iter().filter_map(|global| match global.value {
        GlobalValue::Address(address) => Some(address),
        GlobalValue::Constant(_) => None,
    }));
    let tables = metadata.tables.iter().map(|t| t.descriptor + offset_of!(TableDescriptor, size) as u64);
    let memories =
        metadata.memories.iter().map(|m| m.descriptor + offset_of!(MemoryDescriptor, bytes) as u64);
    addresses.extend(tables.chain(memories));
    addresses
}

/// The runs of pages in which not every byte is zero, at their offsets.
fn pieces_of(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut pages = bytes.chunks(PAGE as usize).enumerate().peekable();
    std::iter::from_fn(move || {
        let is_kept = |page: &[u8]| page.iter().any(|&byte| byte != 0);
        let (first, _) = pages.find(|(_, page)| is_kept(page))?;
        let mut end = first + 1;
        while pages.next_if(|(_, page)| is_kept(page)).is_some() {
            end += 1;
        }
        let start = first * PAGE as usize;
        let piece = bytes.get(start..(end * PAGE as usize).min(bytes.len()))?;
        Some((start, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_with_something_in_them_are_kept() {
        let page = PAGE as usize;
        let mut bytes = vec![0; 6 * page];
        assert_eq!(pieces_of(&bytes).count(), 0);
        bytes[page + 5] = 1;
        bytes[2 * page] = 1;
        bytes[5 * page + page - 1] = 1;
        let found: Vec<(usize, usize)> = pieces_of(&bytes).map(|(at, piece)| (at, piece.len())).collect();
        assert_eq!(found, [(page, 2 * page), (5 * page, page)]);
    }
}
