//! `sandboxctl session`: commands from standard input and by -c, with a daemon and without one.

use std::process::Command;

use whole_system_tests::{Daemon, Output, Scratch, assert_no_orphans, run, run_with_input};

const GUEST: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1 4)
  (global $count (export "count") (mut i32) (i32.const 40))
  (global (export "pi") f64 (f64.const 3.25))
  (data (i32.const 16) "abc")
  (data (i32.const 64) "\48\00\00\00\06\00\00\00hello\n")
  (data (i32.const 96) "\80\00\00\00\10\00\00\00")
  (func (export "_initialize") (global.set $count (i32.add (global.get $count) (i32.const 1))))
  (func (export "bump") (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (global.get $count))
  (func (export "hello") (drop (call $write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 80))))
  (func (export "input") (result i32)
    (drop (call $read (i32.const 0) (i32.const 96) (i32.const 1) (i32.const 104)))
    (i32.load (i32.const 104)))
  (func (export "two") (param i32 f64) (result f64 i32) (local.get 1) (local.get 0))
  (func (export "boom") (unreachable))
  (func (export "exit") (call $exit (i32.const 37))))"#;

fn session(scratch: &Scratch, daemon: Option<&Daemon>) -> Command {
    scratch.module("guest.wasm", GUEST);
    let mut command = scratch.sandboxctl();
    command.arg("session");
    match daemon {
        Some(daemon) => command.arg("--socket").arg(daemon.socket()),
        None => command.arg("--no-daemon"),
    };
    command
}

/// Runs a script without a daemon and with one: each must say the same.
#[track_caller]
fn script(lines: &[&str], daemon: &Daemon) -> Output {
    let scratch = Scratch::new();
    let input = format!("{}\n", lines.join("\n"));
    let direct = run_with_input(session(&scratch, None).arg("guest.wasm"), input.as_bytes());
    let through = run_with_input(session(&scratch, Some(daemon)).arg("guest.wasm"), input.as_bytes());
    assert_eq!(direct.text(), through.text());
    assert_eq!((direct.status, &direct.stderr), (through.status, &through.stderr));
    assert_no_orphans();
    direct
}

#[test]
fn commands_are_answered_in_plain_lines() {
    let daemon = Daemon::start();
    let output = script(
        &[
            "# a comment",
            "",
            "call bump",
            "call two 7 1.5",
            "call hello",
            "read memory 16 3",
            "read 0 0x10 3 text",
            r#"write memory 16 text "x\n\"""#,
            "read memory 16 3 text",
            "write memory 16 hex 00ff",
            "read memory 16 3",
            "global count",
            "global count 7",
            "global count",
            "global pi",
            "memory",
            "memory memory",
            "exports",
            "reset",
            "call bump",
            "end",
            "call bump",
        ],
        &daemon,
    );
    output.expect_status(0);
    assert_eq!(output.stderr, "");
    let expected = "42\n1.5 7\nhello\n616263\n\"abc\"\n\"x\\n\\\"\"\n00ff22\n42\n7\n3.25\n\"memory\" 65536\n65536\n\
        \"memory\" memory 0\n\"count\" global mut i32\n\"pi\" global f64\n\"_initialize\" func () -> ()\n\
        \"bump\" func () -> (i32)\n\"hello\" func () -> ()\n\"input\" func () -> (i32)\n\
        \"two\" func (i32, f64) -> (f64, i32)\n\"boom\" func () -> ()\n\"exit\" func () -> ()\n42\n";
    assert_eq!(output.text(), expected);
}

#[test]
fn a_command_that_fails_says_why_and_the_script_fails() {
    let daemon = Daemon::start();
    for (line, needle) in [
        ("call boom", "trap: wasm `unreachable` instruction executed"),
        ("call exit", "the instance has ended: exited with status 37; `reset` starts another"),
        ("call none", "exports no function \"none\""),
        ("call two 1", "takes 2 arguments, not 1"),
        ("call two x 1", "`x` is not an i32"),
        ("read memory 65535 2", "2 bytes at 65535 do not lie in the memory, which has 65536 bytes"),
        ("read memory 18446744073709551615 2", "do not lie in the memory"),
        ("write memory 65536 hex 00", "do not lie in the memory"),
        ("read other 0 1", "no memory exported as \"other\""),
        ("read 7 0 1", "no memory number 7"),
        ("global other", "no global \"other\""),
        ("global pi 1", "global \"pi\" is immutable"),
        ("global count 1.5", "`1.5` is not an i32"),
        ("frob", "no command \"frob\""),
    ] {
        let output = script(&[line, "reset", "call bump"], &daemon);
        output.expect_status(1);
        assert!(output.stderr.contains(needle), "{line}: {needle:?} expected in: {}", output.stderr);
        // What follows is carried out.
        assert_eq!(output.text(), "42\n", "{line}");
    }
}

#[test]
fn json_is_one_object_a_command() {
    let daemon = Daemon::start();
    let scratch = Scratch::new();
    for daemon in [None, Some(&daemon)] {
        let mut command = session(&scratch, daemon);
        command.arg("--json");
        for line in
            ["call bump", "read memory 16 3", "global count", "memory", "usage", "exports", "call boom"]
        {
            command.args(["-c", line]);
        }
        let output = run(command.arg("guest.wasm"));
        output.expect_status(1);
        let lines: Vec<serde_json::Value> =
            output.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let commands: Vec<_> =
            lines.iter().map(|line| line["command"].as_str().expect("a command")).collect();
        let expected = ["start", "call", "read", "global", "memory", "usage", "exports", "call", "end"];
        assert_eq!(commands, expected);
        let ok: Vec<_> = lines.iter().map(|line| line["ok"].as_bool().expect("ok")).collect();
        assert_eq!(ok, [true, true, true, true, true, true, true, false, true]);
        assert_eq!(lines[1]["results"], serde_json::json!([{ "type": "i32", "value": "42" }]));
        assert_eq!(lines[2]["bytes"], "616263");
        assert_eq!(lines[3]["value"]["value"], "42");
        assert_eq!(lines[4]["sizes"]["memory"], 65536);
        assert!(lines[5]["usage"]["wall_ns"].as_u64().expect("a number") > 0);
        assert_eq!(lines[6]["exports"][0]["name"], "memory");
        assert!(lines[7]["error"].as_str().expect("an error").contains("unreachable"));
        assert_eq!(lines[8]["report"]["outcome"], "exited");
    }
}

#[test]
fn the_guest_reads_our_input_only_if_it_is_no_script() {
    let (daemon, scratch) = (Daemon::start(), Scratch::new());
    for daemon in [None, Some(&daemon)] {
        let mut command = session(&scratch, daemon);
        let output = run_with_input(command.args(["-c", "call input", "guest.wasm"]), b"12345");
        assert_eq!(output.expect_status(0).text(), "5\n");
        let output = run_with_input(session(&scratch, daemon).arg("guest.wasm"), b"call input\ncall bump\n");
        assert_eq!(output.expect_status(0).text(), "0\n42\n");
    }
}

#[test]
fn a_session_that_cannot_begin_is_an_error_of_ours() {
    let (daemon, scratch) = (Daemon::start(), Scratch::new());
    scratch.write("text.wasm", "this is no module");
    for daemon in [None, Some(&daemon)] {
        run(session(&scratch, daemon).arg("none.wasm")).expect_own_error(&["none.wasm"]);
        run(session(&scratch, daemon).arg("text.wasm"))
            .expect_own_error(&["text.wasm: not a WebAssembly module"]);
        run(session(&scratch, daemon).args(["--policy", "none", "guest.wasm"])).expect_own_error(&["none"]);
        run(session(&scratch, daemon).args(["--frob", "guest.wasm"])).expect_own_error(&["--frob"]);
    }
}
