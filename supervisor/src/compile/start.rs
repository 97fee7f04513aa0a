//! Starting the compile zygote.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipc::control::{Command, Reply, Step, command, layer, reply};
use zerocopy::IntoBytes;

use super::attempt::{receive, step_error};
use super::wire::NAME;
use super::zygote::BEFORE_MAIN;
use crate::child::Child;
use crate::config::Config;
use crate::error::{Error, system};
use crate::host;
use crate::process::{self, Started};
use crate::zygote::root::{INSIDE_ID, map_ids};

/// The layers of every worker: all but the one that guards an instance's code, and those that a host may lack.
const LAYERS: u64 = layer::USER_NAMESPACE
    | layer::MOUNT_NAMESPACE
    | layer::PID_NAMESPACE
    | layer::NET_NAMESPACE
    | layer::IPC_NAMESPACE
    | layer::UTS_NAMESPACE
    | layer::CGROUP_NAMESPACE
    | layer::EMPTY_ROOT
    | layer::LANDLOCK
    | layer::NO_NEW_PRIVS
    | layer::CAPABILITIES
    | layer::SECCOMP
    | layer::RLIMITS
    | layer::UNDUMPABLE;

/// Layers of workers on hosts that have them.
const OPTIONAL_LAYERS: u64 = layer::TIME_NAMESPACE | layer::OWN_KEYRING;

/// How long a zygote may take to do what takes it milliseconds, before it counts as dead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running compile zygote. Dropping it ends it, and its workers with it.
#[derive(Debug)]
pub(super) struct Zygote {
    pub(super) control: OwnedFd,
    pub(super) process: Started,
    /// What it runs, if that is not the program that runs already.
    pub(super) named: Option<PathBuf>,
}

pub(super) fn died(detail: String) -> Error {
    Error::CompileZygoteDied { detail }
}

/// Has a zygote started, and waits until it is confined.
pub(super) fn zygote(config: &Config) -> Result<Zygote, Error> {
    let Some(spawner) = &config.spawner else { return start(config) };
    let (control, process) = spawner.compile_zygote()?;
    Ok(Zygote { control, process, named: config.worker_program.clone() })
}

/// For the spawner: starts a zygote and waits until it is confined.
pub(crate) fn confined(config: &Config) -> Result<(OwnedFd, Started), Error> {
    start(config).map(|zygote| (zygote.control, zygote.process))
}

/// Starts a zygote and waits until it is confined.
fn start(config: &Config) -> Result<Zygote, Error> {
    let named = config.worker_program.clone();
    // Without the entry point in it, this program would do what it does for a user.
    if named.is_none() && !in_main_program() {
        return Err(Error::NoWorkerProgram);
    }
    let (control, theirs) = process::sockets()?;
    let program = named.as_deref().unwrap_or("/proc/self/exe".as_ref());
    let process = Child::start(program, NAME, theirs).map_err(|error| match &named {
        Some(program) => not_a_worker(program, format!("it cannot be executed ({error})")),
        None => system("start the compile zygote from /proc/self/exe (is /proc mounted?)")(error),
    })?;
    // From here on the value's destructor ends the process, whatever fails.
    let zygote = Zygote { control, process: Started::Own(process), named };
    let filter_program = policies::compile_filter()?;
    let mut filter = Vec::with_capacity(size_of_val(filter_program.as_slice()));
    for instruction in &filter_program {
        filter.extend_from_slice(&instruction.code.to_ne_bytes());
        filter.extend_from_slice(&[instruction.jt, instruction.jf]);
        filter.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    let send = |command: &Command, filter: &[u8]| {
        let mut packet = command.as_bytes().to_vec();
        packet.extend_from_slice(filter);
        ipc::fdpass::send(&zygote.control, &packet, &[]).map(|_| ()).map_err(|error| zygote.silent(error))
    };
    let missing = host::missing_optional_layers().iter().fold(0, |all, (bit, _)| all | bit);
    let layers = LAYERS | (OPTIONAL_LAYERS & !missing);
    let confine = Command {
        kind: command::CONFINE,
        // The worker does by itself what the last two stand for.
        layers,
        clock_offsets: host::clocks_from_now(),
        landlock: host::landlock_handled(host::landlock_abi()),
        uid: INSIDE_ID,
        gid: INSIDE_ID,
        ..Command::default()
    };
    send(&confine, &[])?;
    zygote.expect(reply::UNSHARED)?;
    map_ids(zygote.process.id(), config.sandbox_id)?;
    let filter_len = filter_program.len() as u32;
    send(&Command { kind: command::MAPPED, filter_len, ..Command::default() }, &filter)?;
    let ready = zygote.expect(reply::READY)?;
    if ready.layers != layers {
        return Err(died(format!(": layers {:#x} instead of {layers:#x}", ready.layers)));
    }
    Ok(zygote)
}

impl Zygote {
    fn expect(&self, kind: u32) -> Result<Reply, Error> {
        match receive(&self.control, Instant::now() + PATIENCE) {
            Ok(Some((reply, _))) if reply.kind == kind => Ok(reply),
            Ok(Some((Reply { kind: reply::FAILED, step, errno, .. }, _))) => {
                Err(zygote_error(self.named.as_deref(), step, errno))
            }
            Ok(_) => Err(self.silent(io::ErrorKind::InvalidData.into())),
            Err(error) => Err(self.silent(error)),
        }
    }

    fn silent(&self, error: io::Error) -> Error {
        match &self.named {
            Some(program) => not_a_worker(program, format!("it does not answer as one ({error})")),
            None => died(format!(" while it started ({error})")),
        }
    }
}

/// What a step that failed in a zygote means.
pub(super) fn zygote_error(named: Option<&Path>, step: u32, errno: i32) -> Error {
    match (Step::from_number(step), named) {
        (Some(Step::OtherVersion), Some(program)) => not_a_worker(program, "it is of another version".into()),
        _ => step_error(step, errno),
    }
}

fn not_a_worker(program: &Path, what: String) -> Error {
    Error::WorkerProgram { program: program.to_owned(), what }
}

/// Whether this library is in the program itself, and not in a shared library that the program has loaded: only then does
/// executing the program anew come by [`BEFORE_MAIN`].
fn in_main_program() -> bool {
    /// Called for the first object, which is the program: it ends the walk.
    unsafe extern "C" fn program(info: *mut libc::dl_phdr_info, _: usize, found: *mut c_void) -> c_int {
        let here = BEFORE_MAIN as *const () as u64;
        // SAFETY: the C library passes a valid record with `dlpi_phnum` headers; `found` is the caller's.
        unsafe {
            let headers = std::slice::from_raw_parts((*info).dlpi_phdr, (*info).dlpi_phnum.into());
            *found.cast::<bool>() = headers.iter().any(|header| {
                let start = (*info).dlpi_addr.wrapping_add(header.p_vaddr);
                header.p_type == libc::PT_LOAD && here.wrapping_sub(start) < header.p_memsz
            });
        }
        1
    }
    let mut found = false;
    // SAFETY: `program` is called during this call, with the address of a boolean that outlives it.
    unsafe { libc::dl_iterate_phdr(Some(program), (&raw mut found).cast()) };
    found
}
