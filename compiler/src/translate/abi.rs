//! Calling conventions, names of things that are resolved by our linker, and the shim's builtins.

use std::mem::offset_of;

use cranelift_codegen::ir::{
    AbiParam, ExternalName, GlobalValueData, InstBuilder, MemFlagsData, SigRef, Signature, UserExternalName,
    Value, types,
};
use cranelift_codegen::isa::CallConv;
use ipc::context::{BUILTINS as BUILTINS_ADDRESS, Builtins};

use super::{Failure, Translator};
use crate::types::{FuncType, ValType};

/// Namespace of guest functions and thunks: the index is the function index.
pub(crate) const FUNCTION_NAMESPACE: u32 = 0;
/// Namespace of the read-only data: index 0 is its first byte.
pub(crate) const RODATA_NAMESPACE: u32 = 1;

/// The convention between guest functions: no context parameter, and tail calls are possible.
pub(crate) fn signature(ty: &FuncType) -> Signature {
    signature_of(ty, CallConv::Tail)
}

/// A signature in a given convention.
pub(crate) fn signature_of(ty: &FuncType, convention: CallConv) -> Signature {
    let convert = |types: &[ValType]| types.iter().map(|ty| AbiParam::new(ty.ir())).collect();
    Signature { params: convert(&ty.params), returns: convert(&ty.results), call_conv: convention }
}

/// A function of the shim, see [`Builtins`].
#[derive(Clone, Copy)]
pub(super) enum Builtin {
    HostCall,
    MemoryGrow,
    TableGrow,
    Copy,
    Fill,
    ExceptionNew,
    ExceptionThrow,
    ImportCall,
}

/// Number of builtins.
pub(super) const BUILTINS: usize = 8;

impl Builtin {
    /// Offset of its address in [`Builtins`].
    fn offset(self) -> usize {
        match self {
            Builtin::HostCall => offset_of!(Builtins, host_call),
            Builtin::MemoryGrow => offset_of!(Builtins, memory_grow),
            Builtin::TableGrow => offset_of!(Builtins, table_grow),
            Builtin::Copy => offset_of!(Builtins, copy),
            Builtin::Fill => offset_of!(Builtins, fill),
            Builtin::ExceptionNew => offset_of!(Builtins, exception_new),
            Builtin::ExceptionThrow => offset_of!(Builtins, exception_throw),
            Builtin::ImportCall => offset_of!(Builtins, import_call),
        }
    }

    fn signature(self) -> Signature {
        // With parameters in registers both conventions are the same; but only `Tail` lets the caller of a throw expect that
        // no register survives the way to a handler.
        let convention = match self {
            Builtin::ExceptionThrow => CallConv::Tail,
            _ => CallConv::SystemV,
        };
        let mut signature = Signature::new(convention);
        let (params, returns): (&[_], &[_]) = match self {
            Builtin::HostCall => (&[types::I32, types::I64], &[]),
            Builtin::MemoryGrow | Builtin::TableGrow => (&[types::I64, types::I64], &[types::I64]),
            Builtin::Copy => (&[types::I64, types::I64, types::I64], &[]),
            Builtin::Fill => (&[types::I64, types::I32, types::I64], &[]),
            Builtin::ExceptionNew => (&[types::I64, types::I32], &[types::I64]),
            Builtin::ExceptionThrow => (&[types::I64, types::I64], &[]),
            Builtin::ImportCall => (&[types::I32, types::I64, types::I32, types::I32], &[types::I32]),
        };
        signature.params.extend(params.iter().map(|ty| AbiParam::new(*ty)));
        signature.returns.extend(returns.iter().map(|ty| AbiParam::new(*ty)));
        signature
    }
}

/// The signature of [`Builtins::host_call`].
pub(super) fn host_call_signature() -> Signature {
    Builtin::HostCall.signature()
}

/// The signature of [`Builtins::import_call`].
pub(super) fn import_call_signature() -> Signature {
    Builtin::ImportCall.signature()
}

impl Translator<'_, '_> {
    /// Calls a builtin; its result, if it has one.
    pub(super) fn call_builtin(
        &mut self,
        builtin: Builtin,
        arguments: &[Value],
    ) -> Result<Option<Value>, Failure> {
        let (signature, code) = self.builtin(builtin)?;
        let call = self.builder.ins().call_indirect(signature, code, arguments);
        Ok(self.builder.inst_results(call).first().copied())
    }

    /// A builtin's signature and address.
    pub(super) fn builtin(&mut self, builtin: Builtin) -> Result<(SigRef, Value), Failure> {
        let signature = self.builtin_signature(builtin);
        // The addresses are filled in before guest code runs and never change.
        let flags = MemFlagsData::trusted().with_readonly().with_can_move();
        let code = self.load_context(BUILTINS_ADDRESS + builtin.offset() as u64, flags)?;
        Ok((signature, code))
    }

    fn builtin_signature(&mut self, builtin: Builtin) -> SigRef {
        if let Some(Some(signature)) = self.builtins.get(builtin as usize) {
            return *signature;
        }
        let signature = self.builder.import_signature(builtin.signature());
        if let Some(slot) = self.builtins.get_mut(builtin as usize) {
            *slot = Some(signature);
        }
        signature
    }

    /// The address of a byte in the read-only data, which only the linker knows.
    pub(super) fn rodata_address(&mut self, offset: u64) -> Value {
        let builder = &mut self.builder;
        let value = *self.rodata.entry(offset).or_insert_with(|| {
            let name =
                builder.func.declare_imported_user_function(UserExternalName::new(RODATA_NAMESPACE, 0));
            builder.create_global_value(GlobalValueData::Symbol {
                name: ExternalName::user(name),
                offset: (offset as i64).into(),
                colocated: true,
                tls: false,
            })
        });
        self.builder.ins().symbol_value(types::I64, value)
    }
}
