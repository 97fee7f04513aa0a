//! A process that keeps only what serving needs: what `sandboxd` does to itself before it serves its first client.
//!
//! Nothing but the supervisor itself stands between a hostile instance and what the supervisor's user may do. So the daemon gives
//! up what it does not need: starting processes (its [`Spawner`] does that), tracing, mounting, sockets, every capability, and
//! what else `policies/profiles/supervisor.toml` does not list. A host app can do the same to its own process, where it is a
//! supervisor and nothing else; otherwise a library user is not confined.
//!
//! ```no_run
//! use supervisor::confine::{Confinement, LAYERS, Places};
//! use supervisor::{Config, Supervisor};
//!
//! # fn main() -> Result<(), supervisor::Error> {
//! // First, while the process has one thread.
//! let confinement = Confinement::begin(LAYERS, &Config::default())?;
//! let config = Config { spawner: Some(confinement.spawner()), ..Config::default() };
//! // ... whatever else it opens, connects to, listens on ...
//! let in_force = confinement.finish(&Places::default())?;
//! eprintln!("{in_force}");
//! let supervisor = Supervisor::start(config)?;
//! # Ok(())
//! # }
//! ```
//!
//! Layers are those of [`ipc::control::layer`]: `no-new-privs`, `undumpable`, `landlock`, `capabilities-dropped`, `seccomp`. Each is
//! for good, and inherited by every thread. A layer that fails is an error; Landlock may be missing on a host, and is listed then.

mod landlock;

use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ipc::control::layer;
use ipc::report::MissingLayer;
use policies::PathRulePlace;

use zygote::sys::Errno;

use crate::config::Config;
use crate::error::{Error, system};
use crate::host::{self, Feature, Status};
use crate::spawner::{Spawner, single_threaded};

/// The layers that a supervisor can put itself under.
pub const LAYERS: u64 =
    layer::NO_NEW_PRIVS | layer::UNDUMPABLE | layer::LANDLOCK | layer::CAPABILITIES | layer::SECCOMP;

/// Where a supervisor finds files by their names.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The state directory, [`Config::state_dir`].
    pub state: Option<PathBuf>,
    /// The directory of policies.
    pub policies: Option<PathBuf>,
    /// The directory of the socket that goes at the end.
    pub socket: Option<PathBuf>,
    /// Directories below which all those lie that jobs may bring. `None`: they may lie anywhere, and Landlock, which knows no difference between
    /// a name and a descriptor that was passed, restricts no file.
    pub directories: Option<Vec<PathBuf>>,
}

impl Places {
    /// A daemon's. The state directory is made, for its owner only, where it is missing and can be made; one that is not there is nothing to be
    /// left open, and the cache says what is wrong with it.
    pub fn of_daemon(
        state_dir: Option<&Path>,
        policy_dir: Option<PathBuf>,
        socket: &Path,
        directories: Option<Vec<PathBuf>>,
    ) -> Self {
        let made = |directory: &&Path| {
            let _ = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            directory.is_dir()
        };
        let socket = socket.parent().filter(|parent| !parent.as_os_str().is_empty());
        Self {
            state: state_dir.filter(made).map(Path::to_path_buf),
            policies: policy_dir,
            socket: Some(socket.unwrap_or(Path::new(".")).to_path_buf()),
            directories,
        }
    }
}

/// A confinement under way.
#[derive(Debug)]
pub struct Confinement {
    layers: u64,
    abi: u32,
    spawner: Spawner,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Layers in force, bits of [`ipc::control::layer`].
    pub layers: u64,
    /// Those of [`LAYERS`] that are not, each with the reason.
    pub missing: Vec<MissingLayer>,
    /// What Landlock denies; empty without it.
    pub landlock: String,
}

impl Confinement {
    /// Starts the spawner, and puts the layers in force that it is to have too: `no_new_privs` (Landlock and seccomp need it), not being
    /// dumpable, and Landlock's scopes, so that this process can signal nothing that it has not started.
    ///
    /// Must be called while the process has one thread. Of `layers`, those of [`LAYERS`] count.
    pub fn begin(layers: u64, config: &Config) -> Result<Self, Error> {
        single_threaded()?;
        let layers = layers & LAYERS;
        let abi = if layers & layer::LANDLOCK != 0 { host::landlock_abi() } else { 0 };
        if layers & (layer::NO_NEW_PRIVS | layer::SECCOMP) != 0 || abi > 0 {
            prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "set no_new_privs")?;
        }
        if layers & layer::UNDUMPABLE != 0 {
            prctl(libc::PR_SET_DUMPABLE, 0, "become undumpable")?;
        }
        let [_, _, scoped] = host::landlock_handled(abi);
        landlock::restrict([0, 0, scoped], &[])?;
        Ok(Self { layers, abi, spawner: Spawner::start(config)? })
    }

    /// What starts processes from now on, for [`Config::spawner`].
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// Puts the other layers in force. Must be called while the process has one thread, before [`crate::Supervisor::start`].
    pub fn finish(self, places: &Places) -> Result<InForce, Error> {
        single_threaded()?;
        let mut in_force = InForce { layers: self.layers, missing: Vec::new(), landlock: String::new() };
        for (_, name) in layer::ALL.iter().filter(|(bit, _)| LAYERS & !self.layers & bit != 0) {
            in_force
                .missing
                .push(MissingLayer { layer: (*name).to_owned(), reason: "it was not asked for".into() });
        }
        if self.layers & layer::LANDLOCK != 0 {
            match self.landlock(places)? {
                Ok(what) => in_force.landlock = what,
                Err(reason) => {
                    in_force.layers &= !layer::LANDLOCK;
                    in_force.missing.push(MissingLayer { layer: "landlock".into(), reason });
                }
            }
        }
        if self.layers & layer::CAPABILITIES != 0 {
            give_up_capabilities()?;
        }
        // Last: it refuses what the others need.
        if self.layers & layer::SECCOMP != 0 {
            install_filter()?;
        }
        Ok(in_force)
    }

    /// What Landlock denies from now on; inside, why it is not there.
    fn landlock(&self, places: &Places) -> Result<Result<String, String>, Error> {
        if self.abi == 0 {
            let why = match host::landlock_status() {
                host::Status::Missing { why, .. } => why,
                host::Status::Available { .. } => "the kernel has none".to_owned(),
            };
            return Ok(Err(why));
        }
        let [files, network, scoped] = host::landlock_handled(self.abi);
        let mut denied = format!("ABI {}", self.abi);
        for (what, is_denied) in [(", TCP", network != 0), (", abstract sockets, signals", scoped != 0)] {
            denied.push_str(if is_denied { what } else { "" });
        }
        let Some(directories) = &places.directories else {
            denied.push_str("; no file, because clients' directories may lie anywhere");
            landlock::restrict([0, network, 0], &[])?;
            return Ok(Ok(denied));
        };
        let rules = policies::supervisor_rules()?;
        let mut allowed = Vec::new();
        let proc = PathBuf::from("/proc");
        let one = |place: &Option<PathBuf>| place.iter().cloned().collect::<Vec<_>>();
        for (place, paths) in [
            (PathRulePlace::State, one(&places.state)),
            (PathRulePlace::Policies, one(&places.policies)),
            (PathRulePlace::Socket, one(&places.socket)),
            (PathRulePlace::Proc, vec![proc]),
            (PathRulePlace::Directories, directories.clone()),
        ] {
            let access = rules.path(place).map_or(0, |rule| rule.access) & files;
            allowed.extend(paths.into_iter().map(|path| (path, access)));
        }
        landlock::restrict([files, network, 0], &allowed)?;
        denied.push_str(", files but in their places");
        Ok(Ok(denied))
    }
}

/// Whether a daemon could have all of [`LAYERS`] here, from what was found about each.
pub(crate) fn available(features: &[Feature]) -> Status {
    let own = |bit: u64| LAYERS & bit != 0;
    let names = || layer::ALL.iter().filter(|(bit, _)| own(*bit)).map(|(_, name)| *name);
    let missing: Vec<String> = features
        .iter()
        .filter(|feature| names().any(|name| feature.name == name))
        .filter_map(|feature| match &feature.status {
            Status::Missing { why, .. } => Some(format!("{}: {why}", feature.name)),
            Status::Available { .. } => None,
        })
        .collect();
    if missing.is_empty() {
        return Status::with(format!(
            "{} (ask a daemon with --socket for what it has)",
            names().collect::<Vec<_>>().join(", ")
        ));
    }
    Status::missing(
        missing.join("; "),
        "see the row of the layer; daemon.confine = \"available\" does without",
    )
}

impl InForce {
    /// The same for a [`crate::HostReport`].
    pub fn status(&self) -> Status {
        if self.missing.is_empty() {
            Status::with(self.to_string())
        } else {
            Status::missing(self.to_string(), "see the row of the layer")
        }
    }

    /// What a daemon says that does not confine itself.
    pub fn off() -> Status {
        Status::missing("NOT confined: daemon.confine is \"off\"", "daemon.confine = \"available\"")
    }
}

impl fmt::Display for InForce {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "confined: ";
        for (bit, name) in layer::ALL.iter().filter(|(bit, _)| self.layers & bit != 0) {
            write!(f, "{separator}{name}")?;
            if *bit == layer::LANDLOCK {
                write!(f, " ({})", self.landlock)?;
            }
            separator = ", ";
        }
        for missing in &self.missing {
            write!(f, "; NOT {}: {}", missing.layer, missing.reason)?;
        }
        Ok(())
    }
}

fn prctl(option: i32, value: libc::c_ulong, what: &'static str) -> Result<(), Error> {
    // SAFETY: the options used here take numbers.
    match unsafe { libc::prctl(option, value, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(system(what)(io::Error::last_os_error())),
    }
}

/// Drops every capability for good: by the bounding set where this process may change that, else by `no_new_privs`, which must be
/// set.
fn give_up_capabilities() -> Result<(), Error> {
    let failed = |errno: i32| system("drop this process's capabilities")(io::Error::from_raw_os_error(errno));
    match zygote::confine::lock_capabilities() {
        // Nothing to lock: the process has no capability, or not the one (CAP_SETPCAP) that it takes.
        Err(Errno(libc::EPERM)) | Ok(()) => {}
        Err(Errno(errno)) => return Err(failed(errno)),
    }
    zygote::confine::no_capabilities().map_err(|(_, Errno(errno))| failed(errno))
}

/// Refusals are written to the kernel's audit log, where there is one: they fail, and nothing else would tell of them.
pub(crate) fn install_filter() -> Result<(), Error> {
    let filter = policies::supervisor_filter()?;
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `program` points to its instructions, which live until the call returns.
    let installed = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_LOG,
            &raw const program,
        )
    };
    if installed == 0 {
        Ok(())
    } else {
        Err(system("install the daemon's seccomp filter")(io::Error::last_os_error()))
    }
}
