//! Typed functions of the host app: an interface and what serves it.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use interface::{Lowered, LoweredFunction, Reply, Value};
use tokio::sync::{Semaphore, oneshot};

use crate::call_chain::CallChain;
use crate::error::Error;
use crate::guarded::{self, CallFuture, PANICKED};
use crate::handles::Handles;
use crate::imports::HostError;
use crate::processors;

/// Calls of blocking functions that have a thread at the same time, in this process. Others wait for one of them.
pub const BLOCKING_THREADS: usize = 512;

static BLOCKING: Semaphore = Semaphore::const_new(BLOCKING_THREADS);

/// What a call of a typed function is while it runs.
pub(crate) type TypedFuture = CallFuture<Reply>;

type Serve = dyn Fn(CallContext, Vec<Value>) -> TypedFuture + Send + Sync;

/// Serves any function of an interface, by its position.
type ServeAny = dyn Fn(usize, CallContext, Vec<Value>) -> TypedFuture + Send + Sync;

/// What a host function gets besides its arguments: the handles of the job that calls it.
#[derive(Clone, Debug)]
pub struct CallContext {
    interface: Arc<Lowered>,
    handles: Arc<Handles>,
    /// What the call has given out so far, and has not removed.
    given: Arc<Mutex<Given>>,
}

/// The handles that a call has inserted.
#[derive(Debug, Default)]
struct Given {
    handles: HashSet<u32>,
    /// Nothing of the call has reached its guest, and nothing will.
    taken_back: bool,
}

/// A [`CallContext`] that keeps nothing alive.
#[derive(Debug)]
pub(crate) struct WeakContext {
    interface: Weak<Lowered>,
    handles: Weak<Handles>,
}

impl WeakContext {
    /// `None`: the job is over.
    pub(crate) fn upgrade(&self) -> Option<CallContext> {
        Some(CallContext::new(self.interface.upgrade()?, self.handles.upgrade()?))
    }
}

impl CallContext {
    pub(crate) fn new(interface: Arc<Lowered>, handles: Arc<Handles>) -> Self {
        Self { interface, handles, given: Arc::default() }
    }

    /// The same for another call.
    pub(crate) fn for_call(&self) -> Self {
        Self::new(Arc::clone(&self.interface), Arc::clone(&self.handles))
    }

    /// Removes what the call has inserted, of which its guest gets nothing: it would stay until the job's end. What still runs of the call
    /// can insert nothing any more.
    pub(crate) fn take_back(&self) {
        let handles = {
            let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
            given.taken_back = true;
            std::mem::take(&mut given.handles)
        };
        for handle in handles {
            // The function may have removed it meanwhile. What a destructor of the host app's does is its own affair.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(self.handles.remove(handle))));
        }
    }

    /// The same, if its job still lives when it is asked for again.
    pub(crate) fn downgrade(&self) -> WeakContext {
        WeakContext { interface: Arc::downgrade(&self.interface), handles: Arc::downgrade(&self.handles) }
    }

    /// Which handles are open.
    pub(crate) fn handles(&self) -> &Handles {
        &self.handles
    }

    /// The same for another table of handles.
    pub(crate) fn with_handles(&self, handles: Handles) -> Self {
        Self::new(Arc::clone(&self.interface), Arc::new(handles))
    }

    /// The interface that they are of.
    pub(crate) fn interface(&self) -> &Lowered {
        &self.interface
    }

    /// Gives the guest a handle of this kind to a thing. All are dropped with the job; and with the call, if its guest gets no result of it:
    /// it fails, it takes longer than its deadline, it returns an error of its declaration, its reply breaks a rule or is too long.
    pub fn insert<T: Any + Send + Sync>(&self, kind: &str, thing: T) -> Result<Value, HostError> {
        self.insert_shared(kind, Arc::new(thing))
    }

    /// The same for a thing that others have too.
    pub(crate) fn insert_shared(
        &self,
        kind: &str,
        thing: Arc<dyn Any + Send + Sync>,
    ) -> Result<Value, HostError> {
        let kind = self
            .interface
            .handle_kind(kind)
            .ok_or_else(|| HostError::from(format!("its interface has no handles of the kind {kind:?}")))?;
        // Dropped after the lock is free: the host app's own code runs with its last owner, and may ask for other handles.
        let _owner = Arc::clone(&thing);
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.taken_back {
            return Err("the call has failed, and its guest gets nothing of it".into());
        }
        let handle = self.handles.insert(kind, thing)?;
        given.handles.insert(handle);
        Ok(Value::Handle(handle))
    }

    /// Whether handles mean the same here and there.
    pub(crate) fn is_same_job(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handles, &other.handles)
    }

    /// The thing behind a handle. A handle among a function's arguments was open, and of its declared kind, when the call came.
    pub fn get<T: Any + Send + Sync>(&self, handle: &Value) -> Result<Arc<T>, HostError> {
        thing(handle, |handle| self.handles.get(handle))
    }

    /// The same, and closes the handle.
    pub fn remove<T: Any + Send + Sync>(&self, handle: &Value) -> Result<Arc<T>, HostError> {
        thing(handle, |handle| {
            let removed = self.handles.remove(handle);
            self.given.lock().unwrap_or_else(PoisonError::into_inner).handles.remove(&handle);
            removed
        })
    }
}

fn thing<T: Any + Send + Sync>(
    handle: &Value,
    find: impl Fn(u32) -> Result<Arc<dyn Any + Send + Sync>, String>,
) -> Result<Arc<T>, HostError> {
    let Value::Handle(number) = handle else {
        return Err(format!("it used a {} as a handle", handle.kind()).into());
    };
    let thing = find(*number).map_err(|why| format!("it used the handle {number:#x}: {why}"))?;
    thing.downcast().map_err(|_| format!("it used the handle {number:#x} as a thing of another type").into())
}

/// An interface and the functions that serve it. [`Imports::serve`](crate::Imports::serve) gives it to a job.
#[derive(Clone)]
pub struct Service {
    interface: Arc<Lowered>,
    functions: Functions,
}

/// What serves the functions. Every job has one: it takes no memory for each of them.
#[derive(Clone)]
enum Functions {
    /// By name.
    Each(Arc<HashMap<String, Arc<Serve>>>),
    All(Arc<ServeAny>),
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({})", self.interface.interface().name)
    }
}

impl Service {
    /// A service of this interface, without functions yet.
    pub fn new(interface: Lowered) -> Self {
        Self { interface: Arc::new(interface), functions: Functions::Each(Arc::default()) }
    }

    /// The interface.
    pub fn interface(&self) -> &Lowered {
        &self.interface
    }

    /// Serves the function `name` with a future, which runs on the thread of the guest's shard: one that computes or blocks for long
    /// holds up the jobs of that shard, and belongs to [`blocking`](Self::blocking). Dropping it cancels the call, when its
    /// job ends or its deadline passes.
    ///
    /// # Errors
    /// The interface has no such function, or declares it as blocking.
    pub fn function<F>(
        &mut self,
        name: &str,
        serve: impl Fn(CallContext, Vec<Value>) -> F + Send + Sync + 'static,
    ) -> Result<&mut Self, Error>
    where
        F: Future<Output = Result<Reply, HostError>> + Send + 'static,
    {
        self.add(
            name,
            false,
            Arc::new(move |context, values| Box::pin(serve(context, values)) as TypedFuture),
        )
    }

    /// Serves a function that the interface declares as blocking: each call has a thread of its own, of which there are
    /// [`BLOCKING_THREADS`]. What it answers after its deadline, or after its job's end, goes nowhere.
    ///
    /// # Errors
    /// The interface has no such function, or does not declare it as blocking.
    pub fn blocking(
        &mut self,
        name: &str,
        serve: impl Fn(&CallContext, Vec<Value>) -> Result<Reply, HostError> + Send + Sync + 'static,
    ) -> Result<&mut Self, Error> {
        let serve = Arc::new(serve);
        let serve = move |context, values| {
            Box::pin(on_own_thread(Arc::clone(&serve), context, values)) as TypedFuture
        };
        self.add(name, true, Arc::new(serve))
    }

    /// A service whose functions are all served elsewhere, whatever the interface says of threads: `serve` gets a function's position.
    pub(crate) fn elsewhere(
        interface: Arc<Lowered>,
        serve: impl Fn(usize, CallContext, Vec<Value>) -> TypedFuture + Send + Sync + 'static,
    ) -> Self {
        Self { interface, functions: Functions::All(Arc::new(serve)) }
    }

    /// The interface, shared.
    pub(crate) fn shared_interface(&self) -> &Arc<Lowered> {
        &self.interface
    }

    fn add(&mut self, name: &str, blocking: bool, serve: Arc<Serve>) -> Result<&mut Self, Error> {
        let interface = &self.interface.interface().name;
        let Some(function) = self.interface.function(name) else {
            let valid = self.interface.interface().functions.iter().map(|f| f.name.as_str());
            let hint = policies::document::nearest(name, valid).to_string();
            return Err(Error::NoSuchFunction { interface: interface.clone(), name: name.to_owned(), hint });
        };
        if function.declaration().blocking != blocking {
            let function = function.name().to_owned();
            return Err(Error::ServedOtherwise {
                function,
                declared: function_kind(!blocking),
                served: function_kind(blocking),
            });
        }
        if let Functions::Each(functions) = &mut self.functions {
            Arc::make_mut(functions).insert(name.to_owned(), serve);
        }
        Ok(self)
    }

    /// Whether all functions are served.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Functions::Each(served) = &self.functions else { return Ok(()) };
        let interface = self.interface.interface();
        match interface.functions.iter().find(|function| !served.contains_key(&function.name)) {
            None => Ok(()),
            Some(function) => {
                Err(Error::NotServed { function: format!("{}.{}", interface.name, function.name) })
            }
        }
    }

    /// One of its functions, if it is served.
    pub(crate) fn typed(&self, name: &str) -> Option<TypedFunction> {
        let index = self.interface.position(name)?;
        let serve = match &self.functions {
            Functions::Each(functions) => ServedBy::One(Arc::clone(functions.get(name)?)),
            Functions::All(serve) => ServedBy::Any(Arc::clone(serve)),
        };
        Some(TypedFunction { interface: Arc::clone(&self.interface), index, serve })
    }
}

fn function_kind(blocking: bool) -> &'static str {
    if blocking { "blocking" } else { "not blocking" }
}

/// A typed function that is served.
#[derive(Clone)]
pub(crate) struct TypedFunction {
    pub(crate) interface: Arc<Lowered>,
    index: usize,
    serve: ServedBy,
}

#[derive(Clone)]
enum ServedBy {
    One(Arc<Serve>),
    Any(Arc<ServeAny>),
}

impl fmt::Debug for TypedFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TypedFunction({})", self.lowered().map_or("", LoweredFunction::name))
    }
}

impl TypedFunction {
    /// What the interface says of it.
    pub(crate) fn lowered(&self) -> Option<&LoweredFunction> {
        self.interface.functions().get(self.index)
    }

    /// Calls it. A panic, or no answer within its deadline, is an error of this call.
    pub(crate) async fn call(&self, context: CallContext, arguments: Vec<Value>) -> Result<Reply, HostError> {
        let deadline = self.lowered().and_then(|function| function.declaration().deadline);
        let call = || match &self.serve {
            ServedBy::One(serve) => serve(context, arguments),
            ServedBy::Any(serve) => serve(self.index, context, arguments),
        };
        guarded::call(call, deadline).await
    }
}

async fn on_own_thread(
    serve: Arc<impl Fn(&CallContext, Vec<Value>) -> Result<Reply, HostError> + Send + Sync + 'static>,
    context: CallContext,
    values: Vec<Value>,
) -> Result<Reply, HostError> {
    let permit = BLOCKING.acquire().await.map_err(|error| error.to_string())?;
    let (answer, answered) = oneshot::channel();
    let chain = CallChain::served();
    // It would inherit the one processor of the shard that starts it.
    let everywhere = processors::for_helper();
    let run = move || {
        processors::allow(everywhere);
        let reply = catch_unwind(AssertUnwindSafe(|| chain.serve_here(|| serve(&context, values))));
        // Nobody may wait any more.
        let _ = answer.send(reply.unwrap_or_else(|_| Err(PANICKED.into())));
        drop(permit);
    };
    thread::Builder::new()
        .name("host-function".to_owned())
        .spawn(run)
        .map_err(|error| format!("there is no thread for it: {error}"))?;
    answered.await.unwrap_or_else(|_| Err("its thread ended without an answer".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thing that gives up a handle when it goes.
    struct Closing(CallContext, Value);

    impl Drop for Closing {
        fn drop(&mut self) {
            let _ = self.0.remove::<u8>(&self.1);
        }
    }

    #[test]
    fn a_thing_that_gets_no_handle_may_ask_for_others_when_it_goes() {
        let text = "interface = \"things\"\n[[handle]]\nname = \"thing\"\n[[function]]\nname = \"f\"\n";
        let interface = interface::Interface::parse(text, "things.toml").expect("sound");
        let context = CallContext::new(Arc::new(interface), Arc::default());
        let other = context.insert("thing", 1u8).expect("a handle");
        context.handles().close();
        // Were a lock held meanwhile, this would not end.
        let refused = context.insert("thing", Closing(context.clone(), other));
        assert!(refused.is_err());
    }
}
