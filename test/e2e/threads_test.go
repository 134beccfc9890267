// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"io"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// A module of wasi-threads, of Rust's own library.
func TestThreads(t *testing.T) {
	const allowed = "wasm-shared-memory = true\n"
	tt := harness.New(t, smoke.Ours)
	const target = "wasm32-wasip1-threads"
	canBuild(t, target)
	guest, err := rustcGuest("threads.rs", target)
	require.NoError(t, err)
	files := smoke.Files(t)
	files["threads.wasm"] = harness.File{Data: guest}
	files["spawn-alone.wat"] = harness.File{Data: []byte(`(module (import "wasi" "thread-spawn" (func (param i32) (result i32))) (memory (export "memory") 1) (func (export "_start")))`)}
	files["no-start.wat"] = harness.File{Data: []byte(`(module (import "wasi" "thread-spawn" (func (param i32) (result i32))) (import "env" "memory" (memory 1 1 shared)) (func (export "_start")))`)}
	files["wrong-start.wat"] = harness.File{Data: []byte(`(module (import "wasi" "thread-spawn" (func (param i32) (result i32))) (import "env" "memory" (memory 1 1 shared)) (func (export "wasi_thread_start")) (func (export "_start")))`)}
	files["large.wat"] = harness.File{Data: []byte(`(module (import "env" "memory" (memory 1000 1000 shared)) (func (export "_start")))`)}
	image := tt.Image("threads", files, ocispec.ImageConfig{})
	if !isFull(t) {
		result := tt.Once(harness.Config{Image: image, Args: []string{"/threads.wasm", "work"}})
		require.EqualValues(t, 126, result.Code, "%+v", result)
		require.Contains(t, result.Stderr, ": it is built for threads, which guests have with wasmtime's full library alone; build it for one (target wasm32-wasip1)\n")
		t.Skip("the prebuilt wasmtime has no threads for guests: docs/engines.md")
	}
	for name, test := range map[string]struct {
		guest, mode, engine string
		pids                int64
		code                uint32
		stdout, stderr      string
	}{
		"work":           {mode: "work", stdout: "80000 8 28 28\n"},
		"series":         {mode: "series", stdout: "done\n"},
		"one is blocked": {mode: "blocked", code: 7, stdout: "not\n"},
		"exit":           {mode: "exit", code: 3},
		"panic":          {mode: "panic", code: 134, stderr: "of a thread"},
		"trap's cause":   {mode: "panic", code: 134, stderr: "wasm `unreachable` instruction executed"},
		"main returns":   {mode: "return"},
		"timeout":        {mode: "loop", engine: "timeout = '200ms'\n", code: 134, stderr: "the guest ran for longer than its timeout of 200 ms\n"},
		"pids":           {mode: "most", pids: 32, stdout: "true WouldBlock\n"},
		"max-memory":     {mode: "grow", engine: "max-memory = '32MiB'\n", code: 134, stderr: "wasm `unreachable` instruction executed"},
		"enough":         {mode: "grow", engine: "max-memory = '512MiB'\n", stdout: "64\n"},
		"too large":      {guest: "large.wat", engine: "max-memory = '32MiB'\n", code: 126, stderr: "/large.wat begins with a memory of 65536000 bytes, and engine option max-memory accepts 33554432\n"},
		"fuel":           {mode: "work", engine: "fuel = 1000000\n", code: 126, stderr: "engine option fuel counts what one thread does: use timeout\n"},
		"no memory":      {guest: "spawn-alone.wat", code: 126, stderr: "/spawn-alone.wat imports wasi::thread-spawn, but imports no shared memory\n"},
		"no start":       {guest: "no-start.wat", code: 126, stderr: "but no export \"wasi_thread_start\" with two parameters of type i32 is there\n"},
		"wrong start":    {guest: "wrong-start.wat", code: 126, stderr: "but no export \"wasi_thread_start\" with two parameters of type i32 is there\n"},
		"not allowed":    {mode: "work", engine: "wasm-shared-memory = false\n", code: 126, stderr: ": the engine option wasm-shared-memory = true allows it\n"},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			engine := test.engine
			if name != "not allowed" {
				engine = allowed + engine
			}
			guest := test.guest
			if guest == "" {
				guest = "threads.wasm"
			}
			stdin, hold := io.Pipe()
			t.Cleanup(func() { hold.Close() })
			c := harness.Config{Image: image, Args: []string{"/" + guest, test.mode}, RuntimeOptions: body("[engine]\n" + engine), Stdin: stdin}
			if test.pids > 0 {
				c.Opts = []oci.SpecOpts{harness.WithSpec(func(s *oci.Spec) { s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &test.pids} })}
			}
			result := tt.Once(c)
			require.EqualValues(t, test.code, result.Code, "%+v", result)
			require.Equal(t, test.stdout, result.Stdout)
			require.Contains(t, result.Stderr, test.stderr)
		})
	}
}
