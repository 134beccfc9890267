;; SPDX-License-Identifier: Apache-2.0
;; Needs the bulk memory instructions; traps if they do something else.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (memory.fill (i32.const 0) (i32.const 7) (i32.const 16))
    (memory.copy (i32.const 64) (i32.const 0) (i32.const 16))
    (if (i32.ne (i32.load8_u (i32.const 79)) (i32.const 7)) (then unreachable))))
