//! References to functions and host values: 64-bit integers, 0 is null.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, types};

use super::{Failure, Translator};
use crate::{plan, trap};

impl Translator<'_, '_> {
    pub(super) fn ref_null(&mut self) -> Result<(), Failure> {
        let null = self.constant(0);
        self.push(null);
        Ok(())
    }

    pub(super) fn ref_is_null(&mut self) -> Result<(), Failure> {
        let value = self.pop()?;
        let is_null = self.builder.ins().icmp_imm_u(IntCC::Equal, value, 0);
        let is_null = self.builder.ins().uextend(types::I32, is_null);
        self.push(is_null);
        Ok(())
    }

    pub(super) fn ref_as_non_null(&mut self) -> Result<(), Failure> {
        let value = self.pop()?;
        if !self.top_is_not_null {
            self.builder.ins().trapz(value, trap::NULL_REFERENCE);
        }
        self.push(value);
        Ok(())
    }

    pub(super) fn ref_func(&mut self, function: u32) -> Result<(), Failure> {
        let value = self.constant(plan::reference(function, &self.environment.plan.references));
        self.push(value);
        Ok(())
    }
}
