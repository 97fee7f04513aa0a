//! What went wrong, for people or for programs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use compiler::{ArtifactError, Diagnostic, Error};
use serde::Serialize;

/// Why there is no output.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// The file that it is about.
    file: PathBuf,
    kind: &'static str,
    message: String,
    /// Byte offset in the module, if known.
    offset: Option<usize>,
    /// Index of the function, if known.
    function: Option<u32>,
}

impl Problem {
    pub fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        let message = format!("cannot {what} {}: {error}", path.display());
        Problem { file: path.to_owned(), kind: "io", message, offset: None, function: None }
    }

    pub fn of_module(path: &Path, error: &Error, wasm: &[u8]) -> Self {
        let Diagnostic { kind, message, offset, function } = Diagnostic::new(error, wasm);
        Problem {
            file: path.to_owned(),
            kind,
            message: format!("{}: {message}", path.display()),
            offset,
            function,
        }
    }

    pub fn of_artifact(path: &Path, error: &ArtifactError) -> Self {
        let message = format!("{}: {error}", path.display());
        Problem { file: path.to_owned(), kind: "artifact", message, offset: None, function: None }
    }

    /// One line on stderr, or one line of JSON on stdout.
    pub fn tell(&self, json: bool) {
        let line = if json { serde_json::to_string(self).ok() } else { None };
        // Nobody may be reading; the exit status says it too.
        let _ = match line {
            Some(line) => writeln!(io::stdout(), "{line}"),
            None => {
                // Names of a module may hold anything; the message is one line.
                let printable = |c: char| if c.is_control() { ' ' } else { c };
                let message: String = self.message.chars().map(printable).collect();
                writeln!(io::stderr(), "sandboxc: {message}")
            }
        };
    }
}
