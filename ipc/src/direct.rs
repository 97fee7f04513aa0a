//! How an instance gets descriptors of files, where its policy has file data go directly.
//!
//! It makes one system call (`sched_yield`, which would do nothing), which its seccomp filter hands over to the supervisor (`SECCOMP_RET_USER_NOTIF`,
//! seccomp_unotify(2)): what is asked for is in the arguments, and while the call waits the supervisor can put a descriptor
//! into the process, at a number of its own choice. It puts back what must not stay there by putting the doorbell in its place. So the
//! supervisor always knows what an instance has, and no call that receives, moves or closes descriptors is needed.
//!
//! The answer to both requests is the number of the descriptor ([`descriptor`]); anything else means no.

use crate::layout::{DIRECT_FD, DIRECT_FDS};

/// The first argument.
pub mod ask {
    /// For the file of the guest's descriptor that the second argument names, in the slot that the third one names.
    pub const FILE: u64 = 1;
    /// To take back what is in the slot that the third argument names.
    pub const RETURN: u64 = 2;
}

/// Slots that an instance has for files.
pub const SLOTS: usize = DIRECT_FDS as usize;

/// The number of the descriptor of a slot.
pub const fn descriptor(slot: usize) -> Option<i32> {
    if slot < SLOTS { Some(DIRECT_FD + slot as i32) } else { None }
}
