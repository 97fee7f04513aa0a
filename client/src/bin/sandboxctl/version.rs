//! `sandboxctl version`.

use std::io::Write;

use crate::error::Error;

/// Print the version.
#[derive(Debug, clap::Args)]
pub struct Options {}

pub fn version(_: Options) -> Result<u8, Error> {
    let (min, max) = (ipc::protocol::VERSION_MIN, ipc::protocol::VERSION_MAX);
    writeln!(std::io::stdout(), "sandboxctl {} (job protocol {min} to {max})", env!("CARGO_PKG_VERSION"))
        .map_err(Error::Stdout)?;
    Ok(0)
}
