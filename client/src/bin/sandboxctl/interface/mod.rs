//! `sandboxctl interface`: looks at interfaces of typed host functions, and generates what authors of guests need.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use supervisor::interface::{Interface, Lowered};

use crate::OWN_ERROR;
use crate::compile::write_whole;
use crate::error::Error;
use crate::policy::{print, show};

mod check;

/// Check interfaces of typed host functions (docs/host-functions.md), and generate headers, modules and references for guests.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    command: InterfaceCommand,
}

#[derive(Debug, Subcommand)]
enum InterfaceCommand {
    Check(check::Options),
    /// Generate a header for guests in C or C++, compiled by clang for wasm32.
    Header(Generate),
    /// Generate a module for guests in Rust, with or without the standard library.
    Rust(Generate),
    /// Generate a reference for authors of guests, in Markdown.
    Docs(Generate),
}

#[derive(Debug, clap::Args)]
struct Generate {
    /// Where the text goes [default: standard output].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The interface, a file in TOML.
    #[arg(value_name = "FILE")]
    interface: PathBuf,
}

pub fn interface(options: Options) -> Result<u8, Error> {
    let result = match options.command {
        InterfaceCommand::Check(options) => check::check(options),
        InterfaceCommand::Header(options) => generate(options, |interface| Ok(interface.c_header()?)),
        InterfaceCommand::Rust(options) => generate(options, |interface| Ok(interface.rust_module()?)),
        InterfaceCommand::Docs(options) => generate(options, |interface| Ok(interface.reference())),
    };
    match result {
        Err(Error::Policy(error)) => show(&[error]),
        other => return other,
    }
    Ok(OWN_ERROR)
}

fn read(path: &Path) -> Result<Lowered, Error> {
    Ok(Interface::read(path)?)
}

fn generate(options: Generate, text: impl Fn(&Lowered) -> Result<String, Error>) -> Result<u8, Error> {
    let text = text(&read(&options.interface)?)?;
    match options.output {
        None => print(&text)?,
        Some(path) => {
            write_whole(&path, text.as_bytes()).map_err(|source| Error::Write { path, source })?;
        }
    }
    Ok(0)
}
