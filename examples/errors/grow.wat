;; Grows its memory by 1 MiB and touches it, until that is refused; then exits with status 3.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (local $old i32)
    (loop $again
      (local.set $old (memory.grow (i32.const 16)))
      (if (i32.eq (local.get $old) (i32.const -1)) (then (call $exit (i32.const 3))))
      (i32.store (i32.mul (local.get $old) (i32.const 65536)) (i32.const 1))
      (br $again))))
