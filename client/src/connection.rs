//! A connection to the daemon.

use std::future::Future;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use ipc::channel::{Channel, ChannelError};
use ipc::protocol::{
    ClientHello, Descriptor, ModuleId, ModuleSource, PolicyInfo, Reloaded, Request, Response, ServerHello,
    Status, decode,
};
use ipc::report::Report;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use crate::{Error, JobRequest, ModuleFile};

/// How long to try again while too many others wait to be accepted.
const BUSY_TIME: Duration = Duration::from_secs(1);
/// Pause between two tries.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A connection to the daemon. Dropping it cancels a job that runs on it.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    /// A request went out, and its answer has not come.
    unanswered: bool,
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
        Ok(Self { channel, unanswered: false })
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
        let (request, descriptors) = job.wire()?;
        self.send(&Request::Run(request), &descriptors).await?;
        // The daemon has its own copies, and whoever waits for the end of a pipe must not wait for ours.
        drop(descriptors);
        drop(job);
        let mut cancel = std::pin::pin!(cancel);
        let response = tokio::select! {
            biased;
            response = self.receive() => response?,
            () = &mut cancel => {
                self.channel.send(&Request::Cancel, &[]).await?;
                self.receive().await?
            }
        };
        match response {
            Response::Report(report) => Ok(*report),
            _ => Err(Error::Unexpected),
        }
    }

    /// Prepares a module for many jobs on this connection.
    pub async fn load(&mut self, module: &ModuleFile) -> Result<ModuleId, Error> {
        let source = ModuleSource { file: Descriptor(0), format: module.format };
        match self.ask(&Request::Load(source), &[module.file.as_fd()]).await? {
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
        self.send(request, descriptors).await?;
        self.receive().await
    }

    async fn send(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
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

    /// The answer to the last request. Dropping the future loses nothing.
    async fn receive(&mut self) -> Result<Response, Error> {
        let frame = self.channel.receive().await?.ok_or(Error::Closed)?;
        let response = decode(&frame.payload)?;
        self.unanswered = false;
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
