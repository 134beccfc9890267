;; SPDX-License-Identifier: Apache-2.0
;;
;; Ruby's C library asks once, at the beginning, which directories there are; and that is
;; while it is initialised, when there are none. The one that it has later is told here.

(module
	(import "ruby" "memory" (memory 1))
	(func (export "fd_prestat_get") (param $fd i32) (param $to i32) (result i32)
		(if (i32.ne (local.get $fd) (i32.const 3)) (then (return (i32.const 8)))) ;; EBADF
		(i32.store (local.get $to) (i32.const 0))
		(i32.store offset=4 (local.get $to) (i32.const 1))
		(i32.const 0))
	(func (export "fd_prestat_dir_name") (param $fd i32) (param $to i32) (param $size i32) (result i32)
		(i32.store8 (local.get $to) (i32.const 47)) ;; "/"
		(i32.const 0)))
