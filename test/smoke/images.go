// SPDX-License-Identifier: Apache-2.0

package smoke

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
)

// Images is the suite of what only shims for WebAssembly do: they run layers of
// images, and keep what they compile in containerd, as long as the image is there.
func Images(t *testing.T, runtime string) {
	for kind, imageOf := range map[string]func(t *harness.T, module []byte) client.Image{
		"layer": func(t *harness.T, module []byte) client.Image {
			image, err := t.WasmImage(t.Ctx, harness.FreshID("wasm"), harness.Wasm("/app.wasm", harness.Blob{MediaType: harness.WasmLayer, Data: module}))
			require.NoError(t, err)
			return image
		},
		"file": func(t *harness.T, module []byte) client.Image {
			return t.Image(harness.FreshID("plain"), map[string]harness.File{"app.wasm": {Data: module, Mode: 0o644}}, ocispec.ImageConfig{Entrypoint: []string{"/app.wasm"}})
		},
	} {
		t.Run(kind, func(t *testing.T) { image(harness.New(t, runtime), imageOf) })
	}
	t.Run("ctr", func(t *testing.T) { ctr(harness.New(t, runtime)) })
}

func image(t *harness.T, imageOf func(*harness.T, []byte) client.Image) {
	module := module(t)
	image := imageOf(t, module)
	for range 2 {
		result := t.Once(harness.Config{Image: image})
		require.Zero(t, result.Code, "%+v", result)
		require.Equal(t, "hello\n", result.Stdout)
	}
	require.Equal(t, 1, Compilations(t, module))
	require.Len(t, Artifacts(t, module), 1)
	require.NoError(t, t.Client.ImageService().Delete(t.Ctx, image.Name(), images.SynchronousDelete()))
	require.Empty(t, Artifacts(t, module), "it goes with its image")
	leases, err := t.Client.LeasesService().List(t.Ctx)
	require.NoError(t, err)
	require.Empty(t, leases)
	t.RequireNothingLeft()
}

// module is a hello that nobody has compiled yet: it has a name of its own.
func module(t *harness.T) []byte {
	hello, err := guests.Named("hello.wasm", harness.FreshID(t.Name()))
	require.NoError(t, err)
	return hello
}

// ctr imports and runs layers with the client that comes with containerd.
func ctr(t *harness.T) {
	program, err := t.LookPath("ctr")
	require.NoError(t, err)
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Ctx, program, append([]string{"--address", t.Address, "--namespace", t.Namespace}, args...)...)
		cmd.Env = t.Env()
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, stderr.String())
		}
		return string(out), err
	}
	name := harness.ImageName(harness.FreshID("ctr"))
	archive, err := harness.Archive(name, harness.Wasm("/app.wasm", harness.Blob{MediaType: harness.WasmLayer, Data: module(t)}))
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "image.tar")
	require.NoError(t, os.WriteFile(file, archive, 0o644))
	_, err = run("images", "import", "--no-unpack", "--platform", "wasi/wasm", file)
	require.NoError(t, err)
	out, err := run("run", "--rm", "--platform", "wasi/wasm", "--fifo-dir", filepath.Join(t.Dir, "fifo"), "--runtime", t.Runtime, name, harness.FreshID("c"))
	if t.Version == harness.Containerd16 {
		// Clients of before 1.6.25 and 1.7.7 count every layer, and unpack none of
		// these. See https://github.com/containerd/containerd/pull/9142. Users of
		// such a ctr, or of the CRI plugin that has this client in it, put the module
		// into an ordinary image as a file.
		require.ErrorContains(t, err, "mismatched image rootfs and manifest layers")
	} else {
		require.NoError(t, err)
		require.Equal(t, "hello\n", out)
	}
	_, err = run("images", "rm", "--sync", name)
	require.NoError(t, err)
	t.RequireNothingLeft()
}

// Compilations counts, by the log, how often some code was compiled.
func Compilations(t *harness.T, code []byte) int {
	pattern := regexp.MustCompile(`level=info msg="compiled ` + string(digest.FromBytes(code)) + `" .* took=`)
	return len(pattern.FindAllString(t.LogTail(100000), -1))
}

// Artifacts are what was compiled of some code, by the labels in containerd's
// content store.
func Artifacts(t *harness.T, code []byte) (found []content.Info) {
	require.NoError(t, t.Client.ContentStore().Walk(t.Ctx, func(info content.Info) error {
		for key, value := range info.Labels {
			if strings.HasPrefix(key, "libwasmshim.io/artifact/") && value == string(digest.FromBytes(code)) {
				found = append(found, info)
			}
		}
		return nil
	}))
	return found
}
