//! Entry trampolines: how the shim, which knows only System V, calls a guest function.
//!
//! One per function type: `extern "sysv64" fn(code: u64, values: *mut [u64; 2])`. Parameter `i` is read from slot
//! `i`, types narrower than the slot from its low bytes; result `i` is written to slot `i`, zero-extended to the first word,
//! vectors to the whole slot.

use cranelift_codegen::ir::{self, AbiParam, Function, InstBuilder, MemFlagsData, Signature, types};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use crate::translate::{signature_of, to_word};
use crate::types::FuncType;

/// Namespace of trampolines' names in listings.
const NAMESPACE: u32 = 2;
/// Bytes of one slot: room for a 128-bit vector.
const SLOT: i32 = 16;

/// Builds the trampoline number `index` for functions of type `ty` that use `convention`.
pub(crate) fn build(
    isa: &dyn TargetIsa,
    index: u32,
    ty: &FuncType,
    convention: CallConv,
    function: &mut Function,
    context: &mut FunctionBuilderContext,
) {
    function.name = ir::UserFuncName::user(NAMESPACE, index);
    function.signature = Signature::new(CallConv::SystemV);
    function.signature.params = vec![AbiParam::new(types::I64), AbiParam::new(types::I64)];
    let mut builder = FunctionBuilder::new(function, context);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    builder.seal_block(entry);
    let &[code, values] = builder.block_params(entry) else {
        unreachable!("the signature has two parameters")
    };
    let flags = MemFlagsData::trusted();
    let arguments: Vec<_> = ty
        .params
        .iter()
        .enumerate()
        .map(|(i, ty)| builder.ins().load(ty.ir(), flags, values, SLOT * i as i32))
        .collect();
    let signature = builder.import_signature(signature_of(ty, convention));
    let call = builder.ins().call_indirect(signature, code, &arguments);
    let results = builder.inst_results(call).to_vec();
    for (i, result) in results.into_iter().enumerate() {
        let word = to_word(&mut builder, result);
        builder.ins().store(flags, word, values, SLOT * i as i32);
    }
    builder.ins().return_(&[]);
    builder.finalize(isa.frontend_config());
}
