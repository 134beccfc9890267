// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// store is a content store in a directory, with a client that looks into it.
type store struct {
	*testing.T
	*Client
	dir   string
	reads int
}

func newStore(t *testing.T) *store {
	dir := t.TempDir()
	inner, err := local.NewStore(dir)
	require.NoError(t, err)
	s := &store{T: t, dir: dir}
	s.Client = &Client{Namespace: "test", Content: counting{inner, &s.reads}}
	return s
}

// counting counts how often a blob is read.
type counting struct {
	content.Store
	reads *int
}

func (c counting) ReaderAt(ctx context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	*c.reads++
	return c.Store.ReaderAt(ctx, d)
}

func (s *store) path(d digest.Digest) string {
	return filepath.Join(s.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

func (s *store) add(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	require.NoError(s, content.WriteBlob(s.Context(), s.Content, "test", bytes.NewReader(data), d))
	return d
}

func (s *store) addJSON(mediaType string, v any) ocispec.Descriptor {
	data, err := json.Marshal(v)
	require.NoError(s, err)
	return s.add(mediaType, data)
}

// manifest has layers of some types, which are not there: nobody reads them yet.
func (s *store) manifest(layerTypes ...string) ocispec.Descriptor {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON}
	for i, mediaType := range layerTypes {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(fmt.Sprint(s.Name(), i)), Size: 1})
	}
	return s.addJSON(ocispec.MediaTypeImageManifest, m)
}

func (s *store) index(manifests ...ocispec.Descriptor) ocispec.Descriptor {
	return s.addJSON(ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests})
}

func forPlatform(d ocispec.Descriptor, platform string) ocispec.Descriptor {
	system, architecture, _ := strings.Cut(platform, "/")
	d.Platform = &ocispec.Platform{OS: system, Architecture: architecture}
	return d
}

func missing(name string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(name), Size: 4}
}

const (
	tarLayer = ocispec.MediaTypeImageLayerGzip
	own      = "application/vnd.engine"
	unknown  = "application/vnd.unknown"
)

// The manifests of an image are those that are there, in the index's order.
func TestManifests(t *testing.T) {
	for name, test := range map[string]struct {
		image func(s *store) (ocispec.Descriptor, []ocispec.Descriptor)
	}{
		"manifest": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			m := s.manifest(own)
			return m, []ocispec.Descriptor{m}
		}},
		"no type": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			m := s.manifest(own)
			m.MediaType = ""
			return m, []ocispec.Descriptor{m}
		}},
		"without layers": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			m := s.manifest()
			return m, []ocispec.Descriptor{m}
		}},
		"index": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			a, b := forPlatform(s.manifest(own), "wasi/wasm"), forPlatform(s.manifest(own, own), "linux/amd64")
			return s.index(a, b), []ocispec.Descriptor{a, b}
		}},
		"index of no type": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			a := s.manifest(own)
			i := s.index(a)
			i.MediaType = ""
			return i, []ocispec.Descriptor{a}
		}},
		"some are missing": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			a, b := s.manifest(own), s.manifest(own, own)
			return s.index(missing("x"), a, missing("y"), b), []ocispec.Descriptor{a, b}
		}},
		"nested": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			a, b, c := s.manifest(own), s.manifest(own, own), s.manifest(own, own, own)
			return s.index(a, s.index(b, missing("x")), c), []ocispec.Descriptor{a, b, c}
		}},
		"nested, nothing in it": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			a := s.manifest(own)
			return s.index(s.index(missing("x")), a), []ocispec.Descriptor{a}
		}},
		"the outer platform counts": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			a := s.manifest(own)
			return s.index(forPlatform(s.index(forPlatform(a, "linux/amd64")), "wasi/wasm")), []ocispec.Descriptor{forPlatform(a, "wasi/wasm")}
		}},
		"an index for several": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			a, b := forPlatform(s.manifest(own), "linux/amd64"), forPlatform(s.manifest(own, own), "wasi/wasm")
			return s.index(forPlatform(s.index(a, b), "other/other")), []ocispec.Descriptor{a, b}
		}},
		"deep": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			a := s.manifest(own)
			image := a
			for range maxDepth {
				image = s.index(image)
			}
			return image, []ocispec.Descriptor{a}
		}},
		"twice": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			a, b := s.manifest(own), s.manifest(own, own)
			return s.index(a, b, a, s.index(b, a)), []ocispec.Descriptor{a, b}
		}},
		"as large as possible": {func(s *store) (ocispec.Descriptor, []ocispec.Descriptor) {
			m := s.add("", append([]byte("{}"), bytes.Repeat([]byte{' '}, maxManifest-2)...))
			return m, []ocispec.Descriptor{m}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			image, want := test.image(s)
			list, err := s.Manifests(t.Context(), image)
			require.NoError(t, err)
			var got []ocispec.Descriptor
			for _, m := range list {
				got = append(got, m.Descriptor)
			}
			require.Equal(t, want, got)
		})
	}
}

func TestManifestsNot(t *testing.T) {
	for name, test := range map[string]struct {
		image func(s *store) ocispec.Descriptor
		is    func(error) bool
		text  string
	}{
		"missing": {func(*store) ocispec.Descriptor { return missing("x") }, errdefs.IsNotFound, "read " + ocispec.MediaTypeImageManifest + " " + string(missing("x").Digest)},
		"all are missing": {
			func(s *store) ocispec.Descriptor { return s.index(missing("x"), missing("y")) },
			errdefs.IsNotFound, "the content of none of its 2 manifests is here",
		},
		"too deep": {func(s *store) ocispec.Descriptor {
			image := s.manifest(own)
			for range maxDepth + 1 {
				image = s.index(image)
			}
			return image
		}, errdefs.IsInvalidArgument, "more than 4 indexes in each other"},
		"too deep, beside a good one": {func(s *store) ocispec.Descriptor {
			image := s.manifest(own, own)
			for range maxDepth {
				image = s.index(image)
			}
			return s.index(s.manifest(own), image)
		}, errdefs.IsInvalidArgument, "more than 4 indexes in each other"},
		"too large": {func(s *store) ocispec.Descriptor {
			return s.add("type", append([]byte("{}"), bytes.Repeat([]byte{' '}, maxManifest-1)...))
		}, errdefs.IsInvalidArgument, "has 4194305 bytes, more than 4194304"},
		"no JSON": {func(s *store) ocispec.Descriptor { return s.add("type", []byte("hello")) }, errdefs.IsInvalidArgument, "parse type " + string(digest.FromString("hello"))},
		"empty":   {func(s *store) ocispec.Descriptor { return s.add("type", nil) }, errdefs.IsInvalidArgument, "parse type"},
		"wrong":   {func(s *store) ocispec.Descriptor { return s.add("type", []byte(`{"layers":{}}`)) }, errdefs.IsInvalidArgument, "parse type"},
		"no digest": {func(s *store) ocispec.Descriptor {
			return ocispec.Descriptor{MediaType: "type", Digest: "sha256:../../x"}
		}, func(err error) bool { return err != nil }, "sha256:../../x"},
		"damaged": {func(s *store) ocispec.Descriptor {
			m := s.manifest(own)
			s.damage(m.Digest)
			return m
		}, errdefs.IsDataLoss, "is damaged in containerd's content store, its bytes are " + string(digest.FromString("{}")) + "; remove the image and pull it again"},
		"damaged in an index": {func(s *store) ocispec.Descriptor {
			m := s.manifest(own)
			s.damage(m.Digest)
			return s.index(s.manifest(own, own), m)
		}, errdefs.IsDataLoss, "is damaged in containerd's content store"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			image := test.image(s)
			list, err := s.Manifests(t.Context(), image)
			require.Empty(t, list)
			require.True(t, test.is(err), "%v", err)
			require.ErrorContains(t, err, test.text)
			_, err = s.Entries(t.Context(), Image{"docker.io/x:latest", image}, LayerTypes)
			require.True(t, test.is(err), "%v", err)
			require.ErrorContains(t, err, "image docker.io/x:latest: ")
			require.NotErrorIs(t, err, ErrOrdinary)
		})
	}
}

func (s *store) damage(d digest.Digest) {
	require.NoError(s, os.Remove(s.path(d)))
	require.NoError(s, os.WriteFile(s.path(d), []byte("{}"), 0o444))
}

// An index may name what it likes, as often as it likes: each thing is read once.
func TestManifestsHostile(t *testing.T) {
	s := newStore(t)
	image := s.manifest(own)
	for range maxDepth {
		var many []ocispec.Descriptor
		for range 1000 {
			many = append(many, image)
		}
		image = s.index(many...)
	}
	list, err := s.Manifests(t.Context(), image)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, 1+maxDepth, s.reads)
}

func TestLayersOf(t *testing.T) {
	var m Manifest
	for _, mediaType := range []string{tarLayer, own, unknown, own, LayerTypes[0]} {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: mediaType, Size: int64(len(m.Layers))})
	}
	for want, types := range map[string][]string{
		"[]": nil, "[1 3]": {own}, "[1 3 4]": append([]string{own}, LayerTypes...), "[0]": {tarLayer}, "[4]": LayerTypes,
	} {
		var at []int64
		for _, l := range m.LayersOf(types) {
			at = append(at, l.Size)
		}
		require.Equal(t, want, fmt.Sprint(at))
	}
	require.Empty(t, m.LayersOf([]string{"application/vnd"}), "the whole type counts")
}

func TestDial(t *testing.T) {
	for _, address := range []string{"", "c.sock", "unix:///c.sock", "./c.sock"} {
		_, err := Dial(address, "test")
		require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
		require.ErrorContains(t, err, fmt.Sprintf("containerd's address is %q, accepted: the absolute path of a socket", address))
	}
	c, err := Dial(filepath.Join(t.TempDir(), "none"), "test")
	require.NoError(t, err, "it is not asked yet")
	defer c.Close()
	_, err = c.Get(t.Context(), "x")
	require.True(t, errdefs.IsUnavailable(err), "%v", err)
	require.ErrorContains(t, err, "ask containerd for image x")
	_, err = c.Container(t.Context(), "c1")
	require.True(t, errdefs.IsUnavailable(err), "%v", err)
	require.ErrorContains(t, err, "ask containerd for container c1")
	require.NotErrorIs(t, err, ErrOrdinary)
}
