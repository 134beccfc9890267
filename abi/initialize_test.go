// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/guests"
)

// empty is a module with a function for each thing that a guest may ask for; what it is
// told is what _start prints later, sixteen bytes from address 64.
const empty = `(module
	(import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
	(import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
	(import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
	(import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fdstat (param i32 i32) (result i32)))
	(import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
	(import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
	(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
	(import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
	(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
	(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
	(import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
	(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
	(memory (export "memory") 3)
	(data (i32.const 0) "\40\00\00\00\10\00\00\00")
	(data (i32.const 8) "\00\04\00\00\06\00\00\00")
	(data (i32.const 16) "\00\08\00\00\10\27\00\00")
	(data (i32.const 64) "................")
	(data (i32.const 1024) "hello\n")
	;; at is where a result goes, as a letter: a for 0.
	(func $put (param $at i32) (param $result i32)
		(i32.store8 (i32.add (i32.const 64) (local.get $at)) (i32.add (i32.const 97) (local.get $result))))
	(func (export "args")
		(call $put (i32.const 0) (call $args (i32.const 32) (i32.const 36)))
		(call $put (i32.const 1) (i32.add (i32.load (i32.const 32)) (i32.load (i32.const 36)))))
	(func (export "environ")
		(call $put (i32.const 0) (call $environ (i32.const 32) (i32.const 36)))
		(call $put (i32.const 1) (i32.add (i32.load (i32.const 32)) (i32.load (i32.const 36)))))
	(func (export "directories")
		(call $put (i32.const 0) (call $prestat (i32.const 3) (i32.const 32)))
		(call $put (i32.const 1)
			(call $open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 5) (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 32))))
	(func (export "input")
		(call $put (i32.const 0) (call $read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 32)))
		(call $put (i32.const 1) (i32.load (i32.const 32))))
	(func (export "streams") (local $fd i32)
		(loop $next
			(call $put (local.get $fd) (call $fdstat (local.get $fd) (i32.const 32)))
			(call $put (i32.add (i32.const 4) (local.get $fd)) (i32.load8_u (i32.const 32)))
			(br_if $next (i32.lt_u (local.tee $fd (i32.add (local.get $fd) (i32.const 1))) (i32.const 3)))))
	(func (export "output")
		(call $put (i32.const 0) (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 32)))
		(call $put (i32.const 1) (i32.load (i32.const 32)))
		(call $put (i32.const 2) (call $write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 32))))
	(func (export "much") (local $i i32)
		(loop $again
			(drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 32)))
			(br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
		(drop (call $write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 32))))
	(func (export "random") (call $put (i32.const 0) (call $random (i32.const 72) (i32.const 8))))
	;; What the clock that only goes on says, and later whether it went back.
	(func (export "monotonic") (drop (call $time (i32.const 1) (i64.const 0) (i32.const 40))))
	(func (export "later")
		(drop (call $time (i32.const 1) (i64.const 0) (i32.const 48)))
		(call $put (i32.const 0) (i64.gt_u (i64.load (i32.const 40)) (i64.load (i32.const 48))))
		(call $put (i32.const 1) (i64.eqz (i64.load (i32.const 40))))
		(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32))))
	;; Whether the clock of the day is after 2020.
	(func (export "day")
		(drop (call $time (i32.const 0) (i64.const 0) (i32.const 48)))
		(call $put (i32.const 0) (i64.gt_u (i64.load (i32.const 48)) (i64.const 1577836800000000000))))
	;; For 20 ms, by both ways to say so.
	(func (export "sleep")
		(i64.store (i32.const 2072) (i64.const 20000000))
		(i32.store (i32.const 2064) (i32.const 1))
		(call $put (i32.const 0) (call $poll (i32.const 2048) (i32.const 4096) (i32.const 1) (i32.const 32)))
		(drop (call $time (i32.const 1) (i64.const 0) (i32.const 40)))
		(call $put (i32.const 1) (i64.lt_u (i64.load (i32.const 40)) (i64.const 20000000)))
		(i64.store (i32.const 2072) (i64.add (i64.load (i32.const 40)) (i64.const 20000000)))
		(i32.store16 (i32.const 2088) (i32.const 1))
		(call $put (i32.const 2) (call $poll (i32.const 2048) (i32.const 4096) (i32.const 1) (i32.const 32)))
		(drop (call $time (i32.const 1) (i64.const 0) (i32.const 48)))
		(call $put (i32.const 3) (i64.lt_u (i64.sub (i64.load (i32.const 48)) (i64.load (i32.const 40))) (i64.const 20000000))))
	(func (export "accept") (drop (call $accept (i32.const 0) (i32.const 0) (i32.const 32))))
	(func (export "exit")
		(drop (call $write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 32)))
		(call $exit (i32.const 3)))
	(func (export "exit0") (call $exit (i32.const 0)))
	(func (export "speak-and-trap")
		(drop (call $write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 32)))
		unreachable)
	(func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))))`

// While a module is initialised, it finds WASI as on a machine on which there is nothing.
func TestInitializeFindsNothing(t *testing.T) {
	needsFull(t)
	for function, test := range map[string]struct {
		entry, want, log, failure string
		exit                      int
	}{
		"args":        {want: "aa"},      // success, and none
		"environ":     {want: "aa"},      // the same
		"directories": {want: "ii"},      // EBADF
		"input":       {want: "aa"},      // the end
		"streams":     {want: "aaa.aaa"}, // of no type that a guest would know
		"output":      {want: "aga", log: "wrote while it was initialised: hello hello"},
		"much":        {want: "....", log: "wrote while it was initialised: "},
		"random":      {want: "a"},
		"monotonic":   {entry: "later", want: "aa"},
		"day":         {want: "b"},
		"sleep":       {want: "aaaa"},
		"accept":      {exit: 126, failure: "it called the import wasi_snapshot_preview1::sock_accept, which is not there while a guest is initialised"},
		"exit":        {exit: 126, failure: `by its function "exit", which wrote "hello": it exited, with status 3, where a function that initialises returns`, log: "hello"},
		"exit0":       {exit: 126, failure: "it exited, with status 0, where"},
		"speak-and-trap": {
			exit: 134, failure: `by its function "speak-and-trap", which wrote "hello": `, log: "hello",
		},
	} {
		t.Run(function, func(t *testing.T) {
			options := []record{{tagOption, "initialize=" + function}}
			run := options
			if test.entry != "" {
				run = append(run, record{tagEntryFunc, test.entry})
			}
			for range 2 { // at the start, and ahead
				r, exit, failure := from(t, empty, nil, 4, append(run, record{tagEnv, "SECRET=1"})...)
				require.Equal(t, test.exit, exit, failure)
				require.Contains(t, failure, test.failure)
				require.True(t, strings.HasPrefix(r.stdout.String(), test.want), r.stdout.String())
				log := strings.Join(r.log, "\n")
				require.Contains(t, log, test.log)
				require.Equal(t, test.log == "", log == "", log)
				require.Less(t, len(log), 2048)
			}
			artifact, failure := compiled(t, empty, 4, options...)
			require.Contains(t, failure, test.failure)
			require.Equal(t, test.failure == "", failure == "", failure)
			if test.failure != "" {
				return
			}
			var first string
			for range 2 {
				r, exit, failure := from(t, "damaged", artifact, 4, run...)
				require.Equal(t, 0, exit, failure)
				require.True(t, strings.HasPrefix(r.stdout.String(), test.want), r.stdout.String())
				if first != "" {
					require.Equal(t, first, r.stdout.String(), "the guests of one artifact differ")
				}
				first = r.stdout.String()
			}
			if function == "random" {
				other, failure := compiled(t, empty, 4, options...)
				require.Empty(t, failure)
				r, _, _ := from(t, "damaged", other, 4, run...)
				require.NotEqual(t, first, r.stdout.String())
			}
		})
	}
}

// asking is a component with functions that ask for what is there, and what is not.
const asking = `(component
	(import "wasi:io/error@0.2.3" (instance $error (export "error" (type (sub resource)))))
	(alias export $error "error" (type $io-error))
	(import "wasi:io/poll@0.2.3" (instance $poll
		(export "pollable" (type $p (sub resource)))
		(export "[method]pollable.block" (func (param "self" (borrow $p))))))
	(alias export $poll "pollable" (type $pollable))
	(import "wasi:io/streams@0.2.3" (instance $streams
		(export "output-stream" (type $o (sub resource)))
		(alias outer 1 $io-error (type $e'))
		(export "error" (type $e (eq $e')))
		(type $failed' (variant (case "last-operation-failed" (own $e)) (case "closed")))
		(export "stream-error" (type $failed (eq $failed')))
		(export "[method]output-stream.blocking-write-and-flush"
			(func (param "self" (borrow $o)) (param "contents" (list u8)) (result (result (error $failed)))))))
	(alias export $streams "output-stream" (type $output))
	(import "wasi:cli/stdout@0.2.3" (instance $stdout
		(alias outer 1 $output (type $o'))
		(export "output-stream" (type $o (eq $o')))
		(export "get-stdout" (func (result (own $o))))))
	(import "wasi:cli/environment@0.2.3" (instance $environment
		(export "get-environment" (func (result (list (tuple string string)))))
		(export "get-arguments" (func (result (list string))))))
	(import "wasi:cli/exit@0.2.3" (instance $exit (export "exit" (func (param "status" (result))))))
	(import "wasi:random/random@0.2.3" (instance $random (export "get-random-u64" (func (result u64)))))
	(import "wasi:clocks/monotonic-clock@0.2.3" (instance $clock
		(alias outer 1 $pollable (type $p'))
		(export "pollable" (type $p (eq $p')))
		(export "now" (func (result u64)))
		(export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
	(import "wasi:sockets/network@0.2.3" (instance $network (export "network" (type (sub resource)))))
	(alias export $network "network" (type $net))
	(import "wasi:sockets/instance-network@0.2.3" (instance $sockets
		(alias outer 1 $net (type $n'))
		(export "network" (type $n (eq $n')))
		(export "instance-network" (func (result (own $n))))))
	(import "wasi:sockets/tcp@0.2.3" (instance $tcp
		(alias outer 1 $pollable (type $p'))
		(export "pollable" (type $p (eq $p')))
		(export "tcp-socket" (type $s (sub resource)))
		(export "[method]tcp-socket.subscribe" (func (param "self" (borrow $s)) (result (own $p))))))
	(core module $memory
		(memory (export "memory") 1)
		(global $top (mut i32) (i32.const 1024))
		(data (i32.const 512) "from a component\n")
		(func (export "realloc") (param i32 i32 i32 i32) (result i32)
			(global.set $top (i32.add (global.get $top) (i32.const 4096)))
			(i32.sub (global.get $top) (i32.const 4096))))
	(core instance $m (instantiate $memory))
	(alias core export $m "memory" (core memory $mem))
	(core func $realloc (alias core export $m "realloc"))
	(core func $get-stdout (canon lower (func $stdout "get-stdout")))
	(core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $mem)))
	(core func $drop-output (canon resource.drop $output))
	(core func $drop-pollable (canon resource.drop $pollable))
	(core func $block (canon lower (func $poll "[method]pollable.block")))
	(core func $get-environment (canon lower (func $environment "get-environment") (memory $mem) (realloc $realloc)))
	(core func $get-arguments (canon lower (func $environment "get-arguments") (memory $mem) (realloc $realloc)))
	(core func $do-exit (canon lower (func $exit "exit")))
	(core func $u64 (canon lower (func $random "get-random-u64")))
	(core func $now (canon lower (func $clock "now")))
	(core func $subscribe (canon lower (func $clock "subscribe-duration")))
	(core func $net-of (canon lower (func $sockets "instance-network")))
	(core module $main
		(import "m" "memory" (memory 1))
		(import "w" "get-stdout" (func $get-stdout (result i32)))
		(import "w" "write" (func $write (param i32 i32 i32 i32)))
		(import "w" "drop-output" (func $drop-output (param i32)))
		(import "w" "drop-pollable" (func $drop-pollable (param i32)))
		(import "w" "block" (func $block (param i32)))
		(import "w" "get-environment" (func $environment (param i32)))
		(import "w" "get-arguments" (func $arguments (param i32)))
		(import "w" "exit" (func $exit (param i32)))
		(import "w" "u64" (func $u64 (result i64)))
		(import "w" "now" (func $now (result i64)))
		(import "w" "subscribe" (func $subscribe (param i64) (result i32)))
		(import "w" "network" (func $network (result i32)))
		(global $number (mut i64) (i64.const 0))
		(func (export "ask")
			(call $environment (i32.const 64))
			(call $arguments (i32.const 72))
			(global.set $number (i64.extend_i32_u (i32.add (i32.load (i32.const 68)) (i32.load (i32.const 76))))))
		(func $say (export "say") (local $o i32)
			(local.set $o (call $get-stdout))
			(call $write (local.get $o) (i32.const 512) (i32.const 17) (i32.const 64))
			(call $drop-output (local.get $o)))
		(func (export "keep") (drop (call $get-stdout)))
		(func (export "draw") (global.set $number (call $u64)))
		(func (export "sleep") (local $p i32) (local $begun i64)
			(local.set $begun (call $now))
			(local.set $p (call $subscribe (i64.const 20000000)))
			(call $block (local.get $p))
			(call $drop-pollable (local.get $p))
			(global.set $number (i64.extend_i32_u (i64.ge_u (i64.sub (call $now) (local.get $begun)) (i64.const 20000000)))))
		(func (export "monotonic") (global.set $number (call $now)))
		(func (export "later") (result i64)
			(i64.extend_i32_u (i32.and (i64.ne (global.get $number) (i64.const 0)) (i64.gt_u (call $now) (global.get $number)))))
		(func (export "network") (drop (call $network)))
		(func (export "exit") (call $say) (call $exit (i32.const 1)))
		(func (export "number") (result i64) (global.get $number)))
	(core instance $i (instantiate $main (with "m" (instance $m)) (with "w" (instance
		(export "get-stdout" (func $get-stdout)) (export "write" (func $write)) (export "drop-output" (func $drop-output))
		(export "drop-pollable" (func $drop-pollable)) (export "block" (func $block))
		(export "get-environment" (func $get-environment)) (export "get-arguments" (func $get-arguments))
		(export "exit" (func $do-exit)) (export "u64" (func $u64)) (export "now" (func $now))
		(export "subscribe" (func $subscribe)) (export "network" (func $net-of))))))
	%s
	(func $number (result u64) (canon lift (core func $i "number")))
	(export "number" (func $number))
	(func $later (result u64) (canon lift (core func $i "later")))
	(export "later" (func $later)))`

// The same of a component, which may keep no resource of WASI's either: its number would
// name nothing in another instance.
func TestInitializeComponentFindsNothing(t *testing.T) {
	needsFull(t)
	var exports strings.Builder
	for _, name := range []string{"ask", "say", "keep", "draw", "sleep", "monotonic", "network", "exit"} {
		fmt.Fprintf(&exports, "(func $%[1]s-lifted (canon lift (core func $i %[1]q))) (export %[1]q (func $%[1]s-lifted))\n", name)
	}
	code := fmt.Sprintf(asking, exports.String())
	for function, test := range map[string]struct {
		entry, want, log, failure string
	}{
		"ask":       {want: "0\n"},
		"say":       {want: "0\n", log: "wrote while it was initialised: from a component"},
		"sleep":     {want: "1\n"},
		"draw":      {},
		"monotonic": {entry: "later", want: "1\n"},
		"keep":      {failure: "it has kept a stream, or another resource of WASI's, which is not there later: accepted is what drops them"},
		"network":   {failure: "it called the import wasi:sockets/instance-network@0.2.3.instance-network, which is not there while a guest is initialised"},
		"exit":      {failure: `which wrote "from a component": it exited, with status 1, where`, log: "from a component"},
	} {
		t.Run(function, func(t *testing.T) {
			options := []record{{tagOption, "initialize=" + function}}
			if test.entry == "" {
				test.entry = "number"
			}
			run := append(options, record{tagEntryFunc, test.entry}, record{tagEnv, "SECRET=1"})
			r, exit, failure := from(t, code, nil, 4, run...)
			require.Contains(t, failure, test.failure)
			require.Equal(t, test.failure != "", exit == 126, failure)
			require.Contains(t, strings.Join(r.log, "\n"), test.log)
			require.Equal(t, test.log == "", len(r.log) == 0, r.log)
			artifact, failure := compiled(t, code, 4, options...)
			require.Contains(t, failure, test.failure)
			require.Equal(t, test.failure == "", failure == "", failure)
			if test.failure != "" {
				return
			}
			r, exit, failure = from(t, "damaged", artifact, 4, run...)
			require.Equal(t, 0, exit, failure)
			if function == "draw" {
				require.NotEqual(t, "0\n", r.stdout.String())
				again, _, _ := from(t, "damaged", artifact, 4, run...)
				require.Equal(t, r.stdout.String(), again.stdout.String(), "drawn once, for all")
			} else {
				require.Equal(t, test.want, r.stdout.String())
			}
		})
	}
}

// An artifact is of one function, and of what that finds.
func TestInitializeArtifact(t *testing.T) {
	needsFull(t)
	artifact, failure := compiled(t, empty, 4, record{tagOption, "initialize=args"})
	require.Empty(t, failure)
	for _, other := range [][]record{nil, {{tagOption, "initialize=environ"}}} {
		r, exit, failure := from(t, empty, artifact, 4, other...)
		require.Equal(t, 0, exit, failure)
		require.Len(t, r.log, 1)
		require.Contains(t, r.log[0], "0\x00it is damaged, or compiled by an engine that is set otherwise")
	}
}

// What Wizer does not keep is refused in its own words, never a crash.
func TestInitializeLimits(t *testing.T) {
	needsFull(t)
	const rest = `(func (export "init")) (func (export "_start"))`
	for code, want := range map[string]string{
		"(module (import \"env\" \"g\" (global i32)) " + rest + ")":                                "imports env::g",
		"(module (table 1 funcref) (func (table.set (i32.const 0) (ref.null func))) " + rest + ")": "unsupported `table.set` instruction",
		"(module (memory 1) (data \"a\") (func (data.drop 0)) " + rest + ")":                       "unsupported `data.drop` instruction",
		"(module (global (mut funcref) (ref.null func)) " + rest + ")":                             "unsupported mutable global containing a reference type",
		"(module (memory (export \"memory\") 1 1 shared) " + rest + ")":                            "it has a memory that threads share, which is not kept",
	} {
		t.Run(want, func(t *testing.T) {
			options := optionList([]string{"initialize=init", "wasm-shared-memory=true"})
			_, exit, failure := from(t, code, nil, 4, options...)
			require.Equal(t, 126, exit, failure)
			require.Contains(t, failure, want)
			_, failure = compiled(t, code, 4, options...)
			require.Contains(t, failure, want)
		})
	}
}

// A service is initialised without its HTTP, which it may import.
func TestInitializeService(t *testing.T) {
	needsFull(t)
	code, err := guests.Read("component-http.wasm")
	require.NoError(t, err)
	_, failure := compiled(t, string(code), 2, record{tagOption, "initialize=nope"})
	require.Contains(t, failure, `it has no export "nope"; its exports: wasi:http/incoming-handler@0.2`)
}
