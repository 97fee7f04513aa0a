//! The listener of a module zygote's filter: where instances ask for descriptors of files ([`ipc::direct`]).
//!
//! All instances of a zygote share one listener; the kernel says which process asks. What is asked for is served with the host calls of
//! that instance, by whoever holds its [`Asking`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::error::{Error, system};
use crate::instance::has_ended;

/// A call that waits for its answer. An instance makes one at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// Names the call to the kernel. Once the process has left it, by a signal or its death, this names nothing.
    id: u64,
    /// The arguments, as they were when the call was made.
    pub(crate) args: [u64; 6],
}

/// A process that may ask.
#[derive(Debug)]
struct Client {
    /// Tells whether the process id is still its own.
    pidfd: OwnedFd,
    asks: mpsc::UnboundedSender<Ask>,
}

/// The listener.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: AsyncFd<OwnedFd>,
    /// By process id as this process sees it.
    clients: RefCell<HashMap<i32, Client>>,
}

impl Listener {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, Error> {
        // SAFETY: the value owns its descriptor and keeps it as long as it is registered.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
            .map_err(|e| system("watch a filter's listener")(e.into()))?;
        Ok(Self { fd, clients: RefCell::default() })
    }

    /// Takes a process's calls from now on. Before that it is told no.
    pub(crate) fn serve(self: &Rc<Self>, pid: i32, pidfd: BorrowedFd<'_>) -> io::Result<Asking> {
        let (sender, asks) = mpsc::unbounded_channel();
        let client = Client { pidfd: pidfd.try_clone_to_owned()?, asks: sender };
        self.clients.borrow_mut().insert(pid, client);
        Ok(Asking { listener: Rc::clone(self), pid, asks })
    }

    /// Passes calls on until nobody is left who could make one.
    pub(crate) async fn hear(&self) {
        while let Ok(mut ready) = self.fd.readable().await {
            // What comes from here on makes it ready again.
            ready.clear_ready();
            loop {
                let mut polled = [PollFd::new(self.fd.get_ref().as_fd(), PollFlags::POLLIN)];
                let found = poll(&mut polled, PollTimeout::ZERO);
                let events = polled[0].revents().unwrap_or(PollFlags::empty());
                match found {
                    Ok(0) => break,
                    Ok(_) if events.contains(PollFlags::POLLIN) => self.receive(),
                    // All processes with this filter are dead.
                    _ => return,
                }
            }
        }
    }

    /// Takes the next call, which is there: receiving would wait otherwise.
    fn receive(&self) {
        // SAFETY: integers only; zero is a value of each.
        let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // An error: the process is gone meanwhile.
        if self.control(libc::SECCOMP_IOCTL_NOTIF_RECV, &mut notice).is_err() {
            return;
        }
        let ask = Ask { id: notice.id, args: notice.data.args };
        let clients = self.clients.borrow();
        // As long as the process of the pidfd lives, its id is nobody else's.
        let client = i32::try_from(notice.pid)
            .ok()
            .and_then(|pid| clients.get(&pid))
            .filter(|client| !has_ended(client.pidfd.as_fd()));
        if client.is_none_or(|client| client.asks.send(ask).is_err()) {
            self.refuse(ask);
        }
    }

    fn refuse(&self, ask: Ask) {
        self.answer(ask, 0, -libc::EPERM);
    }

    /// Lets the call return. An error would mean that the process has left it, so that nobody waits for the answer.
    fn answer(&self, ask: Ask, value: i64, error: i32) {
        let mut answer = libc::seccomp_notif_resp { id: ask.id, val: value, error, flags: 0 };
        let _ = self.control(libc::SECCOMP_IOCTL_NOTIF_SEND, &mut answer);
    }

    fn control<T>(&self, request: libc::Ioctl, argument: &mut T) -> io::Result<()> {
        // SAFETY: each request is made with the structure that seccomp_unotify(2) names for it, readable and writable.
        let done =
            unsafe { libc::ioctl(self.fd.get_ref().as_raw_fd(), request, std::ptr::from_mut(argument)) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// One process's calls. Dropping it has the process told no.
#[derive(Debug)]
pub(crate) struct Asking {
    listener: Rc<Listener>,
    pid: i32,
    asks: mpsc::UnboundedReceiver<Ask>,
}

impl Asking {
    /// The next call. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Ask {
        match self.asks.recv().await {
            Some(ask) => ask,
            // Another process has this id: this one is dead.
            None => std::future::pending().await,
        }
    }

    /// Puts a descriptor into the process at this number, in the place of what was there, and lets its call return with the number.
    /// `false`: nothing was put, and the call says no.
    pub(crate) fn give(&self, ask: Ask, fd: BorrowedFd<'_>, number: i32) -> bool {
        let mut add = libc::seccomp_notif_addfd {
            id: ask.id,
            flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
            srcfd: fd.as_raw_fd() as u32,
            newfd: number as u32,
            newfd_flags: libc::O_CLOEXEC as u32,
        };
        let given = self.listener.control(libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut add).is_ok();
        match given {
            true => self.listener.answer(ask, number.into(), 0),
            false => self.listener.refuse(ask),
        }
        given
    }

    /// Says no.
    pub(crate) fn refuse(&self, ask: Ask) {
        self.listener.refuse(ask);
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.asks.close();
        let mut clients = self.listener.clients.borrow_mut();
        // Unless its id is another process's by now.
        if clients.get(&self.pid).is_some_and(|client| client.asks.is_closed()) {
            clients.remove(&self.pid);
        }
        drop(clients);
        while let Ok(ask) = self.asks.try_recv() {
            self.listener.refuse(ask);
        }
    }
}
