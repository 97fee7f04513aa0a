//! Direct calls, calls through tables and references, tail calls, and the thunks behind imported functions.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    self, ExtFuncData, ExternalName, FuncRef, Function, InstBuilder, MemFlagsData, SigRef, StackSlotData,
    StackSlotKind, UserExternalName, Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use ipc::context::{BUILTINS, Builtins, TableEntry};
use ipc::interface::FunctionId;

use super::abi::{self, FUNCTION_NAMESPACE, signature};
use super::exception::Callee;
use super::{Failure, Translator, unexpected};
use crate::trap;
use crate::types::FuncType;

impl<'m> Translator<'_, 'm> {
    pub(super) fn call(&mut self, function: u32) -> Result<(), Failure> {
        let ty = self.environment.module.function_type(function);
        let ty = ty.ok_or_else(|| unexpected("a call of an unknown function", self.offset))?;
        let callee = self.callee(function)?;
        let arguments = self.top(ty.params.len())?.to_vec();
        let signature = self.builder.func.dfg.ext_funcs[callee].signature;
        let results = self.invoke(Callee::Direct(callee), signature, &arguments)?;
        self.finish_call(&results, ty)
    }

    pub(super) fn return_call(&mut self, function: u32) -> Result<(), Failure> {
        let ty = self.environment.module.function_type(function);
        let ty = ty.ok_or_else(|| unexpected("a call of an unknown function", self.offset))?;
        let callee = self.callee(function)?;
        let arguments = self.top(ty.params.len())?.to_vec();
        self.builder.ins().return_call(callee, &arguments);
        self.reachable = false;
        Ok(())
    }

    pub(super) fn call_indirect(&mut self, type_index: u32, table: u32) -> Result<(), Failure> {
        let ty = self.function_type(type_index)?;
        let code = self.code_in_table(type_index, table)?;
        self.call_code(type_index, ty, code)
    }

    pub(super) fn return_call_indirect(&mut self, type_index: u32, table: u32) -> Result<(), Failure> {
        let ty = self.function_type(type_index)?;
        let code = self.code_in_table(type_index, table)?;
        self.return_call_code(type_index, ty, code)
    }

    pub(super) fn call_ref(&mut self, type_index: u32) -> Result<(), Failure> {
        let ty = self.function_type(type_index)?;
        let code = self.code_of_reference()?;
        self.call_code(type_index, ty, code)
    }

    pub(super) fn return_call_ref(&mut self, type_index: u32) -> Result<(), Failure> {
        let ty = self.function_type(type_index)?;
        let code = self.code_of_reference()?;
        self.return_call_code(type_index, ty, code)
    }

    fn call_code(&mut self, type_index: u32, ty: &FuncType, code: Value) -> Result<(), Failure> {
        let signature = self.signature(type_index, ty);
        let arguments = self.top(ty.params.len())?.to_vec();
        let results = self.invoke(Callee::Indirect(code), signature, &arguments)?;
        self.finish_call(&results, ty)
    }

    fn return_call_code(&mut self, type_index: u32, ty: &FuncType, code: Value) -> Result<(), Failure> {
        let signature = self.signature(type_index, ty);
        let arguments = self.top(ty.params.len())?.to_vec();
        self.builder.ins().return_call_indirect(signature, code, &arguments);
        self.reachable = false;
        Ok(())
    }

    fn function_type(&self, type_index: u32) -> Result<&'m FuncType, Failure> {
        let ty = self.environment.module.types.get(type_index as usize);
        ty.ok_or_else(|| unexpected("an unknown type", self.offset))
    }

    /// Pops a reference to a function of a type that validation knows; its code.
    fn code_of_reference(&mut self) -> Result<Value, Failure> {
        let reference = self.pop()?;
        if !self.top_is_not_null {
            self.builder.ins().trapz(reference, trap::NULL_FUNCTION_REFERENCE);
        }
        let descriptor = self.descriptor(reference);
        let flags = MemFlagsData::trusted().with_readonly();
        Ok(self.builder.ins().load(types::I64, flags, descriptor, offset_of!(TableEntry, code) as i32))
    }

    /// Pops the index of a table's entry, which must be a function of the type; its code.
    fn code_in_table(&mut self, type_index: u32, table: u32) -> Result<Value, Failure> {
        let module = self.environment.module;
        let id = module.signature_ids.get(type_index as usize).copied();
        let ty = module.tables.get(table as usize);
        let (id, ty) = id.zip(ty).ok_or_else(|| unexpected("an unknown type or table", self.offset))?;
        let index = self.pop()?;
        let entry = self.checked_entry(table, index)?;
        let flags = self.table_flags();
        let code_offset = offset_of!(TableEntry, code) as i32;
        if ty.reference.signature == Some(id) {
            // The table's type has said it all but whether the entry is null.
            let code = self.builder.ins().load(types::I64, flags, entry, code_offset);
            if ty.reference.nullable {
                self.builder.ins().trapz(code, trap::NULL_ELEMENT);
            }
            return Ok(code);
        }
        let signature =
            self.builder.ins().load(types::I32, flags, entry, offset_of!(TableEntry, signature) as i32);
        let matches = self.builder.ins().icmp_imm_u(IntCC::Equal, signature, i64::from(id));
        let (call, mismatch) = (self.builder.create_block(), self.builder.create_block());
        self.builder.ins().brif(matches, call, &[], mismatch, &[]);
        self.builder.seal_block(call);
        self.builder.seal_block(mismatch);
        self.builder.set_cold_block(mismatch);

        self.builder.switch_to_block(mismatch);
        self.builder.ins().trapz(signature, trap::NULL_ELEMENT);
        self.builder.ins().trap(trap::TYPE_MISMATCH);

        self.builder.switch_to_block(call);
        Ok(self.builder.ins().load(types::I64, flags, entry, code_offset))
    }

    /// Replaces a call's arguments on the operand stack by its results.
    fn finish_call(&mut self, results: &[Value], ty: &FuncType) -> Result<(), Failure> {
        let height = self.stack.len().saturating_sub(ty.params.len());
        self.stack.truncate(height);
        self.stack.extend_from_slice(results);
        Ok(())
    }

    fn callee(&mut self, function: u32) -> Result<FuncRef, Failure> {
        if let Some(callee) = self.functions.get(&function) {
            return Ok(*callee);
        }
        let module = self.environment.module;
        let type_index = module.functions.get(function as usize).copied();
        let ty = type_index.and_then(|index| Some((index, module.types.get(index as usize)?)));
        let (type_index, ty) = ty.ok_or_else(|| unexpected("an unknown function", self.offset))?;
        let signature = self.signature(type_index, ty);
        let name = self
            .builder
            .func
            .declare_imported_user_function(UserExternalName::new(FUNCTION_NAMESPACE, function));
        let callee = self.builder.import_function(ExtFuncData {
            name: ExternalName::user(name),
            signature,
            // All code is in one text section, so calls are relative.
            colocated: true,
            patchable: false,
        });
        self.functions.insert(function, callee);
        Ok(callee)
    }

    fn signature(&mut self, type_index: u32, ty: &FuncType) -> SigRef {
        let builder = &mut self.builder;
        *self.signatures.entry(type_index).or_insert_with(|| builder.import_signature(signature(ty)))
    }
}

/// Builds the code behind an imported function: it writes the parameters as 64-bit words to a frame on the stack,
/// calls [`Builtins::host_call`], and reads the results from the frame.
pub(crate) fn import_thunk(
    isa: &dyn TargetIsa,
    index: u32,
    host: FunctionId,
    ty: &FuncType,
    function: &mut Function,
    context: &mut FunctionBuilderContext,
) {
    function.name = ir::UserFuncName::user(FUNCTION_NAMESPACE, index);
    function.signature = signature(ty);
    let mut builder = FunctionBuilder::new(function, context);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    builder.seal_block(entry);

    let words = ty.params.len().max(ty.results.len()).max(1) as u32;
    let slot = builder.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, words * 8, 3));
    let frame = builder.ins().stack_addr(types::I64, slot, 0);
    let flags = MemFlagsData::trusted();
    let params = builder.block_params(entry).to_vec();
    for (i, param) in params.into_iter().enumerate() {
        let word = to_word(&mut builder, param);
        builder.ins().store(flags, word, frame, 8 * i as i32);
    }
    let host_call = abi::host_call_signature();
    let host_call = builder.import_signature(host_call);
    let address =
        builder.ins().iconst(types::I64, (BUILTINS + offset_of!(Builtins, host_call) as u64) as i64);
    let code = builder.ins().load(types::I64, flags.with_readonly(), address, 0);
    let number = builder.ins().iconst(types::I32, i64::from(host.number()));
    builder.ins().call_indirect(host_call, code, &[number, frame]);
    let results: Vec<Value> = ty
        .results
        .iter()
        .enumerate()
        .map(|(i, ty)| builder.ins().load(ty.ir(), flags, frame, 8 * i as i32))
        .collect();
    builder.ins().return_(&results);
    builder.finalize(isa.frontend_config());
}

/// Builds the code behind the imported function `index` that the host side provides under `number`: it writes the parameters
/// to 16-byte slots of a frame on the stack, calls [`Builtins::import_call`], and reads the results from the frame, or traps.
pub(crate) fn open_thunk(
    isa: &dyn TargetIsa,
    index: u32,
    number: u32,
    ty: &FuncType,
    function: &mut Function,
    context: &mut FunctionBuilderContext,
) {
    const SLOT: i32 = 16;
    function.name = ir::UserFuncName::user(FUNCTION_NAMESPACE, index);
    function.signature = signature(ty);
    let mut builder = FunctionBuilder::new(function, context);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    builder.seal_block(entry);

    let slots = ty.params.len().max(ty.results.len()).max(1) as u32;
    let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, slots * SLOT as u32, 4);
    let slot = builder.create_sized_stack_slot(slot);
    let frame = builder.ins().stack_addr(types::I64, slot, 0);
    let flags = MemFlagsData::trusted();
    let zero = builder.ins().iconst(types::I64, 0);
    let params = builder.block_params(entry).to_vec();
    for (i, param) in params.into_iter().enumerate() {
        let at = SLOT * i as i32;
        let word = to_word(&mut builder, param);
        if builder.func.dfg.value_type(word) == types::I64 {
            // Nothing that lay on the stack goes along.
            builder.ins().store(flags, zero, frame, at + 8);
        }
        builder.ins().store(flags, word, frame, at);
    }
    let import_call = abi::import_call_signature();
    let import_call = builder.import_signature(import_call);
    let address = BUILTINS + offset_of!(Builtins, import_call) as u64;
    let address = builder.ins().iconst(types::I64, address as i64);
    let code = builder.ins().load(types::I64, flags.with_readonly(), address, 0);
    let number = builder.ins().iconst(types::I32, i64::from(number));
    let counts = [&ty.params, &ty.results].map(|types| types.len() as i64);
    let [params, results] = counts.map(|count| builder.ins().iconst(types::I32, count));
    let call = builder.ins().call_indirect(import_call, code, &[number, frame, params, results]);
    if let Some(&failed) = builder.inst_results(call).first() {
        builder.ins().trapnz(failed, trap::HOST_FUNCTION);
    }
    let results: Vec<Value> = ty
        .results
        .iter()
        .enumerate()
        .map(|(i, ty)| builder.ins().load(ty.ir(), flags, frame, SLOT * i as i32))
        .collect();
    builder.ins().return_(&results);
    builder.finalize(isa.frontend_config());
}

/// A value as a 64-bit word, narrower ones zero-extended.
pub(crate) fn to_word(builder: &mut FunctionBuilder<'_>, value: Value) -> Value {
    match builder.func.dfg.value_type(value) {
        types::I32 => builder.ins().uextend(types::I64, value),
        types::F32 => {
            let bits = builder.ins().bitcast(types::I32, MemFlagsData::new(), value);
            builder.ins().uextend(types::I64, bits)
        }
        types::F64 => builder.ins().bitcast(types::I64, MemFlagsData::new(), value),
        _ => value,
    }
}
