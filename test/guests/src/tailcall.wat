;; SPDX-License-Identifier: Apache-2.0
;; Needs tail calls: a million calls deep, without stack.
(module
  (memory (export "memory") 1)
  (func $down (param $n i32)
    (if (local.get $n) (then (return_call $down (i32.sub (local.get $n) (i32.const 1))))))
  (func (export "_start") (call $down (i32.const 1000000))))
