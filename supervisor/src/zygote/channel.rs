//! Packets on a zygote's control socket. Everything that arrives is checked here for its form.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use ipc::control::{Command, Reply};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Error, errno, system};
use crate::process;

/// The supervisor's end of a control socket.
#[derive(Debug)]
pub(crate) struct Channel {
    who: &'static str,
    socket: AsyncFd<OwnedFd>,
}

/// A pair of connected sockets: this side's end, and the zygote's.
pub(crate) fn pair(who: &'static str) -> Result<(Channel, OwnedFd), Error> {
    let (ours, theirs) = process::sockets()?;
    Ok((Channel::new(who, ours)?, theirs))
}

impl Channel {
    /// Over this end of a pair.
    pub(crate) fn new(who: &'static str, socket: OwnedFd) -> Result<Self, Error> {
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .map_err(errno("make a control socket non-blocking"))?;
        // SAFETY: the value owns its descriptor and keeps it as long as it is registered.
        let socket =
            unsafe { AsyncFd::register(socket) }.map_err(|e| system("watch a control socket")(e.into()))?;
        Ok(Self { who, socket })
    }

    /// The socket itself.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket.into_inner()
    }

    /// Sends a command, with a filter program behind it and descriptors beside it.
    pub(crate) async fn send(
        &self,
        command: &Command,
        filter: &[libc::sock_filter],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let mut packet = Vec::with_capacity(size_of::<Command>() + size_of_val(filter));
        packet.extend_from_slice(command.as_bytes());
        for instruction in filter {
            packet.extend_from_slice(&instruction.code.to_ne_bytes());
            packet.extend_from_slice(&[instruction.jt, instruction.jf]);
            packet.extend_from_slice(&instruction.k.to_ne_bytes());
        }
        let fds: Vec<i32> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        self.socket
            .async_io(Interest::WRITABLE, |socket| send_packet(socket.as_fd(), &packet, &fds))
            .await
            .map_err(|e| self.lost(&e))
    }

    /// Receives the next reply and the descriptor that came with it.
    pub(crate) async fn receive(&self) -> Result<(Reply, Option<OwnedFd>), Error> {
        let mut packet = [0u8; size_of::<Reply>() + 1];
        let (length, fd) = self
            .socket
            .async_io(Interest::READABLE, |socket| receive_packet(socket.as_fd(), &mut packet))
            .await
            .map_err(|e| self.lost(&e))?;
        if length == 0 {
            return Err(Error::ZygoteDied { who: self.who, detail: String::new() });
        }
        let reply = packet.get(..length).and_then(|bytes| Reply::read_from_bytes(bytes).ok());
        match reply {
            Some(reply) => Ok((reply, fd)),
            None => Err(self.broken(format!("a reply of {length} bytes"))),
        }
    }

    fn lost(&self, error: &io::Error) -> Error {
        Error::ZygoteDied { who: self.who, detail: format!(" ({error})") }
    }

    pub(crate) fn broken(&self, what: String) -> Error {
        Error::ZygoteProtocol { who: self.who, what }
    }

    /// The error that a `FAILED` reply stands for.
    pub(crate) fn failed(&self, reply: &Reply) -> Error {
        match ipc::control::Step::from_number(reply.step) {
            Some(step) => Error::ZygoteStep { who: self.who, step, errno: reply.errno },
            None => self.broken(format!("failure of unknown step {}", reply.step)),
        }
    }
}

/// Room for one control message with two descriptors, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct ControlBuffer([MaybeUninit<u8>; 64]);

fn header(vector: &mut libc::iovec, control: &mut ControlBuffer) -> libc::msghdr {
    // SAFETY: msghdr is integers and pointers; zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vector;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut *control).cast();
    message.msg_controllen = size_of::<ControlBuffer>();
    message
}

fn send_packet(socket: BorrowedFd<'_>, packet: &[u8], fds: &[i32]) -> io::Result<()> {
    let mut vector = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
    let mut control = ControlBuffer([MaybeUninit::zeroed(); 64]);
    let mut message = header(&mut vector, &mut control);
    if fds.is_empty() {
        message.msg_control = std::ptr::null_mut();
        message.msg_controllen = 0;
    } else {
        let bytes = size_of_val(fds) as u32;
        // SAFETY: at most two descriptors are ever sent, whose control message fits the 64 bytes of `control`.
        unsafe {
            assert!(libc::CMSG_SPACE(bytes) as usize <= size_of::<ControlBuffer>());
            message.msg_controllen = libc::CMSG_SPACE(bytes) as usize;
            let control = libc::CMSG_FIRSTHDR(&message);
            (*control).cmsg_level = libc::SOL_SOCKET;
            (*control).cmsg_type = libc::SCM_RIGHTS;
            (*control).cmsg_len = libc::CMSG_LEN(bytes) as usize;
            std::ptr::copy_nonoverlapping(
                fds.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(control),
                bytes as usize,
            );
        }
    }
    // SAFETY: every pointer in `message` is to a live buffer of the length given.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn receive_packet(socket: BorrowedFd<'_>, packet: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut vector = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
    let mut control = ControlBuffer([MaybeUninit::zeroed(); 64]);
    let mut message = header(&mut vector, &mut control);
    // SAFETY: every pointer in `message` is to a live, writable buffer of the length given.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut fds = Vec::new();
    // SAFETY: the kernel filled in control messages of the lengths that they state, inside `control`.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(&message);
        while !at.is_null() {
            if (*at).cmsg_level == libc::SOL_SOCKET && (*at).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*at).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<i32>();
                for i in 0..count {
                    let fd = libc::CMSG_DATA(at).cast::<i32>().add(i).read_unaligned();
                    fds.push(OwnedFd::from_raw_fd(fd));
                }
            }
            at = libc::CMSG_NXTHDR(&message, at);
        }
    }
    // More than one descriptor is nothing that a zygote sends; the others close here.
    Ok((received as usize, fds.into_iter().next()))
}
