//! Random programs for a hostile instance, as natively as it gets: the weapon `program` carries out what its job's argument says, one
//! operation on the ring after the other. A seed gives the program.

use std::arch::global_asm;
use std::mem::offset_of;

use ipc::interface::FUNCTIONS;
use ipc::job::{
    ARENA_BYTES, ARENA_OFFSET, COMPLETIONS_OFFSET, EXIT_OFFSET, INDICES_OFFSET, JOB_OFFSET, RING_BYTES,
    STRINGS_OFFSET, SUBMISSIONS_OFFSET,
};
use ipc::layout::{DOORBELL_FD, MEMORY_BASE, RING_BASE};
use ipc::ring::{FINISHED, Indices, OUTPUT_HALF, SLOTS, Submission, pack_output, pack_range};
use zerocopy::IntoBytes;

use crate::attacker::Weapon;

// `sandboxd_test_program`(text, bytes): copies `bytes` bytes, two letters from `text` each, to linear memory, and carries out the
// operations that are there: four words each, see `Operation`.
global_asm!(
    ".globl sandboxd_test_program",
    "sandboxd_test_program:",
    "push rbx", "push r12",
    "mov ebx, {memory}",
    "2:",
    "test rsi, rsi",
    "jz 3f",
    "movzx eax, byte ptr [rdi]", "movzx ecx, byte ptr [rdi + 1]",
    "sub eax, 65", "sub ecx, 65", "shl eax, 4", "or eax, ecx",
    "mov [rbx], al",
    "inc rbx", "add rdi, 2", "dec rsi",
    "jmp 2b",
    "3:",
    "mov ebx, {memory}",
    "4:", // the next operation
    "mov rax, [rbx]", "mov r8, [rbx + 8]", "mov r9, [rbx + 16]", "mov r10, [rbx + 24]",
    "mov r12, rbx",
    "add rbx, 32",
    "cmp eax, {silence}", "je 20f",
    "cmp eax, {leave}", "je 21f",
    "cmp eax, {poke64}", "je 22f",
    "cmp eax, {poke32}", "je 23f",
    "cmp eax, {add32}", "je 24f",
    "cmp eax, {ring}", "je 25f",
    "cmp eax, {pause}", "je 26f",
    "cmp eax, {copy}", "je 27f",
    "cmp eax, {again}", "je 28f",
    "cmp eax, {follow}", "je 29f",
    "cmp eax, {ask}", "je 30f",
    "20:", "jmp 20b",
    "21:", "xor eax, eax", "pop r12", "pop rbx", "ret",
    "22:", "mov [r8], r9", "jmp 4b",
    "23:", "mov [r8], r9d", "jmp 4b",
    "24:", "add [r8], r9d", "jmp 4b",
    "25:", "mov eax, 1", "mov edi, {doorbell}", "lea rsi, [rbx - 32]", "mov edx, 8", "syscall", "jmp 4b",
    "26:", "pause", "dec r8", "jnz 26b", "jmp 4b",
    "27:", "lea rsi, [r8 + {memory}]", "mov rdi, r9", "mov rcx, r10", "rep movsb", "jmp 4b",
    "28:", "cmp r9, 0", "je 4b", "dec qword ptr [r12 + 16]", "sub rbx, r8", "jmp 4b",
    "29:", "mov eax, [r8]", "mov [r9], eax", "jmp 4b",
    "30:", "mov eax, 24", "mov rdi, r8", "mov rsi, r9", "mov rdx, r10", "syscall", "jmp 4b",
    ".globl sandboxd_test_program_end",
    "sandboxd_test_program_end:",
    memory = const MEMORY_BASE,
    doorbell = const DOORBELL_FD,
    silence = const code::SILENCE,
    leave = const code::LEAVE,
    poke64 = const code::POKE64,
    poke32 = const code::POKE32,
    add32 = const code::ADD32,
    ring = const code::RING,
    pause = const code::PAUSE,
    copy = const code::COPY,
    again = const code::AGAIN,
    follow = const code::FOLLOW,
    ask = const code::ASK,
);

unsafe extern "C" {
    static sandboxd_test_program: u8;
    static sandboxd_test_program_end: u8;
}

mod code {
    pub const SILENCE: u64 = 0;
    pub const LEAVE: u64 = 1;
    pub const POKE64: u64 = 2;
    pub const POKE32: u64 = 3;
    pub const ADD32: u64 = 4;
    /// Writes its own number to the doorbell, which must not be 0.
    pub const RING: u64 = 5;
    pub const PAUSE: u64 = 6;
    pub const COPY: u64 = 7;
    pub const AGAIN: u64 = 8;
    pub const FOLLOW: u64 = 9;
    pub const ASK: u64 = 10;
}

pub(crate) fn weapon() -> Weapon {
    let code =
        crate::side_channel::code(&raw const sandboxd_test_program, &raw const sandboxd_test_program_end);
    Weapon { name: "program", parameters: 2, code }
}

/// Splitmix64: the same numbers from the same seed everywhere.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// One below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// One of some.
    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A number of the kinds that are interesting.
    pub fn word(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(8),
            1 => self.below(256),
            2 => self.bits(),
            3 => self.bits() & 0xffff_ffff,
            4 => 1u64.wrapping_shl(self.bits() as u32).wrapping_sub(self.below(3)),
            _ => self.below(3).wrapping_sub(2),
        }
    }
}

/// How a program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finale {
    /// It breaks a rule for certain, if it gets that far.
    Violation,
    /// It does nothing more.
    Silence,
    /// It returns.
    Leave,
}

/// A program.
#[derive(Clone, Debug)]
pub struct Program {
    bytes: Vec<u8>,
    /// How it ends.
    pub finale: Finale,
    /// It says somewhere that it has finished, or writes where it would say what came of it: then its end may be any.
    pub may_finish: bool,
}

const fn index(offset: usize) -> u64 {
    RING_BASE + (INDICES_OFFSET + offset) as u64
}

const TAIL: u64 = index(offset_of!(Indices, submission_tail));
const TAKEN: u64 = index(offset_of!(Indices, completion_head));
const COMPLETED: u64 = index(offset_of!(Indices, completion_tail));
const OUTPUT: u64 = index(offset_of!(Indices, output));

impl Program {
    /// That of a seed.
    pub fn new(seed: u64) -> Self {
        let random = &mut Random(seed);
        let mut program = Self { bytes: Vec::new(), finale: Finale::Violation, may_finish: false };
        let mut submissions = Vec::new();
        for _ in 0..random.below(24) {
            program.step(random, &mut submissions);
        }
        program.finale = random.one_of(&[
            Finale::Violation,
            Finale::Violation,
            Finale::Violation,
            Finale::Silence,
            Finale::Leave,
        ]);
        match program.finale {
            Finale::Violation => {
                // Behind all that may still be served, wherever the index is.
                program.operation(code::ADD32, [TAIL, 0x4000_0000, 0]);
                program.operation(code::RING, [0; 3]);
                program.operation(code::SILENCE, [0; 3]);
            }
            Finale::Silence => program.operation(code::SILENCE, [0; 3]),
            Finale::Leave => program.operation(code::LEAVE, [0; 3]),
        }
        // The submissions lie behind the operations, which say where.
        let start = program.bytes.len() as u64;
        for (at, number) in program.copies().collect::<Vec<_>>() {
            let from = start + number * size_of::<Submission>() as u64;
            program.bytes[at..at + 8].copy_from_slice(&from.to_le_bytes());
        }
        submissions.iter().for_each(|s: &Submission| program.bytes.extend_from_slice(s.as_bytes()));
        program
    }

    /// The arguments of the job: its name, then the program in letters.
    pub fn arguments(&self) -> Vec<Vec<u8>> {
        let letters = self.bytes.iter().flat_map(|byte| [b'A' + (byte >> 4), b'A' + (byte & 15)]).collect();
        vec![b"program".to_vec(), letters]
    }

    /// The parameters of the weapon.
    pub fn parameters(&self) -> [u64; 2] {
        [RING_BASE + STRINGS_OFFSET as u64 + 8, self.bytes.len() as u64]
    }

    fn operation(&mut self, operation: u64, words: [u64; 3]) {
        for word in [operation].into_iter().chain(words) {
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Where copies say what they copy, and which submission it is.
    fn copies(&self) -> impl Iterator<Item = (usize, u64)> {
        self.bytes.chunks_exact(32).enumerate().filter_map(|(number, operation)| {
            let word = |at: usize| u64::from_le_bytes(operation[at..at + 8].try_into().expect("8 bytes"));
            (word(0) == code::COPY).then(|| (number * 32 + 8, word(8)))
        })
    }

    fn step(&mut self, random: &mut Random, submissions: &mut Vec<Submission>) {
        match random.below(14) {
            // A call, or several, as an honest instance makes them, but for what they say.
            0..=5 => {
                let count = if random.below(4) == 0 { random.below(SLOTS as u64 + 2) } else { 1 };
                let slot = random.below(SLOTS as u64);
                for number in 0..count {
                    let submission = self.submission(random);
                    let to = SUBMISSIONS_OFFSET as u64
                        + (slot + number) % SLOTS as u64 * size_of::<Submission>() as u64;
                    let copy = [submissions.len() as u64, RING_BASE + to, size_of::<Submission>() as u64];
                    self.operation(code::COPY, copy);
                    submissions.push(submission);
                }
                // To all slots: nobody knows which is next.
                if count == 1 {
                    for slot in 0..random.one_of(&[4, SLOTS as u64]) {
                        let to = SUBMISSIONS_OFFSET as u64 + slot * size_of::<Submission>() as u64;
                        let number = submissions.len() as u64 - 1;
                        self.operation(code::COPY, [number, RING_BASE + to, size_of::<Submission>() as u64]);
                    }
                }
                self.operation(code::ADD32, [TAIL, count, 0]);
                self.operation(code::RING, [0; 3]);
            }
            // Takes what was completed.
            6 => self.operation(code::FOLLOW, [COMPLETED, TAKEN, 0]),
            // Moves an index: a little, mostly.
            7 => {
                let what = random.one_of(&[TAIL, TAKEN, COMPLETED, TAIL + 64]);
                let by = random.one_of(&[1, 1, 2, 63, 64, 65, u64::MAX, u64::MAX - 1, random.clone().bits()]);
                self.operation(code::ADD32, [what, by, 0]);
            }
            8 => {
                let half = OUTPUT_HALF as u32;
                let length = random.one_of(&[0, 1, half - 1, half, half, half + 1, u32::MAX]);
                let word = pack_output(random.below(4) as u32, random.below(2) as u32, length);
                let word = if random.below(8) == 0 { random.bits() } else { word };
                self.operation(code::POKE64, [OUTPUT, word, 0]);
            }
            // Anything anywhere, but for what an end is read from.
            9 => {
                let part =
                    random.one_of(&[INDICES_OFFSET, SUBMISSIONS_OFFSET, COMPLETIONS_OFFSET, JOB_OFFSET]);
                let at = (part as u64 + random.below(0x400) * 8).min(RING_BYTES as u64 - 8);
                let is_record = (EXIT_OFFSET as u64..INDICES_OFFSET as u64).contains(&at);
                self.may_finish |= is_record || part == SUBMISSIONS_OFFSET;
                self.operation(code::POKE64, [RING_BASE + at, random.word(), 0]);
            }
            10 => self.operation(code::RING, [0; 3]),
            11 => self.operation(code::PAUSE, [1 + random.below(2000), 0, 0]),
            // A loop around what went before, which submits and rings more often than it was written.
            12 if self.bytes.len() >= 32 => {
                let back = (1 + random.below(8)).min(self.bytes.len() as u64 / 32);
                let times = random.one_of(&[1, 2, 10, 300]);
                self.operation(code::AGAIN, [(back + 1) * 32, times, 0]);
            }
            _ => {
                let what = random.one_of(&[0, 1, 1, 2, 2, 3, u64::MAX]);
                let slot = random.one_of(&[0, 1, 2, 31, 32, 1 << 32, u64::MAX]);
                self.operation(code::ASK, [what, random.below(8), slot]);
            }
        }
    }

    fn submission(&mut self, random: &mut Random) -> Submission {
        let function = match random.below(16) {
            0 => random.bits() as u32,
            1 => ipc::session::REPLY,
            2 => FINISHED,
            3 => ipc::imports::FUNCTIONS + random.below(3) as u32,
            _ => random.below(FUNCTIONS.len() as u64) as u32,
        };
        self.may_finish |= function == FINISHED;
        let mut submission = Submission { function, sequence: random.bits() as u32, ..Submission::default() };
        for arg in &mut submission.args {
            *arg = match random.below(8) {
                0..=3 => random.below(6),
                4..=5 => {
                    let length = random.one_of(&[0, 1, 4, 8, 16, 24, 48, 64, 4096, ARENA_BYTES as u32]);
                    pack_range(random.below((ARENA_OFFSET + ARENA_BYTES) as u64) as u32 & !7, length)
                }
                6 => pack_range(random.bits() as u32, random.bits() as u32),
                _ => random.word(),
            };
        }
        if random.below(8) == 0 {
            submission.flags = random.word();
            submission.position = random.word();
        }
        submission
    }
}
