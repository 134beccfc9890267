// SPDX-License-Identifier: Apache-2.0

package imagefile

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
)

const (
	module    = "\x00asm\x01\x00\x00\x00"
	component = "\x00asm\x0d\x00\x01\x00"
)

func file(t *testing.T, name, text string) string {
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func imageOf(paths ...string) Image {
	i := Image{Tag: "docker.io/library/x:latest", Flavour: FlavourImage}
	for _, p := range paths {
		i.Layers = append(i.Layers, Layer{MediaType: ModuleType, Path: p})
	}
	return i
}

func write(t *testing.T, i Image) ([]byte, Written) {
	var out bytes.Buffer
	w, err := i.Write(context.Background(), &out, nil)
	require.NoError(t, err)
	require.EqualValues(t, out.Len(), w.Size)
	return out.Bytes(), w
}

// unpacked is a tar file read back.
type unpacked struct {
	index    ocispec.Index
	manifest ocispec.Manifest
	config   []byte
	files    map[string][]byte
}

func unpack(t *testing.T, data []byte, mtime time.Time) (u unpacked) {
	u.files = map[string][]byte{}
	var names []string
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.Equal(t, tar.Header{
			Typeflag: tar.TypeReg, Name: h.Name, Size: h.Size, Mode: 0o644, ModTime: mtime, Format: tar.FormatUSTAR,
		}, *h)
		names = append(names, h.Name)
		u.files[h.Name], err = io.ReadAll(r)
		require.NoError(t, err)
		if sum, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			require.Equal(t, sum, digest.FromBytes(u.files[h.Name]).Encoded())
		}
	}
	require.True(t, slices.IsSorted(names))
	require.Len(t, u.files, len(names), "no name occurs twice")
	require.JSONEq(t, `{"imageLayoutVersion":"1.0.0"}`, string(u.files["oci-layout"]))

	require.NoError(t, json.Unmarshal(u.files["index.json"], &u.index))
	require.Equal(t, ocispec.MediaTypeImageIndex, u.index.MediaType)
	require.Equal(t, 2, u.index.SchemaVersion)
	require.Len(t, u.index.Manifests, 1)
	require.Equal(t, ocispec.MediaTypeImageManifest, u.index.Manifests[0].MediaType)
	require.Nil(t, u.index.Manifests[0].Platform, "ctr images import would want --platform")
	require.NoError(t, json.Unmarshal(u.blob(t, u.index.Manifests[0]), &u.manifest))
	require.Equal(t, 2, u.manifest.SchemaVersion)
	require.Equal(t, ocispec.MediaTypeImageManifest, u.manifest.MediaType)
	u.config = u.blob(t, u.manifest.Config)
	for _, l := range u.manifest.Layers {
		u.blob(t, l)
	}
	return u
}

func (u unpacked) blob(t *testing.T, d ocispec.Descriptor) []byte {
	data, ok := u.files["blobs/sha256/"+d.Digest.Encoded()]
	require.True(t, ok, d.Digest)
	require.EqualValues(t, len(data), d.Size)
	return data
}

func TestImage(t *testing.T) {
	i := imageOf(file(t, "app.wasm", module), file(t, "lib.bin", strings.Repeat("lib", bufferSize)))
	i.Layers[1].MediaType = "application/x-lib"
	i.Layers[1].Annotations = map[string]string{"a": "b"}
	i.Cmd, i.Env = []string{"-v", "x,y"}, []string{"A=1"}
	i.Labels, i.Annotations = map[string]string{"l": "1"}, map[string]string{"n": "2"}
	data, w := write(t, i)
	u := unpack(t, data, time.Unix(0, 0))

	require.Equal(t, map[string]string{"io.containerd.image.name": i.Tag, "org.opencontainers.image.ref.name": i.Tag}, u.index.Manifests[0].Annotations)
	require.Equal(t, u.index.Manifests[0], w.Manifest)
	require.Equal(t, u.manifest.Layers, w.Layers)
	require.Equal(t, i.Annotations, u.manifest.Annotations)
	require.Equal(t, ocispec.MediaTypeImageConfig, u.manifest.Config.MediaType)
	var config ocispec.Image
	require.NoError(t, json.Unmarshal(u.config, &config))
	layers := digest.FromString(fmt.Sprintf("%s %s\n%s %s", ModuleType, w.Layers[0].Digest, "application/x-lib", w.Layers[1].Digest))
	require.Equal(t, layers.String(), config.Config.Labels[containerd.LabelLayers], "another image's differs")
	require.Len(t, config.History, 2)
	config.Config.Labels, config.History = map[string]string{"l": config.Config.Labels["l"]}, nil
	text, err := json.Marshal(config)
	require.NoError(t, err)
	require.JSONEq(t, `{"created": "1970-01-01T00:00:00Z", "architecture": "wasm", "os": "wasi", "rootfs": {"type": "layers", "diff_ids": []},
		"config": {"Entrypoint": ["/app.wasm"], "Cmd": ["-v", "x,y"], "Env": ["A=1"], "Labels": {"l": "1"}}}`, string(text))
	require.Len(t, u.manifest.Layers, 2)
	require.Equal(t, ModuleType, u.manifest.Layers[0].MediaType)
	require.Equal(t, map[string]string{"org.opencontainers.image.title": "app.wasm"}, u.manifest.Layers[0].Annotations)
	require.Equal(t, module, string(u.blob(t, u.manifest.Layers[0])))
	require.Equal(t, "application/x-lib", u.manifest.Layers[1].MediaType)
	require.Equal(t, map[string]string{"org.opencontainers.image.title": "lib.bin", "a": "b"}, u.manifest.Layers[1].Annotations)

	again, _ := write(t, i)
	require.Equal(t, data, again)

	i.Created, i.Entrypoint = time.Unix(1e9, 0), []string{"app"}
	data, _ = write(t, i)
	changed := string(unpack(t, data, i.Created).config)
	require.Contains(t, changed, `"created":"2001-09-09T01:46:40Z"`)
	require.Contains(t, changed, `"Entrypoint":["app"]`)
}

func TestArtifact(t *testing.T) {
	for text, os := range map[string]string{module: "wasip1", component: "wasip2"} {
		i := imageOf(file(t, "app.wasm", text))
		i.Flavour = FlavourArtifact
		data, w := write(t, i)
		u := unpack(t, data, time.Unix(0, 0))
		require.Equal(t, "application/vnd.wasm.config.v0+json", u.manifest.Config.MediaType)
		require.JSONEq(t, `{"created": "1970-01-01T00:00:00Z", "architecture": "wasm", "os": "`+os+`", "layerDigests": ["`+w.Layers[0].Digest.String()+`"]}`, string(u.config))
		require.Len(t, u.manifest.Layers, 1)
		require.Equal(t, "application/wasm", u.manifest.Layers[0].MediaType)
	}
}

func TestBlobsOnce(t *testing.T) {
	a, b := file(t, "a.wasm", module), file(t, "b.wasm", module)
	var done, total int64
	var out bytes.Buffer
	w, err := imageOf(a, b, a).Write(context.Background(), &out, func(d, all int64) { done, total = d, all })
	require.NoError(t, err)
	require.EqualValues(t, 3*len(module), total)
	require.Equal(t, total, done)
	require.Len(t, unpack(t, out.Bytes(), time.Unix(0, 0)).files, 5, "layout, index, manifest, configuration and one layer")
	require.Len(t, w.Layers, 3)
	require.Equal(t, w.Layers[0].Digest, w.Layers[2].Digest)
}

func TestChangedFile(t *testing.T) {
	const body = module + "0123456789"
	for what, change := range map[string]func(path string) error{
		"other":   func(path string) error { return os.WriteFile(path, []byte(module+"9876543210"), 0o644) },
		"longer":  func(path string) error { return os.WriteFile(path, []byte(body+"x"), 0o644) },
		"shorter": func(path string) error { return os.Truncate(path, 9) },
	} {
		path := file(t, "app.wasm", body)
		_, err := imageOf(path).Write(context.Background(), io.Discard, func(done, total int64) {
			if done == total/2 {
				require.NoError(t, change(path))
			}
		})
		require.EqualError(t, err, path+" changed while it was being read", what)
	}
	// Growing between being measured and being hashed.
	path := file(t, "app.wasm", body+strings.Repeat("x", bufferSize))
	changed := false
	_, err := imageOf(path).Write(context.Background(), io.Discard, func(int64, int64) {
		if !changed {
			changed = true
			require.NoError(t, os.Truncate(path, 2*bufferSize))
		}
	})
	require.EqualError(t, err, path+" changed while it was being read")
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	_, err := imageOf(file(t, "app.wasm", module)).Write(ctx, io.Discard, func(int64, int64) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
}

// A file is never in memory as a whole.
func TestMemory(t *testing.T) {
	path := file(t, "app.wasm", module)
	require.NoError(t, os.Truncate(path, 200<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w, err := imageOf(path).Write(context.Background(), io.Discard, nil)
	require.NoError(t, err)
	runtime.ReadMemStats(&after)
	require.Greater(t, w.Size, int64(200<<20))
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20))
}

func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o644))
	ok := file(t, "app.wasm", module)
	for _, tc := range []struct {
		paths []string
		want  string
	}{
		{nil, "found 0 layers, accepted: 1 to 255, and 1 in an artifact"},
		{slices.Repeat([]string{ok}, 256), "found 256 layers, accepted: 1 to 255, and 1 in an artifact"},
		{[]string{dir + "/nope"}, "open " + dir + "/nope: no such file or directory"},
		{[]string{dir}, "is not a regular file"},
		{[]string{fifo}, "is not a regular file"},
		{[]string{ok, fifo}, "is not a regular file"},
		{[]string{"/dev/null"}, "is not a regular file"},
		{[]string{file(t, "e.wasm", "")}, "e.wasm is empty, accepted: a WebAssembly module or component"},
		{[]string{file(t, "c.wasm", "\x00asm\x01")}, `c.wasm begins with "\x00asm\x01", accepted: a WebAssembly module or component, which begins with "\x00asm" and a version`},
		{[]string{file(t, "t.wat", ";; text\n(module)")}, "t.wat is WebAssembly text, which runs from a file in an ordinary image, accepted: a module or component; wat2wasm converts it"},
		{[]string{file(t, "x.cwasm", "\x7fELF\x02\x01\x01\x00")}, "x.cwasm is an ELF file, which may be code compiled already, accepted: the WebAssembly module or component itself"},
		{[]string{file(t, "s", "#!/bin/sh\n")}, `s begins with "#!/bin/s", accepted: a WebAssembly module or component`},
	} {
		_, err := imageOf(tc.paths...).Write(context.Background(), io.Discard, nil)
		require.ErrorContains(t, err, tc.want)
	}
	i := imageOf(ok, ok)
	i.Flavour = FlavourArtifact
	_, err := i.Write(context.Background(), io.Discard, nil)
	require.EqualError(t, err, "found 2 layers, accepted: 1 to 255, and 1 in an artifact")

	_, w := write(t, imageOf(slices.Repeat([]string{ok}, MaxLayers)...))
	require.Len(t, w.Layers, MaxLayers)
}

// Tags are taken as containerd's clients take them, but for digests.
func TestParseTag(t *testing.T) {
	a64 := strings.Repeat("a", 64)
	for _, tag := range []string{
		"app", "app:1", "app:V1.0-x_y", "team/app", "docker.io/app", "docker.io/team/app:2", "index.docker.io/app", "localhost/app", "localhost:5000/app",
		"ghcr.io/team/a/b:1", "Team/app", "registry:5000/app", "[::1]:5000/app:1", "a.b_c/app", "foo_bar.com/x", "a__b", "a___b", "a--b", "a.-b", "a..b", "-a", "a-", "App",
		"", ":", "/", "app:", ":1", "app:" + strings.Repeat("t", 128), "app:" + strings.Repeat("t", 129), "app/", "/app", "a//b", "a b", "app:1:2", "app\n", "http://x/y",
		"x.y/" + strings.Repeat("a", 255), "x.y/" + strings.Repeat("a", 256), strings.Repeat("a", 248), a64, a64 + ":1", "a" + a64, "docker.io/" + a64, "é/x", "É/x", "x:5000/Y", "docker.io", "docker.io/",
	} {
		want := ""
		if ref, err := reference.ParseDockerRef(tag); err == nil {
			want = ref.String()
		}
		got, err := ParseTag(tag)
		require.Equal(t, want, got, tag)
		require.Equal(t, want == "", err != nil, tag)
	}
	_, err := ParseTag("app@sha256:" + a64)
	require.EqualError(t, err, `found "app@sha256:`+a64+`", accepted: [HOST[:PORT]/]NAME[:TAG] with NAME in lower case and no digest, like registry.example.com/team/app:1.0`)
}

func FuzzParseTag(f *testing.F) {
	f.Add("localhost:5000/team/app__x:1.0")
	f.Add("app@sha256:" + strings.Repeat("a", 64))
	f.Fuzz(func(t *testing.T, tag string) {
		got, err := ParseTag(tag)
		if strings.Contains(tag, "@") {
			require.Error(t, err, "digests are not accepted")
			return
		}
		want := ""
		if ref, err := reference.ParseDockerRef(tag); err == nil {
			want = ref.String()
		}
		require.Equal(t, want, got)
	})
}
