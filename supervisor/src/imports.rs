//! What a host app provides for the imports of a module that was compiled with `open_imports`.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use compiler::{FuncType, ValType};
use interface::{Lowered, WasmType};
use ipc::report::{Trap, Value};

use crate::error::Error;
use crate::guarded;
use crate::service::{Service, TypedFunction};

/// Imports by module and field name. Every instance gets fresh globals, memories, tables and tags of what is written here; what
/// the module exports of them are its own. A tag that a module imports twice is one; of a memory, a table or a mutable global it
/// gets two.
#[derive(Clone, Debug, Default)]
pub struct Imports {
    items: HashMap<(String, String), Extern>,
    /// Interfaces that are served, by the name of their module. An item stands for the function whose names it has.
    services: HashMap<String, Service>,
}

impl Imports {
    /// Provides all functions of an interface, instead of what was provided under their names before.
    ///
    /// # Errors
    /// [`Error::NotServed`]: the service lacks a function.
    pub fn serve(&mut self, service: &Service) -> Result<&mut Self, Error> {
        service.check()?;
        let interface = service.interface();
        let own = &interface.interface().name;
        self.items.retain(|(module, name), _| module != own || interface.function(name).is_none());
        self.services.insert(own.clone(), service.clone());
        Ok(self)
    }

    /// The interfaces that are served.
    pub(crate) fn interfaces(&self) -> impl Iterator<Item = &Arc<Lowered>> {
        self.services.values().map(Service::shared_interface)
    }

    /// The interface that is served under this name.
    pub(crate) fn interface(&self, module: &str) -> Option<&Lowered> {
        self.services.get(module).map(Service::interface)
    }

    /// Provides `item` as `module` `name`, instead of what was provided before.
    pub fn define(&mut self, module: impl Into<String>, name: impl Into<String>, item: Extern) -> &mut Self {
        self.items.insert((module.into(), name.into()), item);
        self
    }

    /// What is provided under these names.
    pub fn get(&self, module: &str, name: &str) -> Option<Extern> {
        // A map of pairs of strings cannot be asked with borrowed ones without this.
        let defined = self.items.get(&(module.to_owned(), name.to_owned())).cloned();
        defined.or_else(|| {
            let function = self.services.get(module)?.typed(name)?;
            Some(Extern::Function(HostFunction::typed(function)))
        })
    }

    /// Whether nothing is provided.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.services.is_empty()
    }

    /// All that was defined, with the names of module and field, in no particular order: without the functions of interfaces.
    pub fn defined(&self) -> impl Iterator<Item = (&str, &str, &Extern)> {
        self.items.iter().map(|((module, name), item)| (module.as_str(), name.as_str(), item))
    }
}

/// Something that a module can import.
#[derive(Clone, Debug)]
pub enum Extern {
    /// A function of the host app.
    Function(HostFunction),
    /// A global with this value at first. References must be null or external.
    Global {
        /// Its first value.
        value: Value,
        /// Whether the guest can change it.
        mutable: bool,
    },
    /// A memory of zeros.
    Memory {
        /// Its size in pages of 64 KiB.
        pages: u64,
        /// Pages that it may not exceed.
        max: Option<u64>,
        /// Indices have 64 bits.
        memory64: bool,
    },
    /// A table of null references.
    Table {
        /// Type of its entries.
        ty: ValType,
        /// How many entries it has.
        entries: u64,
        /// Entries that it may not exceed.
        max: Option<u64>,
        /// Indices have 64 bits.
        table64: bool,
    },
    /// A tag of exceptions that carry values of these types.
    Tag {
        /// The types.
        params: Vec<ValType>,
    },
}

/// Why a call of a host function does not return. The guest's call traps; guest code cannot catch it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The function failed. The trap's message names the function and has this one in it.
    #[error("{0}")]
    Failed(String),
    /// The call traps with exactly this message, as if the guest's own code had trapped. For functions that call another
    /// instance and pass on what became of it.
    #[error("{0}")]
    Trap(String),
}

impl From<String> for HostError {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

impl From<&str> for HostError {
    fn from(message: &str) -> Self {
        Self::Failed(message.to_owned())
    }
}

/// Passes on the message. The backtrace is of another instance, so it is not part of this one's.
impl From<Trap> for HostError {
    fn from(trap: Trap) -> Self {
        Self::Trap(trap.message)
    }
}

/// What a call of a host function is while it runs.
pub type HostFuture = Pin<Box<dyn Future<Output = Result<Vec<Value>, HostError>> + Send>>;

type Call = dyn Fn(Vec<Value>) -> HostFuture + Send + Sync;

/// A function of the host app that guests can call.
///
/// One that calls a [`SharedSession`](crate::SharedSession) links two instances; `Err(trap.into())` passes a trap on. A session whose own
/// call waits for this one cannot be called back: locking it is an error.
///
/// It runs on the thread of the guest's shard: one that computes or blocks for long holds up the jobs of that shard. Waiting
/// asynchronously does not.
#[derive(Clone)]
pub struct HostFunction {
    ty: FuncType,
    kind: Kind,
    deadline: Option<Duration>,
}

#[derive(Clone)]
enum Kind {
    /// Gets and returns bare values.
    Raw(Arc<Call>),
    /// Of a [`Service`].
    Typed(Box<TypedFunction>),
}

impl fmt::Debug for HostFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostFunction({})", self.ty)
    }
}

impl HostFunction {
    /// A function of these types. It gets one value per parameter, of the parameter's type, and must return one per result.
    pub fn new<F>(
        params: impl Into<Vec<ValType>>,
        results: impl Into<Vec<ValType>>,
        call: impl Fn(Vec<Value>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Vec<Value>, HostError>> + Send + 'static,
    {
        let ty = FuncType { params: params.into(), results: results.into() };
        Self { ty, kind: Kind::Raw(Arc::new(move |values| Box::pin(call(values)))), deadline: None }
    }

    fn typed(function: TypedFunction) -> Self {
        let types = |types: &[WasmType]| types.iter().map(value_type).collect::<Vec<_>>();
        let ty = match function.lowered() {
            Some(lowered) => FuncType { params: types(lowered.params()), results: types(lowered.results()) },
            None => FuncType { params: Vec::new(), results: Vec::new() },
        };
        Self { ty, kind: Kind::Typed(Box::new(function)), deadline: None }
    }

    /// What serves it, if it is typed.
    pub(crate) fn as_typed(&self) -> Option<&TypedFunction> {
        match &self.kind {
            Kind::Raw(_) => None,
            Kind::Typed(function) => Some(function),
        }
    }

    /// The same for a function that never waits.
    pub fn immediate(
        params: impl Into<Vec<ValType>>,
        results: impl Into<Vec<ValType>>,
        call: impl Fn(&[Value]) -> Result<Vec<Value>, HostError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(params, results, move |values| std::future::ready(call(&values)))
    }

    /// Its type.
    pub fn ty(&self) -> &FuncType {
        &self.ty
    }

    /// The same function with a deadline: a call that takes longer is given up and fails. A typed one has that of its declaration.
    pub fn within(self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// How long a call may take; without one, as long as its job.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Calls it with bare values. A panic is an error of this call, and so is a deadline that has passed. What it returns is not checked
    /// here.
    pub async fn call(&self, values: Vec<Value>) -> Result<Vec<Value>, HostError> {
        let Kind::Raw(call) = &self.kind else { return Err("it is typed, and takes no bare values".into()) };
        guarded::call(|| call(values), self.deadline).await
    }
}

/// The same type, as the compiler has it.
pub(crate) fn value_type(ty: &WasmType) -> ValType {
    match ty {
        WasmType::I32 => ValType::I32,
        WasmType::I64 => ValType::I64,
        WasmType::F32 => ValType::F32,
        WasmType::F64 => ValType::F64,
    }
}
