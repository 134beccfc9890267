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
	artifact := memory(t, "")
	compiler := startRunner(t, encode(record{tagKind, u32(1)}, layer(6, 7, "", "")), []string{"compiler"}, shim, func(c *exec.Cmd) {
		c.Env = []string{"_WASMSHIM_ROLE=compiler"}
		c.ExtraFiles = append(c.ExtraFiles, memory(t, string(code)), artifact)
	})
	exit, failure := compiler.end(t)
	require.Equal(t, 0, exit, failure)

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
