// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
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

// fresh is a hello that nobody has compiled yet.
func fresh(t testing.TB) []byte { return smoke.Fresh(t, "hello.wasm") }

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

// bothKinds make images of a module: as their only layer, or as a file.
func (t *imageTest) bothKinds() map[string]func(module []byte) client.Image {
	return map[string]func([]byte) client.Image{"layers": t.LayerImage, "file": t.FileImage}
}

// wasm makes an image of a variant with layers of WebAssembly.
func (t *imageTest) wasm(variant harness.Variant) client.Image {
	image, err := t.ImageFor(t.Ctx, harness.FreshID("wasm"), harness.WasmPlatform, variant)
	require.NoError(t, err)
	return image
}

// linux is an image for this machine with layers of files.
func (t *imageTest) linux(config ocispec.ImageConfig, layers ...map[string]harness.File) harness.Variant {
	v, err := harness.Linux(config, layers...)
	require.NoError(t, err)
	return v
}

// native is an image of a program for this machine, which prints hello.
func (t *imageTest) native() harness.Variant {
	return t.linux(ocispec.ImageConfig{Entrypoint: []string{"/native"}}, map[string]harness.File{"native": {Data: guest(t, "native")}})
}

// index are images for several platforms: native, one for nobody, and a module.
func (t *imageTest) index(module []byte) []harness.Variant {
	other := harness.Wasm("/app.wasm", harness.Blob{MediaType: "application/vnd.unknown", Data: []byte("x")})
	other.Platform = ocispec.Platform{OS: "other", Architecture: "other"}
	return []harness.Variant{t.native(), other, harness.Layered(module)}
}

// imported is an image of variants that containerd has, and has not unpacked.
func (t *imageTest) imported(name string, variants ...harness.Variant) client.Image {
	t.Helper()
	archive, err := harness.Archive(name, variants...)
	require.NoError(t, err)
	stored, err := t.Client.Import(t.Ctx, bytes.NewReader(archive), client.WithAllPlatforms(true))
	require.NoError(t, err)
	return client.NewImageWithPlatform(t.Client, stored[0], harness.WasmPlatform)
}

// artifact imports a CNCF Wasm artifact.
func (t *imageTest) artifact(module []byte) client.Image {
	t.Helper()
	return t.imported(harness.ImageName(harness.FreshID("artifact")), harness.Artifact(module))
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
	for _, mediaType := range []string{harness.WasmLayer, harness.ComponentLayer, harness.ContentLayer} {
		for name, want := range map[string]string{"hello.wasm": "hello\n", "component-hello.wasm": "hello from a component\n", "hello.wat": "hello\n"} {
			image := tt.wasm(harness.Wasm("/app.wasm", harness.Blob{MediaType: mediaType, Data: guest(t, name)}))
			for range 2 {
				require.Equal(t, want, tt.out(harness.Config{Runtime: smoke.Ours, Image: image}))
			}
		}
	}
	args := tt.LayerImage(guest(t, "exit.wasm"))
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
	variants := tt.index(guest(t, "component-hello.wasm"))
	image, err := tt.ImageFor(tt.Ctx, "index", harness.WasmPlatform, variants...)
	require.NoError(t, err)
	require.Equal(t, "hello from a component\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: image}))
	image, err = tt.ImageFor(tt.Ctx, "index", harness.NativePlatform, variants...)
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
		`application/vnd.bytecodealliance.wasm.component.layer.v0+wasm, application/vnd.wasm.content.layer.v1+wasm, application/vnd.test.data, application/vnd.test.code: not found)`)
	require.Contains(t, tt.LogTail(10), "has no layer of a type that the engine takes")
	layer, err := harness.LayerTar(map[string]harness.File{"app.wasm": {Data: guest(t, "hello.wasm")}})
	require.NoError(t, err)
	image = tt.wasm(harness.Wasm("/app.wasm", harness.Blob{MediaType: "application/vnd.unknown", Data: []byte("x")}, harness.Blob{MediaType: ocispec.MediaTypeImageLayer, Data: layer}))
	require.Equal(t, "hello\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: image}))
}

// A Spin application is no command, though its layers have an ordinary type.
func TestImage1Spin(t *testing.T) {
	tt := newImageTest(t)
	spin := harness.Layered(guest(t, "hello.wasm"))
	spin.ConfigType = "application/vnd.fermyon.spin.application.v1+config"
	image := tt.wasm(spin)
	for _, arg := range []string{"/", "/spin.toml"} { // what Kubernetes' users write
		_, err := tt.Daemon.Create(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: image, OwnSpec: []string{arg}})
		require.ErrorContains(t, err, "image "+image.Name()+" is a Spin application ("+spin.ConfigType+")")
	}
}

// containerd's clients refuse a pure artifact; where one brings a spec of its
// own, it runs.
func TestImage1Artifact(t *testing.T) {
	tt := newImageTest(t)
	image := tt.artifact(guest(t, "hello.wasm"))
	_, err := tt.NewContainer(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: image})
	require.ErrorContains(t, err, "unknown image config media type application/vnd.wasm.config.v0+json")
	require.Equal(t, "hello\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: image, OwnSpec: []string{"/app.wasm"}}))
}
