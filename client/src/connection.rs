//! A connection to the daemon.

use std::future::Future;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ipc::channel::{Channel, ChannelError};
use ipc::protocol::{
    ClientHello, Descriptor, FRAME_MAX, HostResult, HostReturn, LoadRequest, ModuleId, ModuleSource,
    PolicyInfo, ProtocolError, Reloaded, Request, Response, RunRequest, ServerHello, SessionId,
    SessionOperation, SessionRequest, Status, decode,
};
use ipc::report::Report;
use supervisor::{Served, Serving};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::job::Wire;
use crate::{Error, JobRequest, ModuleFile, Session};

/// How long to try again while too many others wait to be accepted.
const BUSY_TIME: Duration = Duration::from_secs(1);
/// Pause between two tries.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A connection to the daemon. Dropping it and its sessions cancels a job that runs on it.
#[derive(Debug)]
pub struct Client {
    connection: Arc<Mutex<Connection>>,
}

impl Client {
    /// Connects to the daemon at `socket` and agrees on a version of the protocol.
    ///
    /// # Errors
    /// [`Error::Connect`] if nobody answers; [`Error::Busy`] if too many wait to be accepted, for a second;
    /// [`Error::Stranger`] if another user than this one or root does.
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        let connect_error = |source| Error::Connect { path: socket.to_path_buf(), source };
        let give_up = Instant::now() + BUSY_TIME;
        let stream = loop {
            match UnixStream::connect(socket).await {
                // connect(2): EAGAIN means that the backlog of a socket that listens is full. Nothing tells when it is not.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if Instant::now() >= give_up {
                        return Err(Error::Busy { path: socket.to_path_buf() });
                    }
                    sleep(BUSY_PAUSE).await;
                }
                result => break result.map_err(connect_error)?,
            }
        };
        let uid = stream.peer_cred().map_err(connect_error)?.uid();
        if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
            return Err(Error::Stranger { path: socket.to_path_buf(), uid });
        }
        Self::greet(stream).await
    }

    /// Agrees on a version of the protocol over a socket that is already connected to a daemon.
    pub async fn greet(stream: UnixStream) -> Result<Self, Error> {
        let stream = stream.into_std().map_err(ipc::channel::ChannelError::Register)?;
        let mut channel = Channel::new(stream)?;
        let sent = channel.send_frame(&ClientHello::OURS.to_bytes()).await;
        // A daemon that refuses a client says why and hangs up, without listening first.
        match (channel.receive().await, sent) {
            (Ok(Some(frame)), _) => ServerHello::from_bytes(&frame.payload)?.accepted()?,
            (_, Err(error)) | (Err(error), Ok(())) => return Err(error.into()),
            (Ok(None), Ok(())) => return Err(Error::Closed),
        };
        let connection = Connection { channel, unanswered: false, dropped: Arc::default() };
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Runs a job and waits for its report. Dropping the future leaves the job running until this connection is
    /// dropped.
    pub async fn run(&mut self, job: JobRequest) -> Result<Report, Error> {
        self.run_until(job, std::future::pending()).await
    }

    /// Runs a job; when `cancel` is ready before it has ended, asks the daemon to end it. The report comes
    /// in either case.
    pub async fn run_until(
        &mut self,
        job: JobRequest,
        cancel: impl Future<Output = ()>,
    ) -> Result<Report, Error> {
        let Wire { setup, descriptors, served } = job.wire()?;
        let request = Request::Run(RunRequest { setup, entry: job.entry.clone() });
        let mut connection = self.connection.lock().await;
        connection.send(&request, &descriptors).await?;
        // The daemon has its own copies, and whoever waits for the end of a pipe must not wait for ours.
        drop(descriptors);
        drop(job);
        match connection.answer(&served, cancel).await? {
            Response::Report(report) => Ok(*report),
            _ => Err(Error::Unexpected),
        }
    }

    /// Opens a session: an instance of the job's module that runs nothing by itself. The job's entry is not looked at. The
    /// connection does one thing at a time: an operation of one session waits for that of another, and for a job. At most 64
    /// sessions are open on one connection.
    pub async fn session(&mut self, job: JobRequest) -> Result<Session, Error> {
        let Wire { setup, descriptors, served } = job.wire()?;
        let mut connection = self.connection.lock().await;
        connection.send(&Request::OpenSession(setup), &descriptors).await?;
        drop(descriptors);
        drop(job);
        match connection.answer(&Served::default(), std::future::pending()).await? {
            Response::SessionOpened(id) => {
                Ok(Session::new(Arc::clone(&self.connection), connection.dropped(), id, served))
            }
            _ => Err(Error::Unexpected),
        }
    }

    /// Prepares a module for many jobs on this connection.
    pub async fn load(&mut self, module: &ModuleFile) -> Result<ModuleId, Error> {
        self.load_module(module, false).await
    }

    /// The same for a module that may import what its jobs and sessions provide ([`JobRequest::imports`]).
    pub async fn load_open(&mut self, module: &ModuleFile) -> Result<ModuleId, Error> {
        self.load_module(module, true).await
    }

    async fn load_module(&mut self, module: &ModuleFile, open_imports: bool) -> Result<ModuleId, Error> {
        let module_source = ModuleSource { file: Descriptor(0), format: module.format };
        let request = Request::Load(LoadRequest { module: module_source, open_imports });
        match self.ask(&request, &[module.file.as_fd()]).await? {
            Response::Loaded(id) => Ok(id),
            _ => Err(Error::Unexpected),
        }
    }

    /// Forgets a module.
    pub async fn unload(&mut self, module: ModuleId) -> Result<(), Error> {
        match self.ask(&Request::Unload(module), &[]).await? {
            Response::Unloaded => Ok(()),
            _ => Err(Error::Unexpected),
        }
    }

    /// How the daemon is.
    pub async fn status(&mut self) -> Result<Status, Error> {
        match self.ask(&Request::Status, &[]).await? {
            Response::Status(status) => Ok(status),
            _ => Err(Error::Unexpected),
        }
    }

    /// What the daemon's host offers, as a JSON object.
    pub async fn doctor(&mut self) -> Result<String, Error> {
        match self.ask(&Request::Doctor, &[]).await? {
            Response::Doctor(json) => Ok(json),
            _ => Err(Error::Unexpected),
        }
    }

    /// The policies that have names there.
    pub async fn policies(&mut self) -> Result<Vec<PolicyInfo>, Error> {
        match self.ask(&Request::Policies, &[]).await? {
            Response::Policies(policies) => Ok(policies),
            _ => Err(Error::Unexpected),
        }
    }

    /// Has the daemon read its directory of policies anew. Only its own user and root may ask.
    ///
    /// # Errors
    /// [`Error::Daemon`] with the reason when nothing has changed, a mistake in one of the files among others.
    pub async fn reload_policies(&mut self) -> Result<Reloaded, Error> {
        match self.ask(&Request::ReloadPolicies, &[]).await? {
            Response::Reloaded(reloaded) => Ok(reloaded),
            _ => Err(Error::Unexpected),
        }
    }

    async fn ask(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Response, Error> {
        let mut connection = self.connection.lock().await;
        connection.send(request, descriptors).await?;
        connection.answer(&Served::default(), std::future::pending()).await
    }
}

/// The connection itself, which a client shares with its sessions.
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    /// A request went out, and its answer has not come.
    unanswered: bool,
    /// Sessions that were dropped, and that the daemon still has.
    dropped: Arc<Dropped>,
}

/// Sessions that were dropped since the last request.
pub(crate) type Dropped = std::sync::Mutex<Vec<SessionId>>;

impl Connection {
    pub(crate) fn dropped(&self) -> Arc<Dropped> {
        Arc::clone(&self.dropped)
    }

    /// Sends a request, after the ends of sessions that were dropped.
    pub(crate) async fn send(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        loop {
            let session = self.dropped.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(session) = session else { break };
            let end = SessionRequest { session, operation: SessionOperation::End };
            self.send_one(&Request::Session(end), &[]).await?;
            match self.answer(&Served::default(), std::future::pending()).await {
                // Nobody waits for its report.
                Ok(_) | Err(Error::Daemon(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.send_one(request, descriptors).await
    }

    async fn send_one(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        if std::mem::replace(&mut self.unanswered, true) {
            return Err(Error::Abandoned);
        }
        match self.channel.send(request, descriptors).await {
            // Nothing was sent: the connection is as good as before.
            Err(error @ ChannelError::Protocol(_)) => {
                self.unanswered = false;
                Err(error.into())
            }
            result => Ok(result?),
        }
    }

    /// The answer to the last request. Meanwhile it serves calls of these functions, one after the other, and asks for the end of
    /// what it waits for when `cancel` is ready.
    pub(crate) async fn answer(
        &mut self,
        served: &Served,
        cancel: impl Future<Output = ()>,
    ) -> Result<Response, Error> {
        let mut cancel = pin!(cancel);
        let mut cancelled = false;
        let mut serving: Option<Serving> = None;
        loop {
            let returned = async {
                match &mut serving {
                    Some(serving) => serving.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                response = self.receive() => match response {
                    Ok(Response::HostCall(call)) if serving.is_none() => {
                        serving = Some(served.serve(call).map_err(|what| Error::ForeignCall { what })?);
                    }
                    Ok(Response::HostCall(_)) => {
                        return Err(Error::ForeignCall { what: "another call is not answered yet".to_owned() });
                    }
                    response => {
                        // What it called is over.
                        let returned = serving.and_then(Serving::give_up);
                        if let (Ok(_) | Err(Error::Daemon(_)), Some(returned)) = (&response, returned) {
                            self.channel.send(&Request::HostReturn(returned), &[]).await?;
                        }
                        return response;
                    }
                },
                returned = returned => {
                    serving = None;
                    self.send_return(returned).await?;
                }
                () = &mut cancel, if !cancelled => {
                    cancelled = true;
                    self.channel.send(&Request::Cancel, &[]).await?;
                }
            }
        }
    }

    /// Sends the answer to a call; one that is too long for a message is a failure of the call.
    async fn send_return(&mut self, returned: HostReturn) -> Result<(), Error> {
        let HostReturn { call, handles, .. } = &returned;
        let (call, handles) = (*call, handles.clone());
        let bytes = match self.channel.send(&Request::HostReturn(returned), &[]).await {
            Err(ChannelError::Protocol(ProtocolError::MessageTooLong(bytes))) => bytes,
            result => return Ok(result?),
        };
        let why = format!("its answer takes {bytes} bytes; a message to the daemon has at most {FRAME_MAX}");
        let returned = HostReturn { call, result: HostResult::Failed(why), handles };
        Ok(self.channel.send(&Request::HostReturn(returned), &[]).await?)
    }

    /// What the daemon says next. Dropping the future loses nothing.
    async fn receive(&mut self) -> Result<Response, Error> {
        let frame = self.channel.receive().await?.ok_or(Error::Closed)?;
        let response = decode(&frame.payload)?;
        self.unanswered = matches!(response, Response::HostCall(_));
        match response {
            Response::Error(reply) => Err(Error::Daemon(reply)),
            response => Ok(response),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::errno::Errno;
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
    };

    use super::*;

    #[test]
    fn a_full_backlog_is_waited_for_but_not_forever() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("s");
        let address = UnixAddr::new(&path).expect("address");
        let new =
            || socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).expect("socket");
        let listener = new();
        bind(listener.as_raw_fd(), &address).expect("bind");
        listen(&listener, Backlog::new(1).expect("backlog")).expect("listen");
        let mut waiting = Vec::new();
        loop {
            let client = new();
            match connect(client.as_raw_fd(), &address) {
                Ok(()) => waiting.push(client),
                Err(errno) => break assert_eq!(errno, Errno::EAGAIN),
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            assert!(matches!(Client::connect(&path).await, Err(Error::Busy { .. })));
            let listener = tokio::net::UnixListener::from_std(listener.into()).expect("listener");
            // The client is polled first and finds the backlog full; then it is emptied, and the client let in and sent off.
            let accept = async {
                for _ in 0..=waiting.len() {
                    drop(listener.accept().await.expect("accept"));
                }
            };
            let (result, ()) = tokio::join!(biased; Client::connect(&path), accept);
            assert!(matches!(result, Err(Error::Closed | Error::Channel(_))), "{result:?}");
        });
    }
}
