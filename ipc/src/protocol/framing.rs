//! Frames in a stream of bytes, messages in frames.

use std::os::fd::OwnedFd;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{FRAME_MAX, HEADER_BYTES, ProtocolError};
use crate::fdpass::DESCRIPTORS_MAX;

/// A complete frame.
#[derive(Debug)]
pub struct Frame {
    /// Its bytes, without the length.
    pub payload: Vec<u8>,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// Puts frames together from pieces of a stream. It never asks for bytes beyond the end of the current frame, so the
/// descriptors that it was given always belong to that frame.
#[derive(Debug, Default)]
pub struct FrameReader {
    header: [u8; HEADER_BYTES],
    /// Bytes of header and payload so far.
    filled: usize,
    payload: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// The payload's buffer grows in steps of this size, as bytes arrive: a peer that only announces a large frame
/// does not make us allocate one.
pub(super) const GROWTH: usize = 64 << 10;

impl FrameReader {
    /// Where the next piece of the stream goes: never empty.
    pub fn space(&mut self) -> (&mut [u8], &mut Vec<OwnedFd>) {
        let bytes = match self.filled.checked_sub(HEADER_BYTES) {
            None => &mut self.header[self.filled..],
            Some(done) => {
                let size = self.length().min(done + GROWTH);
                if self.payload.len() < size {
                    self.payload.resize(size, 0);
                }
                &mut self.payload[done..size]
            }
        };
        (bytes, &mut self.descriptors)
    }

    /// Notes that the stream put `bytes` bytes into [`space`](Self::space). Returns the frame when it is complete.
    pub fn advance(&mut self, bytes: usize) -> Result<Option<Frame>, ProtocolError> {
        self.filled += bytes;
        if self.descriptors.len() > DESCRIPTORS_MAX {
            return Err(ProtocolError::TooManyDescriptors(self.descriptors.len()));
        }
        if self.filled < HEADER_BYTES {
            return Ok(None);
        }
        let length = self.length();
        if length > FRAME_MAX {
            return Err(ProtocolError::FrameTooLong(length));
        }
        if self.filled < HEADER_BYTES + length {
            return Ok(None);
        }
        self.filled = 0;
        Ok(Some(Frame {
            payload: std::mem::take(&mut self.payload),
            descriptors: std::mem::take(&mut self.descriptors),
        }))
    }

    /// Whether a frame has begun and is not complete.
    pub fn in_frame(&self) -> bool {
        self.filled > 0
    }

    fn length(&self) -> usize {
        u32::from_le_bytes(self.header) as usize
    }
}

/// A frame as it goes over the wire, from its payload.
pub fn frame(payload: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    if payload.len() > FRAME_MAX {
        return Err(ProtocolError::MessageTooLong(payload.len()));
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// A message as it goes over the wire, length included.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, ProtocolError> {
    let malformed = |e: postcard::Error| ProtocolError::Malformed { bytes: 0, reason: e.to_string() };
    let mut bytes = postcard::to_extend(message, vec![0; HEADER_BYTES]).map_err(malformed)?;
    let length = bytes.len() - HEADER_BYTES;
    if length > FRAME_MAX {
        return Err(ProtocolError::MessageTooLong(length));
    }
    bytes[..HEADER_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// The message in the payload of a frame, which must hold nothing else.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ProtocolError> {
    let malformed = |reason: String| ProtocolError::Malformed { bytes: payload.len(), reason };
    let (message, rest) = postcard::take_from_bytes(payload).map_err(|e| malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes too many", rest.len())));
    }
    Ok(message)
}
