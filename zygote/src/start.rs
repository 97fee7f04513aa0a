//! The process's first instructions. Only the binary has them: a program with a C runtime brings its own.

#[cfg(target_arch = "x86_64")]
use core::arch::naked_asm;

/// The entry point: passes the initial stack, the load address and the dynamic section on.
///
/// # Safety
/// Called by the kernel only.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "xor ebp, ebp",
        "mov rdi, rsp",
        "lea rsi, [rip + __ehdr_start]",
        "lea rdx, [rip + _DYNAMIC]",
        "and rsp, -16",
        "call {start}",
        "ud2",
        start = sym crate::runtime::start,
    )
}
