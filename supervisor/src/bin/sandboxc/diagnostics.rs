//! What went wrong, for people or for programs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use compiler::{ArtifactError, Diagnostic, ErrorKind};
use serde::Serialize;
use supervisor::Error;

/// Why there is no output.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// The file that it is about.
    file: PathBuf,
    kind: Kind,
    message: String,
    /// Byte offset in the module, if known.
    offset: Option<u64>,
    /// Index of the function, if known.
    function: Option<u32>,
}

/// Which error it is, as a word that does not change.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Kind {
    /// The module is refused.
    Module(ErrorKind),
    /// Something else.
    Other(&'static str),
}

impl Problem {
    fn other(path: &Path, kind: &'static str, message: String) -> Self {
        Problem { file: path.to_owned(), kind: Kind::Other(kind), message, offset: None, function: None }
    }

    pub fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::other(path, "io", format!("cannot {what} {}: {error}", path.display()))
    }

    pub fn configuration(path: &Path, error: &policies::Error) -> Self {
        Self::other(path, "configuration", error.to_string())
    }

    pub fn interface(path: &Path, error: &policies::Error) -> Self {
        Self::other(path, "interface", error.to_string())
    }

    pub fn refused(path: &Path, diagnostic: &Diagnostic) -> Self {
        let Diagnostic { kind, ref message, offset, function } = *diagnostic;
        let message = format!("{}: {message}", path.display());
        Problem { file: path.to_owned(), kind: Kind::Module(kind), message, offset, function }
    }

    /// There is no output, or none that can be used.
    pub fn of_compilation(path: &Path, error: &Error) -> Self {
        let kind = match error {
            Error::Refused(diagnostic) => return Self::refused(path, diagnostic),
            Error::CompilerCrashed { .. } | Error::CompilerOutput { .. } => "crash",
            Error::CompileLimit { .. } | Error::ImportsTooLong { .. } => "limit",
            Error::ImportsRefused { .. } | Error::SameInterface { .. } => "interface",
            // The worker could not be confined, or is gone: the module has nothing to do with it.
            _ => "worker",
        };
        Self::other(path, kind, format!("{}: {error}", path.display()))
    }

    pub fn of_artifact(path: &Path, error: &ArtifactError) -> Self {
        Self::other(path, "artifact", format!("{}: {error}", path.display()))
    }

    /// One line on stderr, or one line of JSON on stdout.
    pub fn tell(&self, json: bool) {
        let line = if json { serde_json::to_string(self).ok() } else { None };
        // Nobody may be reading; the exit status says it too.
        let _ = match line {
            Some(line) => writeln!(io::stdout(), "{line}"),
            // Names of a file or a module may hold anything; the message is one line.
            None => writeln!(io::stderr(), "sandboxc: {}", ipc::protocol::one_line(&self.message)),
        };
    }
}
