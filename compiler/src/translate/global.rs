//! Global variables: constants, or slots at constant addresses.

use cranelift_codegen::ir::{
    AliasRegionData, InstBuilder, MemFlagsData, Value, immediates::Ieee32, immediates::Ieee64,
};

use super::{Failure, Translator, unexpected};
use crate::plan::GlobalPlan;
use crate::types::ValType;

/// First id of the alias regions of globals.
const REGION: u32 = 16;
/// Globals that get a region of their own; later ones share the last. Regions cost per block, and it is the first
/// global, the C stack pointer, whose accesses are worth telling apart.
const REGIONS: u32 = 8;

impl Translator<'_, '_> {
    pub(super) fn global_get(&mut self, index: u32) -> Result<(), Failure> {
        let (ty, plan) = self.global(index)?;
        let value = match plan {
            GlobalPlan::Constant(bits) => self.bits(ty, bits),
            GlobalPlan::Address { address, .. } => {
                let flags = self.global_flags(index);
                let (base, offset) = self.context_address(address)?;
                self.builder.ins().load(ty.ir(), flags, base, offset)
            }
        };
        self.push(value);
        Ok(())
    }

    pub(super) fn global_set(&mut self, index: u32) -> Result<(), Failure> {
        let (_, plan) = self.global(index)?;
        let GlobalPlan::Address { address, .. } = plan else {
            return Err(unexpected("a write to an immutable global", self.offset));
        };
        let value = self.pop()?;
        let flags = self.global_flags(index);
        let (base, offset) = self.context_address(address)?;
        self.builder.ins().store(flags, value, base, offset);
        Ok(())
    }

    fn global(&self, index: u32) -> Result<(ValType, GlobalPlan), Failure> {
        let ty = self.environment.module.globals.get(index as usize).map(|global| global.ty);
        let plan = self.environment.plan.globals.get(index as usize).copied();
        ty.zip(plan).ok_or_else(|| unexpected("an unknown global", self.offset))
    }

    fn global_flags(&mut self, index: u32) -> MemFlagsData {
        let region =
            AliasRegionData { user_id: REGION + index.min(REGIONS - 1), description: "global".into() };
        let region = self.builder.func.dfg.alias_regions.insert(region);
        MemFlagsData::trusted().with_alias_region(Some(region))
    }

    /// A constant of a WebAssembly type from its bits.
    pub(super) fn bits(&mut self, ty: ValType, bits: u128) -> Value {
        match ty {
            // Zero-extended: the code generator wants no bits beyond the type.
            ValType::I32 => self.builder.ins().iconst(ty.ir(), i64::from(bits as u32)),
            ValType::I64 | ValType::FuncRef | ValType::ExternRef | ValType::ExnRef => {
                self.constant(bits as u64)
            }
            ValType::F32 => self.builder.ins().f32const(Ieee32::with_bits(bits as u32)),
            ValType::F64 => self.builder.ins().f64const(Ieee64::with_bits(bits as u64)),
            ValType::V128 => {
                let handle = self.builder.func.dfg.constants.insert(bits.to_le_bytes().to_vec().into());
                self.builder.ins().vconst(ty.ir(), handle)
            }
        }
    }
}
