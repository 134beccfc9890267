;; SPDX-License-Identifier: Apache-2.0
;;
;; Ruby as npm has it is a library for JavaScript. This makes a program of it: boot starts
;; the interpreter and makes a table, as many programs do before they are of use; _start does
;; that if nobody has, and runs /app.rb of the container. Nobody ends the interpreter: what is
;; written must not wait for that.

(module
	(import "ruby" "memory" (memory 1))
	(import "ruby" "_initialize" (func $initialize))
	(import "ruby" "cabi_realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
	(import "ruby" "ruby-init: func(args: list<string>) -> ()" (func $init (param i32 i32)))
	(import "ruby" "rb-eval-string-protect: func(str: string) -> tuple<handle<rb-abi-value>, s32>"
		(func $eval (param i32 i32) (result i32)))
	(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
	(global $ready (mut i32) (i32.const 0))
	(data $text
		"ruby\00"
		"-EUTF-8\00"
		"-e_=0\00"
		"$stdout.sync = true; STARTED = Time.now.to_f; TABLE = 20_000.times.to_h { |i| [i.to_s, i] }"
		"begin; load \22/app.rb\22; rescue Exception => e; warn e.full_message(highlight: false); raise; end")
	(func $copy (param $from i32) (param $size i32) (result i32) (local $to i32)
		(local.set $to (call $realloc (i32.const 0) (i32.const 0) (i32.const 1) (local.get $size)))
		(memory.init $text (local.get $to) (local.get $from) (local.get $size))
		(local.get $to))
	(func $do (param $from i32) (param $size i32)
		(if (i32.load offset=4 (call $eval (call $copy (local.get $from) (local.get $size)) (local.get $size)))
			(then (call $exit (i32.const 1)))))
	(func $boot (export "boot") (local $list i32)
		(local.set $list (call $realloc (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 24)))
		(i32.store offset=0 (local.get $list) (call $copy (i32.const 0) (i32.const 5)))
		(i32.store offset=4 (local.get $list) (i32.const 5))
		(i32.store offset=8 (local.get $list) (call $copy (i32.const 5) (i32.const 8)))
		(i32.store offset=12 (local.get $list) (i32.const 8))
		(i32.store offset=16 (local.get $list) (call $copy (i32.const 13) (i32.const 6)))
		(i32.store offset=20 (local.get $list) (i32.const 6))
		(call $init (local.get $list) (i32.const 3))
		(call $do (i32.const 19) (i32.const 91))
		(global.set $ready (i32.const 1)))
	(func (export "_start")
		(if (i32.eqz (global.get $ready)) (then (call $initialize) (call $boot)))
		(call $do (i32.const 110) (i32.const 95))))
