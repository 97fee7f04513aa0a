//! The function that starts an instance whose initial state depends on its imports: globals, then element segments, then
//! data segments, in the order and with the traps of the specification, then the module's own start function.

use cranelift_codegen::ir::{self, Function, InstBuilder, Signature, Value, types};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::FunctionBuilderContext;

use super::{Environment, Failure, Translator, abi, unexpected};
use crate::module::{GlobalSource, SegmentMode};

/// Writes the function number `index`, which is called without parameters and returns nothing.
pub(crate) fn instantiate(
    environment: Environment<'_>,
    index: u32,
    function: &mut Function,
    context: &mut FunctionBuilderContext,
) -> Result<(), Failure> {
    let module = environment.module;
    function.name = ir::UserFuncName::user(abi::FUNCTION_NAMESPACE, index);
    function.signature = Signature::new(CallConv::Tail);
    let mut translator = Translator::new(environment, function, context, 0);
    translator.enter_ours();
    for (index, global) in module.globals.iter().enumerate() {
        if let GlobalSource::Expression(expression) = &global.source {
            translator.expression(expression)?;
            translator.global_set(index as u32)?;
            translator.check_size()?;
        }
    }
    for (segment, element) in module.elements.iter().enumerate() {
        if let SegmentMode::Deferred { index, offset } = element.mode {
            translator.range_of_segment(offset, element.items.len())?;
            translator.table_init(segment as u32, index)?;
            translator.elem_drop(segment as u32)?;
            translator.check_size()?;
        }
    }
    for (segment, data) in module.data.iter().enumerate() {
        if let SegmentMode::Deferred { index, offset } = data.mode {
            translator.range_of_segment(offset, data.bytes.len())?;
            translator.memory_init(segment as u32, index)?;
            translator.data_drop(segment as u32)?;
            translator.check_size()?;
        }
    }
    if let Some(start) = module.start {
        translator.call(start)?;
    }
    translator.builder.ins().return_(&[]);
    translator.builder.finalize(environment.isa.frontend_config());
    Ok(())
}

impl Translator<'_, '_> {
    /// Pushes what initialising from a whole segment takes: its offset in the target, 0, its length.
    fn range_of_segment(&mut self, offset: u32, length: usize) -> Result<(), Failure> {
        let module = self.environment.module;
        let expression = module.expressions.get(offset as usize);
        let expression = expression.ok_or_else(|| unexpected("a segment without an offset", self.offset))?;
        self.expression(expression)?;
        let zero = self.small_constant(0);
        let length = self.small_constant(length as i64);
        self.push(zero);
        self.push(length);
        Ok(())
    }

    fn small_constant(&mut self, value: i64) -> Value {
        self.builder.ins().iconst(types::I32, value)
    }

    /// Pushes the value of a constant expression.
    fn expression(&mut self, expression: &[wasmparser::Operator<'static>]) -> Result<(), Failure> {
        for operator in expression {
            self.operator(operator.clone())?;
        }
        Ok(())
    }
}
