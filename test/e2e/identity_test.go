// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// padded is a module of a certain size, so large that nobody reads it at every
// start, and unlike any other.
func padded(t testing.TB, size int) []byte {
	module := fresh(t)
	// A custom section: its id, its size in four bytes, an empty name, nothing.
	n := size - len(module) - 5
	module = append(module, 0, byte(0x80|n&0x7f), byte(0x80|(n>>7)&0x7f), byte(0x80|(n>>14)&0x7f), byte(n>>21&0x7f))
	return append(module, make([]byte, n)...)
}

const paddedSize = 1 << 20

// unpackedIn makes an ordinary image whose only file is a module, in a snapshotter.
func (t *imageTest) unpackedIn(snapshotter string, module []byte) client.Image {
	t.Helper()
	image := t.FileImage(module)
	if snapshotter != harness.Snapshotter {
		require.NoError(t, image.Unpack(t.Ctx, snapshotter))
	}
	return image
}

func (t *imageTest) eachSnapshotter(test func(t *imageTest, snapshotter string)) {
	for _, snapshotter := range []string{harness.Snapshotter, "native", "erofs"} {
		t.T.T.Run(snapshotter, func(tt *testing.T) {
			if snapshotter == "erofs" && !t.Version.HasErofs() {
				tt.Skip("needs Debian's erofs-utils: scripts/deps.sh test installs it")
			}
			it := newImageTest(tt)
			tt.Cleanup(func() { it.collect() }) // unmounts what no container needs any more
			test(it, snapshotter)
		})
	}
}

// Two images may be alike in everything that a file system says of their files: a
// file system may come from an image, as EROFS does.
func TestIdentityAlike(t *testing.T) {
	newImageTest(t).eachSnapshotter(func(t *imageTest, snapshotter string) {
		one, two := padded(t, paddedSize), padded(t, paddedSize)
		images := map[string]client.Image{string(one): t.unpackedIn(snapshotter, one), string(two): t.unpackedIn(snapshotter, two)}
		for range 3 {
			for _, module := range [][]byte{one, two} {
				require.Equal(t, fileLine(module, "compiled"), t.out(harness.Config{Image: images[string(module)], Snapshotter: snapshotter}))
			}
		}
		require.Equal(t, 1, t.compilations(one))
		require.Equal(t, 1, t.compilations(two))
	})
}

// Device numbers are used again: by the next image that is mounted.
func TestIdentityDeviceAgain(t *testing.T) {
	newImageTest(t).eachSnapshotter(func(t *imageTest, snapshotter string) {
		for range 3 {
			module := padded(t, paddedSize)
			image := t.unpackedIn(snapshotter, module)
			for range 2 {
				require.Equal(t, fileLine(module, "compiled"), t.out(harness.Config{Image: image, Snapshotter: snapshotter}))
			}
			t.removeImage(image)
			t.collect()
		}
	})
}

// What a container runs is what is at the path in the container, whatever its
// image has there.
func TestIdentityReplaced(t *testing.T) {
	tt := newImageTest(t)
	for _, size := range []int{0, paddedSize} { // one that is read at every start, and one that is not
		original, other := fresh(t), fresh(t)
		if size > 0 {
			original, other = padded(t, size), padded(t, size)
		}
		v := tt.linux(ocispec.ImageConfig{Entrypoint: []string{"/dir/app.wasm"}}, map[string]harness.File{
			"dir/app.wasm": {Data: original, Mode: 0o644}, "dir/other.wasm": {Data: other, Mode: 0o644},
		})
		image, err := tt.ImageFor(tt.Ctx, harness.FreshID("replaced"), harness.NativePlatform, v)
		require.NoError(t, err)
		require.Equal(t, fileLine(original, "compiled"), tt.out(harness.Config{Image: image}))
		host := filepath.Join(t.TempDir(), "host.wasm")
		bound := fresh(t)
		require.NoError(t, os.WriteFile(host, bound, 0o644))
		write := func(root string) error { return os.WriteFile(filepath.Join(root, "dir/app.wasm"), other, 0o644) }
		for how, test := range map[string]struct {
			change func(root string) error // in the container's own root file system
			opts   []oci.SpecOpts
			want   []byte
		}{
			"nothing": {nil, nil, original},
			"written": {write, nil, other},
			"renamed": {func(root string) error {
				return os.Rename(filepath.Join(root, "dir/other.wasm"), filepath.Join(root, "dir/app.wasm"))
			}, nil, other},
			"link": {func(root string) error {
				name := filepath.Join(root, "dir/app.wasm")
				if err := os.Remove(name); err != nil {
					return err
				}
				return os.Symlink("other.wasm", name)
			}, nil, other},
			"directory made anew": {func(root string) error {
				if err := os.RemoveAll(filepath.Join(root, "dir")); err != nil {
					return err
				}
				if err := os.Mkdir(filepath.Join(root, "dir"), 0o755); err != nil {
					return err
				}
				return write(root)
			}, nil, other},
			"directory is a link": {func(root string) error {
				if err := os.RemoveAll(filepath.Join(root, "dir")); err != nil {
					return err
				}
				if err := os.Mkdir(filepath.Join(root, "moved"), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(root, "moved/app.wasm"), other, 0o644); err != nil {
					return err
				}
				return os.Symlink("moved", filepath.Join(root, "dir"))
			}, nil, other},
			"bind": {nil, []oci.SpecOpts{oci.WithMounts([]specs.Mount{{Type: "bind", Source: host, Destination: "/dir/app.wasm", Options: []string{"rbind", "ro"}}})}, bound},
		} {
			t.Run(fmt.Sprint(how, size), func(t *testing.T) {
				for range 2 {
					c := harness.Config{Runtime: tt.shim, Image: image, Opts: test.opts}
					container, err := tt.NewContainer(tt.Ctx, c)
					require.NoError(t, err)
					if test.change != nil {
						mounts, err := tt.Client.SnapshotService(harness.Snapshotter).Mounts(tt.Ctx, container.ID())
						require.NoError(t, err)
						require.NoError(t, mount.WithTempMount(tt.Ctx, mounts, test.change))
					}
					task, err := tt.RunTask(tt.Ctx, container, c)
					require.NoError(t, err)
					r, err := tt.Daemon.Finish(tt.Ctx, task)
					require.NoError(t, err)
					require.Contains(t, r.Stdout, fmt.Sprintf("file %d ", len(test.want)), "its own file, and %s", r.Stdout)
					require.NotContains(t, r.Stdout, "refused", "an artifact of its own file")
				}
			})
		}
	}
}

// Configurations that are built here differ where the modules do: CRI names images
// by them.
func TestIdentityConfigurations(t *testing.T) {
	tt := newImageTest(t)
	shim, err := tt.ShimBinary(smoke.Ours)
	require.NoError(t, err)
	configs := map[digest.Digest]bool{}
	for _, module := range [][]byte{fresh(t), fresh(t)} {
		file := filepath.Join(t.TempDir(), "app.wasm")
		require.NoError(t, os.WriteFile(file, module, 0o644))
		archive, err := exec.CommandContext(tt.Ctx, shim, "image", "build", "--tag", harness.FreshID("built"), "--module", file, "-o", "-").Output()
		require.NoError(t, err)
		image, err := tt.Import(tt.Ctx, archive, harness.WasmPlatform)
		require.NoError(t, err)
		config, err := image.Config(tt.Ctx)
		require.NoError(t, err)
		configs[config.Digest] = true

		converted := harness.FreshID("converted")
		out, err := exec.CommandContext(tt.Ctx, shim, "image", "convert", "-a", tt.Address, "-n", tt.Namespace, tt.artifact(module).Name(), converted).CombinedOutput()
		require.NoError(t, err, "%s", out)
		config, err = tt.open("docker.io/library/"+converted+":latest", wasmPlatform).Config(tt.Ctx)
		require.NoError(t, err)
		configs[config.Digest] = true
	}
	require.Len(t, configs, 4)
}

// Images that were made elsewhere may have one configuration: for CRI they are one
// image, and the user's own name for it decides.
func TestIdentityCRI(t *testing.T) {
	tt := newImageTest(t)
	one, two := fresh(t), fresh(t)
	first, second := tt.LayerImage(one), tt.LayerImage(two)
	config, err := first.Config(tt.Ctx)
	require.NoError(t, err)
	other, err := second.Config(tt.Ctx)
	require.NoError(t, err)
	require.Equal(t, config.Digest, other.Digest, "they are alike")
	named := func(name string) harness.Config {
		return harness.Config{Runtime: tt.shim, Image: first, Opts: []oci.SpecOpts{oci.WithAnnotations(map[string]string{"io.kubernetes.cri.image-name": name})}}
	}
	for range 2 {
		require.Equal(t, layerLine(two, "compiled"), tt.out(named(second.Name())))
		require.Equal(t, layerLine(one, "compiled"), tt.out(named(first.Name())))
	}
	for _, name := range []string{config.Digest.String(), "test.invalid/nobody-knows:1"} {
		_, err = tt.Daemon.Create(tt.Ctx, named(name))
		require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
		require.ErrorContains(t, err, "have the same configuration, "+config.Digest.String()+", and different code; CRI takes them for one, and \""+name+"\" does not say which is meant")
	}
	// What tells itself apart needs no name.
	v := harness.Layered(one)
	v.Config.Env = []string{"MINE=" + harness.FreshID("x")}
	unique := tt.wasm(v)
	c := named("sha256:" + strings.Repeat("0", 64))
	c.Image = unique
	require.Equal(t, layerLine(one, "compiled"), tt.out(c))
}

// The entry of an index that a container was made of runs, by whatever name its
// platform has.
func TestIdentityEntries(t *testing.T) {
	tt := newImageTest(t)
	variant := func(platform, guestName string, change func(c *ocispec.ImageConfig)) harness.Variant {
		v := harness.Wasm("/app.wasm", harness.Blob{MediaType: harness.WasmLayer, Data: guest(t, guestName)})
		os, arch, _ := strings.Cut(platform, "/")
		v.Platform = ocispec.Platform{OS: os, Architecture: arch}
		if change != nil {
			change(&v.Config)
		}
		return v
	}
	entrypoint := func(name string) func(c *ocispec.ImageConfig) {
		return func(c *ocispec.ImageConfig) { c.Entrypoint = []string{name} }
	}
	env := func(kv string) func(c *ocispec.ImageConfig) {
		return func(c *ocispec.ImageConfig) { c.Env = []string{kv} }
	}
	run := func(platform string, variants ...harness.Variant) (string, error) {
		t.Helper()
		image := tt.imported(harness.ImageName(harness.FreshID("index")), variants...)
		return tt.ctrRun(image.Name(), platform)
	}
	for name, variants := range map[string][]harness.Variant{
		"entrypoint":  {variant("wasip1/wasm", "hello.wasm", entrypoint("/p1.wasm")), variant("wasip2/wasm", "component-hello.wasm", entrypoint("/p2.wasm"))},
		"environment": {variant("wasip1/wasm", "hello.wasm", env("WASI=1")), variant("wasip2/wasm", "component-hello.wasm", env("WASI=2"))},
		"label": {
			variant("wasip1/wasm", "hello.wasm", func(c *ocispec.ImageConfig) { c.Labels = map[string]string{"wasi": "1"} }),
			variant("wasip2/wasm", "component-hello.wasm", func(c *ocispec.ImageConfig) { c.Labels = map[string]string{"wasi": "2"} }),
		},
	} {
		for platform, want := range map[string]string{"wasip1/wasm": hello, "wasip2/wasm": helloComponent} {
			out, err := run(platform, variants...)
			require.NoError(t, err, name)
			require.Equal(t, want, out, "%s, %s", name, platform)
		}
	}
	for _, platform := range []string{"wasi/wasm", "wasi/wasm32", "wasip1/wasm", "wasip2/wasm", "linux/wasm"} {
		out, err := run(platform, variant("linux/amd64", "hello.wasm", nil), variant(platform, "component-hello.wasm", nil))
		require.NoError(t, err, platform)
		require.Equal(t, helloComponent, out, platform)
	}
	_, err := run("wasip2/wasm", variant("wasip1/wasm", "hello.wasm", nil), variant("wasip2/wasm", "component-hello.wasm", nil))
	require.ErrorContains(t, err, "has several entries for WebAssembly that nothing of container")

	// precompile compiles what can run: each of them.
	image := tt.imported(harness.ImageName(harness.FreshID("index")),
		variant("wasip1/wasm", "hello.wasm", entrypoint("/p1.wasm")), variant("wasip2/wasm", "component-hello.wasm", entrypoint("/p2.wasm")), tt.native())
	shim, err := tt.ShimBinary(smoke.Ours)
	require.NoError(t, err)
	out, err := exec.CommandContext(tt.Ctx, shim, "precompile", "-a", tt.Address, "-n", tt.Namespace, "--json", image.Name()).Output()
	require.NoError(t, err)
	var outcome struct{ Artifacts int }
	require.NoError(t, json.Unmarshal(out, &outcome))
	require.Equal(t, 2, outcome.Artifacts)
}

// A container runs what it was made of. The name of its image may be given to
// another one meanwhile.
func TestIdentityMovedTag(t *testing.T) {
	tt := newImageTest(t)
	one, two := tt.LayerImage(fresh(t)), tt.LayerImage(fresh(t))
	ctr := func(args ...string) error {
		_, err := tt.Ctr(tt.Ctx, args...)
		return err
	}
	id := harness.FreshID("c")
	require.NoError(t, ctr("run", "-d", "--null-io", "--platform", wasmPlatform, "--runtime", smoke.Ours, one.Name(), id))
	container, err := tt.Client.LoadContainer(tt.Ctx, id)
	require.NoError(t, err)
	defer func() { require.NoError(t, container.Delete(tt.Ctx, client.WithSnapshotCleanup)) }()
	require.Eventually(t, func() bool {
		labels, err := container.Labels(tt.Ctx)
		return err == nil && labels["libwasmshim.io/manifest"] == one.Target().Digest.String()
	}, 10*time.Second, 10*time.Millisecond)
	end := func() {
		t.Helper()
		require.Eventually(t, func() bool { return ctr("task", "delete", id) == nil }, 10*time.Second, 10*time.Millisecond)
	}
	end()
	require.NoError(t, ctr("task", "start", "-d", "--null-io", id), "nothing has changed")
	end()
	kept := one.Name() + "-kept"
	require.NoError(t, ctr("images", "tag", one.Name(), kept))
	require.NoError(t, ctr("images", "tag", "--force", two.Name(), one.Name()))
	require.ErrorContains(t, ctr("task", "start", "-d", "--null-io", id), fmt.Sprintf(
		"image %s has changed since container %s was made: it was made of manifest %s, the image has %s (wasi/wasm) now", one.Name(), id, one.Target().Digest, two.Target().Digest))
	require.NoError(t, ctr("images", "tag", "--force", kept, one.Name()))
	require.NoError(t, ctr("task", "start", "-d", "--null-io", id))
	end()
}

// Namespaces share what is on the disk: what is damaged is made anew for all.
func TestIdentityHealsEverywhere(t *testing.T) {
	tt := newImageTest(t)
	module := fresh(t)
	image := tt.LayerImage(module)
	require.Equal(t, layerLine(module, "compiled"), tt.out(harness.Config{Image: image}))
	artifact := tt.artifacts(module)[0]
	good, err := os.ReadFile(tt.blob(artifact.Digest))
	require.NoError(t, err)
	elsewhere := namespaces.WithNamespace(tt.Ctx, tt.Namespace+"-other")
	lease, err := tt.Client.LeasesService().Create(elsewhere, leases.WithID("keep"))
	require.NoError(t, err)
	defer func() { require.NoError(t, tt.Client.LeasesService().Delete(elsewhere, lease)) }()
	d := ocispec.Descriptor{Digest: artifact.Digest, Size: artifact.Size}
	require.NoError(t, content.WriteBlob(leases.WithLease(elsewhere, lease.ID), tt.Client.ContentStore(), "other", bytes.NewReader(good), d))

	require.NoError(t, os.Chmod(tt.blob(artifact.Digest), 0o644))
	require.NoError(t, os.WriteFile(tt.blob(artifact.Digest), bytes.ToUpper(good), 0o644))
	for range 2 {
		require.Equal(t, layerLine(module, "compiled"), tt.out(harness.Config{Image: image}))
	}
	require.Equal(t, 2, tt.compilations(module))
	now, err := os.ReadFile(tt.blob(artifact.Digest))
	require.NoError(t, err)
	require.Equal(t, good, now)
}
