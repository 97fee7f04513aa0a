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
/// Offset of the first byte that the compiler may use: memory descriptors, then table descriptors, then the
/// lengths of passive segments, then globals.
pub const COMPILER_OFFSET: u64 = 0x100;

/// Address of [`Builtins`].
pub const BUILTINS: u64 = CONTEXT_BASE + BUILTINS_OFFSET;
/// Address of the fuel that is left.
pub const FUEL: u64 = CONTEXT_BASE + FUEL_OFFSET;
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
    assert!(size_of::<Builtins>() as u64 <= MEMORY_LIMIT_OFFSET);
    assert!(FUEL_OFFSET + 8 <= COMPILER_OFFSET);
};
