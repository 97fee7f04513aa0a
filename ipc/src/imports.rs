//! What the host side provides for the imports of one instance, beyond the functions of the interface table.
//!
//! Values of globals and sizes of memories and tables are [`Record`]s at the start of the arena
//! ([`crate::job::ARENA_OFFSET`]), which the instance takes over before any guest code runs. Functions are called over the
//! ring: a [`crate::ring::Submission`] whose function is [`FUNCTIONS`] plus the import's number, with one range of the arena
//! that holds the parameters, [`SLOT`] bytes each, and receives the results. The completion's error number is 0 if it did.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::job::ARENA_BYTES;

/// Number of the first imported function on the ring. Functions of the interface table have lower ones.
pub const FUNCTIONS: u32 = 0x1_0000;

/// Imported functions that a module can have.
pub const FUNCTIONS_MAX: u32 = 0x100_0000;

/// Bytes of one value.
pub const SLOT: usize = 16;

/// Parameters or results of one function at most.
pub const VALUES_MAX: usize = 1024;

/// Records at most.
pub const RECORDS_MAX: usize = ARENA_BYTES / size_of::<Record>();

/// One imported global, memory or table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Record {
    /// One of [`kind`].
    pub kind: u64,
    /// Address of the value or of the descriptor.
    pub address: u64,
    /// The value; or how many pages or entries to add, and the maximum in bytes or entries.
    pub words: [u64; 2],
}

/// Kinds of [`Record`]s.
pub mod kind {
    /// A global of 8 bytes.
    pub const GLOBAL: u64 = 1;
    /// A global of 16 bytes.
    pub const WIDE_GLOBAL: u64 = 2;
    /// A memory.
    pub const MEMORY: u64 = 3;
    /// A table.
    pub const TABLE: u64 = 4;
}

const _: () = {
    assert!(FUNCTIONS as usize > crate::interface::FUNCTIONS.len());
    assert!(FUNCTIONS + FUNCTIONS_MAX < crate::session::REPLY);
    assert!(VALUES_MAX * SLOT <= ARENA_BYTES);
};
