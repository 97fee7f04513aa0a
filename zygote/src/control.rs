//! The control socket: packets of one record, with descriptors.

use core::cell::UnsafeCell;
use core::mem::size_of;

use ipc::control::{CONTROL_FD, Command, FILTER_INSTRUCTION_BYTES, PACKET_MAX, Reply, Step, reply};
use linux_raw_sys::errno::{EBADMSG, EINTR, EPIPE, ETOOMANYREFS};
use linux_raw_sys::general::{__NR_ppoll, __NR_recvmsg, __NR_sendmsg, iovec, pollfd, timespec};
use linux_raw_sys::net::{MSG_CMSG_CLOEXEC, MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET, msghdr};
use zerocopy::{FromBytes, IntoBytes};

use crate::sys::{self, Errno};

/// Descriptors that one packet may carry.
const DESCRIPTORS: usize = 2;

/// `struct cmsghdr` with room for the descriptors (cmsg(3)).
#[repr(C)]
#[derive(Clone, Copy)]
struct ControlData {
    bytes: usize,
    level: i32,
    kind: i32,
    fds: [i32; DESCRIPTORS],
}

const HEADER_BYTES: usize = size_of::<ControlData>() - size_of::<[i32; DESCRIPTORS]>();

#[repr(C, align(8))]
struct Buffer(UnsafeCell<[u8; PACKET_MAX]>);
// SAFETY: one thread.
unsafe impl Sync for Buffer {}
// Among the initialised data, although it is zero: memory for what is not would be a mapping of its own, which every fork copies.
#[unsafe(link_section = ".data")]
static BUFFER: Buffer = Buffer(UnsafeCell::new([0; PACKET_MAX]));

/// A command and what came with it.
pub struct Received {
    pub command: Command,
    /// Descriptors, -1 where none came.
    pub fds: [i32; DESCRIPTORS],
    /// The filter program in [`BUFFER`], valid until the next packet.
    pub filter: *const u8,
}

/// Waits for the next command. `Ok(None)`: the supervisor is gone.
pub fn receive() -> Result<Option<Received>, Errno> {
    let mut data = ControlData { bytes: 0, level: 0, kind: 0, fds: [-1; DESCRIPTORS] };
    let mut vector = iovec { iov_base: BUFFER.0.get().cast(), iov_len: PACKET_MAX as u64 };
    let mut message = message(&mut vector, &mut data, size_of::<ControlData>());
    let length = loop {
        let args = [CONTROL_FD as u64, &raw mut message as u64, u64::from(MSG_CMSG_CLOEXEC), 0, 0, 0];
        // SAFETY: all pointers in `message` are to live buffers of the lengths given.
        match unsafe { sys::call(__NR_recvmsg, args) } {
            Ok(length) => break length as usize,
            Err(Errno(errno)) if errno == EINTR as i32 => continue,
            Err(errno) => return Err(errno),
        }
    };
    if length == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel wrote `length <= PACKET_MAX` bytes; the buffer is only used by this thread, here.
    let bytes = unsafe { core::slice::from_raw_parts(BUFFER.0.get().cast::<u8>(), length) };
    let malformed = Errno(EBADMSG as i32);
    let (command, filter) = Command::read_from_prefix(bytes).map_err(|_| malformed)?;
    if filter.len() != command.filter_len as usize * FILTER_INSTRUCTION_BYTES {
        return Err(malformed);
    }
    Ok(Some(Received { command, fds: data.fds, filter: filter.as_ptr() }))
}

/// Sends a reply, with a descriptor if `fd` is not -1.
pub fn send(reply: &Reply, fd: i32) -> Result<(), Errno> {
    let mut data = ControlData {
        bytes: HEADER_BYTES + size_of::<i32>(),
        level: SOL_SOCKET as i32,
        kind: SCM_RIGHTS as i32,
        fds: [fd, -1],
    };
    let bytes = reply.as_bytes();
    let mut vector = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() as u64 };
    let control_bytes = if fd < 0 { 0 } else { HEADER_BYTES + size_of::<i32>() };
    let message = message(&mut vector, &mut data, control_bytes);
    loop {
        let args = [CONTROL_FD as u64, &raw const message as u64, u64::from(MSG_NOSIGNAL), 0, 0, 0];
        // SAFETY: all pointers in `message` are to live buffers of the lengths given.
        match unsafe { sys::call(__NR_sendmsg, args) } {
            Ok(_) => return Ok(()),
            Err(Errno(errno)) if errno == EINTR as i32 => continue,
            // unix(7): this user has too many descriptors on their way. A reply must not get lost: the supervisor would
            // never hear of the process, or hear of its death only.
            Err(Errno(errno)) if errno == ETOOMANYREFS as i32 => wait_for_receivers()?,
            Err(errno) => return Err(errno),
        }
    }
}

/// Waits a moment; an error when nobody is left who could receive.
fn wait_for_receivers() -> Result<(), Errno> {
    let mut socket = [pollfd { fd: CONTROL_FD, events: 0, revents: 0 }];
    let moment = timespec { tv_sec: 0, tv_nsec: 50_000 };
    // SAFETY: one writable entry and a readable time; no signal mask.
    unsafe { sys::call(__NR_ppoll, [socket.as_mut_ptr() as u64, 1, &raw const moment as u64, 0, 0, 0])? };
    if socket[0].revents != 0 { Err(Errno(EPIPE as i32)) } else { Ok(()) }
}

fn message(vector: &mut iovec, data: &mut ControlData, control_bytes: usize) -> msghdr {
    msghdr {
        msg_name: core::ptr::null_mut(),
        msg_namelen: 0,
        // The bindings declare the structure once per header.
        msg_iov: (vector as *mut iovec).cast(),
        msg_iovlen: 1,
        msg_control: if control_bytes == 0 {
            core::ptr::null_mut()
        } else {
            (data as *mut ControlData).cast()
        },
        msg_controllen: control_bytes as _,
        msg_flags: 0,
    }
}

/// Says which step failed on `id`.
pub fn send_failure(id: u64, step: Step, errno: Errno) {
    let failed = Reply { kind: reply::FAILED, id, step: step as u32, errno: errno.0, ..Reply::default() };
    // If even this fails, the supervisor sees the process die or the socket close.
    let _ = send(&failed, -1);
}

/// Says which step failed, and ends the process: a zygote that is not fully confined must not go on.
pub fn give_up(id: u64, step: Step, errno: Errno) -> ! {
    send_failure(id, step, errno);
    sys::exit(1)
}
