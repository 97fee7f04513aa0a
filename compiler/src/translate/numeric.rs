//! Numbers: constants, arithmetic, comparisons, conversions.
//!
//! Cranelift's instructions have WebAssembly's semantics here: shifts take their amount modulo the width, division
//! and trapping conversion raise the right trap, `fmin`/`fmax` propagate NaN and order zeros.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::immediates::{Ieee32, Ieee64};
use cranelift_codegen::ir::types::{F32, F64, I8, I16, I32, I64};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value};
use cranelift_frontend::FuncInstBuilder;
use wasmparser::Operator;

use super::{Failure, Translator};

impl Translator<'_, '_> {
    /// Translates a numeric operator; `false` for any other.
    pub(super) fn numeric(&mut self, operator: &Operator<'_>) -> Result<bool, Failure> {
        match operator {
            Operator::I32Const { value } => {
                let value = self.builder.ins().iconst(I32, i64::from(*value as u32));
                self.push(value);
                Ok(())
            }
            Operator::I64Const { value } => {
                let value = self.builder.ins().iconst(I64, *value);
                self.push(value);
                Ok(())
            }
            Operator::F32Const { value } => {
                let value = self.builder.ins().f32const(Ieee32::with_bits(value.bits()));
                self.push(value);
                Ok(())
            }
            Operator::F64Const { value } => {
                let value = self.builder.ins().f64const(Ieee64::with_bits(value.bits()));
                self.push(value);
                Ok(())
            }
            Operator::I32Eqz | Operator::I64Eqz => {
                let value = self.pop()?;
                let is_zero = self.builder.ins().icmp_imm_u(IntCC::Equal, value, 0);
                self.push_bool(is_zero);
                Ok(())
            }
            Operator::I32Clz | Operator::I64Clz => self.unary(|ins, a| ins.clz(a)),
            Operator::I32Ctz | Operator::I64Ctz => self.unary(|ins, a| ins.ctz(a)),
            Operator::I32Popcnt | Operator::I64Popcnt => self.unary(|ins, a| ins.popcnt(a)),
            Operator::F32Abs | Operator::F64Abs => self.unary(|ins, a| ins.fabs(a)),
            Operator::F32Neg | Operator::F64Neg => self.unary(|ins, a| ins.fneg(a)),
            Operator::F32Ceil | Operator::F64Ceil => self.unary(|ins, a| ins.ceil(a)),
            Operator::F32Floor | Operator::F64Floor => self.unary(|ins, a| ins.floor(a)),
            Operator::F32Trunc | Operator::F64Trunc => self.unary(|ins, a| ins.trunc(a)),
            Operator::F32Nearest | Operator::F64Nearest => self.unary(|ins, a| ins.nearest(a)),
            Operator::F32Sqrt | Operator::F64Sqrt => self.unary(|ins, a| ins.sqrt(a)),
            Operator::I32Add | Operator::I64Add => self.binary(|ins, a, b| ins.iadd(a, b)),
            Operator::I32Sub | Operator::I64Sub => self.binary(|ins, a, b| ins.isub(a, b)),
            Operator::I32Mul | Operator::I64Mul => self.binary(|ins, a, b| ins.imul(a, b)),
            Operator::I32DivS | Operator::I64DivS => self.binary(|ins, a, b| ins.sdiv(a, b)),
            Operator::I32DivU | Operator::I64DivU => self.binary(|ins, a, b| ins.udiv(a, b)),
            Operator::I32RemS | Operator::I64RemS => self.binary(|ins, a, b| ins.srem(a, b)),
            Operator::I32RemU | Operator::I64RemU => self.binary(|ins, a, b| ins.urem(a, b)),
            Operator::I32And | Operator::I64And => self.binary(|ins, a, b| ins.band(a, b)),
            Operator::I32Or | Operator::I64Or => self.binary(|ins, a, b| ins.bor(a, b)),
            Operator::I32Xor | Operator::I64Xor => self.binary(|ins, a, b| ins.bxor(a, b)),
            Operator::I32Shl | Operator::I64Shl => self.binary(|ins, a, b| ins.ishl(a, b)),
            Operator::I32ShrS | Operator::I64ShrS => self.binary(|ins, a, b| ins.sshr(a, b)),
            Operator::I32ShrU | Operator::I64ShrU => self.binary(|ins, a, b| ins.ushr(a, b)),
            Operator::I32Rotl | Operator::I64Rotl => self.binary(|ins, a, b| ins.rotl(a, b)),
            Operator::I32Rotr | Operator::I64Rotr => self.binary(|ins, a, b| ins.rotr(a, b)),
            Operator::F32Add | Operator::F64Add => self.binary(|ins, a, b| ins.fadd(a, b)),
            Operator::F32Sub | Operator::F64Sub => self.binary(|ins, a, b| ins.fsub(a, b)),
            Operator::F32Mul | Operator::F64Mul => self.binary(|ins, a, b| ins.fmul(a, b)),
            Operator::F32Div | Operator::F64Div => self.binary(|ins, a, b| ins.fdiv(a, b)),
            Operator::F32Min | Operator::F64Min => self.binary(|ins, a, b| ins.fmin(a, b)),
            Operator::F32Max | Operator::F64Max => self.binary(|ins, a, b| ins.fmax(a, b)),
            Operator::F32Copysign | Operator::F64Copysign => self.binary(|ins, a, b| ins.fcopysign(a, b)),
            Operator::I32Eq | Operator::I64Eq => self.compare(|ins, a, b| ins.icmp(IntCC::Equal, a, b)),
            Operator::I32Ne | Operator::I64Ne => self.compare(|ins, a, b| ins.icmp(IntCC::NotEqual, a, b)),
            Operator::I32LtS | Operator::I64LtS => {
                self.compare(|ins, a, b| ins.icmp(IntCC::SignedLessThan, a, b))
            }
            Operator::I32LtU | Operator::I64LtU => {
                self.compare(|ins, a, b| ins.icmp(IntCC::UnsignedLessThan, a, b))
            }
            Operator::I32GtS | Operator::I64GtS => {
                self.compare(|ins, a, b| ins.icmp(IntCC::SignedGreaterThan, a, b))
            }
            Operator::I32GtU | Operator::I64GtU => {
                self.compare(|ins, a, b| ins.icmp(IntCC::UnsignedGreaterThan, a, b))
            }
            Operator::I32LeS | Operator::I64LeS => {
                self.compare(|ins, a, b| ins.icmp(IntCC::SignedLessThanOrEqual, a, b))
            }
            Operator::I32LeU | Operator::I64LeU => {
                self.compare(|ins, a, b| ins.icmp(IntCC::UnsignedLessThanOrEqual, a, b))
            }
            Operator::I32GeS | Operator::I64GeS => {
                self.compare(|ins, a, b| ins.icmp(IntCC::SignedGreaterThanOrEqual, a, b))
            }
            Operator::I32GeU | Operator::I64GeU => {
                self.compare(|ins, a, b| ins.icmp(IntCC::UnsignedGreaterThanOrEqual, a, b))
            }
            Operator::F32Eq | Operator::F64Eq => self.compare(|ins, a, b| ins.fcmp(FloatCC::Equal, a, b)),
            Operator::F32Ne | Operator::F64Ne => self.compare(|ins, a, b| ins.fcmp(FloatCC::NotEqual, a, b)),
            Operator::F32Lt | Operator::F64Lt => self.compare(|ins, a, b| ins.fcmp(FloatCC::LessThan, a, b)),
            Operator::F32Gt | Operator::F64Gt => {
                self.compare(|ins, a, b| ins.fcmp(FloatCC::GreaterThan, a, b))
            }
            Operator::F32Le | Operator::F64Le => {
                self.compare(|ins, a, b| ins.fcmp(FloatCC::LessThanOrEqual, a, b))
            }
            Operator::F32Ge | Operator::F64Ge => {
                self.compare(|ins, a, b| ins.fcmp(FloatCC::GreaterThanOrEqual, a, b))
            }
            Operator::I32WrapI64 => self.unary(|ins, a| ins.ireduce(I32, a)),
            Operator::I64ExtendI32S => self.unary(|ins, a| ins.sextend(I64, a)),
            Operator::I64ExtendI32U => self.unary(|ins, a| ins.uextend(I64, a)),
            Operator::I32TruncF32S | Operator::I32TruncF64S => self.unary(|ins, a| ins.fcvt_to_sint(I32, a)),
            Operator::I32TruncF32U | Operator::I32TruncF64U => self.unary(|ins, a| ins.fcvt_to_uint(I32, a)),
            Operator::I64TruncF32S | Operator::I64TruncF64S => self.unary(|ins, a| ins.fcvt_to_sint(I64, a)),
            Operator::I64TruncF32U | Operator::I64TruncF64U => self.unary(|ins, a| ins.fcvt_to_uint(I64, a)),
            Operator::I32TruncSatF32S | Operator::I32TruncSatF64S => {
                self.unary(|ins, a| ins.fcvt_to_sint_sat(I32, a))
            }
            Operator::I32TruncSatF32U | Operator::I32TruncSatF64U => {
                self.unary(|ins, a| ins.fcvt_to_uint_sat(I32, a))
            }
            Operator::I64TruncSatF32S | Operator::I64TruncSatF64S => {
                self.unary(|ins, a| ins.fcvt_to_sint_sat(I64, a))
            }
            Operator::I64TruncSatF32U | Operator::I64TruncSatF64U => {
                self.unary(|ins, a| ins.fcvt_to_uint_sat(I64, a))
            }
            Operator::F32ConvertI32S | Operator::F32ConvertI64S => {
                self.unary(|ins, a| ins.fcvt_from_sint(F32, a))
            }
            Operator::F32ConvertI32U | Operator::F32ConvertI64U => {
                self.unary(|ins, a| ins.fcvt_from_uint(F32, a))
            }
            Operator::F64ConvertI32S | Operator::F64ConvertI64S => {
                self.unary(|ins, a| ins.fcvt_from_sint(F64, a))
            }
            Operator::F64ConvertI32U | Operator::F64ConvertI64U => {
                self.unary(|ins, a| ins.fcvt_from_uint(F64, a))
            }
            Operator::F32DemoteF64 => self.unary(|ins, a| ins.fdemote(F32, a)),
            Operator::F64PromoteF32 => self.unary(|ins, a| ins.fpromote(F64, a)),
            Operator::I32ReinterpretF32 => self.unary(|ins, a| ins.bitcast(I32, MemFlagsData::new(), a)),
            Operator::I64ReinterpretF64 => self.unary(|ins, a| ins.bitcast(I64, MemFlagsData::new(), a)),
            Operator::F32ReinterpretI32 => self.unary(|ins, a| ins.bitcast(F32, MemFlagsData::new(), a)),
            Operator::F64ReinterpretI64 => self.unary(|ins, a| ins.bitcast(F64, MemFlagsData::new(), a)),
            Operator::I32Extend8S => self.sign_extend(I8, I32),
            Operator::I32Extend16S => self.sign_extend(I16, I32),
            Operator::I64Extend8S => self.sign_extend(I8, I64),
            Operator::I64Extend16S => self.sign_extend(I16, I64),
            Operator::I64Extend32S => self.sign_extend(I32, I64),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    fn unary(&mut self, build: impl FnOnce(FuncInstBuilder<'_, '_>, Value) -> Value) -> Result<(), Failure> {
        let operand = self.pop()?;
        let value = build(self.builder.ins(), operand);
        self.push(value);
        Ok(())
    }

    fn binary(
        &mut self,
        build: impl FnOnce(FuncInstBuilder<'_, '_>, Value, Value) -> Value,
    ) -> Result<(), Failure> {
        let (right, left) = (self.pop()?, self.pop()?);
        let value = build(self.builder.ins(), left, right);
        self.push(value);
        Ok(())
    }

    fn compare(
        &mut self,
        build: impl FnOnce(FuncInstBuilder<'_, '_>, Value, Value) -> Value,
    ) -> Result<(), Failure> {
        let (right, left) = (self.pop()?, self.pop()?);
        let holds = build(self.builder.ins(), left, right);
        self.push_bool(holds);
        Ok(())
    }

    fn push_bool(&mut self, value: Value) {
        let value = self.builder.ins().uextend(I32, value);
        self.push(value);
    }

    fn sign_extend(&mut self, from: Type, to: Type) -> Result<(), Failure> {
        let operand = self.pop()?;
        let narrow = self.builder.ins().ireduce(from, operand);
        let value = self.builder.ins().sextend(to, narrow);
        self.push(value);
        Ok(())
    }
}
