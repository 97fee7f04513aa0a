//! Things of the host app behind handles of guests.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use interface::{Type, TypeKind, Value};

use super::{Declaration, Element, FixedSize, HostType, mismatch};
use crate::imports::HostError;
use crate::service::CallContext;

/// A type of things that guests have handles to. `#[derive(HostType)]` with `#[host(handle)]` makes one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no type of things behind handles",
    note = "it derives `HostType` with `#[host(handle)]`"
)]
pub trait HandleType: Send + Sync + 'static {
    /// The kind of handle.
    const NAME: &'static str;
    /// What it is for.
    const DOC: &'static str;
}

/// A thing of the host app's to which a guest has a handle, or gets one with a function's reply. It is the thing: its methods can be called.
///
/// The handle is closed by [`close`](Self::close), or by the end of its job; the thing is dropped once nobody has it any more.
pub struct Handle<T> {
    thing: Arc<T>,
    /// In whose job it is open, and its number there.
    open: Option<(CallContext, u32)>,
}

impl<T: HandleType> Handle<T> {
    /// A thing that a guest is to get a handle to.
    pub fn new(thing: T) -> Self {
        Self { thing: Arc::new(thing), open: None }
    }

    /// Closes the guest's handle: it is stale from then on, as are clones of this one.
    ///
    /// # Errors
    /// It was closed before, or its job has ended.
    pub fn close(self) -> Result<Arc<T>, HostError> {
        match &self.open {
            Some((context, number)) => context.remove(&Value::Handle(*number)),
            None => Ok(self.thing),
        }
    }
}

impl<T> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.thing
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self { thing: Arc::clone(&self.thing), open: self.open.clone() }
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("number", &self.open.as_ref().map(|(_, number)| number)).finish()
    }
}

impl<T: HandleType> HostType for Handle<T> {
    fn declare(declaration: &mut Declaration) -> Type {
        declaration.named::<T>(T::NAME, T::DOC, |_| TypeKind::Handle)
    }

    fn from_value(value: Value, context: &CallContext) -> Result<Self, HostError> {
        let Value::Handle(number) = value else { return Err(mismatch(&value, T::NAME)) };
        Ok(Self { thing: context.get(&value)?, open: Some((context.clone(), number)) })
    }

    fn into_value(self, context: &CallContext) -> Result<Value, HostError> {
        match &self.open {
            Some((home, number)) if home.is_same_job(context) => Ok(Value::Handle(*number)),
            // New, or another job's, in which its number means something else.
            _ => context.insert_shared(T::NAME, self.thing),
        }
    }
}

impl<T: HandleType> FixedSize for Handle<T> {}
impl<T: HandleType> Element for Handle<T> {}
