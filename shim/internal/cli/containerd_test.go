// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
)

func TestFullName(t *testing.T) {
	hash := "@sha256:" + strings.Repeat("a", 64)
	for name, want := range map[string]string{
		"app": "docker.io/library/app:latest", "team/app:1": "docker.io/team/app:1", "r.invalid:5000/app": "r.invalid:5000/app:latest",
		"app" + hash: "docker.io/library/app" + hash, "r.invalid:5000/app:1" + hash: "r.invalid:5000/app" + hash,
		"x/UPPER": "", "": "", "@": "",
	} {
		require.Equal(t, want, fullName(name), name)
	}
}

func TestWords(t *testing.T) {
	require.Equal(t, "plain", plain("plain"))
	require.Equal(t, `"a\x1b[31m"`, plain("a\x1b[31m"))
	require.Equal(t, `"a\nb"`, plain("a\nb"))
	require.Equal(t, `["a b","c"]`, words([]string{"a b", "c"}))
	require.Equal(t, "none", words(nil))
	require.Equal(t, "0123456789ab", shortDigest("sha256:0123456789abcdef"))
	require.Equal(t, "-", shortDigest(""))
	require.Equal(t, "sha256:01", shortDigest("sha256:01"))
	require.Equal(t, "1 image", count(1, "image"))
	require.Equal(t, "0 images", count(0, "image"))
	now := time.Now()
	for d, want := range map[time.Duration]string{-time.Hour: "0s", 59 * time.Second: "59s", 61 * time.Minute: "1h", 90 * time.Second: "1m", 47 * time.Hour: "47h", 50 * time.Hour: "2d"} {
		require.Equal(t, want, age(now, now.Add(-d)))
	}
}

func kept(artifact, source string) image.Kept {
	return image.Kept{Digest: digest.Digest("sha256:" + artifact), Source: digest.Digest("sha256:" + source)}
}

func TestByDigest(t *testing.T) {
	all := []image.Kept{kept("aaaaaa1", "ccccccc1"), kept("aaaaaa2", "ccccccc1"), kept("bbbbbbb", "ccccccc2")}
	for arg, want := range map[string][]image.Kept{
		"aaaaaa1": all[:1], "sha256:bbbbbb": all[2:], "bbbbb": nil, "ccccccc1": all[:2], "sha256:ccccccc2": all[2:], "dddddd": nil, "bbbbbbbb": nil, "BBBBBB": nil, "": nil,
	} {
		found, err := byDigest(all, arg)
		require.NoError(t, err)
		require.Equal(t, want, found, arg)
	}
	_, err := byDigest(all, "aaaaaa")
	require.EqualError(t, err, "aaaaaa: found sha256:aaaaaa1 and sha256:aaaaaa2, accepted: more digits, of one of them")
	_, err = byDigest(all, "cccccc")
	require.EqualError(t, err, "cccccc: found sha256:ccccccc1 and sha256:ccccccc2, accepted: more digits, of one of them")
}

// Of different code the same may come out: it takes disk space once.
func TestRemovedSize(t *testing.T) {
	all := []image.Kept{{Digest: "sha256:1", ID: "a", Size: 1000}, {Digest: "sha256:1", ID: "b", Size: 1000}, {Digest: "sha256:2", ID: "c", Size: 2000}}
	require.EqualValues(t, 3000, sizeOf(all))
	for want, removed := range map[string][]image.Kept{"0.0 B": all[:1], "1000.0 B": all[:2], "2.0 KiB": all[1:], "2.9 KiB": all} {
		var out bytes.Buffer
		require.NoError(t, reportRemoved(&out, all, removed))
		require.True(t, strings.HasSuffix(out.String(), count(len(removed), "artifact")+", "+want+"\n"), out.String())
	}
}

func TestNamesOf(t *testing.T) {
	users := map[digest.Digest][]string{"sha256:1": {"b", "a"}, "sha256:2": {"a"}}
	require.Equal(t, []string{"a", "b"}, namesOf(image.Kept{Blobs: []digest.Digest{"sha256:1", "sha256:2", "sha256:3"}}, users))
	require.Equal(t, []string{}, namesOf(image.Kept{}, users))
}

func TestManifestKinds(t *testing.T) {
	p := Program{Engine: image.Engine{Name: "probe", LayerTypes: []string{"x/own"}}}
	for _, tc := range []struct {
		configType, layer, arch string
		files                   int
		kind                    string
		runs                    bool
	}{
		{ocispec.MediaTypeImageConfig, "application/wasm", "wasm", 0, kindWasm, true},
		{ocispec.MediaTypeImageConfig, "application/wasm", "amd64", 1, kindWasm, true},
		{ocispec.MediaTypeImageConfig, "x/own", "", 0, kindWasm, true},
		{ocispec.MediaTypeImageConfig, "x/other", "wasm", 0, kindWasm, false},
		{ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip, "wasm", 1, kindPlain, false},
		{containerd.DockerConfig, ocispec.MediaTypeImageLayerGzip, "amd64", 1, kindPlain, false},
		{containerd.ArtifactConfig, "application/wasm", "wasm", 0, kindArtifact, true},
		{"application/vnd.oci.empty.v1+json", "application/wasm", "", 0, kindArtifact, true},
		{"", "application/wasm", "", 0, kindArtifact, true},
		{"application/vnd.oci.empty.v1+json", "x/other", "", 0, kindOther, false},
		{"application/vnd.fermyon.spin.application.v1+config", "application/wasm", "", 0, kindOther, false},
	} {
		m := containerd.Manifest{Manifest: ocispec.Manifest{Config: ocispec.Descriptor{MediaType: tc.configType}, Layers: []ocispec.Descriptor{{MediaType: tc.layer, Digest: "sha256:1"}}}}
		config := ocispec.Image{Platform: ocispec.Platform{OS: "o", Architecture: tc.arch}, RootFS: ocispec.RootFS{DiffIDs: make([]digest.Digest, tc.files)}}
		found := p.manifest(m, config)
		require.Equal(t, tc.kind, found.Kind, tc)
		require.Equal(t, tc.runs, found.Layers[0].Runs, tc)
		require.Equal(t, "o/"+tc.arch, found.Platform)
	}
}

func TestStatusLine(t *testing.T) {
	var out bytes.Buffer
	s := newStatusLine(&out)
	s.set("image", "compile", 0)
	s.clear()
	require.Empty(t, out.String(), "not a terminal")

	s.terminal = true
	s.set("image", "compile", 0)
	s.set("image", "read", 2<<20)
	log, err := newLogger(s, "warn")
	require.NoError(t, err)
	log.Info("not this")
	log.Warn("this")
	s.clear()
	s.set(strings.Repeat("x", 100)+"end", "compile", 0)
	s.clear()
	require.Regexp(t, `^\rimage: compile\x1b\[K\rimage: read, 2.0 MiB\x1b\[K\r\x1b\[Ktime=.* level=warning msg=this\n\rx{67}end: compile\x1b\[K\r\x1b\[K$`, out.String())
}

func TestConnectTimesOut(t *testing.T) {
	_, err := connect(t.Context(), t.TempDir()+"/nope", "default", time.Second)
	require.ErrorContains(t, err, "connect: no such file or directory; say --address if it listens elsewhere")
}

func TestContainerdHelp(t *testing.T) {
	for _, command := range []string{"image inspect", "image convert", "cache ls", "cache rm", "precompile"} {
		code, out, errOut := call(append(strings.Fields(command), "--help")...)
		require.Zero(t, code)
		require.Empty(t, errOut)
		require.Contains(t, out, "containerd-shim-probe-v1 "+command+" - ")
		require.Contains(t, out, "\n\n   "+command, "an example")
		require.Contains(t, out, "DESCRIPTION:")
		require.Contains(t, out, `(default: "/run/containerd/containerd.sock") [$CONTAINERD_ADDRESS]`)
		require.Contains(t, out, "Kubernetes uses k8s.io (default: \"default\") [$CONTAINERD_NAMESPACE]")
	}
}
