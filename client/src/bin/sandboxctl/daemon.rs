//! A run through the daemon.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use client::{Client, JobRequest, LimitsRequest, Module};
use ipc::report::Report;
use supervisor::daemon::signals::Interrupts;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::error::Error;
use crate::run::Plan;

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
    let module_path = plan.module_path;
    let job = JobRequest {
        module: Module::File(plan.module),
        entry: plan.entry,
        policy: plan.policy,
        args: plan.args,
        env: plan.env,
        stdio: plan.stdio,
        directories: plan.directories,
        sockets: plan.sockets,
        limits: LimitsRequest {
            memory: plan.memory,
            fuel: plan.fuel,
            wall_time_ns: plan.wall_time.map(|t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX)),
        },
        tenant: None,
    };
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
    match result {
        // The daemon does not know the name of the file.
        Err(client::Error::Daemon(reply)) if reply.kind == client::ErrorKind::Module => {
            Err(Error::RemoteModule { path: module_path, reply })
        }
        Err(client::Error::Daemon(reply)) if reply.kind == client::ErrorKind::Cancelled => {
            Err(Error::Interrupted)
        }
        result => Ok(result?),
    }
}
