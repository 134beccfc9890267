;; SPDX-License-Identifier: Apache-2.0
;; Says of each of its standard streams whether it is a terminal, as wasi-libc's
;; isatty does: a character device that can neither be sought in nor told the
;; place of.
(module
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fd_fdstat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\11\00\00\00")
  (data (i32.const 16) "terminals: 0 1 2\n")
  (func (export "_start")
    (local $fd i32)
    (loop $next
      (if (i32.or
            (call $fd_fdstat_get (local.get $fd) (i32.const 64))
            (i32.or
              (i32.ne (i32.load8_u (i32.const 64)) (i32.const 2)) ;; character_device
              (i32.and (i32.load (i32.const 72)) (i32.const 0x24)))) ;; fd_seek, fd_tell
        (then (i32.store8 (i32.add (i32.const 27) (i32.mul (local.get $fd) (i32.const 2))) (i32.const 0x2d))))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $fd) (i32.const 3))))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
