//! Structured control flow.

use std::collections::HashMap;

use cranelift_codegen::ir::{Block, BlockArg, Inst, InstBuilder, JumpTableData, Value};
use wasmparser::{BlockType, BrTable, TryTable};

use super::{Failure, Translator, unexpected};
use crate::caps::Cap;
use crate::trap;
use crate::types::ValType;

/// Operands that branches to loops may get for locals, for each value that a function may have: most need none.
const LOOP_OPERANDS: u64 = 16;

/// One entry of the control stack.
pub(super) struct Frame<'m> {
    kind: Kind,
    /// Height of the operand stack below the construct's parameters.
    height: usize,
    params: usize,
    results: &'m [ValType],
}

enum Kind {
    /// The construct itself is not reached; nothing was created for it.
    Unreachable,
    /// A `block`, an `if` in its second branch, or the function.
    Block { next: Next },
    /// A `loop`, which branches enter again. Nothing branches behind it.
    Loop { header: Block },
    /// A `try_table`, whose handlers begin at this position of the list.
    TryTable { next: Next, handlers: usize },
    /// An `if` in its first branch.
    If { next: Next, otherwise: Otherwise },
}

/// The block behind a construct. It gets parameters for the construct's results when the first edge to it is made;
/// without any it stays unused, and what follows is unreachable.
struct Next {
    block: Block,
    used: bool,
}

/// Where the condition of an `if` leads when it is false.
enum Otherwise {
    /// Directly behind the `if`, as long as there is no `else`; for an `if` without parameters and results. The branch
    /// is changed when an `else` comes.
    Behind { branch: Inst },
    /// To a block of its own, with these operands as they were before the `if`.
    Block { block: Block, operands: Vec<Value> },
}

fn single(ty: ValType) -> &'static [ValType] {
    match ty {
        ValType::I32 => &[ValType::I32],
        ValType::I64 => &[ValType::I64],
        ValType::F32 => &[ValType::F32],
        ValType::F64 => &[ValType::F64],
        ValType::V128 => &[ValType::V128],
        ValType::FuncRef => &[ValType::FuncRef],
        ValType::ExternRef => &[ValType::ExternRef],
        ValType::ExnRef => &[ValType::ExnRef],
    }
}

impl<'m> Translator<'_, 'm> {
    pub(super) fn push_function_frame(&mut self, results: &'m [ValType]) {
        let next = self.new_next();
        self.frames.push(Frame { kind: Kind::Block { next }, height: 0, params: 0, results });
    }

    pub(super) fn push_unreachable_frame(&mut self) {
        self.frames.push(Frame {
            kind: Kind::Unreachable,
            height: self.stack.len(),
            params: 0,
            results: &[],
        });
    }

    pub(super) fn unreachable(&mut self) -> Result<(), Failure> {
        self.builder.ins().trap(trap::UNREACHABLE);
        self.reachable = false;
        Ok(())
    }

    pub(super) fn block(&mut self, ty: BlockType) -> Result<(), Failure> {
        let (params, results) = self.block_type(ty)?;
        let next = self.new_next();
        self.push_frame(Kind::Block { next }, params.len(), results)
    }

    pub(super) fn try_table(&mut self, table: TryTable) -> Result<(), Failure> {
        let (params, results) = self.block_type(table.ty)?;
        let next = self.new_next();
        let handlers = self.enter_handlers(&table.catches)?;
        self.push_frame(Kind::TryTable { next, handlers }, params.len(), results)
    }

    pub(super) fn loop_(&mut self, ty: BlockType) -> Result<(), Failure> {
        let (params, results) = self.block_type(ty)?;
        let header = self.builder.create_block();
        for ty in params {
            self.builder.append_block_param(header, ty.ir());
        }
        self.jump(header, params.len())?;
        self.push_frame(Kind::Loop { header }, params.len(), results)?;
        self.truncate(params.len());
        self.continue_in(header);
        self.check_fuel()
    }

    pub(super) fn if_(&mut self, ty: BlockType) -> Result<(), Failure> {
        let (params, results) = self.block_type(ty)?;
        let condition = self.pop()?;
        let (then, next) = (self.builder.create_block(), self.new_next());
        let otherwise = if params.is_empty() && results.is_empty() {
            Otherwise::Behind { branch: self.builder.ins().brif(condition, then, &[], next.block, &[]) }
        } else {
            let operands = self.top(params.len())?.to_vec();
            let block = self.builder.create_block();
            self.builder.ins().brif(condition, then, &[], block, &[]);
            self.builder.seal_block(block);
            Otherwise::Block { block, operands }
        };
        self.push_frame(Kind::If { next, otherwise }, params.len(), results)?;
        self.builder.seal_block(then);
        self.builder.switch_to_block(then);
        Ok(())
    }

    pub(super) fn else_(&mut self) -> Result<(), Failure> {
        let mut frame = self.pop_frame()?;
        match frame.kind {
            Kind::Unreachable => {}
            Kind::If { mut next, otherwise } => {
                self.fall_into(&mut next, frame.results)?;
                self.stack.truncate(frame.height);
                let block = match otherwise {
                    Otherwise::Behind { branch } => {
                        let block = self.builder.create_block();
                        self.builder.change_jump_destination(branch, next.block, block);
                        self.builder.seal_block(block);
                        block
                    }
                    Otherwise::Block { block, operands } => {
                        self.stack.extend(operands);
                        block
                    }
                };
                self.builder.switch_to_block(block);
                self.reachable = true;
                frame.kind = Kind::Block { next };
            }
            Kind::Block { .. } | Kind::Loop { .. } | Kind::TryTable { .. } => {
                return Err(unexpected("an `else` without `if`", self.offset));
            }
        }
        self.frames.push(frame);
        Ok(())
    }

    pub(super) fn end(&mut self) -> Result<(), Failure> {
        let frame = self.pop_frame()?;
        let next = match frame.kind {
            Kind::Unreachable => {
                self.stack.truncate(frame.height);
                return Ok(());
            }
            Kind::Loop { header } => {
                self.builder.seal_block(header);
                if !self.reachable {
                    self.stack.truncate(frame.height);
                }
                return Ok(());
            }
            // Nothing branches behind it, and its results are on top: the current block goes on.
            Kind::Block { next } if self.reachable && !next.used => return Ok(()),
            Kind::Block { mut next } => {
                self.fall_into(&mut next, frame.results)?;
                next
            }
            Kind::TryTable { mut next, handlers } => {
                self.fall_into(&mut next, frame.results)?;
                self.stack.truncate(frame.height);
                self.leave_handlers(handlers)?;
                next
            }
            Kind::If { mut next, otherwise } => {
                self.fall_into(&mut next, frame.results)?;
                if let Otherwise::Block { block, operands } = otherwise {
                    // Without `else` the parameters are the results.
                    self.builder.switch_to_block(block);
                    self.stack.truncate(frame.height);
                    self.stack.extend(operands);
                    self.reachable = true;
                    self.fall_into(&mut next, frame.results)?;
                }
                next.used = true;
                next
            }
        };
        self.stack.truncate(frame.height);
        self.reachable = next.used;
        if next.used {
            self.builder.seal_block(next.block);
            self.continue_in(next.block);
        }
        Ok(())
    }

    pub(super) fn br(&mut self, depth: u32) -> Result<(), Failure> {
        let (target, arguments) = self.branch_target(depth)?;
        self.jump(target, arguments)?;
        self.reachable = false;
        Ok(())
    }

    pub(super) fn br_if(&mut self, depth: u32) -> Result<(), Failure> {
        let condition = self.pop()?;
        let (target, arguments) = self.branch_target(depth)?;
        let fall_through = self.builder.create_block();
        self.collect_arguments(arguments)?;
        self.builder.ins().brif(condition, target, &self.arguments, fall_through, &[]);
        self.builder.seal_block(fall_through);
        self.builder.switch_to_block(fall_through);
        Ok(())
    }

    pub(super) fn br_on_null(&mut self, depth: u32) -> Result<(), Failure> {
        let reference = self.pop()?;
        let (target, arguments) = self.branch_target(depth)?;
        let fall_through = self.builder.create_block();
        self.collect_arguments(arguments)?;
        self.builder.ins().brif(reference, fall_through, &[], target, &self.arguments);
        self.builder.seal_block(fall_through);
        self.builder.switch_to_block(fall_through);
        self.push(reference);
        Ok(())
    }

    /// The reference is the branch's last operand.
    pub(super) fn br_on_non_null(&mut self, depth: u32) -> Result<(), Failure> {
        let (target, arguments) = self.branch_target(depth)?;
        let fall_through = self.builder.create_block();
        self.collect_arguments(arguments)?;
        let reference = self.pop()?;
        self.builder.ins().brif(reference, target, &self.arguments, fall_through, &[]);
        self.builder.seal_block(fall_through);
        self.builder.switch_to_block(fall_through);
        Ok(())
    }

    pub(super) fn br_table(&mut self, table: &BrTable<'_>) -> Result<(), Failure> {
        let index = self.pop()?;
        // With arguments, each distinct target gets a block that jumps there: a table entry without arguments
        // keeps the table's size independent of their number.
        let mut edges = HashMap::new();
        let mut order = Vec::new();
        let mut calls = Vec::with_capacity(table.len() as usize + 1);
        for depth in table.targets().chain(std::iter::once(Ok(table.default()))) {
            let depth = depth?;
            let (target, arguments) = self.branch_target(depth)?;
            let block = if arguments == 0 {
                target
            } else {
                *edges.entry(depth).or_insert_with(|| {
                    let block = self.builder.create_block();
                    order.push((block, target, arguments));
                    block
                })
            };
            calls.push(self.builder.func.dfg.block_call(block, &[]));
        }
        let default = calls.pop().ok_or_else(|| unexpected("a `br_table` without default", self.offset))?;
        let table = self.builder.create_jump_table(JumpTableData::new(default, &calls));
        self.builder.ins().br_table(index, table);
        for (block, target, arguments) in order {
            self.builder.seal_block(block);
            self.builder.switch_to_block(block);
            self.jump(target, arguments)?;
        }
        self.reachable = false;
        Ok(())
    }

    pub(super) fn return_(&mut self) -> Result<(), Failure> {
        let count = self.frames.first().map_or(0, |frame| frame.results.len());
        let results = self.top(count)?.to_vec();
        self.builder.ins().return_(&results);
        self.reachable = false;
        Ok(())
    }

    /// The parameter and result types of a construct.
    fn block_type(&self, ty: BlockType) -> Result<(&'m [ValType], &'m [ValType]), Failure> {
        match ty {
            BlockType::Empty => Some((&[][..], &[][..])),
            BlockType::Type(ty) => ValType::of_wasm(ty).map(|ty| (&[][..], single(ty))),
            BlockType::FuncType(index) => {
                let ty = self.environment.module.types.get(index as usize);
                ty.map(|ty| (&ty.params[..], &ty.results[..]))
            }
        }
        .ok_or_else(|| unexpected("a block's type", self.offset))
    }

    fn new_next(&mut self) -> Next {
        Next { block: self.builder.create_block(), used: false }
    }

    fn push_frame(&mut self, kind: Kind, params: usize, results: &'m [ValType]) -> Result<(), Failure> {
        let height = self.stack.len().checked_sub(params);
        let height = height.ok_or_else(|| unexpected("an empty operand stack", self.offset))?;
        self.frames.push(Frame { kind, height, params, results });
        Ok(())
    }

    fn pop_frame(&mut self) -> Result<Frame<'m>, Failure> {
        self.frames.pop().ok_or_else(|| unexpected("an `end` without a block", self.offset))
    }

    /// The block that a branch to the frame at `depth` enters, and how many operands it takes along.
    pub(super) fn branch_target(&mut self, depth: u32) -> Result<(Block, usize), Failure> {
        let index = self.frames.len().checked_sub(1 + depth as usize);
        let frame = index.and_then(|index| self.frames.get_mut(index));
        match frame {
            Some(Frame { kind: Kind::Loop { header }, params, .. }) => {
                // When the loop ends, the frontend gives each branch an operand for each local that differs: all at once, so
                // this must be bounded before.
                self.loop_operands = self.loop_operands.saturating_add(self.locals);
                let (caps, what) = (self.environment.caps, "branches to loops times locals in one function");
                caps.check_times(Cap::FunctionValues, LOOP_OPERANDS, what, self.loop_operands)?;
                Ok((*header, *params))
            }
            Some(Frame {
                kind: Kind::Block { next } | Kind::If { next, .. } | Kind::TryTable { next, .. },
                results,
                ..
            }) => {
                if !next.used {
                    next.used = true;
                    for ty in results.iter() {
                        self.builder.append_block_param(next.block, ty.ir());
                    }
                }
                Ok((next.block, results.len()))
            }
            Some(Frame { kind: Kind::Unreachable, .. }) | None => {
                Err(unexpected("a branch to nowhere", self.offset))
            }
        }
    }

    /// Leaves a construct at its end, if its end is reached.
    fn fall_into(&mut self, next: &mut Next, results: &[ValType]) -> Result<(), Failure> {
        if !self.reachable {
            return Ok(());
        }
        if !next.used {
            next.used = true;
            for ty in results {
                self.builder.append_block_param(next.block, ty.ir());
            }
        }
        self.jump(next.block, results.len())
    }

    /// Jumps to `target` with the top `count` operands, which stay on the stack.
    pub(super) fn jump(&mut self, target: Block, count: usize) -> Result<(), Failure> {
        self.collect_arguments(count)?;
        self.builder.ins().jump(target, &self.arguments);
        Ok(())
    }

    fn collect_arguments(&mut self, count: usize) -> Result<(), Failure> {
        let mut arguments = std::mem::take(&mut self.arguments);
        arguments.clear();
        arguments.extend(self.top(count)?.iter().copied().map(BlockArg::from));
        self.arguments = arguments;
        Ok(())
    }

    pub(super) fn truncate(&mut self, count: usize) {
        let height = self.stack.len().saturating_sub(count);
        self.stack.truncate(height);
    }

    /// Goes on in `block`, with its parameters as operands.
    fn continue_in(&mut self, block: Block) {
        self.builder.switch_to_block(block);
        self.stack.extend_from_slice(self.builder.block_params(block));
    }
}
