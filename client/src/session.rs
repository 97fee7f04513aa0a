//! A session in the daemon.

use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ipc::protocol::{
    Bytes, MEMORY_BYTES_MAX, MemoryName, Request, Response, SessionId, SessionOperation, SessionReply,
    SessionRequest,
};
use ipc::report::{CallOutcome, Report, Usage, Value};
use ipc::types::Export;
use supervisor::{MemoryRef, Served};
use tokio::sync::Mutex;

use crate::Error;
use crate::connection::{Connection, Dropped};

/// One confined instance that the daemon holds for this client, as [`supervisor::Session`] is one that the library holds: first
/// [`start`](Self::start), then any number of [calls](Self::call), reads and writes of memories and globals.
///
/// Its connection does one thing at a time. Dropping the session ends it with the connection's next request, or with the
/// connection. Dropping the future of an operation before it is done makes the connection useless, as its answer is still under
/// way; [`call_until`](Self::call_until) ends a call.
#[derive(Debug)]
pub struct Session {
    connection: Arc<Mutex<Connection>>,
    /// Where its number goes when it is dropped.
    dropped: Arc<Dropped>,
    id: SessionId,
    /// Functions that the guest may call here.
    served: Served,
    ended: bool,
}

impl Session {
    pub(crate) fn new(
        connection: Arc<Mutex<Connection>>,
        dropped: Arc<Dropped>,
        id: SessionId,
        served: Served,
    ) -> Self {
        Self { connection, dropped, id, served, ended: false }
    }

    /// Instantiates the module, as [`supervisor::Session::start`].
    pub async fn start(&mut self) -> Result<CallOutcome, Error> {
        self.start_within(None).await
    }

    /// The same with a time limit of its own.
    pub async fn start_within(&mut self, timeout: Option<Duration>) -> Result<CallOutcome, Error> {
        let timeout_ns = timeout.map(nanoseconds);
        self.called(SessionOperation::Start { timeout_ns }, std::future::pending()).await
    }

    /// Calls an exported function.
    pub async fn call(&mut self, name: &str, args: &[Value]) -> Result<CallOutcome, Error> {
        self.call_within(name, args, None).await
    }

    /// Calls an exported function, which may take `timeout`. If it takes longer, its instance ends.
    pub async fn call_within(
        &mut self,
        name: &str,
        args: &[Value],
        timeout: Option<Duration>,
    ) -> Result<CallOutcome, Error> {
        let (name, args, timeout_ns) = (name.to_owned(), args.to_vec(), timeout.map(nanoseconds));
        self.called(SessionOperation::Call { name, args, timeout_ns }, std::future::pending()).await
    }

    /// Calls an exported function; when `cancel` is ready before it has returned, its instance ends. [`reset`](Self::reset) gives
    /// another.
    pub async fn call_until(
        &mut self,
        name: &str,
        args: &[Value],
        cancel: impl Future<Output = ()>,
    ) -> Result<CallOutcome, Error> {
        let (name, args) = (name.to_owned(), args.to_vec());
        self.called(SessionOperation::Call { name, args, timeout_ns: None }, cancel).await
    }

    /// The same for [`start`](Self::start).
    pub async fn start_until(&mut self, cancel: impl Future<Output = ()>) -> Result<CallOutcome, Error> {
        self.called(SessionOperation::Start { timeout_ns: None }, cancel).await
    }

    async fn called(
        &mut self,
        operation: SessionOperation,
        cancel: impl Future<Output = ()>,
    ) -> Result<CallOutcome, Error> {
        match self.ask(operation, cancel).await? {
            Response::Session(SessionReply::Called(outcome)) => {
                if matches!(outcome, CallOutcome::Ended(_)) {
                    // Nobody has its handles any more.
                    self.served.reset();
                }
                Ok(outcome)
            }
            _ => Err(Error::Unexpected),
        }
    }

    /// The value of an exported global.
    pub async fn global(&mut self, name: &str) -> Result<Value, Error> {
        match self.operate(SessionOperation::Global(name.to_owned())).await? {
            SessionReply::Value(value) => Ok(value),
            _ => Err(Error::Unexpected),
        }
    }

    /// Gives an exported mutable global another value of its type.
    pub async fn set_global(&mut self, name: &str, value: Value) -> Result<(), Error> {
        self.done(SessionOperation::SetGlobal { name: name.to_owned(), value }).await
    }

    /// Bytes that a memory has now.
    pub async fn memory_size(&mut self, memory: impl Into<MemoryRef<'_>>) -> Result<u64, Error> {
        match self.operate(SessionOperation::MemorySize(memory_name(memory.into()))).await? {
            SessionReply::Size(bytes) => Ok(bytes),
            _ => Err(Error::Unexpected),
        }
    }

    /// A copy of `length` bytes of a memory from `offset` on, in messages of 1 MiB. The guest does not run meanwhile.
    pub async fn read_memory(
        &mut self,
        memory: impl Into<MemoryRef<'_>>,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, Error> {
        let memory = memory_name(memory.into());
        let mut bytes = Vec::new();
        loop {
            let part = (length - bytes.len()).min(MEMORY_BYTES_MAX);
            // A sum that wraps lies in no memory; the daemon says so.
            let offset = offset.saturating_add(bytes.len() as u64);
            let read = SessionOperation::Read { memory: memory.clone(), offset, length: part as u32 };
            match self.operate(read).await? {
                SessionReply::Bytes(Bytes(piece)) if piece.len() == part => bytes.extend_from_slice(&piece),
                _ => return Err(Error::Unexpected),
            }
            if bytes.len() >= length {
                return Ok(bytes);
            }
        }
    }

    /// Writes bytes to a memory from `offset` on, in messages of 1 MiB: of bytes that do not lie in the memory, those
    /// before may be written.
    pub async fn write_memory(
        &mut self,
        memory: impl Into<MemoryRef<'_>>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let memory = memory_name(memory.into());
        let mut at = 0;
        loop {
            let end = bytes.len().min(at + MEMORY_BYTES_MAX);
            let part = Bytes(bytes.get(at..end).unwrap_or_default().to_vec());
            let offset = offset.saturating_add(at as u64);
            self.done(SessionOperation::Write { memory: memory.clone(), offset, bytes: part }).await?;
            at = end;
            if at >= bytes.len() {
                return Ok(());
            }
        }
    }

    /// What the module exports, in its order.
    pub async fn exports(&mut self) -> Result<Vec<Export>, Error> {
        let mut all = Vec::new();
        loop {
            let from = u32::try_from(all.len()).map_err(|_| Error::Unexpected)?;
            let SessionReply::Exports { exports, more } =
                self.operate(SessionOperation::Exports { from }).await?
            else {
                return Err(Error::Unexpected);
            };
            if more && exports.is_empty() {
                return Err(Error::Unexpected);
            }
            all.extend(exports);
            if !more {
                return Ok(all);
            }
        }
    }

    /// What the session has used so far, earlier instances included, as [`supervisor::Session::usage`].
    pub async fn usage(&mut self) -> Result<Usage, Error> {
        match self.operate(SessionOperation::Usage).await? {
            SessionReply::Usage(usage) => Ok(usage),
            _ => Err(Error::Unexpected),
        }
    }

    /// Goes back to the first state, as [`supervisor::Session::reset`]: [`start`](Self::start) comes next.
    pub async fn reset(&mut self) -> Result<(), Error> {
        let done = self.done(SessionOperation::Reset).await;
        // Also where no other instance could be started: the one before is gone.
        self.served.reset();
        done
    }

    /// Ends the session and reports.
    pub async fn end(mut self) -> Result<Report, Error> {
        self.ended = true;
        match self.ask(SessionOperation::End, std::future::pending()).await? {
            Response::Report(report) => Ok(*report),
            _ => Err(Error::Unexpected),
        }
    }

    async fn done(&mut self, operation: SessionOperation) -> Result<(), Error> {
        match self.operate(operation).await? {
            SessionReply::Done => Ok(()),
            _ => Err(Error::Unexpected),
        }
    }

    async fn operate(&mut self, operation: SessionOperation) -> Result<SessionReply, Error> {
        match self.ask(operation, std::future::pending()).await? {
            Response::Session(reply) => Ok(reply),
            _ => Err(Error::Unexpected),
        }
    }

    async fn ask(
        &mut self,
        operation: SessionOperation,
        cancel: impl Future<Output = ()>,
    ) -> Result<Response, Error> {
        let request = Request::Session(SessionRequest { session: self.id, operation });
        let mut connection = self.connection.lock().await;
        connection.send(&request, &[]).await?;
        connection.answer(&self.served, cancel).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended {
            self.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn memory_name(memory: MemoryRef<'_>) -> MemoryName {
    match memory {
        MemoryRef::Export(name) => MemoryName::Export(name.to_owned()),
        MemoryRef::Index(index) => MemoryName::Index(index),
    }
}
