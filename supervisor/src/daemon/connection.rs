//! One client, from hello to end.

use std::collections::HashMap;
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ipc::channel::{Channel, ChannelError};
use ipc::protocol::{
    ClientHello, Descriptors, EntryRequest, ErrorKind, ErrorReply, Frame, LoadRequest, ModuleId,
    ModuleSource, ProtocolError, Request, Response, RunRequest, ServerHello, Status, decode,
};
use ipc::report::{Outcome, Report};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::host_calls::{HostCalls, ReturnError};
use super::session::{Places, Sessions};
use super::{Counted, Shared, listener, module_error, policies, request};
use crate::shard::Here;
use crate::{Job, Module, Session};

/// A frame that has begun must be complete within this time or twice it; so must a hello.
const FRAME_TIME: Duration = Duration::from_secs(10);
/// Modules that a connection may have loaded.
const MODULES_MAX: usize = 256;
/// Characters to which names of functions are cut if a report does not fit a frame otherwise.
const NAME_MAX: usize = 200;

/// Why a connection ends, other than by the client's will.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("a frame has not been completed in time")]
    Stalled,
    #[error(transparent)]
    Return(#[from] ReturnError),
    #[error("a request came while another was being served; wait for the answer, or use a second connection")]
    Busy,
}

impl From<ProtocolError> for End {
    fn from(error: ProtocolError) -> Self {
        End::Channel(error.into())
    }
}

/// Serves a client until it leaves or breaks the rules; or tells it why it is not served.
pub(super) async fn serve(stream: UnixStream, here: &Here, shared: &Shared, refusal: Option<String>) {
    let peer = listener::user(&stream);
    // Whom no event loop watches cannot be told so either.
    let Ok(mut channel) = Channel::new(stream) else { return };
    let peer = match (peer, refusal) {
        (Ok(peer), None) => peer,
        (_, refusal) => {
            let reason = refusal.unwrap_or_else(|| String::from("its credentials cannot be read"));
            tell(&mut channel, &ServerHello::refuse(&reason).to_bytes()).await;
            return;
        }
    };
    match greet(&mut channel).await {
        Ok(true) => {}
        // Refused by version, or gone.
        Ok(false) => return,
        Err(error) => {
            tell(&mut channel, &ServerHello::refuse(&error.to_string()).to_bytes()).await;
            return;
        }
    }
    let mut connection = Connection { peer, here, shared, modules: HashMap::new(), next_module: 0 };
    // Its sessions end before the client is told that the connection does.
    if let Err(error) = connection.requests(&mut channel).await {
        let reply = Response::Error(ErrorReply::new(ErrorKind::Protocol, error));
        // The client may be gone, or not reading: no matter.
        let _ = timeout(FRAME_TIME, channel.send(&reply, &[])).await;
    }
}

/// A last word to a client that may not listen.
async fn tell(channel: &mut Channel, payload: &[u8]) {
    let _ = timeout(FRAME_TIME, channel.send_frame(payload)).await;
}

/// Agrees on a version; false if there is none, which the client has been told.
async fn greet(channel: &mut Channel) -> Result<bool, End> {
    let Some(frame) = timeout(FRAME_TIME, channel.receive()).await.map_err(|_| End::Stalled)?? else {
        return Ok(false);
    };
    let version = ClientHello::from_bytes(&frame.payload)?.agree();
    channel.send_frame(&ServerHello::answer(version).to_bytes()).await?;
    Ok(version.is_some())
}

/// The next frame; `None` when the client has left.
async fn next_frame(channel: &mut Channel) -> Result<Option<Frame>, End> {
    loop {
        let was_in_frame = channel.in_frame();
        match timeout(FRAME_TIME, channel.receive()).await {
            Ok(frame) => return Ok(frame?),
            Err(_) if was_in_frame => return Err(End::Stalled),
            // A client may be silent as long as it likes between two frames.
            Err(_) => {}
        }
    }
}

struct Connection<'s> {
    /// User id of the client.
    peer: u32,
    /// The shard on whose thread this is.
    here: &'s Here,
    shared: &'s Shared,
    modules: HashMap<u32, Module>,
    next_module: u32,
}

impl<'s> Connection<'s> {
    async fn requests(&mut self, channel: &mut Channel) -> Result<(), End> {
        let mut sessions = Sessions::default();
        let mut calls = HostCalls::new();
        while let Some(frame) = next_frame(channel).await? {
            let mut descriptors = Descriptors::new(frame.descriptors);
            let (cancel, cancelled) = oneshot::channel();
            let response = match decode(&frame.payload)? {
                Request::Run(RunRequest { setup, entry }) => {
                    let prepared = request::prepare(setup, descriptors, calls.provider())?;
                    let work = self.run(prepared, entry, cancelled);
                    match attend(channel, work, Some(cancel), &mut calls).await? {
                        Some(report) => report.map(|r| Response::Report(Box::new(r))),
                        None => return Ok(()),
                    }
                }
                Request::OpenSession(setup) => {
                    let prepared = request::prepare(setup, descriptors, calls.provider())?;
                    let work = self.open_session(&sessions, prepared, cancelled);
                    match attend(channel, work, Some(cancel), &mut calls).await? {
                        Some(opened) => opened.map(|(session, places)| {
                            Response::SessionOpened(sessions.keep(session, places, self.shared))
                        }),
                        None => return Ok(()),
                    }
                }
                Request::Session(request) => {
                    descriptors.finish()?;
                    let work = sessions.operate(request, cancelled);
                    match attend(channel, work, Some(cancel), &mut calls).await? {
                        Some(response) => response,
                        None => return Ok(()),
                    }
                }
                Request::Load(LoadRequest { module: ModuleSource { file, format }, open_imports }) => {
                    let file = descriptors.take(file)?;
                    descriptors.finish()?;
                    if self.modules.len() >= MODULES_MAX {
                        let message = format!("a connection may have {MODULES_MAX} modules loaded");
                        Err(ErrorReply::new(ErrorKind::Module, message))
                    } else {
                        let how = request::Compiled { count_fuel: false, open_imports };
                        let work = request::load(self.peer, file, format, how, self.shared);
                        match attend(channel, work, None, &mut calls).await? {
                            Some(module) => module.map(|m| Response::Loaded(self.keep(m))),
                            None => return Ok(()),
                        }
                    }
                }
                other => {
                    descriptors.finish()?;
                    match other {
                        // The job had ended when the request was sent.
                        Request::Cancel => continue,
                        Request::HostReturn(returned) => {
                            calls.answer(returned)?;
                            continue;
                        }
                        Request::Unload(id) => self.unload(id),
                        Request::Status => Ok(self.status()),
                        Request::Doctor => self.doctor(),
                        Request::Policies => Ok(self.policies()),
                        Request::ReloadPolicies => self.reload_policies().await,
                        Request::Run(_)
                        | Request::Load(_)
                        | Request::OpenSession(_)
                        | Request::Session(_) => continue,
                    }
                }
            };
            let response = response.unwrap_or_else(Response::Error);
            answer(channel, response).await?;
        }
        Ok(())
    }

    async fn run(
        &self,
        prepared: request::Prepared,
        entry: EntryRequest,
        mut cancelled: oneshot::Receiver<()>,
    ) -> Result<Report, ErrorReply> {
        // First the place: a job that waits for it holds no module in memory.
        let place = async {
            let permit = self.shared.job_permits.acquire().await;
            permit.map_err(|closed| ErrorReply::new(ErrorKind::Internal, closed))
        };
        let (job, _permit) = self.begin(place, prepared, entry, &mut cancelled).await?;
        let _counted = Counted::new(&self.shared.jobs);
        let report = self.shared.supervisor.run_near(self.here, job, wished(&mut cancelled)).await;
        report.map_err(|e| {
            let about_module = module_error::concerns_module(&e);
            let kind = if about_module { ErrorKind::Module } else { ErrorKind::Job };
            ErrorReply::new(kind, e.to_string())
        })
    }

    async fn open_session(
        &self,
        sessions: &Sessions<'s>,
        prepared: request::Prepared,
        mut cancelled: oneshot::Receiver<()>,
    ) -> Result<(Session, Places<'s>), ErrorReply> {
        let place = sessions.place(self.shared);
        let (job, places) = self.begin(place, prepared, EntryRequest::Command, &mut cancelled).await?;
        Ok((Sessions::start(job, self.here, self.shared).await?, places))
    }

    /// Gets a place, then the job. Waiting for the one and compiling for the other can take long, and can be cancelled.
    async fn begin<T>(
        &self,
        place: impl Future<Output = Result<T, ErrorReply>>,
        prepared: request::Prepared,
        entry: EntryRequest,
        cancelled: &mut oneshot::Receiver<()>,
    ) -> Result<(Job, T), ErrorReply> {
        let begin = async {
            let place = place.await?;
            let job = request::job(prepared, entry, self.peer, &self.modules, self.shared).await?;
            Ok((job, place))
        };
        tokio::select! {
            biased;
            begun = begin => begun,
            () = wished(cancelled) => {
                Err(ErrorReply::new(ErrorKind::Cancelled, "cancelled before the job began"))
            }
        }
    }

    fn keep(&mut self, module: Module) -> ModuleId {
        // Ids are not used again, so that a client's mistake cannot run the wrong module; after 2^32 they are.
        while self.modules.contains_key(&self.next_module) {
            self.next_module = self.next_module.wrapping_add(1);
        }
        let id = self.next_module;
        self.next_module = id.wrapping_add(1);
        self.modules.insert(id, module);
        ModuleId(id)
    }

    fn unload(&mut self, ModuleId(id): ModuleId) -> Result<Response, ErrorReply> {
        match self.modules.remove(&id) {
            Some(_) => Ok(Response::Unloaded),
            None => Err(request::RequestError::NoSuchModule(id).into()),
        }
    }

    fn policies(&self) -> Response {
        Response::Policies(
            self.shared.policies.current().iter().map(|policy| policies::policy_info(policy)).collect(),
        )
    }

    /// For the daemon's own user and root alone, whoever else is served.
    async fn reload_policies(&self) -> Result<Response, ErrorReply> {
        let refused = |reason: &dyn std::fmt::Display| ErrorReply::new(ErrorKind::Policy, reason);
        listener::check_owner(self.peer).map_err(|error| refused(&error))?;
        self.shared
            .policies
            .reload(&self.shared.blocking)
            .await
            .map(Response::Reloaded)
            .map_err(|reason| refused(&reason))
    }

    fn doctor(&self) -> Result<Response, ErrorReply> {
        let json = serde_json::to_string(&self.shared.host);
        json.map(Response::Doctor).map_err(|error| ErrorReply::new(ErrorKind::Internal, error))
    }

    fn status(&self) -> Response {
        use std::sync::atomic::Ordering::Relaxed;
        Response::Status(Status {
            version: String::from(env!("CARGO_PKG_VERSION")),
            connections: self.shared.connections.load(Relaxed),
            jobs: self.shared.jobs.load(Relaxed),
            sessions: self.shared.sessions.load(Relaxed),
        })
    }
}

/// Ready when the client has asked for the end of its job.
pub(super) async fn wished(cancelled: &mut oneshot::Receiver<()>) {
    // A sender that is dropped unused is no wish.
    if cancelled.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Does work for a client while watching its connection, and has the client answer what the work calls. `None`: the client is gone
/// and the work was dropped unfinished: an instance is killed; a thread that reads or compiles a module runs on, and its result is
/// dropped.
async fn attend<T>(
    channel: &mut Channel,
    work: impl Future<Output = T>,
    mut cancel: Option<oneshot::Sender<()>>,
    calls: &mut HostCalls,
) -> Result<Option<T>, End> {
    let mut work = std::pin::pin!(work);
    let result = loop {
        tokio::select! {
            biased;
            result = &mut work => break result,
            frame = next_frame(channel) => {
                let Some(frame) = frame? else { return Ok(None) };
                let descriptors = Descriptors::new(frame.descriptors);
                match decode(&frame.payload)? {
                    Request::Cancel => {
                        descriptors.finish()?;
                        if let Some(cancel) = cancel.take() {
                            // An error means that the job has just ended.
                            let _ = cancel.send(());
                        }
                    }
                    Request::HostReturn(returned) => {
                        descriptors.finish()?;
                        calls.answer(returned)?;
                    }
                    _ => return Err(End::Busy),
                }
            }
            call = calls.next() => {
                let call = Response::HostCall(call);
                let mut sending = std::pin::pin!(channel.send(&call, &[]));
                // A client that does not read must not keep its job from ending. What is sent is sent to its end, as on every
                // connection.
                tokio::select! {
                    biased;
                    sent = &mut sending => match sent {
                        Err(ChannelError::Protocol(ProtocolError::MessageTooLong(bytes))) => calls.not_sent(bytes),
                        sent => sent?,
                    },
                    result = &mut work => {
                        sending.await?;
                        break result;
                    }
                }
            }
        }
    };
    calls.settle();
    Ok(Some(result))
}

/// Sends a response; a report that is too long for a frame loses the tails of its names.
async fn answer(channel: &mut Channel, response: Response) -> Result<(), End> {
    match channel.send(&response, &[]).await {
        Err(ChannelError::Protocol(ProtocolError::MessageTooLong(_))) => {}
        result => return Ok(result?),
    }
    let Response::Report(mut report) = response else {
        let message = "the answer does not fit a frame";
        let reply = ErrorReply::new(ErrorKind::Internal, message);
        return Ok(channel.send(&Response::Error(reply), &[]).await?);
    };
    if let Outcome::Trapped(trap) = &mut report.outcome {
        for name in trap.backtrace.iter_mut().filter_map(|f| f.name.as_mut()) {
            *name = name.chars().take(NAME_MAX).collect();
        }
    }
    Ok(channel.send(&Response::Report(report), &[]).await?)
}
