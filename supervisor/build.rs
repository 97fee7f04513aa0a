//! Builds the zygote, a freestanding static PIE, so that the supervisor can carry it inside itself.
//!
//! A nested cargo in a target directory of its own: the zygote needs another panic strategy and other linker
//! arguments than the rest of the workspace, and a binary that exists before this crate is compiled.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A freestanding static PIE: no start files, no libraries, relocated by itself, nothing writable left executable.
const LINK_ARGUMENTS: &[&str] = &[
    "-nostartfiles",
    "-nostdlib",
    "-static-pie",
    "-Wl,-z,relro,-z,now,-z,noexecstack,--build-id=none,--no-dynamic-linker",
];

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = here.parent().expect("the crate lies in the workspace");
    for path in ["zygote", "sandbox-shim", "ipc/src", "ipc/Cargo.toml", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    let target = out.join("zygote");
    let triple = env::var("TARGET").expect("cargo sets TARGET");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root)
        .args([
            "rustc",
            "--locked",
            "--package",
            "zygote",
            "--bin",
            "zygote",
            "--features",
            "image",
            "--profile",
            "zygote",
        ])
        .args(["--target", &triple, "--target-dir"])
        .arg(&target)
        .args(["--", "-C", "relocation-model=pie", "-C", "target-feature=+crt-static"]);
    for argument in LINK_ARGUMENTS {
        cargo.arg("-C").arg(format!("link-arg={argument}"));
    }
    // What the outer build was told (flags, wrappers such as clippy's, coverage) is not meant for this binary.
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let meant_for_outer = name == "RUSTFLAGS"
            || name.starts_with("RUSTC")
            || name.starts_with("CARGO_ENCODED")
            || name.starts_with("CARGO_PROFILE_")
            || name.starts_with("CARGO_BUILD_")
            || name.starts_with("CLIPPY_");
        if meant_for_outer {
            cargo.env_remove(name);
        }
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "the zygote does not build: see the messages above");
    let built = target.join(&triple).join("zygote").join("zygote");
    check(&built);
    println!("cargo:rustc-env=SANDBOXD_ZYGOTE={}", built.display());
}

/// The properties that the supervisor relies on and that a changed linker or flag could take away.
fn check(path: &Path) {
    let image = std::fs::read(path).expect("the zygote was just built");
    let kind = u16::from_le_bytes([image[16], image[17]]);
    assert_eq!(
        kind, 3,
        "the zygote must be a PIE (ET_DYN): a fixed address could collide with linear memory"
    );
    let count = u16::from_le_bytes([image[56], image[57]]) as usize;
    let interpreter = (0..count).any(|i| image[64 + 56 * i..][..4] == [3, 0, 0, 0]);
    assert!(!interpreter, "the zygote must be static: PT_INTERP found");
}
