// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

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

// A limit on address space that wasmtime cannot live with is named.
func TestAddressSpaceLimit(t *testing.T) {
	hello, err := guests.Read("hello.wat")
	require.NoError(t, err)
	for _, kib := range []string{"4000000", "1000000", "100000"} {
		t.Run(kib, func(t *testing.T) {
			r := limited(t, "ulimit -v "+kib, string(hello))
			code, failure := r.end(t)
			require.Equal(t, 126, code, r.stderr.String())
			require.Regexp(t, `: the container limits its address space \(RLIMIT_AS\) to \d+ bytes, of which wasmtime reserves 4\.1 GiB for each memory of a guest: remove it; the container's limit on memory holds$`, failure)
		})
	}
	r := limited(t, "ulimit -v 8000000", string(hello))
	code, _ := r.end(t)
	require.Equal(t, 0, code, r.stderr.String())
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
