;; SPDX-License-Identifier: Apache-2.0
;; Its _start wants a parameter.
(module
  (memory (export "memory") 1)
  (func (export "_start") (param i32)))
