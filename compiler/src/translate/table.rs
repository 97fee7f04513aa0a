//! Tables: arrays of 16-byte [`TableEntry`] at constant addresses.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{BlockArg, InstBuilder, MemFlagsData, Value, types};
use ipc::context::{TableDescriptor, TableEntry};

use super::abi::Builtin;
use super::{Failure, Translator, unexpected};
use crate::plan::{ENTRY, TablePlan};
use crate::trap::TABLE_OUT_OF_BOUNDS;
use crate::types::ValType;

const SECOND_WORD: i32 = 8;
const ENTRY_SHIFT: i64 = ENTRY.trailing_zeros() as i64;

/// The two words of a table entry.
type Words = (Value, Value);

impl Translator<'_, '_> {
    /// Flags of accesses to an entry whose index was checked.
    pub(super) fn table_flags(&self) -> MemFlagsData {
        MemFlagsData::trusted().with_alias_region(Some(self.regions.tables))
    }

    fn table(&self, index: u32) -> Result<(ValType, TablePlan), Failure> {
        let ty = self.environment.module.tables.get(index as usize).map(|table| table.ty);
        let plan = self.environment.plan.tables.get(index as usize).copied();
        ty.zip(plan).ok_or_else(|| unexpected("an unknown table", self.offset))
    }

    /// The table's current size in entries, as 64 bits.
    fn table_size(&mut self, table: &TablePlan) -> Result<Value, Failure> {
        if table.is_fixed() {
            return Ok(self.constant(table.size));
        }
        let flags = self.context_flags();
        self.load_context(table.descriptor + offset_of!(TableDescriptor, size) as u64, flags)
    }

    /// Traps unless `index` is inside the table; the entry's address.
    pub(super) fn checked_entry(&mut self, table: u32, index: Value) -> Result<Value, Failure> {
        let (_, table) = self.table(table)?;
        let (index, outside) = if table.is_fixed() {
            // At most `Caps::table_entries`, so it fits; comparing before an extension lets that fold.
            let outside =
                self.builder.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, index, table.size as i64);
            self.builder.ins().trapnz(outside, TABLE_OUT_OF_BOUNDS);
            (self.extend(index), outside)
        } else {
            let index = self.extend(index);
            let size = self.table_size(&table)?;
            let outside = self.builder.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, index, size);
            self.builder.ins().trapnz(outside, TABLE_OUT_OF_BOUNDS);
            (index, outside)
        };
        let entry = self.entry_address(table.base, index);
        if !self.environment.options.spectre_guards {
            return Ok(entry);
        }
        // A processor that guesses that the check passes goes on with the null descriptor, which is of no
        // type and has its code at address 0.
        let null = self.rodata_address(0);
        Ok(self.builder.ins().select_spectre_guard(outside, null, entry))
    }

    /// `base + index * 16`.
    fn entry_address(&mut self, base: u64, index: Value) -> Value {
        let offset = self.builder.ins().ishl_imm_u(index, ENTRY_SHIFT);
        let base = self.constant(base);
        self.builder.ins().iadd(offset, base)
    }

    pub(super) fn table_get(&mut self, index: u32) -> Result<(), Failure> {
        let (ty, _) = self.table(index)?;
        let position = self.pop()?;
        let entry = self.checked_entry(index, position)?;
        let flags = self.table_flags();
        let value = match ty {
            ValType::FuncRef => {
                self.builder.ins().uload32(flags, entry, offset_of!(TableEntry, reference) as i32)
            }
            _ => self.builder.ins().load(types::I64, flags, entry, offset_of!(TableEntry, code) as i32),
        };
        self.push(value);
        Ok(())
    }

    pub(super) fn table_set(&mut self, index: u32) -> Result<(), Failure> {
        let (ty, _) = self.table(index)?;
        let (reference, position) = (self.pop()?, self.pop()?);
        let entry = self.checked_entry(index, position)?;
        let words = self.entry_words(ty, reference);
        self.store_entry(entry, words);
        Ok(())
    }

    pub(super) fn table_size_operator(&mut self, index: u32) -> Result<(), Failure> {
        let (_, table) = self.table(index)?;
        let size = self.table_size(&table)?;
        let size = self.narrow(size, table.index64);
        self.push(size);
        Ok(())
    }

    pub(super) fn table_grow(&mut self, index: u32) -> Result<(), Failure> {
        let (ty, table) = self.table(index)?;
        let (delta, reference) = (self.pop()?, self.pop()?);
        let delta = self.extend(delta);
        let words = self.entry_words(ty, reference);
        let descriptor = self.constant(table.descriptor);
        let old = self.call_builtin(Builtin::TableGrow, &[descriptor, delta])?;
        let old = old.ok_or_else(|| unexpected("a builtin without a result", self.offset))?;
        // The new entries are null; after a failure there are none to fill.
        let failed = self.builder.ins().icmp_imm_s(IntCC::Equal, old, -1);
        let zero = self.constant(0);
        let start = self.builder.ins().select(failed, zero, old);
        let count = self.builder.ins().select(failed, zero, delta);
        let first = self.entry_address(table.base, start);
        self.fill_entries(first, count, words)?;
        let old = self.narrow(old, table.index64);
        self.push(old);
        Ok(())
    }

    pub(super) fn table_fill(&mut self, index: u32) -> Result<(), Failure> {
        let (ty, table) = self.table(index)?;
        let (count, reference, start) = (self.pop()?, self.pop()?, self.pop()?);
        let (count, start) = (self.extend(count), self.extend(start));
        let size = self.table_size(&table)?;
        self.check_range(start, count, size, table.index64, TABLE_OUT_OF_BOUNDS);
        let words = self.entry_words(ty, reference);
        let first = self.entry_address(table.base, start);
        self.fill_entries(first, count, words)
    }

    pub(super) fn table_copy(&mut self, to: u32, from: u32) -> Result<(), Failure> {
        let ((_, to), (_, from)) = (self.table(to)?, self.table(from)?);
        let (count, source, destination) = self.pop_range()?;
        let size = self.table_size(&from)?;
        self.check_range(source, count, size, from.index64, TABLE_OUT_OF_BOUNDS);
        let size = self.table_size(&to)?;
        self.check_range(destination, count, size, to.index64, TABLE_OUT_OF_BOUNDS);
        let source = self.entry_address(from.base, source);
        let destination = self.entry_address(to.base, destination);
        self.copy_entries(destination, source, count)
    }

    pub(super) fn table_init(&mut self, segment: u32, table: u32) -> Result<(), Failure> {
        let (_, table) = self.table(table)?;
        let segment = self.environment.plan.elements.get(segment as usize).copied().flatten();
        let (count, source, destination) = self.pop_range()?;
        let source = self.checked_segment_range(segment, source, count, TABLE_OUT_OF_BOUNDS)?;
        let size = self.table_size(&table)?;
        self.check_range(destination, count, size, table.index64, TABLE_OUT_OF_BOUNDS);
        if let Some(segment) = segment {
            let contents = self.rodata_address(segment.rodata);
            let offset = self.builder.ins().ishl_imm_u(source, ENTRY_SHIFT);
            let source = self.builder.ins().iadd(contents, offset);
            let destination = self.entry_address(table.base, destination);
            self.copy_entries(destination, source, count)?;
        }
        Ok(())
    }

    pub(super) fn elem_drop(&mut self, segment: u32) -> Result<(), Failure> {
        let segment = self.environment.plan.elements.get(segment as usize).copied().flatten();
        self.drop_segment(segment)
    }

    /// The words that an entry holds for a reference: a copy of the function's descriptor, or the host value.
    fn entry_words(&mut self, ty: ValType, reference: Value) -> Words {
        if ty != ValType::FuncRef {
            return (reference, self.constant(0));
        }
        let descriptor = self.descriptor(reference);
        // Function descriptors are never written.
        let flags = MemFlagsData::trusted().with_readonly();
        let first = self.builder.ins().load(types::I64, flags, descriptor, 0);
        let second = self.builder.ins().load(types::I64, flags, descriptor, SECOND_WORD);
        (first, second)
    }

    /// The address of the function descriptor that a `funcref` is the index of.
    pub(super) fn descriptor(&mut self, reference: Value) -> Value {
        let descriptors = self.rodata_address(0);
        let offset = self.builder.ins().ishl_imm_u(reference, ENTRY_SHIFT);
        self.builder.ins().iadd(descriptors, offset)
    }

    fn store_entry(&mut self, entry: Value, (first, second): Words) {
        let flags = self.table_flags();
        self.builder.ins().store(flags, first, entry, 0);
        self.builder.ins().store(flags, second, entry, SECOND_WORD);
    }

    fn copy_entries(&mut self, to: Value, from: Value, count: Value) -> Result<(), Failure> {
        let bytes = self.builder.ins().ishl_imm_u(count, ENTRY_SHIFT);
        self.call_builtin(Builtin::Copy, &[to, from, bytes])?;
        Ok(())
    }

    /// Writes `count` entries from `first` on: a loop, as entries are filled rarely.
    fn fill_entries(&mut self, first: Value, count: Value, words: Words) -> Result<(), Failure> {
        let bytes = self.builder.ins().ishl_imm_u(count, ENTRY_SHIFT);
        let end = self.builder.ins().iadd(first, bytes);
        let (header, body, done) =
            (self.builder.create_block(), self.builder.create_block(), self.builder.create_block());
        let entry = self.builder.append_block_param(header, types::I64);
        self.builder.ins().jump(header, &[BlockArg::from(first)]);

        self.builder.switch_to_block(header);
        let more = self.builder.ins().icmp(IntCC::UnsignedLessThan, entry, end);
        self.builder.ins().brif(more, body, &[], done, &[]);
        self.builder.seal_block(body);
        self.builder.seal_block(done);

        self.builder.switch_to_block(body);
        self.store_entry(entry, words);
        let next = self.builder.ins().iadd_imm_u(entry, ENTRY as i64);
        self.builder.ins().jump(header, &[BlockArg::from(next)]);
        self.builder.seal_block(header);

        self.builder.switch_to_block(done);
        Ok(())
    }
}
