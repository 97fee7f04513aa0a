//! What a job was seen to do: the ground for proposing a policy.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use ipc::interface::{FUNCTIONS, FunctionId};

/// What a job did, as far as the supervisor saw it. Calls that an instance answers itself are not seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// How often it made each host call over the ring.
    pub host_calls: BTreeMap<FunctionId, u64>,
    /// Calls of functions that the host app provides.
    pub imports: u64,
    /// Most descriptors that it had at one time.
    pub open_files: u32,
    /// It read or wrote a standard stream, or polled.
    pub used_stdio: bool,
    /// It named something below a directory, or listed one.
    pub used_files: bool,
    /// It tried to change something below a directory, or opened something there for writing.
    pub wrote_files: bool,
    /// Bytes of linear memory that the module starts with.
    pub initial_memory: u64,
    /// Where its time went.
    pub steps: Steps,
}

/// When each step of a job was over, counted from its first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Whether a parked instance took the job. If not, one was forked for it.
    pub parked: bool,
    /// The job was checked against module and policy, and its header made.
    pub prepared: Duration,
    /// Its zygote was found (or started), with a parked instance or a free ring.
    pub seated: Duration,
    /// The job was written to the ring, and the instance woken if it was parked.
    pub given: Duration,
    /// The zygote had told of the fork; at once for a parked instance.
    pub forked: Duration,
    /// The instance was through, or dead, or had to be killed.
    pub ended: Duration,
    /// It was known what it used.
    pub known: Duration,
}

/// Counts host calls while they are served.
#[derive(Debug)]
pub(crate) struct Calls {
    by_function: Vec<Cell<u64>>,
    pub(crate) imports: Cell<u64>,
}

impl Calls {
    pub(crate) fn new() -> Self {
        Self { by_function: vec![Cell::new(0); FUNCTIONS.len()], imports: Cell::new(0) }
    }

    pub(crate) fn count(&self, function: FunctionId) {
        if let Some(calls) = self.by_function.get(function as usize) {
            calls.set(calls.get().saturating_add(1));
        }
    }

    /// How often each was called that was.
    pub(crate) fn host_calls(&self) -> BTreeMap<FunctionId, u64> {
        let numbered = (0u32..).zip(&self.by_function).filter(|(_, calls)| calls.get() > 0);
        numbered.filter_map(|(number, calls)| Some((FunctionId::from_number(number)?, calls.get()))).collect()
    }
}

/// Calls that name something below a directory or list one.
const OF_FILES: &[FunctionId] = &[
    FunctionId::fd_readdir,
    FunctionId::path_create_directory,
    FunctionId::path_filestat_get,
    FunctionId::path_filestat_set_times,
    FunctionId::path_link,
    FunctionId::path_open,
    FunctionId::path_readlink,
    FunctionId::path_remove_directory,
    FunctionId::path_rename,
    FunctionId::path_symlink,
    FunctionId::path_unlink_file,
];

/// Calls that a read-only directory refuses whatever they are about; `path_open` depends on its flags.
const OF_WRITERS: &[FunctionId] = &[
    FunctionId::fd_filestat_set_times,
    FunctionId::path_create_directory,
    FunctionId::path_filestat_set_times,
    FunctionId::path_link,
    FunctionId::path_remove_directory,
    FunctionId::path_rename,
    FunctionId::path_symlink,
    FunctionId::path_unlink_file,
];

impl Observed {
    /// What the calls say by themselves.
    pub(crate) fn of_calls(calls: &Calls) -> Self {
        let host_calls = calls.host_calls();
        let any = |of: &[FunctionId]| of.iter().any(|function| host_calls.contains_key(function));
        Self {
            imports: calls.imports.get(),
            used_stdio: host_calls.contains_key(&FunctionId::poll_oneoff),
            used_files: any(OF_FILES),
            wrote_files: any(OF_WRITERS),
            host_calls,
            ..Self::default()
        }
    }
}
