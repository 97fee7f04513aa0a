//! Whoever asks for the end of a job gets it at once: signals, with a daemon and without one.

use std::io::{BufRead, BufReader, Read};

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
fn a_daemon_that_does_not_answer_can_be_interrupted() {
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    let listener = std::os::unix::net::UnixListener::bind(scratch.file("mute.sock")).expect("bind");
    let process = spawn(scratch.sandboxctl().args(["run", "--socket", "mute.sock", "hello.wasm"]));
    // Its hello: from now on it waits for an answer.
    let (mut stream, _) = listener.accept().expect("accept");
    stream.read_exact(&mut [0; 16]).expect("hello");
    process.signal(Signal::SIGINT);
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted"), "{stderr}");
}

#[test]
fn a_daemon_that_does_not_cancel_is_left() {
    use ipc::protocol::{ServerHello, frame};
    let scratch = Scratch::new();
    scratch.module("hello.wasm", guests::HELLO);
    let listener = std::os::unix::net::UnixListener::bind(scratch.file("mute.sock")).expect("bind");
    let process = spawn(scratch.sandboxctl().args(["run", "--socket", "mute.sock", "hello.wasm"]));
    let (mut stream, _) = listener.accept().expect("accept");
    stream.read_exact(&mut [0; 16]).expect("hello");
    let version = ipc::protocol::ClientHello::OURS.agree();
    let hello = frame(&ServerHello::answer(version).to_bytes()).expect("frame");
    std::io::Write::write_all(&mut stream, &hello).expect("answer");
    // Its request: from now on it waits for a report.
    stream.read_exact(&mut [0; 4]).expect("request");
    process.signal(Signal::SIGTERM);
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("has not reported"), "{stderr}");
}

#[test]
fn signals_that_were_ignored_stay_ignored() {
    let scratch = Scratch::new();
    scratch.module("guest.wasm", guests::WAIT);
    let mut command = scratch.sandboxctl_run(None);
    let mut through_shell = std::process::Command::new("sh");
    through_shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(command.get_program());
    through_shell.args(command.arg("guest.wasm").get_args()).current_dir(scratch.path());
    through_shell.env("SANDBOXD_STATE_DIR", scratch.file("state"));
    let mut process = spawn(&mut through_shell);
    let _input = process.stdin();
    let mut line = String::new();
    BufReader::new(process.stdout()).read_line(&mut line).expect("output");
    assert_eq!(line, "ready\n");
    // proc_pid_status(5): masks of ignored and of caught signals; SIGHUP is bit 0, SIGTERM bit 14.
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("status");
    let mask = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("a mask");
        u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
    };
    let (ignored, caught) = (mask("SigIgn:"), mask("SigCgt:"));
    assert_eq!((ignored & 1, caught & 1), (1, 0), "SIGHUP");
    assert_eq!((ignored >> 14 & 1, caught >> 14 & 1), (0, 1), "SIGTERM");
    assert_eq!(ignored >> 24 & 1, 1, "SIGXFSZ");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait().0.code(), Some(130));
    assert_no_orphans();
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
