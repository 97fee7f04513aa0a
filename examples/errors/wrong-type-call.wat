;; Calls a function through a type that it does not have: status 134.
(module
  (type $nothing (func))
  (table funcref (elem $number))
  (func $number (result i32) (i32.const 7))
  (func $start (export "_start") (call_indirect (type $nothing) (i32.const 0))))
