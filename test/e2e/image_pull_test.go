// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	transferimage "github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// wasmPlatform is what users call the platform of images of WebAssembly.
const wasmPlatform = "wasi/wasm"

// ctrRun runs a container of an image, and removes it.
func (t *imageTest) ctrRun(image, platform string) (string, error) {
	args := []string{"run", "--rm", "--fifo-dir", filepath.Join(t.Dir, "fifo"), "--runtime", smoke.Ours}
	return t.Ctr(t.Ctx, append(append(args, platformFlag(platform)...), image, harness.FreshID("c"))...)
}

func platformFlag(platform string) []string {
	if platform == "" {
		return nil
	}
	return []string{"--platform", platform}
}

// source is an image that containerd does not have yet.
type source struct {
	name, file string // in an archive
	ref        string // in a registry

	module []byte // what is compiled of it
	prints string
}

func (t *imageTest) source(dir string, archive []byte, name string, module []byte, prints string) source {
	served, err := harness.NewRegistry(archive)
	require.NoError(t, err)
	t.Cleanup(served.Close)
	file := filepath.Join(dir, "image.tar")
	require.NoError(t, os.WriteFile(file, archive, 0o644))
	return source{name, file, served.Ref(name), module, prints}
}

const (
	hello          = "hello\n"
	helloComponent = "hello from a component\n"
)

// kinds of images, by what is in them.
var kinds = map[string]func(t *imageTest, dir string) source{
	"layer": func(t *imageTest, dir string) source {
		module := fresh(t)
		return t.archived(dir, module, hello, harness.Layered(module))
	},
	"component layer": func(t *imageTest, dir string) source {
		module := smoke.Fresh(t, "component-hello.wasm")
		return t.archived(dir, module, helloComponent, harness.Wasm("/app.wasm", harness.Blob{MediaType: harness.ComponentLayer, Data: module}))
	},
	"layer and files": func(t *imageTest, dir string) source {
		module := fresh(t)
		files := t.native().Layers[0]
		return t.archived(dir, module, hello, harness.Wasm("/app.wasm", files, harness.Blob{MediaType: harness.WasmLayer, Data: module}))
	},
	"index": func(t *imageTest, dir string) source {
		module := smoke.Fresh(t, "component-hello.wasm")
		return t.archived(dir, module, helloComponent, t.index(module)...)
	},
	"image build": func(t *imageTest, dir string) source {
		module := fresh(t)
		shim, err := t.ShimBinary(smoke.Ours)
		require.NoError(t, err)
		file := filepath.Join(dir, "app.wasm")
		require.NoError(t, os.WriteFile(file, module, 0o644))
		name := harness.ImageName(harness.FreshID("built"))
		archive, err := exec.CommandContext(t.Ctx, shim, "image", "build", "--tag", name, "--module", file, "-o", "-").Output()
		require.NoError(t, err)
		return t.source(dir, archive, name, module, hello)
	},
	"plain": func(t *imageTest, dir string) source {
		module := fresh(t)
		plain, err := harness.Plain(module)
		require.NoError(t, err)
		return t.archived(dir, module, hello, plain)
	},
}

func (t *imageTest) archived(dir string, module []byte, prints string, variants ...harness.Variant) source {
	name := harness.ImageName(harness.FreshID("pulled"))
	archive, err := harness.Archive(name, variants...)
	require.NoError(t, err)
	return t.source(dir, archive, name, module, prints)
}

// ways to get an image into containerd, which return what it is called there. ctr
// without --local has containerd's Transfer Service do the work.
var ways = map[string]func(t *imageTest, s source, platform string) (string, error){
	"ctr images pull":           pull(),
	"ctr images pull --local":   pull("--local"),
	"ctr images import":         importFile(),
	"ctr images import --local": importFile("--local"),
	"client.Pull": func(t *imageTest, s source, platform string) (string, error) {
		plain := docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))
		_, err := t.Client.Pull(t.Ctx, s.ref, client.WithPullUnpack, client.WithPullSnapshotter(harness.Snapshotter),
			client.WithPlatformMatcher(matcher(platform)), client.WithResolver(docker.NewResolver(docker.ResolverOptions{Hosts: plain})))
		return s.ref, err
	},
	"client.Transfer": func(t *imageTest, s source, platform string) (string, error) {
		from, err := registry.NewOCIRegistry(t.Ctx, s.ref, registry.WithDefaultScheme("http"))
		require.NoError(t, err)
		p := platforms.DefaultSpec()
		if platform != "" {
			p = platforms.MustParse(platform)
		}
		to := transferimage.NewStore(s.ref, transferimage.WithPlatforms(p), transferimage.WithUnpack(p, harness.Snapshotter), transferimage.WithAllMetadata)
		return s.ref, t.Client.Transfer(t.Ctx, from, to)
	},
}

func matcher(platform string) platforms.MatchComparer {
	if platform == wasmPlatform {
		return harness.WasmPlatform
	}
	return harness.NativePlatform
}

// open is an image that containerd has, for a platform.
func (t *imageTest) open(name, platform string) client.Image {
	t.Helper()
	stored, err := t.Client.ImageService().Get(t.Ctx, name)
	require.NoError(t, err)
	return client.NewImageWithPlatform(t.Client, stored, matcher(platform))
}

func pull(flags ...string) func(*imageTest, source, string) (string, error) {
	return func(t *imageTest, s source, platform string) (string, error) {
		_, err := t.Ctr(t.Ctx, slices.Concat([]string{"images", "pull", "--plain-http"}, flags, platformFlag(platform), []string{s.ref})...)
		return s.ref, err
	}
}

func importFile(flags ...string) func(*imageTest, source, string) (string, error) {
	return func(t *imageTest, s source, platform string) (string, error) {
		_, err := t.Ctr(t.Ctx, slices.Concat([]string{"images", "import"}, flags, platformFlag(platform), []string{s.file})...)
		return s.name, err
	}
}

// held is what containerd has.
func (t *imageTest) held() (all []string) {
	add := func(what, name string) { all = append(all, what+" "+name) }
	list, err := t.Client.ImageService().List(t.Ctx)
	require.NoError(t, err)
	for _, i := range list {
		add("image", i.Name)
	}
	require.NoError(t, t.Client.ContentStore().Walk(t.Ctx, func(i content.Info) error {
		add("blob", i.Digest.String())
		return nil
	}))
	require.NoError(t, t.Client.SnapshotService(harness.Snapshotter).Walk(t.Ctx, func(_ context.Context, i snapshots.Info) error {
		add("snapshot", i.Name)
		return nil
	}))
	leases, err := t.Client.LeasesService().List(t.Ctx)
	require.NoError(t, err)
	for _, l := range leases {
		add("lease", l.ID)
	}
	ingests, err := t.Client.ContentStore().ListStatuses(t.Ctx)
	require.NoError(t, err)
	for _, i := range ingests {
		add("ingest", i.Ref)
	}
	containers, err := t.Client.ContainerService().List(t.Ctx)
	require.NoError(t, err)
	for _, c := range containers {
		add("container", c.ID)
	}
	return all
}

// newPullTest begins a test that gets images, at whose end they are removed and
// containerd holds nothing that it did not hold before.
func newPullTest(t *testing.T) *imageTest {
	tt := &imageTest{T: harness.New(t, smoke.Ours)}
	tt.collect()
	before := tt.held()
	t.Cleanup(func() {
		for _, thing := range tt.held() {
			if name, ok := strings.CutPrefix(thing, "image "); ok && !slices.Contains(before, thing) {
				require.NoError(t, tt.Client.ImageService().Delete(tt.Ctx, name, images.SynchronousDelete()))
			}
		}
		tt.collect() // what came with an image that was not wanted
		require.Subset(t, before, tt.held(), "containerd holds more than before")
	})
	return tt
}

// eachWay runs a test for every way to get an image.
func eachWay(t *testing.T, kind string, test func(t *imageTest, s source, way string)) {
	for way := range ways {
		t.Run(kind+"/"+way, func(t *testing.T) {
			tt := newPullTest(t)
			test(tt, kinds[kind](tt, t.TempDir()), way)
		})
	}
}

// Images come from registries and from archives, by whatever tool.
func TestImage1Pull(t *testing.T) {
	for kind := range kinds {
		platform := wasmPlatform
		if kind == "plain" {
			platform = ""
		}
		eachWay(t, kind, func(t *imageTest, s source, way string) {
			name, err := ways[way](t, s, platform)
			require.NoError(t, err)
			for range 2 {
				out, err := t.ctrRun(name, platform)
				require.NoError(t, err)
				require.Equal(t, s.prints, out)
			}
			require.Equal(t, s.prints, t.out(harness.Config{Runtime: smoke.Ours, Image: t.open(name, platform)}))
			require.Equal(t, 1, t.compilations(s.module))
			require.Len(t, t.artifacts(s.module), 1)
		})
	}
}

// The platform is for choosing from an index. Where there is nothing to choose
// from, containerd takes what there is.
func TestImage1PullOtherPlatform(t *testing.T) {
	for kind, platform := range map[string]string{"layer": "", "layer and files": "", "image build": "", "plain": wasmPlatform} {
		eachWay(t, kind, func(t *imageTest, s source, way string) {
			name, err := ways[way](t, s, platform)
			if strings.Contains(way, "import") && kind != "image build" {
				// An archive has an index at its top, and most tools say there which
				// platform an image is for. Users have to name it, or to import with
				// --all-platforms; "image build" leaves it out.
				require.ErrorContains(t, err, "image might be filtered out")
				_, err = t.Ctr(t.Ctx, "images", "import", "--all-platforms", s.file)
			}
			require.NoError(t, err)
			for _, platform := range []string{"", wasmPlatform} {
				out, err := t.ctrRun(name, platform)
				require.NoError(t, err)
				require.Equal(t, s.prints, out)
			}
		})
	}
}

// Of an index, a container runs what is for its platform, which has to be there.
func TestImage1PullIndex(t *testing.T) {
	const all = "--all-platforms"
	for way, get := range map[string]func(*imageTest, source, string) (string, error){
		"pull": pull(all), "pull --local": pull(all, "--local"), "import": importFile(all), "import --local": importFile(all, "--local"),
	} {
		t.Run(way, func(t *testing.T) {
			tt := newPullTest(t)
			name, err := get(tt, kinds["index"](tt, t.TempDir()), "")
			require.NoError(t, err)
			for platform, prints := range map[string]string{"": hello, wasmPlatform: helloComponent} {
				out, err := tt.ctrRun(name, platform)
				require.NoError(t, err)
				require.Equal(t, prints, out)
			}
		})
	}
	t.Run("another platform", func(t *testing.T) {
		tt := newPullTest(t)
		s := kinds["index"](tt, t.TempDir())
		_, err := pull()(tt, s, "")
		require.NoError(t, err)
		_, err = tt.ctrRun(s.ref, wasmPlatform)
		require.ErrorContains(t, err, fmt.Sprintf(`entrypoint "/app.wasm": /app.wasm does not exist in the container: not found (image %s: blob %s is not in containerd's content store`,
			s.ref, digest.FromBytes(s.module)))
	})
}

// containerd starts no container of a pure artifact, however it came there: it
// knows no configuration but an image's. Users make an image of it ("image
// convert"), or use a client that brings a spec of its own (see
// TestImage1Artifact).
func TestImage1PullArtifact(t *testing.T) {
	const refused = "unknown image config media type application/vnd.wasm.config.v0+json"
	for way, get := range ways {
		t.Run(way, func(t *testing.T) {
			tt := newPullTest(t)
			module := fresh(t)
			s := tt.archived(t.TempDir(), module, "", harness.Artifact(module))
			name, err := get(tt, s, wasmPlatform)
			require.NoError(t, err)
			shims := strings.Count(tt.LogTail(100000), "connecting to shim")
			for _, platform := range []string{"", wasmPlatform} {
				_, err := tt.ctrRun(name, platform)
				require.ErrorContains(t, err, refused)
			}
			require.Equal(t, shims, strings.Count(tt.LogTail(100000), "connecting to shim"), "no shim was started")
			require.Zero(t, tt.compilations(module))
		})
	}
}

// As containerd comes, its Transfer Service unpacks for this machine's platform
// alone, and gets nothing that it is asked to unpack for another one. Operators
// add wasi/wasm to its unpack_config, as the harness does; users use --local,
// import with --no-unpack, or leave the platform out where there is only one.
func TestImage1PullUnpackConfig(t *testing.T) {
	const refused = "unable to initialize unpacker: no unpack platforms defined: invalid argument"
	withoutUnpackConfig(t)
	eachWay(t, "layer and files", func(t *imageTest, s source, way string) {
		name, err := ways[way](t, s, wasmPlatform)
		switch {
		case strings.Contains(way, "--local"), way == "client.Pull":
		case strings.Contains(way, "import"):
			require.ErrorContains(t, err, refused)
			name, err = importFile("--no-unpack")(t, s, wasmPlatform)
		default:
			require.ErrorContains(t, err, refused)
			name, err = ways[way](t, s, "")
		}
		require.NoError(t, err)
		out, err := t.ctrRun(name, wasmPlatform)
		require.NoError(t, err)
		require.Equal(t, s.prints, out)
	})
}

// withoutUnpackConfig restarts containerd without unpack_config, and with it at
// the end of the test.
func withoutUnpackConfig(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	file := filepath.Join(tt.Dir, "config.toml")
	with, err := os.ReadFile(file)
	require.NoError(t, err)
	without := regexp.MustCompile(`(?m)^\[\[plugins\."io\.containerd\.transfer\.v1\.local"\.unpack_config\]\]\n(  .*\n)+`).ReplaceAll(with, nil)
	require.NotEqual(t, string(with), string(without))
	restart := func(config []byte) {
		require.NoError(t, tt.Terminate())
		require.NoError(t, os.WriteFile(file, config, 0o600))
		require.NoError(t, tt.Restart(context.Background()))
	}
	restart(without)
	t.Cleanup(func() { restart(with) })
}
