//! `sandboxctl policy`: looks at policies, checks them, proposes them, has a daemon read them anew.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use miette::{GraphicalReportHandler, GraphicalTheme};
use policies::{Policy, PolicySet};
use serde_json::{Value as Json, json};

use crate::OWN_ERROR;
use crate::error::Error;

mod check;
mod diff;
mod explain;
mod internal;
mod learn;
mod list;
mod proposal;
mod reload;
mod show_bpf;
mod test;

pub use reload::ask;

/// Look at policies, check them, propose them, have a daemon read them anew.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    List(list::Options),
    Check(check::Options),
    Explain(explain::Options),
    Test(test::Options),
    Diff(diff::Options),
    ShowBpf(show_bpf::Options),
    Learn(Box<learn::Options>),
    Reload(reload::Options),
}

/// Which policies have names.
#[derive(Debug, clap::Args)]
struct Known {
    /// Directory of policies, as `sandboxd --policy-dir` has it: its policies have names too.
    #[arg(long, value_name = "DIR")]
    policy_dir: Option<PathBuf>,
}

impl Known {
    /// The policies that have names.
    fn set(&self) -> Result<PolicySet, Error> {
        match &self.policy_dir {
            Some(directory) => PolicySet::load(directory).map_err(Error::Policies),
            None => Ok(PolicySet::builtin()?),
        }
    }
}

/// The policy that a user names: one that has a name, or a file, which may extend one.
fn find(known: &PolicySet, name_or_path: &str) -> Result<Policy, Error> {
    if Policy::is_path(name_or_path) {
        let text = crate::run::read_policy(Path::new(name_or_path))?;
        return Ok(known.parse(&text, name_or_path)?);
    }
    Ok(Policy::clone(known.get(name_or_path)?))
}

pub fn policy(options: Options) -> Result<u8, Error> {
    let result = match options.command {
        PolicyCommand::List(options) => list::list(&options),
        PolicyCommand::Check(options) => check::check(&options),
        PolicyCommand::Explain(options) => explain::explain(&options),
        PolicyCommand::Test(options) => test::test(&options),
        PolicyCommand::Diff(options) => diff::diff(&options),
        PolicyCommand::ShowBpf(options) => show_bpf::show_bpf(&options),
        PolicyCommand::Learn(options) => learn::learn(*options),
        PolicyCommand::Reload(options) => reload::reload(&options),
    };
    match result {
        Err(Error::Policy(error)) => show(&[error]),
        Err(Error::Policies(errors)) => show(&errors),
        other => return other,
    }
    Ok(OWN_ERROR)
}

/// Shows mistakes in policies, or in other documents, on stderr, each with the piece of text that it is in.
pub fn show(errors: &[policies::Error]) {
    let mut text = String::new();
    for error in errors {
        text.push_str(&rendered(error, std::io::stderr().is_terminal()));
    }
    // Nobody may be reading; the exit status says it too.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// A mistake as miette renders it.
fn rendered(error: &policies::Error, terminal: bool) -> String {
    let plain = !terminal || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let theme = if plain { GraphicalTheme::unicode_nocolor() } else { GraphicalTheme::unicode() };
    let mut text = String::new();
    let handler = GraphicalReportHandler::new_themed(theme).with_width(120).with_links(false);
    match handler.render_report(&mut text, &policies::Report(error)) {
        Ok(()) => text,
        // Its place cannot be shown; it can still be told.
        Err(_) => format!("{error}\n"),
    }
}

/// A mistake for programs.
pub fn error_json(error: &policies::Error) -> Json {
    let at = error.position();
    json!({
        "message": error.headline(),
        "help": error.help(),
        "file": at.map(|at| &*at.file),
        "line": at.map(|at| at.line),
        "column": at.map(|at| at.column),
        "text": at.and_then(|at| at.offending_text()),
    })
}

/// Writes to stdout.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Stdout)
}

/// Writes a JSON value to stdout.
pub fn print_json(value: &Json) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Stdout(error.into()))?;
    print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_shown_with_its_place() {
        let error = Policy::parse("version = 1\n\n[limits]\n  memry = 1\n", "my.toml").expect_err("mistake");
        let text = rendered(&error, false);
        for piece in
            ["unknown key \"memry\" in [limits]", "my.toml:4:3", "memry = 1", "did you mean \"memory\"?"]
        {
            assert!(text.contains(piece), "{piece}: {text}");
        }
        // What a terminal would obey is not shown, wherever it comes from.
        let hostile = "version = 1\n[limits]\nx = \"\u{1b}[31m\u{202e}\"\n";
        let text = rendered(&Policy::parse(hostile, "a\u{1b}.toml").expect_err("mistake"), false);
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
        // A line that is too long to show.
        let long = format!("version = 1\nx = \"{}\"\n", "y".repeat(100_000));
        assert!(rendered(&Policy::parse(&long, "long.toml").expect_err("mistake"), false).len() < 500);
    }
}
