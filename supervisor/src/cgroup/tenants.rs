//! Leaves that are in use: which tenants have one, and when it goes.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::CgroupError;
use super::tree::{self, Lock, Tree};
use crate::instance::has_ended;
use crate::pidfd::process_id;

/// The leaves of one supervisor. Dropping it removes them, with everything that still runs in them.
#[derive(Debug)]
pub(crate) struct Tenants {
    tree: Tree,
    leaves: Mutex<Leaves>,
    /// Where this process itself holds it.
    _lock: Option<Lock>,
}

#[derive(Debug, Default)]
struct Leaves {
    /// By name.
    used: HashMap<String, Leaf>,
    /// Leaves without a zygote that could not be removed at once.
    left: Vec<PathBuf>,
    /// Leaves that there have been.
    count: u64,
}

#[derive(Debug)]
struct Leaf {
    /// Module zygotes in it.
    zygotes: usize,
    number: u64,
}

/// A module zygote in its tenant's leaf. To be dropped when it has ended: with the last one the leaf goes.
#[derive(Debug)]
pub(crate) struct Placed {
    tenants: Arc<Tenants>,
    name: String,
    /// Which leaf this is among all that there have been.
    pub(crate) number: u64,
    /// What the memory controller has counted, `memory.events`; only where it limits.
    pub(crate) events: Option<File>,
}

impl Tenants {
    pub(crate) fn new(tree: Tree, lock: Option<Lock>) -> Arc<Self> {
        Arc::new(Self { tree, leaves: Mutex::default(), _lock: lock })
    }

    fn leaves(&self) -> MutexGuard<'_, Leaves> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a process into a leaf, see [`tree::leaf_name`]. Whatever it forks from then on is in it, too.
    ///
    /// The kernel takes a number. The descriptor says whose it is: a process that lives after the move has had its number all the time.
    pub(crate) fn place(self: &Arc<Self>, name: &str, pidfd: BorrowedFd<'_>) -> Result<Placed, CgroupError> {
        let mut leaves = self.leaves();
        leaves.remove_left();
        let path = self.tree.leaf(name);
        if !leaves.used.contains_key(name) {
            self.tree.make_leaf(name)?;
            leaves.left.retain(|left| *left != path);
            leaves.count += 1;
            let leaf = Leaf { zygotes: 0, number: leaves.count };
            leaves.used.insert(name.to_owned(), leaf);
        }
        let Some(leaf) = leaves.used.get_mut(name) else { return Err(CgroupError::NoProcess { leaf: path }) };
        leaf.zygotes += 1;
        let number = leaf.number;
        drop(leaves);
        // From here on its destructor counts it off, whatever fails.
        let mut placed = Placed { tenants: Arc::clone(self), name: name.to_owned(), number, events: None };
        let gone = || CgroupError::NoProcess { leaf: path.clone() };
        let process = process_id(pidfd).and_then(|id| u32::try_from(id).ok()).filter(|id| *id > 0);
        let moved = tree::move_process(&path, process.ok_or_else(gone)?);
        if has_ended(pidfd) {
            return Err(gone());
        }
        moved?;
        if self.tree.limits_memory() {
            let events = path.join("memory.events");
            placed.events = Some(File::open(&events).map_err(CgroupError::step(
                super::error::Step::Other,
                "open",
                &events,
            ))?);
        }
        Ok(placed)
    }
}

impl Leaves {
    /// Tries again what could not be removed.
    fn remove_left(&mut self) {
        self.left.retain(|leaf| !tree::remove_leaf(leaf));
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let mut leaves = self.tenants.leaves();
        let Some(leaf) = leaves.used.get_mut(&self.name) else { return };
        leaf.zygotes -= 1;
        if leaf.zygotes == 0 {
            leaves.used.remove(&self.name);
            leaves.left.push(self.tenants.tree.leaf(&self.name));
        }
        leaves.remove_left();
    }
}

impl Drop for Tenants {
    fn drop(&mut self) {
        self.tree.remove();
    }
}
