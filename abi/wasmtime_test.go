// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/guests"
)

// wasmtime builds the shim of the engine and makes c execute it.
func wasmtime(t *testing.T) func(c *exec.Cmd) {
	out, err := exec.Command("../scripts/shim.sh", "wasmtime").CombinedOutput()
	require.NoError(t, err, "%s", out)
	exe, err := os.Open("../dist/containerd-shim-wasmtime-v1")
	require.NoError(t, err)
	t.Cleanup(func() { exe.Close() })
	return func(c *exec.Cmd) { c.ExtraFiles[0] = exe }
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
