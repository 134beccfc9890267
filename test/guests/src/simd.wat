;; SPDX-License-Identifier: Apache-2.0
;; Needs SIMD; traps if it does something else.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (if (i32.ne (i32x4.extract_lane 3 (i32x4.mul (i32x4.splat (i32.const 6)) (i32x4.splat (i32.const 7)))) (i32.const 42))
      (then unreachable))))
