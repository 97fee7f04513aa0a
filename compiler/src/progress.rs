//! How far a compilation is.

use std::sync::atomic::{AtomicU64, Ordering};

/// Told the functions that are compiled, and how many there are to compile. Called from the threads that compile, so a
/// number may come after a larger one.
pub type Report<'r> = &'r (dyn Fn(u64, u64) + Sync);

/// About how often a whole compilation reports: telling must cost nothing, whatever the module.
const REPORTS: u64 = 256;

/// Counts functions and reports some of the counts.
pub(crate) struct Progress<'r> {
    total: u64,
    done: AtomicU64,
    report: Report<'r>,
}

impl<'r> Progress<'r> {
    pub(crate) fn begin(total: usize, report: Report<'r>) -> Self {
        let total = total as u64;
        report(0, total);
        Progress { total, done: AtomicU64::new(0), report }
    }

    /// One function more.
    pub(crate) fn step(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of((self.total / REPORTS).max(1)) {
            (self.report)(done, self.total);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn reports_are_few() {
        for (total, most) in [(0, 1), (3, 4), (1_000_000, REPORTS + 2)] {
            let seen = Mutex::new(Vec::new());
            let report = |done, total| seen.lock().unwrap().push((done, total));
            let progress = Progress::begin(total, &report);
            (0..total).for_each(|_| progress.step());
            let seen = seen.into_inner().unwrap();
            assert!(seen.len() as u64 <= most, "{total}: {}", seen.len());
            assert_eq!(seen.first(), Some(&(0, total as u64)));
            assert!(seen.is_sorted() && seen.iter().all(|(_, of)| *of == total as u64));
        }
    }
}
