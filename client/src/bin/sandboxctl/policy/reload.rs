//! `sandboxctl policy reload`.

use std::path::{Path, PathBuf};

use client::Client;
use serde_json::json;

use super::{print, print_json};
use crate::error::Error;

/// Have the daemon read its directory of policies anew: all of them, or, if one has a mistake, none. Running jobs keep theirs.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Socket of the daemon [default: $SANDBOXD_SOCKET, else the usual one].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

pub fn reload(options: &Options) -> Result<u8, Error> {
    let from_environment =
        || std::env::var_os("SANDBOXD_SOCKET").filter(|s| !s.is_empty()).map(PathBuf::from);
    let socket = options.socket.clone().or_else(from_environment).or_else(client::default_socket);
    let socket = socket.ok_or(client::Error::NoSocket)?;
    let reloaded = ask(&socket, async |mut client| Ok(client.reload_policies().await?))?;
    if options.json {
        print_json(&json!({
            "policies": reloaded.policies, "added": reloaded.added, "changed": reloaded.changed, "removed": reloaded.removed,
        }))?;
        return Ok(0);
    }
    let mut text = format!("{} policies\n", reloaded.policies);
    for (what, names) in [("new", reloaded.added), ("changed", reloaded.changed), ("gone", reloaded.removed)]
    {
        for name in names {
            text.push_str(&format!("{what}: {name}\n"));
        }
    }
    print(&text)?;
    Ok(0)
}

/// Asks a daemon something.
pub fn ask<T>(socket: &Path, question: impl AsyncFnOnce(Client) -> Result<T, Error>) -> Result<T, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async { question(Client::connect(socket).await?).await })
}
