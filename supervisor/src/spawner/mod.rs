//! The spawner: a process that starts zygotes for one that may not start processes itself any more.
//!
//! It is forked before its supervisor confines itself ([`crate::confine`]) and keeps what that gives up. It does three things, and
//! looks at nothing but the few words that ask for them: it starts a root zygote, or a compile zygote, confines it, and hands over
//! its control socket and a pidfd; and it moves a module zygote, which it knows by its parent, into the cgroup of its tenant. What it
//! starts is part of this program, how it is confined it decides itself, and it hands over nothing that is not confined. So
//! whoever takes the supervisor over can have what the supervisor has: processes that can do less than itself.
//!
//! * [`wire`]: what is asked, and what is answered.
//! * [`serve`]: the process.

mod serve;
mod wire;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::{ForkResult, Pid, fork};

use crate::cgroup::{Lock, Missing, Tree};
use crate::config::Config;
use crate::error::{Error, errno, system};
use crate::host::Offer;
use crate::process::{self, Started};
use crate::zygote::root::RootZygote;
use wire::{ANSWER_MAX, Answer, Request};

/// A running spawner. Clones are handles to the same one; it ends with the last of them, and whatever it has started with it.
#[derive(Clone, Debug)]
pub struct Spawner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: OwnedFd,
    offer: Offer,
    patience: Duration,
    /// That it has cgroups for tenants: locked, as long as this process lives.
    cgroups: Result<Lock, Missing>,
}

/// How long it may take to remove what it has made.
const END_PATIENCE: Duration = Duration::from_secs(10);

impl Spawner {
    /// Forks it. Of the configuration, [`Config::sandbox_id`], [`Config::zygote_patience`], [`Config::worker_program`], [`Config::cgroup`]
    /// and [`Config::shards`] count.
    ///
    /// # Errors
    /// Where this process has more than one thread already, or cannot fork.
    pub fn start(config: &Config) -> Result<Self, Error> {
        single_threaded()?;
        let offer = Offer::of_host();
        let (ours, theirs) = process::sockets()?;
        let patience = config.zygote_patience;
        let made = match &config.cgroup {
            None => Err(Missing::NotAsked),
            Some(wanted) => Tree::make(wanted).map_err(|error| Missing::Impossible(error.to_string())),
        };
        let (tree, cgroups) = match made {
            Ok((tree, lock)) => (Some(tree), Ok(lock)),
            Err(missing) => (None, Err(missing)),
        };
        let parent = nix::unistd::getpid();
        // SAFETY: this process has one thread, so no lock is held by another and the allocator is whole in the child.
        match unsafe { fork() }.map_err(errno("fork the spawner"))? {
            ForkResult::Child => {
                drop(ours);
                // `cgroups` is never dropped here: the lock's descriptor goes with all others, and the supervisor keeps its own.
                serve::run(theirs, config.clone(), offer, tree, parent)
            }
            ForkResult::Parent { .. } => Ok(Self(Arc::new(Inner { socket: ours, offer, patience, cgroups }))),
        }
    }

    /// Ready when the spawner has ended, or cannot be watched. Nothing can be started from then on; what it had started is dead.
    pub async fn ended(&self) {
        // It says nothing on this socket.
        if let Ok(socket) = self.0.socket.try_clone().and_then(process::watch) {
            let _ = socket.readable().await;
        }
    }

    /// Ends it, and waits until it has removed what it has made, which it cannot do any more once this process has ended. Nothing can be
    /// started from then on.
    pub async fn end(&self) {
        if self.0.cgroups.is_ok()
            && nix::sys::socket::shutdown(
                std::os::fd::AsRawFd::as_raw_fd(&self.0.socket),
                nix::sys::socket::Shutdown::Write,
            )
            .is_ok()
        {
            let _ = tokio::time::timeout(END_PATIENCE, self.ended()).await;
        }
    }

    pub(crate) fn offer(&self) -> &Offer {
        &self.0.offer
    }

    /// Whether it has cgroups for tenants.
    pub(crate) fn places(&self) -> Result<(), Missing> {
        self.0.cgroups.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// Has a module zygote moved into a leaf: the leaf's number, and what counts its kills.
    pub(crate) async fn place(
        &self,
        leaf: String,
        pidfd: BorrowedFd<'_>,
    ) -> Result<(u64, Option<File>), Error> {
        let answer = self.ask(&Request::Place { leaf }, &[pidfd])?;
        let (packet, fds) = self.answer(answer).await?;
        if packet.is_empty() {
            return Err(Error::SpawnerDied);
        }
        match Answer::from_packet(&packet)? {
            Answer::Placed { number } => Ok((number, fds.into_iter().next().map(File::from))),
            Answer::Failed { step, errno, what } => Err(wire::failure(step, errno, what)),
            Answer::Started { .. } => Err(Error::Spawner { what: "answered something else".into() }),
        }
    }

    /// A root zygote with these layers, on the processor of this thread if it has only one.
    pub(crate) async fn root_zygote(&self, layers: u64) -> Result<RootZygote, Error> {
        let answer = self.ask(&Request::Root { layers, processor: only_processor() }, &[])?;
        let (control, process) = started(self.answer(answer).await?)?;
        RootZygote::spawned(control, process, self.0.patience)
    }

    /// What comes over the socket for an answer.
    async fn answer(&self, answer: OwnedFd) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
        let answer = process::watch(answer).map_err(system("watch the spawner's answer"))?;
        // It is patient itself, as long, with each of what it starts at a time.
        let patience = self.0.patience.saturating_mul(2);
        let received = tokio::time::timeout(patience, async {
            loop {
                let mut ready = answer.readable().await.map_err(system("wait for the spawner"))?;
                match receive(answer.get_ref()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                    result => return result.map_err(system("hear the spawner")),
                }
            }
        });
        received.await.unwrap_or(Err(Error::SpawnerSilent { patience }))
    }

    /// The control socket of a compile zygote, and the zygote. Waits as long as one may take to start.
    pub(crate) fn compile_zygote(&self) -> Result<(OwnedFd, Started), Error> {
        let answer = self.ask(&Request::Compile, &[])?;
        let patience = crate::compile::PATIENCE.saturating_mul(2);
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(answer.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) => return Err(Error::SpawnerSilent { patience }),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(errno("wait for the spawner")(error)),
                Ok(_) => break,
            }
        }
        started(receive(&answer).map_err(system("hear the spawner"))?)
    }

    /// Sends a request. The answer will come over the socket that this returns, which does not wait.
    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<OwnedFd, Error> {
        let (ours, theirs) = process::sockets()?;
        nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .map_err(errno("make a socket non-blocking"))?;
        let packet = request.to_packet()?;
        let fds = [&[theirs.as_fd()], fds].concat();
        match ipc::fdpass::send(&self.0.socket, &packet, &fds) {
            Ok(_) => Ok(ours),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::SpawnerDied),
            Err(source) => Err(system("ask the spawner")(source)),
        }
    }
}

/// What came over the socket for an answer: nothing at all if the spawner has ended.
fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut packet, mut fds) = (vec![0; ANSWER_MAX], Vec::new());
    let length = ipc::fdpass::receive(socket, &mut packet, &mut fds)?;
    packet.truncate(length);
    Ok((packet, fds))
}

fn started((packet, fds): (Vec<u8>, Vec<OwnedFd>)) -> Result<(OwnedFd, Started), Error> {
    if packet.is_empty() {
        return Err(Error::SpawnerDied);
    }
    match (Answer::from_packet(&packet)?, <[OwnedFd; 2]>::try_from(fds)) {
        (Answer::Started { id }, Ok([control, pidfd])) => Ok((control, Started::Spawned { id, pidfd })),
        (Answer::Failed { step, errno, what }, _) => Err(wire::failure(step, errno, what)),
        (Answer::Started { .. } | Answer::Placed { .. }, _) => {
            Err(Error::Spawner { what: "handed nothing over".into() })
        }
    }
}

/// The processor of this thread, if it may run on no other.
fn only_processor() -> Option<u32> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let mut processors = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let first = processors.next()?;
    if processors.next().is_some() { None } else { u32::try_from(first).ok() }
}

/// That this process has no other thread: what is done to a thread is done to the process then.
pub(crate) fn single_threaded() -> Result<(), Error> {
    let threads = std::fs::read_dir("/proc/self/task")
        .map_err(system("count this process's threads (is /proc mounted?)"))?;
    match threads.count() {
        1 => Ok(()),
        threads => Err(Error::Threads { threads }),
    }
}
