;; Calls an empty entry of a table: status 134.
(module
  (type $nothing (func))
  (table 4 funcref)
  (func $start (export "_start") (call_indirect (type $nothing) (i32.const 2))))
