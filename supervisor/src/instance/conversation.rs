//! The shard's side of a session: one operation of the host app after the other becomes a command to the instance, and the
//! instance's reply becomes the answer.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use compiler::metadata::Entry;
use ipc::job::{ARENA_BYTES, ExitRecord};
use ipc::report::{Limit, LimitReached, Outcome, Trap, Usage, Violation};
use ipc::ring::Submission;
use ipc::session::{Command, command, status};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Sleep;

use super::outcome::Ending;
use super::shared_memory::{RawValue, SharedMemory};
use crate::call_chain::CallChain;
use crate::wasi::WasiContext;

/// What a host app wants of its session. Addresses and lengths are checked: they come from the artifact's metadata.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Call a function with these parameters. Host functions that it calls serve this chain of calls.
    Call { entry: Entry, values: Vec<RawValue>, results: usize, chain: CallChain },
    /// Copy bytes out of the instance, at most [`ARENA_BYTES`].
    Read { address: u64, length: usize },
    /// Copy bytes into the instance, at most [`ARENA_BYTES`].
    Write { address: u64, bytes: Vec<u8> },
    /// Tell which descriptors the guest has opened or closed. The supervisor knows.
    Descriptors,
    /// Tell what the instance has used so far. The supervisor knows, or finds it in what the instance has left.
    Usage,
    /// End the instance.
    End,
}

/// What came of an operation. Where none comes, the instance is gone.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Results of a call.
    Returned(Vec<RawValue>),
    /// The call trapped.
    Trapped(Trap),
    /// The bytes that were read; none of a write.
    Bytes(Vec<u8>),
    /// Descriptors that the guest has opened or closed.
    Descriptors(Vec<u32>),
    /// What the instance has used so far.
    Usage(Usage),
}

/// An operation on its way to the shard.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) operation: Operation,
    /// How long it may take until the session is ended.
    pub(crate) timeout: Option<Duration>,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// What the instance is doing for the host app.
#[derive(Debug)]
struct Running {
    expected: Expected,
    chain: CallChain,
    answer: oneshot::Sender<Answer>,
    timeout: Option<(Duration, Pin<Box<Sleep>>)>,
}

/// What the reply must say.
#[derive(Debug)]
enum Expected {
    Returned {
        results: usize,
    },
    Read {
        length: usize,
    },
    Written,
    /// The instance's end: whatever it says instead is a violation.
    Nothing,
}

/// The operation under way, which can be interrupted.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(RefCell<Option<Running>>);

impl UnderWay {
    /// The calls that its host functions serve.
    pub(crate) fn chain(&self) -> CallChain {
        self.0.borrow().as_ref().map(|running| running.chain.clone()).unwrap_or_default()
    }

    /// Ready when the operation must not go on: nobody waits for it any more, or its time is up. There is no way to stop
    /// guest code half-way and go on, so this ends the session.
    ///
    /// To be polled after the conversation, in the same task: operations begin there.
    pub(crate) fn poll_interruption(&self, context: &mut Context<'_>) -> Poll<Ending> {
        let mut running = self.0.borrow_mut();
        let Some(running) = running.as_mut() else { return Poll::Pending };
        if running.answer.poll_closed(context).is_ready() {
            return Poll::Ready(Ending::Cancelled);
        }
        let Some((limit, sleep)) = &mut running.timeout else { return Poll::Pending };
        let value = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        sleep.as_mut().poll(context).map(|()| Ending::Limit(LimitReached { limit: Limit::WallTime, value }))
    }
}

/// One session's conversation with its instance.
pub(crate) struct Conversation<'c> {
    pub(crate) requests: &'c mut mpsc::UnboundedReceiver<Request>,
    /// Told when the instance is set up.
    pub(crate) ready: Option<oneshot::Sender<()>>,
    pub(crate) under_way: &'c UnderWay,
    /// What a fault means that the instance describes.
    pub(crate) explain: &'c dyn Fn(&ExitRecord) -> Outcome,
    /// What the instance has used, by its record and the bytes of its output.
    pub(crate) measure: &'c dyn Fn(&ExitRecord, u64) -> Usage,
}

impl Conversation<'_> {
    /// Takes the instance's reply to the last command, and waits for the next.
    pub(crate) async fn next(
        &mut self,
        reply: &Submission,
        shared: &SharedMemory,
        wasi: &WasiContext,
    ) -> Result<Command, Violation> {
        let [status, ..] = reply.args;
        let running = self.under_way.0.take();
        let answer = match (running, self.ready.take()) {
            (None, Some(ready)) if status == status::READY => {
                // Whoever no longer waits cancels by that.
                let _ = ready.send(());
                None
            }
            (Some(running), None) => Some((self.answer(&running.expected, status, shared)?, running.answer)),
            _ => return Err(broken(status)),
        };
        if let Some((answer, to)) = answer {
            let _ = to.send(answer);
        }
        loop {
            let Some(request) = self.requests.recv().await else {
                // The host app dropped its session, which cancels it.
                return std::future::pending().await;
            };
            if let Some(command) = self.begin(request, reply.sequence, shared, wasi) {
                return Ok(command);
            }
        }
    }

    fn answer(&self, expected: &Expected, status: u64, shared: &SharedMemory) -> Result<Answer, Violation> {
        match (expected, status) {
            (Expected::Returned { results }, status::RETURNED) => {
                Ok(Answer::Returned(shared.values(*results)))
            }
            (Expected::Returned { .. }, status::FAULT) => match (self.explain)(&shared.exit_record()) {
                Outcome::Trapped(trap) => Ok(Answer::Trapped(trap)),
                Outcome::Violated(violation) => Err(violation),
                _ => Err(broken(status)),
            },
            (Expected::Read { length }, status::DONE) => {
                Ok(Answer::Bytes(shared.arena().prefix(*length).copy_out()))
            }
            (Expected::Written, status::DONE) => Ok(Answer::Bytes(Vec::new())),
            _ => Err(broken(status)),
        }
    }

    /// The command for an operation; `None` when it needs none, and is answered.
    fn begin(
        &self,
        request: Request,
        sequence: u32,
        shared: &SharedMemory,
        wasi: &WasiContext,
    ) -> Option<Command> {
        let Request { operation, timeout, answer } = request;
        let timeout = timeout.map(|limit| (limit, Box::pin(tokio::time::sleep(limit))));
        let command = Command { sequence, ..Command::default() };
        let mut served = CallChain::default();
        let (command, expected) = match operation {
            Operation::Call { entry, values, results, chain } => {
                served = chain;
                shared.write_values(&values);
                let Entry { code, trampoline, .. } = entry;
                let command = Command { kind: command::CALL, code, trampoline, ..command };
                (command, Expected::Returned { results })
            }
            Operation::Read { address, length } => {
                let length = length.min(ARENA_BYTES);
                let command = Command { kind: command::READ, address, length: length as u64, ..command };
                (command, Expected::Read { length })
            }
            Operation::Write { address, bytes } => {
                let length = shared.arena().write(0, &bytes) as u64;
                (Command { kind: command::WRITE, address, length, ..command }, Expected::Written)
            }
            Operation::Descriptors => {
                let _ = answer.send(Answer::Descriptors(wasi.changed_descriptors()));
                return None;
            }
            Operation::Usage => {
                let usage = (self.measure)(&shared.exit_record(), wasi.output_bytes());
                let _ = answer.send(Answer::Usage(usage));
                return None;
            }
            // The answer to this is the instance's end.
            Operation::End => (Command { kind: command::END, ..command }, Expected::Nothing),
        };
        *self.under_way.0.borrow_mut() = Some(Running { expected, chain: served, answer, timeout });
        Some(command)
    }
}

fn broken(status: u64) -> Violation {
    Violation::Ring { rule: format!("a session's reply of status {status}, which nothing asked for") }
}
