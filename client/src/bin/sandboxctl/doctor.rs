//! `sandboxctl doctor`: what this host offers, layer by layer, and how to get what is missing.

use std::io::Write;

use supervisor::HostReport;

use crate::error::Error;

/// Tell what this host offers, layer by layer, and how to get what is missing.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

pub fn doctor(options: Options) -> Result<u8, Error> {
    let report = HostReport::probe();
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
