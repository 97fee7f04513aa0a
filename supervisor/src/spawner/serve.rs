//! The spawner's process.
//!
//! Whoever asks may have been taken over. So nothing that is asked for can make what is started weaker than every policy would
//! have it, no request has memory allocated by its numbers, and a request that makes no sense is answered by closing its socket.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use ipc::control::{CONTROL_FD, layer};
use nix::unistd::Pid;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use super::wire::{Answer, REQUEST_MAX, Request};
use crate::cgroup::{self, Tenants, Tree};
use crate::config::Config;
use crate::error::{Error, errno, system};
use crate::host::Offer;
use crate::instance::has_ended;
use crate::pidfd::parent_id;
use crate::process::{Started, watch};
use crate::shard::{FILTERS_MAX, LOCAL_SHARDS_MAX, OF_MODULE, ROOTS_MAX};
use crate::zygote::root::RootZygote;

/// What no policy of a file can do without, so no request can either. An optional layer counts where the host has it.
const ALWAYS: u64 = layer::USER_NAMESPACE
    | layer::NO_NEW_PRIVS
    | layer::CAPABILITIES
    | layer::SECCOMP
    | layer::UNDUMPABLE
    | layer::OWN_KEYRING;

/// Processes that it has running at a time: what a supervisor with so many shards needs, and some that are about to end.
fn processes_max(shards: usize) -> usize {
    ROOTS_MAX.saturating_mul(shards.saturating_add(LOCAL_SHARDS_MAX)).saturating_mul(2)
}

/// What every request is answered with.
struct Host {
    config: Config,
    offer: Offer,
    /// Where there are cgroups for tenants.
    tenants: Option<Arc<Tenants>>,
    /// The root zygotes that live. They are children of this process which it reaps itself, so the numbers are theirs.
    roots: RefCell<HashSet<u32>>,
    /// One for each module zygote that may be in a cgroup: as many as a supervisor has, and some that are about to end.
    places: Arc<Semaphore>,
}

/// Serves the supervisor until it is gone.
pub(super) fn run(socket: OwnedFd, config: Config, offer: Offer, tree: Option<Tree>, supervisor: Pid) -> ! {
    let tenants = tree.map(|tree| Tenants::new(tree, None));
    let roots = RefCell::default();
    let places = Arc::new(Semaphore::new(2 * FILTERS_MAX));
    let status = match serve(socket, Host { config, offer, tenants, roots, places }, supervisor) {
        Ok(()) => 0,
        // The supervisor sees the socket close; there is nobody else to tell.
        Err(_) => 1,
    };
    // SAFETY: ends the process without running anything of the program that it was forked from.
    unsafe { libc::_exit(status) }
}

fn serve(socket: OwnedFd, host: Host, supervisor: Pid) -> Result<(), Error> {
    let socket = detach(socket, supervisor)?;
    // Its end tells the supervisor that everything else here is gone: cgroups, too.
    let _to_the_last = socket.try_clone().map_err(system("copy a socket"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start a runtime"))?;
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        let socket = watch(socket).map_err(system("watch the supervisor"))?;
        let host = Rc::new(host);
        let room = Rc::new(Semaphore::new(processes_max(host.config.shards)));
        loop {
            let mut ready = socket.readable().await.map_err(system("wait for the supervisor"))?;
            let (mut packet, mut fds) = ([0; REQUEST_MAX], Vec::new());
            match ipc::fdpass::receive(socket.get_ref(), &mut packet, &mut fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Err(error) => return Err(system("hear the supervisor")(error)),
                Ok(0) => return Ok(()),
                Ok(length) => {
                    let request = packet.get(..length).and_then(Request::from_packet);
                    let mut fds = fds.into_iter();
                    let (reply, pidfd, more) = (fds.next(), fds.next(), fds.next());
                    if let (Some(Request::Place { leaf }), Some(reply), Some(pidfd), None) =
                        (&request, &reply, &pidfd, &more)
                    {
                        let _ = match place(leaf, pidfd.as_fd(), &host) {
                            Ok((number, events)) => {
                                let events: Vec<OwnedFd> = events.map(OwnedFd::from).into_iter().collect();
                                tell(reply, &Answer::Placed { number }, &events.iter().collect::<Vec<_>>())
                            }
                            Err(error) => tell(reply, &Answer::failed(&error), &[]),
                        };
                    } else if let (Some(request), Some(reply), None) = (request, reply, pidfd) {
                        let (host, room) = (Rc::clone(&host), Rc::clone(&room));
                        tokio::task::spawn_local(async move {
                            match room.try_acquire() {
                                // Kept until what is started has ended.
                                Ok(_permit) => answer(request, reply, host).await,
                                Err(_) => drop(tell(&reply, &Answer::failed(&full()), &[])),
                            }
                        });
                    }
                }
            }
        }
    })
}

/// Leaves everything of the supervisor's but the socket.
fn detach(socket: OwnedFd, supervisor: Pid) -> Result<OwnedFd, Error> {
    // SAFETY: a C string, for people who list processes; a signal by number. The supervisor is looked at after, in case it ended before.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"sandbox-spawner".as_ptr());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    if nix::unistd::getppid() != supervisor {
        return Err(Error::Stopped);
    }
    // SAFETY: plain dispositions. What a terminal or a service manager sends to a whole group is for the supervisor, whose end ends this
    // process; an ignored SIGCHLD would lose the children's ends.
    unsafe {
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
    std::env::set_current_dir("/").map_err(system("leave the working directory"))?;
    // Standard streams stay closed to it: what it starts has /dev/null in their place.
    // SAFETY: numbers. From here on nothing uses a descriptor of the supervisor's; `socket` is where it is moved to.
    unsafe {
        let socket = socket.into_raw_fd();
        let moved =
            if socket == CONTROL_FD { CONTROL_FD } else { libc::dup3(socket, CONTROL_FD, libc::O_CLOEXEC) };
        if moved != CONTROL_FD || libc::syscall(libc::SYS_close_range, CONTROL_FD + 1, u32::MAX, 0) != 0 {
            return Err(system("close the supervisor's descriptors")(io::Error::last_os_error()));
        }
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        for stream in 0..CONTROL_FD {
            if null < 0 || libc::dup2(null, stream) < 0 {
                return Err(system("open /dev/null")(io::Error::last_os_error()));
            }
        }
        libc::close(null);
        let socket = OwnedFd::from_raw_fd(CONTROL_FD);
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .map_err(errno("make a socket non-blocking"))?;
        Ok(socket)
    }
}

fn full() -> Error {
    Error::Spawner { what: "runs as many processes already as a supervisor needs".into() }
}

/// Moves a module zygote into a leaf, and keeps the leaf until that has ended. What is no child of a root zygote that lives is not
/// touched: whoever has taken the supervisor over may have descriptors of other processes.
fn place(leaf: &str, pidfd: BorrowedFd<'_>, host: &Host) -> Result<(u64, Option<std::fs::File>), Error> {
    let refused = |what: &str| Error::Spawner { what: what.to_owned() };
    let tenants = host.tenants.as_ref().ok_or_else(|| refused("has no cgroups"))?;
    if !cgroup::is_leaf_name(leaf) {
        return Err(refused("makes no cgroup of such a name"));
    }
    let permit = Arc::clone(&host.places).try_acquire_owned().map_err(|_| full())?;
    // Of a process that is still alive after it was asked, the answer was not another's.
    let parent = parent_id(pidfd).and_then(|id| u32::try_from(id).ok());
    let is_ours = parent.is_some_and(|parent| host.roots.borrow().contains(&parent));
    if !is_ours || has_ended(pidfd) {
        return Err(refused("moves nothing but living module zygotes of its root zygotes"));
    }
    let ended = pidfd.try_clone_to_owned().map_err(system("copy a pidfd"))?;
    cgroup::keep(tenants.place(leaf, pidfd)?, ended, permit)
}

/// A process that was started.
struct Child<'h> {
    /// Goes first: once the process is reaped its number may be another's.
    _root: Option<Root<'h>>,
    process: Started,
}

/// A root zygote that lives, in [`Host::roots`].
struct Root<'h> {
    host: &'h Host,
    id: u32,
}

impl Drop for Root<'_> {
    fn drop(&mut self) {
        self.host.roots.borrow_mut().remove(&self.id);
    }
}

async fn answer(request: Request, reply: OwnedFd, host: Rc<Host>) {
    let Host { config, offer, .. } = &*host;
    let started = match request {
        Request::Root { layers, processor } => {
            let started = root(layers, processor, config, offer).await;
            started.map(|(control, process)| {
                let id = process.id();
                host.roots.borrow_mut().insert(id);
                (control, Child { _root: Some(Root { host: &host, id }), process })
            })
        }
        Request::Compile => {
            // It waits for the zygote's answers, and root zygotes must not wait with it.
            let config = config.clone();
            let started = tokio::task::spawn_blocking(move || crate::compile::confined(&config));
            let started = started.await.unwrap_or(Err(Error::Stopped));
            started.map(|(control, process)| (control, Child { _root: None, process }))
        }
        // It starts nothing, and is answered at once.
        Request::Place { .. } => return,
    };
    // Whoever asked may be gone; then what was started goes, too.
    let _ = match started {
        Ok((control, child)) => hand_over(reply, control, child).await,
        Err(error) => tell(&reply, &Answer::failed(&error), &[]),
    };
}

async fn root(
    layers: u64,
    processor: Option<u32>,
    config: &Config,
    offer: &Offer,
) -> Result<(OwnedFd, Started), Error> {
    let missing = offer.missing.iter().fold(0, |all, (bit, _)| all | bit);
    let known = layer::ALL.iter().fold(0, |all, (bit, _)| all | bit) & !OF_MODULE & !missing;
    let lacking = ALWAYS & !missing & !layers;
    if lacking != 0 || layers & !known != 0 {
        return Err(Error::Spawner { what: format!("does not start zygotes with the layers {layers:#x}") });
    }
    let processor = processor.map(|p| p as usize);
    RootZygote::of_host(layers, offer, config, processor).await.map(RootZygote::into_parts)
}

/// Hands a process over and stays to reap it.
async fn hand_over(reply: OwnedFd, control: OwnedFd, child: Child<'_>) -> Result<(), Error> {
    let id = child.process.id();
    // SAFETY: numbers; the process is a child that nobody has reaped.
    let pidfd = unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, id, 0);
        if pidfd < 0 {
            return Err(system("open a pidfd")(io::Error::last_os_error()));
        }
        OwnedFd::from_raw_fd(pidfd as i32)
    };
    tell(&reply, &Answer::Started { id }, &[&control, &pidfd])?;
    drop((reply, control));
    let ended = watch(pidfd).map_err(system("watch a zygote"))?;
    let _ = ended.readable().await;
    drop(child);
    Ok(())
}

fn tell(reply: &OwnedFd, answer: &Answer, fds: &[&OwnedFd]) -> Result<(), Error> {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    ipc::fdpass::send(reply, &answer.to_packet()?, &fds).map(|_| ()).map_err(system("answer the supervisor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn weaker_zygotes_than_any_policy_asks_for_are_not_started() {
        let (config, offer) = (Config::default(), Offer::of_host());
        let missing = offer.missing.iter().fold(0, |all, (bit, _)| all | bit);
        let all = layer::ALL.iter().fold(0, |all, (bit, _)| all | bit) & !OF_MODULE & !missing;
        for lacking in [0, all, ALWAYS & !missing].map(|kept| all & !kept) {
            let result = root(all & !lacking, None, &config, &offer).await;
            assert_eq!(result.is_ok(), lacking & ALWAYS & !missing == 0, "{lacking:#x}: {result:?}");
        }
        for (bit, name) in layer::ALL.iter().filter(|(bit, _)| ALWAYS & !missing & bit != 0) {
            let result = root(all & !bit, None, &config, &offer).await;
            assert!(matches!(result, Err(Error::Spawner { .. })), "{name}: {result:?}");
        }
        let result = root(all | 1 << 63, None, &config, &offer).await;
        assert!(matches!(result, Err(Error::Spawner { .. })), "{result:?}");
    }
    /// Whoever has taken a supervisor over may have descriptors of any process, such as its clients'.
    #[test]
    fn only_module_zygotes_are_moved_and_only_into_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let tenants = Some(Tenants::new(Tree::plain(directory.path()), None));
        let host = Host {
            config: Config::default(),
            offer: Offer::of_host(),
            tenants,
            roots: RefCell::default(),
            places: Arc::new(Semaphore::new(1)),
        };
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        // SAFETY: takes no pointer; the result is checked before it is owned.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, child.id(), 0);
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd as i32)
        };
        let refusal = |leaf: &str, host: &Host| place(leaf, pidfd.as_fd(), host).unwrap_err().to_string();
        assert!(refusal("tenant-a", &host).contains("nothing but living module zygotes"));
        // As if this process were a root zygote: now it would be moved, if this were a cgroup.
        host.roots.borrow_mut().insert(std::process::id());
        for leaf in ["daemon", "tenant-/../..", "../tenant-", ""] {
            assert!(refusal(leaf, &host).contains("no cgroup of such a name"), "{leaf}");
        }
        assert!(refusal("tenant-a", &host).contains("tenant-a/cgroup.procs"));
        let held = Arc::clone(&host.places).try_acquire_owned().unwrap();
        assert!(refusal("tenant-a", &host).contains("as many processes already"));
        drop((held, child.stdin.take()));
        child.wait().unwrap();
        assert!(refusal("tenant-a", &host).contains("nothing but living module zygotes"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(refusal("tenant-a", &Host { tenants: None, ..host }).contains("has no cgroups"));
    }
}
