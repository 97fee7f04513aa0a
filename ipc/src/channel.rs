//! The job protocol over a connected tokio socket: whole frames in, whole frames out.

use std::io;
use std::os::fd::BorrowedFd;

use serde::Serialize;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::fdpass;
use crate::protocol::{self, Frame, FrameReader, ProtocolError};

/// A channel that cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
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
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    reader: FrameReader,
}

impl Channel {
    /// A channel over a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, reader: FrameReader::default() }
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
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
            let stream = &self.stream;
            let bytes = stream
                .async_io(Interest::READABLE, || fdpass::receive(stream, space, descriptors))
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
            let stream = &self.stream;
            let sent = stream
                .async_io(Interest::WRITABLE, || fdpass::send(stream, bytes, descriptors))
                .await
                .map_err(ChannelError::Send)?;
            bytes = bytes.get(sent..).unwrap_or_default();
            // They went with the first byte.
            descriptors = &[];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::protocol::{FRAME_MAX, Request};

    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().expect("socketpair");
        (Channel::new(a), Channel::new(b))
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
