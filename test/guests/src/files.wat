;; SPDX-License-Identifier: Apache-2.0
;; Copies the file "data/in", below the first directory that it is given, to
;; "data/out" and to stdout. Exits with the number of the step that failed.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "data/in")
  (data (i32.const 96) "data/out")
  (func $check (param $error i32) (param $step i32)
    (if (local.get $error) (then (call $proc_exit (local.get $step)))))
  (func (export "_start")
    (call $check
      (call $path_open (i32.const 3) (i32.const 1) (i32.const 64) (i32.const 7) (i32.const 0)
        (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 16))
      (i32.const 1))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 65536))
    (call $check (call $fd_read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)) (i32.const 2))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (call $check
      (call $path_open (i32.const 3) (i32.const 1) (i32.const 96) (i32.const 8) (i32.const 9) ;; create, truncate
        (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 20))
      (i32.const 3))
    (call $check (call $fd_write (i32.load (i32.const 20)) (i32.const 0) (i32.const 1) (i32.const 8)) (i32.const 4))
    (call $check (call $fd_close (i32.load (i32.const 20))) (i32.const 5))
    (call $check (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (i32.const 6))))
