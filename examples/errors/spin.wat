;; Never ends. `sandboxctl run --timeout 1s` ends it: status 124.
(module
  (func (export "_start") (loop $again (br $again))))
