// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
)

var buildWasmtime = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("../scripts/shim.sh", "wasmtime").CombinedOutput()
	return string(out), err
})

// wasmtime builds the engine's shim and has a runner execute it.
func wasmtime(t *testing.T) func(c *exec.Cmd) {
	out, err := buildWasmtime()
	require.NoError(t, err, out)
	exe, err := os.Open("../dist/containerd-shim-wasmtime-v1")
	require.NoError(t, err)
	t.Cleanup(func() { exe.Close() })
	return func(c *exec.Cmd) { c.ExtraFiles[0] = exe }
}

// recursive calls itself until its stack is used up.
const recursive = `(module
	(memory (export "memory") 1)
	(func $deeper (param i32) (result i32) (i32.add (local.get 0) (call $deeper (i32.add (local.get 0) (i32.const 1)))))
	(func (export "_start") (drop (call $deeper (i32.const 0)))))`

// limited starts the engine on a text under limits of the shell's.
func limited(t *testing.T, limits, text string, more ...record) *runner {
	path := filepath.Join(t.TempDir(), "guest.wat")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	args := []string{"guest"}
	more = append([]record{{tagEntryPath, path}, {tagKind, u32(4)}}, more...)
	return startRunner(t, guest(args, more...), args, wasmtime(t), func(c *exec.Cmd) {
		c.Args = append([]string{"sh", "-c", limits + `; exec "$@"`, "sh", c.Path}, c.Args[1:]...)
		c.Path = "/bin/sh"
	})
}

// What is said of a guest that is built for something else, before it is
// compiled: none of these would be.
func TestBuiltForSomethingElse(t *testing.T) {
	const broken = `(type (struct (field i32))) (func (export "_start"))` // a proposal that is off
	server := `(component (core module $m) (instance $i) (export "wasi:http/incoming-handler@0.2.3" (instance $i))`
	command := `(component %s (core module $m ` + broken + `) (instance $i) (export "wasi:cli/run@0.2.3" (instance $i)))`
	for text, want := range map[string]string{
		`(module (import "env" "abort" (func (param i32 i32 i32 i32))) ` + broken + `)`:          "imports env::abort: it is AssemblyScript, built without WASI; build it with @assemblyscript/wasi-shim",
		`(module (import "wasi_unstable" "proc_exit" (func (param i32))) ` + broken + `)`:        "imports wasi_unstable::proc_exit: that is WASI of before preview 1; build it with a current toolchain",
		`(module (import "wasi_snapshot_preview1" "sock_open" (func)) ` + broken + `)`:           "imports wasi_snapshot_preview1::sock_open: that is one of WasmEdge's sockets",
		`(module (import "wasi" "thread-spawn" (func (param i32) (result i32))) ` + broken + `)`: "imports wasi::thread-spawn: it is built for threads",
		`(module (import "env" "memory" (memory 1 2 shared)) ` + broken + `)`:                    "imports env::memory: it is built for threads",
		`(module (import "env" "memory" (memory 1 2)) ` + broken + `)`:                           "imports env::memory: this engine has wasi_snapshot_preview1 and nothing else",
		`(module (import "gojs" "runtime.wasmExit" (func (param i32))) ` + broken + `)`:          "it is built for a browser; build it with GOOS=wasip1",
		`(module (import "line\n" "\7f" (func)) ` + broken + `)`:                                 "imports line?::?: this engine",
		`(module (type (struct (field i32))) (func (export "main")))`:                            `has no export "_start"; exported functions: main`,
		server + `)`: "is a server (it exports wasi:http/incoming-handler@0.2.3), and this engine serves no HTTP yet; accepted: wasi:cli/run@0.2",
		server + `(import "fermyon:spin/key-value" (instance)))`:                "is built for Spin (fermyon:spin/key-value), and only Spin runs it",
		`(component (instance $i) (export "wasi:cli/run@0.3.0" (instance $i)))`: "exports wasi:cli/run@0.3.0, which this engine does not run yet; accepted: wasi:cli/run@0.2",
		`(component (instance $i) (export "a:b/c" (instance $i)))`:              "does not export wasi:cli/run@0.2; its exports: a:b/c",
		fmt.Sprintf(command, `(import "wasi:http/types@0.2.3" (instance))`):     "imports wasi:http/types@0.2.3: this engine gives guests no HTTP; a guest in JavaScript is built without by --disable http",
		fmt.Sprintf(command, `(import "wasi:cli/stdout@0.3.0" (instance))`):     "imports wasi:cli/stdout@0.3.0: this engine has cli, clocks, filesystem, io, random and sockets of WASI 0.2",
		fmt.Sprintf(command, `(import "a:b/c" (instance))`):                     "imports a:b/c: this engine has WASI 0.2 and nothing else",
		`(component)`: "does not export wasi:cli/run@0.2; its exports: none",
	} {
		t.Run(want, func(t *testing.T) {
			r := limited(t, "true", text)
			code, failure := r.end(t)
			require.Equal(t, 126, code)
			require.Contains(t, failure, "load\x00")
			require.Contains(t, failure, want)
			// In the compiler, too, unless only the entrypoint is the matter.
			compiler := startRunner(t, encode(record{tagKind, u32(4)}, layer(6, 7, "", "")), []string{"compiler"}, wasmtime(t), func(c *exec.Cmd) {
				c.Env = []string{"_WASMSHIM_ROLE=compiler"}
				c.ExtraFiles = append(c.ExtraFiles, memory(t, text), memory(t, ""))
			})
			code, failure = compiler.end(t)
			require.Equal(t, 126, code)
			if !strings.Contains(want, "_start") {
				require.Contains(t, failure, want)
			}
		})
	}
}

// Who runs out of memory while it compiles is ended by the kernel, and cannot say
// why; so it is said before.
func TestMemoryForCompiling(t *testing.T) {
	code, err := guests.Read("hello.wasm")
	require.NoError(t, err)
	// A custom section of 4 MiB.
	code = append(append(code, 0, 0x80, 0x80, 0x80, 0x02), make([]byte, 4<<20)...)
	path := filepath.Join(t.TempDir(), "hello.wasm")
	require.NoError(t, os.WriteFile(path, code, 0o600))
	for limit, want := range map[uint64][]string{
		0: nil, 1 << 30: nil,
		64 << 20: {"2 compiling " + path + " may take more memory than the container has: about 96 MiB, and its limit is 64 MiB"},
	} {
		args := []string{"hello"}
		r := startRunner(t, guest(args, record{tagEntryPath, path}, record{tagMemory, u64(limit)}), args, wasmtime(t))
		exit, failure := r.end(t)
		require.Equal(t, 0, exit, failure)
		require.Equal(t, want, r.log)
	}
}

// However small the container's limit on the stack is, a guest has the stack
// that WebAssembly promises, and its end is a trap.
func TestStackLimit(t *testing.T) {
	hello, err := guests.Read("hello.wat")
	require.NoError(t, err)
	component, err := guests.Read("component-hello.wat")
	require.NoError(t, err)
	for _, kib := range []string{"8192", "512", "64", "16"} {
		for _, options := range [][]record{nil, {{tagOption, "timeout=60000"}}} {
			t.Run(kib+" KiB, "+strconv.Itoa(len(options))+" options", func(t *testing.T) {
				for _, text := range []string{string(hello), string(component)} {
					r := limited(t, "ulimit -s "+kib, text, options...)
					code, _ := r.end(t)
					require.Equal(t, 0, code, r.stderr.String())
					require.Contains(t, r.stdout.String(), "hello")
				}
				r := limited(t, "ulimit -s "+kib, recursive, options...)
				code, failure := r.end(t)
				require.Equal(t, 134, code)
				require.Contains(t, failure, "call stack exhausted")
			})
		}
	}
}

// A guest has as much stack as its option says, on any thread: an interpreter may
// recurse more deeply than others.
func TestStackOption(t *testing.T) {
	const deep = `(module
		(memory (export "memory") 1)
		(func $deeper (param i32) (result i32)
			(if (result i32) (local.get 0)
				(then (i32.add (local.get 0) (call $deeper (i32.sub (local.get 0) (i32.const 1)))))
				(else (i32.const 0))))
		(func (export "_start") (drop (call $deeper (i32.const 100000)))))`
	for _, kib := range []string{"unlimited", "8192", "64"} {
		for _, options := range [][]record{nil, {{tagOption, "timeout=60000"}}} {
			t.Run(kib+" KiB, "+strconv.Itoa(len(options))+" options", func(t *testing.T) {
				for size, want := range map[string]string{
					"": "call stack exhausted", "65536": "call stack exhausted", "16777216": "", "1073741824": "",
					"65535":      "engine option max-wasm-stack: found 65535 bytes, accepted: 64KiB to 1GiB",
					"1073741825": "engine option max-wasm-stack: found 1073741825 bytes, accepted: 64KiB to 1GiB",
				} {
					more := options
					if size != "" {
						more = append(slices.Clone(options), record{tagOption, "max-wasm-stack=" + size})
					}
					r := limited(t, "ulimit -s "+kib, deep, more...)
					code, failure := r.end(t)
					require.Contains(t, failure, want, size)
					require.Equal(t, want == "", code == 0, "%s: %d %s", size, code, failure)
					require.NotEqual(t, 139, code)
				}
			})
		}
	}
}

// A limit on address space that wasmtime cannot live with is named.
func TestAddressSpaceLimit(t *testing.T) {
	hello, err := guests.Read("hello.wat")
	require.NoError(t, err)
	for _, kib := range []string{"4000000", "1000000", "100000"} {
		t.Run(kib, func(t *testing.T) {
			r := limited(t, "ulimit -v "+kib, string(hello))
			code, failure := r.end(t)
			require.Equal(t, 126, code, r.stderr.String())
			require.Regexp(t, `: the container limits its address space \(RLIMIT_AS\) to \d+ bytes, of which wasmtime reserves 4\.1 GiB for each memory of a guest: remove it, or set the engine option memory-reservation to less; the container's limit on memory holds$`, failure)
		})
	}
	// The runner sets it, where it is told to.
	r := limited(t, "true", string(hello), record{tagRlimit, u32(unix.RLIMIT_AS) + u64(1<<30) + u64(1<<30)})
	exit, failure := r.end(t)
	require.Equal(t, 126, exit, r.stderr.String())
	require.Contains(t, failure, "(RLIMIT_AS) to 1073741824 bytes")
	// Nothing is wrong with an artifact, or a layer, for which there is no room.
	code, err := guests.Read("hello.wasm")
	require.NoError(t, err)
	huge := memory(t, "")
	require.NoError(t, huge.Truncate(1<<30))
	for _, layers := range [][]*os.File{{memory(t, string(code)), huge}, {huge, huge}} {
		args := []string{"hello"}
		r := startRunner(t, guest(args, layer(6, 7, "", "sha256:aa")), args, wasmtime(t), func(c *exec.Cmd) {
			c.ExtraFiles = append(c.ExtraFiles, layers...)
			c.Args = append([]string{"sh", "-c", `ulimit -v 500000; exec "$@"`, "sh", c.Path}, c.Args[1:]...)
			c.Path = "/bin/sh"
		})
		exit, failure := r.end(t)
		require.Equal(t, 126, exit)
		require.Contains(t, failure, "(RLIMIT_AS)")
		require.Empty(t, r.log)
	}
	r = limited(t, "ulimit -v 1000000", string(hello), record{tagOption, "memory-reservation=1048576"}, record{tagOption, "memory-guard-size=65536"})
	exit, failure = r.end(t)
	require.Equal(t, 0, exit, failure)
	r = limited(t, "ulimit -v 8000000", string(hello))
	exit, _ = r.end(t)
	require.Equal(t, 0, exit, r.stderr.String())
}

// Where an artifact loads, the guest's file is not read: for that it would be
// copied. Where none loads, it is.
func TestArtifactOfAFile(t *testing.T) {
	shim := wasmtime(t)
	code, err := guests.Read("hello.wasm")
	require.NoError(t, err)
	artifact, failure := compiled(t, string(code), 1)
	require.Empty(t, failure)

	args := []string{"hello"}
	for _, test := range []struct {
		name           string
		artifact       *os.File
		exit           int
		stdout, stderr string
	}{
		{"loads", artifact, 0, "hello\n", ""},
		{"is damaged", memory(t, "damaged"), 126, "", "wasmtime: cannot read /app/hello.wasm: No such file or directory\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := startRunner(t, guest(args, layer(0, 6, "", "sha256:aa")), args, shim, func(c *exec.Cmd) {
				c.ExtraFiles = append(c.ExtraFiles, test.artifact)
			})
			exit, _ := r.end(t)
			require.Equal(t, test.stderr, r.stderr.String())
			require.Equal(t, test.stdout, r.stdout.String())
			require.Equal(t, test.exit, exit)
		})
	}
}

// compiled has the engine compile a guest ahead; the failure is empty if it does.
func compiled(t *testing.T, code string, kind uint32, options ...record) (artifact *os.File, failure string) {
	artifact = memory(t, "")
	compiler := startRunner(t, encode(append([]record{{tagKind, u32(kind)}, layer(6, 7, "", "")}, options...)...), []string{"compiler"}, wasmtime(t), func(c *exec.Cmd) {
		c.Env = []string{"_WASMSHIM_ROLE=compiler"}
		c.ExtraFiles = append(c.ExtraFiles, memory(t, code), artifact)
	})
	exit, failure := compiler.end(t)
	require.Equal(t, exit == 0, failure == "", "%d %s %s", exit, failure, compiler.stderr.String())
	return artifact, failure
}

// from runs a guest from its artifact or, where that is nil, its code.
func from(t *testing.T, code string, artifact *os.File, kind uint32, options ...record) (r *runner, exit int, failure string) {
	l, files := layer(6, 0, "", ""), []*os.File{memory(t, code)}
	if artifact != nil {
		l, files = layer(6, 7, "", ""), append(files, artifact)
	}
	args := []string{"guest"}
	r = startRunner(t, guest(args, append([]record{{tagKind, u32(kind)}, l}, options...)...), args, wasmtime(t), func(c *exec.Cmd) {
		c.ExtraFiles = append(c.ExtraFiles, files...)
	})
	exit, failure = r.end(t)
	return r, exit, failure
}

// needsFull skips what the full library alone has.
func needsFull(t *testing.T) {
	wasmtime(t)
	full, err := harness.IsFull("../dist/containerd-shim-wasmtime-v1")
	require.NoError(t, err)
	if !full {
		t.Skip("the prebuilt wasmtime has none of this: docs/engines.md")
	}
}

func optionList(options []string) (all []record) {
	for _, o := range options {
		all = append(all, record{tagOption, o})
	}
	return all
}

// An artifact ends with a number that changes with all that it depends on and with
// nothing else. One with another number is not run.
func TestArtifactKey(t *testing.T) {
	needsFull(t)
	code, err := guests.Read("hello.wasm")
	require.NoError(t, err)
	key := func(options ...string) string {
		artifact, failure := compiled(t, string(code), 1, optionList(options)...)
		require.Empty(t, failure, options)
		info, err := artifact.Stat()
		require.NoError(t, err)
		key := make([]byte, 8)
		_, err = artifact.ReadAt(key, info.Size()-8)
		require.NoError(t, err)
		return string(key)
	}
	usual := key()
	for _, same := range []string{
		"max-memory=65536", "max-wasm-stack=1048576", "network=all", "http-reuse=7", // not about code
		"opt-level=speed", "wasm-simd=true", "wasm-gc=true", "memory-reservation=4294967296", "wasmtime=-O opt-level=2", // the defaults
	} {
		require.Equal(t, usual, key(same), same)
	}
	seen := map[string]string{usual: ""}
	for _, other := range []string{
		"opt-level=none", "opt-level=speed-and-size", "fuel=0", "timeout=0", "memory-reservation=65536", "memory-guard-size=65536",
		"wasm-simd=false", "wasm-custom-page-sizes=true", "wasmtime=-C collector=null", "wasmtime=-D address-map=n",
		"initialize=_start",
	} {
		k := key(other)
		require.NotContains(t, seen, k, "%s is as %s", other, seen[k])
		seen[k] = other
	}
	for _, options := range [][]string{nil, {"opt-level=none"}} {
		artifact, _ := compiled(t, string(code), 1, record{tagOption, "opt-level=none"})
		r, exit, failure := from(t, string(code), artifact, 1, optionList(options)...)
		require.Equal(t, 0, exit, failure)
		require.Equal(t, "hello\n", r.stdout.String())
		if options == nil {
			require.Len(t, r.log, 1)
			require.Contains(t, r.log[0], "0\x00it is damaged, or compiled by an engine that is set otherwise")
		} else {
			require.Empty(t, r.log)
		}
	}
}

// counter prints a digit, which it has in memory and adds up to by each of its functions.
const counter = `(module
	(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
	(import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
	(memory (export "memory") 1)
	(global $more (mut i32) (i32.const 0))
	(data (i32.const 0) "\10\00\00\00\02\00\00\00")
	(data (i32.const 16) "0\n")
	(func $add (param i32) (i32.store8 (i32.const 16) (i32.add (i32.load8_u (i32.const 16)) (local.get 0))))
	(func (export "init") (call $add (i32.const 5)) (global.set $more (i32.const 2)) (drop (memory.grow (i32.const 3))))
	(func (export "trap") unreachable)
	(func $deep (export "deep") (call $deep))
	(func (export "time") (drop (call $time (i32.const 0) (i64.const 0) (i32.const 32))))
	(func (export "plus") (param i32))
	(func (export "number") (result i32) (i32.const 1))
	%s
	(func (export "_start")
		(call $add (global.get $more))
		(call $add (i32.sub (memory.size) (i32.const 1)))
		(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))`

// composed is a component of the same kind.
const composed = `(component
	(import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock (export "now" (func (result u64)))))
	(core func $now (canon lower (func $clock "now")))
	(core module $m
		(import "clock" "now" (func $now (result i64)))
		(memory (export "memory") 1)
		(global $number (mut i32) (i32.const 1))
		(func (export "init") (global.set $number (i32.const 6)) (i32.store (i32.const 8) (i32.const 36)))
		(func (export "trap") unreachable)
		(func (export "time") (drop (call $now)))
		(func (export "number") (result i32) (i32.add (global.get $number) (i32.load (i32.const 8)))))
	(core instance $i (instantiate $m (with "clock" (instance (export "now" (func $now))))))
	(func $init (canon lift (core func $i "init")))
	(func $trap (canon lift (core func $i "trap")))
	(func $time (canon lift (core func $i "time")))
	(func $number (result s32) (canon lift (core func $i "number")))
	(instance $own (export "init" (func $init)))
	(export "own:guest/setup@1.0.0" (instance $own))
	(export "init" (func $init))
	(export "trap" (func $trap))
	(export "time" (func $time))
	(export "number" (func $number)))`

// A guest that is initialised starts from what its function has left, whether that was
// ahead or, without an artifact, when it started.
func TestInitialize(t *testing.T) {
	needsFull(t)
	module := fmt.Sprintf(counter, "")
	reactor := fmt.Sprintf(counter, `(func (export "_initialize") (call $add (i32.const 1)))`)
	for name, test := range map[string]struct {
		code, function, entry string
		options               []string
		want                  string // on standard output
		exit                  int
		failure               string
	}{
		"a module":              {code: module, function: "init", want: ":\n"}, // 5 + 2 + 3
		"not asked for":         {code: module, want: "0\n"},
		"a reactor":             {code: reactor, function: "init", want: ";\n"},
		"a reactor's own":       {code: reactor, function: "_initialize", want: "1\n"},
		"with fuel":             {code: module, function: "init", options: []string{"fuel=1000"}, want: ":\n"},
		"with a timeout":        {code: module, function: "init", options: []string{"timeout=60000"}, want: ":\n"},
		"again, by its name":    {code: module, function: "init", entry: "init"},
		"a component":           {code: composed, function: "init", entry: "number", want: "42\n"},
		"an instance's":         {code: composed, function: "own:guest/setup@1.0.0.init", entry: "number", want: "42\n"},
		"a component, not":      {code: composed, entry: "number", want: "1\n"},
		"no such function":      {code: module, function: "nope", exit: 126, failure: `by its function "nope": it has no export "nope"; exported functions: init, trap, deep, time, plus, number, _start`},
		"no function":           {code: module, function: "memory", exit: 126, failure: `its export "memory" is not a function`},
		"parameters":            {code: module, function: "plus", exit: 126, failure: `"plus" has parameters or results; accepted: a function without any`},
		"results":               {code: module, function: "number", exit: 126, failure: `"number" has parameters or results`},
		"time":                  {code: module, function: "time", want: "0\n"},
		"a trap":                {code: module, function: "trap", exit: 134, failure: "unreachable"},
		"recursion":             {code: module, function: "deep", exit: 134, failure: "call stack exhausted"},
		"a component's none":    {code: composed, function: "nope", entry: "number", exit: 126, failure: `it has no export "nope"; its exports: own:guest/setup@1.0.0, init, trap, time, number`},
		"a component's other":   {code: composed, function: "own:guest/setup@1.0.0", entry: "number", exit: 126, failure: `is not a function`},
		"a component's results": {code: composed, function: "number", entry: "number", exit: 126, failure: `"number" has parameters or results`},
		"a component's trap":    {code: composed, function: "trap", entry: "number", exit: 134, failure: "unreachable"},
		"a component's time":    {code: composed, function: "time", entry: "number", want: "1\n"},
		"what cannot be kept": {
			code: `(module (table 1 funcref) (func (export "init")) (func (export "_start") (table.set (i32.const 0) (ref.null func))))`, function: "init",
			exit: 126, failure: "unsupported `table.set` instruction",
		},
		"its time": {
			code: `(module (func (export "init") (loop (br 0))) (func (export "_start")))`, function: "init", options: []string{"timeout=100"},
			exit: 134, failure: "longer than its timeout of 100 ms",
		},
	} {
		t.Run(name, func(t *testing.T) {
			options := optionList(test.options)
			if test.function != "" {
				options = append(options, record{tagOption, "initialize=" + test.function})
			}
			run := options
			if test.entry != "" {
				run = append(slices.Clone(options), record{tagEntryFunc, test.entry})
			}
			r, exit, failure := from(t, test.code, nil, 4, run...)
			require.Equal(t, test.exit, exit, failure)
			require.Contains(t, failure, test.failure)
			require.Equal(t, test.want, r.stdout.String())
			if name == "its time" {
				return // ahead there is compile_timeout
			}
			artifact, failure := compiled(t, test.code, 4, options...)
			require.Contains(t, failure, test.failure)
			require.Equal(t, test.failure == "", failure == "", failure)
			if test.failure != "" {
				return
			}
			// Of a damaged original only the artifact can be what runs.
			r, exit, failure = from(t, "damaged", artifact, 4, run...)
			require.Equal(t, 0, exit, failure)
			require.Equal(t, test.want, r.stdout.String())
		})
	}
}
