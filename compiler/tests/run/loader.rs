//! A small loader: maps an artifact in a forked child, as a zygote does, and calls functions there.
//!
//! The calls are prepared in shared memory before the fork; the child makes them one after the other and ends. So
//! the parent only ever waits for the child's end, and a child that dies leaves what it did so far.

use std::arch::global_asm;
use std::ptr::{addr_of, addr_of_mut, null_mut};

use compiler::metadata::Entry;
use compiler::{Artifact, TrapKind};
use ipc::context::{BUILTINS, Builtins, FUEL, MemoryDescriptor, TableDescriptor};
use ipc::layout::{CONTEXT_BASE, PAGE, STACK_GUARD, STACK_TOP, WASM_PAGE};
use object::elf::{FileHeader64, ProgramHeader64};
use object::endian::LittleEndian;
use object::pod::{from_bytes, slice_from_bytes};

/// Guest stack in bytes.
const STACK: u64 = 1 << 20;
/// Most parameters or results of a call here.
const VALUES: usize = 64;
/// Seconds after which a child ends itself.
const TIMEOUT: u32 = 60;

/// In a record that is no function call: take a hash.
const HASH: u64 = 1;

/// A call to be made in the child.
#[derive(Clone, Copy)]
pub enum Call<'a> {
    /// Of a function, with its arguments' bits.
    Function(Entry, &'a [u128]),
    /// Reads the 16 bytes at an address.
    Read(u64),
    /// Takes the [`hash`] of the memory whose descriptor is at an address.
    #[allow(dead_code)] // differential tests only
    Hash(u64),
}

/// A hash of bytes, to compare memories by.
pub fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    rest.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)))
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned; the slots.
    Returned(Vec<u128>),
    /// A signal stopped it: the kind of trap, if it is one, and the address of the instruction.
    Trapped(Option<TrapKind>, u64),
    /// The child did not get there.
    NotRun,
}

/// A call and its outcome in shared memory.
#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    trampoline: u64,
    code: u64,
    /// 0 not run, 1 returned, 2 stopped by a signal.
    status: u64,
    signal: u64,
    pc: u64,
    fault: u64,
    values: [[u64; 2]; VALUES],
}

/// The same artifact with `fuel` for an instance to begin with, which in an instance the shim writes.
pub fn with_fuel(artifact: &Artifact<Vec<u8>>, fuel: i64) -> Artifact<Vec<u8>> {
    let mut file = artifact.bytes().to_vec();
    let (header, rest) = from_bytes::<FileHeader64<LittleEndian>>(&file).unwrap();
    let count = header.e_phnum.get(LittleEndian).into();
    let (segments, _) = slice_from_bytes::<ProgramHeader64<LittleEndian>>(rest, count).unwrap();
    let context = segments.iter().find(|s| s.p_vaddr.get(LittleEndian) == CONTEXT_BASE).unwrap();
    let at = (context.p_offset.get(LittleEndian) + FUEL - CONTEXT_BASE) as usize;
    file[at..at + 8].copy_from_slice(&fuel.to_le_bytes());
    Artifact::parse(file).unwrap()
}

/// Makes `calls` in a fresh child that has `artifact` mapped.
pub fn run(artifact: &Artifact<Vec<u8>>, calls: &[Call<'_>]) -> Vec<Outcome> {
    let bytes = calls.len().max(1) * size_of::<Record>();
    // SAFETY: a fresh shared mapping; nothing else refers to it.
    let records = unsafe {
        let shared = libc::mmap(
            null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(shared, libc::MAP_FAILED);
        std::slice::from_raw_parts_mut(shared.cast::<Record>(), calls.len())
    };
    for (record, call) in records.iter_mut().zip(calls) {
        match call {
            Call::Function(entry, arguments) => {
                (record.trampoline, record.code) = (entry.trampoline, entry.code);
                for (slot, argument) in record.values.iter_mut().zip(*arguments) {
                    *slot = [*argument as u64, (*argument >> 64) as u64];
                }
            }
            Call::Read(address) => record.code = *address,
            Call::Hash(descriptor) => (record.code, record.signal) = (*descriptor, HASH),
        }
    }
    let file = artifact.bytes();
    let (header, rest) = from_bytes::<FileHeader64<LittleEndian>>(file).unwrap();
    let count = header.e_phnum.get(LittleEndian).into();
    let (segments, _) = slice_from_bytes::<ProgramHeader64<LittleEndian>>(rest, count).unwrap();
    // SAFETY: the child uses nothing but system calls and memory that is there, and never returns.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        // SAFETY: this is the child; nobody else uses these addresses or the records.
        unsafe {
            libc::alarm(TIMEOUT);
            let mapped = map(file, segments);
            if mapped {
                install_handlers();
                records.iter_mut().for_each(|record| make_call(record));
            }
            libc::_exit(if mapped { 0 } else { 1 });
        }
    }
    let mut status = 0;
    loop {
        // SAFETY: waits for our own child.
        match unsafe { libc::waitpid(child, &mut status, 0) } {
            // A fuzzer has a timer that interrupts.
            -1 if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
            waited => break assert_eq!(waited, child),
        }
    }
    let ended = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    assert_eq!(ended, Some(0), "the child ended with status {status:#x}");
    let outcomes = records.iter().map(|record| outcome(artifact, record)).collect();
    // SAFETY: the mapping from above, no longer referred to.
    unsafe { libc::munmap(records.as_mut_ptr().cast(), bytes) };
    outcomes
}

fn outcome(artifact: &Artifact<Vec<u8>>, record: &Record) -> Outcome {
    match record.status {
        0 => Outcome::NotRun,
        1 => Outcome::Returned(
            record.values.iter().map(|[low, high]| u128::from(*high) << 64 | u128::from(*low)).collect(),
        ),
        _ => {
            let guard = STACK_TOP - STACK - STACK_GUARD..STACK_TOP - STACK;
            let kind = if record.signal == libc::SIGSEGV as u64 && guard.contains(&record.fault) {
                Some(TrapKind::StackExhausted)
            } else {
                artifact.trap_at(record.pc)
            };
            Outcome::Trapped(kind, record.pc)
        }
    }
}

/// Maps every segment in order, and the stack.
///
/// SAFETY: only for a child that has nothing at the addresses of `ipc::layout`.
unsafe fn map(file: &[u8], segments: &[ProgramHeader64<LittleEndian>]) -> bool {
    const LE: LittleEndian = LittleEndian;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    for segment in segments {
        let (address, size) = (segment.p_vaddr.get(LE) as usize, segment.p_memsz.get(LE) as usize);
        let (offset, bytes) = (segment.p_offset.get(LE) as usize, segment.p_filesz.get(LE) as usize);
        let flags = segment.p_flags.get(LE);
        let protection = [(1, libc::PROT_EXEC), (2, libc::PROT_WRITE), (4, libc::PROT_READ)];
        let protection =
            protection.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |sum, (_, p)| sum | p);
        // SAFETY: see above; the contents are copied before the final protection is set.
        unsafe {
            let at = address as *mut libc::c_void;
            if libc::mmap(at, size, libc::PROT_READ | libc::PROT_WRITE, anonymous, -1, 0) != at {
                return false;
            }
            std::ptr::copy_nonoverlapping(file.as_ptr().add(offset), address as *mut u8, bytes);
            if libc::mprotect(at, size, protection) != 0 {
                return false;
            }
        }
    }
    // SAFETY: see above.
    unsafe {
        let bottom = (STACK_TOP - STACK) as *mut libc::c_void;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        if libc::mmap(bottom, STACK as usize, protection, anonymous, -1, 0) != bottom {
            return false;
        }
        sandbox_shim::signals::set_stack_bottom(STACK_TOP - STACK);
        *(BUILTINS as *mut Builtins) = Builtins {
            host_call: host_call as *const () as u64,
            memory_grow: memory_grow as *const () as u64,
            table_grow: table_grow as *const () as u64,
            copy: copy as *const () as u64,
            fill: fill as *const () as u64,
            exception_new: sandbox_shim::growth::builtins().exception_new,
            exception_throw: sandbox_shim::growth::builtins().exception_throw,
            import_call: sandbox_shim::growth::builtins().import_call,
        };
    }
    true
}

/// The test's only host function: the sum of three parameters plus the function's number.
///
/// SAFETY: called by a thunk with a frame of at least three words.
unsafe extern "sysv64" fn host_call(function: u32, frame: *mut u64) {
    // SAFETY: see above.
    unsafe {
        let sum = (0..3).fold(u64::from(function), |sum, i| sum.wrapping_add(*frame.add(i)));
        *frame = sum;
    }
}

/// SAFETY: called by guest code with one of its descriptors.
unsafe extern "sysv64" fn memory_grow(memory: *mut MemoryDescriptor, delta: u64) -> u64 {
    // SAFETY: see above; the range is reserved.
    unsafe {
        let old = (*memory).bytes;
        let Some(new) = delta.checked_mul(WASM_PAGE).and_then(|delta| old.checked_add(delta)) else {
            return u64::MAX;
        };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        if new > (*memory).max_bytes
            || libc::mprotect(((*memory).base + old) as *mut libc::c_void, (new - old) as usize, protection)
                != 0
        {
            return u64::MAX;
        }
        (*memory).bytes = new;
        old / WASM_PAGE
    }
}

/// SAFETY: called by guest code with one of its descriptors.
unsafe extern "sysv64" fn table_grow(table: *mut TableDescriptor, delta: u64) -> u64 {
    // SAFETY: see above.
    unsafe {
        let old = (*table).size;
        match old.checked_add(delta) {
            Some(new) if new <= (*table).max => {
                (*table).size = new;
                old
            }
            _ => u64::MAX,
        }
    }
}

/// SAFETY: called by guest code with checked ranges.
unsafe extern "sysv64" fn copy(to: *mut u8, from: *const u8, bytes: u64) {
    // SAFETY: see above.
    unsafe { std::ptr::copy(from, to, bytes as usize) }
}

/// SAFETY: called by guest code with a checked range.
unsafe extern "sysv64" fn fill(to: *mut u8, byte: u32, bytes: u64) {
    // SAFETY: see above.
    unsafe { std::ptr::write_bytes(to, byte as u8, bytes as usize) }
}

// `enter(trampoline, code, values, stack)` calls the trampoline on another stack; 0 when it returned. A signal
// handler leaves it through `resume`, with 1.
global_asm!(
    ".globl compiler_test_enter",
    "compiler_test_enter:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "lea rax, [rip + compiler_test_saved_stack]",
    "mov [rax], rsp",
    "mov rsp, rcx",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "xor ebp, ebp",
    "call rax",
    "xor eax, eax",
    "jmp 2f",
    ".globl compiler_test_resume",
    "compiler_test_resume:",
    "mov eax, 1",
    "2:",
    "lea rcx, [rip + compiler_test_saved_stack]",
    "mov rsp, [rcx]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    ".pushsection .data",
    "compiler_test_saved_stack: .quad 0",
    ".popsection",
);

unsafe extern "sysv64" {
    fn compiler_test_enter(trampoline: u64, code: u64, values: *mut [u64; 2], stack: u64) -> u64;
    fn compiler_test_resume();
}

/// Signal, instruction and fault address of the last signal; only the child uses it.
static mut CAUGHT: [u64; 3] = [0; 3];
static mut SIGNAL_STACK: [u8; 64 << 10] = [0; 64 << 10];

unsafe extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes valid pointers; the child has one thread.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let registers = &mut context.uc_mcontext.gregs;
        CAUGHT = [signal as u64, registers[libc::REG_RIP as usize] as u64, (*info).si_addr() as u64];
        registers[libc::REG_RIP as usize] = compiler_test_resume as *const () as i64;
    }
}

/// SAFETY: for the child only.
unsafe fn install_handlers() {
    // SAFETY: the structures are plain data that zero bytes are valid for.
    unsafe {
        let stack = libc::stack_t {
            ss_sp: addr_of_mut!(SIGNAL_STACK).cast(),
            ss_flags: 0,
            ss_size: size_of_val(&*addr_of!(SIGNAL_STACK)),
        };
        libc::sigaltstack(&stack, null_mut());
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
            libc::sigaction(signal, &action, null_mut());
        }
    }
}

/// SAFETY: for the child only, with the artifact mapped.
unsafe fn make_call(record: &mut Record) {
    // SAFETY: addresses of a checked artifact.
    unsafe {
        if record.trampoline == 0 {
            record.values[0] = if record.signal == HASH {
                let memory = &*(record.code as *const MemoryDescriptor);
                [hash(std::slice::from_raw_parts(memory.base as *const u8, memory.bytes as usize)), 0]
            } else {
                (record.code as *const [u64; 2]).read()
            };
            record.status = 1;
            return;
        }
        let failed =
            compiler_test_enter(record.trampoline, record.code, record.values.as_mut_ptr(), STACK_TOP - PAGE);
        record.status = 1 + failed;
        if failed == 1 {
            [record.signal, record.pc, record.fault] = CAUGHT;
        }
    }
}
