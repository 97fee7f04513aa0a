;; Writes to stdout for ever, 64 KiB at a time; exits with the errno if that fails.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "\10\00\00\00\00\00\01\00") ;; one buffer: address 16, 65536 bytes
  (func (export "_start")
    (local $errno i32)
    (memory.fill (i32.const 16) (i32.const 120) (i32.const 65536))
    (loop $again
      (local.set $errno (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $again (i32.eqz (local.get $errno))))
    (call $exit (local.get $errno))))
