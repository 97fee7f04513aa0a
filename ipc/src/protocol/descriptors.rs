//! File descriptors that come with a frame, named by the message in it.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::ProtocolError;

/// A file descriptor, by its position among those that came with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor(pub u8);

/// The descriptors of a frame, while its message is taken apart.
#[derive(Debug)]
pub struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    /// The descriptors that came with a frame.
    pub fn new(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors.into_iter().map(Some).collect())
    }

    /// Takes the descriptor that a message names.
    pub fn take(&mut self, Descriptor(index): Descriptor) -> Result<OwnedFd, ProtocolError> {
        let count = self.0.len();
        self.0
            .get_mut(usize::from(index))
            .ok_or(ProtocolError::NoSuchDescriptor { index, count })?
            .take()
            .ok_or(ProtocolError::DescriptorTwice(index))
    }

    /// Checks that none is left over.
    pub fn finish(self) -> Result<(), ProtocolError> {
        match self.0.iter().position(Option::is_some) {
            Some(index) => Err(ProtocolError::DescriptorUnused(index)),
            None => Ok(()),
        }
    }
}
