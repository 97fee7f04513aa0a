//! 128-bit vectors: the fixed-width and the relaxed SIMD instructions, one file per family.
//!
//! WebAssembly has one type of vectors, Cranelift one for each kind of lanes. A local, a block's parameter and a function's
//! parameter or result is always of type [`VECTOR`]; the operand stack holds whatever type the last operator made, and the next
//! one casts what it gets if it wants other lanes. A cast is no instruction in the end, but it hides from the code
//! generator what is behind it, so constants and fresh loads change their type instead.

mod binary;
mod lanes;
mod memory;
mod unary;

use cranelift_codegen::ir::types::{F32X4, F64X2, I8X16, I16X8, I32, I32X4, I64X2};
use cranelift_codegen::ir::{
    Endianness, InstBuilder, InstructionData, MemFlagsData, Opcode, Type, Value, ValueDef,
};
use cranelift_frontend::FunctionBuilder;
use wasmparser::Operator;

use super::{Failure, Translator};

/// The type of vectors between blocks and functions.
const VECTOR: Type = I8X16;

impl Translator<'_, '_> {
    /// Translates an operator on vectors; `false` for any other.
    pub(super) fn simd(&mut self, operator: &Operator<'_>) -> Result<bool, Failure> {
        Ok(self.vector_memory(operator)?
            || self.vector_binary(operator)?
            || self.vector_unary(operator)?
            || self.vector_lanes(operator)?
            || self.vector_other(operator)?)
    }

    /// Operators with three operands, shifts, and those that make a number of a vector.
    fn vector_other(&mut self, operator: &Operator<'_>) -> Result<bool, Failure> {
        match operator {
            Operator::I8x16Shl => self.shift(I8X16, |f, a, n| f.ins().ishl(a, n)),
            Operator::I16x8Shl => self.shift(I16X8, |f, a, n| f.ins().ishl(a, n)),
            Operator::I32x4Shl => self.shift(I32X4, |f, a, n| f.ins().ishl(a, n)),
            Operator::I64x2Shl => self.shift(I64X2, |f, a, n| f.ins().ishl(a, n)),
            Operator::I8x16ShrS => self.shift(I8X16, |f, a, n| f.ins().sshr(a, n)),
            Operator::I16x8ShrS => self.shift(I16X8, |f, a, n| f.ins().sshr(a, n)),
            Operator::I32x4ShrS => self.shift(I32X4, |f, a, n| f.ins().sshr(a, n)),
            Operator::I64x2ShrS => self.shift(I64X2, |f, a, n| f.ins().sshr(a, n)),
            Operator::I8x16ShrU => self.shift(I8X16, |f, a, n| f.ins().ushr(a, n)),
            Operator::I16x8ShrU => self.shift(I16X8, |f, a, n| f.ins().ushr(a, n)),
            Operator::I32x4ShrU => self.shift(I32X4, |f, a, n| f.ins().ushr(a, n)),
            Operator::I64x2ShrU => self.shift(I64X2, |f, a, n| f.ins().ushr(a, n)),

            Operator::V128AnyTrue => {
                let value = self.pop_as_is()?;
                let any = self.builder.ins().vany_true(value);
                let any = self.builder.ins().uextend(I32, any);
                self.push(any);
                Ok(())
            }
            Operator::I8x16AllTrue => self.all_true(I8X16),
            Operator::I16x8AllTrue => self.all_true(I16X8),
            Operator::I32x4AllTrue => self.all_true(I32X4),
            Operator::I64x2AllTrue => self.all_true(I64X2),
            Operator::I8x16Bitmask => self.bitmask(I8X16),
            Operator::I16x8Bitmask => self.bitmask(I16X8),
            Operator::I32x4Bitmask => self.bitmask(I32X4),
            Operator::I64x2Bitmask => self.bitmask(I64X2),

            Operator::V128Bitselect => {
                let mask = self.pop_as_is()?;
                let ty = self.builder.func.dfg.value_type(mask);
                let (otherwise, then) = (self.pop_lanes(ty)?, self.pop_lanes(ty)?);
                let value = self.builder.ins().bitselect(mask, then, otherwise);
                self.push(value);
                Ok(())
            }
            Operator::I8x16RelaxedLaneselect => self.blend(I8X16),
            Operator::I32x4RelaxedLaneselect => self.blend(I32X4),
            Operator::I64x2RelaxedLaneselect => self.blend(I64X2),
            // There is no instruction that looks at one bit of 16. By bytes it is another result that is allowed.
            Operator::I16x8RelaxedLaneselect => self.blend(I8X16),
            Operator::F32x4RelaxedMadd => self.multiply_add(F32X4, false),
            Operator::F64x2RelaxedMadd => self.multiply_add(F64X2, false),
            Operator::F32x4RelaxedNmadd => self.multiply_add(F32X4, true),
            Operator::F64x2RelaxedNmadd => self.multiply_add(F64X2, true),
            Operator::I32x4RelaxedDotI8x16I7x16AddS => {
                let (sum, right, left) =
                    (self.pop_lanes(I32X4)?, self.pop_lanes(I8X16)?, self.pop_lanes(I8X16)?);
                let products = self.builder.ins().x86_pmaddubsw(left, right);
                let products = pairwise(
                    &mut self.builder,
                    products,
                    |f, a| f.ins().swiden_low(a),
                    |f, a| f.ins().swiden_high(a),
                );
                let sum = self.builder.ins().iadd(products, sum);
                self.push(sum);
                Ok(())
            }
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    /// Shifts every lane by the same number of bits, modulo the width, as Cranelift does.
    fn shift(
        &mut self,
        ty: Type,
        build: fn(&mut FunctionBuilder<'_>, Value, Value) -> Value,
    ) -> Result<(), Failure> {
        let (bits, value) = (self.pop()?, self.pop_lanes(ty)?);
        let value = build(&mut self.builder, value, bits);
        self.push(value);
        Ok(())
    }

    fn all_true(&mut self, ty: Type) -> Result<(), Failure> {
        let value = self.pop_lanes(ty)?;
        let all = self.builder.ins().vall_true(value);
        let all = self.builder.ins().uextend(I32, all);
        self.push(all);
        Ok(())
    }

    fn bitmask(&mut self, ty: Type) -> Result<(), Failure> {
        let value = self.pop_lanes(ty)?;
        let bits = self.builder.ins().vhigh_bits(I32, value);
        self.push(bits);
        Ok(())
    }

    /// Selects lanes by the highest bit of the mask's.
    fn blend(&mut self, ty: Type) -> Result<(), Failure> {
        let (mask, otherwise, then) = (self.pop_lanes(ty)?, self.pop_lanes(ty)?, self.pop_lanes(ty)?);
        let value = self.builder.ins().blendv(mask, then, otherwise);
        self.push(value);
        Ok(())
    }

    /// `a * b + c` or `-(a * b) + c`, rounded twice: every CPU does that alike.
    fn multiply_add(&mut self, ty: Type, negate: bool) -> Result<(), Failure> {
        let (c, b, a) = (self.pop_lanes(ty)?, self.pop_lanes(ty)?, self.pop_lanes(ty)?);
        let product = self.builder.ins().fmul(a, b);
        let value =
            if negate { self.builder.ins().fsub(c, product) } else { self.builder.ins().fadd(product, c) };
        self.push(value);
        Ok(())
    }

    /// The top operand, a vector with lanes of any kind.
    fn pop_as_is(&mut self) -> Result<Value, Failure> {
        let value = self.stack.pop();
        value.ok_or_else(|| super::unexpected("an empty operand stack", self.offset))
    }

    /// The top operand, with these lanes.
    fn pop_lanes(&mut self, ty: Type) -> Result<Value, Failure> {
        let value = self.pop_as_is()?;
        Ok(self.with_lanes(value, ty))
    }

    /// A value as it is stored in locals and passed on: a vector is cast to [`VECTOR`].
    pub(super) fn canonical(&mut self, value: Value) -> Value {
        let ty = self.builder.func.dfg.value_type(value);
        if ty == VECTOR || !ty.is_vector() { value } else { self.with_lanes(value, VECTOR) }
    }

    /// Notes that values up to now may be used in several places.
    pub(super) fn all_shared(&mut self) {
        self.unshared = self.builder.func.dfg.num_values();
    }

    /// A vector with lanes of type `ty`. `value` must have been taken from the operand stack.
    fn with_lanes(&mut self, value: Value, ty: Type) -> Value {
        let dfg = &mut self.builder.func.dfg;
        if dfg.value_type(value) == ty {
            return value;
        }
        if let ValueDef::Result(instruction, 0) = dfg.value_def(value) {
            match dfg.insts[instruction] {
                InstructionData::UnaryConst { opcode: Opcode::Vconst, constant_handle } => {
                    return self.builder.ins().vconst(ty, constant_handle);
                }
                // Nothing else has seen the value yet.
                InstructionData::Load { opcode: Opcode::Load, .. }
                    if value.as_u32() as usize >= self.unshared =>
                {
                    return dfg.replace_result(value, ty);
                }
                _ => {}
            }
        }
        // Lane 0 is in the lowest bytes.
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.builder.ins().bitcast(ty, flags, value)
    }
}

/// The sums of neighbouring lanes of a vector, in lanes of twice the width.
fn pairwise(
    f: &mut FunctionBuilder<'_>,
    value: Value,
    low: fn(&mut FunctionBuilder<'_>, Value) -> Value,
    high: fn(&mut FunctionBuilder<'_>, Value) -> Value,
) -> Value {
    let (low, high) = (low(f, value), high(f, value));
    f.ins().iadd_pairwise(low, high)
}
