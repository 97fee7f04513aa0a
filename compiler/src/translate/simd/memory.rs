//! Loads and stores of vectors.

use cranelift_codegen::ir::types::{F32X4, F64X2, I8, I8X16, I16, I16X8, I32, I32X4, I64, I64X2};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value};
use cranelift_frontend::FunctionBuilder;
use wasmparser::{MemArg, Operator};

use super::VECTOR;
use crate::translate::{Failure, Translator};

/// Builds a load: flags, address, offset.
type Load = fn(&mut FunctionBuilder<'_>, MemFlagsData, Value, i32) -> Value;

impl Translator<'_, '_> {
    /// Translates a load or a store of a vector or of one lane; `false` for any other operator.
    pub(super) fn vector_memory(&mut self, operator: &Operator<'_>) -> Result<bool, Failure> {
        match operator {
            Operator::V128Load { memarg } => self.load_with(memarg, 16, |f, flags, address, offset| {
                f.ins().load(VECTOR, flags, address, offset)
            }),
            Operator::V128Store { memarg } => {
                let (value, index) = (self.pop_as_is()?, self.pop()?);
                let (address, offset, flags) = self.effective_address(memarg, index, 16)?;
                self.builder.ins().store(flags, value, address, offset);
                Ok(())
            }
            Operator::V128Load8x8S { memarg } => {
                self.load_with(memarg, 8, |f, flags, p, offset| f.ins().sload8x8(flags, p, offset))
            }
            Operator::V128Load8x8U { memarg } => {
                self.load_with(memarg, 8, |f, flags, p, offset| f.ins().uload8x8(flags, p, offset))
            }
            Operator::V128Load16x4S { memarg } => {
                self.load_with(memarg, 8, |f, flags, p, offset| f.ins().sload16x4(flags, p, offset))
            }
            Operator::V128Load16x4U { memarg } => {
                self.load_with(memarg, 8, |f, flags, p, offset| f.ins().uload16x4(flags, p, offset))
            }
            Operator::V128Load32x2S { memarg } => {
                self.load_with(memarg, 8, |f, flags, p, offset| f.ins().sload32x2(flags, p, offset))
            }
            Operator::V128Load32x2U { memarg } => {
                self.load_with(memarg, 8, |f, flags, p, offset| f.ins().uload32x2(flags, p, offset))
            }
            Operator::V128Load8Splat { memarg } => self.load_splat(memarg, I8X16),
            Operator::V128Load16Splat { memarg } => self.load_splat(memarg, I16X8),
            Operator::V128Load32Splat { memarg } => self.load_splat(memarg, I32X4),
            Operator::V128Load64Splat { memarg } => self.load_splat(memarg, I64X2),
            // The code generator loads a float right into a vector register.
            Operator::V128Load32Zero { memarg } => self.load_zero(memarg, F32X4),
            Operator::V128Load64Zero { memarg } => self.load_zero(memarg, F64X2),
            Operator::V128Load8Lane { memarg, lane } => self.load_lane(memarg, I8, I8X16, *lane),
            Operator::V128Load16Lane { memarg, lane } => self.load_lane(memarg, I16, I16X8, *lane),
            Operator::V128Load32Lane { memarg, lane } => self.load_lane(memarg, I32, I32X4, *lane),
            Operator::V128Load64Lane { memarg, lane } => self.load_lane(memarg, I64, I64X2, *lane),
            Operator::V128Store8Lane { memarg, lane } => self.store_lane(memarg, I8X16, *lane),
            Operator::V128Store16Lane { memarg, lane } => self.store_lane(memarg, I16X8, *lane),
            Operator::V128Store32Lane { memarg, lane } => self.store_lane(memarg, F32X4, *lane),
            Operator::V128Store64Lane { memarg, lane } => self.store_lane(memarg, F64X2, *lane),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    fn load_with(&mut self, memarg: &MemArg, width: u32, load: Load) -> Result<(), Failure> {
        let index = self.pop()?;
        let (address, offset, flags) = self.effective_address(memarg, index, width)?;
        let value = load(&mut self.builder, flags, address, offset);
        self.push(value);
        Ok(())
    }

    /// Loads one lane into all.
    fn load_splat(&mut self, memarg: &MemArg, ty: Type) -> Result<(), Failure> {
        let value = self.load_one(memarg, ty.lane_type())?;
        let value = self.builder.ins().splat(ty, value);
        self.push(value);
        Ok(())
    }

    /// Loads the first lane; the others are zero.
    fn load_zero(&mut self, memarg: &MemArg, ty: Type) -> Result<(), Failure> {
        let value = self.load_one(memarg, ty.lane_type())?;
        let value = self.builder.ins().scalar_to_vector(ty, value);
        self.push(value);
        Ok(())
    }

    fn load_lane(&mut self, memarg: &MemArg, scalar: Type, ty: Type, lane: u8) -> Result<(), Failure> {
        let vector = self.pop_lanes(ty)?;
        let value = self.load_one(memarg, scalar)?;
        let value = self.builder.ins().insertlane(vector, value, lane);
        self.push(value);
        Ok(())
    }

    fn store_lane(&mut self, memarg: &MemArg, ty: Type, lane: u8) -> Result<(), Failure> {
        let (vector, index) = (self.pop_lanes(ty)?, self.pop()?);
        let (address, offset, flags) = self.effective_address(memarg, index, ty.lane_type().bytes())?;
        let value = self.builder.ins().extractlane(vector, lane);
        self.builder.ins().store(flags, value, address, offset);
        Ok(())
    }

    /// Loads a number from the address on the stack.
    fn load_one(&mut self, memarg: &MemArg, ty: Type) -> Result<Value, Failure> {
        let index = self.pop()?;
        let (address, offset, flags) = self.effective_address(memarg, index, ty.bytes())?;
        Ok(self.builder.ins().load(ty, flags, address, offset))
    }
}
