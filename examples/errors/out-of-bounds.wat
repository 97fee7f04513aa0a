;; One byte past the end of the memory: status 134.
(module
  (memory 1)
  (func $start (export "_start") (drop (i32.load8_u (i32.const 65536)))))
