//! Translation of one function body to Cranelift IR, one file per family of instructions.
//!
//! Every operator is validated immediately before it is translated, so translation may rely on types and indices;
//! where that is a lookup, a failed one is an error nevertheless, never a panic. What can be counted without translating has
//! been compared with its cap before ([`crate::codegen::validate_bodies`]).
//!
//! The operand stack exists only here: its slots are SSA values. Locals are the frontend's variables. Code after a
//! terminator is validated but not translated ([`Translator::reachable`]).

mod abi;
mod atomic;
mod bulk;
mod call;
mod control;
mod exception;
mod fuel;
mod global;
mod instantiate;
mod memory;
mod numeric;
mod reference;
mod simd;
mod table;
mod wide;

use std::collections::HashMap;

use cranelift_codegen::ir::{
    self, AliasRegion, AliasRegionData, BlockArg, FuncRef, Function, GlobalValue, InstBuilder, MemFlagsData,
    SigRef, SourceLoc, Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use ipc::layout::CONTEXT_BASE;
use wasmparser::{FuncValidator, FunctionBody, Operator, OperatorsReader, ValidatorResources};

pub(crate) use abi::{RODATA_NAMESPACE, signature, signature_of};
pub(crate) use call::{import_thunk, open_thunk, to_word};
pub(crate) use instantiate::instantiate;

use crate::Error;
use crate::caps::Cap;
use crate::module::Module;
use crate::plan::Plan;
use crate::types::ValType;
use control::Frame;
use exception::Handler;

/// What translation of a module's functions shares.
#[derive(Clone, Copy)]
pub(crate) struct Environment<'m> {
    pub module: &'m Module<'m>,
    pub plan: &'m Plan,
    pub isa: &'m dyn TargetIsa,
    pub caps: &'m crate::Caps,
    pub options: crate::CodeOptions,
    /// Source lines, if they are wanted.
    pub lines: Option<&'m crate::debug::Lines>,
}

/// Why a body was not translated.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It does not validate.
    Invalid(wasmparser::Error),
    /// Anything else.
    Other(Error),
}

impl From<wasmparser::Error> for Failure {
    fn from(error: wasmparser::Error) -> Self {
        Failure::Invalid(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Other(error)
    }
}

/// Something that validation excludes did happen at `offset`.
pub(crate) fn unexpected(what: &str, offset: usize) -> Failure {
    Failure::Other(Error::Invalid {
        message: format!("{what}, which validation should have rejected"),
        offset,
    })
}

/// Regions of memory that cannot alias each other, for Cranelift's alias analysis.
#[derive(Clone, Copy)]
struct Regions {
    /// Memory and table descriptors, lengths of passive segments.
    context: AliasRegion,
    /// Entries of all tables.
    tables: AliasRegion,
    /// Linear memory 0.
    memory: AliasRegion,
}

/// Translates one function body.
struct Translator<'f, 'm> {
    environment: Environment<'m>,
    builder: FunctionBuilder<'f>,
    /// The operand stack.
    stack: Vec<Value>,
    /// The control stack; the outermost frame is the function.
    frames: Vec<Frame<'m>>,
    /// Whether the current position can be reached.
    reachable: bool,
    /// Byte offset of the current operator, for errors.
    offset: usize,
    regions: Regions,
    functions: HashMap<u32, FuncRef>,
    signatures: HashMap<u32, SigRef>,
    builtins: [Option<SigRef>; abi::BUILTINS],
    rodata: HashMap<u64, GlobalValue>,
    /// Parameters and declared locals.
    locals: u64,
    /// Branches to loops so far, times locals.
    loop_operands: u64,
    /// The handlers around the current position, outermost first.
    handlers: Vec<Handler>,
    /// Handlers looked at for all calls so far.
    handler_edges: u64,
    /// Fuel that the operators since the last settlement cost.
    fuel_pending: u32,
    /// Values from this number on are used at most once, by the operand stack.
    unshared: usize,
    /// Reused for the arguments of branches.
    arguments: Vec<BlockArg>,
    /// Whether the top operand's type excludes null; known before the operators that ask for it.
    top_is_not_null: bool,
}

/// Validates `body` and translates it into `function`, which must be empty.
pub(crate) fn translate(
    environment: Environment<'_>,
    validator: &mut FuncValidator<ValidatorResources>,
    body: &FunctionBody<'_>,
    index: u32,
    function: &mut Function,
    context: &mut FunctionBuilderContext,
) -> Result<(), Failure> {
    let start = body.range().start;
    let ty = environment
        .module
        .function_type(index)
        .ok_or_else(|| unexpected("a function without a type", start))?;
    function.name = ir::UserFuncName::user(abi::FUNCTION_NAMESPACE, index);
    function.signature = signature(ty);
    let mut translator = Translator::new(environment, function, context, start);

    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader)?;
    translator.builder.set_srcloc(SourceLoc::new(start as u32));
    translator.enter(&ty.params, &ty.results, validator)?;
    translator.fuel_at_entry()?;
    let mut operators = OperatorsReader::new(reader);
    while !operators.eof() {
        let (operator, offset) = operators.read_with_offset()?;
        if let Operator::CallRef { .. } | Operator::ReturnCallRef { .. } | Operator::RefAsNonNull = operator {
            let top = validator.get_operand_type(0).flatten();
            translator.top_is_not_null =
                top.and_then(|ty| ty.as_reference_type()).is_some_and(|ty| !ty.is_nullable());
        }
        validator.op(offset, &operator)?;
        translator.offset = offset;
        if translator.reachable {
            translator.builder.set_srcloc(SourceLoc::new(offset as u32));
            translator.charge_fuel(&operator)?;
            translator.operator(operator)?;
        } else {
            translator.unreachable_operator(operator)?;
        }
        translator.check_size()?;
    }
    operators.finish()?;
    translator.leave()?;
    translator.builder.finalize(environment.isa.frontend_config());
    Ok(())
}

impl<'f, 'm> Translator<'f, 'm> {
    /// Begins with an empty function.
    fn new(
        environment: Environment<'m>,
        function: &'f mut Function,
        context: &'f mut FunctionBuilderContext,
        start: usize,
    ) -> Self {
        let mut region = |id, description: &'static str| {
            let description = description.into();
            function.dfg.alias_regions.insert(AliasRegionData { user_id: id, description })
        };
        let regions = Regions {
            context: region(0, "context"),
            tables: region(1, "tables"),
            memory: region(2, "memory 0"),
        };
        Translator {
            environment,
            builder: FunctionBuilder::new(function, context),
            stack: Vec::new(),
            frames: Vec::new(),
            reachable: true,
            offset: start,
            regions,
            functions: HashMap::new(),
            signatures: HashMap::new(),
            builtins: [None; abi::BUILTINS],
            rodata: HashMap::new(),
            locals: 0,
            loop_operands: 0,
            handlers: Vec::new(),
            handler_edges: 0,
            fuel_pending: 0,
            unshared: 0,
            arguments: Vec::new(),
            top_is_not_null: false,
        }
    }
}

impl<'m> Translator<'_, 'm> {
    /// Opens a function of ours, without parameters and results.
    fn enter_ours(&mut self) {
        let entry = self.builder.create_block();
        self.builder.switch_to_block(entry);
        self.builder.seal_block(entry);
        self.push_function_frame(&[]);
    }

    /// Opens the function: its parameters and zeroed locals, and the frame that `return` leaves.
    fn enter(
        &mut self,
        params: &[ValType],
        results: &'m [ValType],
        validator: &FuncValidator<ValidatorResources>,
    ) -> Result<(), Failure> {
        let entry = self.builder.create_block();
        self.builder.append_block_params_for_function_params(entry);
        self.builder.switch_to_block(entry);
        self.builder.seal_block(entry);
        let count = validator.len_locals();
        self.locals = count.into();
        for local in 0..count {
            let ty = validator
                .get_local_type(local)
                .and_then(ValType::of_wasm)
                .ok_or_else(|| unexpected("a local's type", self.offset))?;
            let variable = self.builder.declare_var(ty.ir());
            debug_assert_eq!(variable, Variable::from_u32(local));
            let parameter = params
                .get(local as usize)
                .and_then(|_| self.builder.block_params(entry).get(local as usize).copied());
            let value = match parameter {
                Some(value) => value,
                None => self.bits(ty, 0),
            };
            self.builder.def_var(variable, value);
        }
        self.push_function_frame(results);
        Ok(())
    }

    /// An error when the function has become larger than the code generator is to see. Called after every operator, as one
    /// can make a value in each of many blocks.
    fn check_size(&self) -> Result<(), Error> {
        let dfg = &self.builder.func.dfg;
        // Lists have power-of-two sizes, and growing leaves the old one to others: up to four slots for an operand.
        let operands = dfg.value_lists.capacity() / 4;
        let size = dfg.num_values().max(dfg.num_insts()).max(operands) as u64;
        let what = "values, instructions or operands in one function";
        self.environment.caps.check(Cap::FunctionValues, what, size)
    }

    /// Closes the function after its last `end`.
    fn leave(&mut self) -> Result<(), Failure> {
        if self.reachable {
            let results = self.top(self.stack.len())?.to_vec();
            self.builder.ins().return_(&results);
        }
        Ok(())
    }

    /// Translates an operator at a reachable position.
    fn operator(&mut self, operator: Operator<'_>) -> Result<(), Failure> {
        match operator {
            Operator::Nop => Ok(()),
            Operator::Drop => self.pop().map(drop),
            Operator::LocalGet { local_index } => {
                let value = self.builder.use_var(Variable::from_u32(local_index));
                self.push(value);
                Ok(())
            }
            Operator::LocalSet { local_index } => {
                let value = self.pop()?;
                self.builder.def_var(Variable::from_u32(local_index), value);
                self.all_shared();
                Ok(())
            }
            Operator::LocalTee { local_index } => {
                let value = self.pop()?;
                self.builder.def_var(Variable::from_u32(local_index), value);
                self.all_shared();
                self.push(value);
                Ok(())
            }
            Operator::Select | Operator::TypedSelect { .. } => {
                let (condition, on_false, on_true) = (self.pop()?, self.pop()?, self.pop()?);
                let value = self.builder.ins().select(condition, on_true, on_false);
                self.push(value);
                Ok(())
            }
            Operator::GlobalGet { global_index } => self.global_get(global_index),
            Operator::GlobalSet { global_index } => self.global_set(global_index),

            Operator::Unreachable => self.unreachable(),
            Operator::Block { blockty } => self.block(blockty),
            Operator::Loop { blockty } => self.loop_(blockty),
            Operator::If { blockty } => self.if_(blockty),
            Operator::Else => self.else_(),
            Operator::End => self.end(),
            Operator::TryTable { try_table } => self.try_table(try_table),
            Operator::Throw { tag_index } => self.throw(tag_index),
            Operator::ThrowRef => self.throw_ref(),
            Operator::Br { relative_depth } => self.br(relative_depth),
            Operator::BrIf { relative_depth } => self.br_if(relative_depth),
            Operator::BrTable { targets } => self.br_table(&targets),
            Operator::BrOnNull { relative_depth } => self.br_on_null(relative_depth),
            Operator::BrOnNonNull { relative_depth } => self.br_on_non_null(relative_depth),
            Operator::Return => self.return_(),

            Operator::Call { function_index } => self.call(function_index),
            Operator::CallIndirect { type_index, table_index } => self.call_indirect(type_index, table_index),
            Operator::CallRef { type_index } => self.call_ref(type_index),
            Operator::ReturnCall { function_index } => self.return_call(function_index),
            Operator::ReturnCallIndirect { type_index, table_index } => {
                self.return_call_indirect(type_index, table_index)
            }
            Operator::ReturnCallRef { type_index } => self.return_call_ref(type_index),

            Operator::RefNull { .. } => self.ref_null(),
            Operator::RefIsNull => self.ref_is_null(),
            Operator::RefAsNonNull => self.ref_as_non_null(),
            Operator::RefFunc { function_index } => self.ref_func(function_index),

            Operator::TableGet { table } => self.table_get(table),
            Operator::TableSet { table } => self.table_set(table),
            Operator::TableSize { table } => self.table_size_operator(table),
            Operator::TableGrow { table } => self.table_grow(table),
            Operator::TableFill { table } => self.table_fill(table),
            Operator::TableCopy { dst_table, src_table } => self.table_copy(dst_table, src_table),
            Operator::TableInit { elem_index, table } => self.table_init(elem_index, table),
            Operator::ElemDrop { elem_index } => self.elem_drop(elem_index),

            Operator::MemorySize { mem } => self.memory_size(mem),
            Operator::MemoryGrow { mem } => self.memory_grow(mem),
            Operator::MemoryCopy { dst_mem, src_mem } => self.memory_copy(dst_mem, src_mem),
            Operator::MemoryFill { mem } => self.memory_fill(mem),
            Operator::MemoryInit { data_index, mem } => self.memory_init(data_index, mem),
            Operator::DataDrop { data_index } => self.data_drop(data_index),

            ref other => {
                if self.numeric(other)?
                    || self.memory_access(other)?
                    || self.simd(other)?
                    || self.atomic(other)?
                    || self.wide_arithmetic(other)?
                {
                    Ok(())
                } else {
                    Err(unexpected(&format!("operator {other:?}"), self.offset))
                }
            }
        }
    }

    /// Follows the structure of code that cannot be reached.
    fn unreachable_operator(&mut self, operator: Operator<'_>) -> Result<(), Failure> {
        match operator {
            Operator::Block { .. }
            | Operator::Loop { .. }
            | Operator::If { .. }
            | Operator::TryTable { .. } => {
                self.push_unreachable_frame();
                Ok(())
            }
            Operator::Else => self.else_(),
            Operator::End => self.end(),
            _ => Ok(()),
        }
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value, Failure> {
        let value = self.stack.pop().ok_or_else(|| unexpected("an empty operand stack", self.offset))?;
        Ok(self.canonical(value))
    }

    /// The top `n` operands, which stay there. Instructions may be made for them.
    fn top(&mut self, n: usize) -> Result<&[Value], Failure> {
        let mut stack = std::mem::take(&mut self.stack);
        let top = stack.len().checked_sub(n).and_then(|start| stack.get_mut(start..));
        for operand in top.into_iter().flatten() {
            *operand = self.canonical(*operand);
        }
        self.stack = stack;
        self.all_shared();
        let top = self.stack.len().checked_sub(n).and_then(|start| self.stack.get(start..));
        top.ok_or_else(|| unexpected("an empty operand stack", self.offset))
    }

    /// A 64-bit constant.
    fn constant(&mut self, value: u64) -> Value {
        self.builder.ins().iconst(types::I64, value as i64)
    }

    /// A 32-bit index or length, zero-extended; a 64-bit one as it is.
    fn extend(&mut self, value: Value) -> Value {
        if self.builder.func.dfg.value_type(value) == types::I64 {
            return value;
        }
        self.builder.ins().uextend(types::I64, value)
    }

    /// Loads a 64-bit field of the context. All share one base constant, which saves instructions.
    fn load_context(&mut self, address: u64, flags: MemFlagsData) -> Result<Value, Failure> {
        let (base, offset) = self.context_address(address)?;
        Ok(self.builder.ins().load(types::I64, flags, base, offset))
    }

    /// Splits an address in the context region into the region's base and an offset that fits an instruction.
    fn context_address(&mut self, address: u64) -> Result<(Value, i32), Failure> {
        let offset = address.checked_sub(CONTEXT_BASE).and_then(|offset| i32::try_from(offset).ok());
        let offset = offset.ok_or_else(|| unexpected("an address outside of the context", self.offset))?;
        Ok((self.constant(CONTEXT_BASE), offset))
    }

    /// Flags of fields of the context that only code of ours and the shim writes, always mapped and aligned.
    fn context_flags(&self) -> MemFlagsData {
        MemFlagsData::trusted().with_alias_region(Some(self.regions.context))
    }
}
