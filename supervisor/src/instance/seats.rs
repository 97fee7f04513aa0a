//! Seats of instances that are dead, made as good as new for later instances of the same zygote: of the same tenant, artifact
//! and filter. It spares the kernel a memory file, a mapping in two page tables and an eventfd per job.

use std::cell::RefCell;

use super::seat::{Process, Seat};
use crate::error::Error;

/// Seats that one zygote keeps at most. Each holds a few descriptors and [`HEAD_BYTES`](super::shared_memory::HEAD_BYTES).
const KEPT_MAX: usize = 64;

/// Seats whose processes were killed, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Seats(RefCell<Vec<(Seat, Process)>>);

impl Seats {
    /// A seat that nobody has, and whose memory is zero.
    pub(crate) fn take(&self) -> Result<Seat, Error> {
        let mut kept = self.0.borrow_mut();
        // Two looks, so that one process that is slow to die does not hold up the others.
        let dead = kept.iter().take(2).position(|(_, process)| process.is_gone());
        let used = dead.map(|index| kept.remove(index).0);
        match used {
            // Whatever stands against it, a new one will do.
            Some(seat) if seat.renew().is_ok() => Ok(seat),
            _ => Seat::new(),
        }
    }

    /// Takes back what is left of an instance, and kills that. A seat without a process is not for here: its zygote may still be
    /// about to fork one.
    pub(crate) fn give_back(&self, seat: Seat, process: Process) {
        process.kill();
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT_MAX {
            kept.push((seat, process));
        }
    }

    /// Gives up all.
    pub(crate) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}
