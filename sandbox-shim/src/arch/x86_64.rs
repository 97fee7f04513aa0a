//! x86-64: system calls, bulk copies, the stack switch, and what a signal frame looks like.

mod bulk;

use core::arch::{asm, naked_asm};
use core::ffi::c_void;

use ipc::context::ExceptionArena;

use crate::exceptions;

pub use bulk::{copy, fill};

/// Makes a system call. The result is as the kernel gives it: `-errno` on failure.
///
/// # Safety
/// As for the call that `number` names with these arguments.
#[inline(always)]
pub unsafe fn syscall(number: u32, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the caller vouches for the call; the kernel clobbers rcx and r11 and nothing else.
    unsafe {
        asm!("syscall", inlateout("rax") number as u64 => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// Runs `trampoline(code, values)` on the guest's stack and comes back.
///
/// The frame pointer is 0 there, which ends the chain that a backtrace walks.
///
/// # Safety
/// `trampoline` must be a trampoline of the mapped artifact and `code` the code it was made for, `values`
/// their values, and `stack_top` the 16-byte aligned top of a mapped stack that nothing uses.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn call_on_stack(
    trampoline: u64,
    code: u64,
    values: *mut [u64; 2],
    stack_top: u64,
) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "mov rbx, rsp",
        "mov rsp, rcx",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "xor ebp, ebp",
        "call rax",
        "mov rsp, rbx",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// [`exceptions::allocate`] for compiled code: registers that may hold references go to the stack first, where they are
/// looked for.
///
/// # Safety
/// Called by compiled code only, with the address of its arena and one of its tags.
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn exception_new(arena: *mut ExceptionArena, tag: u32) -> u64 {
    naked_asm!(
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov rdx, rsp",
        "call {allocate}",
        "add rsp, 40",
        "ret",
        allocate = sym exceptions::allocate,
    )
}

/// Continues at the handler of an exception, with the exception in `rax`; returns when it has none. Frame pointers are kept
/// by all guest code, so the caller's frame is where `rbp` points.
///
/// # Safety
/// Called by compiled code only, with the address of its arena and an exception in it.
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn exception_throw(arena: *const ExceptionArena, exception: u64) {
    // On the stack: the landing (24 bytes), the exception, 8 bytes for alignment, the return address.
    naked_asm!(
        "sub rsp, 40",
        "mov [rsp + 24], rsi",
        "mov rdx, [rsp + 40]",
        "mov rcx, rbp",
        "mov r8, rsp",
        "call {find}",
        "test al, al",
        "jz 2f",
        "mov rax, [rsp + 24]",
        "mov rcx, [rsp]",
        "mov rbp, [rsp + 16]",
        "mov rsp, [rsp + 8]",
        "jmp rcx",
        "2:",
        "add rsp, 40",
        "ret",
        find = sym exceptions::find,
    )
}

/// The stack pointer, somewhere in the calling function's frame.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// Leaves the stack that is in use for good and runs `f(argument)` on another. Registers and the processor's flags may be in
/// any state that Rust code can start from.
///
/// # Safety
/// `stack_top` must be the 16-byte aligned top of a mapped stack of which nothing below it is used any more.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn leave_for(
    argument: u64,
    stack_top: u64,
    f: unsafe extern "sysv64" fn(u64) -> !,
) -> ! {
    naked_asm!("mov rsp, rsi", "xor ebp, ebp", "call rdx", "ud2")
}

/// Touches the stack `BYTES` below: where a stack guard lies there, the fault happens here and now.
#[inline(always)]
pub fn probe_stack<const BYTES: usize>() {
    // SAFETY: a read whose result is ignored. It ends in mapped memory or, by design, in the guard of the stack.
    unsafe { asm!("test byte ptr [rsp - {bytes}], 0", bytes = const BYTES, options(readonly, nostack)) };
}

/// The registers of interrupted code that the shim looks at.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted {
    /// Program counter.
    pub pc: u64,
    /// Frame pointer.
    pub frame: u64,
    /// Stack pointer.
    pub stack: u64,
    /// Arguments of the system call that was refused, if it was one.
    pub syscall_args: [u64; 6],
}

// Offset of the general registers in `struct ucontext` and their order: arch/x86/include/uapi/asm/sigcontext.h
// (`struct sigcontext_64`) behind uc_flags, uc_link and uc_stack.
const REGISTERS: usize = 40;
const R8: usize = 0;
const R9: usize = 1;
const R10: usize = 2;
const RDI: usize = 8;
const RSI: usize = 9;
const RBP: usize = 10;
const RDX: usize = 12;
const RSP: usize = 15;
const RIP: usize = 16;

/// Reads the interrupted registers from the `ucontext` that the kernel passes to a signal handler.
///
/// # Safety
/// `ucontext` must be the third argument of a signal handler that was installed with `SA_SIGINFO`.
pub unsafe fn interrupted(ucontext: *const c_void) -> Interrupted {
    // SAFETY: by the contract the kernel wrote a `ucontext` there, which holds all 23 registers.
    let register =
        |index: usize| unsafe { ucontext.cast::<u8>().add(REGISTERS + 8 * index).cast::<u64>().read() };
    Interrupted {
        pc: register(RIP),
        frame: register(RBP),
        stack: register(RSP),
        syscall_args: [RDI, RSI, RDX, R10, R8, R9].map(register),
    }
}

/// Stops for good without a system call: the fallback when even ending failed.
pub fn abort() -> ! {
    // SAFETY: `ud2` raises SIGILL; nothing after it runs.
    unsafe { asm!("ud2", options(noreturn)) }
}

/// A hint that this is a spin loop.
pub fn relax() {
    core::hint::spin_loop();
}
