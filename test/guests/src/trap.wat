;; SPDX-License-Identifier: Apache-2.0
;; Traps, two named functions deep.
(module
  (memory (export "memory") 1)
  (func $inner unreachable)
  (func $outer (call $inner))
  (func (export "_start") (call $outer)))
