//! A root zygote.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use ipc::control::{Command, command, layer, reply};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tokio::sync::Mutex;

use super::channel::{self, Channel};
use super::image;
use crate::config::Config;
use crate::error::Error;
use crate::host::Offer;
use crate::process::Started;

/// User and group id that instances see as their own. No other id is mapped, 0 least of all.
pub(crate) const INSIDE_ID: u32 = 65534;

/// A confined root zygote. Dropping it ends it and everything below it: its children are in PID namespaces whose first process dies
/// with it.
#[derive(Debug)]
pub(crate) struct RootZygote {
    /// Requests and replies alternate: one request at a time.
    channel: Mutex<Channel>,
    process: RefCell<Started>,
    patience: Duration,
    /// It owed an answer for too long.
    silent: Cell<bool>,
}

/// What a root zygote confines itself with.
#[derive(Debug)]
struct Confinement<'c> {
    /// The layers to put in force.
    layers: u64,
    /// Access rights that Landlock handles.
    landlock: [u64; 3],
    /// Seconds by which the clocks of its time namespace are ahead of the host's: monotonic, since boot.
    clock_offsets: [i64; 2],
    /// The base filter.
    filter: &'c [libc::sock_filter],
    /// Host user and group id of everything below, when this process may choose.
    sandbox_id: u32,
    /// How long it may take to answer.
    patience: Duration,
    /// The processor that it and everything below it stays on; `None`: those of this thread.
    processor: Option<usize>,
}

/// Its name in messages.
const WHO: &str = "root";

impl RootZygote {
    /// Starts one with these layers, as this host has them.
    pub(crate) async fn of_host(
        layers: u64,
        offer: &Offer,
        config: &Config,
        processor: Option<usize>,
    ) -> Result<Self, Error> {
        let filter = if layers & layer::SECCOMP != 0 { policies::zygote_base_filter()? } else { Vec::new() };
        Self::start(&Confinement {
            layers,
            landlock: offer.landlock,
            clock_offsets: offer.clocks,
            filter: &filter,
            sandbox_id: config.sandbox_id,
            patience: config.zygote_patience,
            processor,
        })
        .await
    }

    /// Starts one and waits until it is confined. Call it from a thread that lives as long as the zygote.
    async fn start(confinement: &Confinement<'_>) -> Result<Self, Error> {
        let (channel, theirs) = channel::pair(WHO)?;
        // From here on the value's destructor ends the process, whatever fails.
        let mut zygote = Self {
            process: RefCell::new(Started::Own(image::start(theirs)?)),
            channel: Mutex::new(channel),
            patience: confinement.patience,
            silent: Cell::new(false),
        };
        if let Some(processor) = confinement.processor {
            pin(zygote.process.get_mut().id(), processor);
        }
        let patience = zygote.patience;
        let confined = tokio::time::timeout(patience, zygote.confine(confinement)).await;
        confined.unwrap_or(Err(Error::ZygoteSilent { who: WHO, patience }))?;
        Ok(zygote)
    }

    async fn confine(&mut self, confinement: &Confinement<'_>) -> Result<(), Error> {
        let pid = self.process.get_mut().id();
        let channel = self.channel.get_mut();
        let filter_len = confinement.filter.len() as u32;
        let confine = Command {
            kind: command::CONFINE,
            layers: confinement.layers,
            landlock: confinement.landlock,
            uid: INSIDE_ID,
            gid: INSIDE_ID,
            clock_offsets: confinement.clock_offsets,
            filter_len,
            ..Command::default()
        };
        channel.send(&confine, confinement.filter, &[]).await?;
        if confinement.layers & layer::USER_NAMESPACE != 0 {
            expect(channel, reply::UNSHARED).await?;
            map_ids(pid, confinement.sandbox_id).map_err(|error| {
                match self.process.get_mut().is_alive() {
                    true => error,
                    // It has no such files any more.
                    false => Error::ZygoteDied { who: WHO, detail: String::from(" while it started") },
                }
            })?;
            let mapped = Command { kind: command::MAPPED, filter_len, ..Command::default() };
            channel.send(&mapped, confinement.filter, &[]).await?;
        }
        let ready = expect(channel, reply::READY).await?.0;
        if ready.layers != confinement.layers {
            return Err(
                channel.broken(format!("layers {:#x} instead of {:#x}", ready.layers, confinement.layers))
            );
        }
        Ok(())
    }

    /// One that the spawner has started and confined.
    pub(crate) fn spawned(control: OwnedFd, process: Started, patience: Duration) -> Result<Self, Error> {
        Ok(Self {
            channel: Mutex::new(Channel::new(WHO, control)?),
            process: RefCell::new(process),
            patience,
            silent: Cell::new(false),
        })
    }

    /// For the spawner: its control socket, and the process.
    pub(crate) fn into_parts(self) -> (OwnedFd, Started) {
        (self.channel.into_inner().into_socket(), self.process.into_inner())
    }

    /// Whether the process lives and answers.
    pub(crate) fn is_alive(&self) -> bool {
        !self.silent.get() && self.process.borrow_mut().is_alive()
    }

    /// Has a module zygote forked. Its own messages come over the returned channel; the descriptor is its pidfd.
    pub(crate) async fn spawn_module(
        &self,
        command: &Command,
        filter: &[libc::sock_filter],
        artifact: &impl AsFd,
    ) -> Result<(Channel, OwnedFd), Error> {
        let (ours, theirs) = channel::pair("module")?;
        let channel = self.channel.lock().await;
        let silent = || Error::ZygoteSilent { who: WHO, patience: self.patience };
        if self.silent.get() {
            return Err(silent());
        }
        let exchange = async {
            channel.send(command, filter, &[artifact.as_fd(), theirs.as_fd()]).await?;
            expect(&channel, reply::SPAWNED).await
        };
        let Ok(answer) = tokio::time::timeout(self.patience, exchange).await else {
            // What runs below it goes on; it ends with the last of that. If it ever forks what it was asked for, that finds
            // nobody at the other end of its socket, and ends.
            self.silent.set(true);
            return Err(silent());
        };
        drop(theirs);
        let (reply, pidfd) = answer?;
        if reply.id != command.id {
            return Err(channel.broken(format!("spawned module {} instead of {}", reply.id, command.id)));
        }
        let pidfd = pidfd.ok_or_else(|| channel.broken("a new process without its pidfd".into()))?;
        Ok((ours, pidfd))
    }
}

/// Only speed depends on it, so a host that refuses loses nothing else.
fn pin(process: u32, processor: usize) {
    let mut one = CpuSet::new();
    if one.set(processor).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(process as i32), &one);
    }
}

async fn expect(channel: &Channel, kind: u32) -> Result<(ipc::control::Reply, Option<OwnedFd>), Error> {
    let (reply, fd) = channel.receive().await?;
    match reply.kind {
        k if k == kind => Ok((reply, fd)),
        reply::FAILED => Err(channel.failed(&reply)),
        other => Err(channel.broken(format!("reply {other} instead of {kind}"))),
    }
}

/// Maps one user and one group id into the zygote's new user namespace (user_namespaces(7)). Root maps an
/// unprivileged id; anybody else can map only himself, and so does a root that is one in a user namespace which has no
/// other id.
pub(crate) fn map_ids(pid: u32, sandbox_id: u32) -> Result<(), Error> {
    let write = |file: &str, text: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/{file}"));
        fs::write(&path, text).map_err(|source: io::Error| Error::IdMap { path, source })
    };
    let map = |outside: u32| format!("{INSIDE_ID} {outside} 1\n");
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if uid.is_root() {
        match write("uid_map", &map(sandbox_id)) {
            Ok(()) => return write("gid_map", &map(sandbox_id)),
            Err(Error::IdMap { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    write("uid_map", &map(uid.as_raw()))?;
    write("setgroups", "deny")?;
    write("gid_map", &map(gid.as_raw()))
}
