;; SPDX-License-Identifier: Apache-2.0
;; Copies stdin to stdout and stderr until stdin ends, then says so.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 32) "end\n")
  (func $put (param $fd i32) (param $at i32) (param $n i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $n))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (block $end
      (loop $more
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 65536))
        (br_if $end (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 12)))
        (br_if $end (i32.eqz (i32.load (i32.const 12))))
        (call $put (i32.const 1) (i32.const 1024) (i32.load (i32.const 12)))
        (call $put (i32.const 2) (i32.const 1024) (i32.load (i32.const 12)))
        (br $more)))
    (call $put (i32.const 1) (i32.const 32) (i32.const 4))))
