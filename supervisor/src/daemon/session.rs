//! The sessions of one connection.

use std::collections::HashMap;
use std::time::Duration;

use ipc::protocol::{
    Bytes, ErrorKind, ErrorReply, MEMORY_BYTES_MAX, MemoryName, Response, SESSIONS_MAX, SessionId,
    SessionOperation, SessionReply, SessionRequest,
};
use ipc::report::CallOutcome;
use tokio::sync::{SemaphorePermit, oneshot};

use super::connection::wished;
use super::{Counted, Shared, module_error};
use crate::shard::Here;
use crate::{ExportType, Job, MemoryRef, Session};

/// Bytes that exports in one answer may take, about half of a frame.
const EXPORTS_BYTES: usize = 1 << 20;
/// What an export takes besides its name and the types of a function.
const EXPORT_BYTES: usize = 32;

/// What is wrong with a request about a session.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("session {0} is not open on this connection")]
    NoSuchSession(u32),
    #[error("this connection has {SESSIONS_MAX} sessions open, its maximum; end one first")]
    TooMany,
    #[error("the daemon has {0} sessions open, its maximum (half of its jobs, --max-jobs); try again later")]
    TooManyInAll(u32),
    #[error("{0} bytes of memory; one message may have {MEMORY_BYTES_MAX}, ask several times")]
    TooManyBytes(usize),
}

impl From<SessionError> for ErrorReply {
    fn from(error: SessionError) -> Self {
        ErrorReply::new(ErrorKind::Session, error)
    }
}

/// An open session, and the places that it takes.
struct Open<'s> {
    session: Session,
    _permits: Places<'s>,
    _counted: [Counted<'s>; 2],
}

/// Right to one of the daemon's sessions and one of its jobs.
pub(super) struct Places<'s> {
    _session: SemaphorePermit<'s>,
    _job: SemaphorePermit<'s>,
}

/// The sessions of a connection. Dropping them kills their instances.
#[derive(Default)]
pub(super) struct Sessions<'s> {
    open: HashMap<u32, Open<'s>>,
    next: u32,
}

impl<'s> Sessions<'s> {
    /// A place for one more session. There is one or there is none: nobody knows how long a session lasts, so that nobody waits for
    /// its end. For the job's place, which is among those that sessions leave to jobs, one waits as a job does.
    pub(super) async fn place(&self, shared: &'s Shared) -> Result<Places<'s>, ErrorReply> {
        if self.open.len() >= SESSIONS_MAX {
            return Err(SessionError::TooMany.into());
        }
        let session = shared.session_permits.try_acquire();
        let _session = session.map_err(|_| SessionError::TooManyInAll(super::sessions_max(shared.bounds)))?;
        let job = shared.job_permits.acquire().await;
        let _job = job.map_err(|closed| ErrorReply::new(ErrorKind::Internal, closed))?;
        Ok(Places { _session, _job })
    }

    /// Starts the instance of a session, where its connection is, if no other shard has less to do: there nobody else has to be woken for
    /// its operations.
    pub(super) async fn start(job: Job, here: &Here, shared: &Shared) -> Result<Session, ErrorReply> {
        shared.supervisor.session_near(here, job).await.map_err(|error| error_reply(&error))
    }

    /// Keeps a session for its client.
    pub(super) fn keep(&mut self, session: Session, places: Places<'s>, shared: &'s Shared) -> SessionId {
        // Ids are not used again, so that a client's mistake cannot reach another session; after 2^32 they are.
        while self.open.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let id = self.next;
        self.next = id.wrapping_add(1);
        let counted = [Counted::new(&shared.jobs), Counted::new(&shared.sessions)];
        self.open.insert(id, Open { session, _permits: places, _counted: counted });
        SessionId(id)
    }

    /// Does what the client asks for. `cancelled` ends the instance of a start or a call.
    pub(super) async fn operate(
        &mut self,
        SessionRequest { session: SessionId(id), operation }: SessionRequest,
        mut cancelled: oneshot::Receiver<()>,
    ) -> Result<Response, ErrorReply> {
        if matches!(operation, SessionOperation::End) {
            let Open { session, _permits, _counted } =
                self.open.remove(&id).ok_or(SessionError::NoSuchSession(id))?;
            return match session.end().await {
                Ok(report) => Ok(Response::Report(Box::new(report))),
                Err(error) => Err(error_reply(&error)),
            };
        }
        let open = self.open.get_mut(&id).ok_or(SessionError::NoSuchSession(id))?;
        let session = &mut open.session;
        let is_call = matches!(operation, SessionOperation::Start { .. } | SessionOperation::Call { .. });
        if !is_call {
            return operate(session, operation).await.map(Response::Session);
        }
        let result = tokio::select! {
            biased;
            result = operate(session, operation) => Some(result),
            () = wished(&mut cancelled) => None,
        };
        let reply = match result {
            Some(result) => result?,
            None => {
                let outcome = session.cancelled().await.map_err(|error| error_reply(&error))?;
                SessionReply::Called(CallOutcome::Ended(outcome))
            }
        };
        Ok(Response::Session(reply))
    }
}

async fn operate(session: &mut Session, operation: SessionOperation) -> Result<SessionReply, ErrorReply> {
    let timeout = |ns: Option<u64>| ns.map(Duration::from_nanos);
    let reply = match operation {
        SessionOperation::Start { timeout_ns } => {
            session.start_within(timeout(timeout_ns)).await.map(SessionReply::Called)
        }
        SessionOperation::Call { name, args, timeout_ns } => {
            session.call_within(&name, &args, timeout(timeout_ns)).await.map(SessionReply::Called)
        }
        SessionOperation::Read { memory, offset, length } => {
            let length = within_message(length as usize)?;
            session
                .read_memory(memory_ref(&memory), offset, length)
                .await
                .map(|b| SessionReply::Bytes(Bytes(b)))
        }
        SessionOperation::Write { memory, offset, bytes } => {
            within_message(bytes.0.len())?;
            session.write_memory(memory_ref(&memory), offset, &bytes.0).await.map(|()| SessionReply::Done)
        }
        SessionOperation::MemorySize(memory) => {
            session.memory_size(memory_ref(&memory)).await.map(SessionReply::Size)
        }
        SessionOperation::Global(name) => session.global(&name).await.map(SessionReply::Value),
        SessionOperation::SetGlobal { name, value } => {
            session.set_global(&name, value).await.map(|()| SessionReply::Done)
        }
        SessionOperation::Exports { from } => Ok(exports(session, from)),
        SessionOperation::Usage => session.usage().await.map(SessionReply::Usage),
        SessionOperation::Reset => session.reset().await.map(|()| SessionReply::Done),
        // Its caller ends it, as it goes with it.
        SessionOperation::End => return Err(ErrorReply::new(ErrorKind::Internal, "an end is no operation")),
    };
    reply.map_err(|error| error_reply(&error))
}

fn within_message(bytes: usize) -> Result<usize, SessionError> {
    if bytes > MEMORY_BYTES_MAX { Err(SessionError::TooManyBytes(bytes)) } else { Ok(bytes) }
}

fn memory_ref(memory: &MemoryName) -> MemoryRef<'_> {
    match memory {
        MemoryName::Export(name) => MemoryRef::Export(name),
        MemoryName::Index(index) => MemoryRef::Index(*index),
    }
}

/// The exports from this one on, as many as fit; at least one, if there is one.
fn exports(session: &Session, from: u32) -> SessionReply {
    let (mut exports, mut bytes, mut more) = (Vec::new(), 0usize, false);
    for export in session.exports().skip(from as usize) {
        let types = match &export.ty {
            ExportType::Function { params, results } => params.len() + results.len(),
            ExportType::Tag { params } => params.len(),
            _ => 0,
        };
        bytes += export.name.len() + types + EXPORT_BYTES;
        if !exports.is_empty() && bytes > EXPORTS_BYTES {
            more = true;
            break;
        }
        exports.push(export);
    }
    SessionReply::Exports { exports, more }
}

/// Whose fault an error is.
fn error_reply(error: &crate::Error) -> ErrorReply {
    use crate::Error;
    let kind = match error {
        Error::SessionState { .. }
        | Error::SessionEnded { .. }
        | Error::NoSuchMemory { .. }
        | Error::MemoryRange { .. }
        | Error::NoSuchGlobal { .. }
        | Error::GlobalImmutable { .. }
        | Error::GlobalType { .. } => ErrorKind::Session,
        error if module_error::concerns_module(error) => ErrorKind::Module,
        _ => ErrorKind::Job,
    };
    ErrorReply::new(kind, error)
}
