;; SPDX-License-Identifier: Apache-2.0
;; Needs reference types; traps if they do something else.
(module
  (memory (export "memory") 1)
  (table $t 1 externref)
  (func (export "_start")
    (drop (table.grow $t (ref.null extern) (i32.const 3)))
    (if (i32.ne (table.size $t) (i32.const 4)) (then unreachable))))
