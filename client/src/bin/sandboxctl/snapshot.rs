//! `sandboxctl snapshot`: an initialised module as an artifact.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use client::EntryRequest;
use supervisor::arguments::ConfigurationArguments;
use supervisor::daemon::signals::Interrupts;

use crate::compile::write_whole;
use crate::embedded;
use crate::error::Error;
use crate::run::{self, GuestOptions};

/// Run an export that initialises a module, confined, and write what it leaves as an artifact: `sandboxctl run` runs instances
/// that begin there.
///
/// What the module's own start function and `_initialize` do is done before, and not again. The options say what the
/// initialisation is given; each run of the snapshot has its own.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The export that initialises the module: a function without parameters and results.
    #[arg(long, value_name = "EXPORT")]
    init: String,
    /// Where the snapshot goes.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    guest: GuestOptions,
    /// Compile the module with its debugging information: backtraces name source lines.
    #[arg(short = 'g', long)]
    debug_info: bool,
    #[command(flatten)]
    configuration: ConfigurationArguments,
    /// Directory of the artifact cache [default: $SANDBOXD_STATE_DIR, else sandboxd in the user's cache directory].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The module (.wasm, .wat, or an artifact).
    #[arg(value_name = "MODULE")]
    module: PathBuf,
    /// Arguments that the initialisation finds.
    #[arg(value_name = "ARGS", last = true)]
    args: Vec<OsString>,
}

pub fn snapshot(options: Options) -> Result<u8, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let config = run::config(&options.configuration, options.state_dir)?;
    let (init, path) = (options.init, options.module);
    let entry = EntryRequest::Export { name: init.clone(), args: Vec::new() };
    let plan = options.guest.plan(path, entry, options.args, options.debug_info)?;
    let snapshot = runtime.block_on(async {
        let mut interrupts = Interrupts::catch().map_err(Error::Signals)?;
        let prepared = embedded::prepare(plan, config, &mut interrupts).await?;
        prepared.snapshot(&init, &mut interrupts).await
    })?;
    write_whole(&options.output, snapshot.artifact_bytes())
        .map_err(|source| Error::Write { path: options.output.clone(), source })?;
    if let Some(made) = snapshot.snapshot() {
        let asked: Vec<String> = made.asked.iter().map(ToString::to_string).collect();
        let purity = match (made.is_pure(), asked.is_empty()) {
            (_, true) => String::from("pure: it depends on its inputs only"),
            (true, _) => {
                format!("pure, beside the contents of what it read: it asked for {}", asked.join(", "))
            }
            (false, _) => format!("not pure: it asked for {}", asked.join(", ")),
        };
        let bytes = snapshot.artifact_bytes().len();
        let written = writeln!(std::io::stderr(), "snapshot after {init:?}: {bytes} bytes, {purity}");
        // Nobody reads it: the file is there all the same.
        drop(written);
    }
    Ok(0)
}
