//! Sessions that have several callers.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};

use crate::call_chain::{CallChain, SessionId};
use crate::error::Error;
use crate::session::Session;

/// A session that several parts of a host app call, one after the other: host functions of other sessions above all. Its clones are the same
/// session.
///
/// A session in a call has its caller: whoever calls it meanwhile waits. A host function that serves a call of this very session would wait
/// for itself; that is an error instead, also when it comes by way of other sessions and jobs. It cannot be told where the host function waits
/// for a task or thread that it started itself, or where two host functions wait for each other's sessions: they wait until a deadline.
#[derive(Clone, Debug)]
pub struct SharedSession {
    id: SessionId,
    session: Arc<Mutex<Session>>,
}

impl From<Session> for SharedSession {
    fn from(session: Session) -> Self {
        Self { id: session.id(), session: Arc::new(Mutex::new(session)) }
    }
}

impl SharedSession {
    /// Waits until nobody else has the session.
    ///
    /// # Errors
    /// [`Error::SessionCalledBack`]: whoever has it waits for the caller.
    pub async fn lock(&self) -> Result<MutexGuard<'_, Session>, Error> {
        if CallChain::served().contains(self.id) {
            return Err(Error::SessionCalledBack);
        }
        Ok(self.session.lock().await)
    }

    /// The session, from its last clone.
    ///
    /// # Errors
    /// Itself, as there are others.
    pub fn try_unwrap(self) -> Result<Session, Self> {
        let Self { id, session } = self;
        Arc::try_unwrap(session).map(Mutex::into_inner).map_err(|session| Self { id, session })
    }
}
