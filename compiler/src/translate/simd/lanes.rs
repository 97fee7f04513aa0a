//! Vectors from constants, numbers and other vectors' lanes.

use cranelift_codegen::ir::types::{F32X4, F64X2, I8X16, I16X8, I32, I32X4, I64X2};
use cranelift_codegen::ir::{ConstantData, InstBuilder, Type};
use wasmparser::Operator;

use crate::translate::{Failure, Translator};
use crate::types::ValType;

/// How a lane becomes a 32-bit number.
#[derive(Clone, Copy)]
enum Widen {
    /// It is a number of WebAssembly already.
    No,
    Zero,
    Sign,
}

impl Translator<'_, '_> {
    /// Translates an operator that takes lanes apart or puts them together; `false` for any other.
    pub(super) fn vector_lanes(&mut self, operator: &Operator<'_>) -> Result<bool, Failure> {
        use Widen::{No, Sign, Zero};
        match operator {
            Operator::V128Const { value } => {
                let value = self.bits(ValType::V128, u128::from_le_bytes(*value.bytes()));
                self.push(value);
                Ok(())
            }
            Operator::I8x16Splat => self.splat(I8X16),
            Operator::I16x8Splat => self.splat(I16X8),
            Operator::I32x4Splat => self.splat(I32X4),
            Operator::I64x2Splat => self.splat(I64X2),
            Operator::F32x4Splat => self.splat(F32X4),
            Operator::F64x2Splat => self.splat(F64X2),
            Operator::I8x16ExtractLaneS { lane } => self.extract_lane(I8X16, *lane, Sign),
            Operator::I8x16ExtractLaneU { lane } => self.extract_lane(I8X16, *lane, Zero),
            Operator::I16x8ExtractLaneS { lane } => self.extract_lane(I16X8, *lane, Sign),
            Operator::I16x8ExtractLaneU { lane } => self.extract_lane(I16X8, *lane, Zero),
            Operator::I32x4ExtractLane { lane } => self.extract_lane(I32X4, *lane, No),
            Operator::I64x2ExtractLane { lane } => self.extract_lane(I64X2, *lane, No),
            Operator::F32x4ExtractLane { lane } => self.extract_lane(F32X4, *lane, No),
            Operator::F64x2ExtractLane { lane } => self.extract_lane(F64X2, *lane, No),
            Operator::I8x16ReplaceLane { lane } => self.replace_lane(I8X16, *lane),
            Operator::I16x8ReplaceLane { lane } => self.replace_lane(I16X8, *lane),
            Operator::I32x4ReplaceLane { lane } => self.replace_lane(I32X4, *lane),
            Operator::I64x2ReplaceLane { lane } => self.replace_lane(I64X2, *lane),
            Operator::F32x4ReplaceLane { lane } => self.replace_lane(F32X4, *lane),
            Operator::F64x2ReplaceLane { lane } => self.replace_lane(F64X2, *lane),
            Operator::I8x16Shuffle { lanes } => {
                let (right, left) = (self.pop_lanes(I8X16)?, self.pop_lanes(I8X16)?);
                let lanes = self.builder.func.dfg.immediates.push(ConstantData::from(&lanes[..]));
                let value = self.builder.ins().shuffle(left, right, lanes);
                self.push(value);
                Ok(())
            }
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    fn splat(&mut self, ty: Type) -> Result<(), Failure> {
        let value = self.pop()?;
        let lane = self.narrow_to_lane(ty, value);
        let value = self.builder.ins().splat(ty, lane);
        self.push(value);
        Ok(())
    }

    fn extract_lane(&mut self, ty: Type, lane: u8, widen: Widen) -> Result<(), Failure> {
        let vector = self.pop_lanes(ty)?;
        let value = self.builder.ins().extractlane(vector, lane);
        let value = match widen {
            Widen::No => value,
            Widen::Zero => self.builder.ins().uextend(I32, value),
            Widen::Sign => self.builder.ins().sextend(I32, value),
        };
        self.push(value);
        Ok(())
    }

    fn replace_lane(&mut self, ty: Type, lane: u8) -> Result<(), Failure> {
        let (value, vector) = (self.pop()?, self.pop_lanes(ty)?);
        let value = self.narrow_to_lane(ty, value);
        let value = self.builder.ins().insertlane(vector, value, lane);
        self.push(value);
        Ok(())
    }

    /// A number as a lane of `ty`: WebAssembly has no numbers below 32 bits.
    fn narrow_to_lane(
        &mut self,
        ty: Type,
        value: cranelift_codegen::ir::Value,
    ) -> cranelift_codegen::ir::Value {
        let lane = ty.lane_type();
        if lane.bits() < 32 { self.builder.ins().ireduce(lane, value) } else { value }
    }
}
