//! `sandboxd`: runs confined WebAssembly jobs for clients on a Unix socket.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ipc::control::layer;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use supervisor::arguments::ConfigurationArguments;
use supervisor::configuration::{CONNECTIONS_MAX, Configuration, Confine, JOBS_MAX, SHARDS_MAX};
use supervisor::confine::{Confinement, InForce, LAYERS, Places};
use supervisor::daemon::signals::{self, Hangup, Interrupts};
use supervisor::daemon::{self, Bounds, Listener, Policies};
use supervisor::{Config, HostReport, Supervisor};

/// Run confined WebAssembly jobs for clients on a Unix socket.
#[derive(Debug, Parser)]
#[command(name = "sandboxd", version)]
struct Options {
    #[command(flatten)]
    configuration: ConfigurationArguments,
    /// Socket to listen on [default: /run/sandboxd/sandboxd.sock for root, else $XDG_RUNTIME_DIR/sandboxd.sock].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Directory of the artifact cache [default: $SANDBOXD_STATE_DIR, else sandboxd in the user's cache directory].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Directory of policies: NAME.toml is the policy NAME. Read anew at SIGHUP and by `sandboxctl policy reload`.
    #[arg(long, value_name = "DIR")]
    policy_dir: Option<PathBuf>,
    /// Number of shards, each a thread with its own zygotes [default: one per processor].
    #[arg(long, value_name = "N", value_parser = up_to(SHARDS_MAX))]
    shards: Option<u32>,
    /// Connections at the same time; further ones are refused [default: 512].
    #[arg(long, value_name = "N", value_parser = up_to(CONNECTIONS_MAX))]
    max_connections: Option<u32>,
    /// Jobs at the same time; further ones wait [default: 256].
    #[arg(long, value_name = "N", value_parser = up_to(JOBS_MAX))]
    max_jobs: Option<u32>,
}

fn up_to(most: u32) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(most))
}

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no socket: XDG_RUNTIME_DIR is not set; give a path with --socket")]
    NoSocket,
    #[error("cannot start the event loop: {0}")]
    Runtime(#[source] std::io::Error),
    #[error("cannot handle signals: {0}")]
    Signals(#[source] std::io::Error),
    #[error(transparent)]
    Listen(#[from] daemon::ListenError),
    #[error(transparent)]
    Supervisor(#[from] supervisor::Error),
    #[error(transparent)]
    Policies(#[from] daemon::PolicyErrors),
    #[error(transparent)]
    Configuration(#[from] policies::Error),
    #[error("{0}; daemon.confine = \"available\" does without what is missing")]
    NotConfined(InForce),
    #[error(
        "daemon.directories says where clients' directories lie, but nothing enforces it ({0}); leave it out to have them lie anywhere"
    )]
    DirectoriesOpen(String),
    #[error("the spawner, which starts zygotes, has ended, and nothing else can start any")]
    SpawnerEnded,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("sandboxd: {}", ipc::protocol::one_line(&error.to_string())));
            ExitCode::FAILURE
        }
    }
}

/// One line on stderr. `eprintln!` would panic when nobody reads it.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn run(options: Options) -> Result<(), Error> {
    raise_file_limit();
    signals::survive_file_size_limit().map_err(Error::Signals)?;
    let given = options.configuration.configuration()?;
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let shards = options.shards.or(given.shards).map_or_else(processors, |n| n as usize);
    let config = Config { shards, ..given.config() };
    // A confined process cannot try out what the host has.
    let host = HostReport::probe();
    // While there is one thread, and nothing is open that the spawner should not have.
    let confinement = match given.confine {
        Confine::Off => None,
        Confine::Available | Confine::Required => Some(Confinement::begin(LAYERS, &config)?),
    };
    let spawner = confinement.as_ref().map(Confinement::spawner);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(daemon::BLOCKING_THREADS)
        .build()
        .map_err(Error::Runtime)?;
    let result = runtime.block_on(serve(options, given, config, host, confinement));
    // Also after an error: cgroups may have been made.
    if let Some(spawner) = spawner {
        runtime.block_on(spawner.end());
    }
    // A module may be being read from a file system that does not answer; nobody waits for it any more.
    runtime.shutdown_background();
    result
}

async fn serve(
    options: Options,
    given: Configuration,
    config: Config,
    host: HostReport,
    confinement: Option<Confinement>,
) -> Result<(), Error> {
    // Before the socket exists, so that no signal can leave it behind.
    let mut interrupts = Interrupts::catch_but_hangup().map_err(Error::Signals)?;
    let hangup = Hangup::catch().map_err(Error::Signals)?;
    let policy_dir = options.policy_dir.or_else(|| given.policy_dir.clone());
    let policies = Policies::load(policy_dir.clone(), say)?;
    let path = options.socket.or_else(|| given.socket.clone());
    let path = path.or_else(ipc::protocol::default_socket).ok_or(Error::NoSocket)?;
    let listener = Listener::bind(&path)?;
    let state_dir = daemon::state_dir(options.state_dir.or_else(|| given.state_dir.clone()));
    let spawner = confinement.as_ref().map(Confinement::spawner);
    let config = Config { state_dir: state_dir.clone(), spawner: spawner.clone(), ..config };
    let (confined, host, listed_directories) = match confinement {
        None => {
            (String::from("NOT confined: daemon.confine is \"off\""), host.of_daemon(InForce::off()), false)
        }
        Some(confinement) => {
            let directories = given.directories.clone();
            let places = Places::of_daemon(state_dir.as_deref(), policy_dir, listener.path(), directories);
            let in_force = confinement.finish(&places)?;
            if given.confine == Confine::Required && !in_force.missing.is_empty() {
                return Err(Error::NotConfined(in_force));
            }
            let listed = given.directories.is_some() && in_force.layers & layer::LANDLOCK != 0;
            (in_force.to_string(), host.of_daemon(in_force.status()), listed)
        }
    };
    if given.directories.is_some() && !listed_directories {
        return Err(Error::DirectoriesOpen(confined));
    }
    let supervisor = Supervisor::start(config)?;
    say(&format!("listening on {}", path.display()));
    say(&confined);
    if let Some(problem) = supervisor.cgroup_problem() {
        say(&format!("NOT in force: limits of tenants ([cgroup]): {problem}"));
    }
    let default = Bounds::default();
    let bounds = Bounds {
        connections: options.max_connections.or(given.max_connections).unwrap_or(default.connections),
        jobs: options.max_jobs.or(given.max_jobs).unwrap_or(default.jobs),
        listed_directories,
    };
    let mut result = Ok(());
    let end = async {
        let spawner_ended = async {
            match &spawner {
                Some(spawner) => spawner.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = interrupts.arrived() => {}
            () = spawner_ended => result = Err(Error::SpawnerEnded),
        }
    };
    daemon::serve(listener, supervisor, bounds, host, policies, hangup, end).await;
    result
}

/// Every job holds descriptors of its client: the usual soft limit of 1024 is soon reached. Best effort: with a
/// lower limit clients get an error that names it.
fn raise_file_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
