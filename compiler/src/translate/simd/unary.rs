//! Operators that make a vector of one.

use cranelift_codegen::ir::types::{F32X4, F64X2, I8X16, I16X8, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder, Type, Value};
use cranelift_frontend::FunctionBuilder;
use wasmparser::Operator;

use super::pairwise;
use crate::translate::{Failure, Translator};

type Unary = fn(&mut FunctionBuilder<'_>, Value) -> Value;

impl Translator<'_, '_> {
    /// Translates an operator that makes a vector of one; `false` for any other.
    pub(super) fn vector_unary(&mut self, operator: &Operator<'_>) -> Result<bool, Failure> {
        // The type of the operand, and what makes the result of it.
        let (ty, build): (Type, Unary) = match operator {
            Operator::I8x16Neg => (I8X16, |f, a| f.ins().ineg(a)),
            Operator::I16x8Neg => (I16X8, |f, a| f.ins().ineg(a)),
            Operator::I32x4Neg => (I32X4, |f, a| f.ins().ineg(a)),
            Operator::I64x2Neg => (I64X2, |f, a| f.ins().ineg(a)),
            Operator::I8x16Abs => (I8X16, |f, a| f.ins().iabs(a)),
            Operator::I16x8Abs => (I16X8, |f, a| f.ins().iabs(a)),
            Operator::I32x4Abs => (I32X4, |f, a| f.ins().iabs(a)),
            Operator::I64x2Abs => (I64X2, |f, a| f.ins().iabs(a)),
            Operator::I8x16Popcnt => (I8X16, |f, a| f.ins().popcnt(a)),
            Operator::F32x4Abs => (F32X4, |f, a| f.ins().fabs(a)),
            Operator::F64x2Abs => (F64X2, |f, a| f.ins().fabs(a)),
            Operator::F32x4Neg => (F32X4, |f, a| f.ins().fneg(a)),
            Operator::F64x2Neg => (F64X2, |f, a| f.ins().fneg(a)),
            Operator::F32x4Sqrt => (F32X4, |f, a| f.ins().sqrt(a)),
            Operator::F64x2Sqrt => (F64X2, |f, a| f.ins().sqrt(a)),
            Operator::F32x4Ceil => (F32X4, |f, a| f.ins().ceil(a)),
            Operator::F64x2Ceil => (F64X2, |f, a| f.ins().ceil(a)),
            Operator::F32x4Floor => (F32X4, |f, a| f.ins().floor(a)),
            Operator::F64x2Floor => (F64X2, |f, a| f.ins().floor(a)),
            Operator::F32x4Trunc => (F32X4, |f, a| f.ins().trunc(a)),
            Operator::F64x2Trunc => (F64X2, |f, a| f.ins().trunc(a)),
            Operator::F32x4Nearest => (F32X4, |f, a| f.ins().nearest(a)),
            Operator::F64x2Nearest => (F64X2, |f, a| f.ins().nearest(a)),

            Operator::I16x8ExtendLowI8x16S => (I8X16, |f, a| f.ins().swiden_low(a)),
            Operator::I16x8ExtendLowI8x16U => (I8X16, |f, a| f.ins().uwiden_low(a)),
            Operator::I16x8ExtendHighI8x16S => (I8X16, |f, a| f.ins().swiden_high(a)),
            Operator::I16x8ExtendHighI8x16U => (I8X16, |f, a| f.ins().uwiden_high(a)),
            Operator::I32x4ExtendLowI16x8S => (I16X8, |f, a| f.ins().swiden_low(a)),
            Operator::I32x4ExtendLowI16x8U => (I16X8, |f, a| f.ins().uwiden_low(a)),
            Operator::I32x4ExtendHighI16x8S => (I16X8, |f, a| f.ins().swiden_high(a)),
            Operator::I32x4ExtendHighI16x8U => (I16X8, |f, a| f.ins().uwiden_high(a)),
            Operator::I64x2ExtendLowI32x4S => (I32X4, |f, a| f.ins().swiden_low(a)),
            Operator::I64x2ExtendLowI32x4U => (I32X4, |f, a| f.ins().uwiden_low(a)),
            Operator::I64x2ExtendHighI32x4S => (I32X4, |f, a| f.ins().swiden_high(a)),
            Operator::I64x2ExtendHighI32x4U => (I32X4, |f, a| f.ins().uwiden_high(a)),
            Operator::I16x8ExtAddPairwiseI8x16S => {
                (I8X16, |f, a| pairwise(f, a, |f, a| f.ins().swiden_low(a), |f, a| f.ins().swiden_high(a)))
            }
            Operator::I16x8ExtAddPairwiseI8x16U => {
                (I8X16, |f, a| pairwise(f, a, |f, a| f.ins().uwiden_low(a), |f, a| f.ins().uwiden_high(a)))
            }
            Operator::I32x4ExtAddPairwiseI16x8S => {
                (I16X8, |f, a| pairwise(f, a, |f, a| f.ins().swiden_low(a), |f, a| f.ins().swiden_high(a)))
            }
            Operator::I32x4ExtAddPairwiseI16x8U => {
                (I16X8, |f, a| pairwise(f, a, |f, a| f.ins().uwiden_low(a), |f, a| f.ins().uwiden_high(a)))
            }

            Operator::F32x4ConvertI32x4S => (I32X4, |f, a| f.ins().fcvt_from_sint(F32X4, a)),
            Operator::F32x4ConvertI32x4U => (I32X4, |f, a| f.ins().fcvt_from_uint(F32X4, a)),
            Operator::F64x2ConvertLowI32x4S => (I32X4, |f, a| {
                let a = f.ins().swiden_low(a);
                f.ins().fcvt_from_sint(F64X2, a)
            }),
            Operator::F64x2ConvertLowI32x4U => (I32X4, |f, a| {
                let a = f.ins().uwiden_low(a);
                f.ins().fcvt_from_uint(F64X2, a)
            }),
            Operator::F64x2PromoteLowF32x4 => (F32X4, |f, a| f.ins().fvpromote_low(a)),
            Operator::F32x4DemoteF64x2Zero => (F64X2, |f, a| f.ins().fvdemote(a)),
            Operator::I32x4TruncSatF32x4S => (F32X4, |f, a| f.ins().fcvt_to_sint_sat(I32X4, a)),
            Operator::I32x4TruncSatF32x4U | Operator::I32x4RelaxedTruncF32x4U => {
                (F32X4, |f, a| f.ins().fcvt_to_uint_sat(I32X4, a))
            }
            Operator::I32x4RelaxedTruncF32x4S => (F32X4, |f, a| f.ins().x86_cvtt2dq(I32X4, a)),
            Operator::I32x4TruncSatF64x2SZero => (F64X2, |f, a| {
                let (a, zero) = (f.ins().fcvt_to_sint_sat(I64X2, a), zero(f));
                f.ins().snarrow(a, zero)
            }),
            Operator::I32x4RelaxedTruncF64x2SZero => (F64X2, |f, a| {
                let (a, zero) = (f.ins().x86_cvtt2dq(I64X2, a), zero(f));
                f.ins().snarrow(a, zero)
            }),
            Operator::I32x4TruncSatF64x2UZero | Operator::I32x4RelaxedTruncF64x2UZero => (F64X2, |f, a| {
                let (a, zero) = (f.ins().fcvt_to_uint_sat(I64X2, a), zero(f));
                f.ins().uunarrow(a, zero)
            }),

            Operator::V128Not => {
                let value = self.pop_as_is()?;
                let value = self.builder.ins().bnot(value);
                self.push(value);
                return Ok(true);
            }
            _ => return Ok(false),
        };
        let operand = self.pop_lanes(ty)?;
        let value = build(&mut self.builder, operand);
        self.push(value);
        Ok(true)
    }
}

/// Lanes of zero, for the upper half of a narrowed vector.
fn zero(f: &mut FunctionBuilder<'_>) -> Value {
    let handle = f.func.dfg.constants.insert(vec![0; 16].into());
    f.ins().vconst(I64X2, handle)
}
