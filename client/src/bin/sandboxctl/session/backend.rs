//! A session in the daemon or in a supervisor of our own, behind one set of calls.

use client::Client;
use ipc::report::{CallOutcome, Outcome, Report, Usage, Value};
use ipc::types::Export;
use supervisor::daemon::signals::Interrupts;
use supervisor::{MemoryRef, Supervisor};

use crate::error::Error;

/// Where a session is.
pub enum Backend {
    /// In the daemon, for as long as the connection lives.
    Daemon { session: client::Session, _client: Client },
    /// In a supervisor of our own.
    Embedded { session: Box<supervisor::Session>, _supervisor: Supervisor },
}

/// The same call of either.
macro_rules! either {
    ($backend:expr, $session:ident => $call:expr) => {
        match $backend {
            Backend::Daemon { session: $session, .. } => Ok($call.await?),
            Backend::Embedded { session: $session, .. } => Ok($call.await?),
        }
    };
}

impl Backend {
    /// Instantiates the module; a signal ends that.
    pub async fn start(&mut self, interrupts: &mut Interrupts) -> Result<CallOutcome, Error> {
        match self {
            Backend::Daemon { session, .. } => Ok(session.start_until(interrupts.arrived()).await?),
            Backend::Embedded { session, .. } => tokio::select! {
                biased;
                outcome = session.start() => Ok(outcome?),
                () = interrupts.arrived() => Ok(CallOutcome::Ended(Outcome::Cancelled)),
            },
        }
    }

    /// Calls an export; a signal ends the instance.
    pub async fn call(
        &mut self,
        name: &str,
        args: &[Value],
        interrupts: &mut Interrupts,
    ) -> Result<CallOutcome, Error> {
        match self {
            Backend::Daemon { session, .. } => {
                Ok(session.call_until(name, args, interrupts.arrived()).await?)
            }
            // A call that is dropped ends the instance.
            Backend::Embedded { session, .. } => tokio::select! {
                biased;
                outcome = session.call(name, args) => Ok(outcome?),
                () = interrupts.arrived() => Ok(CallOutcome::Ended(Outcome::Cancelled)),
            },
        }
    }

    pub async fn read(
        &mut self,
        memory: MemoryRef<'_>,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, Error> {
        either!(self, session => session.read_memory(memory, offset, length))
    }

    pub async fn write(&mut self, memory: MemoryRef<'_>, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        either!(self, session => session.write_memory(memory, offset, bytes))
    }

    pub async fn memory_size(&mut self, memory: MemoryRef<'_>) -> Result<u64, Error> {
        either!(self, session => session.memory_size(memory))
    }

    pub async fn global(&mut self, name: &str) -> Result<Value, Error> {
        either!(self, session => session.global(name))
    }

    pub async fn set_global(&mut self, name: &str, value: Value) -> Result<(), Error> {
        either!(self, session => session.set_global(name, value))
    }

    pub async fn usage(&mut self) -> Result<Usage, Error> {
        either!(self, session => session.usage())
    }

    pub async fn reset(&mut self) -> Result<(), Error> {
        either!(self, session => session.reset())
    }

    pub async fn exports(&mut self) -> Result<Vec<Export>, Error> {
        match self {
            Backend::Daemon { session, .. } => Ok(session.exports().await?),
            Backend::Embedded { session, .. } => Ok(session.exports().collect()),
        }
    }

    pub async fn end(self) -> Result<Report, Error> {
        match self {
            Backend::Daemon { session, .. } => Ok(session.end().await?),
            Backend::Embedded { session, .. } => Ok(session.end().await?),
        }
    }
}
