//! Fuel: a count of what a guest executes that is the same on every run, machine and optimisation level.
//!
//! An operator costs one unit; `nop`, `drop` and what only marks structure cost nothing, entering a function costs one. So
//! do operators that work on many bytes: the amount bounds loops and calls, not time. The costs of a straight-line piece
//! are summed up here and taken from the counter ([`ipc::context::FUEL`]) at its end, before control goes anywhere
//! else; a piece that a trap ends in the middle is not counted. The counter is examined where a function or an iteration of a
//! loop begins: between two such places no operator is executed twice.
//!
//! The counter stays in memory, where whoever takes over finds it exact: a called function, a handler of exceptions, the
//! shim. Cranelift forwards it in a register from one piece to the next.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AliasRegionData, InstBuilder, MemFlagsData, Value, types};
use ipc::context::FUEL;
use wasmparser::Operator;

use super::{Failure, Translator};
use crate::trap::OUT_OF_FUEL;

/// Id of the counter's alias region: nothing else is there.
const REGION: u32 = 15;

impl Translator<'_, '_> {
    /// Where the function begins.
    pub(super) fn fuel_at_entry(&mut self) -> Result<(), Failure> {
        self.fuel_pending = 1;
        self.settle_fuel()?;
        self.check_fuel()
    }

    /// Takes an operator's cost, before it is translated at a position that can be reached.
    pub(super) fn charge_fuel(&mut self, operator: &Operator<'_>) -> Result<(), Failure> {
        if !self.environment.options.fuel {
            return Ok(());
        }
        if !is_free(operator) {
            self.fuel_pending += 1;
        }
        if ends_piece(operator) { self.settle_fuel() } else { Ok(()) }
    }

    /// Takes what is pending from the counter.
    fn settle_fuel(&mut self) -> Result<(), Failure> {
        if !self.environment.options.fuel || self.fuel_pending == 0 {
            return Ok(());
        }
        let left = self.fuel_left()?;
        let cost = std::mem::take(&mut self.fuel_pending);
        let left = self.builder.ins().iadd_imm_s(left, -i64::from(cost));
        let flags = self.fuel_flags();
        let (base, offset) = self.context_address(FUEL)?;
        self.builder.ins().store(flags, left, base, offset);
        Ok(())
    }

    /// Traps when more was used than there was.
    pub(super) fn check_fuel(&mut self) -> Result<(), Failure> {
        if !self.environment.options.fuel {
            return Ok(());
        }
        let left = self.fuel_left()?;
        let used_up = self.builder.ins().icmp_imm_s(IntCC::SignedLessThan, left, 0);
        self.builder.ins().trapnz(used_up, OUT_OF_FUEL);
        Ok(())
    }

    fn fuel_left(&mut self) -> Result<Value, Failure> {
        let flags = self.fuel_flags();
        let (base, offset) = self.context_address(FUEL)?;
        Ok(self.builder.ins().load(types::I64, flags, base, offset))
    }

    fn fuel_flags(&mut self) -> MemFlagsData {
        let region = AliasRegionData { user_id: REGION, description: "fuel".into() };
        let region = self.builder.func.dfg.alias_regions.insert(region);
        MemFlagsData::trusted().with_alias_region(Some(region))
    }
}

fn is_free(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::Nop
            | Operator::Drop
            | Operator::Block { .. }
            | Operator::Loop { .. }
            | Operator::Else
            | Operator::End
            | Operator::Unreachable
            | Operator::Return
    )
}

/// Whether control may go, or come from, somewhere else at this operator; growing memory may end the job.
fn ends_piece(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::Unreachable
            | Operator::Loop { .. }
            | Operator::If { .. }
            | Operator::Else
            | Operator::End
            | Operator::Br { .. }
            | Operator::BrIf { .. }
            | Operator::BrTable { .. }
            | Operator::BrOnNull { .. }
            | Operator::BrOnNonNull { .. }
            | Operator::Return
            | Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::ReturnCallRef { .. }
            | Operator::TryTable { .. }
            | Operator::Throw { .. }
            | Operator::ThrowRef
            | Operator::MemoryGrow { .. }
    )
}
