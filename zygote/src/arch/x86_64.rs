//! x86-64: calls through the gate, and relocation.

use core::arch::{asm, naked_asm};

use ipc::layout::GATE_SYSCALL;

/// The gate's instructions: `syscall`, the last two bytes of the gate page …
pub const GATE_CODE: [u8; 2] = [0x0f, 0x05];
/// … and `ret`, the first byte of the landing page.
pub const LANDING_CODE: [u8; 1] = [0xc3];

/// The relocation type of a static PIE: `*(base + offset) = base + addend`.
pub const RELATIVE_RELOCATION: u64 = 8;

/// Makes a system call through the call gate.
///
/// # Safety
/// The gate must be mapped; otherwise as for the call itself.
pub unsafe fn gate_call(number: u32, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the gate is `syscall; ret`. Besides what the kernel clobbers, the call uses 8 bytes of stack, which
    // `asm!` without `nostack` accounts for.
    unsafe {
        asm!("call {gate}", gate = in(reg) GATE_SYSCALL, inlateout("rax") number as u64 => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _);
    }
    result
}

/// Writes to memory without changing it: `lock add` of 0, which the processor takes for a write.
///
/// # Safety
/// Eight bytes at `place`, a multiple of 8, are mapped, readable and writable, and nobody else refers to them.
pub unsafe fn write_nothing(place: *mut u64) {
    // SAFETY: by the contract.
    unsafe { asm!("lock add qword ptr [{}], 0", in(reg) place, options(nostack)) };
}

/// Goes on at `next`, with `first` and `second`, on another stack.
///
/// # Safety
/// `stack_top` is the 16-byte aligned top of a mapped stack that nothing uses.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn go_on(
    first: u64,
    second: u64,
    stack_top: u64,
    next: unsafe extern "sysv64" fn(u64, u64) -> !,
) -> ! {
    naked_asm!("mov rsp, rdx", "xor ebp, ebp", "call rcx", "ud2")
}
