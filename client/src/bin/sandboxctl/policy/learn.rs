//! `sandboxctl policy learn`: runs a job and proposes the smallest policy under which it would have run the same way.
//!
//! Nothing is loosened to learn: the job runs confined under the policy that it is to narrow. What an instance does is seen where
//! the supervisor serves it (host calls, files, streams, limits); of what it answers itself only the module's imports are known.
//! System calls are not collected: an instance of a sound module makes the few that the profile allows, so a call beyond them is no
//! grant that is missing but a broken wall, and is never proposed.

use std::io::Write;
use std::path::PathBuf;

use ipc::report::{Outcome, Violation};
use policies::Policy;
use serde_json::json;
use supervisor::daemon::signals::Interrupts;

use super::proposal::{Facts, propose};
use super::{print, print_json};
use crate::error::Error;
use crate::{embedded, outcome, run};

/// Run a job confined, without a daemon, and propose the smallest policy for it, with warnings about what it over-grants.
///
/// The proposal narrows the policy under which the job runs (--policy, the name of a profile). It goes to stdout after the guest's
/// output, or to a file. Exit status: 0 if there is a proposal, else 125.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Write the proposal to a file instead.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Room above what was seen, for memory, time, output, host calls, fuel and open files.
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    margin: u32,
    /// Print a JSON object with the proposal, the warnings and the report of the job.
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Directory of the artifact cache [default: $SANDBOXD_STATE_DIR, else sandboxd in the user's cache directory].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    job: run::JobOptions,
}

pub fn learn(options: Options) -> Result<u8, Error> {
    let Options { output, margin, json, state_dir, job } = options;
    // What the proposal extends must have a name wherever it is used.
    if Policy::is_path(job.policy_name()) {
        let why = "--policy must be the name of a profile, which the proposal can extend".to_owned();
        return Err(Error::NothingLearnt { why });
    }
    let base = Policy::builtin(job.policy_name())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let config = job.config(state_dir)?;
    let plan = run::plan(job)?;
    let (report, observed, host_functions, passed_environment) = runtime.block_on(async {
        let mut interrupts = Interrupts::catch().map_err(Error::Signals)?;
        let prepared = embedded::prepare(plan, config, &mut interrupts).await?;
        let host_functions: Vec<_> = prepared.job.module.host_functions().collect();
        let environment = !prepared.job.env.is_empty();
        let (report, observed) = prepared.observe(&mut interrupts).await?;
        Ok::<_, Error>((report, observed, host_functions, environment))
    })?;
    // How it ended otherwise, and the results of an export, as `run` tells them.
    outcome::tell(&report, None, false)?;
    let code = match &report.outcome {
        Outcome::Exited { code, .. } => *code,
        Outcome::Violated(Violation::Syscall { name, .. }) => {
            return Err(Error::NothingLearnt { why: beyond(&base, name) });
        }
        _ => return Err(Error::NothingLearnt { why: "the job did not end by itself".to_owned() }),
    };
    let facts = Facts {
        usage: &report.usage,
        observed: &observed,
        host_functions: &host_functions,
        passed_environment,
        code,
        margin,
    };
    let proposal = propose(&base, &facts)?;
    if json {
        print_json(&json!({
            "policy": proposal.toml, "warnings": proposal.warnings, "report": client::report_json(&report),
        }))?;
        return Ok(0);
    }
    match output {
        None => print(&proposal.toml)?,
        Some(path) => {
            std::fs::write(&path, &proposal.toml).map_err(|source| Error::Write { path, source })?
        }
    }
    for warning in &proposal.warnings {
        let _ = writeln!(std::io::stderr(), "sandboxctl: warning: {}", ipc::protocol::one_line(warning));
    }
    Ok(0)
}

/// What a refused system call means.
fn beyond(base: &Policy, name: &str) -> String {
    let grants = |policy: &str| {
        Policy::builtin(policy)
            .is_ok_and(|policy| policy.seccomp().allow.iter().any(|rule| rule.syscall.name() == name))
    };
    match Policy::names().find(|policy| *policy != base.name() && grants(policy)) {
        Some(policy) => {
            format!(
                "it made the system call {name}, which the policy {policy:?} allows; learn with --policy {policy}"
            )
        }
        None => format!(
            "it made the system call {name}, which no sound module makes: it has broken out of WebAssembly, and no policy should \
             let it"
        ),
    }
}
