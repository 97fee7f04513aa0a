//! Output that nobody waits for: it comes out whole, in order, whatever happens to the guest, and a failure is told.

use std::fs::OpenOptions;
use std::io::Read;
use std::process::Stdio;

use whole_system_tests::{Scratch, run, spawn};

/// Imports and a function that writes `length` bytes at `at` to a stream; its result is the error number.
const WRITER: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (func $write (param $stream i32) (param $at i32) (param $length i32) (result i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (call $fd_write (local.get $stream) (i32.const 0) (i32.const 1) (i32.const 8)))"#;

fn guest(scratch: &Scratch, name: &str, start: &str) {
    scratch.module(name, &format!("(module {WRITER} (func (export \"_start\") {start}))"));
}

/// Numbers go to both streams in turn, in pieces that are queued and some that are not; both are one pipe.
#[test]
fn output_keeps_its_order_over_both_streams_and_sizes() {
    let scratch = Scratch::new();
    // Piece `i` is a letter, of a length of its own: mostly small, every 50th larger than what is queued.
    guest(
        &scratch,
        "pieces.wasm",
        r#"(local $i i32) (local $length i32)
        (loop $next
          (local.set $length (i32.add (i32.const 1) (i32.rem_u (i32.mul (local.get $i) (i32.const 37)) (i32.const 200))))
          (if (i32.eqz (i32.rem_u (local.get $i) (i32.const 50))) (then (local.set $length (i32.const 9000))))
          (memory.fill (i32.const 1024) (i32.add (i32.const 97) (i32.rem_u (local.get $i) (i32.const 26))) (local.get $length))
          (if (call $write (i32.add (i32.const 1) (i32.rem_u (i32.div_u (local.get $i) (i32.const 3)) (i32.const 2)))
                (i32.const 1024) (local.get $length)) (then (unreachable)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $i) (i32.const 2000))))"#,
    );
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = scratch.sandboxctl_run(None);
    command
        .arg("pieces.wasm")
        .stdin(Stdio::null())
        .stdout(writer.try_clone().expect("a copy"))
        .stderr(writer);
    let mut child = command.spawn().expect("sandboxctl");
    drop(command);
    let mut text = Vec::new();
    reader.read_to_end(&mut text).expect("output");
    assert!(child.wait().expect("its end").success());
    let expected = (0..2000usize).flat_map(|i| {
        let length = if i % 50 == 0 { 9000 } else { 1 + i * 37 % 200 };
        std::iter::repeat_n(b'a' + (i % 26) as u8, length)
    });
    assert!(text.iter().copied().eq(expected), "{} bytes", text.len());
}

/// Nobody asks for it, and no call follows.
#[test]
fn output_comes_out_while_the_guest_computes() {
    let scratch = Scratch::new();
    guest(
        &scratch,
        "computes.wasm",
        r#"(i32.store8 (i32.const 1024) (i32.const 120))
        (drop (call $write (i32.const 1) (i32.const 1024) (i32.const 1)))
        (loop $for_ever (br $for_ever))"#,
    );
    let mut process = spawn(scratch.sandboxctl_run(None).arg("computes.wasm"));
    let mut byte = [0];
    process.stdout().read_exact(&mut byte).expect("output");
    assert_eq!(&byte, b"x");
    process.signal(nix::sys::signal::Signal::SIGKILL);
    process.wait();
}

#[test]
fn output_comes_out_however_the_guest_ends() {
    let scratch = Scratch::new();
    let write = r#"(i32.store (i32.const 1024) (i32.const 0x0a646e65))
        (drop (call $write (i32.const 1) (i32.const 1024) (i32.const 4)))"#;
    for (end, options, status) in [
        ("", &[][..], 0),
        ("(call $exit (i32.const 7))", &[], 7),
        ("(unreachable)", &[], 134),
        ("(loop $for_ever (br $for_ever))", &["--timeout", "300ms"], 124),
    ] {
        guest(&scratch, "ends.wasm", &format!("{write} {end}"));
        let output = run(scratch.sandboxctl_run(None).args(options).arg("ends.wasm"));
        assert_eq!(output.expect_status(status).text(), "end\n", "{end}");
    }
}

/// A failure of a queued write is told by a later one; where it can lose what somebody waits for, by the write itself.
#[test]
fn a_write_that_fails_is_told() {
    let scratch = Scratch::new();
    guest(
        &scratch,
        "until.wasm",
        r#"(local $error i32)
        (loop $again
          (br_if $again (i32.eqz (local.tee $error (call $write (i32.const 1) (i32.const 1024) (i32.const 10))))))
        (call $exit (local.get $error))"#,
    );
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = |stdout: Stdio, module: &str| {
        let mut command = scratch.sandboxctl_run(None);
        command.arg(module).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null());
        command.status().expect("sandboxctl").code()
    };
    assert_eq!(status(writer.into(), "until.wasm"), Some(64), "pipe");
    guest(&scratch, "once.wasm", "(call $exit (call $write (i32.const 1) (i32.const 1024) (i32.const 10)))");
    let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    assert_eq!(status(full.into(), "once.wasm"), Some(51), "nospc");
    let null = OpenOptions::new().write(true).open("/dev/null").expect("/dev/null");
    assert_eq!(status(null.into(), "once.wasm"), Some(0));
}

/// What is queued counts, and ends the job at the limit like everything else.
#[test]
fn queued_output_is_limited() {
    let scratch = Scratch::new();
    guest(
        &scratch,
        "pours.wasm",
        r#"(loop $again (drop (call $write (i32.const 1) (i32.const 1024) (i32.const 10))) (br $again))"#,
    );
    scratch.write("little.toml", "version = 1\n[limits]\noutput = 1005\n");
    let output = run(scratch.sandboxctl_run(None).args(["--policy", "./little.toml", "pours.wasm"]));
    output.expect_status(137);
    assert_eq!(output.stdout.len(), 1005);
}
