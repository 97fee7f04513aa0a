//! The bar that long compilations show on a terminal.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::pty::openpty;
use whole_system_tests::guests::large;
use whole_system_tests::{Scratch, run, sandboxc};

/// What a command that must succeed writes to stderr when that is a terminal.
fn on_a_terminal(command: &mut Command) -> String {
    let pair = openpty(None, None).expect("a terminal");
    let terminal: OwnedFd = pair.slave;
    let mut process =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(terminal).spawn().expect("it starts");
    // The command holds the terminal as well, and would keep it open.
    command.stderr(Stdio::null());
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    let mut screen = File::from(pair.master);
    loop {
        match screen.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Nobody has the terminal open any more (EIO).
            Err(_) => break,
        }
    }
    let text = String::from_utf8(bytes).expect("text");
    assert!(process.wait().expect("wait").success(), "{text}");
    text
}

#[test]
fn every_command_that_compiles_shows_a_bar() {
    let scratch = Scratch::new();
    // Long enough for every machine that this runs on; the bar waits for half a second.
    scratch.write("large.wasm", large(150, 8000));
    let mut commands = Vec::new();
    for form in ["image", "clif"] {
        let mut command = Command::new(sandboxc());
        command.current_dir(scratch.path());
        command.args(["large.wasm", "-o", "a", "--threads", "1", "--emit", form]);
        commands.push(command);
    }
    let mut compile = scratch.sandboxctl();
    compile.args(["compile", "large.wasm", "-o", "b", "--threads", "1"]);
    commands.push(compile);
    let mut run = scratch.sandboxctl_run(None);
    run.args(["--set", "compile.threads=1", "--invoke", "f", "large.wasm", "1"]);
    commands.push(run);
    for mut command in commands {
        let text = on_a_terminal(&mut command);
        assert!(text.contains("compiling [") && text.contains(" of 150 functions"), "{command:?}: {text:?}");
        // It is gone in the end.
        assert!(text.ends_with("\r\x1b[K"), "{command:?}: {text:?}");
    }
}

#[test]
fn nothing_is_shown_where_nobody_looks() {
    let scratch = Scratch::new();
    scratch.write("large.wasm", large(150, 8000));
    let mut command = Command::new(sandboxc());
    let output = run(command.current_dir(scratch.path()).args(["large.wasm", "-o", "a", "--threads", "1"]));
    output.expect_status(0);
    assert_eq!((output.text(), output.stderr.as_str()), ("", ""));
}
