//! The instance context: the first pages of the region at [`crate::layout::CONTEXT_BASE`].
//!
//! The compiler places the context's parts and writes their initial contents into the artifact; the zygote
//! fills in the addresses of the shim's builtins once per module; compiled code reads and writes it by
//! constant address.

use crate::layout::CONTEXT_BASE;

/// Addresses of the shim's functions that compiled code calls, at [`CONTEXT_BASE`]. All use the System V
/// calling convention. Each entry is one `u64`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Builtins {
    /// `fn(function: u32, frame: *mut u64)`: a host call. `function` is a [`crate::interface::FunctionId`];
    /// `frame` holds one `u64` per parameter (narrower values zero-extended) and receives one per result.
    pub host_call: u64,
    /// `fn(memory: *mut MemoryDescriptor, delta: u64) -> u64`: grows by `delta` WebAssembly pages; the old
    /// size in pages, or `u64::MAX`.
    pub memory_grow: u64,
    /// `fn(table: *mut TableDescriptor, delta: u64) -> u64`: grows by `delta` null entries; the old size in
    /// entries, or `u64::MAX`.
    pub table_grow: u64,
    /// `fn(to: *mut u8, from: *const u8, bytes: u64)`: a move of possibly overlapping bytes, bounds already checked.
    pub copy: u64,
    /// `fn(to: *mut u8, byte: u32, bytes: u64)`: bounds already checked.
    pub fill: u64,
    /// `fn(arena: *mut ExceptionArena, tag: u32) -> u64`: the address of a fresh exception, or 0 when the arena is full of
    /// exceptions that are still referred to.
    pub exception_new: u64,
    /// `fn(arena: *const ExceptionArena, exception: u64)`: continues at the handler of the exception; returns when it has none.
    pub exception_throw: u64,
    /// `fn(number: u32, frame: *mut [u64; 2], params: u32, results: u32) -> u32`: a call of the import with this number, which the
    /// host side provides. `frame` holds a slot per parameter and receives one per result, unless what is returned is not 0.
    pub import_call: u64,
}

/// Offset in the context of the builtins.
pub const BUILTINS_OFFSET: u64 = 0;
/// Offset in the context of the job's memory limit: bytes, `u64`, over all memories; written by the shim.
pub const MEMORY_LIMIT_OFFSET: u64 = 0x80;
/// Offset in the context of the number of refused growths: `u64`, counted by the shim.
pub const REFUSED_GROWS_OFFSET: u64 = 0x88;
/// Offset in the context of the bytes that all memories together have: `u64`, kept by the shim.
pub const MEMORY_TOTAL_OFFSET: u64 = 0x90;
/// Offset in the context of the fuel that is left: `i64`, below zero when more was used than there was. Written by the shim at
/// the start, counted down by code that was compiled with fuel.
pub const FUEL_OFFSET: u64 = 0x98;
/// Offset in the context of what the guest has asked for that is not the same every time: `u64`, bits of [`asked`], kept by the
/// shim.
pub const ASKED_OFFSET: u64 = 0xA0;
/// Offset of the first byte that the compiler may use: memory descriptors, then table descriptors, then the
/// lengths of passive segments, then globals.
pub const COMPILER_OFFSET: u64 = 0x100;

/// Bits of what a guest asks for that its module, arguments and environment do not decide.
pub mod asked {
    /// The time of a clock, or to wait until one.
    pub const TIME: u64 = 1;
    /// Random bytes.
    pub const RANDOM: u64 = 2;
    /// Files, directories and streams: what is in them, or what they are.
    pub const FILES: u64 = 4;
    /// A function of the host app.
    pub const HOST_FUNCTIONS: u64 = 8;
}

/// Address of [`Builtins`].
pub const BUILTINS: u64 = CONTEXT_BASE + BUILTINS_OFFSET;
/// Address of the fuel that is left.
pub const FUEL: u64 = CONTEXT_BASE + FUEL_OFFSET;
/// Address of what the guest has asked for.
pub const ASKED: u64 = CONTEXT_BASE + ASKED_OFFSET;
/// Address of the first byte that the compiler may use.
pub const COMPILER_BASE: u64 = CONTEXT_BASE + COMPILER_OFFSET;

/// One linear memory, as compiled code and the shim see it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryDescriptor {
    /// Address of byte 0.
    pub base: u64,
    /// Current size in bytes.
    pub bytes: u64,
    /// Size in bytes that it may not exceed (its declared or natural maximum).
    pub max_bytes: u64,
    /// Zero.
    pub reserved: u64,
}

/// One table, as compiled code and the shim see it. The entries from `size` to `max` are mapped and zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TableDescriptor {
    /// Address of entry 0.
    pub base: u64,
    /// Current size in entries.
    pub size: u64,
    /// Size in entries that it may not exceed.
    pub max: u64,
    /// Zero.
    pub reserved: u64,
}

/// The exceptions of an instance, as compiled code and the shim see them: slots of one size, of which the first
/// [`ExceptionHeader`] says what it is, and 16 bytes for each value that it carries follow.
///
/// The handlers are [`ExceptionSite`]s, ascending by return address, then [`ExceptionClause`]s.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ExceptionArena {
    /// Address of slot 0.
    pub base: u64,
    /// Bytes of one slot, a multiple of 16.
    pub slot_bytes: u64,
    /// Number of slots.
    pub capacity: u64,
    /// Slots that were used so far; those from here on are zero.
    pub used: u64,
    /// Slots that may be used before unreachable exceptions are looked for; 0 at first.
    pub limit: u64,
    /// Address of the first free slot below `used`, or 0.
    pub free: u64,
    /// Address of the first `exnref` global; the others follow.
    pub globals: u64,
    /// Number of `exnref` globals.
    pub globals_count: u64,
    /// Address of the addresses of the [`TableDescriptor`]s of `exnref` tables.
    pub tables: u64,
    /// Number of `exnref` tables.
    pub tables_count: u64,
    /// Address of the sites.
    pub sites: u64,
    /// Number of sites.
    pub sites_count: u64,
}

/// What an exception begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ExceptionHeader {
    /// Index of its tag.
    pub tag: u32,
    /// The shim's mark while it looks for reachable exceptions.
    pub mark: u32,
    /// Address of the next free or marked slot; 0 ends the list.
    pub next: u64,
}

/// A call with handlers. Code addresses are offsets from [`crate::layout::CODE_BASE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExceptionSite {
    /// The address that the call returns to.
    pub return_address: u32,
    /// Bytes from the stack pointer at the call up to the frame pointer.
    pub frame_offset: u32,
    /// Index of its first clause.
    pub first: u32,
    /// Number of its clauses; the first one that matches is taken.
    pub count: u32,
}

/// A handler of a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExceptionClause {
    /// The tag it is for, or [`CATCH_ALL`].
    pub tag: u32,
    /// Its code.
    pub handler: u32,
}

/// The tag of a clause that matches every exception.
pub const CATCH_ALL: u32 = u32::MAX;
/// Where an exception's first value is.
pub const EXCEPTION_VALUES: u64 = size_of::<ExceptionHeader>() as u64;
/// Bytes for each value of an exception.
pub const EXCEPTION_VALUE: u64 = 16;

/// A table entry, and the descriptor of a function that a reference can name. All zero is the null reference.
///
/// A `funcref` value is the index of a `TableEntry` in the artifact's array of function descriptors, whose
/// entry 0 is null; so storing a reference into a table copies 16 bytes. In a table of `externref`, `code`
/// is the reference and the rest is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableEntry {
    /// Address of the function's code.
    pub code: u64,
    /// Signature id, unique per structurally equal function type of the module; 0 only in null.
    pub signature: u32,
    /// The reference value itself (index into the array of function descriptors).
    pub reference: u32,
}

const _: () = {
    assert!(size_of::<TableEntry>() == 16);
    assert!(size_of::<ExceptionHeader>() == 16 && size_of::<ExceptionSite>() == 16);
    assert!(size_of::<ExceptionClause>() == 8);
    assert!(size_of::<Builtins>() as u64 <= MEMORY_LIMIT_OFFSET);
    assert!(FUEL_OFFSET + 8 <= ASKED_OFFSET && ASKED_OFFSET + 8 <= COMPILER_OFFSET);
};
