//! Gives `version()` a digest of everything in this workspace that decides what an artifact looks like.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// FNV-1a, 64 bits: the digest tells versions of the sources apart, nobody chooses them to collide.
fn digest(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files)?;
    // A new file changes its directory.
    println!("cargo:rerun-if-changed=src");
    for file in ["layout", "context", "interface"] {
        println!("cargo:rerun-if-changed=../ipc/src/{file}.rs");
        files.push(root.join(format!("../ipc/src/{file}.rs")));
    }
    // By path relative to the workspace, so that the digest does not depend on where that is.
    files.sort();
    let mut state = 0xcbf2_9ce4_8422_2325;
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(&file).to_string_lossy().into_owned();
        let contents = fs::read(&file)?;
        state = digest(state, name.as_bytes());
        state = digest(state, &(contents.len() as u64).to_le_bytes());
        state = digest(state, &contents);
    }
    println!("cargo:rustc-env=SANDBOXD_COMPILER_SOURCES={state:016x}");
    Ok(())
}
