//! The table of exception handlers: for each call that has some, the address that it returns to, where its frame is, and
//! the handlers in the order in which they are tried.
//!
//! It lies in the read-only data, where the shim searches it when something is thrown.

use cranelift_codegen::{FinalizedMachCallSite, FinalizedMachExceptionHandler};
use ipc::context::{CATCH_ALL, ExceptionClause, ExceptionSite};

/// The handlers of one call. Code offsets are from the start of the function.
#[derive(Clone, Debug)]
pub(crate) struct CallHandlers {
    pub return_address: u32,
    pub frame_offset: u32,
    pub clauses: Vec<ExceptionClause>,
}

/// The handlers of a call, if it has some.
pub(crate) fn of_call(call: &FinalizedMachCallSite<'_>) -> Result<Option<CallHandlers>, String> {
    if call.exception_handlers.is_empty() {
        return Ok(None);
    }
    let frame_offset = call.frame_offset.ok_or("a call with handlers in an unknown frame")?;
    let mut clauses = Vec::with_capacity(call.exception_handlers.len());
    for handler in call.exception_handlers {
        clauses.push(match *handler {
            FinalizedMachExceptionHandler::Tag(tag, handler) => {
                ExceptionClause { tag: tag.as_u32(), handler }
            }
            FinalizedMachExceptionHandler::Default(handler) => ExceptionClause { tag: CATCH_ALL, handler },
            FinalizedMachExceptionHandler::Context(_) => return Err("a handler with a context".to_owned()),
        });
    }
    Ok(Some(CallHandlers { return_address: call.ret_addr, frame_offset, clauses }))
}

/// Bytes of the table, before the functions have addresses; at least what it will have.
pub(crate) fn bytes<'c>(functions: impl Iterator<Item = &'c [CallHandlers]>) -> u64 {
    functions.flatten().fold(0, |sum, call| {
        sum + size_of::<ExceptionSite>() as u64 + (call.clauses.len() * size_of::<ExceptionClause>()) as u64
    })
}

/// The table as it is read.
#[derive(Default)]
pub(crate) struct Table {
    pub sites: Vec<ExceptionSite>,
    pub clauses: Vec<ExceptionClause>,
}

impl Table {
    /// Adds the next function, whose code is at `start`.
    pub fn function(&mut self, start: u32, calls: &[CallHandlers]) {
        for call in calls {
            let first = self.clauses.len() as u32;
            let clauses = call.clauses.iter().map(|c| ExceptionClause { handler: start + c.handler, ..*c });
            self.clauses.extend(clauses);
            self.sites.push(ExceptionSite {
                return_address: start + call.return_address,
                frame_offset: call.frame_offset,
                first,
                count: call.clauses.len() as u32,
            });
        }
    }

    /// Appends the table's bytes.
    pub fn append(&self, out: &mut Vec<u8>) {
        for site in &self.sites {
            for word in [site.return_address, site.frame_offset, site.first, site.count] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
        for clause in &self.clauses {
            out.extend_from_slice(&clause.tag.to_le_bytes());
            out.extend_from_slice(&clause.handler.to_le_bytes());
        }
    }
}
