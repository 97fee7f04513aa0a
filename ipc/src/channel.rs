//! The job protocol over a connected tokio socket: whole frames in, whole frames out.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::Serialize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::fdpass;
use crate::protocol::{self, Frame, FrameReader, ProtocolError};

/// A channel that cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The event loop does not take the socket.
    #[error("the connection cannot be watched: {0}")]
    Register(#[source] io::Error),
    /// Receiving failed.
    #[error("receiving from the peer failed: {0}")]
    Receive(#[source] io::Error),
    /// Sending failed.
    #[error("sending to the peer failed: {0}")]
    Send(#[source] io::Error),
    /// The peer broke the rules, or a message does not fit them.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// A connection that carries frames.
///
/// It waits for what can be read and, only while the socket's buffer is full, for room to write. With both in one registration, as a tokio
/// socket has it, the kernel would wake this side each time the other takes something out of its buffer.
#[derive(Debug)]
pub struct Channel {
    stream: AsyncFd<UnixStream>,
    /// The same socket, once a send had to wait.
    room: Option<AsyncFd<OwnedFd>>,
    reader: FrameReader,
}

impl Channel {
    /// A channel over a connected socket. Must be called inside a tokio runtime.
    pub fn new(stream: UnixStream) -> Result<Self, ChannelError> {
        stream.set_nonblocking(true).map_err(ChannelError::Register)?;
        let stream = watch(stream, Interest::READABLE).map_err(ChannelError::Register)?;
        Ok(Self { stream, room: None, reader: FrameReader::default() })
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        self.stream.get_ref()
    }

    /// Whether a frame has begun to arrive and is not complete.
    pub fn in_frame(&self) -> bool {
        self.reader.in_frame()
    }

    /// Receives the next frame; `None` when the peer has ended its side between two frames.
    ///
    /// Dropping the future loses nothing: the next call goes on where this one stopped.
    pub async fn receive(&mut self) -> Result<Option<Frame>, ChannelError> {
        loop {
            let (space, descriptors) = self.reader.space();
            let bytes = self
                .stream
                .async_io(Interest::READABLE, |stream| fdpass::receive(stream, space, descriptors))
                .await
                .map_err(ChannelError::Receive)?;
            if bytes == 0 {
                return match self.reader.in_frame() {
                    true => Err(ProtocolError::FrameCut.into()),
                    false => Ok(None),
                };
            }
            if let Some(frame) = self.reader.advance(bytes)? {
                return Ok(Some(frame));
            }
        }
    }

    /// Sends a message, with the descriptors that it names.
    ///
    /// After dropping the future before it is done the channel is of no use: part of the frame may be out.
    pub async fn send(
        &mut self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        self.send_bytes(&protocol::encode(message)?, descriptors).await
    }

    /// Sends a frame of these bytes.
    pub async fn send_frame(&mut self, payload: &[u8]) -> Result<(), ChannelError> {
        self.send_bytes(&protocol::frame(payload)?, &[]).await
    }

    async fn send_bytes(
        &mut self,
        mut bytes: &[u8],
        mut descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        while !bytes.is_empty() {
            let sent = match fdpass::send(self.stream.get_ref(), bytes, descriptors) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for_room().await.map_err(ChannelError::Send)?;
                    continue;
                }
                sent => sent.map_err(ChannelError::Send)?,
            };
            bytes = bytes.get(sent..).unwrap_or_default();
            // They went with the first byte.
            descriptors = &[];
        }
        Ok(())
    }

    /// Waits until the socket takes something, or may do so.
    async fn wait_for_room(&mut self) -> io::Result<()> {
        let room = match &mut self.room {
            Some(room) => room,
            none => {
                // A registration of its own: epoll has one per descriptor.
                let same = self.stream.get_ref().as_fd().try_clone_to_owned()?;
                none.insert(watch(same, Interest::WRITABLE)?)
            }
        };
        room.writable().await?.clear_ready();
        Ok(())
    }
}

fn watch<T: AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: both types that this is called with own one descriptor, which stays open and the same as long as they live.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{FRAME_MAX, Request};

    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().expect("socketpair");
        (Channel::new(a).expect("channel"), Channel::new(b).expect("channel"))
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_io().build().expect("runtime")
    }

    #[test]
    fn messages_and_their_descriptors_stay_together() {
        runtime().block_on(async {
            let (mut a, mut b) = pair();
            let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
            // Both are in the socket before the first is read: descriptors must not slip into the wrong frame.
            a.send(&Request::Status, &[]).await.expect("send");
            a.send(&Request::Doctor, &[file.as_fd()]).await.expect("send");
            a.send(&Request::Status, &[file.as_fd(), file.as_fd()]).await.expect("send");
            drop(a);
            let mut counts = Vec::new();
            while let Some(frame) = b.receive().await.expect("receive") {
                counts.push((protocol::decode(&frame.payload).expect("request"), frame.descriptors.len()));
            }
            assert_eq!(counts, [(Request::Status, 0), (Request::Doctor, 1), (Request::Status, 2)]);
        });
    }

    #[test]
    fn a_frame_larger_than_the_socket_buffer_passes() {
        runtime().block_on(async {
            let (mut a, mut b) = pair();
            let payload = vec![5; FRAME_MAX];
            let (sent, received) = tokio::join!(a.send_frame(&payload), b.receive());
            sent.expect("send");
            assert_eq!(received.expect("receive").expect("frame").payload, payload);
        });
    }

    #[test]
    fn a_peer_that_goes_away_inside_a_frame_is_an_error() {
        runtime().block_on(async {
            let (a, mut b) = pair();
            fdpass::send(a.stream(), &[8, 0, 0, 0, 1], &[]).expect("send");
            drop(a);
            let error = b.receive().await.expect_err("cut");
            assert!(matches!(error, ChannelError::Protocol(ProtocolError::FrameCut)), "{error}");
        });
    }
}
