//! A run through the daemon.

use client::{Client, JobRequest, LimitsRequest, Module};
use ipc::report::Report;

use crate::error::Error;
use crate::run::Plan;
use crate::signals::Interrupts;

/// Runs the job in the daemon; a signal cancels it there.
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
        limits: LimitsRequest {
            memory: plan.memory,
            wall_time_ns: plan.wall_time.map(|t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX)),
        },
        tenant: None,
    };
    match client.run_until(job, interrupts.arrived()).await {
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
