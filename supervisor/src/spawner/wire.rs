//! What a supervisor asks its spawner, and what that answers. Both are the same program.

use ipc::control::Step;
use serde::{Deserialize, Serialize};

use crate::cgroup::LEAF_NAME_MAX;
use crate::error::Error;

/// Longest request.
pub(super) const REQUEST_MAX: usize = 64 + LEAF_NAME_MAX;
/// Longest answer.
pub(super) const ANSWER_MAX: usize = 2048;
/// Bytes of an error's text.
const TEXT_MAX: usize = 1024;

/// To the spawner, with a socket for the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Start a root zygote.
    Root {
        /// Layers to put in force.
        layers: u64,
        /// The processor to stay on.
        processor: Option<u32>,
    },
    /// Start a compile zygote.
    Compile,
    /// Move a module zygote into the cgroup of its tenant. Further descriptor: its pidfd.
    Place {
        /// The name of the cgroup, see [`crate::cgroup::leaf_name`].
        leaf: String,
    },
}

/// From the spawner.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It runs and is confined. Descriptors: its control socket, its pidfd.
    Started {
        /// Its process id.
        id: u32,
    },
    /// The module zygote is in its cgroup. Descriptor, where there is a limit of memory: what counts its kills, to read.
    Placed {
        /// Which cgroup that is, among all that there have been.
        number: u64,
    },
    /// It could not be done.
    Failed {
        /// The step of the root zygote that failed: a number of [`Step`]; 0 for anything else.
        step: u32,
        /// Its error number.
        errno: i32,
        /// What failed, where it is no step.
        what: String,
    },
}

fn garbled(error: postcard::Error) -> Error {
    Error::Spawner { what: format!("said something that makes no sense ({error})") }
}

impl Request {
    pub(super) fn to_packet(&self) -> Result<Vec<u8>, Error> {
        postcard::to_stdvec(self).map_err(garbled)
    }

    pub(super) fn from_packet(packet: &[u8]) -> Option<Self> {
        postcard::from_bytes(packet).ok()
    }
}

impl Answer {
    /// For something that could not be started.
    pub(super) fn failed(error: &Error) -> Self {
        if let Error::ZygoteStep { step, errno, .. } = error {
            return Self::Failed { step: *step as u32, errno: *errno, what: String::new() };
        }
        let what = error.to_string().chars().take(TEXT_MAX / 4).collect();
        Self::Failed { step: 0, errno: 0, what }
    }

    pub(super) fn to_packet(&self) -> Result<Vec<u8>, Error> {
        postcard::to_stdvec(self).map_err(garbled)
    }

    pub(super) fn from_packet(packet: &[u8]) -> Result<Self, Error> {
        postcard::from_bytes(packet).map_err(garbled)
    }
}

/// The error that a failure stands for.
pub(super) fn failure(step: u32, errno: i32, what: String) -> Error {
    match Step::from_number(step) {
        Some(step) => Error::ZygoteStep { who: "root", step, errno },
        None => Error::Spawner { what },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_fit_their_buffers_and_come_back() {
        let request = Request::Root { layers: u64::MAX, processor: Some(u32::MAX) };
        let packet = request.to_packet().unwrap();
        assert!(packet.len() <= REQUEST_MAX);
        assert!(matches!(
            Request::from_packet(&packet),
            Some(Request::Root { layers: u64::MAX, processor: Some(u32::MAX) })
        ));
        let leaf = "x".repeat(LEAF_NAME_MAX);
        let packet = Request::Place { leaf: leaf.clone() }.to_packet().unwrap();
        assert!(packet.len() <= REQUEST_MAX);
        assert!(matches!(Request::from_packet(&packet), Some(Request::Place { leaf: same }) if same == leaf));
        assert!(Request::from_packet(&[9; 4]).is_none() && Request::from_packet(&[]).is_none());
        let long = Error::Spawner { what: "\u{10ffff}".repeat(5000) };
        let packet = Answer::failed(&long).to_packet().unwrap();
        assert!(packet.len() <= ANSWER_MAX, "{}", packet.len());
        let step = Error::ZygoteStep { who: "root", step: Step::UnshareNet, errno: libc::EPERM };
        let packet = Answer::failed(&step).to_packet().unwrap();
        match Answer::from_packet(&packet).unwrap() {
            Answer::Failed { step: number, errno, what } => {
                assert_eq!(failure(number, errno, what).to_string(), step.to_string());
            }
            other => panic!("{other:?}"),
        }
    }
}
