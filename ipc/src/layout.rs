//! The address space of an instance on x86-64.
//!
//! An instance owns its whole address space, so every region has a constant address: compiled code contains
//! addresses, not base registers. This is the one table; the compiler lays artifacts out by it, the zygote
//! maps by it, the supervisor checks artifacts against it, and the seccomp filter's address conditions come
//! from it. The zygote's own image is a static PIE and therefore always above [`MEMORIES_END`].
//!
//! | region | address |
//! | --- | --- |
//! | ring (shared), what every instance uses of it last | [`RING_BASE`] .. [`RING_END`] |
//! | the stack of zygote and shim | [`OWN_STACK_BASE`] .. [`OWN_STACK_TOP`] |
//! | call gate (unmapped before guest code), its landing page | [`GATE_PAGE`], [`GATE_LANDING`] |
//! | instance context: builtins, sizes, globals, tables | [`CONTEXT_BASE`] .. [`CONTEXT_END`] |
//! | code, then read-only data | [`CODE_BASE`] .. [`CODE_END`] |
//! | stack guard, guest stack | [`STACK_REGION_BASE`] .. [`STACK_TOP`] |
//! | linear memory 0 and its guard | [`MEMORY_BASE`] .. |
//! | further memories, [`MEMORY_STRIDE`] apart | .. [`MEMORIES_END`] |
//!
//! What every instance touches between the ring's end and the context's start lies in one block of 2 MiB, which one page of page
//! tables describes: each such page costs a fork, and the end of the process, about a microsecond.

/// Bytes in a page of the host.
pub const PAGE: u64 = 4096;

/// Start of the shared-memory ring. Nothing is mapped below it.
pub const RING_BASE: u64 = 0x00AE_F000;
/// End of the region that a ring may occupy.
pub const RING_END: u64 = 0x0100_8000;

/// Lowest address of the stack on which the zygote and, in an instance, the shim runs. The guest has its own.
pub const OWN_STACK_BASE: u64 = 0x0101_0000;
/// It grows down from here.
pub const OWN_STACK_TOP: u64 = 0x0102_0000;

/// The call gate: one page whose last two bytes are a `syscall` instruction. The seccomp filter lets the
/// zygote's own system calls pass only from there. A child unmaps it before it runs guest code.
pub const GATE_PAGE: u64 = 0x0102_8000;
/// Address of the gate's `syscall` instruction. It ends where the gate ends, so the instruction pointer that
/// seccomp sees ([`GATE_RETURN`]) lies on the landing page, and unmapping the gate through the gate returns.
pub const GATE_SYSCALL: u64 = GATE_PAGE + PAGE - 2;
/// The instruction pointer that identifies a system call made through the gate; a `ret` stands there.
pub const GATE_RETURN: u64 = GATE_PAGE + PAGE;
/// The page behind the gate, which stays mapped.
pub const GATE_LANDING: u64 = GATE_RETURN;

/// Start of the instance context, see [`crate::context`].
pub const CONTEXT_BASE: u64 = 0x0103_0000;
/// End of the region for context, globals and function tables.
pub const CONTEXT_END: u64 = 0x0F00_0000;

/// Start of compiled code; read-only data follows it.
pub const CODE_BASE: u64 = 0x1000_0000;
/// End of the region for code and read-only data.
pub const CODE_END: u64 = 0x3800_0000;

/// Start of the region that holds the guest stack; what the stack does not use is never mapped.
pub const STACK_REGION_BASE: u64 = 0x3800_0000;
/// The guest stack grows down from here.
pub const STACK_TOP: u64 = 0x3FFF_0000;
/// Bytes that stay unmapped below the lowest usable stack page. Frames larger than this are probed.
pub const STACK_GUARD: u64 = 0x10_0000;
/// Largest guest stack that the region can hold, in bytes.
pub const STACK_MAX: u64 = STACK_TOP - STACK_REGION_BASE - STACK_GUARD;
/// Guest stack when a policy says nothing, in bytes.
pub const STACK_DEFAULT: u64 = 8 << 20;

/// Base of linear memory 0. `MEMORY_BASE + offset < 2^31` folds into an addressing mode.
pub const MEMORY_BASE: u64 = 0x4000_0000;
/// Address space that one memory occupies, reserved without access. For a 32-bit memory every index plus every
/// offset plus the widest access lies inside; for a 64-bit one every index that compiled code lets through, plus
/// [`MEMORY_GUARD`].
pub const MEMORY_RESERVED: u64 = (8 << 30) + 0x1_0000;
/// Bytes that a 64-bit memory can have at most.
pub const MEMORY_MAX: u64 = 8 << 30;
/// Bytes of a reservation that no memory can grow into.
pub const MEMORY_GUARD: u64 = MEMORY_RESERVED - MEMORY_MAX;
/// Distance between the bases of consecutive memories: a growth by at most [`MEMORY_MAX`] that begins below that many
/// bytes cannot reach the next memory.
pub const MEMORY_STRIDE: u64 = 0x4_0000_0000;
/// How many memories a module may have.
pub const MEMORIES_MAX: u64 = 64;
/// End of the last memory's reservation.
pub const MEMORIES_END: u64 = MEMORY_BASE + MEMORIES_MAX * MEMORY_STRIDE;
/// Bytes in a page of WebAssembly memory.
pub const WASM_PAGE: u64 = 0x1_0000;

/// Base address of linear memory number `index`.
pub const fn memory_base(index: u32) -> u64 {
    MEMORY_BASE + index as u64 * MEMORY_STRIDE
}

/// The descriptor of the doorbell, the only one that an instance has unless its policy has file data go directly.
pub const DOORBELL_FD: i32 = 3;
/// The first of the descriptors of files that an instance may have otherwise. With the lowest numbers they fit the table of 64
/// that every process has.
pub const DIRECT_FD: i32 = DOORBELL_FD + 1;
/// How many of them there are.
pub const DIRECT_FDS: i32 = 60;

const _: () = {
    assert!(GATE_SYSCALL + 2 == GATE_LANDING);
    // With a page at least between them that nobody can touch.
    assert!(RING_END + PAGE <= OWN_STACK_BASE && OWN_STACK_TOP + PAGE <= GATE_PAGE);
    assert!(GATE_LANDING + 2 * PAGE <= CONTEXT_BASE && CONTEXT_END <= CODE_BASE);
    assert!(CODE_END <= STACK_REGION_BASE && STACK_TOP <= MEMORY_BASE);
    assert!(MEMORY_RESERVED <= MEMORY_STRIDE && 2 * MEMORY_MAX <= MEMORY_STRIDE);
    assert!(2 * (u32::MAX as u64) + 16 < MEMORY_RESERVED);
};
