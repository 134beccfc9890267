;; SPDX-License-Identifier: Apache-2.0
;; Grows its memory by single pages as long as it may, at most to 200 pages;
;; exits with how many it has in the end.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1 200)
  (func (export "_start")
    (loop $more
      (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    (call $proc_exit (memory.size))))
