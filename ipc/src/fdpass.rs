//! Sending and receiving bytes together with file descriptors over a Unix stream socket (`SCM_RIGHTS`, unix(7)).
//!
//! Both functions make exactly one system call and never wait on a non-blocking socket, so they fit
//! under an event loop. Every descriptor that arrives is owned from the moment it exists in this process:
//! whatever goes wrong, it is closed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors that one message may carry: a module, three for stdio, and 64 directories. The kernel allows 253.
pub const DESCRIPTORS_MAX: usize = 84;

const SPACE: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX));

/// Sends the beginning of `bytes`, and all of `descriptors` with the first of them. Returns how many bytes
/// were sent; if any were, the descriptors were too, and must not be sent again with the rest.
///
/// # Errors
/// `InvalidInput` for more than [`DESCRIPTORS_MAX`] descriptors, or for descriptors without a byte to carry
/// them; otherwise what sendmsg(2) says. A closed peer is `BrokenPipe`, never a signal.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        if descriptors.len() > DESCRIPTORS_MAX || bytes.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} descriptors with {} bytes: a message carries at most {DESCRIPTORS_MAX} and at least one byte",
                    descriptors.len(),
                    bytes.len()
                ),
            ));
        }
        if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => continue,
            result => return Ok(result?),
        }
    }
}

/// Receives at most `buffer.len()` bytes, and adds the descriptors that came with them (close-on-exec) to
/// `descriptors`. Returns how many bytes arrived; 0 is the end of the stream (or an empty `buffer`).
///
/// # Errors
/// `InvalidData` if the kernel had to drop descriptors, because there were more than [`DESCRIPTORS_MAX`] in one message
/// or because this process may open no more; those that did arrive are closed. Otherwise what recvmsg(2) says.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            result => break result?,
        }
    };
    if message.flags.contains(ReturnFlags::CTRUNC) {
        // What did arrive is closed when `control` is dropped.
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "file descriptors were lost: too many in one message, or too many open in this process \
             (raise RLIMIT_NOFILE)",
        ));
    }
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(arrived) = message {
            descriptors.extend(arrived);
        }
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn memory_file(contents: &[u8]) -> File {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        let mut file = File::from(fd);
        file.write_all(contents).expect("write");
        file
    }

    #[test]
    fn bytes_and_descriptors_arrive_together_and_close_on_exec() {
        let (a, b) = UnixStream::pair().expect("socketpair");
        let file = memory_file(b"content");
        assert_eq!(send(&a, b"hello", &[file.as_fd(), file.as_fd()]).expect("send"), 5);
        let (mut buffer, mut descriptors) = ([0; 16], Vec::new());
        assert_eq!(receive(&b, &mut buffer, &mut descriptors).expect("receive"), 5);
        assert_eq!(&buffer[..5], b"hello");
        assert_eq!(descriptors.len(), 2);
        let mut received = File::from(descriptors.remove(0));
        // SAFETY: F_GETFD on a descriptor we own.
        assert_eq!(unsafe { libc::fcntl(received.as_raw_fd(), libc::F_GETFD) }, libc::FD_CLOEXEC);
        let mut text = String::new();
        received.seek(SeekFrom::Start(0)).expect("seek");
        received.read_to_string(&mut text).expect("read");
        assert_eq!(text, "content");
    }

    #[test]
    fn the_maximum_passes_and_one_more_is_refused_before_it_is_sent() {
        let (a, b) = UnixStream::pair().expect("socketpair");
        let file = memory_file(b"");
        let many = vec![file.as_fd(); DESCRIPTORS_MAX + 1];
        assert_eq!(send(&a, b"x", &many).expect_err("too many").kind(), io::ErrorKind::InvalidInput);
        assert_eq!(send(&a, b"", &many[..1]).expect_err("no byte").kind(), io::ErrorKind::InvalidInput);
        assert_eq!(send(&a, b"x", &many[..DESCRIPTORS_MAX]).expect("send"), 1);
        let mut descriptors = Vec::new();
        assert_eq!(receive(&b, &mut [0; 4], &mut descriptors).expect("receive"), 1);
        assert_eq!(descriptors.len(), DESCRIPTORS_MAX);
    }

    #[test]
    fn more_descriptors_than_allowed_from_a_foreign_sender_are_an_error() {
        let (a, b) = UnixStream::pair().expect("socketpair");
        let file = memory_file(b"");
        let many = vec![file.as_fd(); DESCRIPTORS_MAX + 40];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 40))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        sendmsg(&a, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).expect("sendmsg");
        let mut descriptors = Vec::new();
        let error = receive(&b, &mut [0; 4], &mut descriptors).expect_err("truncated");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(descriptors.is_empty());
    }

    #[test]
    fn a_closed_peer_is_an_error_to_the_sender_and_an_end_to_the_receiver() {
        let (a, b) = UnixStream::pair().expect("socketpair");
        drop(b);
        assert_eq!(send(&a, b"x", &[]).expect_err("closed").kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(receive(&a, &mut [0; 4], &mut Vec::new()).expect("end"), 0);
    }
}
