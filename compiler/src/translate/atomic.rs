//! Atomic operators, on memories that are not shared: others are rejected.
//!
//! An instance has one thread and its memory nobody else, so every access is atomic as it is: what is left is the check of the
//! address' alignment. There is nobody to wait for and nobody to wake.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value};
use cranelift_frontend::FunctionBuilder;
use wasmparser::{MemArg, Operator};

use super::{Failure, Translator};
use crate::trap;

/// Makes the new value of the old one and the operand.
type Update = fn(&mut FunctionBuilder<'_>, Value, Value) -> Value;

impl Translator<'_, '_> {
    /// Translates an atomic operator; `false` for any other.
    pub(super) fn atomic(&mut self, operator: &Operator<'_>) -> Result<bool, Failure> {
        match operator {
            Operator::AtomicFence { .. } => Ok(()),
            Operator::MemoryAtomicNotify { memarg } => {
                self.pop()?;
                self.atomic_load(memarg, I32, I32)?;
                self.pop()?;
                let woken = self.builder.ins().iconst(I32, 0);
                self.push(woken);
                Ok(())
            }
            Operator::MemoryAtomicWait32 { memarg } => self.wait(memarg, I32),
            Operator::MemoryAtomicWait64 { memarg } => self.wait(memarg, I64),
            Operator::I32AtomicLoad { memarg } => self.atomic_load(memarg, I32, I32),
            Operator::I64AtomicLoad { memarg } => self.atomic_load(memarg, I64, I64),
            Operator::I32AtomicLoad8U { memarg } => self.atomic_load(memarg, I8, I32),
            Operator::I32AtomicLoad16U { memarg } => self.atomic_load(memarg, I16, I32),
            Operator::I64AtomicLoad8U { memarg } => self.atomic_load(memarg, I8, I64),
            Operator::I64AtomicLoad16U { memarg } => self.atomic_load(memarg, I16, I64),
            Operator::I64AtomicLoad32U { memarg } => self.atomic_load(memarg, I32, I64),
            Operator::I32AtomicStore { memarg } => self.atomic_store(memarg, I32),
            Operator::I64AtomicStore { memarg } => self.atomic_store(memarg, I64),
            Operator::I32AtomicStore8 { memarg } => self.atomic_store(memarg, I8),
            Operator::I32AtomicStore16 { memarg } => self.atomic_store(memarg, I16),
            Operator::I64AtomicStore8 { memarg } => self.atomic_store(memarg, I8),
            Operator::I64AtomicStore16 { memarg } => self.atomic_store(memarg, I16),
            Operator::I64AtomicStore32 { memarg } => self.atomic_store(memarg, I32),
            Operator::I32AtomicRmwAdd { memarg } => {
                self.update(memarg, I32, I32, |f, a, b| f.ins().iadd(a, b))
            }
            Operator::I64AtomicRmwAdd { memarg } => {
                self.update(memarg, I64, I64, |f, a, b| f.ins().iadd(a, b))
            }
            Operator::I32AtomicRmw8AddU { memarg } => {
                self.update(memarg, I8, I32, |f, a, b| f.ins().iadd(a, b))
            }
            Operator::I32AtomicRmw16AddU { memarg } => {
                self.update(memarg, I16, I32, |f, a, b| f.ins().iadd(a, b))
            }
            Operator::I64AtomicRmw8AddU { memarg } => {
                self.update(memarg, I8, I64, |f, a, b| f.ins().iadd(a, b))
            }
            Operator::I64AtomicRmw16AddU { memarg } => {
                self.update(memarg, I16, I64, |f, a, b| f.ins().iadd(a, b))
            }
            Operator::I64AtomicRmw32AddU { memarg } => {
                self.update(memarg, I32, I64, |f, a, b| f.ins().iadd(a, b))
            }
            Operator::I32AtomicRmwSub { memarg } => {
                self.update(memarg, I32, I32, |f, a, b| f.ins().isub(a, b))
            }
            Operator::I64AtomicRmwSub { memarg } => {
                self.update(memarg, I64, I64, |f, a, b| f.ins().isub(a, b))
            }
            Operator::I32AtomicRmw8SubU { memarg } => {
                self.update(memarg, I8, I32, |f, a, b| f.ins().isub(a, b))
            }
            Operator::I32AtomicRmw16SubU { memarg } => {
                self.update(memarg, I16, I32, |f, a, b| f.ins().isub(a, b))
            }
            Operator::I64AtomicRmw8SubU { memarg } => {
                self.update(memarg, I8, I64, |f, a, b| f.ins().isub(a, b))
            }
            Operator::I64AtomicRmw16SubU { memarg } => {
                self.update(memarg, I16, I64, |f, a, b| f.ins().isub(a, b))
            }
            Operator::I64AtomicRmw32SubU { memarg } => {
                self.update(memarg, I32, I64, |f, a, b| f.ins().isub(a, b))
            }
            Operator::I32AtomicRmwAnd { memarg } => {
                self.update(memarg, I32, I32, |f, a, b| f.ins().band(a, b))
            }
            Operator::I64AtomicRmwAnd { memarg } => {
                self.update(memarg, I64, I64, |f, a, b| f.ins().band(a, b))
            }
            Operator::I32AtomicRmw8AndU { memarg } => {
                self.update(memarg, I8, I32, |f, a, b| f.ins().band(a, b))
            }
            Operator::I32AtomicRmw16AndU { memarg } => {
                self.update(memarg, I16, I32, |f, a, b| f.ins().band(a, b))
            }
            Operator::I64AtomicRmw8AndU { memarg } => {
                self.update(memarg, I8, I64, |f, a, b| f.ins().band(a, b))
            }
            Operator::I64AtomicRmw16AndU { memarg } => {
                self.update(memarg, I16, I64, |f, a, b| f.ins().band(a, b))
            }
            Operator::I64AtomicRmw32AndU { memarg } => {
                self.update(memarg, I32, I64, |f, a, b| f.ins().band(a, b))
            }
            Operator::I32AtomicRmwOr { memarg } => self.update(memarg, I32, I32, |f, a, b| f.ins().bor(a, b)),
            Operator::I64AtomicRmwOr { memarg } => self.update(memarg, I64, I64, |f, a, b| f.ins().bor(a, b)),
            Operator::I32AtomicRmw8OrU { memarg } => {
                self.update(memarg, I8, I32, |f, a, b| f.ins().bor(a, b))
            }
            Operator::I32AtomicRmw16OrU { memarg } => {
                self.update(memarg, I16, I32, |f, a, b| f.ins().bor(a, b))
            }
            Operator::I64AtomicRmw8OrU { memarg } => {
                self.update(memarg, I8, I64, |f, a, b| f.ins().bor(a, b))
            }
            Operator::I64AtomicRmw16OrU { memarg } => {
                self.update(memarg, I16, I64, |f, a, b| f.ins().bor(a, b))
            }
            Operator::I64AtomicRmw32OrU { memarg } => {
                self.update(memarg, I32, I64, |f, a, b| f.ins().bor(a, b))
            }
            Operator::I32AtomicRmwXor { memarg } => {
                self.update(memarg, I32, I32, |f, a, b| f.ins().bxor(a, b))
            }
            Operator::I64AtomicRmwXor { memarg } => {
                self.update(memarg, I64, I64, |f, a, b| f.ins().bxor(a, b))
            }
            Operator::I32AtomicRmw8XorU { memarg } => {
                self.update(memarg, I8, I32, |f, a, b| f.ins().bxor(a, b))
            }
            Operator::I32AtomicRmw16XorU { memarg } => {
                self.update(memarg, I16, I32, |f, a, b| f.ins().bxor(a, b))
            }
            Operator::I64AtomicRmw8XorU { memarg } => {
                self.update(memarg, I8, I64, |f, a, b| f.ins().bxor(a, b))
            }
            Operator::I64AtomicRmw16XorU { memarg } => {
                self.update(memarg, I16, I64, |f, a, b| f.ins().bxor(a, b))
            }
            Operator::I64AtomicRmw32XorU { memarg } => {
                self.update(memarg, I32, I64, |f, a, b| f.ins().bxor(a, b))
            }
            Operator::I32AtomicRmwXchg { memarg } => self.update(memarg, I32, I32, |_, _, b| b),
            Operator::I64AtomicRmwXchg { memarg } => self.update(memarg, I64, I64, |_, _, b| b),
            Operator::I32AtomicRmw8XchgU { memarg } => self.update(memarg, I8, I32, |_, _, b| b),
            Operator::I32AtomicRmw16XchgU { memarg } => self.update(memarg, I16, I32, |_, _, b| b),
            Operator::I64AtomicRmw8XchgU { memarg } => self.update(memarg, I8, I64, |_, _, b| b),
            Operator::I64AtomicRmw16XchgU { memarg } => self.update(memarg, I16, I64, |_, _, b| b),
            Operator::I64AtomicRmw32XchgU { memarg } => self.update(memarg, I32, I64, |_, _, b| b),
            Operator::I32AtomicRmwCmpxchg { memarg } => self.compare_exchange(memarg, I32, I32),
            Operator::I64AtomicRmwCmpxchg { memarg } => self.compare_exchange(memarg, I64, I64),
            Operator::I32AtomicRmw8CmpxchgU { memarg } => self.compare_exchange(memarg, I8, I32),
            Operator::I32AtomicRmw16CmpxchgU { memarg } => self.compare_exchange(memarg, I16, I32),
            Operator::I64AtomicRmw8CmpxchgU { memarg } => self.compare_exchange(memarg, I8, I64),
            Operator::I64AtomicRmw16CmpxchgU { memarg } => self.compare_exchange(memarg, I16, I64),
            Operator::I64AtomicRmw32CmpxchgU { memarg } => self.compare_exchange(memarg, I32, I64),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    fn atomic_load(&mut self, memarg: &MemArg, access: Type, result: Type) -> Result<(), Failure> {
        let place = self.pop_place(memarg, access)?;
        let value = self.load_from(place, access, result);
        self.push(value);
        Ok(())
    }

    fn atomic_store(&mut self, memarg: &MemArg, access: Type) -> Result<(), Failure> {
        let value = self.pop()?;
        let place = self.pop_place(memarg, access)?;
        self.store_to(place, access, value);
        Ok(())
    }

    /// Reads, makes a new value, writes; the old one is the result.
    fn update(&mut self, memarg: &MemArg, access: Type, result: Type, update: Update) -> Result<(), Failure> {
        let operand = self.pop()?;
        let place = self.pop_place(memarg, access)?;
        let old = self.load_from(place, access, result);
        let new = update(&mut self.builder, old, operand);
        self.store_to(place, access, new);
        self.push(old);
        Ok(())
    }

    /// Writes the replacement if the old value is the expected one, of which only the accessed bits count. Else the old value is
    /// written again, which nobody can tell.
    fn compare_exchange(&mut self, memarg: &MemArg, access: Type, result: Type) -> Result<(), Failure> {
        let (replacement, expected) = (self.pop()?, self.pop()?);
        let place = self.pop_place(memarg, access)?;
        let old = self.load_from(place, access, result);
        let expected = if access == result {
            expected
        } else {
            let mask = u64::MAX >> (64 - access.bits());
            self.builder.ins().band_imm_u(expected, mask as i64)
        };
        let equal = self.builder.ins().icmp(IntCC::Equal, old, expected);
        let new = self.builder.ins().select(equal, replacement, old);
        self.store_to(place, access, new);
        self.push(old);
        Ok(())
    }

    /// A wait traps, after the checks that every access makes.
    fn wait(&mut self, memarg: &MemArg, access: Type) -> Result<(), Failure> {
        let (_timeout, _expected) = (self.pop()?, self.pop()?);
        self.atomic_load(memarg, access, access)?;
        self.pop()?;
        self.builder.ins().trap(trap::EXPECTED_SHARED);
        self.reachable = false;
        Ok(())
    }

    /// Pops the index of an access, which traps unless it is aligned.
    fn pop_place(&mut self, memarg: &MemArg, access: Type) -> Result<(Value, i32, MemFlagsData), Failure> {
        let index = self.pop()?;
        let width = access.bytes();
        if width > 1 {
            let low = memarg.offset % u64::from(width);
            let sum = if low == 0 { index } else { self.builder.ins().iadd_imm_u(index, low as i64) };
            let remainder = self.builder.ins().band_imm_u(sum, i64::from(width - 1));
            self.builder.ins().trapnz(remainder, trap::UNALIGNED_ATOMIC);
        }
        self.effective_address(memarg, index, width)
    }

    fn load_from(
        &mut self,
        (address, offset, flags): (Value, i32, MemFlagsData),
        access: Type,
        result: Type,
    ) -> Value {
        let ins = self.builder.ins();
        match (access, result) {
            (I8, _) => ins.uload8(result, flags, address, offset),
            (I16, _) => ins.uload16(result, flags, address, offset),
            (I32, I64) => ins.uload32(flags, address, offset),
            _ => ins.load(result, flags, address, offset),
        }
    }

    fn store_to(&mut self, (address, offset, flags): (Value, i32, MemFlagsData), access: Type, value: Value) {
        let wide = self.builder.func.dfg.value_type(value) == I64;
        let ins = self.builder.ins();
        match access {
            I8 => ins.istore8(flags, value, address, offset),
            I16 => ins.istore16(flags, value, address, offset),
            I32 if wide => ins.istore32(flags, value, address, offset),
            _ => ins.store(flags, value, address, offset),
        };
    }
}
