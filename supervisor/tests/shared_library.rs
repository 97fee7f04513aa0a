//! A host app that is a C program and loads the supervisor as a shared library.

use std::path::{Path, PathBuf};
use std::process::Command;

const HOST: &str = r#"
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **arguments) {
    void *library = dlopen(arguments[1], RTLD_NOW);
    if (!library) {
        puts(dlerror());
        return 2;
    }
    int (*compile)(const char *, char *, unsigned long) = dlsym(library, "compile_something");
    char message[4096];
    int status = compile(count > 2 ? arguments[2] : 0, message, sizeof message);
    puts(message);
    return status;
}
"#;

/// The example of this package. Cargo builds it before all tests of the package, but not before this one alone.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("path of the test");
    // This is TARGET/PROFILE/deps/TEST.
    let directory = test.ancestors().nth(2).expect("a test lies below its target directory");
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", "shared_library", "--profile", profile, "--target-dir"])
        .arg(directory.parent().expect("a profile's directory has a parent"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(status.expect("cargo").success());
    directory.join("examples/libshared_library.so")
}

/// Builds the host app with the C compiler that Rust links with.
fn host(directory: &Path) -> PathBuf {
    let (source, program) = (directory.join("host.c"), directory.join("host"));
    std::fs::write(&source, HOST).expect("write");
    let status = Command::new("cc").arg("-o").arg(&program).arg(&source).arg("-ldl").status();
    assert!(status.expect("cc").success());
    program
}

#[test]
fn a_host_app_names_the_program_of_workers_or_learns_that_it_must() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (host, library) = (host(directory.path()), library());
    let run = |worker: Option<&str>| {
        let output = Command::new(&host).arg(&library).args(worker).output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        (output.status.code(), text.trim_end().to_owned())
    };
    assert_eq!(run(Some(env!("CARGO_BIN_EXE_sandboxc"))), (Some(0), String::new()));
    let (status, message) = run(None);
    assert_eq!(status, Some(1), "{message}");
    assert!(message.contains("shared library") && message.contains("Config.worker_program"), "{message}");
    // The host app itself is no worker. It is not asked to be one when nobody names it.
    let (status, message) = run(host.to_str());
    assert_eq!(status, Some(1), "{message}");
    assert!(message.contains("cannot be a compile worker"), "{message}");
}
