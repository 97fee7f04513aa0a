//! A connection to the daemon.

use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use ipc::channel::{Channel, ChannelError};
use ipc::protocol::{
    ClientHello, Descriptor, ModuleId, ModuleSource, Request, Response, ServerHello, Status, decode,
};
use ipc::report::Report;
use tokio::net::UnixStream;

use crate::{Error, JobRequest, ModuleFile};

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
    /// [`Error::Connect`] if nobody answers; [`Error::Stranger`] if another user than this one or root does.
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        let connect_error = |source| Error::Connect { path: socket.to_path_buf(), source };
        let stream = UnixStream::connect(socket).await.map_err(connect_error)?;
        let uid = stream.peer_cred().map_err(connect_error)?.uid();
        if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
            return Err(Error::Stranger { path: socket.to_path_buf(), uid });
        }
        Self::greet(stream).await
    }

    /// Agrees on a version of the protocol over a socket that is already connected to a daemon.
    pub async fn greet(stream: UnixStream) -> Result<Self, Error> {
        let mut channel = Channel::new(stream);
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
