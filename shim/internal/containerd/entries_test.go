// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// Of several, the one for WebAssembly is meant; an image that has none may have
// been meant as something else.
func TestChoose(t *testing.T) {
	core, core2 := LayerTypes[0], LayerTypes[1]
	types := append(slices.Clone(LayerTypes), own)
	const ordinary = "no image with layers of WebAssembly"
	for name, test := range map[string]struct {
		image func(s *store) ocispec.Descriptor
		want  []string // types of the chosen one's layers
		err   string
	}{
		"manifest":      {func(s *store) ocispec.Descriptor { return s.manifest(core) }, []string{core}, ""},
		"component":     {func(s *store) ocispec.Descriptor { return s.manifest(core2) }, []string{core2}, ""},
		"engine's type": {func(s *store) ocispec.Descriptor { return s.manifest(own) }, []string{own}, ""},
		"with others":   {func(s *store) ocispec.Descriptor { return s.manifest(tarLayer, unknown, core) }, []string{tarLayer, unknown, core}, ""},
		"the same twice": {func(s *store) ocispec.Descriptor {
			return s.index(forPlatform(s.manifest(core), "wasi/wasm"), forPlatform(s.manifest(core), "wasip1/wasm"))
		}, []string{core}, ""},
		"for wasm32": {func(s *store) ocispec.Descriptor {
			return s.index(forPlatform(s.manifest(core), "linux/amd64"), forPlatform(s.manifest(core2), "wasi/wasm32"))
		}, []string{core2}, ""},
		"for no platform": {func(s *store) ocispec.Descriptor {
			return s.index(forPlatform(s.manifest(core), "linux/amd64"), s.manifest(core2))
		}, []string{core2}, ""},
		"an attestation": {func(s *store) ocispec.Descriptor {
			about := s.manifest(own)
			about.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
			return s.index(about, forPlatform(s.manifest(core), "wasip1/wasm"))
		}, []string{core}, ""},
		"of two the one for wasm": {func(s *store) ocispec.Descriptor {
			return s.index(forPlatform(s.manifest(core), "linux/amd64"), forPlatform(s.manifest(core2), "wasi/wasm"))
		}, []string{core2}, ""},
		"the one with layers": {func(s *store) ocispec.Descriptor {
			return s.index(forPlatform(s.manifest(tarLayer), "linux/amd64"), forPlatform(s.manifest(unknown), "wasi/wasm"), forPlatform(s.manifest(core), "linux/arm64"))
		}, []string{core}, ""},
		"the one that is there": {func(s *store) ocispec.Descriptor {
			return s.index(forPlatform(missing("x"), "wasi/wasm"), forPlatform(s.manifest(core), "linux/amd64"))
		}, []string{core}, ""},
		"nested": {func(s *store) ocispec.Descriptor {
			return s.index(forPlatform(s.manifest(core), "linux/amd64"), forPlatform(s.index(s.manifest(core2)), "wasi/wasm"))
		}, []string{core2}, ""},

		"ordinary": {func(s *store) ocispec.Descriptor { return s.manifest(tarLayer, tarLayer) }, nil, ordinary},
		"ordinary for two": {func(s *store) ocispec.Descriptor {
			return s.index(s.manifest(tarLayer), s.manifest(ocispec.MediaTypeImageLayer))
		}, nil, ordinary},
		"docker's": {func(s *store) ocispec.Descriptor {
			return s.manifest("application/vnd.docker.image.rootfs.diff.tar.gzip")
		}, nil, ordinary},
		"no layers":          {func(s *store) ocispec.Descriptor { return s.manifest() }, nil, ordinary},
		"ordinary, for wasm": {func(s *store) ocispec.Descriptor { return s.index(forPlatform(s.manifest(tarLayer), "wasi/wasm")) }, nil, ordinary},
		"unknown":            {func(s *store) ocispec.Descriptor { return s.manifest(unknown) }, nil, "found: " + unknown + "; accepted: "},
		"unknown, each once": {func(s *store) ocispec.Descriptor {
			return s.index(s.manifest(tarLayer, unknown, unknown), s.manifest(unknown, "other"))
		}, nil, "found: " + tarLayer + ", " + unknown + ", other; accepted: "},
		"unknown beside one":  {func(s *store) ocispec.Descriptor { return s.index(s.manifest(tarLayer), s.manifest(unknown)) }, nil, "found: " + tarLayer + ", " + unknown + "; accepted: "},
		"like an engine's":    {func(s *store) ocispec.Descriptor { return s.manifest(own + "+gzip") }, nil, "found: " + own + "+gzip; accepted: "},
		"parameters are more": {func(s *store) ocispec.Descriptor { return s.manifest(core + "; charset=x") }, nil, "found: " + core + "; charset=x; accepted: "},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			image := Image{"docker.io/x:latest", test.image(s)}
			entries, err := s.Entries(t.Context(), image, types)
			require.NoError(t, err)
			m, err := Origin{}.Choose(image, entries, types)
			if test.err == "" {
				require.NoError(t, err)
				var got []string
				for _, l := range m.Layers {
					got = append(got, l.MediaType)
				}
				require.ElementsMatch(t, test.want, append(got, m.Others...))
				return
			}
			require.True(t, errdefs.IsNotFound(err), "%v", err)
			if test.err == ordinary {
				require.ErrorIs(t, err, ErrOrdinary)
				require.EqualError(t, err, "image docker.io/x:latest: no image with layers of WebAssembly: not found")
				return
			}
			require.NotErrorIs(t, err, ErrOrdinary)
			require.EqualError(t, err, "image docker.io/x:latest has no layer of a type that the engine takes; "+test.err+strings.Join(types, ", ")+": not found")
		})
	}
}

// A container runs the entry that it was made of, as far as anything tells.
func TestChooseOrigin(t *testing.T) {
	image := Image{Name: "docker.io/x:latest", Target: ocispec.Descriptor{Digest: digest.FromString("index")}}
	entry := func(name string, change func(e *Entry)) Entry {
		layers := []ocispec.Descriptor{{MediaType: LayerTypes[0], Digest: digest.FromString(name)}}
		e := Entry{
			Manifest: digest.FromString("manifest " + name), Platform: ocispec.Platform{OS: "wasi", Architecture: wasm}, Layers: layers,
			Entrypoint: []string{"/app.wasm"}, Env: []string{"PATH=/bin"},
		}
		change(&e)
		return e
	}
	nothing := func(*Entry) {}
	env := func(kv string) func(*Entry) { return func(e *Entry) { e.Env = append(e.Env, kv) } }
	named := func(e *Entry) { e.Labels = map[string]string{LabelLayers: layersLabel(e.Layers)} }
	start := func(args ...string) func(*Entry) { return func(e *Entry) { e.Entrypoint = args } }
	for name, test := range map[string]struct {
		x, y   func(*Entry)
		origin Origin
		want   string // x, y, or the sentence
	}{
		"environment":            {env("A=1"), env("A=2"), Origin{Env: []string{"PATH=/bin", "A=2"}}, "y"},
		"less of it":             {nothing, env("A=2"), Origin{Env: []string{"PATH=/bin"}}, "x"},
		"more of it":             {nothing, env("A=2"), Origin{Env: []string{"PATH=/bin", "A=2", "B=3"}}, "y"},
		"entrypoint":             {start("/x.wasm"), start("/y.wasm"), Origin{Args: []string{"/y.wasm", "arg"}}, "y"},
		"the longer one":         {start("/x.wasm"), start("/x.wasm", "serve"), Origin{Args: []string{"/x.wasm", "serve", "arg"}}, "y"},
		"entrypoint, env of x":   {func(e *Entry) { start("/x.wasm")(e); env("A=1")(e) }, start("/y.wasm"), Origin{Args: []string{"/y.wasm"}, Env: []string{"A=1"}}, "y"},
		"label":                  {named, named, Origin{Labels: map[string]string{LabelLayers: layersLabel(entry("y", nothing).Layers)}}, "y"},
		"started before":         {env("A=1"), env("A=2"), Origin{Env: []string{"A=1"}, Labels: map[string]string{LabelManifest: string(digest.FromString("manifest y"))}}, "y"},
		"started of another one": {nothing, nothing, Origin{ID: "c1", Labels: map[string]string{LabelManifest: "sha256:0"}}, "image docker.io/x:latest has changed since container c1 was made: it was made of manifest sha256:0, the image has "},
		"made of another one":    {named, nothing, Origin{ID: "c1", Labels: map[string]string{LabelLayers: "sha256:0"}}, "image docker.io/x:latest has changed since container c1 was made: the container's label " + LabelLayers + " is sha256:0, that of the image, which is " + string(image.Target.Digest) + " now, differs"},
		"nothing tells":          {nothing, nothing, Origin{ID: "c1", Args: []string{"/app.wasm"}}, "image docker.io/x:latest has several entries for WebAssembly that nothing of container c1 tells apart: "},
	} {
		t.Run(name, func(t *testing.T) {
			x, y := entry("x", test.x), entry("y", test.y)
			for _, entries := range [][]Entry{{x, y}, {y, x}} {
				got, err := test.origin.Choose(image, entries, LayerTypes)
				switch test.want {
				case "x":
					require.NoError(t, err)
					require.Equal(t, x, got)
				case "y":
					require.NoError(t, err)
					require.Equal(t, y, got)
				default:
					require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
					require.ErrorContains(t, err, test.want)
				}
			}
		})
	}
}

func TestRunnable(t *testing.T) {
	entry := func(platform string, layers int) Entry {
		os, arch, _ := strings.Cut(platform, "/")
		return Entry{Platform: ocispec.Platform{OS: os, Architecture: arch}, Layers: make([]ocispec.Descriptor, layers)}
	}
	here := "linux/" + runtime.GOARCH
	for name, test := range map[string]struct {
		entries []Entry
		want    string
	}{
		"wasm before others":      {[]Entry{entry(here, 1), entry("wasip1/wasm", 1), entry("wasip2/wasm", 1)}, "wasip1/wasm wasip2/wasm"},
		"layers before none":      {[]Entry{entry("wasi/wasm", 0), entry(here, 1)}, here},
		"wasm without layers":     {[]Entry{entry("wasi/wasm", 0), entry(here, 0)}, "wasi/wasm"},
		"this machine":            {[]Entry{entry("linux/other", 0), entry(here, 0)}, here},
		"of no platform is wasm":  {[]Entry{entry("/", 1), entry(here, 1)}, "no platform"},
		"attested, for nobody":    {[]Entry{entry("windows/other", 0)}, "image x is for windows/other, accepted: wasi/wasm, " + here},
		"wasm32 and linux's wasm": {[]Entry{entry("wasi/wasm32", 1), entry("linux/wasm", 1)}, "wasi/wasm32 linux/wasm"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := Runnable("x", test.entries)
			if err != nil {
				require.True(t, errdefs.IsNotFound(err), "%v", err)
				require.ErrorContains(t, err, test.want)
				return
			}
			var got []string
			for _, e := range found {
				got = append(got, platformName(e.Platform))
			}
			require.Equal(t, test.want, strings.Join(got, " "))
		})
	}
}

func TestFullName(t *testing.T) {
	for name, want := range map[string]string{
		"app": "docker.io/library/app:latest", "app:v1": "docker.io/library/app:v1", "team/app": "docker.io/team/app:latest",
		"docker.io/app": "docker.io/library/app:latest", "index.docker.io/team/app:1": "docker.io/team/app:1",
		"localhost/app": "localhost/app:latest", "localhost:5000/app:v1": "localhost:5000/app:v1", "registry.example.com/a/b/c": "registry.example.com/a/b/c:latest",
		"app@sha256:0": "docker.io/library/app@sha256:0", "example.com/app:v1@sha256:0": "example.com/app@sha256:0",
	} {
		require.Equal(t, want, FullName(name), name)
	}
}
