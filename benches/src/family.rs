//! The processes below this one.

use std::collections::BTreeMap;
use std::fs;

/// All processes below one, its children first.
pub fn below(pid: i32) -> Vec<i32> {
    let mut parents = parents();
    let mut all = parents.remove(&pid).unwrap_or_default();
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        all.extend(parents.remove(pid).unwrap_or_default());
        next += 1;
    }
    all
}

/// Every process by its parent.
fn parents() -> BTreeMap<i32, Vec<i32>> {
    let mut parents = BTreeMap::<i32, Vec<i32>>::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // proc_pid_stat(5): the parent is the second field after the name.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parents.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    parents
}

/// Zygotes and instances below this process.
#[derive(Default)]
pub struct Family {
    /// Root zygotes.
    pub roots: Vec<i32>,
    /// Module zygotes.
    pub modules: Vec<i32>,
    /// Instances, parked or not.
    pub instances: Vec<i32>,
}

impl Family {
    /// Those that live now.
    pub fn now() -> Self {
        let mut parents = parents();
        let mut next = |pids: &[i32]| -> Vec<i32> {
            let children = pids.iter().flat_map(|pid| parents.remove(pid).unwrap_or_default());
            children.filter(|pid| name(*pid) == "sandbox-zygote").collect()
        };
        let roots = next(&[std::process::id() as i32]);
        let modules = next(&roots);
        let instances = next(&modules);
        Self { roots, modules, instances }
    }
}

fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}
