//! What a C runtime would do: relocation, the memory functions that compiled code refers to, and panics.

use core::ffi::{c_char, c_int, c_void};
use core::slice;

use ipc::control::Step;
use ipc::layout::{OWN_STACK_BASE, OWN_STACK_TOP};
use linux_raw_sys::auxvec::{AT_EXECFN, AT_NULL, AT_PHDR, AT_PHNUM, AT_SYSINFO_EHDR};
use linux_raw_sys::general::{
    __NR_mprotect, MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE,
};

use crate::{arch, root, sys};

/// The first Rust code of the process.
///
/// # Safety
/// Called by `_start` with the initial stack (argument count, arguments, environment, auxiliary vector), the
/// load address and the dynamic section of this image.
pub unsafe extern "C" fn start(stack: *const u64, base: u64, dynamic: *const [u64; 2]) -> ! {
    // SAFETY: by the contract; nothing before this line needed a relocation.
    unsafe { relocate(base, dynamic) };
    // SAFETY: by the contract the vectors lie above the argument count, each ended by a zero.
    let auxiliary = unsafe { Auxiliary::find(stack) };
    // SAFETY: relocation is over, so the region can become read-only; AT_PHDR is this image's.
    unsafe { protect_relocated(base, &auxiliary) };
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    // SAFETY: the region is reserved for this stack by the layout; nothing is mapped there yet.
    let mapped = unsafe {
        sys::map(OWN_STACK_BASE, OWN_STACK_TOP - OWN_STACK_BASE, PROT_READ | PROT_WRITE, flags, -1, 0)
    };
    if mapped.is_err() {
        // The supervisor sees this process die.
        sys::exit(Step::MapStack as i32);
    }
    // SAFETY: the stack was just mapped.
    unsafe { arch::go_on(auxiliary.vdso, auxiliary.stack_end(), OWN_STACK_TOP, run) }
}

/// The rest of the process's life, on its own stack. The kernel's, with what an exec puts there, goes: it has page tables of its
/// own, which every fork would copy.
///
/// # Safety
/// `stack_end` is the end of the kernel's stack, to which nothing refers any more, or 0.
unsafe extern "sysv64" fn run(vdso: u64, stack_end: u64) -> ! {
    /// The kernel's stack is smaller, and nothing else is so close below it (`mmap_base` in arch/x86/mm/mmap.c).
    const STACK_BYTES: u64 = 1 << 20;
    if let Some(start) = stack_end.checked_sub(STACK_BYTES) {
        // Best effort: nothing depends on it.
        // SAFETY: by the contract.
        let _ = unsafe { sys::unmap(start, STACK_BYTES) };
    }
    root::run(vdso)
}

const DT_NULL: u64 = 0;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_RELAENT: u64 = 9;

#[repr(C)]
struct Relocation {
    offset: u64,
    info: u64,
    addend: u64,
}

/// Applies the image's relative relocations. A static PIE has no others.
unsafe fn relocate(base: u64, mut dynamic: *const [u64; 2]) {
    let (mut table, mut bytes, mut entry) = (0, 0, size_of::<Relocation>() as u64);
    // SAFETY: the dynamic section ends with DT_NULL.
    unsafe {
        while (*dynamic)[0] != DT_NULL {
            match (*dynamic)[0] {
                DT_RELA => table = (*dynamic)[1],
                DT_RELASZ => bytes = (*dynamic)[1],
                DT_RELAENT => entry = (*dynamic)[1],
                _ => {}
            }
            dynamic = dynamic.add(1);
        }
        let mut at = base + table;
        let end = at + bytes;
        while at < end {
            let relocation = &*(at as *const Relocation);
            if relocation.info == arch::RELATIVE_RELOCATION {
                ((base + relocation.offset) as *mut u64).write(base.wrapping_add(relocation.addend));
            }
            at += entry;
        }
    }
}

/// What the zygote needs of the auxiliary vector (getauxval(3)).
struct Auxiliary {
    headers: u64,
    header_count: u64,
    vdso: u64,
    /// The program's name, which lies at the end of the stack.
    name: u64,
}

impl Auxiliary {
    /// The end of the stack that the kernel made, or 0 if it is not where it is expected: behind the program's name and eight bytes
    /// (`bprm_mm_init` in fs/exec.c).
    fn stack_end(&self) -> u64 {
        if self.name == 0 {
            return 0;
        }
        // SAFETY: the kernel gives the address of a string.
        let length = unsafe { strlen(self.name as *const c_char) } as u64;
        let end = self.name + length + 1 + 8;
        if end.is_multiple_of(ipc::layout::PAGE) { end } else { 0 }
    }

    unsafe fn find(stack: *const u64) -> Self {
        let mut found = Self { headers: 0, header_count: 0, vdso: 0, name: 0 };
        // SAFETY: argc, argv…, NULL, envp…, NULL, then (type, value) pairs up to AT_NULL: the x86-64 psABI,
        // "Initial Stack and Register State".
        unsafe {
            let mut at = stack.add(1 + *stack as usize + 1);
            while *at != 0 {
                at = at.add(1);
            }
            at = at.add(1);
            while *at != u64::from(AT_NULL) {
                match *at as u32 {
                    AT_EXECFN => found.name = *at.add(1),
                    AT_PHDR => found.headers = *at.add(1),
                    AT_PHNUM => found.header_count = *at.add(1),
                    AT_SYSINFO_EHDR => found.vdso = *at.add(1),
                    _ => {}
                }
                at = at.add(2);
            }
        }
        found
    }
}

const PT_GNU_RELRO: u32 = 0x6474_e552;

/// Makes relocated constants read-only, so that no function pointer of the image stays writable.
unsafe fn protect_relocated(base: u64, auxiliary: &Auxiliary) {
    if auxiliary.headers == 0 {
        return;
    }
    // SAFETY: the kernel gives the address and number of this image's program headers.
    let headers = unsafe {
        slice::from_raw_parts(
            auxiliary.headers as *const crate::image::ProgramHeader,
            auxiliary.header_count as usize,
        )
    };
    for header in headers.iter().filter(|h| h.kind == PT_GNU_RELRO) {
        let start = (base + header.address) & !(ipc::layout::PAGE - 1);
        let end = (base + header.address + header.memory_bytes) & !(ipc::layout::PAGE - 1);
        if end > start {
            // Best effort, as in every C library: the pages hold no secret and no layer depends on it.
            // SAFETY: whole pages of this image that hold only relocated constants.
            let _ = unsafe { sys::call(__NR_mprotect, [start, end - start, u64::from(PROT_READ), 0, 0, 0]) };
        }
    }
}

/// A panic is a bug; there is nobody to tell but the supervisor, which sees this process die.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Not through the gate, which an instance has no more; every profile lets a process end itself.
    sandbox_shim::entry::end(101)
}

/// Referred to by the precompiled `core`; never called, because panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// `memcpy(3)`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void {
    // SAFETY: by the contract.
    unsafe { sandbox_shim::arch::copy(to.cast(), from.cast(), bytes) };
    to
}

/// `memmove(3)`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void {
    // SAFETY: by the contract.
    unsafe { sandbox_shim::arch::copy(to.cast(), from.cast(), bytes) };
    to
}

/// `memset(3)`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut c_void, byte: c_int, bytes: usize) -> *mut c_void {
    // SAFETY: by the contract.
    unsafe { sandbox_shim::arch::fill(to.cast(), byte as u8, bytes) };
    to
}

/// `memcmp(3)`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const c_void, b: *const c_void, bytes: usize) -> c_int {
    let (a, b) = (a.cast::<u8>(), b.cast::<u8>());
    for i in 0..bytes {
        // SAFETY: by the contract. Volatile, so that the loop is not compiled into a call of this function.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return c_int::from(x) - c_int::from(y);
        }
    }
    0
}

/// `bcmp(3)`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const c_void, b: *const c_void, bytes: usize) -> c_int {
    // SAFETY: by the contract.
    unsafe { memcmp(a, b, bytes) }
}

/// `strlen(3)`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(string: *const c_char) -> usize {
    let mut length = 0;
    // SAFETY: by the contract. Volatile, as in `memcmp`.
    while unsafe { string.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}
