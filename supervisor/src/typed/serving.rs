//! From an implementation of a trait to a service.

use std::future::Future;
use std::sync::Arc;
use std::vec;

use interface::{Lowered, Reply, Value};

use super::{HostReturn, HostType, mismatch};
use crate::error::Error;
use crate::imports::HostError;
use crate::service::{CallContext, Service};

/// The arguments of a call.
#[derive(Debug)]
pub struct Arguments {
    context: CallContext,
    values: vec::IntoIter<Value>,
}

impl Arguments {
    fn new(context: CallContext, values: Vec<Value>) -> Self {
        Self { context, values: values.into_iter() }
    }

    /// The next, which is called `name`.
    ///
    /// # Errors
    /// There is none, or it is none of this type: what calls the function goes by another declaration.
    pub fn next<T: HostType>(&mut self, name: &str) -> Result<T, HostError> {
        next(&mut self.values, &self.context).map_err(|why| format!("its argument {name}: {why}").into())
    }

    /// The reply to the call.
    pub fn answer(self, returned: impl HostReturn) -> Result<Reply, HostError> {
        returned.into_reply(&self.context)
    }
}

/// The fields of a record.
#[derive(Debug)]
pub struct Fields(vec::IntoIter<Value>);

impl Fields {
    /// Of a value that is a record.
    pub fn new(value: Value, record: &str) -> Result<Self, HostError> {
        match value {
            Value::Record(values) => Ok(Self(values.into_iter())),
            other => Err(mismatch(&other, record)),
        }
    }

    /// The next, as of [`Arguments`].
    pub fn next<T: HostType>(&mut self, name: &str, context: &CallContext) -> Result<T, HostError> {
        next(&mut self.0, context).map_err(|why| format!("field {name}: {why}").into())
    }
}

fn next<T: HostType>(values: &mut vec::IntoIter<Value>, context: &CallContext) -> Result<T, HostError> {
    T::from_value(values.next().ok_or("it is missing")?, context)
}

/// A service of one implementation.
#[derive(Debug)]
pub struct ServiceOf<S> {
    implementation: Arc<S>,
    service: Service,
}

impl<S: Send + Sync + 'static> ServiceOf<S> {
    /// One without functions.
    pub fn new(implementation: S, interface: Lowered) -> Self {
        Self { implementation: Arc::new(implementation), service: Service::new(interface) }
    }

    /// Serves `name` by an asynchronous function.
    pub fn asynchronous<F>(
        &mut self,
        name: &str,
        call: impl Fn(Arc<S>, Arguments) -> F + Send + Sync + 'static,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<Reply, HostError>> + Send + 'static,
    {
        let this = Arc::clone(&self.implementation);
        let serve = move |context, values| call(Arc::clone(&this), Arguments::new(context, values));
        self.service.function(name, serve).map(|_| ())
    }

    /// The same by one that does not wait.
    pub fn immediate(
        &mut self,
        name: &str,
        call: impl Fn(Arc<S>, Arguments) -> Result<Reply, HostError> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.asynchronous(name, move |this, arguments| std::future::ready(call(this, arguments)))
    }

    /// The same by one that computes or blocks for long.
    pub fn blocking(
        &mut self,
        name: &str,
        call: impl Fn(Arc<S>, Arguments) -> Result<Reply, HostError> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let this = Arc::clone(&self.implementation);
        let serve = move |context: &CallContext, values| {
            call(Arc::clone(&this), Arguments::new(context.clone(), values))
        };
        self.service.blocking(name, serve).map(|_| ())
    }

    /// The service.
    pub fn finish(self) -> Service {
        self.service
    }
}
