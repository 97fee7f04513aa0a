//! Linear memory.
//!
//! A memory's base is a constant and its reservation holds every 32-bit index plus every 32-bit offset, so an access needs
//! no check: one that is out of bounds faults, and the fault is the trap. A 64-bit index is checked against what the
//! reservation holds, a constant: below that, an access beyond the memory's size faults the same way.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AliasRegion, AliasRegionData, Endianness, InstBuilder, MemFlagsData, TrapCode, Type, Value, types,
};
use ipc::context::MemoryDescriptor;
use ipc::layout::{MEMORY_GUARD, MEMORY_MAX, WASM_PAGE};
use std::mem::offset_of;
use wasmparser::{MemArg, Operator};

use super::abi::Builtin;
use super::{Failure, Translator, unexpected};
use crate::plan::{MemoryPlan, SegmentPlan};

/// First id of the alias regions of memories other than the first.
const REGION: u32 = 32;

/// A limit of 64-bit indices that a comparison can hold as its immediate.
const SMALL_LIMIT: u64 = i32::MAX as u64 + 1 - WASM_PAGE;

const _: () = assert!(SMALL_LIMIT < MEMORY_MAX);

/// How the bytes of an access become a value.
#[derive(Clone, Copy)]
enum Widen {
    /// They are the value.
    No,
    Zero,
    Sign,
}

impl Translator<'_, '_> {
    /// Translates a load or a store; `false` for any other operator.
    pub(super) fn memory_access(&mut self, operator: &Operator<'_>) -> Result<bool, Failure> {
        use Widen::{No, Sign, Zero};
        use types::{F32, F64, I8, I16, I32, I64};
        match operator {
            Operator::I32Load { memarg } => self.load(memarg, I32, I32, No),
            Operator::I64Load { memarg } => self.load(memarg, I64, I64, No),
            Operator::F32Load { memarg } => self.load(memarg, F32, F32, No),
            Operator::F64Load { memarg } => self.load(memarg, F64, F64, No),
            Operator::I32Load8S { memarg } => self.load(memarg, I8, I32, Sign),
            Operator::I32Load8U { memarg } => self.load(memarg, I8, I32, Zero),
            Operator::I32Load16S { memarg } => self.load(memarg, I16, I32, Sign),
            Operator::I32Load16U { memarg } => self.load(memarg, I16, I32, Zero),
            Operator::I64Load8S { memarg } => self.load(memarg, I8, I64, Sign),
            Operator::I64Load8U { memarg } => self.load(memarg, I8, I64, Zero),
            Operator::I64Load16S { memarg } => self.load(memarg, I16, I64, Sign),
            Operator::I64Load16U { memarg } => self.load(memarg, I16, I64, Zero),
            Operator::I64Load32S { memarg } => self.load(memarg, I32, I64, Sign),
            Operator::I64Load32U { memarg } => self.load(memarg, I32, I64, Zero),
            Operator::I32Store { memarg }
            | Operator::I64Store { memarg }
            | Operator::F32Store { memarg }
            | Operator::F64Store { memarg } => self.store(memarg, None),
            Operator::I32Store8 { memarg } | Operator::I64Store8 { memarg } => self.store(memarg, Some(I8)),
            Operator::I32Store16 { memarg } | Operator::I64Store16 { memarg } => {
                self.store(memarg, Some(I16))
            }
            Operator::I64Store32 { memarg } => self.store(memarg, Some(I32)),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    fn load(&mut self, memarg: &MemArg, access: Type, result: Type, widen: Widen) -> Result<(), Failure> {
        let index = self.pop()?;
        let (address, offset, flags) = self.effective_address(memarg, index, access.bytes())?;
        let ins = self.builder.ins();
        let value = match (widen, access) {
            (Widen::Zero, types::I8) => ins.uload8(result, flags, address, offset),
            (Widen::Sign, types::I8) => ins.sload8(result, flags, address, offset),
            (Widen::Zero, types::I16) => ins.uload16(result, flags, address, offset),
            (Widen::Sign, types::I16) => ins.sload16(result, flags, address, offset),
            (Widen::Zero, types::I32) => ins.uload32(flags, address, offset),
            (Widen::Sign, types::I32) => ins.sload32(flags, address, offset),
            _ => ins.load(access, flags, address, offset),
        };
        self.push(value);
        Ok(())
    }

    fn store(&mut self, memarg: &MemArg, narrow: Option<Type>) -> Result<(), Failure> {
        let (value, index) = (self.pop()?, self.pop()?);
        let width = narrow.unwrap_or_else(|| self.builder.func.dfg.value_type(value)).bytes();
        let (address, offset, flags) = self.effective_address(memarg, index, width)?;
        let ins = self.builder.ins();
        match narrow {
            Some(types::I8) => ins.istore8(flags, value, address, offset),
            Some(types::I16) => ins.istore16(flags, value, address, offset),
            Some(_) => ins.istore32(flags, value, address, offset),
            None => ins.store(flags, value, address, offset),
        };
        Ok(())
    }

    /// The address of an access to `width` bytes as Cranelift wants it: a base value, and an offset for the instruction.
    pub(super) fn effective_address(
        &mut self,
        memarg: &MemArg,
        index: Value,
        width: u32,
    ) -> Result<(Value, i32, MemFlagsData), Failure> {
        let memory = self.memory(memarg.memory)?;
        let (index, offset) = if memory.index64 {
            self.checked_index(&memory, index, memarg.offset, width)?
        } else {
            (self.extend(index), memarg.offset)
        };
        // The memory's base is the constant and the offset stays with the instruction, so accesses to several fields of
        // a structure share the addition. For memory 0 both fold into one displacement if their sum has 31 bits; else
        // the sum is the constant. The base of a further memory never folds.
        let fits = |value: u64| i32::try_from(value).ok();
        let folds = fits(memory.base).is_none() || memory.base.checked_add(offset).and_then(fits).is_some();
        let (base, displacement) = match fits(offset) {
            Some(offset) if folds => (memory.base, offset),
            _ => (memory.base.wrapping_add(offset), 0),
        };
        let base = self.constant(base);
        let address = self.builder.ins().iadd(index, base);
        let flags = self.memory_flags(memarg.memory);
        Ok((address, displacement, flags))
    }

    /// Traps when an access with a 64-bit index is outside of what the memory's reservation holds; what is left of index
    /// and offset. Inside of it the guard pages decide, as for 32 bits.
    fn checked_index(
        &mut self,
        memory: &MemoryPlan,
        index: Value,
        offset: u64,
        width: u32,
    ) -> Result<(Value, u64), Failure> {
        let out_of_bounds = TrapCode::HEAP_OUT_OF_BOUNDS;
        let (index, offset) = if offset.saturating_add(width.into()) <= MEMORY_GUARD {
            (index, offset)
        } else {
            let offset = self.constant(offset);
            (self.builder.ins().uadd_overflow_trap(index, offset, out_of_bounds), 0)
        };
        // Any limit from the largest size to the end of what can be mapped will do; a small one is an immediate.
        let limit = if memory.max_bytes <= SMALL_LIMIT { SMALL_LIMIT } else { MEMORY_MAX };
        let outside = self.builder.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, index, limit as i64);
        self.builder.ins().trapnz(outside, out_of_bounds);
        if !self.environment.options.spectre_guards {
            return Ok((index, offset));
        }
        // A processor that guesses that the check passes goes on in the guard.
        let guard = self.constant(MEMORY_MAX);
        Ok((self.builder.ins().select_spectre_guard(outside, guard, index), offset))
    }

    /// Flags of accesses to a memory: of any alignment, and a fault is the trap.
    pub(super) fn memory_flags(&mut self, memory: u32) -> MemFlagsData {
        let region = self.memory_region(memory);
        MemFlagsData::new()
            .with_endianness(Endianness::Little)
            .with_trap_code(Some(TrapCode::HEAP_OUT_OF_BOUNDS))
            .with_alias_region(Some(region))
    }

    pub(super) fn memory_region(&mut self, memory: u32) -> AliasRegion {
        if memory == 0 {
            return self.regions.memory;
        }
        let region = AliasRegionData { user_id: REGION + memory, description: "memory".into() };
        self.builder.func.dfg.alias_regions.insert(region)
    }

    pub(super) fn memory(&self, index: u32) -> Result<MemoryPlan, Failure> {
        let memory = self.environment.plan.memories.get(index as usize).copied();
        memory.ok_or_else(|| unexpected("an unknown memory", self.offset))
    }

    /// The memory's current size in bytes.
    fn memory_bytes(&mut self, memory: &MemoryPlan) -> Result<Value, Failure> {
        if memory.bytes == memory.max_bytes {
            return Ok(self.constant(memory.bytes));
        }
        let flags = self.context_flags();
        self.load_context(memory.descriptor + offset_of!(MemoryDescriptor, bytes) as u64, flags)
    }

    pub(super) fn memory_size(&mut self, index: u32) -> Result<(), Failure> {
        let memory = self.memory(index)?;
        let bytes = self.memory_bytes(&memory)?;
        let pages = self.builder.ins().ushr_imm_u(bytes, i64::from(WASM_PAGE.trailing_zeros()));
        let pages = self.narrow(pages, memory.index64);
        self.push(pages);
        Ok(())
    }

    pub(super) fn memory_grow(&mut self, index: u32) -> Result<(), Failure> {
        let memory = self.memory(index)?;
        let delta = self.pop()?;
        let delta = self.extend(delta);
        let descriptor = self.constant(memory.descriptor);
        let old = self.call_builtin(Builtin::MemoryGrow, &[descriptor, delta])?;
        let old = old.ok_or_else(|| unexpected("a builtin without a result", self.offset))?;
        // Failure is all ones in 64 bits, and so in 32.
        let old = self.narrow(old, memory.index64);
        self.push(old);
        Ok(())
    }

    pub(super) fn memory_init(&mut self, segment: u32, index: u32) -> Result<(), Failure> {
        let memory = self.memory(index)?;
        let segment = self.environment.plan.data.get(segment as usize).copied().flatten();
        let (length, source, destination) = self.pop_range()?;
        let source = self.checked_segment_range(segment, source, length, TrapCode::HEAP_OUT_OF_BOUNDS)?;
        let destination = self.checked_range(&memory, destination, length)?;
        if let Some(segment) = segment {
            let contents = self.rodata_address(segment.rodata);
            let source = self.builder.ins().iadd(contents, source);
            self.call_builtin(Builtin::Copy, &[destination, source, length])?;
        }
        Ok(())
    }

    pub(super) fn data_drop(&mut self, segment: u32) -> Result<(), Failure> {
        let segment = self.environment.plan.data.get(segment as usize).copied().flatten();
        self.drop_segment(segment)
    }

    /// Sets a segment's length to zero.
    pub(super) fn drop_segment(&mut self, segment: Option<SegmentPlan>) -> Result<(), Failure> {
        if let Some(segment) = segment {
            let zero = self.constant(0);
            let flags = self.context_flags();
            let (base, offset) = self.context_address(segment.length)?;
            self.builder.ins().store(flags, zero, base, offset);
        }
        Ok(())
    }

    /// A size, which has 64 bits here, as the index type that the module sees.
    pub(super) fn narrow(&mut self, size: Value, index64: bool) -> Value {
        if index64 { size } else { self.builder.ins().ireduce(types::I32, size) }
    }

    /// Pops length, source and destination, all zero-extended.
    pub(super) fn pop_range(&mut self) -> Result<(Value, Value, Value), Failure> {
        let (length, source, destination) = (self.pop()?, self.pop()?, self.pop()?);
        Ok((self.extend(length), self.extend(source), self.extend(destination)))
    }

    /// Traps unless `start + length` bytes are inside `memory`; the address of the first.
    pub(super) fn checked_range(
        &mut self,
        memory: &MemoryPlan,
        start: Value,
        length: Value,
    ) -> Result<Value, Failure> {
        let bytes = self.memory_bytes(memory)?;
        self.check_range(start, length, bytes, memory.index64, TrapCode::HEAP_OUT_OF_BOUNDS);
        let base = self.constant(memory.base);
        Ok(self.builder.ins().iadd(start, base))
    }

    /// Traps unless `start + length` elements are inside the segment (a dropped one has none); `start`.
    pub(super) fn checked_segment_range(
        &mut self,
        segment: Option<SegmentPlan>,
        start: Value,
        length: Value,
        trap: TrapCode,
    ) -> Result<Value, Failure> {
        let limit = match segment {
            Some(segment) => {
                let flags = self.context_flags();
                self.load_context(segment.length, flags)?
            }
            None => self.constant(0),
        };
        self.check_range(start, length, limit, false, trap);
        Ok(start)
    }

    /// Traps when `start + length > limit`. The sum can overflow only if an operand had 64 bits.
    pub(super) fn check_range(
        &mut self,
        start: Value,
        length: Value,
        limit: Value,
        index64: bool,
        trap: TrapCode,
    ) {
        let end = if index64 {
            self.builder.ins().uadd_overflow_trap(start, length, trap)
        } else {
            self.builder.ins().iadd(start, length)
        };
        let outside = self.builder.ins().icmp(IntCC::UnsignedGreaterThan, end, limit);
        self.builder.ins().trapnz(outside, trap);
    }
}
