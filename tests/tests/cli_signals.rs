//! Whoever asks for the end of a job gets it at once: signals, with a daemon and without one.

use std::io::{BufRead, BufReader};

use nix::sys::signal::Signal;
use whole_system_tests::{Daemon, Scratch, assert_no_orphans, guests, run, spawn};

fn interrupted(daemon: Option<&Daemon>, guest: &str, signal: Signal) {
    let scratch = Scratch::new();
    scratch.module("guest.wasm", guest);
    let mut process = spawn(scratch.sandboxctl_run(daemon).arg("guest.wasm"));
    // Kept open: the guest that waits for input must not find its end.
    let _input = process.stdin();
    let mut output = BufReader::new(process.stdout());
    let mut line = String::new();
    output.read_line(&mut line).expect("output");
    assert_eq!(line, "ready\n");
    process.signal(signal);
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(130), "{stderr}");
    assert_eq!(stderr, "sandboxctl: cancelled\n");
    assert_no_orphans();
}

#[test]
fn signals_end_a_computation() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        interrupted(None, guests::SPIN, signal);
    }
    let daemon = Daemon::start();
    interrupted(Some(&daemon), guests::SPIN, Signal::SIGINT);
}

#[test]
fn signals_end_a_wait_for_input() {
    interrupted(None, guests::WAIT, Signal::SIGINT);
    let daemon = Daemon::start();
    interrupted(Some(&daemon), guests::WAIT, Signal::SIGINT);
    // And the daemon serves the next job.
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    assert_eq!(
        run(scratch.sandboxctl_run(Some(&daemon)).arg("hello.wasm")).expect_status(0).text(),
        "hello\n"
    );
}

#[test]
fn a_killed_sandboxctl_takes_everything_with_it() {
    let scratch = Scratch::new();
    scratch.module("guest.wasm", guests::SPIN);
    let mut process = spawn(scratch.sandboxctl_run(None).arg("guest.wasm"));
    let mut line = String::new();
    BufReader::new(process.stdout()).read_line(&mut line).expect("output");
    process.signal(Signal::SIGKILL);
    let (status, _) = process.wait();
    assert_eq!(status.code(), None);
    assert_no_orphans();
}

#[test]
fn nobody_reading_the_output_is_no_crash() {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    scratch.module("exports.wasm", guests::EXPORTS);
    let mut process = spawn(scratch.sandboxctl_run(None).arg("hello.wasm"));
    drop(process.stdout());
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(0), "{stderr}");
    let mut process = spawn(scratch.sandboxctl_run(None).args(["--invoke", "add", "exports.wasm", "1", "2"]));
    drop(process.stdout());
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(125), "{stderr}");
    assert!(stderr.starts_with("sandboxctl: cannot write to standard output"), "{stderr}");
}
