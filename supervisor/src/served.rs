//! What a client of the daemon provides for imports: in the form in which it says so, and how it serves the calls that come back.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use interface::{Lowered, LoweredFunction, Reply, Value};
use ipc::protocol::{
    Bytes, CallId, FunctionImport, HandleChanges, HostCall, HostResult, HostReturn, ImportItem,
    ImportRequest, Invocation, Payload, TypedValue, one_line,
};
use ipc::types::ValueType;

use crate::error::Error;
use crate::handles::{Handles, Places};
use crate::imports::{Extern, HostError, HostFunction, Imports};
use crate::module::{wire_type, wire_types};
use crate::service::{CallContext, TypedFunction};

/// What a job or session is provided with, as parts of a request to the daemon, and what the client keeps of it.
#[derive(Debug, Default)]
pub struct Requests {
    /// Imports, sorted by names.
    pub imports: Vec<ImportRequest>,
    /// Interfaces, sorted by names.
    pub interfaces: Vec<Bytes>,
    /// What the client serves.
    pub served: Served,
}

impl Imports {
    /// The same for the daemon, whose client serves the functions.
    ///
    /// # Errors
    /// [`Error::InterfaceData`]: an interface cannot be sent.
    pub fn requests(&self) -> Result<Requests, Error> {
        let mut lowered: Vec<_> = self.interfaces().collect();
        lowered.sort_by_key(|lowered| &lowered.interface().name);
        let mut requests = Requests::default();
        let mut typed = HashSet::new();
        let places = Places::default();
        for lowered in lowered {
            let bytes = lowered.interface().to_bytes().map_err(Error::InterfaceData)?;
            requests.interfaces.push(Bytes(bytes));
            let served = self.served(lowered, &places);
            let interface = lowered.interface();
            let names =
                interface.functions.iter().zip(&served.functions).filter(|(_, served)| served.is_some());
            typed.extend(names.map(|(function, _)| (interface.name.as_str(), function.name.as_str())));
            requests.served.interfaces.push(served);
        }
        let mut items: Vec<_> =
            self.defined().filter(|(module, name, _)| !typed.contains(&(*module, *name))).collect();
        items.sort_by_key(|(module, name, _)| (*module, *name));
        for (module, name, item) in items {
            let (module, name) = (module.to_owned(), name.to_owned());
            requests.imports.push(ImportRequest { module, name, item: wire_item(item) });
            requests.served.imports.push(match item {
                Extern::Function(function) => Some(function.clone()),
                _ => None,
            });
        }
        Ok(requests)
    }

    fn served(&self, lowered: &Arc<Lowered>, places: &Places) -> ServedInterface {
        let interface = lowered.interface();
        let function = |function: &interface::Function| match self.get(&interface.name, &function.name) {
            Some(Extern::Function(defined)) => {
                // What was defined in the place of one goes as an import, and the daemon takes it instead.
                defined.as_typed().filter(|typed| Arc::ptr_eq(&typed.interface, lowered)).cloned()
            }
            _ => None,
        };
        let functions = interface.functions.iter().map(function).collect();
        ServedInterface { functions, context: fresh(lowered, places) }
    }
}

/// The functions of one job or session that a client serves, by their positions in its request, and the things behind its handles, which
/// are dropped with this.
#[derive(Debug, Default)]
pub struct Served {
    imports: Vec<Option<HostFunction>>,
    interfaces: Vec<ServedInterface>,
}

#[derive(Debug)]
struct ServedInterface {
    functions: Vec<Option<TypedFunction>>,
    context: CallContext,
}

impl Drop for ServedInterface {
    fn drop(&mut self) {
        self.context.handles().close();
    }
}

fn fresh(interface: &Arc<Lowered>, places: &Places) -> CallContext {
    CallContext::new(Arc::clone(interface), Arc::new(Handles::followed(places)))
}

impl Served {
    /// Begins with no handles: the instance of the session is gone, and another may come.
    pub fn reset(&mut self) {
        let places = Places::default();
        for served in &mut self.interfaces {
            served.context.handles().close();
            served.context = served.context.with_handles(Handles::followed(&places));
        }
    }

    /// Begins to serve a call. The daemon's word is checked: an error says what no daemon says.
    pub fn serve(&self, HostCall { call, invocation }: HostCall) -> Result<Serving, String> {
        match invocation {
            Invocation::Values { import, arguments } => {
                let Some(Some(function)) = self.imports.get(import as usize) else {
                    return Err(format!("import {import} is no function"));
                };
                let (params, results) = function.wire_type();
                if let Some(mismatch) = ValueType::mismatch(&params, &arguments) {
                    return Err(format!("import {import} is called with {mismatch}"));
                }
                let function = function.clone();
                let result = async move {
                    match function.call(arguments).await {
                        Ok(values) => match ValueType::mismatch(&results, &values) {
                            None => HostResult::Returned(Payload::Values(values)),
                            Some(mismatch) => HostResult::Failed(format!("it returned {mismatch}")),
                        },
                        Err(error) => failed(error),
                    }
                };
                Ok(Serving { call, context: None, result: Some(Box::pin(result)) })
            }
            Invocation::Typed { interface, function: index, arguments } => {
                let known = self.interfaces.get(interface as usize);
                let known =
                    known.and_then(|served| Some((served, served.functions.get(index as usize)?.as_ref()?)));
                let Some((served, function)) = known else {
                    return Err(format!("function {index} of interface {interface} is none"));
                };
                let arguments = accepted(function.lowered(), arguments)?;
                let (function, context) = (function.clone(), served.context.for_call());
                let called = context.clone();
                let result = async move {
                    let result = match function.call(called.clone(), arguments).await {
                        Ok(Reply::Values(values)) => match values.iter().map(Value::to_wire).collect() {
                            Some(values) => return HostResult::Returned(Payload::Typed(values)),
                            None => {
                                HostResult::Failed("it returned a value that no interface has".to_owned())
                            }
                        },
                        Ok(Reply::Error(case)) => HostResult::Error(case),
                        Err(error) => failed(error),
                    };
                    // Before the daemon hears of them.
                    called.take_back();
                    result
                };
                Ok(Serving { call, context: Some(context), result: Some(Box::pin(result)) })
            }
        }
    }
}

/// Arguments that this function takes. Whether handles are open is the daemon's to say, and the function's to find out.
fn accepted(function: Option<&LoweredFunction>, arguments: Vec<TypedValue>) -> Result<Vec<Value>, String> {
    let function = function.ok_or("it is not in its interface")?;
    let arguments: Vec<Value> = arguments.into_iter().map(Value::of_wire).collect::<Result<_, _>>()?;
    match function.accepts(&arguments) {
        Ok(()) => Ok(arguments),
        Err(why) => Err(format!("{} is called with {why}", function.name())),
    }
}

fn failed(error: HostError) -> HostResult {
    match error {
        HostError::Failed(why) => HostResult::Failed(one_line(&why)),
        HostError::Trap(message) => HostResult::Trapped(one_line(&message)),
    }
}

type CallResult = Pin<Box<dyn Future<Output = HostResult> + Send>>;

/// A call that a client serves.
pub struct Serving {
    call: CallId,
    /// Of a typed function.
    context: Option<CallContext>,
    /// `None` once it is there.
    result: Option<CallResult>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("call", &self.call).finish_non_exhaustive()
    }
}

impl Serving {
    fn answer(&self, result: HostResult) -> HostReturn {
        let handles = self.context.as_ref().map_or_else(HandleChanges::default, |c| c.handles().changes());
        HostReturn { call: self.call, result, handles }
    }

    /// Drops what is left to do: the daemon no longer waits for it. It must be told of handles all the same.
    pub fn give_up(mut self) -> Option<HostReturn> {
        if self.result.take().is_some()
            && let Some(context) = &self.context
        {
            context.take_back();
        }
        Some(self.answer(HostResult::Failed("it was given up".to_owned())))
            .filter(|returned| !returned.handles.is_empty())
    }
}

/// Ready with the answer for the daemon, once.
impl Future for Serving {
    type Output = HostReturn;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<HostReturn> {
        let Some(result) = &mut self.result else { return Poll::Pending };
        let Poll::Ready(result) = result.as_mut().poll(context) else { return Poll::Pending };
        self.result = None;
        Poll::Ready(self.answer(result))
    }
}

impl HostFunction {
    /// Types of its parameters and of its results, as they are told to other processes.
    pub fn wire_type(&self) -> (Vec<ValueType>, Vec<ValueType>) {
        (wire_types(&self.ty().params), wire_types(&self.ty().results))
    }
}

fn wire_item(item: &Extern) -> ImportItem {
    match item {
        Extern::Function(function) => {
            let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            let (params, results) = function.wire_type();
            let deadline_ns = function.deadline().map(nanoseconds);
            ImportItem::Function(FunctionImport { params, results, deadline_ns })
        }
        Extern::Global { value, mutable } => ImportItem::Global { value: *value, mutable: *mutable },
        Extern::Memory { pages, max, memory64 } => {
            ImportItem::Memory { pages: *pages, max: *max, memory64: *memory64 }
        }
        Extern::Table { ty, entries, max, table64 } => {
            ImportItem::Table { element: wire_type(*ty), entries: *entries, max: *max, table64: *table64 }
        }
        Extern::Tag { params } => ImportItem::Tag { params: wire_types(params) },
    }
}

#[cfg(test)]
mod tests {
    use interface::Interface;
    use ipc::report::Value as Raw;

    use super::*;
    use crate::{Service, ValType};

    #[test]
    fn requests_are_sorted_and_functions_stand_where_they_are_asked_for() {
        let function =
            HostFunction::immediate([ValType::I32], [], |_| Ok(vec![])).within(Duration::from_secs(1));
        let mut imports = Imports::default();
        imports
            .define("m", "z", Extern::Function(function))
            .define("m", "a", Extern::Global { value: Raw::I32(1), mutable: true })
            .define("a", "z", Extern::Tag { params: vec![ValType::F64] });
        let Requests { imports: requests, interfaces, served } = imports.requests().unwrap();
        let names: Vec<_> = requests.iter().map(|r| (r.module.as_str(), r.name.as_str())).collect();
        assert_eq!(names, [("a", "z"), ("m", "a"), ("m", "z")]);
        assert_eq!(served.imports.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true]);
        assert!(interfaces.is_empty());
        let ImportItem::Function(function) = &requests[2].item else { panic!("a function") };
        assert_eq!(function.deadline_ns, Some(1_000_000_000));
    }

    /// An interface `i` whose function `open` gives a handle out and takes none, then waits.
    fn imports() -> Imports {
        let text = "interface = \"i\"\n[[handle]]\nname = \"h\"\n[[function]]\nname = \"open\"\n\
                    params = [{ name = \"n\", type = \"u8\" }]\nresults = [{ name = \"r\", type = \"h\" }]\n\
                    [[function]]\nname = \"other\"\n";
        let mut service = Service::new(Interface::parse(text, "i.toml").unwrap());
        let open = |context: CallContext, arguments: Vec<Value>| async move {
            let opened = context.insert("h", ())?;
            match arguments[..] {
                [Value::U8(0)] => std::future::pending().await,
                [Value::U8(1)] => Ok(Reply::Values(vec![Value::List(vec![Value::List(vec![])])])),
                _ => Ok(Reply::Values(vec![opened])),
            }
        };
        service.function("open", open).unwrap();
        service.function("other", |_, _| async { Ok(Reply::Values(vec![])) }).unwrap();
        let mut imports = Imports::default();
        imports.serve(&service).unwrap();
        imports
    }

    fn call(function: u32, arguments: Vec<Value>) -> HostCall {
        let arguments = arguments.iter().map(|value| value.to_wire().unwrap()).collect();
        HostCall { call: CallId(3), invocation: Invocation::Typed { interface: 0, function, arguments } }
    }

    #[tokio::test]
    async fn typed_functions_are_served_and_tell_of_their_handles() {
        let Requests { imports, interfaces, mut served } = imports().requests().unwrap();
        assert!(imports.is_empty());
        assert_eq!(interfaces.len(), 1);
        assert!(Lowered::from_bytes(&interfaces[0].0).is_ok());
        let returned = served.serve(call(0, vec![Value::U8(2)])).unwrap().await;
        let [opened] = returned.handles.opened[..] else { panic!("{returned:?}") };
        assert_eq!(returned.result, {
            HostResult::Returned(Payload::Typed(vec![Value::Handle(opened.handle).to_wire().unwrap()]))
        });
        // What no interface has.
        let returned = served.serve(call(0, vec![Value::U8(1)])).unwrap().await;
        assert!(matches!(returned.result, HostResult::Failed(why) if why.contains("no interface has")));
        assert!(returned.handles.is_empty(), "the guest got nothing of the call");
        // Given up half-way.
        let mut waiting = served.serve(call(0, vec![Value::U8(0)])).unwrap();
        tokio::select! { biased; _ = &mut waiting => panic!("it waits"), () = std::future::ready(()) => {} }
        assert!(waiting.give_up().is_none(), "what it opened is closed again, and nobody has heard of it");
        assert_eq!(served.interfaces[0].context.handles().open(), 1, "that of the first call");
        assert!(served.serve(call(1, vec![])).unwrap().give_up().is_none(), "nothing to tell");
        // Another instance has handles of its own.
        served.reset();
        let returned = served.serve(call(0, vec![Value::U8(2)])).unwrap().await;
        assert_eq!(returned.handles.opened, [opened]);
    }

    #[test]
    fn what_no_daemon_asks_for_is_refused() {
        let Requests { served, .. } = imports().requests().unwrap();
        for (function, arguments) in
            [(2, vec![]), (0, vec![]), (0, vec![Value::U16(1)]), (1, vec![Value::U8(1)]), (u32::MAX, vec![])]
        {
            assert!(served.serve(call(function, arguments.clone())).is_err(), "{function} {arguments:?}");
        }
        for invocation in [
            Invocation::Typed { interface: 1, function: 0, arguments: vec![] },
            Invocation::Values { import: 0, arguments: vec![] },
        ] {
            assert!(served.serve(HostCall { call: CallId(0), invocation }).is_err());
        }
    }

    #[test]
    fn a_function_that_was_defined_in_the_place_of_a_typed_one_goes_as_an_import() {
        let mut imports = imports();
        imports.define("i", "other", Extern::Function(HostFunction::immediate([], [], |_| Ok(vec![]))));
        let Requests { imports, served, .. } = imports.requests().unwrap();
        assert_eq!((imports.len(), imports[0].name.as_str()), (1, "other"));
        assert!(served.serve(call(1, vec![])).is_err());
        let invocation = Invocation::Values { import: 0, arguments: vec![] };
        assert!(served.serve(HostCall { call: CallId(0), invocation }).is_ok());
    }
}
