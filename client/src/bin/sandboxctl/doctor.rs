//! `sandboxctl doctor`: what this host offers, layer by layer, and how to get what is missing.

use std::io::Write;
use std::path::PathBuf;

use supervisor::HostReport;

use crate::error::Error;
use crate::policy::ask;

/// Tell what this host offers, layer by layer, and how to get what is missing.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    /// Ask the daemon at this socket: what it found at its start, and how it has confined itself.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

pub fn doctor(options: Options) -> Result<u8, Error> {
    let report = match &options.socket {
        None => HostReport::probe(),
        Some(socket) => {
            let json = ask(socket, async |mut client| Ok(client.doctor().await?))?;
            serde_json::from_str(&json).map_err(|_| client::Error::Unexpected)?
        }
    };
    let mut out = std::io::stdout().lock();
    let written = if options.json {
        let json = serde_json::to_string_pretty(&report).map_err(|e| Error::Stdout(e.into()))?;
        writeln!(out, "{json}")
    } else {
        writeln!(out, "{report}")
    };
    written.and_then(|()| out.flush()).map_err(Error::Stdout)?;
    Ok(0)
}
