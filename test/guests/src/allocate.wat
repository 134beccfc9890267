;; SPDX-License-Identifier: Apache-2.0
;; Takes memory, one MiB after the other, and writes to every page of it. When it
;; is refused more it prints how many MiB it has, and exits with 7. The export
;; "forever" asks again and again then.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 16)
  (data (i32.const 56) " MiB\n")
  (func $fill
    (local $at i32) (local $n i32)
    (block $refused
      (loop $more
        (local.set $at (memory.grow (i32.const 16)))
        (br_if $refused (i32.eq (local.get $at) (i32.const -1)))
        (local.set $at (i32.shl (local.get $at) (i32.const 16)))
        (local.set $n (i32.const 256))
        (loop $page
          (i32.store (local.get $at) (i32.const 1))
          (local.set $at (i32.add (local.get $at) (i32.const 4096)))
          (local.set $n (i32.sub (local.get $n) (i32.const 1)))
          (br_if $page (local.get $n)))
        (br $more))))
  (func (export "forever") (loop $again (call $fill) (br $again)))
  (func (export "_start")
    (local $sum i32) (local $at i32)
    (call $fill)
    (local.set $sum (i32.shr_u (memory.size) (i32.const 4)))
    (local.set $at (i32.const 56))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $sum) (i32.const 10))))
      (local.set $sum (i32.div_u (local.get $sum) (i32.const 10)))
      (br_if $digit (local.get $sum)))
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (i32.sub (i32.const 61) (local.get $at)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $proc_exit (i32.const 7))))
