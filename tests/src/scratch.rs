//! A directory of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Daemon, sandboxctl};

/// A temporary directory, with a state directory for artifacts in it; removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    /// A new, empty one.
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        let directory =
            tempfile::Builder::new().prefix("sandboxd-test-").tempdir().expect("temporary directory");
        Self { directory }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, contents).expect("write");
        path
    }

    /// Assembles a module and writes it to a file.
    pub fn module(&self, name: &str, text: &str) -> PathBuf {
        self.write(name, wat::parse_str(text).expect("the test's module must be valid"))
    }

    /// The names in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path())
            .expect("directory")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// `sandboxctl` in this directory, that knows no daemon and keeps its state here.
    pub fn sandboxctl(&self) -> Command {
        let mut command = Command::new(sandboxctl());
        command
            .current_dir(self.path())
            .env_remove("SANDBOXD_SOCKET")
            .env_remove("XDG_RUNTIME_DIR")
            .env("SANDBOXD_STATE_DIR", self.file("state"));
        command
    }

    /// `sandboxctl run` in this directory: through a daemon, or without one.
    pub fn sandboxctl_run(&self, daemon: Option<&Daemon>) -> Command {
        let mut command = self.sandboxctl();
        command.arg("run");
        match daemon {
            Some(daemon) => command.arg("--socket").arg(daemon.socket()),
            None => command.arg("--no-daemon"),
        };
        command
    }
}
