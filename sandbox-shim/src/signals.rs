//! Faults and refused system calls.
//!
//! The handler records what happened and ends the process, or, after a fault of guest code in a session, abandons what it
//! interrupted and goes on with the session. It never returns to the guest, so `rt_sigreturn` is not among the allowed
//! calls, and nothing can change the signal mask: that is why faults do not block themselves ([`action`]). It takes no lock and touches only the shared memory, the context and the
//! registers that the kernel saved. What it records is a description for the report: the supervisor checks the
//! trap site against its own copy of the artifact, and the kernel's wait status tells a refused call (SIGSYS)
//! from everything else.

use core::ffi::c_void;

use ipc::job::{BACKTRACE_MAX, exit_kind};
use ipc::layout::{CODE_BASE, CODE_END, STACK_REGION_BASE, STACK_TOP};
use linux_raw_sys::general::{
    SA_NODEFER, SA_ONSTACK, SA_RESTORER, SA_SIGINFO, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP,
    kernel_sigaction, kernel_sigset_t, stack_t,
};

use crate::{arch, entry, session};

/// Signals that [`action`] is for.
pub const HANDLED: [u32; 6] = [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS];

/// Bytes of the signal stack. The kernel needs up to about 11 KiB for the widest register files (AMX).
const STACK_BYTES: usize = 64 << 10;

#[repr(C, align(64))]
struct SignalStack(core::cell::UnsafeCell<[u8; STACK_BYTES]>);

// SAFETY: only the kernel and the handler running on it use the stack, in a process with one thread.
unsafe impl Sync for SignalStack {}

// Among the initialised data, although it is zero: memory for what is not would be a mapping of its own, which every fork copies.
#[unsafe(link_section = ".data")]
static STACK: SignalStack = SignalStack(core::cell::UnsafeCell::new([0; STACK_BYTES]));

/// The signal stack, for `sigaltstack`. A forked child inherits the setting and its own copy of the bytes.
pub fn stack() -> stack_t {
    stack_t { ss_sp: STACK.0.get().cast(), ss_flags: 0, ss_size: STACK_BYTES as u64 }
}

/// Signals that a trap of guest code raises.
const FAULTS: [u32; 4] = [SIGSEGV, SIGBUS, SIGILL, SIGFPE];

/// The action to install for one of [`HANDLED`].
///
/// Faults block nothing while the handler runs, because in a session it does not end: a blocked fault would kill at the
/// next trap. One inside the handler comes back to it, which ends the process then. For the other signals everything is
/// blocked: a second refused call kills.
pub fn action(signal: u32) -> kernel_sigaction {
    let (mask, deferral) = if FAULTS.contains(&signal) { (0, SA_NODEFER) } else { (u64::MAX, 0) };
    type Handler = unsafe extern "C" fn(i32, *const c_void, *const c_void) -> !;
    type Declared = unsafe extern "C" fn(i32);
    kernel_sigaction {
        // SAFETY: the field's type is that of a handler without SA_SIGINFO; with that flag the kernel passes all
        // three arguments.
        sa_handler_kernel: Some(unsafe { core::mem::transmute::<Handler, Declared>(on_signal) }),
        sa_flags: (SA_SIGINFO | SA_ONSTACK | SA_RESTORER | deferral).into(),
        sa_restorer: Some(restorer),
        sa_mask: kernel_sigset_t { sig: [mask; 1] },
    }
}

unsafe extern "C" fn restorer() {
    arch::abort();
}

/// Offsets in `siginfo_t` (include/uapi/asm-generic/siginfo.h) on 64-bit hosts.
mod siginfo {
    pub const ADDRESS: usize = 16;
    pub const CALL_ADDRESS: usize = 16;
    pub const SYSCALL: usize = 24;
    pub const ARCH: usize = 28;
}

unsafe extern "C" fn on_signal(signal: i32, info: *const c_void, ucontext: *const c_void) -> ! {
    // SAFETY: these are the arguments of an SA_SIGINFO handler.
    let interrupted = unsafe { arch::interrupted(ucontext) };
    let record = entry::record();
    let info = info.cast::<u8>();
    // SAFETY: the exit record is part of the mapped ring; `info` is a siginfo_t of 128 bytes.
    unsafe {
        (*record).signal = signal as u32;
        if signal as u32 == SIGSYS {
            (*record).pc = info.add(siginfo::CALL_ADDRESS).cast::<u64>().read();
            (*record).syscall = u64::from(info.add(siginfo::SYSCALL).cast::<u32>().read());
            (*record).arch = info.add(siginfo::ARCH).cast::<u32>().read();
            (*record).syscall_args = interrupted.syscall_args;
            (*record).kind = exit_kind::SYSCALL;
        } else {
            (*record).pc = interrupted.pc;
            (*record).address = info.add(siginfo::ADDRESS).cast::<u64>().read();
            (*record).kind = exit_kind::FAULT;
        }
    }
    let nested = is_signal_stack(interrupted.stack);
    if nested && signal as u32 != SIGSYS {
        // The shim's own fault, in this very handler: whatever it was doing is not worth another try.
        entry::end(134);
    }
    backtrace(interrupted.frame);
    entry::record_usage();
    if signal as u32 == SIGSYS {
        // No policy allows this number. SIGSYS is blocked here, so the kernel kills the process with it, and the
        // wait status tells the supervisor what happened whatever is in the record.
        // SAFETY: refused by the filter before it does anything.
        unsafe { arch::syscall(NO_SUCH_CALL, [0; 6]) };
    }
    // SAFETY: as above.
    let address = unsafe { info.add(siginfo::ADDRESS).cast::<u64>().read() };
    if session::is_running() && is_trap(signal as u32, interrupted.pc, address) {
        // SAFETY: what was interrupted is guest code, or ran out of stack at the start of a function that it called.
        unsafe { session::resume() }
    }
    entry::end(134)
}

/// Whether a fault may be a trap of guest code: it happened there, or in the guard of the guest's stack. The supervisor tells
/// whether it is one.
fn is_trap(signal: u32, pc: u64, address: u64) -> bool {
    let in_guard = (STACK_REGION_BASE..STACK_TOP).contains(&address) && !is_mapped_stack(address);
    FAULTS.contains(&signal) && (CODE_BASE..CODE_END).contains(&pc) || signal == SIGSEGV && in_guard
}

/// Whether an address is on the signal stack.
fn is_signal_stack(address: u64) -> bool {
    let start = STACK.0.get() as u64;
    (start..=start + STACK_BYTES as u64).contains(&address)
}

/// A system call number that no kernel has and no policy can name.
const NO_SUCH_CALL: u32 = 0x3fff_ffff;

/// Follows the frame pointers of the guest stack. Every address is checked before it is read: after a fault the
/// chain may lead anywhere.
fn backtrace(mut frame: u64) {
    let record = entry::record();
    let mut count = 0;
    while count < BACKTRACE_MAX && is_stack_frame(frame) {
        // SAFETY: two words inside the mapped part of the guest stack.
        let (next, return_address) =
            unsafe { ((frame as *const u64).read(), (frame as *const u64).add(1).read()) };
        if !(CODE_BASE..CODE_END).contains(&return_address) {
            break;
        }
        // SAFETY: `count` is inside the array of the exit record in the mapped ring.
        unsafe { (*record).backtrace[count] = return_address };
        count += 1;
        if next <= frame {
            break;
        }
        frame = next;
    }
    // SAFETY: as above.
    unsafe { (*record).backtrace_len = count as u64 };
}

/// Whether the two words at `frame` are in the mapped guest stack.
pub(crate) fn is_stack_frame(frame: u64) -> bool {
    frame.is_multiple_of(8) && (STACK_REGION_BASE..STACK_TOP - 8).contains(&frame) && is_mapped_stack(frame)
}

/// Whether the stack page of `frame` is mapped: the zygote tells where the stack begins.
fn is_mapped_stack(frame: u64) -> bool {
    // SAFETY: a plain word in this image, written once before any guest exists.
    frame >= unsafe { STACK_BOTTOM.0.get().read() }
}

struct StackBottom(core::cell::UnsafeCell<u64>);
// SAFETY: written by the zygote before it forks, read afterwards; one thread.
unsafe impl Sync for StackBottom {}
static STACK_BOTTOM: StackBottom = StackBottom(core::cell::UnsafeCell::new(u64::MAX));

/// Tells where the mapped guest stack begins. Called once, by the zygote, before it forks.
pub fn set_stack_bottom(address: u64) {
    // SAFETY: one thread; no reader yet.
    unsafe { STACK_BOTTOM.0.get().write(address) };
}
