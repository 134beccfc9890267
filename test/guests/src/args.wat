;; SPDX-License-Identifier: Apache-2.0
;; Prints its arguments, then its environment, a line each.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 16)
  ;; Prints the strings in $size bytes at 131072, each ended by a NUL.
  (func $print (param $size i32)
    (local $at i32)
    (local.set $at (i32.const 131072))
    (local.set $size (i32.add (local.get $at) (local.get $size)))
    (block $end
      (loop $next
        (br_if $end (i32.ge_u (local.get $at) (local.get $size)))
        (if (i32.eqz (i32.load8_u (local.get $at))) (then (i32.store8 (local.get $at) (i32.const 10))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (i32.store (i32.const 0) (i32.const 131072))
    (i32.store (i32.const 4) (i32.sub (local.get $size) (i32.const 131072)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
    (drop (call $args_get (i32.const 1024) (i32.const 131072)))
    (call $print (i32.load (i32.const 20)))
    (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
    (drop (call $environ_get (i32.const 1024) (i32.const 131072)))
    (call $print (i32.load (i32.const 20)))))
