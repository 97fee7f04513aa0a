;; Asks for a function that nobody provides: refused before it runs, status 125.
(module
  (import "env" "launch" (func $launch (param i32)))
  (func (export "_start") (call $launch (i32.const 1))))
