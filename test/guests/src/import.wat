;; SPDX-License-Identifier: Apache-2.0
;; Wants of its host what no engine has.
(module
  (import "nobody" "knows" (func $knows))
  (memory (export "memory") 1)
  (func (export "_start") (call $knows)))
