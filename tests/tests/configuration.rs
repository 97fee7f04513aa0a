//! Configuration files and single keys, of the daemon and of `sandboxctl` without one.

use std::path::PathBuf;
use std::process::Command;

use whole_system_tests::{Daemon, Output, Scratch, guests, run, sandboxd};

const NESTED: &str = r#"(module (func (export "_start") (block (block (block)))))"#;

/// What an error about [`NESTED`] must name.
const NAMES: &[&str] = &[
    "nested.wasm",
    "3 control structures inside each other",
    "cap of 2",
    "`compile.caps.nesting` raises it",
];

fn configured(scratch: &Scratch, nesting: u64) -> String {
    let text = format!("[compile.caps]\nnesting = {nesting}\n");
    scratch.write(&format!("nesting-{nesting}.toml"), text).to_string_lossy().into_owned()
}

#[test]
fn a_key_that_an_error_names_raises_the_cap_everywhere() {
    let scratch = Scratch::new();
    scratch.module("nested.wasm", NESTED);
    let (low, high) = (configured(&scratch, 2), configured(&scratch, 3));
    let (low_key, high_key) = ("compile.caps.nesting=2", "compile.caps.nesting=3");
    for (low, high) in [(["--config", &low], ["--config", &high]), (["--set", low_key], ["--set", high_key])]
    {
        let daemon = Daemon::start_with(&low);
        run(scratch.sandboxctl_run(Some(&daemon)).arg("nested.wasm")).expect_own_error(NAMES);
        drop(daemon);
        let daemon = Daemon::start_with(&high);
        run(scratch.sandboxctl_run(Some(&daemon)).arg("nested.wasm")).expect_status(0);
        drop(daemon);

        let run_with =
            |options: [&str; 2]| run(scratch.sandboxctl().arg("run").args(options).arg("nested.wasm"));
        run_with(low).expect_own_error(NAMES);
        run_with(high).expect_status(0);

        let compile = |options: [&str; 2]| {
            run(scratch.sandboxctl().args(["compile", "nested.wasm", "-o", "out"]).args(options))
        };
        compile(low).expect_own_error(NAMES);
        assert!(!scratch.file("out").exists());
        compile(high).expect_status(0);
        std::fs::remove_file(scratch.file("out")).expect("an artifact");
    }
}

#[test]
fn a_key_of_the_command_line_wins_over_the_file() {
    let scratch = Scratch::new();
    scratch.module("nested.wasm", NESTED);
    let run_with = |file: &str, key: &str| {
        run(scratch.sandboxctl().args(["run", "--config", file, "--set", key, "nested.wasm"]))
    };
    let (low, high) = (configured(&scratch, 2), configured(&scratch, 3));
    run_with(&low, "compile.caps.nesting=3").expect_status(0);
    run_with(&high, "compile.caps.nesting=2").expect_own_error(NAMES);
}

/// Starts a daemon that does not get far.
fn daemon_with(arguments: &[&str]) -> Output {
    run(Command::new(sandboxd()).env_remove("XDG_RUNTIME_DIR").args(arguments))
}

#[test]
fn the_command_line_wins_over_the_file() {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    let text = format!(
        "[daemon]\nsocket = {:?}\nmax_connections = 1\n[cache]\nstate_dir = {:?}\n[compile]\nopt_level = \"none\"\n",
        scratch.file("file.sock"),
        scratch.file("file-state"),
    );
    let file = scratch.write("all.toml", text).to_string_lossy().into_owned();

    // The daemon of a test has a socket and a state directory of its own from the command line.
    let daemon = Daemon::start_with(&["--config", &file]);
    run(scratch.sandboxctl_run(Some(&daemon)).arg("hello.wasm")).expect_status(0);
    assert!(!scratch.file("file.sock").exists() && !scratch.file("file-state").exists());
    // The one connection that the file leaves.
    let held = std::os::unix::net::UnixStream::connect(daemon.socket()).expect("connects");
    run(scratch.sandboxctl_run(Some(&daemon)).arg("hello.wasm")).expect_own_error(&["1 connections"]);
    drop((held, daemon));
    let daemon = Daemon::start_with(&["--config", &file, "--max-connections", "2"]);
    let held = std::os::unix::net::UnixStream::connect(daemon.socket()).expect("connects");
    run(scratch.sandboxctl_run(Some(&daemon)).arg("hello.wasm")).expect_status(0);
    drop((held, daemon));

    // Without options the file's are in force.
    run(scratch.sandboxctl().args(["run", "--config", &file, "hello.wasm"])).expect_status(0);
    assert!(scratch.file("file-state").is_dir());
    let compile = |options: &[&str]| {
        let compile = ["compile", "hello.wasm", "-o", "out"];
        run(scratch.sandboxctl().args(compile).args(options)).expect_status(0);
        let artifact = std::fs::read(scratch.file("out")).expect("an artifact");
        compiler::Artifact::parse(artifact).expect("whole").metadata().options.opt_level
    };
    assert_eq!(compile(&["--config", &file]), compiler::OptLevel::None);
    assert_eq!(compile(&["--config", &file, "--opt-level", "speed"]), compiler::OptLevel::Speed);
    assert_eq!(compile(&[]), compiler::OptLevel::Speed);
}

#[test]
fn mistakes_are_one_line_with_their_place() {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    let write = |name: &str, text: &str| -> PathBuf { scratch.write(name, text) };
    for (name, text, needles) in [
        ("key.toml", "[compile.caps]\nnestin = 3\n", ["key.toml:2:1: ", "did you mean \"nesting\"?"]),
        ("value.toml", "[cache]\nbytes = \"much\"\n", ["value.toml:2:9: ", "cache.bytes"]),
        ("syntax.toml", "[compile\n", ["syntax.toml:1:", "TOML"]),
        ("range.toml", "[compile.caps]\nlocals = 50001\n", ["range.toml:2:10: ", "0 to 50000"]),
        ("binary.toml", "\0", ["binary.toml:1:", "TOML"]),
    ] {
        let path = write(name, text).to_string_lossy().into_owned();
        for command in [&["run"][..], &["compile", "-o", "out"]] {
            run(scratch.sandboxctl().args(command).args(["--config", &path, "hello.wasm"]))
                .expect_own_error(&needles);
        }
        let socket = scratch.file("s.sock").to_string_lossy().into_owned();
        let output = daemon_with(&["--socket", &socket, "--config", &path]);
        assert!(output.status != Some(0) && output.stderr.lines().count() == 1, "{output:?}");
        for needle in needles {
            assert!(output.stderr.contains(needle), "{needle}: {}", output.stderr);
        }
    }
    let with = |arguments: &[&str]| run(scratch.sandboxctl().args(arguments).arg("hello.wasm"));
    with(&["run", "--config", "missing.toml"])
        .expect_own_error(&["configuration missing.toml", "No such file"]);
    with(&["run", "--set", "compile.caps.locals"]).expect_own_error(&["configuration --set:1:"]);
    with(&["run", "--set", "compile.cap.locals=1"])
        .expect_own_error(&["--set:1:9: ", "did you mean \"caps\"?"]);
    // What a daemon would not hear of.
    with(&["run", "--set", "compile.caps.locals=1", "--socket", "s"])
        .expect_own_error(&["cannot be used with"]);
}
