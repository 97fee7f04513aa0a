//! Where the programs under test are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `sandboxctl` that belongs to this test.
pub fn sandboxctl() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| directory().join("sandboxctl"))
}

/// The `sandboxd` that belongs to this test.
pub fn sandboxd() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| directory().join("sandboxd"))
}

/// The `sandboxc` that belongs to this test.
pub fn sandboxc() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| directory().join("sandboxc"))
}

/// The host app of examples/host-functions.
pub fn key_value() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| directory().join("examples/key_value"))
}

/// The directory of the programs. Cargo builds programs for the tests of their own package only, so the first test
/// that asks builds them, with its own profile and into its own target directory.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        if let Some(directory) = std::env::var_os("SANDBOXD_BIN_DIR") {
            return PathBuf::from(directory);
        }
        // This is TARGET/PROFILE/deps/TEST.
        let test = std::env::current_exe().expect("path of the test");
        let directory = test.ancestors().nth(2).expect("a test lies below its target directory");
        let target = directory.parent().expect("a profile's directory has a parent");
        let profile = match directory.file_name().and_then(|n| n.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--bins", "-p", "sandboxd-client", "-p", "sandboxd-supervisor"])
            .args(["--example", "key_value"])
            .args(["--profile", profile, "--target-dir"])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo must be there to build the programs under test; or set SANDBOXD_BIN_DIR");
        assert!(status.success(), "the programs under test do not build");
        directory.to_path_buf()
    })
}
