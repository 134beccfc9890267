// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

func guest(t testing.TB, name string) []byte {
	data, err := guests.Read(name)
	require.NoError(t, err)
	return data
}

// fresh is a module that nobody has compiled yet: hello, with a name.
func fresh(t testing.TB) []byte {
	data, err := guests.Named("hello.wasm", harness.FreshID(t.Name()))
	require.NoError(t, err)
	return data
}

// imageTest is a test of images, on the engine in testdata/cachier.
type imageTest struct {
	*harness.T
	shim string
}

var cachier = sync.OnceValues(func() (string, error) {
	repo, err := harness.Repo()
	if err != nil {
		return "", err
	}
	return buildEngine("cachier", filepath.Join(repo, "build", "cachier"))
})

func newImageTest(t *testing.T) *imageTest {
	tt := harness.New(t, smoke.Ours)
	shim, err := cachier()
	require.NoError(t, err)
	it := &imageTest{tt, shim}
	t.Cleanup(it.requireNothingHeld)
	return it
}

// requireNothingHeld looks for what a shim may have left in containerd.
func (t *imageTest) requireNothingHeld() {
	ctx := t.In(context.Background())
	list, err := t.Client.LeasesService().List(ctx)
	require.NoError(t, err)
	for _, l := range list {
		require.False(t, strings.HasPrefix(l.ID, "libwasmshim"), "lease %s is left", l.ID)
	}
	ingests, err := t.Client.ContentStore().ListStatuses(ctx)
	require.NoError(t, err)
	require.Empty(t, ingests, "ingests are left")
}

// layered makes an image with one layer of a module.
func (t *imageTest) layered(module []byte) client.Image {
	return t.wasm(harness.Wasm("/app.wasm", harness.Blob{MediaType: harness.WasmLayer, Data: module}))
}

func (t *imageTest) wasm(variants ...harness.Variant) client.Image {
	image, err := t.WasmImage(t.Ctx, harness.FreshID("wasm"), variants...)
	require.NoError(t, err)
	return image
}

// plain makes an ordinary image with a module as a file.
func (t *imageTest) plain(module []byte) client.Image {
	return t.Image(harness.FreshID("plain"), map[string]harness.File{"app.wasm": {Data: module, Mode: 0o644}}, ocispec.ImageConfig{Entrypoint: []string{"/app.wasm"}})
}

// out runs a container on the test engine, and returns what it printed.
func (t *imageTest) out(c harness.Config) string {
	t.Helper()
	if c.Runtime == "" {
		c.Runtime = t.shim
	}
	r, err := t.Daemon.Once(t.Ctx, c)
	require.NoError(t, err)
	require.Zero(t, r.Code, r.Stderr)
	return r.Stdout
}

// compilations counts, by the log, how often some code was compiled.
func (t *imageTest) compilations(code []byte) int { return smoke.Compilations(t.T, code) }

func (t *imageTest) info(d digest.Digest) content.Info {
	info, err := t.Client.ContentStore().Info(t.Ctx, d)
	require.NoError(t, err)
	return info
}

// artifacts are those of some code, by their labels.
func (t *imageTest) artifacts(code []byte) []content.Info { return smoke.Artifacts(t.T, code) }

// blob is a blob's file.
func (t *imageTest) blob(d digest.Digest) string {
	return filepath.Join(t.Dir, "root/io.containerd.content.v1.content/blobs", d.Algorithm().String(), d.Encoded())
}

// collect has containerd collect garbage.
func (t *imageTest) collect() { require.NoError(t, t.Collect(t.Ctx)) }

func (t *imageTest) removeImage(image client.Image) {
	require.NoError(t, t.Client.ImageService().Delete(t.Ctx, image.Name(), images.SynchronousDelete()))
}

func TestImage1LayerTypes(t *testing.T) {
	tt := newImageTest(t)
	for _, mediaType := range []string{harness.WasmLayer, harness.ComponentLayer} {
		for name, want := range map[string]string{"hello.wasm": "hello\n", "component-hello.wasm": "hello from a component\n", "hello.wat": "hello\n"} {
			image := tt.wasm(harness.Wasm("/app.wasm", harness.Blob{MediaType: mediaType, Data: guest(t, name)}))
			for range 2 {
				require.Equal(t, want, tt.out(harness.Config{Runtime: smoke.Ours, Image: image}))
			}
		}
	}
	args := tt.wasm(harness.Wasm("/app.wasm", harness.Blob{MediaType: harness.WasmLayer, Data: guest(t, "exit.wasm")}))
	r := tt.Once(harness.Config{Image: args, Args: []string{"app", "a", "b"}})
	require.EqualValues(t, 2, r.Code, "the guest has its arguments")
	r = tt.Once(harness.Config{Image: args, Args: []string{"/app.wasm#nope"}})
	require.EqualValues(t, 126, r.Code)
	require.Contains(t, r.Stderr, `has no export "nope"`)
}

// Every layer of a type that the engine takes, in the manifest's order; others
// are left out.
func TestImage1Layers(t *testing.T) {
	tt := newImageTest(t)
	module := fresh(t)
	image := tt.wasm(harness.Wasm("bin/app.wasm#func",
		harness.Blob{MediaType: "application/vnd.test.data", Data: []byte("data")},
		harness.Blob{MediaType: "application/vnd.unknown", Data: []byte("nobody's")},
		harness.Blob{MediaType: harness.WasmLayer, Data: module},
		harness.Blob{MediaType: "application/vnd.test.data", Data: nil},
		harness.Blob{MediaType: "application/vnd.test.code", Data: []byte("more")}))
	want := fmt.Sprintf("application/vnd.test.data 4 original\napplication/wasm %d compiled\napplication/vnd.test.data 0 original\napplication/vnd.test.code 4 compiled\n", len(module))
	require.Equal(t, want, tt.out(harness.Config{Image: image}))
	require.Equal(t, want+"path= func=func name=app arg0=bin/app.wasm#func source=layers kind=1\n",
		tt.out(harness.Config{Image: image, Args: []string{"bin/app.wasm#func", "entry"}}))
	require.Contains(t, tt.LogTail(20), "msg=\"compiled ")
	require.Len(t, tt.artifacts([]byte("more")), 1)
	require.Empty(t, tt.artifacts([]byte("data")))
}

// An index names images for several platforms; each container runs its own.
func TestImage1Index(t *testing.T) {
	tt := newImageTest(t)
	files := map[string]harness.File{"native": {Data: guest(t, "native")}}
	layer, err := harness.LayerTar(files)
	require.NoError(t, err)
	linux := harness.Variant{
		Platform: ocispec.Platform{OS: "linux", Architecture: tt.Arch()}, Config: ocispec.ImageConfig{Entrypoint: []string{"/native"}},
		Layers: []harness.Blob{{MediaType: ocispec.MediaTypeImageLayer, Data: layer}},
	}
	other := harness.Wasm("/app.wasm", harness.Blob{MediaType: "application/vnd.unknown", Data: []byte("x")})
	other.Platform = ocispec.Platform{OS: "other", Architecture: "other"}
	hello := harness.Wasm("/app.wasm", harness.Blob{MediaType: harness.WasmLayer, Data: guest(t, "component-hello.wasm")})
	image, err := tt.WasmImage(tt.Ctx, "index", linux, other, hello)
	require.NoError(t, err)
	require.Equal(t, "hello from a component\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: image}))

	archive, err := harness.Archive(harness.ImageName("index"), linux, other, hello)
	require.NoError(t, err)
	image, err = tt.Import(tt.Ctx, archive, harness.NativePlatform)
	require.NoError(t, err)
	require.Equal(t, "hello\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: image}))
}

// An image whose layers the engine does not take says so; what its root file
// system has runs all the same.
func TestImage1NoSupportedLayers(t *testing.T) {
	tt := newImageTest(t)
	image := tt.wasm(harness.Wasm("/app.wasm", harness.Blob{MediaType: "application/vnd.unknown", Data: []byte("x")}))
	_, err := tt.Daemon.Create(tt.Ctx, harness.Config{Runtime: tt.shim, Image: image})
	require.ErrorContains(t, err, `entrypoint "/app.wasm": /app.wasm does not exist in the container: not found (image `+image.Name()+
		` has no layer of a type that the engine takes; found: application/vnd.unknown; accepted: application/wasm, `+
		`application/vnd.bytecodealliance.wasm.component.layer.v0+wasm, application/vnd.test.data, application/vnd.test.code: not found)`)
	require.Contains(t, tt.LogTail(10), "has no layer of a type that the engine takes")
	layer, err := harness.LayerTar(map[string]harness.File{"app.wasm": {Data: guest(t, "hello.wasm")}})
	require.NoError(t, err)
	image = tt.wasm(harness.Wasm("/app.wasm", harness.Blob{MediaType: "application/vnd.unknown", Data: []byte("x")}, harness.Blob{MediaType: ocispec.MediaTypeImageLayer, Data: layer}))
	require.Equal(t, "hello\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: image}))
}

// containerd's clients refuse a pure artifact; where one brings a spec of its
// own, it runs.
func TestImage1Artifact(t *testing.T) {
	tt := newImageTest(t)
	artifact := harness.Wasm("", harness.Blob{MediaType: harness.WasmLayer, Data: guest(t, "hello.wasm")})
	artifact.Artifact = true
	archive, err := harness.Archive(harness.ImageName("artifact"), artifact)
	require.NoError(t, err)
	imported, err := tt.Client.Import(tt.Ctx, strings.NewReader(string(archive)), client.WithImportPlatform(harness.WasmPlatform))
	require.NoError(t, err)
	image := client.NewImageWithPlatform(tt.Client, imported[0], harness.WasmPlatform)
	_, err = tt.NewContainer(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: image})
	require.ErrorContains(t, err, "unknown image config media type application/vnd.wasm.config.v0+json")
	require.Equal(t, "hello\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: image, OwnSpec: []string{"/app.wasm"}}))
}
