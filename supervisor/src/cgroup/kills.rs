//! Which deaths are the memory controller's doing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// The kills for one tenant's limit of memory, each of which explains one death.
#[derive(Debug)]
pub(crate) struct Kills {
    /// `memory.events` of its leaf.
    events: File,
    explained: AtomicU64,
    /// Its limit, bytes.
    limit: u64,
}

impl Kills {
    /// Those from now on.
    pub(crate) fn new(events: File, limit: u64) -> Self {
        let kills = Self { events, explained: AtomicU64::new(0), limit };
        kills.explained.store(kills.count(), Ordering::Relaxed);
        kills
    }

    /// Takes a kill that no death has been explained by yet: the limit in bytes. `None`: there is none. Of deaths by SIGKILL that nobody
    /// here has sent, this tells those that the limit is the reason for. The kernel counts before it kills.
    pub(crate) fn explain(&self) -> Option<u64> {
        let count = self.count();
        let next = |explained: u64| (explained < count).then_some(explained + 1);
        self.explained.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok().map(|_| self.limit)
    }

    /// Kills so far: 0 if that cannot be read, as after the leaf's end.
    fn count(&self) -> u64 {
        let mut text = [0; 512];
        let length = self.events.read_at(&mut text, 0).unwrap_or(0);
        text.get(..length).and_then(|text| std::str::from_utf8(text).ok()).map_or(0, kills)
    }
}

/// From `memory.events`: `oom_kill` also counts what a host without memory has killed, `oom` how often this limit, and no other, was at its
/// end.
fn kills(events: &str) -> u64 {
    let field = |name: &str| {
        let line = events.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    field("oom").min(field("oom_kill"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(oom: u64, oom_kill: u64) -> String {
        format!("low 0\nhigh 7\nmax 90\noom {oom}\noom_kill {oom_kill}\noom_group_kill 0\n")
    }

    #[test]
    fn a_kill_explains_one_death() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memory.events");
        let write = |oom, oom_kill| std::fs::write(&path, events(oom, oom_kill)).unwrap();
        // What a leaf that is used again has counted before.
        write(2, 2);
        let kills = Kills::new(File::open(&path).unwrap(), 4096);
        assert_eq!(kills.explain(), None);
        write(4, 4);
        assert_eq!((kills.explain(), kills.explain(), kills.explain()), (Some(4096), Some(4096), None));
        // Killed by a host without memory: no limit of the tenant's was reached.
        write(4, 9);
        assert_eq!(kills.explain(), None);
        // Its limit was reached, but something else was killed for it.
        write(9, 4);
        assert_eq!(kills.explain(), None);
    }

    #[test]
    fn what_is_no_count_counts_nothing() {
        for text in [
            "",
            "oom",
            "oom 1",
            "oom_kill 1",
            "oom x\noom_kill 1",
            "oom -1\noom_kill 1",
            "oom_group_kill 3\nooms 4",
        ] {
            assert_eq!(kills(text), 0, "{text:?}");
        }
        assert_eq!(kills(&events(3, 2)), 2);
    }
}
