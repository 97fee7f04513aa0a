//! What can go wrong with cgroups.

use std::io;
use std::path::{Path, PathBuf};

use crate::host::Status;

/// Why a tenant's processes cannot be in a cgroup of their own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The host has not delegated what it takes.
    #[error("{why}; to get it: {remedy}")]
    NotDelegated {
        /// What is missing.
        why: String,
        /// How to get it.
        remedy: String,
    },
    /// A step failed.
    #[error("could not {what} {}: {source}{}", path.display(), hint(*step, source))]
    Step {
        /// Which one.
        step: Step,
        /// The same in words.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The process to be placed has ended, or cannot be seen from here.
    #[error("the module zygote to be placed in {} has ended, or cannot be told apart from others (is /proc mounted?)", leaf.display())]
    NoProcess {
        /// Its tenant's cgroup.
        leaf: PathBuf,
    },
}

/// The steps, for what to do about their failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Making a directory.
    Make,
    /// Enabling controllers.
    Enable,
    /// Writing a limit.
    Limit,
    /// Moving a process.
    Move,
    /// Anything else.
    Other,
}

impl CgroupError {
    /// Wraps a failed step.
    pub(super) fn step<'p>(
        step: Step,
        what: &'static str,
        path: &'p Path,
    ) -> impl Fn(io::Error) -> Self + use<'p> {
        move |source| Self::Step { step, what, path: path.to_path_buf(), source }
    }

    /// What the probe of the host says.
    pub(super) fn not_delegated(status: Status) -> Self {
        match status {
            Status::Missing { why, remedy } => Self::NotDelegated { why, remedy },
            Status::Available { detail } => {
                Self::NotDelegated { why: detail, remedy: "report this as a bug".into() }
            }
        }
    }
}

fn hint(step: Step, source: &io::Error) -> &'static str {
    match (step, source.raw_os_error()) {
        (Step::Enable, Some(libc::EBUSY)) => {
            "; processes run in that cgroup itself: start sandboxd as the only process of its cgroup (systemd: Delegate=yes), or \
             name an empty one as cgroup.directory"
        }
        (Step::Move, Some(libc::EACCES | libc::EPERM | libc::ENOENT)) => {
            "; processes can be moved only within what is delegated to this user: sandboxd must be started inside of it"
        }
        (Step::Make, Some(libc::EAGAIN)) => {
            "; the host allows no more cgroups there (cgroup.max.descendants, cgroup.max.depth)"
        }
        (Step::Make | Step::Enable, Some(libc::EACCES | libc::EPERM | libc::EROFS)) => {
            "; the cgroup is not delegated to this user"
        }
        _ => "",
    }
}
