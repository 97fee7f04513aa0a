//! Operators that make a vector of two.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32X4, F64X2, I8X16, I16X8, I32X4, I64X2};
use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, Type, Value};
use cranelift_frontend::FunctionBuilder;
use wasmparser::Operator;

use crate::translate::{Failure, Translator};

type Binary = fn(&mut FunctionBuilder<'_>, Value, Value) -> Value;

impl Translator<'_, '_> {
    /// Translates an operator that makes a vector of two; `false` for any other.
    pub(super) fn vector_binary(&mut self, operator: &Operator<'_>) -> Result<bool, Failure> {
        // The type of the operands, and what makes the result of them.
        let (ty, build): (Type, Binary) = match operator {
            Operator::I8x16Add => (I8X16, |f, a, b| f.ins().iadd(a, b)),
            Operator::I16x8Add => (I16X8, |f, a, b| f.ins().iadd(a, b)),
            Operator::I32x4Add => (I32X4, |f, a, b| f.ins().iadd(a, b)),
            Operator::I64x2Add => (I64X2, |f, a, b| f.ins().iadd(a, b)),
            Operator::I8x16Sub => (I8X16, |f, a, b| f.ins().isub(a, b)),
            Operator::I16x8Sub => (I16X8, |f, a, b| f.ins().isub(a, b)),
            Operator::I32x4Sub => (I32X4, |f, a, b| f.ins().isub(a, b)),
            Operator::I64x2Sub => (I64X2, |f, a, b| f.ins().isub(a, b)),
            Operator::I16x8Mul => (I16X8, |f, a, b| f.ins().imul(a, b)),
            Operator::I32x4Mul => (I32X4, |f, a, b| f.ins().imul(a, b)),
            Operator::I64x2Mul => (I64X2, |f, a, b| f.ins().imul(a, b)),
            Operator::I8x16AddSatS => (I8X16, |f, a, b| f.ins().sadd_sat(a, b)),
            Operator::I16x8AddSatS => (I16X8, |f, a, b| f.ins().sadd_sat(a, b)),
            Operator::I8x16AddSatU => (I8X16, |f, a, b| f.ins().uadd_sat(a, b)),
            Operator::I16x8AddSatU => (I16X8, |f, a, b| f.ins().uadd_sat(a, b)),
            Operator::I8x16SubSatS => (I8X16, |f, a, b| f.ins().ssub_sat(a, b)),
            Operator::I16x8SubSatS => (I16X8, |f, a, b| f.ins().ssub_sat(a, b)),
            Operator::I8x16SubSatU => (I8X16, |f, a, b| f.ins().usub_sat(a, b)),
            Operator::I16x8SubSatU => (I16X8, |f, a, b| f.ins().usub_sat(a, b)),
            Operator::I8x16AvgrU => (I8X16, |f, a, b| f.ins().avg_round(a, b)),
            Operator::I16x8AvgrU => (I16X8, |f, a, b| f.ins().avg_round(a, b)),
            Operator::I8x16MinS => (I8X16, |f, a, b| f.ins().smin(a, b)),
            Operator::I16x8MinS => (I16X8, |f, a, b| f.ins().smin(a, b)),
            Operator::I32x4MinS => (I32X4, |f, a, b| f.ins().smin(a, b)),
            Operator::I8x16MinU => (I8X16, |f, a, b| f.ins().umin(a, b)),
            Operator::I16x8MinU => (I16X8, |f, a, b| f.ins().umin(a, b)),
            Operator::I32x4MinU => (I32X4, |f, a, b| f.ins().umin(a, b)),
            Operator::I8x16MaxS => (I8X16, |f, a, b| f.ins().smax(a, b)),
            Operator::I16x8MaxS => (I16X8, |f, a, b| f.ins().smax(a, b)),
            Operator::I32x4MaxS => (I32X4, |f, a, b| f.ins().smax(a, b)),
            Operator::I8x16MaxU => (I8X16, |f, a, b| f.ins().umax(a, b)),
            Operator::I16x8MaxU => (I16X8, |f, a, b| f.ins().umax(a, b)),
            Operator::I32x4MaxU => (I32X4, |f, a, b| f.ins().umax(a, b)),

            Operator::I8x16Eq => (I8X16, |f, a, b| f.ins().icmp(IntCC::Equal, a, b)),
            Operator::I16x8Eq => (I16X8, |f, a, b| f.ins().icmp(IntCC::Equal, a, b)),
            Operator::I32x4Eq => (I32X4, |f, a, b| f.ins().icmp(IntCC::Equal, a, b)),
            Operator::I64x2Eq => (I64X2, |f, a, b| f.ins().icmp(IntCC::Equal, a, b)),
            Operator::I8x16Ne => (I8X16, |f, a, b| f.ins().icmp(IntCC::NotEqual, a, b)),
            Operator::I16x8Ne => (I16X8, |f, a, b| f.ins().icmp(IntCC::NotEqual, a, b)),
            Operator::I32x4Ne => (I32X4, |f, a, b| f.ins().icmp(IntCC::NotEqual, a, b)),
            Operator::I64x2Ne => (I64X2, |f, a, b| f.ins().icmp(IntCC::NotEqual, a, b)),
            Operator::I8x16LtS => (I8X16, |f, a, b| f.ins().icmp(IntCC::SignedLessThan, a, b)),
            Operator::I16x8LtS => (I16X8, |f, a, b| f.ins().icmp(IntCC::SignedLessThan, a, b)),
            Operator::I32x4LtS => (I32X4, |f, a, b| f.ins().icmp(IntCC::SignedLessThan, a, b)),
            Operator::I64x2LtS => (I64X2, |f, a, b| f.ins().icmp(IntCC::SignedLessThan, a, b)),
            Operator::I8x16LtU => (I8X16, |f, a, b| f.ins().icmp(IntCC::UnsignedLessThan, a, b)),
            Operator::I16x8LtU => (I16X8, |f, a, b| f.ins().icmp(IntCC::UnsignedLessThan, a, b)),
            Operator::I32x4LtU => (I32X4, |f, a, b| f.ins().icmp(IntCC::UnsignedLessThan, a, b)),
            Operator::I8x16GtS => (I8X16, |f, a, b| f.ins().icmp(IntCC::SignedGreaterThan, a, b)),
            Operator::I16x8GtS => (I16X8, |f, a, b| f.ins().icmp(IntCC::SignedGreaterThan, a, b)),
            Operator::I32x4GtS => (I32X4, |f, a, b| f.ins().icmp(IntCC::SignedGreaterThan, a, b)),
            Operator::I64x2GtS => (I64X2, |f, a, b| f.ins().icmp(IntCC::SignedGreaterThan, a, b)),
            Operator::I8x16GtU => (I8X16, |f, a, b| f.ins().icmp(IntCC::UnsignedGreaterThan, a, b)),
            Operator::I16x8GtU => (I16X8, |f, a, b| f.ins().icmp(IntCC::UnsignedGreaterThan, a, b)),
            Operator::I32x4GtU => (I32X4, |f, a, b| f.ins().icmp(IntCC::UnsignedGreaterThan, a, b)),
            Operator::I8x16LeS => (I8X16, |f, a, b| f.ins().icmp(IntCC::SignedLessThanOrEqual, a, b)),
            Operator::I16x8LeS => (I16X8, |f, a, b| f.ins().icmp(IntCC::SignedLessThanOrEqual, a, b)),
            Operator::I32x4LeS => (I32X4, |f, a, b| f.ins().icmp(IntCC::SignedLessThanOrEqual, a, b)),
            Operator::I64x2LeS => (I64X2, |f, a, b| f.ins().icmp(IntCC::SignedLessThanOrEqual, a, b)),
            Operator::I8x16LeU => (I8X16, |f, a, b| f.ins().icmp(IntCC::UnsignedLessThanOrEqual, a, b)),
            Operator::I16x8LeU => (I16X8, |f, a, b| f.ins().icmp(IntCC::UnsignedLessThanOrEqual, a, b)),
            Operator::I32x4LeU => (I32X4, |f, a, b| f.ins().icmp(IntCC::UnsignedLessThanOrEqual, a, b)),
            Operator::I8x16GeS => (I8X16, |f, a, b| f.ins().icmp(IntCC::SignedGreaterThanOrEqual, a, b)),
            Operator::I16x8GeS => (I16X8, |f, a, b| f.ins().icmp(IntCC::SignedGreaterThanOrEqual, a, b)),
            Operator::I32x4GeS => (I32X4, |f, a, b| f.ins().icmp(IntCC::SignedGreaterThanOrEqual, a, b)),
            Operator::I64x2GeS => (I64X2, |f, a, b| f.ins().icmp(IntCC::SignedGreaterThanOrEqual, a, b)),
            Operator::I8x16GeU => (I8X16, |f, a, b| f.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, a, b)),
            Operator::I16x8GeU => (I16X8, |f, a, b| f.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, a, b)),
            Operator::I32x4GeU => (I32X4, |f, a, b| f.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, a, b)),

            Operator::F32x4Add => (F32X4, |f, a, b| f.ins().fadd(a, b)),
            Operator::F64x2Add => (F64X2, |f, a, b| f.ins().fadd(a, b)),
            Operator::F32x4Sub => (F32X4, |f, a, b| f.ins().fsub(a, b)),
            Operator::F64x2Sub => (F64X2, |f, a, b| f.ins().fsub(a, b)),
            Operator::F32x4Mul => (F32X4, |f, a, b| f.ins().fmul(a, b)),
            Operator::F64x2Mul => (F64X2, |f, a, b| f.ins().fmul(a, b)),
            Operator::F32x4Div => (F32X4, |f, a, b| f.ins().fdiv(a, b)),
            Operator::F64x2Div => (F64X2, |f, a, b| f.ins().fdiv(a, b)),
            Operator::F32x4Min => (F32X4, |f, a, b| f.ins().fmin(a, b)),
            Operator::F64x2Min => (F64X2, |f, a, b| f.ins().fmin(a, b)),
            Operator::F32x4Max => (F32X4, |f, a, b| f.ins().fmax(a, b)),
            Operator::F64x2Max => (F64X2, |f, a, b| f.ins().fmax(a, b)),
            Operator::F32x4Eq => (F32X4, |f, a, b| f.ins().fcmp(FloatCC::Equal, a, b)),
            Operator::F64x2Eq => (F64X2, |f, a, b| f.ins().fcmp(FloatCC::Equal, a, b)),
            Operator::F32x4Ne => (F32X4, |f, a, b| f.ins().fcmp(FloatCC::NotEqual, a, b)),
            Operator::F64x2Ne => (F64X2, |f, a, b| f.ins().fcmp(FloatCC::NotEqual, a, b)),
            Operator::F32x4Lt => (F32X4, |f, a, b| f.ins().fcmp(FloatCC::LessThan, a, b)),
            Operator::F64x2Lt => (F64X2, |f, a, b| f.ins().fcmp(FloatCC::LessThan, a, b)),
            Operator::F32x4Gt => (F32X4, |f, a, b| f.ins().fcmp(FloatCC::GreaterThan, a, b)),
            Operator::F64x2Gt => (F64X2, |f, a, b| f.ins().fcmp(FloatCC::GreaterThan, a, b)),
            Operator::F32x4Le => (F32X4, |f, a, b| f.ins().fcmp(FloatCC::LessThanOrEqual, a, b)),
            Operator::F64x2Le => (F64X2, |f, a, b| f.ins().fcmp(FloatCC::LessThanOrEqual, a, b)),
            Operator::F32x4Ge => (F32X4, |f, a, b| f.ins().fcmp(FloatCC::GreaterThanOrEqual, a, b)),
            Operator::F64x2Ge => (F64X2, |f, a, b| f.ins().fcmp(FloatCC::GreaterThanOrEqual, a, b)),
            Operator::F32x4PMin | Operator::F32x4RelaxedMin => (F32X4, pseudo_min),
            Operator::F64x2PMin | Operator::F64x2RelaxedMin => (F64X2, pseudo_min),
            Operator::F32x4PMax | Operator::F32x4RelaxedMax => (F32X4, pseudo_max),
            Operator::F64x2PMax | Operator::F64x2RelaxedMax => (F64X2, pseudo_max),

            Operator::I8x16NarrowI16x8S => (I16X8, |f, a, b| f.ins().snarrow(a, b)),
            Operator::I8x16NarrowI16x8U => (I16X8, |f, a, b| f.ins().unarrow(a, b)),
            Operator::I16x8NarrowI32x4S => (I32X4, |f, a, b| f.ins().snarrow(a, b)),
            Operator::I16x8NarrowI32x4U => (I32X4, |f, a, b| f.ins().unarrow(a, b)),
            Operator::I16x8Q15MulrSatS => (I16X8, |f, a, b| f.ins().sqmul_round_sat(a, b)),
            Operator::I16x8RelaxedQ15mulrS => (I16X8, |f, a, b| f.ins().x86_pmulhrsw(a, b)),
            Operator::I8x16Swizzle => (I8X16, |f, a, b| f.ins().swizzle(a, b)),
            Operator::I8x16RelaxedSwizzle => (I8X16, |f, a, b| f.ins().x86_pshufb(a, b)),
            Operator::I16x8RelaxedDotI8x16I7x16S => (I8X16, |f, a, b| f.ins().x86_pmaddubsw(a, b)),
            Operator::I32x4DotI16x8S => (I16X8, dot),
            Operator::I16x8ExtMulLowI8x16S => {
                (I8X16, |f, a, b| product(f, a, b, |f, a| f.ins().swiden_low(a)))
            }
            Operator::I16x8ExtMulLowI8x16U => {
                (I8X16, |f, a, b| product(f, a, b, |f, a| f.ins().uwiden_low(a)))
            }
            Operator::I16x8ExtMulHighI8x16S => {
                (I8X16, |f, a, b| product(f, a, b, |f, a| f.ins().swiden_high(a)))
            }
            Operator::I16x8ExtMulHighI8x16U => {
                (I8X16, |f, a, b| product(f, a, b, |f, a| f.ins().uwiden_high(a)))
            }
            Operator::I32x4ExtMulLowI16x8S => {
                (I16X8, |f, a, b| product(f, a, b, |f, a| f.ins().swiden_low(a)))
            }
            Operator::I32x4ExtMulLowI16x8U => {
                (I16X8, |f, a, b| product(f, a, b, |f, a| f.ins().uwiden_low(a)))
            }
            Operator::I32x4ExtMulHighI16x8S => {
                (I16X8, |f, a, b| product(f, a, b, |f, a| f.ins().swiden_high(a)))
            }
            Operator::I32x4ExtMulHighI16x8U => {
                (I16X8, |f, a, b| product(f, a, b, |f, a| f.ins().uwiden_high(a)))
            }
            Operator::I64x2ExtMulLowI32x4S => {
                (I32X4, |f, a, b| product(f, a, b, |f, a| f.ins().swiden_low(a)))
            }
            Operator::I64x2ExtMulLowI32x4U => {
                (I32X4, |f, a, b| product(f, a, b, |f, a| f.ins().uwiden_low(a)))
            }
            Operator::I64x2ExtMulHighI32x4S => {
                (I32X4, |f, a, b| product(f, a, b, |f, a| f.ins().swiden_high(a)))
            }
            Operator::I64x2ExtMulHighI32x4U => {
                (I32X4, |f, a, b| product(f, a, b, |f, a| f.ins().uwiden_high(a)))
            }

            Operator::V128And => return self.bitwise(|f, a, b| f.ins().band(a, b)),
            Operator::V128AndNot => return self.bitwise(|f, a, b| f.ins().band_not(a, b)),
            Operator::V128Or => return self.bitwise(|f, a, b| f.ins().bor(a, b)),
            Operator::V128Xor => return self.bitwise(|f, a, b| f.ins().bxor(a, b)),
            _ => return Ok(false),
        };
        let (right, left) = (self.pop_lanes(ty)?, self.pop_lanes(ty)?);
        let value = build(&mut self.builder, left, right);
        self.push(value);
        Ok(true)
    }

    /// An operator for which lanes make no difference: they stay as the left operand has them.
    fn bitwise(&mut self, build: Binary) -> Result<bool, Failure> {
        let (right, left) = (self.pop_as_is()?, self.pop_as_is()?);
        let right = self.with_lanes(right, self.builder.func.dfg.value_type(left));
        let value = build(&mut self.builder, left, right);
        self.push(value);
        Ok(true)
    }
}

/// `b` where it is less than `a`, else `a`; the code generator knows the pattern as one instruction.
fn pseudo_min(f: &mut FunctionBuilder<'_>, a: Value, b: Value) -> Value {
    select_if_less(f, b, a, b, a)
}

/// `b` where `a` is less than it, else `a`.
fn pseudo_max(f: &mut FunctionBuilder<'_>, a: Value, b: Value) -> Value {
    select_if_less(f, a, b, b, a)
}

/// `then` where `left < right`, else `otherwise`.
fn select_if_less(
    f: &mut FunctionBuilder<'_>,
    left: Value,
    right: Value,
    then: Value,
    otherwise: Value,
) -> Value {
    let less = f.ins().fcmp(FloatCC::LessThan, left, right);
    let ty = f.func.dfg.value_type(then);
    let mask = f.ins().bitcast(ty, MemFlagsData::new().with_endianness(Endianness::Little), less);
    f.ins().bitselect(mask, then, otherwise)
}

/// The products of lanes that `widen` takes from both operands.
fn product(
    f: &mut FunctionBuilder<'_>,
    a: Value,
    b: Value,
    widen: fn(&mut FunctionBuilder<'_>, Value) -> Value,
) -> Value {
    let (a, b) = (widen(f, a), widen(f, b));
    f.ins().imul(a, b)
}

/// Products of all lanes, neighbours added.
fn dot(f: &mut FunctionBuilder<'_>, a: Value, b: Value) -> Value {
    let low = product(f, a, b, |f, a| f.ins().swiden_low(a));
    let high = product(f, a, b, |f, a| f.ins().swiden_high(a));
    f.ins().iadd_pairwise(low, high)
}
