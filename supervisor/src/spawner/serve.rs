//! The spawner's process.
//!
//! Whoever asks may have been taken over. So nothing that is asked for can make what is started weaker than every policy would
//! have it, no request has memory allocated by its numbers, and a request that makes no sense is answered by closing its socket.

use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;

use ipc::control::{CONTROL_FD, layer};
use nix::unistd::Pid;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use super::wire::{Answer, REQUEST_MAX, Request};
use crate::config::Config;
use crate::error::{Error, errno, system};
use crate::host::Offer;
use crate::process::{Started, watch};
use crate::shard::{LOCAL_SHARDS_MAX, OF_MODULE, ROOTS_MAX};
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

/// Serves the supervisor until it is gone.
pub(super) fn run(socket: OwnedFd, config: Config, offer: Offer, supervisor: Pid) -> ! {
    let status = match serve(socket, config, offer, supervisor) {
        Ok(()) => 0,
        // The supervisor sees the socket close; there is nobody else to tell.
        Err(_) => 1,
    };
    // SAFETY: ends the process without running anything of the program that it was forked from.
    unsafe { libc::_exit(status) }
}

fn serve(socket: OwnedFd, config: Config, offer: Offer, supervisor: Pid) -> Result<(), Error> {
    let socket = detach(socket, supervisor)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start a runtime"))?;
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        let socket = watch(socket).map_err(system("watch the supervisor"))?;
        let host = Rc::new((config, offer));
        let room = Rc::new(Semaphore::new(processes_max(host.0.shards)));
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
                    if let (Some(request), Ok([reply])) = (request, <[OwnedFd; 1]>::try_from(fds)) {
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

async fn answer(request: Request, reply: OwnedFd, host: Rc<(Config, Offer)>) {
    let (config, offer) = &*host;
    let started = match request {
        Request::Root { layers, processor } => root(layers, processor, config, offer).await,
        Request::Compile => {
            // It waits for the zygote's answers, and root zygotes must not wait with it.
            let config = config.clone();
            let started = tokio::task::spawn_blocking(move || crate::compile::confined(&config));
            started.await.unwrap_or(Err(Error::Stopped))
        }
    };
    // Whoever asked may be gone; then what was started goes, too.
    let _ = match started {
        Ok((control, process)) => hand_over(reply, control, process).await,
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
async fn hand_over(reply: OwnedFd, control: OwnedFd, process: Started) -> Result<(), Error> {
    let id = process.id();
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
    drop(process);
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
}
