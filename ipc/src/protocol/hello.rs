//! The first frame in each direction, which has the same layout in all versions.

use super::{MAGIC, ProtocolError, VERSION_MAX, VERSION_MIN, one_line};

/// The first frame from a client. 12 bytes: [`MAGIC`], then two little-endian `u16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// Oldest version it speaks.
    pub min: u16,
    /// Newest version it speaks.
    pub max: u16,
}

impl ClientHello {
    /// What this build says.
    pub const OURS: Self = Self { min: VERSION_MIN, max: VERSION_MAX };

    /// The payload of the frame.
    pub fn to_bytes(self) -> Vec<u8> {
        [&MAGIC[..], &self.min.to_le_bytes(), &self.max.to_le_bytes()].concat()
    }

    /// From the payload of a frame. Later versions may append to it.
    pub fn from_bytes(payload: &[u8]) -> Result<Self, ProtocolError> {
        let rest = payload.strip_prefix(&MAGIC).ok_or(ProtocolError::NotHello)?;
        Ok(Self { min: word(rest, 0)?, max: word(rest, 1)? })
    }

    /// The newest version that both speak.
    pub fn agree(self) -> Option<u16> {
        let newest = self.max.min(VERSION_MAX);
        (newest >= self.min.max(VERSION_MIN)).then_some(newest)
    }
}

/// The first frame from the daemon: [`MAGIC`], three little-endian `u16`, then a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// The agreed version; 0 if the connection is refused, and closed after this frame.
    pub version: u16,
    /// Oldest version it speaks.
    pub min: u16,
    /// Newest version it speaks.
    pub max: u16,
    /// Why the connection is refused; empty if only the version is at fault.
    pub refusal: String,
}

impl ServerHello {
    /// Accepts a connection in `version`, or refuses the peer's versions (`None`).
    pub fn answer(version: Option<u16>) -> Self {
        Self { version: version.unwrap_or(0), min: VERSION_MIN, max: VERSION_MAX, refusal: String::new() }
    }

    /// Refuses a connection for another reason.
    pub fn refuse(reason: &str) -> Self {
        Self { refusal: one_line(reason), ..Self::answer(None) }
    }

    /// The payload of the frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = [self.version, self.min, self.max].map(u16::to_le_bytes).concat();
        [&MAGIC[..], &words, self.refusal.as_bytes()].concat()
    }

    /// From the payload of a frame.
    pub fn from_bytes(payload: &[u8]) -> Result<Self, ProtocolError> {
        let rest = payload.strip_prefix(&MAGIC).ok_or(ProtocolError::NotHello)?;
        let refusal = one_line(&String::from_utf8_lossy(rest.get(6..).unwrap_or_default()));
        Ok(Self { version: word(rest, 0)?, min: word(rest, 1)?, max: word(rest, 2)?, refusal })
    }

    /// The agreed version, or why there is none.
    pub fn accepted(&self) -> Result<u16, ProtocolError> {
        match self.version {
            VERSION_MIN..=VERSION_MAX => Ok(self.version),
            0 if !self.refusal.is_empty() => Err(ProtocolError::Refused(self.refusal.clone())),
            _ => Err(ProtocolError::Version { theirs_min: self.min, theirs_max: self.max }),
        }
    }
}

fn word(bytes: &[u8], index: usize) -> Result<u16, ProtocolError> {
    match bytes.get(2 * index..2 * index + 2) {
        Some(&[low, high]) => Ok(u16::from_le_bytes([low, high])),
        _ => Err(ProtocolError::NotHello),
    }
}
