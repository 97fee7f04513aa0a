//! A module zygote: forks instances and tells of their deaths.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::control::{Command, Reply, command, layer, reply};
use tokio::sync::{Semaphore, oneshot};

use super::channel::Channel;
use super::listener::Listener;
use super::root::RootZygote;
use crate::cgroup::{Cgroups, Kills};
use crate::config::Config;
use crate::error::Error;
use crate::instance::{Parked, Prefault, Seats};
use crate::parking::Parking;

/// How an instance ended, by its zygote's word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    /// `wait4(2)` status.
    pub(crate) status: i32,
    /// User and system time, microseconds.
    pub(crate) cpu_us: u64,
    /// Peak resident memory, bytes.
    pub(crate) peak_bytes: u64,
}

/// The kernel counts resident pages in batches per processor and shows a small process as 0. Its page faults are
/// the better word then, up to about what such batches hide.
const UNCOUNTED_MAX: u64 = 1 << 20;

/// A forked instance.
#[derive(Debug)]
pub(crate) struct Spawned {
    /// Its pidfd.
    pub(crate) pidfd: OwnedFd,
    /// Resolves when it is dead and reaped; an error when the zygote died first.
    pub(crate) death: oneshot::Receiver<Death>,
}

#[derive(Debug, Default)]
struct Expected {
    /// Instances asked for, by id.
    spawns: HashMap<u64, oneshot::Sender<Result<Spawned, Error>>>,
    /// Living instances, by process id in the zygote's namespace.
    deaths: HashMap<i32, oneshot::Sender<Death>>,
    /// Why the zygote is no longer served.
    lost: Option<Loss>,
}

/// Why a zygote is no longer served.
#[derive(Clone, Debug)]
enum Loss {
    /// It is dead, or must be; with what is known.
    Died(String),
    /// It said nothing for so long.
    Silent(Duration),
}

impl Loss {
    fn error(&self) -> Error {
        match self {
            Self::Died(detail) => Error::ZygoteDied { who: WHO, detail: detail.clone() },
            Self::Silent(patience) => Error::ZygoteSilent { who: WHO, patience: *patience },
        }
    }
}

/// Its name in messages.
const WHO: &str = "module";

/// A serving module zygote. Dropping the last handle ends it and its instances.
#[derive(Debug)]
pub(crate) struct ModuleZygote {
    channel: Rc<Channel>,
    pidfd: Rc<OwnedFd>,
    /// Kept alive: the kernel kills a module zygote with its root.
    _root: Rc<RootZygote>,
    expected: Rc<RefCell<Expected>>,
    next: Cell<u64>,
    reader: tokio::task::JoinHandle<()>,
    parking: Rc<Parking>,
    /// Where its instances ask for files, if they may.
    listener: Option<(Rc<Listener>, AbortOnDrop)>,
    seats: Rc<Seats>,
    prefault: Prefault,
    /// Kills for its tenant's limit of memory, if it has one.
    kills: Option<Arc<Kills>>,
    patience: Duration,
    /// When it said something for the last time.
    heard: Rc<Cell<Instant>>,
    /// One for each instance that may be asked for before the one before it is there.
    turns: Semaphore,
}

/// Instances that are asked for at the same time: enough to keep the zygote busy. The descriptors of each are on their way until
/// it has answered, and there is a limit to those of a user (unix(7)): a zygote that could not send its answer because of
/// requests that it has not received would wait for ever.
const TURNS: usize = 4;

impl ModuleZygote {
    /// Has `root` fork a module zygote for the artifact and waits until it serves. `command` says how it is confined, `place` in which
    /// tenant's cgroup.
    pub(crate) async fn start(
        root: Rc<RootZygote>,
        command: Command,
        filter: &[libc::sock_filter],
        artifact: &impl AsFd,
        place: Option<(&Cgroups, &str)>,
        config: &Config,
    ) -> Result<Self, Error> {
        let command = Command { filter_len: filter.len() as u32, ..command };
        let (channel, pidfd) = root.spawn_module(&command, filter, artifact).await?;
        let patience = config.zygote_patience;
        // Before it forks anything, and before its own memory is written.
        let kills = match place {
            Some((cgroups, tenant)) => match cgroups.place(tenant, pidfd.as_fd()).await {
                Ok(kills) => kills,
                Err(error) => {
                    let _ = crate::instance::kill(pidfd.as_fd());
                    return Err(error);
                }
            },
            None => None,
        };
        let Ok(ready) = tokio::time::timeout(patience, channel.receive()).await else {
            let _ = crate::instance::kill(pidfd.as_fd());
            return Err(Loss::Silent(patience).error());
        };
        let (ready, listener) = ready?;
        match ready.kind {
            reply::READY if ready.layers == command.layers => {}
            reply::FAILED => return Err(channel.failed(&ready)),
            other => {
                return Err(channel.broken(format!("reply {other} with layers {:#x} at start", ready.layers)));
            }
        }
        let listener = match (command.direct != 0 && command.layers & layer::SECCOMP != 0, listener) {
            (true, Some(fd)) => {
                let listener = Rc::new(Listener::new(fd)?);
                let heard = Rc::clone(&listener);
                let task = tokio::task::spawn_local(async move { heard.hear().await });
                Some((listener, AbortOnDrop(task)))
            }
            (false, None) => None,
            (wanted, _) => {
                let what = if wanted { "no listener" } else { "a descriptor that nobody asked for" };
                return Err(channel.broken(what.to_owned()));
            }
        };
        let channel = Rc::new(channel);
        let expected = Rc::new(RefCell::new(Expected::default()));
        let pidfd = Rc::new(pidfd);
        let parking = Rc::new(Parking::new(config.pool, kills.clone()));
        let heard = Rc::new(Cell::new(Instant::now()));
        let reader = tokio::task::spawn_local(read(Reading {
            channel: Rc::clone(&channel),
            pidfd: Rc::clone(&pidfd),
            expected: Rc::clone(&expected),
            parking: Rc::clone(&parking),
            heard: Rc::clone(&heard),
            kills: kills.clone(),
        }));
        Ok(Self {
            turns: Semaphore::new(TURNS),
            channel,
            pidfd,
            _root: root,
            expected,
            next: Cell::new(1),
            reader,
            parking,
            listener,
            seats: Rc::default(),
            prefault: Prefault::default(),
            kills,
            patience,
            heard,
        })
    }

    /// Whether it still serves.
    pub(crate) fn is_alive(&self) -> bool {
        self.expected.borrow().lost.is_none()
    }

    /// Takes a kill for its tenant's limit of memory that has explained no death yet: the limit in bytes.
    pub(crate) fn kill_for_memory(&self) -> Option<u64> {
        self.kills.as_ref()?.explain()
    }

    /// Where its instances ask for files, if they may.
    pub(crate) fn listener(&self) -> Option<&Rc<Listener>> {
        self.listener.as_ref().map(|(listener, _)| listener)
    }

    /// An instance that waits for its job.
    pub(crate) fn take_parked(&self) -> Option<Parked> {
        self.parking.take()
    }

    /// Parks as many instances as are wanted and not there yet.
    pub(crate) async fn park(&self) {
        while self.parking.missing() > 0 && self.is_alive() {
            // What fails here fails again, with its error, for the job that forks on demand.
            let Ok(parked) = Parked::new(self).await else { return };
            self.parking.put(parked);
        }
    }

    /// The parked instances, to be counted and given up.
    pub(crate) fn parking(&self) -> &Parking {
        &self.parking
    }

    /// Seats for its instances.
    pub(crate) fn seats(&self) -> &Rc<Seats> {
        &self.seats
    }

    /// What its parked instances do ahead of their jobs.
    pub(crate) fn prefault(&self) -> &Prefault {
        &self.prefault
    }

    /// Has an instance forked with this shared memory and doorbell.
    pub(crate) async fn spawn(
        &self,
        ring: BorrowedFd<'_>,
        doorbell: BorrowedFd<'_>,
    ) -> Result<Spawned, Error> {
        let Ok(_turn) = self.turns.acquire().await else { return Err(self.died()) };
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        let (sender, receiver) = oneshot::channel();
        {
            let mut expected = self.expected.borrow_mut();
            if let Some(loss) = &expected.lost {
                return Err(loss.error());
            }
            expected.spawns.insert(id, sender);
        }
        let command = Command { kind: command::SPAWN_INSTANCE, id, ..Command::default() };
        let forked = async {
            if let Err(error) = self.channel.send(&command, &[], &[ring, doorbell]).await {
                self.expected.borrow_mut().spawns.remove(&id);
                return Err(error);
            }
            receiver.await.unwrap_or_else(|_| Err(self.died()))
        };
        self.patiently(|| true, forked).await.unwrap_or_else(|| Err(self.died()))
    }

    /// Waits for what the zygote says, which it owes once `owes` says so. A zygote that says nothing at all for too long while it
    /// owes something is given up: `None`.
    pub(crate) async fn patiently<T>(
        &self,
        owes: impl Fn() -> bool,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        let mut answer = pin!(answer);
        let mut owed = None;
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return Some(answer),
                () = tokio::time::sleep(self.patience) => {}
            }
            // Two looks, because this thread may have been busy for longer, and the zygote's word is still to be read.
            match owed {
                Some(since) if self.heard.get() <= since => break,
                _ => owed = owes().then(Instant::now),
            }
        }
        lose(&self.expected, &self.parking, Loss::Silent(self.patience));
        let _ = crate::instance::kill((*self.pidfd).as_fd());
        None
    }

    /// The error for jobs that were in flight when the zygote died.
    pub(crate) fn died(&self) -> Error {
        match &self.expected.borrow().lost {
            Some(loss) => loss.error(),
            None => Loss::Died(String::new()).error(),
        }
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for ModuleZygote {
    fn drop(&mut self) {
        self.reader.abort();
        let _ = crate::instance::kill((*self.pidfd).as_fd());
    }
}

/// What hearing the zygote needs.
struct Reading {
    channel: Rc<Channel>,
    pidfd: Rc<OwnedFd>,
    expected: Rc<RefCell<Expected>>,
    parking: Rc<Parking>,
    heard: Rc<Cell<Instant>>,
    kills: Option<Arc<Kills>>,
}

/// Hears what the zygote says until it is gone.
async fn read(reading: Reading) {
    let Reading { channel, pidfd, expected, parking, heard, kills } = reading;
    let mut detail = loop {
        match channel.receive().await {
            Ok((reply, fd)) => {
                heard.set(Instant::now());
                if let Err(what) = hear(&mut expected.borrow_mut(), &channel, &reply, fd) {
                    break format!(" (it broke the protocol: {what})");
                }
            }
            Err(Error::ZygoteDied { detail, .. }) => break detail,
            Err(error) => break format!(" ({error})"),
        }
    };
    if let Some(limit) = kills.and_then(|kills| kills.explain()) {
        detail.push_str(&format!(" (its tenant's limit of memory is {})", policies::format_size(limit)));
    }
    // Whatever ended the conversation, nothing that nobody hears of may go on running.
    let _ = crate::instance::kill((*pidfd).as_fd());
    lose(&expected, &parking, Loss::Died(detail));
}

/// Nothing more is expected of the zygote.
fn lose(expected: &RefCell<Expected>, parking: &Parking, loss: Loss) {
    let mut expected = expected.borrow_mut();
    expected.lost.get_or_insert(loss);
    // Dropping the senders wakes everyone who waits.
    expected.spawns.clear();
    expected.deaths.clear();
    parking.clear();
}

fn hear(
    expected: &mut Expected,
    channel: &Channel,
    reply: &Reply,
    fd: Option<OwnedFd>,
) -> Result<(), String> {
    match reply.kind {
        reply::SPAWNED => {
            let waiting = expected.spawns.remove(&reply.id).ok_or("an instance that nobody asked for")?;
            let pidfd = fd.ok_or("a new process without its pidfd")?;
            let (sender, death) = oneshot::channel();
            if expected.deaths.insert(reply.pid, sender).is_some() {
                return Err(format!("process {} forked twice", reply.pid));
            }
            if let Err(Ok(unwanted)) = waiting.send(Ok(Spawned { pidfd, death })) {
                // The job was dropped meanwhile.
                let _ = crate::instance::kill(unwanted.pidfd.as_fd());
            }
            Ok(())
        }
        reply::EXITED => {
            let waiting = expected.deaths.remove(&reply.pid).ok_or("the death of an unknown process")?;
            let _ = waiting.send(Death {
                status: reply.status,
                cpu_us: reply.user_us.saturating_add(reply.system_us),
                peak_bytes: match reply.peak_kib {
                    0 => reply.page_faults.saturating_mul(ipc::layout::PAGE).min(UNCOUNTED_MAX),
                    kib => kib.saturating_mul(1024),
                },
            });
            Ok(())
        }
        reply::FAILED => {
            let failure = channel.failed(reply);
            let Some(waiting) = expected.spawns.remove(&reply.id) else { return Err(failure.to_string()) };
            let _ = waiting.send(Err(failure));
            Ok(())
        }
        other => Err(format!("reply {other}")),
    }
}
