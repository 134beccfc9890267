;; SPDX-License-Identifier: Apache-2.0
;; Exits with the code that is the number of its arguments beside the first;
;; none: 7.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (local $n i32)
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (local.set $n (i32.sub (i32.load (i32.const 0)) (i32.const 1)))
    (call $proc_exit (select (local.get $n) (i32.const 7) (local.get $n)))))
