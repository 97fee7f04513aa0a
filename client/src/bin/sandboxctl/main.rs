//! `sandboxctl`: runs WebAssembly confined, compiles it ahead of time, works on policies, and tells what a host offers.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use supervisor::daemon::signals;

mod bench;
mod compile;
mod daemon;
mod doctor;
mod embedded;
mod error;
mod interface;
mod outcome;
mod policy;
mod run;
mod session;
mod snapshot;
mod version;

/// Exit status for errors of our own: whatever keeps the guest from running or its end from being known.
const OWN_ERROR: u8 = 125;

/// Run WebAssembly programs confined, each in a process of its own.
#[derive(Debug, Parser)]
#[command(name = "sandboxctl", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Options>),
    Compile(compile::Options),
    Snapshot(Box<snapshot::Options>),
    Session(Box<session::Options>),
    Policy(policy::Options),
    Interface(interface::Options),
    Doctor(doctor::Options),
    Bench(bench::Options),
    Version(version::Options),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let result = signals::survive_file_size_limit().map_err(error::Error::Signals);
    let result = result.and_then(|()| match cli.command {
        Command::Run(options) => run::run(*options),
        Command::Compile(options) => compile::compile(options),
        Command::Snapshot(options) => snapshot::snapshot(*options),
        Command::Session(options) => session::session(*options),
        Command::Policy(options) => policy::policy(options),
        Command::Interface(options) => interface::interface(options),
        Command::Doctor(options) => doctor::doctor(options),
        Command::Bench(options) => bench::bench(options),
        Command::Version(options) => version::version(options),
    });
    let status = result.unwrap_or_else(|error| {
        complain(&error.to_string());
        error.exit_status()
    });
    ExitCode::from(status)
}

/// Help and version go to stdout; a wrong command line is an error of one line, like every other.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(OWN_ERROR),
        };
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(OWN_ERROR);
    }
    // The first paragraph says what is wrong; usage and tips follow.
    let text = error.render().to_string();
    let lines = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let message = lines.collect::<Vec<_>>().join(" ");
    complain(&format!("{}; try --help", message.trim_start_matches("error: ")));
    ExitCode::from(OWN_ERROR)
}

/// One line on stderr. (`eprintln!` would panic when nobody reads it.)
fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "sandboxctl: {}", ipc::protocol::one_line(message));
}
