// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// cliTest is a test of the commands that speak to containerd.
type cliTest struct{ *imageTest }

func newCLITest(t *testing.T) *cliTest {
	tt := &cliTest{newImageTest(t)}
	t.Cleanup(func() {
		require.NoError(t, tt.Client.SnapshotService(harness.Snapshotter).Walk(tt.In(context.Background()), func(_ context.Context, info snapshots.Info) error {
			require.False(t, info.Kind == snapshots.KindView, "view %s is left", info.Name)
			return nil
		}))
		leases, err := tt.Client.LeasesService().List(tt.In(context.Background()))
		require.NoError(t, err)
		require.Empty(t, leases)
	})
	return tt
}

// command is the shim's binary, run by hand: wasmtime's, or that of the test
// engine.
func (t *cliTest) command(shim string, args ...string) *exec.Cmd {
	t.Helper()
	if !filepath.IsAbs(shim) {
		path, err := t.ShimBinary(shim)
		require.NoError(t, err)
		shim = path
	}
	cmd := exec.Command(shim, args...)
	cmd.Env = append(t.Env(), "CONTAINERD_ADDRESS="+t.Address, "CONTAINERD_NAMESPACE="+t.Namespace)
	return cmd
}

func run(t *testing.T, cmd *exec.Cmd) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil {
		require.ErrorAs(t, err, new(*exec.ExitError))
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

// ok runs wasmtime's shim, which has to succeed and to say nothing on standard
// error.
func (t *cliTest) ok(args ...string) string {
	t.Helper()
	return t.okay(smoke.Ours, args...)
}

func (t *cliTest) okay(shim string, args ...string) string {
	t.Helper()
	code, out, errOut := run(t.T.T, t.command(shim, args...))
	require.Zero(t, code, errOut)
	require.Empty(t, errOut)
	return out
}

// fails runs the test engine's shim, which has to fail with a message.
func (t *cliTest) fails(want string, args ...string) (out string) {
	t.Helper()
	code, out, errOut := run(t.T.T, t.command(t.shim, args...))
	require.Equal(t, 1, code, "%s%s", out, errOut)
	require.Contains(t, errOut, want)
	require.NotContains(t, errOut, "goroutine")
	return out
}

func fromJSON[V any](t testing.TB, text string) (v V) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(text), &v), text)
	return v
}

type inspectedImage struct {
	Name, Engine string
	Target       struct{ MediaType, Digest string }
	Manifests    []struct {
		Platform, Kind, ConfigType string
		Entrypoint, Cmd            []string
		Layers                     []struct {
			MediaType string
			Digest    digest.Digest
			Size      int64
			Runs      bool
		}
	}
	Artifacts []keptArtifact
}

type keptArtifact struct {
	Digest, Source digest.Digest
	Engine         string
	Size           int64
	Images         []string
}

func TestCLIInspect(t *testing.T) {
	tt := newCLITest(t)
	module := fresh(t)
	image := tt.wasm(harness.Wasm("/app.wasm", harness.Blob{MediaType: harness.WasmLayer, Data: module}, harness.Blob{MediaType: "text/plain", Data: []byte("data")}))
	text := tt.ok("image", "inspect", image.Name())
	require.Regexp(t, `^Name: +`+image.Name()+`
Target: +`+string(image.Target().Digest)+` +application/vnd.oci.image.manifest.v1\+json

Manifest: +`+string(image.Target().Digest)+` +wasi/wasm
  Kind: +wasm image
  Config: +application/vnd.oci.image.config.v1\+json
  Entrypoint: +\["/app.wasm"\]
  Arguments: +none
  Layers: +`+string(digest.FromBytes(module))+` +\d+\.\d B +application/wasm +run by wasmtime
 +sha256:[0-9a-f]{64} +4.0 B +text/plain

Artifacts: +none
$`, text)
	require.Equal(t, "hello\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: image}))
	require.Contains(t, tt.out(harness.Config{Image: image}), "compiled")
	text = tt.ok("image", "inspect", image.Name())
	for _, engine := range []string{"wasmtime", "cachier"} {
		require.Regexp(t, `(?m)^(Artifacts:)? +sha256:[0-9a-f]{64} +\d+\.\d (B|KiB|MiB) +by `+engine+` \d+s ago, of `+digest.FromBytes(module).Encoded()[:12]+`$`, text)
	}
	i := fromJSON[inspectedImage](t, tt.ok("image", "inspect", "--json", image.Name()))
	require.Equal(t, image.Name(), i.Name)
	require.Equal(t, "wasmtime", i.Engine)
	require.Equal(t, string(image.Target().Digest), i.Target.Digest)
	require.Len(t, i.Manifests, 1)
	m := i.Manifests[0]
	require.Equal(t, []string{"wasi/wasm", "wasm", ocispec.MediaTypeImageConfig, "/app.wasm"}, append([]string{m.Platform, m.Kind, m.ConfigType}, m.Entrypoint...))
	require.Len(t, m.Layers, 2)
	require.Equal(t, harness.WasmLayer, m.Layers[0].MediaType)
	require.Equal(t, digest.FromBytes(module), m.Layers[0].Digest)
	require.EqualValues(t, len(module), m.Layers[0].Size)
	require.True(t, m.Layers[0].Runs)
	require.False(t, m.Layers[1].Runs)
	require.Len(t, i.Artifacts, 2)

	plain := tt.FileImage(fresh(t))
	require.Contains(t, tt.out(harness.Config{Image: plain}), "compiled")
	i = fromJSON[inspectedImage](t, tt.okay(tt.shim, "image", "inspect", "--json", plain.Name()))
	require.Equal(t, "plain", i.Manifests[0].Kind)
	require.Equal(t, "linux/"+runtime.GOARCH, i.Manifests[0].Platform)
	require.False(t, i.Manifests[0].Layers[0].Runs)
	require.Len(t, i.Artifacts, 1)
	require.Equal(t, "cachier", i.Artifacts[0].Engine)

	artifact := tt.artifact(module).Name()
	require.Contains(t, tt.ok("image", "inspect", artifact), "Wasm artifact, which containerd's clients refuse to run; see image convert")
	i = fromJSON[inspectedImage](t, tt.ok("image", "inspect", "--json", artifact))
	require.Equal(t, "artifact", i.Manifests[0].Kind)
	require.Equal(t, []string{}, i.Manifests[0].Entrypoint)
	require.Len(t, i.Artifacts, 2, "the layer is the other image's")

	// An index, by the names that people use for it.
	linux := tt.native()
	linux.Platform, linux.Config = ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, ocispec.ImageConfig{}
	tt.imported("docker.io/library/short:latest", linux, harness.Layered(module))
	for _, name := range []string{"short", "short:latest", "library/short", "docker.io/library/short:latest"} {
		i = fromJSON[inspectedImage](t, tt.ok("image", "inspect", "--json", name))
		require.Equal(t, "docker.io/library/short:latest", i.Name)
	}
	require.Equal(t, ocispec.MediaTypeImageIndex, i.Target.MediaType)
	require.Equal(t, []string{"linux/arm/v7", "wasi/wasm"}, []string{i.Manifests[0].Platform, i.Manifests[1].Platform})
}

// What other tools make of a module becomes an image, whatever they leave in the
// place of a configuration.
func TestCLIConvertKinds(t *testing.T) {
	tt := newCLITest(t)
	for _, layer := range []string{harness.WasmLayer, harness.ContentLayer} { // of today's tools, and of wasm-to-oci
		for _, config := range []string{
			"application/vnd.wasm.config.v0+json", "application/vnd.wasm.config.v1+json", "application/vnd.oci.empty.v1+json", "application/vnd.unknown.config.v1+json", harness.NoConfig,
		} {
			module := fresh(t)
			v := harness.Wasm("", harness.Blob{MediaType: layer, Data: module})
			v.Artifact, v.ConfigType = true, config
			source, name := tt.imported(harness.ImageName(harness.FreshID("artifact")), v).Name(), harness.ImageName(harness.FreshID("converted"))
			require.Contains(t, tt.ok("image", "inspect", source), "Wasm artifact, which", config)
			tt.ok("image", "convert", source, name)
			image := tt.open(name, wasmPlatform)
			require.NoError(t, image.Unpack(tt.Ctx, harness.Snapshotter))
			require.Equal(t, hello, tt.out(harness.Config{Runtime: smoke.Ours, Image: image}), "%s, %s", layer, config)
		}
	}
	spin := harness.Artifact(guest(t, "hello.wasm"))
	spin.ConfigType = "application/vnd.fermyon.spin.application.v1+config"
	name := tt.imported(harness.ImageName(harness.FreshID("spin")), spin).Name()
	tt.fails("image "+name+" is a Spin application ("+spin.ConfigType+")", "image", "convert", name, "x")
	require.NotContains(t, tt.ok("image", "inspect", name), "run by", "what convert and a start refuse")
}

func TestCLIConvert(t *testing.T) {
	tt := newCLITest(t)
	module := fresh(t)
	source, name := tt.artifact(module).Name(), harness.ImageName(harness.FreshID("converted"))
	tt.collect()
	before := tt.blobs()
	out := tt.ok("image", "convert", source, name)
	require.Regexp(t, `^made `+name+`, manifest sha256:[0-9a-f]{64}
to run: ctr run --rm --platform wasi/wasm --runtime io.containerd.wasmtime.v1 `+name+` ID
$`, out)
	image := tt.open(name, wasmPlatform)
	after := tt.blobs()
	require.Contains(t, after, image.Target().Digest.Encoded())
	require.LessOrEqual(t, len(after), len(before)+2, "a configuration and a manifest")
	tt.collect()
	require.Equal(t, after, tt.blobs())

	require.NoError(t, image.Unpack(tt.Ctx, harness.Snapshotter))
	require.Equal(t, "hello\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: image}))
	require.Len(t, tt.artifacts(module), 1)

	// The same again, and another one in its place.
	require.Regexp(t, `^there already: `+name+`, manifest `+string(image.Target().Digest)+`\n`, tt.ok("image", "convert", source, name))
	tt.fails("image "+name+" is there already, its digest is "+string(image.Target().Digest)+": already exists; --force replaces it",
		"image", "convert", "--arg", "x", source, name)
	require.Equal(t, image.Target().Digest, tt.open(name, wasmPlatform).Target().Digest)
	tt.collect()
	require.LessOrEqual(t, len(tt.blobs()), len(after)+1, "nothing of what failed, and the artifact")
	made := fromJSON[struct {
		Name     string
		Manifest digest.Digest
		Made     bool
	}](t, tt.ok("image", "convert", "--json", "--force", "--entrypoint", "/other.wasm#func", "--arg", "entry", "--env", "A=1,2", source, name))
	image = tt.open(name, wasmPlatform)
	require.Equal(t, name, made.Name)
	require.True(t, made.Made)
	require.Equal(t, image.Target().Digest, made.Manifest)
	spec, err := image.Spec(tt.Ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"A=1,2"}, spec.Config.Env)
	require.NoError(t, image.Unpack(tt.Ctx, harness.Snapshotter))
	require.Contains(t, tt.out(harness.Config{Image: image}), "func=func name=other arg0=/other.wasm#func source=layers")

	// It lives without its source.
	require.NoError(t, tt.Client.ImageService().Delete(tt.Ctx, source))
	tt.collect()
	require.Contains(t, tt.out(harness.Config{Image: image}), "compiled")

	// An image for the wrong platform, whose configuration stays otherwise.
	odd := harness.Wasm("/a.wasm", harness.Blob{MediaType: harness.WasmLayer, Data: module})
	odd.Platform, odd.Config.Env = ocispec.Platform{OS: "linux", Architecture: "arm"}, []string{"B=1", "C=2"}
	oddName, evenName := harness.ImageName(harness.FreshID("odd")), harness.ImageName(harness.FreshID("even"))
	tt.imported(oddName, odd)
	tt.ok("image", "convert", "--env", "B=3", oddName, evenName)
	spec, err = tt.open(evenName, wasmPlatform).Spec(tt.Ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"B=3", "C=2"}, spec.Config.Env)
	require.Equal(t, []string{"/a.wasm"}, spec.Config.Entrypoint)

	tt.fails(": no image with layers of WebAssembly: not found", "image", "convert", tt.FileImage(module).Name(), "x")
}

// blobs are the names of all files in the content store.
func (t *cliTest) blobs() []string {
	entries, err := os.ReadDir(filepath.Dir(t.blob(digest.FromBytes(nil))))
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

type cacheList struct {
	Artifacts []keptArtifact
	Size      int64
}

// of are the artifacts of some code.
func (l cacheList) of(code []byte) (found []keptArtifact) {
	for _, a := range l.Artifacts {
		if a.Source == digest.FromBytes(code) {
			found = append(found, a)
		}
	}
	return found
}

func TestCLICache(t *testing.T) {
	tt := newCLITest(t)
	list := func() cacheList { return fromJSON[cacheList](t, tt.ok("cache", "ls", "--json")) }
	module, file := fresh(t), fresh(t)
	image, also, plain := tt.LayerImage(module), tt.LayerImage(module), tt.FileImage(file)
	start := func() {
		require.Contains(t, tt.out(harness.Config{Image: image}), "compiled")
		require.Contains(t, tt.out(harness.Config{Image: plain}), "compiled")
	}
	start()
	require.Equal(t, "hello\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: image}))
	l := list()
	require.Len(t, l.of(module), 2)
	require.Len(t, l.of(file), 1)
	sizes := map[digest.Digest]int64{}
	for _, a := range l.Artifacts {
		require.Equal(t, a.Size, tt.info(a.Digest).Size)
		sizes[a.Digest] = a.Size
	}
	for _, size := range sizes {
		l.Size -= size
	}
	require.Zero(t, l.Size)
	names := []string{image.Name(), also.Name()}
	slices.Sort(names)
	require.Equal(t, names, l.of(module)[0].Images)
	require.Equal(t, []string{plain.Name()}, l.of(file)[0].Images)

	text := tt.ok("cache", "ls")
	require.Regexp(t, `^DIGEST +ENGINE +SIZE +AGE +SOURCE +IMAGES\n`, text)
	of := l.of(file)[0]
	require.Regexp(t, `(?m)^`+of.Digest.Encoded()[:12]+` +cachier +\d+\.\d B +\d+s +`+of.Source.Encoded()[:12]+` +`+plain.Name()+`$`, text)
	require.Regexp(t, fmt.Sprintf(`\n%d artifacts, \d+\.\d [KMG]?i?B\n$`, len(l.Artifacts)), text)

	removed := func(n int, args ...string) {
		t.Helper()
		out := tt.okay(tt.shim, append([]string{"cache", "rm"}, args...)...)
		require.Equal(t, n, strings.Count(out, "removed sha256:"), out)
		require.Regexp(t, fmt.Sprintf(`\n%d artifacts?, \d+\.\d [KMG]?i?B\n$`, n), out)
	}
	gone := func(list []keptArtifact) {
		t.Helper()
		for _, a := range list {
			if a.Engine == "cachier" { // another engine's may have come out of other tests' modules as well
				require.NoFileExists(t, tt.blob(a.Digest))
			}
		}
	}
	again := func(code []byte, compilations int) {
		t.Helper()
		start()
		require.Equal(t, compilations, tt.compilations(code))
		require.NotEmpty(t, list().of(code))
	}
	removed(1, of.Digest.Encoded()[:6])
	gone(l.of(file))
	require.Len(t, list().of(module), 2, "the others stay")
	again(file, 2)
	removed(1, string(of.Source))
	gone(l.of(file))
	again(file, 3)
	removed(1, of.Source.Encoded()[:8])
	again(file, 4)
	removed(1, plain.Name())
	gone(l.of(file))
	again(file, 5)
	require.Equal(t, 2, tt.compilations(module), "once by each engine")
	l = list()
	removed(3, plain.Name(), also.Name(), string(l.of(module)[0].Digest), plain.Name())
	gone(append(l.of(file), l.of(module)...))
	again(module, 3)
	tt.fails(" has no artifacts", "cache", "rm", image.Name(), tt.LayerImage(fresh(t)).Name())
	require.NotEmpty(t, list().of(module), "nothing is removed if something is wrong")

	// Two modules that differ in what nobody keeps are compiled to the same.
	base := fresh(t)
	custom := func(content byte) []byte { return append(slices.Clone(base), 0, 3, 1, 'x', content) }
	twin, other := custom(1), custom(2)
	twins, others := tt.LayerImage(twin), tt.LayerImage(other)
	for _, i := range []client.Image{twins, others} {
		require.Equal(t, "hello\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: i}))
	}
	wasmtimes := func(code []byte) []keptArtifact {
		return slices.DeleteFunc(list().of(code), func(a keptArtifact) bool { return a.Engine != "wasmtime" })
	}
	before := wasmtimes(other)
	require.Len(t, before, 1)
	require.Len(t, wasmtimes(twin), 1)
	require.Equal(t, before[0].Digest, wasmtimes(twin)[0].Digest)
	require.Equal(t, []string{others.Name()}, before[0].Images)
	removed(1, twins.Name())
	require.Empty(t, wasmtimes(twin))
	require.Equal(t, before, wasmtimes(other))
	require.FileExists(t, tt.blob(before[0].Digest))

	n := len(list().Artifacts)
	removed(n, "--all")
	require.Empty(t, list().Artifacts)
	require.Equal(t, "0 artifacts, 0.0 B\n", tt.ok("cache", "ls"))
	require.Equal(t, "0 artifacts, 0.0 B\n", tt.ok("cache", "rm", "--all"))
	again(file, 7)
}

// memory changes whenever a start has to look for a guest's code, because it
// takes a lock for that.
func (t *cliTest) memory() (at time.Time) {
	dirs, err := filepath.Glob("/run/libwasmshim/" + t.Namespace + "-*")
	require.NoError(t, err)
	require.Len(t, dirs, 1)
	info, err := os.Stat(dirs[0])
	require.NoError(t, err)
	return info.ModTime()
}

// filesIn makes an ordinary image with a root file system of several layers.
func (t *cliTest) filesIn(config ocispec.ImageConfig, layers ...map[string]harness.File) client.Image {
	image, err := t.ImageFor(t.Ctx, harness.FreshID("files"), harness.NativePlatform, t.linux(config, layers...))
	require.NoError(t, err)
	return image
}

func TestCLIPrecompile(t *testing.T) {
	tt := newCLITest(t)
	module := func(data []byte) harness.File { return harness.File{Data: data, Mode: 0o644} }
	entry := ocispec.ImageConfig{Entrypoint: []string{"/app.wasm"}}
	for name, make := range map[string]func(code []byte) client.Image{
		"layers": tt.LayerImage,
		"plain":  tt.FileImage,
		"plain, layers": func(code []byte) client.Image {
			return tt.filesIn(entry, map[string]harness.File{"other": module(nil)}, map[string]harness.File{"app.wasm": module(code)}, map[string]harness.File{"more": module(nil)})
		},
		"plain, link in PATH": func(code []byte) client.Image {
			return tt.filesIn(ocispec.ImageConfig{Cmd: []string{"app"}, Env: []string{"PATH=/p"}},
				map[string]harness.File{"p/app": {Link: "../lib/app.wasm"}, "lib/app.wasm": module(code)}, map[string]harness.File{"more": module(nil)})
		},
		"plain, of a user": func(code []byte) client.Image {
			return tt.filesIn(ocispec.ImageConfig{Cmd: []string{"app.wasm#func"}, WorkingDir: "/w", User: "1000"},
				map[string]harness.File{"w/app.wasm": {Data: code, Mode: 0o400, UID: 1000}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			code := fresh(t)
			image := make(code)
			time.Sleep(200 * time.Millisecond) // a file that is younger than the kernel's clock may change unseen
			require.Regexp(t, `^`+image.Name()+`: compiled in \d+(\.\d+)?m?s: 1 artifact, \d+\.\d B\n$`, tt.okay(tt.shim, "precompile", image.Name()))
			at := tt.memory()
			require.Regexp(t, `^`+image.Name()+`: already there: 1 artifact, \d+\.\d B\n$`, tt.okay(tt.shim, "precompile", image.Name()))
			require.NotEqual(t, at, tt.memory(), "a look takes the lock")
			at = tt.memory()
			require.Contains(t, tt.out(harness.Config{Image: image}), "compiled")
			if name == "plain" {
				require.Equal(t, at, tt.memory(), "a start need not look")
			}
			at = tt.memory() // that these are layers is remembered when it is found out
			require.Contains(t, tt.out(harness.Config{Image: image}), "compiled")
			require.Equal(t, at, tt.memory(), "a start need not look")
			require.Zero(t, tt.compilations(code))

			// What the machine has forgotten is in containerd.
			require.NoError(t, tt.Forget())
			require.Regexp(t, `: already there: 1 artifact, \d+\.\d B\n$`, tt.okay(tt.shim, "precompile", image.Name()))
			require.Contains(t, tt.out(harness.Config{Image: image}), "compiled")
			require.Zero(t, tt.compilations(code))
			require.Len(t, tt.artifacts(code), 1)
		})
	}

	// A real engine, and options.
	code := fresh(t)
	image := tt.LayerImage(code)
	require.Contains(t, tt.ok("precompile", "--option", "fuel=1000000", image.Name()), "compiled in")
	require.Equal(t, "hello\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: image, RuntimeOptions: body("[engine]\nfuel = 2000000")}))
	require.Zero(t, tt.compilations(code))
	require.Equal(t, "hello\n", tt.out(harness.Config{Runtime: smoke.Ours, Image: image}))
	require.Equal(t, 1, tt.compilations(code), "other code without fuel")

	// Nothing to do is no failure.
	native := tt.filesIn(ocispec.ImageConfig{Entrypoint: []string{"/native"}}, map[string]harness.File{"native": {Data: guest(t, "native")}})
	require.Equal(t, native.Name()+": nothing to compile: the entrypoint /native is a native program\n", tt.okay(tt.shim, "precompile", native.Name()))
	image = tt.LayerImage(fresh(t))
	require.Equal(t, image.Name()+": nothing to compile: cachier leaves this code as it is\n", tt.okay(tt.shim, "precompile", "--option", "compile=none", image.Name()))
	require.Equal(t, image.Name()+": nothing to compile: cachier leaves this code as it is\n", tt.okay(tt.shim, "precompile", "--option", "compile=none", image.Name()))
}

// A pod that starts at the same time waits, and so does the command.
func TestCLIPrecompileAtOnce(t *testing.T) {
	tt := newCLITest(t)
	for kind, make := range tt.bothKinds() {
		t.Run(kind, func(t *testing.T) {
			code := fresh(t)
			image := make(code)
			cmd := tt.command(tt.shim, "precompile", "--option", "compile=slow", image.Name())
			var out bytes.Buffer
			cmd.Stdout = &out
			require.NoError(t, cmd.Start())
			require.Contains(t, tt.out(harness.Config{Image: image, RuntimeOptions: body("[engine]\ncompile = 'slow'")}), "compiled")
			require.NoError(t, cmd.Wait())
			by := 1
			if strings.Contains(out.String(), "already there") {
				by = 0
			}
			require.Equal(t, 1, tt.compilations(code)+by, out.String())
		})
	}
}

// A failure says why, keeps no other image from being compiled, and is tried
// again when a person says so.
func TestCLIPrecompileFails(t *testing.T) {
	tt := newCLITest(t)
	for kind, make := range tt.bothKinds() {
		t.Run(kind, func(t *testing.T) {
			bad, good := make(fresh(t)), make(fresh(t))
			for verb, cause := range map[string]string{
				"fail": "compiling failed: it does not please me", "hang": "compiling failed: the compiler has done nothing for 700ms", "memory": "compiling failed: the compiler took more than 64 MiB of memory: compile_memory is too small for this code",
			} {
				timeout := "30s"
				if verb == "hang" {
					timeout = "700ms"
				}
				for range 2 {
					tt.fails(bad.Name()+": not compiled: "+cause+"\n", "precompile", "--compile-timeout", timeout, "--compile-memory", "64MiB", "--option", "compile="+verb, bad.Name())
				}
			}
			lines := strings.Split(strings.TrimSpace(tt.fails("not compiled: 1 of 3 images", "precompile", "--json", good.Name(), "x.invalid/nope", good.Name())), "\n")
			var found []string
			for _, line := range lines {
				o := fromJSON[struct {
					Image, Outcome, Why string
					Artifacts           int
				}](t, line)
				found = append(found, fmt.Sprint(o.Image, " ", o.Outcome, " ", o.Artifacts, " ", o.Why))
			}
			require.Equal(t, []string{
				good.Name() + " compiled 1 ", "x.invalid/nope failed 0 image x.invalid/nope is not in containerd's namespace " + tt.Namespace +
					": pull or import it, or say --namespace; Kubernetes uses k8s.io", good.Name() + " present 1 ",
			}, found)
			// What a container has found not to compile is compiled as well.
			verb := "[engine]\ncompile = 'slow'"
			limited := body("compile_timeout = '100ms'\n" + verb)
			require.Contains(t, tt.out(harness.Config{Image: bad, RuntimeOptions: limited}), "original")
			require.Contains(t, tt.out(harness.Config{Image: bad, RuntimeOptions: limited}), "original")
			require.Contains(t, tt.okay(tt.shim, "precompile", "--option", "compile=slow", bad.Name()), "compiled in")
			require.Contains(t, tt.out(harness.Config{Image: bad, RuntimeOptions: limited}), "compiled")
		})
	}
}

// After an interruption nothing is left: neither mount nor view, neither process
// nor cgroup nor directory.
func TestCLIPrecompileInterrupted(t *testing.T) {
	tt := newCLITest(t)
	image := tt.filesIn(ocispec.ImageConfig{Entrypoint: []string{"/app.wasm"}}, map[string]harness.File{"app.wasm": {Data: fresh(t)}}, map[string]harness.File{"more": {}})
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		for _, after := range []time.Duration{0, 20, 50, 100, 200, 400, 700} {
			cmd := tt.command(tt.shim, "precompile", "--option", "compile=hang", image.Name())
			var errOut bytes.Buffer
			cmd.Stderr = &errOut
			require.NoError(t, cmd.Start())
			time.Sleep(after*time.Millisecond + 30*time.Millisecond)
			require.NoError(t, cmd.Process.Signal(s))
			err := cmd.Wait()
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
				require.Equal(t, s, status.Signal(), "%v: before it has begun", err)
				continue
			}
			require.Equal(t, "containerd-shim-cachier-v1: interrupted\n", errOut.String())
		}
	}
	tt.RequireNothingLeft()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), "/libwasmshim")
}

func TestCLINotUnpacked(t *testing.T) {
	tt := newCLITest(t)
	packed, err := harness.Plain(fresh(t))
	require.NoError(t, err)
	tt.imported(harness.ImageName("packed"), packed)
	tt.fails("not compiled: the image is not unpacked in snapshotter overlayfs: pull it again, or have ctr images mount unpack it", "precompile", harness.ImageName("packed"))
	unpacked := tt.FileImage(fresh(t)).Name()
	tt.fails("the image is not unpacked in snapshotter native", "precompile", "--snapshotter", "native", unpacked)
	tt.fails("ask snapshotter nope for the root file system: snapshotter not loaded: nope", "precompile", "--snapshotter", "nope", unpacked)
}

func TestCLIBadInput(t *testing.T) {
	tt := newCLITest(t)
	// One that takes connections and says nothing, and one that is no containerd.
	dir := t.TempDir()
	silent, err := net.Listen("unix", filepath.Join(dir, "silent"))
	require.NoError(t, err)
	defer silent.Close()
	loud, err := net.Listen("unix", filepath.Join(dir, "loud"))
	require.NoError(t, err)
	defer loud.Close()
	go func() {
		for {
			c, err := loud.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			c.Close()
		}
	}()
	image := tt.LayerImage(fresh(t)).Name()
	notHere := "image nope is not in containerd's namespace " + tt.Namespace + ": pull or import it, or say --namespace; Kubernetes uses k8s.io"
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"image inspect", 2, "image inspect needs the IMAGE; see image inspect --help"},
		{"image inspect a b", 2, `image inspect: found the argument "b", accepted: 1`},
		{"image inspect a --json", 2, `image inspect: found the argument "--json", accepted: 1; options come before the arguments`},
		{"image inspect nope", 1, notHere},
		{"image inspect UPPER/Case", 1, "image UPPER/Case is not in containerd's namespace"},
		{"image inspect nope@sha256:x", 1, "image nope@sha256:x is not in containerd's namespace"},
		{"image inspect -n elsewhere " + image, 1, "is not in containerd's namespace elsewhere"},
		{"image inspect -n a/b x", 2, `--namespace: found "a/b", accepted: up to 76 letters and digits, with single . _ - between them`},
		{"image inspect --namspace x y", 2, `unknown flag --namspace. Did you mean "--namespace"?`},
		{"image inspect -a c.sock x", 2, `--address: found "c.sock", accepted: the absolute path of a socket, like /run/containerd/containerd.sock`},
		{"image inspect -a " + dir + "/nope x", 1, "containerd at " + dir + "/nope does not answer: dial unix " + dir + "/nope: connect: no such file or directory; say --address if it listens elsewhere"},
		{"image inspect -a /dev/null x", 1, "containerd at /dev/null does not answer: dial unix /dev/null: connect: connection refused; say --address"},
		{"image inspect -a " + dir + "/silent x", 1, "containerd at " + dir + "/silent does not answer: nothing within 10s: context deadline exceeded; say --address"},
		{"image inspect -a " + dir + "/loud x", 1, "containerd at " + dir + "/loud does not answer: "},
		{"image convert", 2, "image convert needs the SOURCE and the NAME of the new image; see image convert --help"},
		{"image convert x", 2, "image convert needs the SOURCE and the NAME"},
		{"image convert x y z", 2, `image convert: found the argument "z", accepted: 2`},
		{"image convert x Y", 2, `image convert: the new image's name: found "Y", accepted: [HOST[:PORT]/]NAME[:TAG]`},
		{"image convert --env A x y", 2, `--env: found "A", accepted: NAME=VALUE`},
		{"image convert nope y", 1, notHere},
		{"cache", 0, ""},
		{"cache list", 2, `unknown command "cache list".`},
		{"cache ls x", 2, `cache ls takes no arguments, found "x"`},
		{"cache rm", 2, "cache rm needs IMAGE or DIGEST, or --all; see cache rm --help"},
		{"cache rm --all x", 2, `cache rm: found --all and "x", accepted: one of them`},
		{"cache rm nope", 1, "nope: no artifact has such a digest, and " + notHere},
		{"cache rm 0123456789", 1, "0123456789: no artifact has such a digest, and image 0123456789 is not in"},
		{"cache rm " + image, 1, "image " + image + " has no artifacts"},
		{"precompile", 2, "precompile needs the IMAGE; see precompile --help"},
		{"precompile x --json", 2, `precompile: found the image "--json"; options come before the images`},
		{"precompile nope", 1, "nope: not compiled: " + notHere},
		{"precompile --option fuel x", 2, `--option: found "fuel", accepted: KEY=VALUE`},
		{"precompile --option fule=1 x", 1, `--option: unknown engine option "fule"; the engine knows: compile, other, preopens`},
		{"precompile --compile-timeout x x", 2, `invalid value "x" for flag -compile-timeout`},
		{"precompile --compile-timeout 0s x", 2, `--compile-timeout: found "0s", accepted: a duration above zero`},
		{"precompile --compile-memory 1 x", 2, `--compile-memory: found "1", accepted: a size of 1MiB or more`},
		{"precompile --log-level loud x", 2, `--log-level: found "loud", accepted: error, warn, info, debug, trace`},
	} {
		code, out, errOut := run(t, tt.command(tt.shim, strings.Fields(tc.args)...))
		require.Equal(t, tc.code, code, "%s: %s", tc.args, errOut)
		require.Contains(t, errOut, tc.want, tc.args)
		require.NotContains(t, errOut, "goroutine")
		require.LessOrEqual(t, strings.Count(errOut, "\n"), 2, errOut)
		if code != 0 {
			require.Empty(t, out, tc.args)
		}
	}
	require.Regexp(t, regexp.MustCompile(`(?s)cache - .*ls .*rm `), tt.ok("cache"))
}
