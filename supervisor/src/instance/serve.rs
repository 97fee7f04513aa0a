//! Serving one instance's host calls until something ends the job.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use ipc::direct;
use ipc::interface::FunctionId;
use ipc::report::{Limit, LimitReached, Violation};
use ipc::ring::supervisor::{Next, Queues, refuse_output, take_output};
use ipc::ring::{Completion, FINISHED, OUTPUT_HALF, Submission, unpack_output};
use tokio::io::unix::AsyncFd;

use super::conversation::Conversation;
use super::provided::Provided;
use super::shared_memory::SharedMemory;
use super::typed::Returned;
use super::watch::Watch;
use crate::call_chain::CallChain;
use crate::hostcall::{Answer, HostCall};
use crate::observed::Calls;
use crate::wasi::{Known, WasiContext};
use crate::zygote::listener::{Ask, Asking};

/// Calls that are answered in a row before other jobs of the shard get their turn.
const TURN: u32 = 64;

/// How long output is queued that no call follows.
const OUTPUT_DELAY: Duration = Duration::from_millis(1);

/// Why serving ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The instance broke a rule.
    Violation(Violation),
    /// A limit was reached.
    Limit(LimitReached),
    /// The instance has finished, left its exit record, and waits to be killed. With the queues as they are then, and the sequence of what it
    /// submitted last.
    Finished(Queues, u32),
}

/// One instance's host calls.
#[derive(Debug)]
pub(crate) struct Server<'s> {
    pub(crate) shared: &'s SharedMemory,
    pub(crate) doorbell: &'s AsyncFd<OwnedFd>,
    pub(crate) policy: &'s policies::Policy,
    /// Functions that the host app provides.
    pub(crate) provided: &'s Provided,
    /// Why the last of them failed, if it did.
    pub(crate) failure: &'s std::cell::RefCell<Option<String>>,
    /// Whether the instance was told to wait when it has finished.
    pub(crate) waits_at_end: bool,
    /// Calls that may be made.
    pub(crate) calls_max: Option<u64>,
    /// Calls served so far.
    pub(crate) calls: &'s std::cell::Cell<u64>,
    /// The same by function.
    pub(crate) seen: &'s Calls,
    /// Whether the instance has submitted anything.
    pub(crate) heard: &'s std::cell::Cell<bool>,
    /// Queued output that was taken and is not written yet.
    pub(crate) output: &'s std::cell::Cell<Option<Taken>>,
}

/// Output that was taken from an instance's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    stream: u32,
    half: u32,
    /// Bytes that are written.
    at: usize,
    length: usize,
}

impl Taken {
    /// What a word of the instance's says; `None` for no output.
    fn new(word: u64) -> Result<Option<Self>, Violation> {
        let (stream, half, length) = unpack_output(word);
        match (stream, length as usize) {
            _ if word == 0 => Ok(None),
            (1 | 2, length) if length <= OUTPUT_HALF => Ok(Some(Self { stream, half, at: 0, length })),
            _ => {
                let rule = format!("queued output {word:#x}: stream {stream}, {length} bytes");
                Err(Violation::Ring { rule })
            }
        }
    }
}

impl Server<'_> {
    /// Serves until the instance must be ended. Dropping the future at any point leaves nothing behind.
    ///
    /// In a session the instance gets its commands here too: they are the answers to its replies.
    pub(crate) async fn run(
        &self,
        wasi: &mut WasiContext,
        mut session: Option<&mut Conversation<'_>>,
        mut asking: Option<&mut Asking>,
    ) -> Ended {
        let mut queues = Queues::new();
        let mut watch = Watch::new(self.shared);
        loop {
            let next = match queues.look(self.shared) {
                Ok(Next::Call) => Ok(Next::Call),
                Ok(seen) => watch.before_waiting(seen, || queues.look(self.shared)),
                Err(rule) => Err(rule),
            };
            let next = match next {
                Ok(next) => next,
                Err(rule) => return broken(rule.to_string()),
            };
            if next != Next::Call {
                let ask = async {
                    match &mut asking {
                        Some(asking) => asking.next().await,
                        None => std::future::pending().await,
                    }
                };
                let output = async {
                    match next {
                        Next::Output => tokio::time::sleep(OUTPUT_DELAY).await,
                        _ => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    rung = wait(self.doorbell) => if let Err(error) = rung {
                        return broken(format!("doorbell: {error}"));
                    },
                    ask = ask => if let (Some(asking), Some(limit)) =
                        (asking.as_mut(), self.count()) {
                        asking.refuse(ask);
                        return Ended::Limit(limit);
                    } else if let Some(asking) = asking.as_mut() {
                        self.give(wasi, asking, ask);
                    },
                    () = output => if let Err(ended) = self.serve_output(wasi).await {
                        return ended;
                    },
                }
                continue;
            }
            watch.count();
            self.heard.set(true);
            // It was written before this was submitted.
            if let Err(ended) = self.serve_output(wasi).await {
                return ended;
            }
            let Some(submission) = queues.take(self.shared) else { continue };
            if self.waits_at_end && submission.function == FINISHED {
                return Ended::Finished(queues, submission.sequence);
            }
            if let (Some(session), ipc::session::REPLY) = (&mut session, submission.function) {
                match session.next(&submission, self.shared, wasi).await {
                    Ok(command) => {
                        if let Err(ended) = self.complete(&mut queues, &command.into()) {
                            return ended;
                        }
                    }
                    Err(violation) => return Ended::Violation(violation),
                }
                continue;
            }
            if Provided::number(&submission).is_some() {
                let chain = session.as_ref().map(|session| session.under_way.chain());
                let completion = match self.import_call(&submission, chain).await {
                    Ok(completion) => completion,
                    Err(ended) => return ended,
                };
                if let Err(ended) = self.complete(&mut queues, &completion) {
                    return ended;
                }
                if queues.completed().is_multiple_of(TURN) {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            let call = match HostCall::check(&submission, self.shared.arena()) {
                Ok(call) => call,
                Err(violation) => return Ended::Violation(violation),
            };
            if !self.policy.allows_host_call(call.function) {
                let name = call.declaration().name;
                return broken(format!(
                    "host call {name}, which policy \"{}\" does not grant",
                    self.policy.name()
                ));
            }
            if let Some(limit) = self.count() {
                return Ended::Limit(limit);
            }
            if let Some(fd) = wasi.held_by(&call) {
                let name = call.declaration().name;
                return broken(format!(
                    "{name} of descriptor {fd}, whose file the instance has not given back"
                ));
            }
            self.seen.count(call.function);
            let (errno, written) = match wasi.call(&call).await {
                Answer::Done { errno, written } => (errno, written),
                Answer::Limit(limit) => return Ended::Limit(limit),
            };
            let Known { value, opened } = if errno == 0 { wasi.known_after(&call) } else { Known::default() };
            let completion = Completion {
                sequence: call.sequence,
                errno: u32::from(errno),
                written: written as u64,
                value,
                opened,
                reserved: [0; 2],
            };
            if let Err(ended) = self.complete(&mut queues, &completion) {
                return ended;
            }
            if queues.completed().is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Writes what is left of queued output that was taken before, then what is queued now. Not what is queued meanwhile: an instance
    /// that waits for an answer, or is dead, queues nothing. Dropping the future loses nothing.
    pub(crate) async fn serve_output(&self, wasi: &mut WasiContext) -> Result<(), Ended> {
        self.write_taken(wasi).await?;
        let Some(taken) = Taken::new(take_output(self.shared)).map_err(Ended::Violation)? else {
            return Ok(());
        };
        self.heard.set(true);
        if !self.policy.allows_host_call(FunctionId::fd_write) {
            let policy = self.policy.name();
            return Err(broken(format!("queued output, which policy \"{policy}\" does not grant")));
        }
        self.seen.count(FunctionId::fd_write);
        self.output.set(Some(taken));
        self.write_taken(wasi).await
    }

    /// Writes what is left of the output that was taken last.
    async fn write_taken(&self, wasi: &mut WasiContext) -> Result<(), Ended> {
        while let Some(taken) = self.output.get() {
            let Taken { stream, half, at, length } = taken;
            let rest = self.shared.output(half).prefix(length).skip(at);
            let at = at + wasi.write_queued(stream, rest).await.map_err(Ended::Limit)?;
            self.output.set((at < length).then_some(Taken { at, ..taken }));
            if at >= length {
                refuse_output(self.shared, wasi.refuses_queueing());
            }
        }
        Ok(())
    }

    /// Answers a call for a descriptor of a file.
    fn give(&self, wasi: &mut WasiContext, asking: &Asking, ask: Ask) {
        let [what, fd, slot, ..] = ask.args;
        let slot = usize::try_from(slot).unwrap_or(usize::MAX);
        let Some(number) = direct::descriptor(slot) else { return asking.refuse(ask) };
        match what {
            direct::ask::FILE => {
                let Some(file) = wasi.file_to_give(fd) else { return asking.refuse(ask) };
                if asking.give(ask, file, number) {
                    wasi.given_in(slot, Some(fd));
                }
            }
            direct::ask::RETURN => {
                // Nothing that the instance does not have.
                if asking.give(ask, self.doorbell.get_ref().as_fd(), number) {
                    wasi.given_in(slot, None);
                }
            }
            _ => asking.refuse(ask),
        }
    }

    /// Serves a call of a function that the host app provides, for this chain of calls; without one, for that in which the job runs.
    async fn import_call(
        &self,
        submission: &Submission,
        chain: Option<CallChain>,
    ) -> Result<Completion, Ended> {
        let call = self.provided.check(submission, self.shared.arena()).map_err(Ended::Violation)?;
        if let Some(limit) = self.count() {
            return Err(Ended::Limit(limit));
        }
        self.seen.imports.set(self.seen.imports.get().saturating_add(1));
        let result = match chain {
            Some(chain) => chain.serve(call.serve()).await,
            None => call.serve().await,
        };
        let (returned, failure) = match result {
            Ok(returned) => (Some(returned), None),
            Err(message) => (None, Some(message)),
        };
        *self.failure.borrow_mut() = failure;
        let errno = u32::from(returned.is_none());
        let Returned { value, written } = returned.unwrap_or_default();
        Ok(Completion { sequence: submission.sequence, errno, value, written, ..Completion::default() })
    }

    /// Hands the next completion over.
    fn complete(&self, queues: &mut Queues, completion: &Completion) -> Result<(), Ended> {
        queues.complete(self.shared, completion).map_err(|rule| broken(rule.to_string()))
    }

    fn count(&self) -> Option<LimitReached> {
        let calls = self.calls.get() + 1;
        match self.calls_max {
            Some(max) if calls > max => Some(LimitReached { limit: Limit::HostCalls, value: max }),
            _ => {
                self.calls.set(calls);
                None
            }
        }
    }
}

fn broken(rule: String) -> Ended {
    Ended::Violation(Violation::Ring { rule })
}

/// Waits until the doorbell rings.
///
/// The readiness is edge-triggered: every write to the eventfd makes it anew, so the counter need not be read
/// (two system calls less per host call). The caller looks at the queue after this returns, so a ring between
/// its last look and the wait is not lost: its edge is still to be delivered.
pub(super) async fn wait(doorbell: &AsyncFd<OwnedFd>) -> io::Result<()> {
    doorbell.readable().await?.clear_ready();
    Ok(())
}
