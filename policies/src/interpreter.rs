//! Runs a seccomp BPF program without a kernel: what would it decide about this call?
//!
//! Only the instructions that seccomp filters use (`seccomp_check_filter` in the kernel's kernel/seccomp.c) and
//! that our compiler emits are known; any other is an error, never a guess.

use crate::filter::{DATA_BYTES, OFFSET_ARCH, OFFSET_ARGS, OFFSET_NUMBER, OFFSET_POINTER};

/// `struct seccomp_data`, linux/seccomp.h: what a filter sees of a system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeccompData {
    /// Number.
    pub number: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Address of the instruction after the system call.
    pub instruction_pointer: u64,
    /// Arguments.
    pub args: [u64; 6],
}

impl SeccompData {
    fn word(&self, offset: u32) -> Option<u32> {
        if offset >= DATA_BYTES || !offset.is_multiple_of(4) {
            return None;
        }
        let half = |value: u64, offset: u32| {
            if offset.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 }
        };
        match offset {
            OFFSET_NUMBER => Some(self.number),
            OFFSET_ARCH => Some(self.arch),
            _ if offset < OFFSET_ARGS => Some(half(self.instruction_pointer, offset - OFFSET_POINTER)),
            _ => self.args.get(((offset - OFFSET_ARGS) / 8) as usize).map(|arg| half(*arg, offset)),
        }
    }
}

/// Why a program has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterpretError {
    /// An instruction that this interpreter does not know.
    #[error("instruction {index} has the unknown code {code:#06x}")]
    UnknownCode {
        /// Index in the program.
        index: usize,
        /// Its code.
        code: u16,
    },
    /// A load from outside `struct seccomp_data`.
    #[error("instruction {index} loads from offset {offset}, outside struct seccomp_data")]
    Load {
        /// Index in the program.
        index: usize,
        /// The offset.
        offset: u32,
    },
    /// Execution runs past the last instruction.
    #[error("the program runs past its end at {index}")]
    End {
        /// Where it went.
        index: usize,
    },
}

const fn code(parts: u32) -> u16 {
    parts as u16
}
const LOAD_WORD: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
const JUMP: u16 = code(libc::BPF_JMP | libc::BPF_JA);
const JUMP_EQUAL: u16 = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
const JUMP_ABOVE: u16 = code(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K);
const JUMP_AT_LEAST: u16 = code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K);
const JUMP_ANY_BIT: u16 = code(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K);
const AND: u16 = code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K);
const RETURN: u16 = code(libc::BPF_RET | libc::BPF_K);

/// The program's result for a call: a `SECCOMP_RET_*` value.
///
/// Jumps only go forward, so this ends after at most one step per instruction.
pub fn interpret(program: &[libc::sock_filter], data: &SeccompData) -> Result<u32, InterpretError> {
    let mut accumulator = 0u32;
    let mut index = 0usize;
    loop {
        let instruction = program.get(index).ok_or(InterpretError::End { index })?;
        let k = instruction.k;
        let branch = |taken: bool| usize::from(if taken { instruction.jt } else { instruction.jf });
        let skip = match instruction.code {
            LOAD_WORD => {
                accumulator = data.word(k).ok_or(InterpretError::Load { index, offset: k })?;
                0
            }
            AND => {
                accumulator &= k;
                0
            }
            JUMP => k as usize,
            JUMP_EQUAL => branch(accumulator == k),
            JUMP_ABOVE => branch(accumulator > k),
            JUMP_AT_LEAST => branch(accumulator >= k),
            JUMP_ANY_BIT => branch(accumulator & k != 0),
            RETURN => return Ok(k),
            code => return Err(InterpretError::UnknownCode { index, code }),
        };
        index = index.saturating_add(1).saturating_add(skip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
        libc::sock_filter { code, jt, jf, k }
    }

    #[test]
    fn every_word_of_the_data_is_read_from_its_offset() {
        let data = SeccompData {
            number: 0x1,
            arch: 0x2,
            instruction_pointer: 0x4_0000_0003,
            args: std::array::from_fn(|i| ((6 + 2 * i as u64) << 32) | (5 + 2 * i as u64)),
        };
        for word in 0..16u32 {
            // Returns 77 if the word at this offset is its number plus one.
            let program = [
                op(LOAD_WORD, word * 4, 0, 0),
                op(JUMP_EQUAL, word + 1, 0, 1),
                op(RETURN, 77, 0, 0),
                op(RETURN, 0, 0, 0),
            ];
            assert_eq!(interpret(&program, &data), Ok(77), "word {word}");
        }
        for offset in [64, 2, u32::MAX] {
            let program = [op(LOAD_WORD, offset, 0, 0), op(RETURN, 0, 0, 0)];
            assert_eq!(interpret(&program, &data), Err(InterpretError::Load { index: 0, offset }));
        }
    }

    #[test]
    fn instructions_do_what_the_kernel_does() {
        let run = |instruction: libc::sock_filter, number: u32| {
            let program = [op(LOAD_WORD, 0, 0, 0), instruction, op(RETURN, 0, 0, 0), op(RETURN, 1, 0, 0)];
            interpret(&program, &SeccompData { number, ..SeccompData::default() }).unwrap()
        };
        for (code, k, number, taken) in [
            (JUMP_EQUAL, 5, 5, 1),
            (JUMP_EQUAL, 5, 6, 0),
            (JUMP_ABOVE, 5, 5, 0),
            (JUMP_ABOVE, 5, u32::MAX, 1),
            (JUMP_AT_LEAST, 5, 5, 1),
            (JUMP_AT_LEAST, 5, 4, 0),
            (JUMP_ANY_BIT, 6, 2, 1),
            (JUMP_ANY_BIT, 6, 9, 0),
        ] {
            assert_eq!(run(op(code, k, 1, 0), number), taken, "{code:#x} {k} {number}");
        }
        assert_eq!(run(op(JUMP, 1, 0, 0), 0), 1);
        let masked = [
            op(LOAD_WORD, 0, 0, 0),
            op(AND, 0xF0, 0, 0),
            op(JUMP_EQUAL, 0x30, 0, 1),
            op(RETURN, 1, 0, 0),
            op(RETURN, 0, 0, 0),
        ];
        assert_eq!(interpret(&masked, &SeccompData { number: 0x1234, ..SeccompData::default() }), Ok(1));
    }

    #[test]
    fn bad_programs_are_errors() {
        let data = SeccompData::default();
        assert_eq!(interpret(&[], &data), Err(InterpretError::End { index: 0 }));
        assert_eq!(
            interpret(&[op(JUMP, u32::MAX, 0, 0)], &data),
            Err(InterpretError::End { index: 1 << 32 })
        );
        assert_eq!(
            interpret(&[op(0x16, 0, 0, 0)], &data),
            Err(InterpretError::UnknownCode { index: 0, code: 0x16 })
        );
    }
}
