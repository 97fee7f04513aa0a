;; Status 134, with a backtrace that names $inner and $start.
(module
  (func $inner unreachable)
  (func $start (export "_start") call $inner))
