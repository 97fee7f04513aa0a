//! What a guest sees is the same whichever way the contents of its files go.

use std::os::unix::process::CommandExt;

use whole_system_tests::{Scratch, run};

/// Imports, and a function that opens (and makes) the file whose name of two digits is that number.
const FILES: &str = r#"
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pread" (func $fd_pread (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pwrite" (func $fd_pwrite (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_seek" (func $fd_seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_tell" (func $fd_tell (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_set_flags" (func $set_flags (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func $must (param $error i32) (if (local.get $error) (then (call $exit (local.get $error)))))
  (func $same (param $a i64) (param $b i64) (if (i64.ne (local.get $a) (local.get $b)) (then (unreachable))))
  (func $open (param $number i32) (result i32)
    (i32.store8 (i32.const 32) (i32.add (i32.const 48) (i32.div_u (local.get $number) (i32.const 10))))
    (i32.store8 (i32.const 33) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
    (call $must (call $path_open (i32.const 3) (i32.const 0) (i32.const 32) (i32.const 2) (i32.const 1)
      (i64.const 0x1fffffff) (i64.const 0) (i32.const 0) (i32.const 40)))
    (i32.load (i32.const 40)))
  (func $pieces (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length)))"#;

fn both_ways(start: &str, status: i32, prepare: impl Fn(&mut std::process::Command)) {
    for policy in ["default", "wasi-direct"] {
        let scratch = Scratch::new();
        scratch.module("files.wasm", &format!("(module {FILES} (func (export \"_start\") {start}))"));
        std::fs::create_dir(scratch.file("d")).expect("a directory");
        let mut command = scratch.sandboxctl_run(None);
        command.args(["--policy", policy, "--dir", "d::/d", "files.wasm"]);
        prepare(&mut command);
        let output = run(&mut command);
        assert_eq!(output.status, Some(status), "{policy}: {}", output.stderr);
    }
}

/// More files than an instance can have at a time, all of them used again and again.
#[test]
fn many_files_at_once_keep_their_contents() {
    both_ways(
        r#"(local $i i32) (local $round i32) (local $fd i32)
        (loop $files
          (local.set $fd (call $open (local.get $i)))
          (i32.store (i32.add (i32.const 1024) (i32.mul (local.get $i) (i32.const 4))) (local.get $fd))
          (i32.store (i32.const 64) (i32.add (local.get $i) (i32.const 7000)))
          (call $pieces (i32.const 64) (i32.const 4))
          (local.set $round (i32.const 0))
          (loop $writes
            (call $must (call $fd_pwrite (local.get $fd) (i32.const 0) (i32.const 1)
              (i64.extend_i32_u (i32.mul (local.get $round) (i32.const 4))) (i32.const 8)))
            (local.set $round (i32.add (local.get $round) (i32.const 1)))
            (br_if $writes (i32.lt_u (local.get $round) (i32.const 6))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $files (i32.lt_u (local.get $i) (i32.const 90))))
        (local.set $round (i32.const 0))
        (loop $rounds
          (local.set $i (i32.const 0))
          (loop $reads
            (local.set $fd (i32.load (i32.add (i32.const 1024) (i32.mul (local.get $i) (i32.const 4)))))
            (call $pieces (i32.const 68) (i32.const 4))
            (call $must (call $fd_pread (local.get $fd) (i32.const 0) (i32.const 1)
              (i64.extend_i32_u (i32.mul (local.get $round) (i32.const 4))) (i32.const 8)))
            (call $same (i64.load32_u (i32.const 68)) (i64.extend_i32_u (i32.add (local.get $i) (i32.const 7000))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $reads (i32.lt_u (local.get $i) (i32.const 90))))
          (local.set $round (i32.add (local.get $round) (i32.const 1)))
          (br_if $rounds (i32.lt_u (local.get $round) (i32.const 6))))"#,
        0,
        |_| {},
    );
}

/// Positions move by reads, writes and seeks, whoever carries them out, and go along with a descriptor that is moved.
#[test]
fn positions_are_one_whoever_moves_them() {
    both_ways(
        r#"(local $fd i32) (local $other i32) (local $i i32)
        (local.set $fd (call $open (i32.const 1)))
        (local.set $other (call $open (i32.const 2)))
        (i64.store (i32.const 64) (i64.const 0x3736353433323130))
        (call $pieces (i32.const 64) (i32.const 8))
        (loop $writes
          (call $must (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $writes (i32.lt_u (local.get $i) (i32.const 10))))
        (call $must (call $fd_tell (local.get $fd) (i32.const 16)))
        (call $same (i64.load (i32.const 16)) (i64.const 80))
        (call $must (call $fd_seek (local.get $fd) (i64.const -3) (i32.const 2) (i32.const 16)))
        (call $same (i64.load (i32.const 16)) (i64.const 77))
        ;; At the end there are three bytes, then none.
        (call $must (call $fd_read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
        (call $same (i64.load32_u (i32.const 8)) (i64.const 3))
        (call $must (call $fd_read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
        (call $same (i64.load32_u (i32.const 8)) (i64.const 0))
        (call $same (i64.extend_i32_u (call $fd_seek (local.get $fd) (i64.const -81) (i32.const 1) (i32.const 16))) (i64.const 28))
        (call $must (call $fd_seek (local.get $fd) (i64.const -79) (i32.const 1) (i32.const 16)))
        (call $same (i64.load (i32.const 16)) (i64.const 1))
        ;; Moved to another number it is where it was.
        (call $must (call $fd_renumber (local.get $fd) (local.get $other)))
        (call $same (i64.extend_i32_u (call $fd_tell (local.get $fd) (i32.const 16))) (i64.const 8))
        (call $must (call $fd_tell (local.get $other) (i32.const 16)))
        (call $same (i64.load (i32.const 16)) (i64.const 1))
        (call $must (call $fd_read (local.get $other) (i32.const 0) (i32.const 1) (i32.const 8)))
        (call $same (i64.load (i32.const 64)) (i64.const 0x3037363534333231))
        ;; What appends writes at the end, wherever it is.
        (call $must (call $set_flags (local.get $other) (i32.const 1)))
        (call $must (call $fd_write (local.get $other) (i32.const 0) (i32.const 1) (i32.const 8)))
        (call $must (call $fd_tell (local.get $other) (i32.const 16)))
        (call $same (i64.load (i32.const 16)) (i64.const 88))
        ;; Closed it is nothing, and its number comes again with another file.
        (call $must (call $fd_close (local.get $other)))
        (call $same (i64.extend_i32_u (call $fd_read (local.get $other) (i32.const 0) (i32.const 1) (i32.const 8))) (i64.const 8))
        (drop (call $open (i32.const 3)))
        (drop (call $open (i32.const 4)))
        (call $must (call $fd_tell (local.get $other) (i32.const 16)))
        (call $same (i64.load (i32.const 16)) (i64.const 0))"#,
        0,
        |_| {},
    );
}

/// Beyond the size that the host lets files have, a write is the guest's `fbig`, and kills nobody.
#[test]
fn the_host_s_limit_of_sizes_is_the_guest_s_error() {
    const LIMIT: u64 = 64 << 20;
    both_ways(
        r#"(local $fd i32) (local $i i32)
        (local.set $fd (call $open (i32.const 1)))
        (call $pieces (i32.const 64) (i32.const 8))
        (loop $writes
          (call $must (call $fd_pwrite (local.get $fd) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 8)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $writes (i32.lt_u (local.get $i) (i32.const 10))))
        (call $must (call $fd_pwrite (local.get $fd) (i32.const 0) (i32.const 1) (i64.const 0x4000000) (i32.const 8)))"#,
        22,
        |command| {
            let limit = libc::rlimit { rlim_cur: LIMIT, rlim_max: LIMIT };
            // SAFETY: `setrlimit` is async-signal-safe and reads only `limit`, which the closure owns.
            unsafe {
                command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                });
            }
        },
    );
}
