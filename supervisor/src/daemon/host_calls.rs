//! Functions that a client serves for its jobs and sessions: calls go out to it, its answers come back.
//!
//! A guest has one thread and a connection does one thing at a time, so at most one call is open. What the client answers is
//! hostile: an answer is compared with the open call, and its values with the function's type. An answer that comes too late for a
//! call that was given up is no fault of the client's; every other one that nothing waits for ends the connection.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use ipc::protocol::{
    CallId, FunctionImport, HostCall, HostResult, HostReturn, IMPORTS_MAX, ImportItem, ImportRequest,
    Payload, one_line,
};
use ipc::report::Value;
use ipc::types::ValueType;
use tokio::sync::{mpsc, oneshot};

use crate::module::type_of_wire;
use crate::{Extern, HostError, HostFunction, Imports, ValType};

/// Calls that were given up of which an answer may still be under way. There is at most one for each job or operation, which
/// the client has been told the end of; more than the latest few are out of order.
const GIVEN_UP_MAX: usize = 64;

/// What is wrong with the imports of a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportsError {
    #[error("{0} imports are provided; a job or session may have {IMPORTS_MAX}")]
    TooMany(usize),
    #[error("the import {module:?} {name:?} is provided twice")]
    Twice { module: String, name: String },
    #[error(
        "the function {module:?} {name:?} has {count} parameters or results; at most {} are possible",
        ipc::imports::VALUES_MAX
    )]
    TooManyValues { module: String, name: String, count: usize },
}

/// An answer that no call waits for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReturnError {
    #[error("call {0} is answered, which was never made on this connection")]
    Unknown(u64),
    #[error("call {0} is answered a second time, or long after its end")]
    Closed(u64),
}

/// A call on its way to the client.
#[derive(Debug)]
pub(super) struct Call {
    import: u32,
    values: Vec<Value>,
    results: Vec<ValueType>,
    answer: oneshot::Sender<Result<Vec<Value>, HostError>>,
}

/// A call that the client has and has not answered.
#[derive(Debug)]
struct Open {
    id: u64,
    results: Vec<ValueType>,
    answer: oneshot::Sender<Result<Vec<Value>, HostError>>,
}

/// The calls of one connection.
#[derive(Debug)]
pub(super) struct HostCalls {
    sender: mpsc::UnboundedSender<Call>,
    calls: mpsc::UnboundedReceiver<Call>,
    /// Of the next call.
    next: u64,
    open: Option<Open>,
    /// Calls that ended without an answer.
    given_up: VecDeque<u64>,
}

impl HostCalls {
    pub(super) fn new() -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        Self { sender, calls, next: 0, open: None, given_up: VecDeque::new() }
    }

    /// What a request provides, with functions that this connection's client serves.
    pub(super) fn imports(&self, requests: Vec<ImportRequest>) -> Result<Imports, ImportsError> {
        if requests.len() > IMPORTS_MAX {
            return Err(ImportsError::TooMany(requests.len()));
        }
        let mut names = HashSet::new();
        if let Some(twice) = requests.iter().find(|r| !names.insert((&r.module, &r.name))) {
            let [module, name] = [&twice.module, &twice.name].map(|name| shortened(name));
            return Err(ImportsError::Twice { module, name });
        }
        drop(names);
        let mut imports = Imports::default();
        for (number, ImportRequest { module, name, item }) in (0..).zip(requests) {
            let item = match item {
                ImportItem::Function(function) => {
                    let count = function.params.len().max(function.results.len());
                    if count > ipc::imports::VALUES_MAX {
                        let [module, name] = [&module, &name].map(|name| shortened(name));
                        return Err(ImportsError::TooManyValues { module, name, count });
                    }
                    Extern::Function(self.function(number, function))
                }
                ImportItem::Global { value, mutable } => Extern::Global { value, mutable },
                ImportItem::Memory { pages, max, memory64 } => Extern::Memory { pages, max, memory64 },
                ImportItem::Table { element, entries, max, table64 } => {
                    Extern::Table { ty: type_of_wire(element), entries, max, table64 }
                }
                ImportItem::Tag { params } => Extern::Tag { params: types(&params) },
            };
            imports.define(module, name, item);
        }
        Ok(imports)
    }

    fn function(&self, import: u32, function: FunctionImport) -> HostFunction {
        let FunctionImport { params, results, deadline_ns } = function;
        let (params, result_types) = (types(&params), types(&results));
        let sender = self.sender.clone();
        let call = move |values| {
            let (answer, answered) = oneshot::channel();
            // Where it cannot be sent, the answer's sender is dropped with it.
            let _ = sender.send(Call { import, values, results: results.clone(), answer });
            async move { answered.await.unwrap_or_else(|_| Err("the client has left".into())) }
        };
        let function = HostFunction::new(params, result_types, call);
        match deadline_ns {
            Some(deadline) => function.within(Duration::from_nanos(deadline)),
            None => function,
        }
    }

    /// The next call for the client, which is open from now on. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> HostCall {
        loop {
            let Some(Call { import, values, results, answer }) = self.calls.recv().await else {
                // This side keeps a sender.
                return std::future::pending().await;
            };
            // Nobody waits for one whose instance has been killed meanwhile.
            if answer.is_closed() {
                continue;
            }
            self.settle();
            let id = self.next;
            self.next += 1;
            self.open = Some(Open { id, results, answer });
            return HostCall { call: CallId(id), import, arguments: Payload::Values(values) };
        }
    }

    /// Notes that the job or operation is over, and with it what it called.
    pub(super) fn settle(&mut self) {
        let Some(open) = self.open.take() else { return };
        if self.given_up.len() >= GIVEN_UP_MAX {
            self.given_up.pop_front();
        }
        self.given_up.push_back(open.id);
    }

    /// Hands an answer of the client to the call that waits for it. An error breaks the protocol.
    pub(super) fn answer(
        &mut self,
        HostReturn { call: CallId(id), result }: HostReturn,
    ) -> Result<(), ReturnError> {
        if let Some(open) = self.open.take_if(|open| open.id == id) {
            // Its deadline may have passed.
            let _ = open.answer.send(checked(result, &open.results));
            return Ok(());
        }
        if let Some(at) = self.given_up.iter().position(|given_up| *given_up == id) {
            self.given_up.remove(at);
            return Ok(());
        }
        Err(if id >= self.next { ReturnError::Unknown(id) } else { ReturnError::Closed(id) })
    }
}

/// The values of an answer, if they are of the function's types; its messages on one line.
fn checked(result: HostResult, results: &[ValueType]) -> Result<Vec<Value>, HostError> {
    match result {
        HostResult::Returned(Payload::Values(values)) => match ValueType::mismatch(results, &values) {
            None => Ok(values),
            Some(mismatch) => Err(HostError::Failed(format!("the client's answer has {mismatch}"))),
        },
        HostResult::Failed(why) => Err(HostError::Failed(one_line(&why))),
        HostResult::Trapped(message) => Err(HostError::Trap(one_line(&message))),
    }
}

fn types(types: &[ValueType]) -> Vec<ValType> {
    types.iter().copied().map(type_of_wire).collect()
}

/// A name for a message.
fn shortened(name: &str) -> String {
    name.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(calls: &HostCalls) -> oneshot::Receiver<Result<Vec<Value>, HostError>> {
        let (answer, answered) = oneshot::channel();
        let call = Call { import: 0, values: Vec::new(), results: vec![ValueType::I32], answer };
        calls.sender.send(call).expect("the receiver lives");
        answered
    }

    fn returned(id: u64, value: i32) -> HostReturn {
        let values = Payload::Values(vec![Value::I32(value)]);
        HostReturn { call: CallId(id), result: HostResult::Returned(values) }
    }

    #[tokio::test]
    async fn an_answer_goes_to_its_call_once() {
        let mut calls = HostCalls::new();
        assert!(matches!(calls.answer(returned(0, 1)), Err(ReturnError::Unknown(0))), "before any call");
        let answered = call(&calls);
        assert_eq!(calls.next().await.call, CallId(0));
        assert!(matches!(calls.answer(returned(1, 1)), Err(ReturnError::Unknown(1))));
        calls.answer(returned(0, 7)).expect("it is open");
        assert_eq!(answered.await.expect("answered"), Ok(vec![Value::I32(7)]));
        assert!(matches!(calls.answer(returned(0, 7)), Err(ReturnError::Closed(0))), "a second time");
    }

    #[tokio::test]
    async fn an_answer_that_comes_late_is_ignored_once() {
        let mut calls = HostCalls::new();
        for id in 0..GIVEN_UP_MAX as u64 + 2 {
            drop(call(&calls));
            let answered = call(&calls);
            // The one that nobody waits for gets no number.
            assert_eq!(calls.next().await.call, CallId(id));
            drop(answered);
            calls.settle();
        }
        calls.answer(returned(GIVEN_UP_MAX as u64 + 1, 0)).expect("late");
        assert!(calls.answer(returned(GIVEN_UP_MAX as u64 + 1, 0)).is_err(), "twice");
        calls.answer(returned(2, 0)).expect("late");
        assert!(matches!(calls.answer(returned(1, 0)), Err(ReturnError::Closed(1))), "forgotten");
        assert!(calls.given_up.len() <= GIVEN_UP_MAX);
    }

    #[test]
    fn answers_are_compared_with_the_functions_type() {
        let values = |values: &[Value]| HostResult::Returned(Payload::Values(values.to_vec()));
        assert_eq!(checked(values(&[Value::I32(1)]), &[ValueType::I32]), Ok(vec![Value::I32(1)]));
        let failed = |result, types: &[ValueType]| checked(result, types).expect_err("refused").to_string();
        assert_eq!(
            failed(values(&[Value::I32(0); 1000]), &[ValueType::I32]),
            "the client's answer has 1000 values instead of 1"
        );
        assert_eq!(
            failed(values(&[Value::I64(0)]), &[ValueType::I32]),
            "the client's answer has an i64 instead of an i32 as value 0"
        );
        assert_eq!(failed(HostResult::Failed("a\nb".into()), &[]), "a b");
        let trap = checked(HostResult::Trapped("x".repeat(10_000)), &[]);
        assert!(matches!(trap, Err(HostError::Trap(message)) if message.len() == ipc::protocol::MESSAGE_MAX));
    }

    #[test]
    fn imports_are_counted_and_named_once() {
        let calls = HostCalls::new();
        let function = |count| {
            let params = vec![ValueType::I32; count];
            ImportItem::Function(FunctionImport { params, results: vec![], deadline_ns: None })
        };
        let import = |name: String, item| ImportRequest { module: "m".into(), name, item };
        let many = |count: usize| (0..count).map(|n| import(n.to_string(), function(0))).collect::<Vec<_>>();
        assert_eq!(calls.imports(many(IMPORTS_MAX)).expect("fits").iter().count(), IMPORTS_MAX);
        assert!(matches!(calls.imports(many(IMPORTS_MAX + 1)), Err(ImportsError::TooMany(_))));
        let twice = vec![import("f".into(), function(0)), import("f".into(), function(1))];
        assert!(matches!(calls.imports(twice), Err(ImportsError::Twice { .. })));
        let wide = vec![import("f".into(), function(ipc::imports::VALUES_MAX + 1))];
        assert!(matches!(calls.imports(wide), Err(ImportsError::TooManyValues { .. })));
    }
}
