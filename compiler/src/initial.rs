//! What memories and tables hold when an instance starts: active segments, applied at compile time.

use std::collections::BTreeMap;
use std::ops::Range;

use ipc::layout::PAGE;

use crate::module::{Constant, Module, NULL_ITEM, SegmentMode};
use crate::plan::Plan;
use crate::trap::TrapKind;

/// Gaps between runs of contents that are stored as zeros rather than left out: a further mapping costs more.
const SMALL_GAP: u64 = 64 << 10;
/// Most runs of what an artifact maps from one file range on; the smallest gaps are stored to stay below.
pub(crate) const RUNS_MAX: usize = 24;

/// Bytes at addresses, where later ones win over earlier ones. Borrows the bytes.
#[derive(Default)]
pub(crate) struct Overlay<'a> {
    /// Start address → bytes; never overlapping.
    pieces: BTreeMap<u64, &'a [u8]>,
}

impl<'a> Overlay<'a> {
    /// Puts `bytes` at `start`, over whatever is there.
    pub fn write(&mut self, start: u64, bytes: &'a [u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = start + bytes.len() as u64;
        // The one piece that begins before and reaches into the new range.
        if let Some((&first, &piece)) = self.pieces.range(..start).next_back() {
            let reach = first + piece.len() as u64;
            if reach > start {
                self.pieces.insert(first, &piece[..(start - first) as usize]);
                if reach > end {
                    self.pieces.insert(end, &piece[(end - first) as usize..]);
                }
            }
        }
        let covered: Vec<u64> = self.pieces.range(start..end).map(|(&first, _)| first).collect();
        for first in covered {
            if let Some(piece) = self.pieces.remove(&first) {
                let reach = first + piece.len() as u64;
                if reach > end {
                    self.pieces.insert(end, &piece[(end - first) as usize..]);
                }
            }
        }
        self.pieces.insert(start, bytes);
    }

    /// The pieces that share bytes with `range`, in order.
    pub fn overlapping(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, &'a [u8])> + '_ {
        let before = self.pieces.range(..range.start).next_back();
        let before = before.filter(|(first, piece)| **first + piece.len() as u64 > range.start);
        before.into_iter().chain(self.pieces.range(range.clone())).map(|(&start, &bytes)| (start, bytes))
    }

    /// Page-aligned ranges that hold every byte that is not zero. At most `most`, which is not 0.
    pub fn runs(&self, most: usize) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (&start, bytes) in &self.pieces {
            let mut from = 0usize;
            while from < bytes.len() {
                let address = start + from as u64;
                let page = address - address % PAGE;
                let until = ((page + PAGE - start) as usize).min(bytes.len());
                if bytes[from..until].iter().any(|&byte| byte != 0) {
                    match runs.last_mut() {
                        Some(last) if page <= last.end + SMALL_GAP => last.end = last.end.max(page + PAGE),
                        _ => runs.push(page..page + PAGE),
                    }
                }
                from = until;
            }
        }
        if runs.len() > most {
            // Keep the largest gaps; of equal ones the first.
            let mut gaps: Vec<(u64, usize)> =
                runs.windows(2).enumerate().map(|(i, pair)| (pair[1].start - pair[0].end, i + 1)).collect();
            gaps.sort_unstable_by_key(|&(gap, i)| (std::cmp::Reverse(gap), i));
            let mut starts: Vec<usize> = gaps.iter().take(most.saturating_sub(1)).map(|&(_, i)| i).collect();
            starts.push(0);
            starts.sort_unstable();
            let ends = starts.iter().skip(1).copied().chain([runs.len()]);
            runs = starts
                .iter()
                .zip(ends)
                .filter_map(|(&first, end)| Some(runs.get(first)?.start..runs.get(end - 1)?.end))
                .collect();
        }
        runs
    }
}

/// The initial contents of an instance, and whether instantiation traps.
pub(crate) struct Initial<'a> {
    /// Per table, the function index or null of each entry.
    pub tables: Vec<Vec<u32>>,
    /// Per memory, its contents by address.
    pub memories: Vec<Overlay<'a>>,
    /// The trap of the first active segment that does not fit, after which nothing is applied.
    pub trap: Option<TrapKind>,
}

impl<'a> Initial<'a> {
    /// Applies the active segments in the order that the specification says: elements, then data.
    pub fn new(module: &Module<'a>, plan: &Plan) -> Self {
        let mut initial = Initial {
            tables: module.tables.iter().map(|table| vec![item(table.init); table.min as usize]).collect(),
            memories: plan.memories.iter().map(|_| Overlay::default()).collect(),
            trap: None,
        };
        for element in &module.elements {
            let SegmentMode::Active { index, offset } = element.mode else { continue };
            let entries = initial.tables.get_mut(index as usize).and_then(|table| {
                let start = usize::try_from(offset).ok()?;
                table.get_mut(start..start.checked_add(element.items.len())?)
            });
            match entries {
                Some(entries) => entries.copy_from_slice(&element.items),
                None => {
                    initial.trap = Some(TrapKind::TableOutOfBounds);
                    return initial;
                }
            }
        }
        for data in &module.data {
            let SegmentMode::Active { index, offset } = data.mode else { continue };
            let memory = plan.memories.get(index as usize);
            let end = offset.checked_add(data.bytes.len() as u64);
            let memory = memory.filter(|memory| end.is_some_and(|end| end <= memory.bytes));
            match memory.zip(initial.memories.get_mut(index as usize)) {
                Some((memory, contents)) => contents.write(memory.base + offset, data.bytes),
                None => {
                    initial.trap = Some(TrapKind::MemoryOutOfBounds);
                    return initial;
                }
            }
        }
        initial
    }
}

/// What a table holds for a constant of its type. There are no host values before an instance starts.
fn item(constant: Constant) -> u32 {
    match constant {
        Constant::Function(index) => index,
        _ => NULL_ITEM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(overlay: &Overlay<'_>, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        for (start, piece) in overlay.overlapping(&range) {
            let at = (start - range.start) as usize;
            bytes[at..at + piece.len()].copy_from_slice(piece);
        }
        bytes
    }

    #[test]
    fn later_writes_win_however_they_overlap() {
        // Every pair of ranges in a small window, on top of one wide range.
        for (a, b, c, d) in (0..8u64).flat_map(|a| {
            (a..9).flat_map(move |b| (0..8u64).flat_map(move |c| (c..9).map(move |d| (a, b, c, d))))
        }) {
            let (base, first, second) = ([1u8; 10], [2u8; 10], [3u8; 10]);
            let mut overlay = Overlay::default();
            let mut expected = [1u8; 10];
            overlay.write(100, &base);
            overlay.write(100 + a, &first[..(b - a) as usize]);
            expected[a as usize..b as usize].fill(2);
            overlay.write(100 + c, &second[..(d - c) as usize]);
            expected[c as usize..d as usize].fill(3);
            assert_eq!(contents(&overlay, 100..110), expected, "{a}..{b} then {c}..{d}");
        }
    }

    #[test]
    fn runs_skip_zero_pages_and_merge_small_gaps() {
        let (one, zeros) = ([1u8; 10], vec![0u8; 1 << 20]);
        let mut overlay = Overlay::default();
        overlay.write(0x10_0000, &zeros);
        overlay.write(0x4000_0ffb, &one);
        overlay.write(0x4000_1fff + SMALL_GAP, &one);
        overlay.write(0x4010_0000, &one);
        assert_eq!(overlay.runs(RUNS_MAX), [0x4000_0000..0x4000_3000 + SMALL_GAP, 0x4010_0000..0x4010_1000]);
    }

    #[test]
    fn many_runs_become_few_and_keep_the_largest_gaps() {
        let one = [1u8];
        let mut overlay = Overlay::default();
        let mut address = 0;
        for i in 0..100u64 {
            address += 0x2_0000 + if i % 10 == 0 { 0x10_0000 } else { 0 };
            overlay.write(address, &one);
        }
        let one_run = 0x2_0000 + 0x10_0000..address + PAGE;
        assert_eq!(overlay.runs(1), std::slice::from_ref(&one_run));
        let runs = overlay.runs(RUNS_MAX);
        assert_eq!(runs.len(), RUNS_MAX);
        assert!(overlay.overlapping(&(0..u64::MAX)).all(|(at, _)| runs.iter().any(|run| run.contains(&at))));
        let large = runs.windows(2).filter(|pair| pair[1].start - pair[0].end > 0x10_0000).count();
        assert_eq!(large, 9);
    }
}
