//! Functions that a client serves for its jobs and sessions: calls go out to it, its answers come back.
//!
//! A guest has one thread and a connection does one thing at a time, so at most one call is open. What the client answers is
//! hostile: an answer is compared with the open call, and its values with the function's type. An answer that comes too late for a
//! call that was given up is no fault of the client's; every other one that nothing waits for ends the connection.
//!
//! A function of an interface is checked by the same code as one of a library's host app, whose place the client takes: arguments before
//! it is called, its reply when it has answered. What the client says of handles must be possible, or the connection ends.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use interface::{Lowered, Reply, Value as TypedValue};
use ipc::protocol::{
    CallId, FRAME_MAX, FunctionImport, HandleChanges, HostCall, HostResult, HostReturn, IMPORTS_MAX,
    ImportItem, ImportRequest, Invocation, Payload, one_line,
};
use ipc::report::Value;
use ipc::types::ValueType;
use tokio::sync::{mpsc, oneshot};

use crate::module::type_of_wire;
use crate::service::{CallContext, Service, WeakContext};
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
    #[error("the interface {0:?} is served twice")]
    InterfaceTwice(String),
}

/// An answer that no call waits for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReturnError {
    #[error("call {0} is answered, which was never made on this connection")]
    Unknown(u64),
    #[error("call {0} is answered a second time, or long after its end")]
    Closed(u64),
    #[error("the answer to call {0} tells of handles, and the function has none")]
    NoHandles(u64),
    #[error("the answer to call {call} cannot be: {why}")]
    Handles { call: u64, why: String },
}

/// A call on its way to the client.
#[derive(Debug)]
pub(super) struct Call {
    invocation: Invocation,
    waiting: Waiting,
}

/// What waits for the answer to a call.
#[derive(Debug)]
enum Waiting {
    Values {
        /// What it returns.
        results: Vec<ValueType>,
        answer: oneshot::Sender<Result<Vec<Value>, HostError>>,
    },
    Typed {
        context: CallContext,
        /// How many values it returns.
        results: usize,
        answer: oneshot::Sender<Result<Reply, HostError>>,
    },
}

impl Waiting {
    fn is_closed(&self) -> bool {
        match self {
            Self::Values { answer, .. } => answer.is_closed(),
            Self::Typed { answer, .. } => answer.is_closed(),
        }
    }

    fn fail(self, error: HostError) {
        // Its deadline may have passed, here and below.
        match self {
            Self::Values { answer, .. } => drop(answer.send(Err(error))),
            Self::Typed { answer, .. } => drop(answer.send(Err(error))),
        }
    }

    fn answer(self, result: HostResult) {
        match self {
            Self::Values { results, answer } => drop(answer.send(checked(result, &results))),
            Self::Typed { results, answer, .. } => drop(answer.send(reply(result, results))),
        }
    }

    /// Whose handles an answer tells of.
    fn context(&self) -> Option<&CallContext> {
        match self {
            Self::Values { .. } => None,
            Self::Typed { context, .. } => Some(context),
        }
    }
}

/// A call that the client has and has not answered.
#[derive(Debug)]
struct Open {
    id: u64,
    waiting: Waiting,
}

/// A call that ended without an answer.
#[derive(Debug)]
struct GivenUp {
    id: u64,
    /// Of a typed function. It must not keep what its job had: a client can have many jobs, and answer late for none.
    context: Option<WeakContext>,
}

/// The calls of one connection.
#[derive(Debug)]
pub(super) struct HostCalls {
    sender: mpsc::UnboundedSender<Call>,
    calls: mpsc::UnboundedReceiver<Call>,
    /// Of the next call.
    next: u64,
    open: Option<Open>,
    given_up: VecDeque<GivenUp>,
}

/// Makes functions that are calls to the client.
#[derive(Debug)]
pub(super) struct Provider(mpsc::UnboundedSender<Call>);

impl Provider {
    /// What a request provides, with functions that the connection's client serves. An import stands for a function of an interface
    /// with the same names.
    pub(super) fn imports(
        &self,
        interfaces: Vec<Arc<Lowered>>,
        requests: Vec<ImportRequest>,
    ) -> Result<Imports, ImportsError> {
        let mut imports = Imports::default();
        for (number, lowered) in (0..).zip(interfaces) {
            let name = lowered.interface().name.clone();
            if imports.interfaces().any(|served| served.interface().name == name) {
                return Err(ImportsError::InterfaceTwice(name));
            }
            let service = self.service(number, lowered);
            // Each of its functions is served.
            let _ = imports.serve(&service);
        }
        self.add(&mut imports, requests)?;
        Ok(imports)
    }

    /// An interface that the client serves.
    fn service(&self, interface: u32, lowered: Arc<Lowered>) -> Service {
        let sender = self.0.clone();
        Service::elsewhere(lowered, move |function, context, values| {
            let (answer, answered) = oneshot::channel();
            let arguments = values.iter().map(TypedValue::to_wire).collect::<Option<_>>();
            if let Some(arguments) = arguments {
                let invocation = Invocation::Typed { interface, function: function as u32, arguments };
                let declared = context.interface().interface().functions.get(function);
                let results = declared.map_or(0, |function| function.results.len());
                let waiting = Waiting::Typed { context, results, answer };
                // Where it cannot be sent, the answer's sender is dropped with it.
                let _ = sender.send(Call { invocation, waiting });
            }
            Box::pin(async move { answered.await.unwrap_or_else(|_| Err("the client has left".into())) })
        })
    }

    fn add(&self, imports: &mut Imports, requests: Vec<ImportRequest>) -> Result<(), ImportsError> {
        if requests.len() > IMPORTS_MAX {
            return Err(ImportsError::TooMany(requests.len()));
        }
        let mut names = HashSet::new();
        if let Some(twice) = requests.iter().find(|r| !names.insert((&r.module, &r.name))) {
            let [module, name] = [&twice.module, &twice.name].map(|name| shortened(name));
            return Err(ImportsError::Twice { module, name });
        }
        drop(names);
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
        Ok(())
    }

    fn function(&self, import: u32, function: FunctionImport) -> HostFunction {
        let FunctionImport { params, results, deadline_ns } = function;
        let (params, result_types) = (types(&params), types(&results));
        let sender = self.0.clone();
        let call = move |arguments| {
            let (answer, answered) = oneshot::channel();
            let invocation = Invocation::Values { import, arguments };
            let waiting = Waiting::Values { results: results.clone(), answer };
            let _ = sender.send(Call { invocation, waiting });
            async move { answered.await.unwrap_or_else(|_| Err("the client has left".into())) }
        };
        let function = HostFunction::new(params, result_types, call);
        match deadline_ns {
            Some(deadline) => function.within(Duration::from_nanos(deadline)),
            None => function,
        }
    }
}

impl HostCalls {
    pub(super) fn new() -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        Self { sender, calls, next: 0, open: None, given_up: VecDeque::new() }
    }

    /// Whoever makes the functions of a request.
    pub(super) fn provider(&self) -> Provider {
        Provider(self.sender.clone())
    }

    /// The next call for the client, which is open from now on. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> HostCall {
        loop {
            let Some(Call { invocation, waiting }) = self.calls.recv().await else {
                // This side keeps a sender.
                return std::future::pending().await;
            };
            // Nobody waits for one whose instance has been killed meanwhile.
            if waiting.is_closed() {
                continue;
            }
            self.settle();
            let id = self.next;
            self.next += 1;
            self.open = Some(Open { id, waiting });
            return HostCall { call: CallId(id), invocation };
        }
    }

    /// Fails the open call, whose message would have this many bytes: it has not been sent.
    pub(super) fn not_sent(&mut self, bytes: usize) {
        if let Some(open) = self.open.take() {
            let why =
                format!("its arguments take {bytes} bytes; a message to a client has at most {FRAME_MAX}");
            open.waiting.fail(HostError::Failed(why));
        }
    }

    /// Notes that the job or operation is over, and with it what it called.
    pub(super) fn settle(&mut self) {
        let Some(open) = self.open.take() else { return };
        if self.given_up.len() >= GIVEN_UP_MAX {
            self.given_up.pop_front();
        }
        self.given_up
            .push_back(GivenUp { id: open.id, context: open.waiting.context().map(CallContext::downgrade) });
    }

    /// Hands an answer of the client to the call that waits for it. An error breaks the protocol.
    pub(super) fn answer(
        &mut self,
        HostReturn { call: CallId(id), result, handles }: HostReturn,
    ) -> Result<(), ReturnError> {
        if let Some(open) = self.open.take_if(|open| open.id == id) {
            // First: the result may have handles that are new.
            follow(id, open.waiting.context(), &handles)?;
            open.waiting.answer(result);
            return Ok(());
        }
        let late = self.given_up.iter().position(|given_up| given_up.id == id);
        if let Some(GivenUp { context, .. }) = late.and_then(|at| self.given_up.remove(at)) {
            return match context.as_ref().map(WeakContext::upgrade) {
                // Its job is over, and its handles with it.
                Some(None) => Ok(()),
                context => follow(id, context.flatten().as_ref(), &handles),
            };
        }
        Err(if id >= self.next { ReturnError::Unknown(id) } else { ReturnError::Closed(id) })
    }
}

/// Notes what an answer tells of handles.
fn follow(call: u64, context: Option<&CallContext>, changes: &HandleChanges) -> Result<(), ReturnError> {
    match context {
        Some(context) => {
            let interface = context.interface().interface();
            let followed = context.handles().follow(interface, changes);
            followed.map_err(|why| ReturnError::Handles { call, why })
        }
        None if changes.is_empty() => Ok(()),
        None => Err(ReturnError::NoHandles(call)),
    }
}

/// The reply of an answer, of which nothing but the number of its values is checked yet; its messages on one line.
fn reply(result: HostResult, results: usize) -> Result<Reply, HostError> {
    match result {
        HostResult::Returned(Payload::Typed(values)) if values.len() != results => {
            Err(format!("it returned {} values instead of {results}", values.len()).into())
        }
        HostResult::Returned(Payload::Typed(values)) => {
            let values = values.into_iter().map(TypedValue::of_wire).collect::<Result<_, _>>();
            values.map(Reply::Values).map_err(|why| format!("the client's answer has {why}").into())
        }
        HostResult::Returned(Payload::Values(_)) => {
            Err("the client's answer has values of no interface".into())
        }
        HostResult::Error(case) => Ok(Reply::Error(case)),
        HostResult::Failed(why) => Err(HostError::Failed(one_line(&why))),
        HostResult::Trapped(message) => Err(HostError::Trap(one_line(&message))),
    }
}

/// The values of an answer, if they are of the function's types; its messages on one line.
fn checked(result: HostResult, results: &[ValueType]) -> Result<Vec<Value>, HostError> {
    match result {
        HostResult::Returned(Payload::Values(values)) => match ValueType::mismatch(results, &values) {
            None => Ok(values),
            Some(mismatch) => Err(HostError::Failed(format!("the client's answer has {mismatch}"))),
        },
        HostResult::Returned(Payload::Typed(_)) | HostResult::Error(_) => {
            Err("the client's answer is of an interface, which the function is not".into())
        }
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
        let invocation = Invocation::Values { import: 0, arguments: Vec::new() };
        let waiting = Waiting::Values { results: vec![ValueType::I32], answer };
        calls.sender.send(Call { invocation, waiting }).expect("the receiver lives");
        answered
    }

    fn returned(id: u64, value: i32) -> HostReturn {
        let values = Payload::Values(vec![Value::I32(value)]);
        let handles = HandleChanges::default();
        HostReturn { call: CallId(id), result: HostResult::Returned(values), handles }
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

    #[tokio::test]
    async fn a_call_that_was_given_up_keeps_nothing_of_its_job() {
        let text = "interface = \"i\"\n[[handle]]\nname = \"h\"\n[[function]]\nname = \"f\"\n";
        let lowered = Arc::new(interface::Interface::parse(text, "i.toml").expect("sound"));
        let mut calls = HostCalls::new();
        for lives in [true, false] {
            let context = CallContext::new(Arc::clone(&lowered), Arc::default());
            let (answer, _answered) = oneshot::channel();
            let waiting = Waiting::Typed { context: context.clone(), results: 0, answer };
            let invocation = Invocation::Typed { interface: 0, function: 0, arguments: Vec::new() };
            calls.sender.send(Call { invocation, waiting }).expect("the receiver lives");
            let call = calls.next().await.call;
            calls.settle();
            let context = Some(context).filter(|_| lives);
            assert_eq!(Arc::strong_count(&lowered), 1 + usize::from(lives));
            let opened = vec![ipc::protocol::OpenedHandle { handle: 0x1_0000, kind: 0 }];
            let handles = HandleChanges { closed: Vec::new(), opened };
            let result = HostResult::Failed("late".into());
            calls.answer(HostReturn { call, result, handles }).expect("late");
            if let Some(context) = context {
                assert!(context.handles().get(0x1_0000).is_ok(), "a job that goes on is told of its handles");
            }
        }
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
        let typed = HostResult::Returned(Payload::Typed(vec![]));
        assert!(failed(typed, &[]).contains("of an interface"));
        assert!(failed(HostResult::Error(1), &[]).contains("of an interface"));
        assert_eq!(failed(HostResult::Failed("a\nb".into()), &[]), "a b");
        let trap = checked(HostResult::Trapped("x".repeat(10_000)), &[]);
        assert!(matches!(trap, Err(HostError::Trap(message)) if message.len() == ipc::protocol::MESSAGE_MAX));
    }

    #[test]
    fn imports_are_counted_and_named_once() {
        let provider = HostCalls::new().provider();
        let provided = |requests| provider.imports(vec![], requests);
        let function = |count| {
            let params = vec![ValueType::I32; count];
            ImportItem::Function(FunctionImport { params, results: vec![], deadline_ns: None })
        };
        let import = |name: String, item| ImportRequest { module: "m".into(), name, item };
        let many = |count: usize| (0..count).map(|n| import(n.to_string(), function(0))).collect::<Vec<_>>();
        assert_eq!(provided(many(IMPORTS_MAX)).expect("fits").defined().count(), IMPORTS_MAX);
        assert!(matches!(provided(many(IMPORTS_MAX + 1)), Err(ImportsError::TooMany(_))));
        let twice = vec![import("f".into(), function(0)), import("f".into(), function(1))];
        assert!(matches!(provided(twice), Err(ImportsError::Twice { .. })));
        let wide = vec![import("f".into(), function(ipc::imports::VALUES_MAX + 1))];
        assert!(matches!(provided(wide), Err(ImportsError::TooManyValues { .. })));
    }
}
