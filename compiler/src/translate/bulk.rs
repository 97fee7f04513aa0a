//! `memory.copy` and `memory.fill`. Bounds are checked inline, so that the trap has the right address; then a builtin does
//! the work, or, for a small constant length, a few instructions do.

use cranelift_codegen::ir::{InstBuilder, InstructionData, Opcode, Type, Value, ValueDef, types};

use super::abi::Builtin;
use super::{Failure, Translator};

/// Largest constant length in bytes that is copied or filled inline: eight 16-byte registers.
const INLINE_MAX: u64 = 128;

/// How a small range is covered: accesses of `ty` at these offsets, the last of which may overlap its neighbour.
struct Chunks {
    ty: Type,
    offsets: Vec<i32>,
}

impl Chunks {
    /// For `1..=INLINE_MAX` bytes.
    fn new(length: u64) -> Self {
        let ty = match length {
            0..2 => types::I8,
            2..4 => types::I16,
            4..8 => types::I32,
            8..16 => types::I64,
            _ => types::I8X16,
        };
        let width = u64::from(ty.bytes());
        let mut offsets: Vec<i32> = (0..length / width).map(|i| (i * width) as i32).collect();
        if !length.is_multiple_of(width) {
            offsets.push((length - width) as i32);
        }
        Chunks { ty, offsets }
    }
}

impl Translator<'_, '_> {
    pub(super) fn memory_copy(&mut self, to: u32, from: u32) -> Result<(), Failure> {
        let (to_memory, from_memory) = (self.memory(to)?, self.memory(from)?);
        let inline = self.small_constant_on_top();
        let (length, source, destination) = self.pop_range()?;
        let source = self.checked_range(&from_memory, source, length)?;
        let destination = self.checked_range(&to_memory, destination, length)?;
        match inline {
            Some(0) => {}
            Some(length) => {
                let (to_flags, from_flags) = (self.memory_flags(to), self.memory_flags(from));
                let chunks = Chunks::new(length);
                // The ranges may overlap: everything is loaded before anything is stored.
                let load = |&offset: &i32| self.builder.ins().load(chunks.ty, from_flags, source, offset);
                let values: Vec<Value> = chunks.offsets.iter().map(load).collect();
                for (value, &offset) in values.into_iter().zip(&chunks.offsets) {
                    self.builder.ins().store(to_flags, value, destination, offset);
                }
            }
            None => {
                self.call_builtin(Builtin::Copy, &[destination, source, length])?;
            }
        }
        Ok(())
    }

    pub(super) fn memory_fill(&mut self, index: u32) -> Result<(), Failure> {
        let memory = self.memory(index)?;
        let inline = self.small_constant_on_top();
        let (length, byte, destination) = (self.pop()?, self.pop()?, self.pop()?);
        let (length, destination) = (self.extend(length), self.extend(destination));
        let destination = self.checked_range(&memory, destination, length)?;
        match inline {
            Some(0) => {}
            Some(length) => {
                let flags = self.memory_flags(index);
                let chunks = Chunks::new(length);
                let value = self.repeat_byte(byte, chunks.ty);
                for &offset in &chunks.offsets {
                    self.builder.ins().store(flags, value, destination, offset);
                }
            }
            None => {
                let byte = self.builder.ins().band_imm_u(byte, 0xff);
                self.call_builtin(Builtin::Fill, &[destination, byte, length])?;
            }
        }
        Ok(())
    }

    /// The top operand, if it is a constant that is small enough.
    fn small_constant_on_top(&self) -> Option<u64> {
        let dfg = &self.builder.func.dfg;
        let ValueDef::Result(instruction, _) = dfg.value_def(dfg.resolve_aliases(*self.stack.last()?)) else {
            return None;
        };
        match dfg.insts[instruction] {
            InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } => {
                u64::try_from(imm.bits()).ok().filter(|length| *length <= INLINE_MAX)
            }
            _ => None,
        }
    }

    /// A value of type `ty` whose bytes all are the lowest of `byte`, an `i32`.
    fn repeat_byte(&mut self, byte: Value, ty: Type) -> Value {
        let low = self.builder.ins().ireduce(types::I8, byte);
        if ty == types::I8 {
            return low;
        }
        if ty.is_vector() {
            return self.builder.ins().splat(ty, low);
        }
        let wide = self.builder.ins().uextend(ty, low);
        let ones = 0x0101_0101_0101_0101u64 >> (64 - ty.bits());
        self.builder.ins().imul_imm_u(wide, ones as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_exactly_the_range() {
        for length in 1..=INLINE_MAX {
            let chunks = Chunks::new(length);
            let mut covered = vec![false; length as usize];
            for &offset in &chunks.offsets {
                covered[offset as usize..][..chunks.ty.bytes() as usize].fill(true);
            }
            assert!(covered.iter().all(|&covered| covered), "{length}");
            assert!(chunks.offsets.len() <= 8);
        }
    }
}
