//! `sandboxctl policy list`.

use std::fmt::Write;
use std::path::PathBuf;

use client::PolicyInfo;
use serde_json::json;
use supervisor::daemon::policy_info;

use super::internal::Internal;
use super::{Known, print, print_json, reload};
use crate::error::Error;

/// List the policies that have names: the built-in ones, and those of a directory or of a daemon.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    known: Known,
    /// Ask the daemon at this socket.
    #[arg(long, value_name = "PATH", conflicts_with = "policy_dir")]
    socket: Option<PathBuf>,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

pub fn list(options: &Options) -> Result<u8, Error> {
    let policies: Vec<PolicyInfo> = match &options.socket {
        Some(socket) => reload::ask(socket, async |mut client| Ok(client.policies().await?))?,
        None => options.known.set()?.iter().map(|policy| policy_info(policy)).collect(),
    };
    if options.json {
        let of_jobs = policies.iter().map(|policy| {
            json!({
                "name": policy.name, "for_jobs": true, "file": policy.file, "extends": policy.extends,
                "description": policy.description, "dangerous": policy.dangerous,
            })
        });
        let internal = Internal::ALL.iter().map(|internal| {
            json!({
                "name": internal.name(), "for_jobs": false, "file": null, "extends": null,
                "description": internal.description(), "dangerous": false,
            })
        });
        print_json(&of_jobs.chain(internal).collect())?;
        return Ok(0);
    }
    let mut text = String::new();
    for policy in &policies {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<20} {}",
            policy.name,
            policy.description.as_deref().unwrap_or("(no description)")
        );
        let origin = policy.file.as_deref().unwrap_or("built in");
        let extends = policy.extends.as_ref().map_or_else(String::new, |base| format!(", extends {base}"));
        let dangerous = if policy.dangerous { ", MAY WIDEN what it extends" } else { "" };
        let _ = writeln!(text, "{:<20} {origin}{extends}{dangerous}", "");
    }
    for internal in Internal::ALL {
        let _ = writeln!(text, "{:<20} {}", internal.name(), internal.description());
    }
    print(&text)?;
    Ok(0)
}
