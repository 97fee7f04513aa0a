//! `sandboxctl run`: one job, through the daemon when one listens, else through a supervisor of our own.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::{Directory, EntryRequest, PolicyRequest};
use policies::Policy;
use supervisor::Config;
use supervisor::arguments::ConfigurationArguments;
use supervisor::daemon::signals::Interrupts;

use crate::error::Error;
use crate::{daemon, embedded, outcome};

/// Run a WebAssembly module (.wasm, .wat, or an artifact of `sandboxctl compile`) as a confined process.
///
/// Exit status: the guest's own; 134 after a trap, 124 after a time limit, 137 after another limit, 159 after a violation
/// of the confinement, 130 when interrupted, 125 when the job could not be run.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub job: JobOptions,
    /// Print a report as a JSON object on one line, after the guest's output.
    #[arg(long)]
    json: bool,
    /// Socket of the daemon [default: $SANDBOXD_SOCKET, else the usual one if a daemon listens there].
    #[arg(long, value_name = "PATH", conflicts_with_all = ["no_daemon", "debug_info", "config", "set"])]
    socket: Option<PathBuf>,
    /// Do not look for a daemon.
    #[arg(long)]
    no_daemon: bool,
    /// Directory of the artifact cache, without a daemon [default: $SANDBOXD_STATE_DIR, else sandboxd in the user's
    /// cache directory].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// A job, as the command line describes it.
#[derive(Debug, clap::Args)]
pub struct JobOptions {
    #[command(flatten)]
    guest: GuestOptions,
    /// Run this export instead of _start; ARGS are its arguments, its results are printed.
    #[arg(long, value_name = "EXPORT")]
    invoke: Option<String>,
    /// Compile the module with its debugging information, without a daemon: backtraces name source lines. (An artifact of
    /// `sandboxctl compile -g` names them with a daemon too.)
    #[arg(short = 'g', long)]
    debug_info: bool,
    #[command(flatten)]
    configuration: ConfigurationArguments,
    /// The module, and arguments for the guest.
    #[arg(value_names = ["MODULE", "ARGS"], required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    module_and_args: Vec<OsString>,
}

/// What a guest is given, and how far it may go.
#[derive(Debug, clap::Args)]
pub struct GuestOptions {
    /// Policy: the name of a profile, or a file (its name contains '/' or ends in .toml).
    #[arg(long, value_name = "NAME|FILE", default_value = "default")]
    policy: String,
    /// Directory that the guest may use, and its name in the guest (the same, if left out). Repeatable.
    #[arg(long, value_name = "HOST::GUEST", value_parser = directory)]
    dir: Vec<DirectoryOption>,
    /// The same, for reading only.
    #[arg(long, value_name = "HOST::GUEST", value_parser = directory)]
    ro_dir: Vec<DirectoryOption>,
    /// Listen on this address (HOST:PORT) and let the guest accept connections there. Repeatable.
    #[arg(long, value_name = "ADDRESS")]
    tcplisten: Vec<String>,
    /// Hand the guest the sockets that a service manager passed to this process (LISTEN_FDS, sd_listen_fds(3)).
    #[arg(long)]
    listenfd: bool,
    /// Environment variable of the guest; without a value, the one it has here. Repeatable.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<OsString>,
    /// The program's own name, its first argument [default: the module's file name].
    #[arg(long, value_name = "NAME")]
    argv0: Option<OsString>,
    /// Largest size of the guest's memory, such as 64M or 1GiB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Longest run time, such as 1s or 500ms.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// What the guest may execute, in units of about one instruction; then it traps. The report says what was used.
    #[arg(long, value_name = "UNITS")]
    fuel: Option<u64>,
}

#[derive(Clone, Debug)]
struct DirectoryOption {
    host: PathBuf,
    guest: String,
}

fn directory(text: &str) -> Result<DirectoryOption, String> {
    let (host, guest) = text.split_once("::").unwrap_or((text, text));
    if host.is_empty() || guest.is_empty() {
        return Err(String::from("HOST::GUEST or DIRECTORY is expected"));
    }
    Ok(DirectoryOption { host: PathBuf::from(host), guest: String::from(guest) })
}

fn size(text: &str) -> Result<u64, String> {
    policies::parse_size(text)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("expected {}", policies::SIZE_FORM))
}

fn duration(text: &str) -> Result<Duration, String> {
    policies::parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| format!("expected {}", policies::DURATION_FORM))
}

impl JobOptions {
    /// The policy as it was given.
    pub fn policy_name(&self) -> &str {
        &self.guest.policy
    }

    /// How a supervisor of our own is set up for it.
    pub fn config(&self, state_dir: Option<PathBuf>) -> Result<Config, Error> {
        config(&self.configuration, state_dir)
    }
}

/// How a supervisor of our own is set up for one job.
pub fn config(configuration: &ConfigurationArguments, state_dir: Option<PathBuf>) -> Result<Config, Error> {
    let configuration = configuration.configuration()?;
    let state_dir = state_dir.or_else(|| configuration.state_dir.clone());
    Ok(Config { state_dir: supervisor::daemon::state_dir(state_dir), shards: 1, ..configuration.config() })
}

/// A job as both ways of running it need it: everything is open, nothing is a path any more but for messages.
pub struct Plan {
    /// The module's path, for messages.
    pub module_path: PathBuf,
    /// The module.
    pub module: client::ModuleFile,
    /// What runs.
    pub entry: EntryRequest,
    /// The policy.
    pub policy: PolicyRequest,
    /// Argument strings.
    pub args: Vec<Vec<u8>>,
    /// Environment.
    pub env: Vec<Vec<u8>>,
    /// Our own stdio, for the guest.
    pub stdio: [Option<OwnedFd>; 3],
    /// Directories.
    pub directories: Vec<Directory>,
    /// Sockets.
    pub sockets: Vec<OwnedFd>,
    /// Largest memory.
    pub memory: Option<u64>,
    /// Longest run time.
    pub wall_time: Option<Duration>,
    /// Fuel.
    pub fuel: Option<u64>,
    /// Whether the module is compiled with its debugging information.
    pub debug_info: bool,
}

/// Where a job or session runs.
pub enum Place {
    /// In the daemon at this socket; without one there, it is an error.
    Daemon(PathBuf),
    /// In the daemon at this socket if it answers.
    DaemonIfAny(PathBuf),
    /// In a supervisor of our own.
    Embedded,
}

pub fn run(options: Options) -> Result<u8, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    // What these say does not reach a daemon.
    let alone = options.no_daemon || options.job.debug_info || options.job.configuration.are_given();
    let (place, json) = (place(options.socket, alone), options.json);
    let config = options.job.config(options.state_dir.clone())?;
    let plan = plan(options.job)?;
    let (report, cache_problem) = runtime.block_on(async {
        // Before anything exists that a signal could leave behind.
        let mut interrupts = Interrupts::catch().map_err(Error::Signals)?;
        match place {
            Place::Daemon(socket) => {
                let client = daemon::connect(&socket, &mut interrupts).await?;
                Ok((daemon::run(client, plan, &mut interrupts).await?, None))
            }
            Place::DaemonIfAny(socket) => match daemon::connect(&socket, &mut interrupts).await {
                Ok(client) => Ok((daemon::run(client, plan, &mut interrupts).await?, None)),
                Err(Error::Client(client::Error::Connect { .. })) => {
                    embedded::run(plan, config, &mut interrupts).await
                }
                Err(error) => Err(error),
            },
            Place::Embedded => embedded::run(plan, config, &mut interrupts).await,
        }
    })?;
    outcome::tell(&report, cache_problem, json)
}

/// In the daemon at `socket`, or in the usual one, unless it must be `alone`.
pub fn place(socket: Option<PathBuf>, alone: bool) -> Place {
    if alone {
        return Place::Embedded;
    }
    let from_environment =
        || std::env::var_os("SANDBOXD_SOCKET").filter(|s| !s.is_empty()).map(PathBuf::from);
    if let Some(socket) = socket.or_else(from_environment) {
        return Place::Daemon(socket);
    }
    match client::default_socket() {
        Some(socket) => Place::DaemonIfAny(socket),
        None => Place::Embedded,
    }
}

/// The module's path, and the arguments of the guest.
pub fn module_and_args(strings: Vec<OsString>) -> Result<(PathBuf, Vec<OsString>), Error> {
    let mut strings = strings.into_iter();
    // Clap demands at least one.
    let module_path = strings.next().unwrap_or_default();
    // Clap takes an option that it does not know for the module.
    if module_path.as_bytes().starts_with(b"-") {
        return Err(Error::UnknownOption { text: module_path.to_string_lossy().into_owned() });
    }
    let mut rest: Vec<OsString> = strings.collect();
    if rest.first().is_some_and(|s| s == "--") {
        rest.remove(0);
    }
    Ok((PathBuf::from(module_path), rest))
}

pub fn plan(options: JobOptions) -> Result<Plan, Error> {
    let (module_path, rest) = module_and_args(options.module_and_args)?;
    let (entry, args) = match options.invoke {
        None => (EntryRequest::Command, rest),
        Some(name) => {
            // What is no UTF-8 is no number either, and is refused as such.
            let args = rest.iter().map(|s| s.to_string_lossy().into_owned()).collect();
            (EntryRequest::Invoke { name, args }, Vec::new())
        }
    };
    options.guest.plan(module_path, entry, args, options.debug_info)
}

impl GuestOptions {
    /// Opens what the guest is given. `args` follow the program's name.
    pub fn plan(
        self,
        module_path: PathBuf,
        entry: EntryRequest,
        args: Vec<OsString>,
        debug_info: bool,
    ) -> Result<Plan, Error> {
        let module = client::ModuleFile::open(&module_path)?;
        let argv0 = self
            .argv0
            .unwrap_or_else(|| module_path.file_name().map(OsStr::to_os_string).unwrap_or_default());
        let directories = self
            .dir
            .into_iter()
            .map(|d| (d, false))
            .chain(self.ro_dir.into_iter().map(|d| (d, true)))
            .map(|(d, read_only)| open_directory(d, read_only))
            .collect::<Result<_, _>>()?;
        Ok(Plan {
            module_path,
            module,
            entry,
            policy: policy(self.policy)?,
            args: std::iter::once(argv0).chain(args).map(OsString::into_vec).collect(),
            env: self.env.into_iter().map(variable).collect::<Result<_, _>>()?,
            stdio: stdio()?,
            directories,
            sockets: sockets(self.tcplisten, self.listenfd)?,
            memory: self.memory,
            wall_time: self.timeout,
            fuel: self.fuel,
            debug_info,
        })
    }
}

/// Opens for reading, so that a directory that we may not read is an error here and not in the guest.
fn open_directory(option: DirectoryOption, read_only: bool) -> Result<Directory, Error> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(&option.host)
        .map_err(|source| Error::Directory { path: option.host, source })?;
    Ok(Directory { directory: file.into(), guest_path: option.guest, read_only })
}

/// The sockets that were passed to us, then those that listen where we are told to.
fn sockets(listen: Vec<String>, passed: bool) -> Result<Vec<OwnedFd>, Error> {
    let mut sockets = if passed { passed_sockets()? } else { Vec::new() };
    for address in listen {
        match TcpListener::bind(&address) {
            Ok(listener) => sockets.push(listener.into()),
            Err(source) => return Err(Error::Listen { address, source }),
        }
    }
    Ok(sockets)
}

/// Copies of the descriptors of sd_listen_fds(3): the first is 3.
fn passed_sockets() -> Result<Vec<OwnedFd>, Error> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let count = number("LISTEN_FDS").filter(|_| number("LISTEN_PID") == Some(std::process::id()));
    let count = count.and_then(|count| i32::try_from(count).ok()).ok_or(Error::NoListenFds)?;
    let copy = |fd: i32| {
        // SAFETY: fcntl(2) with integers; a result that is not negative is a new descriptor that nobody else owns.
        unsafe {
            match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) {
                ..0 => Err(Error::ListenFd { number: fd, source: io::Error::last_os_error() }),
                copy => Ok(OwnedFd::from_raw_fd(copy)),
            }
        }
    };
    (3..3i32.saturating_add(count)).map(copy).collect()
}

fn variable(text: OsString) -> Result<Vec<u8>, Error> {
    if text.is_empty() || text.as_bytes().starts_with(b"=") {
        return Err(Error::NamelessVariable { text: text.to_string_lossy().into_owned() });
    }
    if text.as_bytes().contains(&b'=') {
        return Ok(text.into_vec());
    }
    match std::env::var_os(&text) {
        Some(value) => Ok([text.as_bytes(), b"=", value.as_bytes()].concat()),
        None => Err(Error::NoVariable { name: text.to_string_lossy().into_owned() }),
    }
}

/// A policy file is read here: the daemon opens no path on our word.
pub fn policy(name_or_path: String) -> Result<PolicyRequest, Error> {
    if !Policy::is_path(&name_or_path) {
        return Ok(PolicyRequest::Named(name_or_path));
    }
    let toml = read_policy(Path::new(&name_or_path))?;
    Ok(PolicyRequest::Text { name: name_or_path, toml })
}

/// The text of a policy file.
pub fn read_policy(path: &Path) -> Result<String, Error> {
    let error = |source| Error::ReadPolicy { path: path.to_path_buf(), source };
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(error)?;
    let mut toml = String::new();
    // One byte more than allowed, so that a longer file is refused as too long and not read on.
    file.take(policies::FILE_BYTES_MAX as u64 + 1).read_to_string(&mut toml).map_err(error)?;
    Ok(toml)
}

/// Our descriptors 0, 1 and 2. The standard library opens `/dev/null` for those that were closed when we started.
fn stdio() -> Result<[Option<OwnedFd>; 3], Error> {
    let duplicate =
        |number, fd: io::Result<OwnedFd>| fd.map(Some).map_err(|source| Error::Stdio { number, source });
    Ok([
        duplicate(0, io::stdin().as_fd().try_clone_to_owned())?,
        duplicate(1, io::stdout().as_fd().try_clone_to_owned())?,
        duplicate(2, io::stderr().as_fd().try_clone_to_owned())?,
    ])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{Cli, Command};

    fn options(arguments: &[&str]) -> Options {
        let arguments = ["sandboxctl", "run"].iter().chain(arguments);
        match Cli::try_parse_from(arguments).expect("parse").command {
            Command::Run(options) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn everything_after_the_module_is_the_guests() {
        let strings = |arguments: &[&str]| options(arguments).job.module_and_args;
        assert_eq!(strings(&["m.wasm", "-c", "x", "--json"]), ["m.wasm", "-c", "x", "--json"]);
        assert_eq!(strings(&["--json", "m.wasm", "--", "-a"]), ["m.wasm", "--", "-a"]);
        assert_eq!(strings(&["--", "m.wasm", "--", "--"]), ["m.wasm", "--", "--"]);
        assert!(!options(&["m.wasm", "--json"]).json);
    }

    #[test]
    fn directories_split_at_the_first_double_colon() {
        let split = |text| directory(text).map(|d| (d.host.to_string_lossy().into_owned(), d.guest));
        assert_eq!(split("a::/b"), Ok(("a".into(), "/b".into())));
        assert_eq!(split("a::b::c"), Ok(("a".into(), "b::c".into())));
        assert_eq!(split("a"), Ok(("a".into(), "a".into())));
        for wrong in ["", "::", "a::", "::b"] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for arguments in [
            &["--memory", "0", "m"][..],
            &["--memory", "lots", "m"],
            &["--timeout", "1", "m"],
            &["--timeout", "0s", "m"],
            &["--socket", "s", "--no-daemon", "m"],
            &["--socket", "s", "-g", "m"],
            &["--policy"],
            &[],
        ] {
            let arguments = ["sandboxctl", "run"].iter().chain(arguments);
            assert!(Cli::try_parse_from(arguments).is_err());
        }
        assert!(matches!(plan(options(&["--unknown", "m"]).job), Err(Error::UnknownOption { .. })));
    }
}
