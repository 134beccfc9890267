// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// sieve is testdata/sieve.c as a module.
func sieve(t testing.TB) []byte {
	t.Helper()
	needsTools(t, "clang", "wasm-ld")
	file := filepath.Join(t.TempDir(), "sieve.wasm")
	out, err := exec.Command("clang", "--target=wasm32", "-O2", "-nostdlib", "-Wl,--no-entry", "-o", file, "testdata/sieve.c").CombinedOutput()
	require.NoError(t, err, "%s", out)
	module, err := os.ReadFile(file)
	require.NoError(t, err)
	return module
}

// A guest is initialised once, in the compiler, and all containers start from there:
// what its function does is not done again, and takes none of their fuel.
func TestInitialize(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	if !isFull(t) {
		t.Skip("the prebuilt wasmtime initialises nothing: docs/engines.md")
	}
	files := smoke.Files(tt)
	files["sieve.wasm"] = harness.File{Data: sieve(t)}
	image := tt.Image("sieve", files, ocispec.ImageConfig{})
	const debug = "log_level = 'debug'\n"
	const little = "fuel = 1000000\n" // much less than the function takes
	annotated := []oci.SpecOpts{annotation("initialize", "prepare")}
	for _, test := range []struct {
		name           string
		options        string
		opts           []oci.SpecOpts
		code           uint32
		stdout, stderr string
		log            []string
	}{
		{name: "not", options: debug + "[engine]\n" + little, code: 134, stderr: "all fuel consumed"},
		{name: "first", options: debug + "[engine]\n" + little + "initialize = 'prepare'", stdout: "-+", log: []string{"initialised ", "compiled ", "mapped the artifact of /sieve.wasm"}},
		{name: "again", options: debug + "[engine]\n" + little + "initialize = 'prepare'", stdout: "-+", log: []string{"mapped the artifact of /sieve.wasm"}},
		{name: "by an annotation", options: debug + "allow_annotations = ['initialize']\n[engine]\n" + little, opts: annotated, stdout: "-+", log: []string{"mapped the artifact of /sieve.wasm"}},
		{name: "when it starts", options: debug + "compile_timeout = '0s'\n[engine]\n" + little + "initialize = 'prepare'", stdout: "-+", log: []string{"initialised /sieve.wasm"}},
		{
			name: "no such function", options: debug + "[engine]\ninitialize = 'nope'", code: 126,
			stderr: `cannot initialise /sieve.wasm by its function "nope": it has no export "nope"; exported functions: prepare, forever, _start`,
			log:    []string{"the guest's original is run, without an artifact", "compiling failed: cannot initialise "},
		},
		{
			name: "what does not end", options: debug + "compile_timeout = '1s'\n[engine]\ntimeout = '500ms'\ninitialize = 'forever'", code: 134,
			stderr: "the guest ran for longer than its timeout of 500 ms", log: []string{"the compiler took longer than 1s"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := harness.FreshID("c")
			result := tt.Once(harness.Config{ID: id, Image: image, Args: []string{"/sieve.wasm"}, RuntimeOptions: body(test.options), Opts: test.opts})
			require.Equal(t, test.code, result.Code, "%+v", result)
			require.Equal(t, test.stdout, result.Stdout)
			require.Contains(t, result.Stderr, test.stderr)
			lines := strings.Join(logLines(tt, id), "\n")
			for _, line := range test.log {
				require.Contains(t, lines, line)
			}
			if test.name == "again" || test.name == "by an annotation" {
				require.NotContains(t, lines, "initialised ")
			}
		})
	}
	t.Run("by an annotation that is not allowed", func(t *testing.T) {
		requireRefused(tt, harness.Config{Image: image, Args: []string{"/sieve.wasm"}, Opts: annotated}, codes.PermissionDenied,
			"annotation engine.libwasmshim.io/initialize is not allowed here")
	})
}
