//! A run through the daemon.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use client::{Client, JobRequest, LimitsRequest, Module};
use ipc::report::Report;
use supervisor::daemon::signals::Interrupts;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::error::Error;
use crate::run::Plan;
use crate::session::backend::Backend;

/// How long the report of a cancelled job may take.
const CANCEL_TIME: Duration = Duration::from_secs(2);

/// Connects; a daemon that does not answer can be interrupted.
pub async fn connect(socket: &Path, interrupts: &mut Interrupts) -> Result<Client, Error> {
    tokio::select! {
        biased;
        client = Client::connect(socket) => Ok(client?),
        () = interrupts.arrived() => Err(Error::Interrupted),
    }
}

/// Runs the job in the daemon; a signal cancels it there. A daemon that does not react to that is left alone, after a
/// while or a second signal: the end of the connection cancels too.
pub async fn run(mut client: Client, plan: Plan, interrupts: &mut Interrupts) -> Result<Report, Error> {
    let (job, module_path) = request(plan);
    let (cancel, cancelled) = oneshot::channel::<()>();
    let result = {
        let mut run = pin!(client.run_until(job, async { drop(cancelled.await) }));
        tokio::select! {
            biased;
            result = &mut run => result,
            () = interrupts.arrived() => {
                // An error means that nothing waits for it any more.
                let _ = cancel.send(());
                tokio::select! {
                    biased;
                    result = &mut run => result,
                    () = interrupts.arrived() => return Err(Error::NoReport),
                    () = sleep(CANCEL_TIME) => return Err(Error::NoReport),
                }
            }
        }
    };
    result.map_err(|error| blame(error, module_path))
}

/// Opens a session in the daemon.
pub async fn session(mut client: Client, plan: Plan) -> Result<Backend, Error> {
    let (job, module_path) = request(plan);
    let session = client.session(job).await.map_err(|error| blame(error, module_path))?;
    Ok(Backend::Daemon { session, _client: client })
}

/// The daemon does not know the name of the module's file.
fn blame(error: client::Error, module_path: PathBuf) -> Error {
    match error {
        client::Error::Daemon(reply) if reply.kind == client::ErrorKind::Module => {
            Error::RemoteModule { path: module_path, reply }
        }
        client::Error::Daemon(reply) if reply.kind == client::ErrorKind::Cancelled => Error::Interrupted,
        error => error.into(),
    }
}

/// What the daemon is asked for, and the module's path.
fn request(plan: Plan) -> (JobRequest, PathBuf) {
    let job = JobRequest {
        module: Module::File(plan.module),
        entry: plan.entry,
        policy: plan.policy,
        args: plan.args,
        env: plan.env,
        stdio: plan.stdio,
        directories: plan.directories,
        sockets: plan.sockets,
        imports: client::Imports::default(),
        limits: LimitsRequest {
            memory: plan.memory,
            fuel: plan.fuel,
            wall_time_ns: plan.wall_time.map(|t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX)),
        },
        tenant: None,
    };
    (job, plan.module_path)
}
