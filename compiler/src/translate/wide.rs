//! Wide arithmetic: 128-bit sums, differences and products in pairs of 64-bit numbers, low half first.
//!
//! As 128-bit values they become an addition with carry, a subtraction with borrow, a widening multiplication.

use cranelift_codegen::ir::types::I128;
use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_frontend::FunctionBuilder;
use wasmparser::Operator;

use super::{Failure, Translator};

impl Translator<'_, '_> {
    /// Translates an operator on 128-bit integers; `false` for any other.
    pub(super) fn wide_arithmetic(&mut self, operator: &Operator<'_>) -> Result<bool, Failure> {
        match operator {
            Operator::I64Add128 => self.wide_binary(|f, a, b| f.ins().iadd(a, b)),
            Operator::I64Sub128 => self.wide_binary(|f, a, b| f.ins().isub(a, b)),
            Operator::I64MulWideS => self.multiply_wide(|f, a| f.ins().sextend(I128, a)),
            Operator::I64MulWideU => self.multiply_wide(|f, a| f.ins().uextend(I128, a)),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    fn wide_binary(
        &mut self,
        build: fn(&mut FunctionBuilder<'_>, Value, Value) -> Value,
    ) -> Result<(), Failure> {
        let (right_high, right_low) = (self.pop()?, self.pop()?);
        let (left_high, left_low) = (self.pop()?, self.pop()?);
        let left = self.builder.ins().iconcat(left_low, left_high);
        let right = self.builder.ins().iconcat(right_low, right_high);
        let value = build(&mut self.builder, left, right);
        self.push_halves(value);
        Ok(())
    }

    fn multiply_wide(&mut self, extend: fn(&mut FunctionBuilder<'_>, Value) -> Value) -> Result<(), Failure> {
        let (right, left) = (self.pop()?, self.pop()?);
        let (left, right) = (extend(&mut self.builder, left), extend(&mut self.builder, right));
        let product = self.builder.ins().imul(left, right);
        self.push_halves(product);
        Ok(())
    }

    fn push_halves(&mut self, value: Value) {
        let (low, high) = self.builder.ins().isplit(value);
        self.push(low);
        self.push(high);
    }
}
