// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// componentizePy makes a component of Python and a program; PyPI has it.
const componentizePy = "componentize-py==0.25.1"

// pythonGuest is testdata/python as a component, from the user's cache or made by what
// PyPI has.
func pythonGuest(t testing.TB) []byte {
	t.Helper()
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	program, err := os.ReadFile("testdata/python/app.py")
	require.NoError(t, err)
	sum := sha256.Sum256(append([]byte(componentizePy), program...))
	dir := filepath.Join(cache, "libwasmshim", fmt.Sprintf("python-%x", sum[:8]))
	made := filepath.Join(dir, "app.wasm")
	if guest, err := os.ReadFile(made); err == nil {
		return guest
	}
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("python3 is not installed: the guest cannot be built")
	}
	env := t.TempDir()
	if out, err := exec.Command("python3", "-m", "venv", env).CombinedOutput(); err != nil {
		t.Skipf("python3 makes no environment, and the guest cannot be built: %s", out)
	}
	if out, err := exec.Command(env+"/bin/pip", "install", "--quiet", componentizePy).CombinedOutput(); err != nil {
		t.Skipf("%s cannot be had of PyPI, and the guest cannot be built: %s", componentizePy, out)
	}
	wasm := filepath.Join(env, "app.wasm")
	make := exec.Command(env+"/bin/componentize-py", "--wit-path", "wit", "--world", "app", "componentize", "app", "--output", wasm)
	make.Dir = "testdata/python"
	out, err := make.CombinedOutput()
	require.NoError(t, err, "%s", out)
	guest, err := os.ReadFile(wasm)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(made+".new", guest, 0o600))
	require.NoError(t, os.Rename(made+".new", made))
	return guest
}

// Python's own library finds the network as it is.
func TestNetworkPython(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	if !isFull(t) {
		t.Skip("the prebuilt wasmtime has no network for guests: docs/engines.md")
	}
	files := smoke.Files(t)
	files["app.wasm"] = harness.File{Data: pythonGuest(t)}
	files["etc/hosts"] = harness.File{Data: []byte("127.0.0.1 server\n")}
	image := tt.Image("python", files, ocispec.ImageConfig{})
	n := newNetwork(tt)
	ctx, cancel := context.WithTimeout(tt.In(context.Background()), harness.Slow(10*time.Minute))
	t.Cleanup(cancel)
	tt.Ctx = ctx
	n.serve("127.0.0.1:80")
	// What is compiled is much, and optimised for nobody.
	const compiled = "compile_timeout = '10m'\n[engine]\nopt-level = 'none'\n"
	for engine, want := range map[string]string{
		"network = 'outbound'":                      `^127\.0\.0\.1:80 got from python\n$`,
		"network = 'outbound'\nconnect-ports = 443": `^PermissionError\n$`,
		"network = 'none'":                          `^gaierror\n$`,
	} {
		result := tt.Once(harness.Config{Image: image, Args: []string{"/app.wasm", "server", "80"}, Opts: []oci.SpecOpts{n.opts()}, RuntimeOptions: body(compiled + engine)})
		require.Zero(t, result.Code, "%+v", result)
		require.Regexp(t, regexp.MustCompile(want), result.Stdout, engine)
	}
}
