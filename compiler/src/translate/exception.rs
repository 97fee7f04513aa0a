//! Exceptions: `try_table`, `throw`, `throw_ref`, and calls that have handlers.
//!
//! A call inside a `try_table` ends its block: it names the block behind it and one per handler, which the code generator
//! writes down beside the code. Nothing is executed for a handler before something is thrown. A reference to an
//! exception is the address of its slot in the [`ExceptionArena`].

use std::collections::HashSet;

use cranelift_codegen::ir::{
    Block, BlockArg, ExceptionTableData, ExceptionTableItem, ExceptionTag, FuncRef, InstBuilder,
    MemFlagsData, SigRef, Value, types,
};
use ipc::context::{EXCEPTION_VALUE, EXCEPTION_VALUES};
use wasmparser::Catch;

use super::abi::Builtin;
use super::{Failure, Translator, unexpected};
use crate::caps::Cap;
use crate::trap;

/// What is called.
pub(super) enum Callee {
    /// A function of the module.
    Direct(FuncRef),
    /// The code at an address.
    Indirect(Value),
}

/// A clause of a `try_table`.
#[derive(Clone, Copy)]
pub(super) struct Handler {
    /// The tag that it is for; none for any.
    tag: Option<u32>,
    /// Whether it passes the reference on.
    reference: bool,
    /// The label, counted from outside of the `try_table`.
    label: u32,
    /// Its code, which gets the reference.
    block: Block,
    /// Whether something leads to it.
    used: bool,
}

impl Translator<'_, '_> {
    /// Opens the handlers of a `try_table`; the position to close them with.
    pub(super) fn enter_handlers(&mut self, catches: &[Catch]) -> Result<usize, Failure> {
        let position = self.handlers.len();
        // The first clause that matches is taken, and the list is searched from its end.
        for catch in catches.iter().rev() {
            let (tag, reference, label) = match *catch {
                Catch::One { tag, label } => (Some(tag), false, label),
                Catch::OneRef { tag, label } => (Some(tag), true, label),
                Catch::All { label } => (None, false, label),
                Catch::AllRef { label } => (None, true, label),
            };
            let tag = tag.map(|tag| self.tag_number(tag)).transpose()?;
            let block = self.builder.create_block();
            self.handlers.push(Handler { tag, reference, label, block, used: false });
        }
        Ok(position)
    }

    /// The number of a tag in exceptions.
    fn tag_number(&self, tag: u32) -> Result<u32, Failure> {
        let number = self.environment.module.tag_numbers.get(tag as usize);
        number.copied().ok_or_else(|| unexpected("an unknown tag", self.offset))
    }

    /// Closes the handlers from `position` on and writes the code of those that are used.
    pub(super) fn leave_handlers(&mut self, position: usize) -> Result<(), Failure> {
        let closed = self.handlers.split_off(position.min(self.handlers.len()));
        for handler in closed.into_iter().rev().filter(|handler| handler.used) {
            let exception = self.builder.append_block_param(handler.block, types::I64);
            self.builder.seal_block(handler.block);
            self.builder.set_cold_block(handler.block);
            self.builder.switch_to_block(handler.block);
            let height = self.stack.len();
            if let Some(tag) = handler.tag {
                let ty = self.environment.module.tag_type(tag);
                let ty = ty.ok_or_else(|| unexpected("an unknown tag", self.offset))?;
                for (i, ty) in ty.params.iter().enumerate() {
                    let offset = self.value_offset(i)?;
                    let value = self.builder.ins().load(ty.ir(), MemFlagsData::trusted(), exception, offset);
                    self.push(value);
                }
            }
            if handler.reference {
                self.push(exception);
            }
            let (target, arguments) = self.branch_target(handler.label)?;
            self.jump(target, arguments)?;
            self.stack.truncate(height);
        }
        Ok(())
    }

    /// Calls something that may throw; its results.
    pub(super) fn invoke(
        &mut self,
        callee: Callee,
        signature: SigRef,
        arguments: &[Value],
    ) -> Result<Vec<Value>, Failure> {
        if self.handlers.is_empty() {
            let call = match callee {
                Callee::Direct(function) => self.builder.ins().call(function, arguments),
                Callee::Indirect(code) => self.builder.ins().call_indirect(signature, code, arguments),
            };
            return Ok(self.builder.inst_results(call).to_vec());
        }
        self.handler_edges = self.handler_edges.saturating_add(self.handlers.len() as u64);
        let (caps, what) = (self.environment.caps, "exception handlers of all calls in one function");
        caps.check(Cap::FunctionBrTableTargets, what, self.handler_edges)?;

        let next = self.builder.create_block();
        let returns: Vec<_> =
            self.builder.func.dfg.signatures[signature].returns.iter().map(|r| r.value_type).collect();
        let results: Vec<Value> =
            returns.iter().map(|ty| self.builder.append_block_param(next, *ty)).collect();
        let returned: Vec<BlockArg> = (0..results.len() as u32).map(BlockArg::TryCallRet).collect();
        let normal = self.builder.func.dfg.block_call(next, &returned);
        let (mut items, mut tags) = (Vec::new(), HashSet::new());
        for handler in self.handlers.iter_mut().rev() {
            if handler.tag.is_some_and(|tag| !tags.insert(tag)) {
                // An inner handler takes them all.
                continue;
            }
            handler.used = true;
            let target = self.builder.func.dfg.block_call(handler.block, &[BlockArg::TryCallExn(0)]);
            match handler.tag {
                Some(tag) => items.push(ExceptionTableItem::Tag(ExceptionTag::from_u32(tag), target)),
                None => {
                    items.push(ExceptionTableItem::Default(target));
                    break;
                }
            }
        }
        let table = ExceptionTableData::new(signature, normal, items);
        let table = self.builder.func.dfg.exception_tables.push(table);
        match callee {
            Callee::Direct(function) => self.builder.ins().try_call(function, arguments, table),
            Callee::Indirect(code) => self.builder.ins().try_call_indirect(code, arguments, table),
        };
        self.builder.seal_block(next);
        self.builder.switch_to_block(next);
        Ok(results)
    }

    pub(super) fn throw(&mut self, tag: u32) -> Result<(), Failure> {
        let ty = self.environment.module.tag_type(tag);
        let ty = ty.ok_or_else(|| unexpected("an unknown tag", self.offset))?;
        let values = self.top(ty.params.len())?.to_vec();
        self.truncate(values.len());
        let arena = self.arena()?;
        let number = self.tag_number(tag)?;
        let number = self.builder.ins().iconst(types::I32, i64::from(number));
        let exception = self.call_builtin(Builtin::ExceptionNew, &[arena, number])?;
        let exception = exception.ok_or_else(|| unexpected("a builtin without a result", self.offset))?;
        self.builder.ins().trapz(exception, trap::EXCEPTION_MEMORY);
        for (i, value) in values.into_iter().enumerate() {
            let offset = self.value_offset(i)?;
            self.builder.ins().store(MemFlagsData::trusted(), value, exception, offset);
        }
        self.throw_exception(exception)
    }

    pub(super) fn throw_ref(&mut self) -> Result<(), Failure> {
        let exception = self.pop()?;
        self.builder.ins().trapz(exception, trap::NULL_EXCEPTION);
        if self.environment.plan.exceptions.is_none() {
            // Without tags there is no exception, so it was null.
            self.builder.ins().trap(trap::NULL_EXCEPTION);
            self.reachable = false;
            return Ok(());
        }
        self.throw_exception(exception)
    }

    fn throw_exception(&mut self, exception: Value) -> Result<(), Failure> {
        let arena = self.arena()?;
        let (signature, code) = self.builtin(Builtin::ExceptionThrow)?;
        self.invoke(Callee::Indirect(code), signature, &[arena, exception])?;
        // It comes back only when there is no handler.
        self.builder.ins().trap(trap::UNCAUGHT_EXCEPTION);
        self.reachable = false;
        Ok(())
    }

    /// The address of the arena.
    fn arena(&mut self) -> Result<Value, Failure> {
        let arena = self.environment.plan.exceptions.as_ref().map(|exceptions| exceptions.arena);
        let arena = arena.ok_or_else(|| unexpected("an exception without a tag", self.offset))?;
        Ok(self.constant(arena))
    }

    /// Where an exception's value number `index` is.
    fn value_offset(&self, index: usize) -> Result<i32, Failure> {
        i32::try_from(EXCEPTION_VALUES + EXCEPTION_VALUE * index as u64)
            .map_err(|_| unexpected("an exception with too many values", self.offset))
    }
}
