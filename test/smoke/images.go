// SPDX-License-Identifier: Apache-2.0

package smoke

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
)

// Images is the suite of what only shims for WebAssembly do: they run layers of
// images, and keep what they compile in containerd, as long as the image is there.
func Images(t *testing.T, runtime string) {
	for kind, imageOf := range map[string]func(t *harness.T, module []byte) client.Image{
		"layer": (*harness.T).LayerImage, "file": (*harness.T).FileImage,
	} {
		t.Run(kind, func(t *testing.T) { image(harness.New(t, runtime), imageOf) })
	}
	t.Run("ctr", func(t *testing.T) { ctr(harness.New(t, runtime)) })
	t.Run("doctor", func(t *testing.T) { doctor(harness.New(t, runtime)) })
	t.Run("install", func(t *testing.T) { install(harness.New(t, runtime)) })
}

func image(t *harness.T, imageOf func(*harness.T, []byte) client.Image) {
	module := Fresh(t, "hello.wasm")
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

// Fresh is a guest that nobody has compiled yet: it has a name of its own.
func Fresh(t testing.TB, guest string) []byte {
	data, err := guests.Named(guest, harness.FreshID(t.Name()))
	require.NoError(t, err)
	return data
}

// ctr imports and runs layers with the client that comes with containerd.
func ctr(t *harness.T) {
	name := harness.ImageName(harness.FreshID("ctr"))
	archive, err := harness.Archive(name, harness.Layered(Fresh(t, "hello.wasm")))
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "image.tar")
	require.NoError(t, os.WriteFile(file, archive, 0o644))
	_, err = t.Ctr(t.Ctx, "images", "import", "--no-unpack", "--platform", "wasi/wasm", file)
	require.NoError(t, err)
	out, err := t.Ctr(t.Ctx, "run", "--rm", "--platform", "wasi/wasm", "--fifo-dir", filepath.Join(t.Dir, "fifo"), "--runtime", t.Runtime, name, harness.FreshID("c"))
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
	_, err = t.Ctr(t.Ctx, "images", "rm", "--sync", name)
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
