// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

func TestModuleName(t *testing.T) {
	for title, want := range map[string]string{
		"": "app.wasm", "hello.wasm": "hello.wasm", "hello": "hello.wasm", "build/out/hello.wasm": "hello.wasm", "a.b": "a.b.wasm",
		"/": "app.wasm", ".": "app.wasm", "..": "app.wasm", ".wasm": "app.wasm", "a#b.wasm": "app.wasm", "a\x00": "app.wasm",
	} {
		require.Equal(t, want, moduleName(title), title)
	}
}

func TestEnvironment(t *testing.T) {
	old := []string{"A=1", "B=2"}
	require.Equal(t, []string{"A=1", "B=3", "AB=x"}, environment(old, []string{"B=3", "AB=x"}))
	require.Equal(t, []string{"A=1", "B=2"}, old)
	require.Empty(t, environment(nil, nil))
}

func TestConversionConfig(t *testing.T) {
	made := time.Unix(1, 0).UTC()
	from := Manifest{Manifest: ocispec.Manifest{Config: ocispec.Descriptor{MediaType: ArtifactConfig}, Layers: []ocispec.Descriptor{
		{MediaType: "text/plain", Digest: "sha256:0", Annotations: map[string]string{ocispec.AnnotationTitle: "readme"}},
		{MediaType: "application/wasm", Digest: "sha256:1", Annotations: map[string]string{ocispec.AnnotationTitle: "hello.wasm"}},
	}}}
	artifact := ocispec.Image{Created: &made, Platform: ocispec.Platform{OS: "wasip2", Architecture: "wasm"}}
	text, err := json.Marshal(Conversion{Types: LayerTypes, Env: []string{"A=1"}}.config(from, artifact))
	require.NoError(t, err)
	require.JSONEq(t, `{"created":"1970-01-01T00:00:01Z","architecture":"wasm","os":"wasi","config":{"Env":["A=1"],"Entrypoint":["/hello.wasm"],"Labels":{"libwasmshim.io/layers":"`+layersLabel(from.Layers)+`"}},"rootfs":{"type":"layers","diff_ids":[]},"history":[
		{"created":"1970-01-01T00:00:01Z","created_by":"layer text/plain sha256:0","empty_layer":true},{"created":"1970-01-01T00:00:01Z","created_by":"layer application/wasm sha256:1","empty_layer":true}]}`, string(text))

	from.Config.MediaType = ocispec.MediaTypeImageConfig
	image := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64", Variant: "v2"}, Config: ocispec.ImageConfig{Entrypoint: []string{"a"}, Cmd: []string{"b"}, User: "u"},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{"sha256:1"}},
	}
	found := Conversion{Types: LayerTypes}.config(from, image)
	require.Equal(t, layersLabel(from.Layers), found.Config.Labels[LabelLayers])
	found.Config.Labels = nil
	require.Equal(t, image.Config, found.Config)
	require.Equal(t, image.RootFS, found.RootFS)
	require.Equal(t, ocispec.Platform{OS: "wasi", Architecture: "wasm"}, found.Platform)
	found = Conversion{Types: LayerTypes, Entrypoint: "c", Cmd: []string{"d"}}.config(from, image)
	require.Equal(t, []string{"c", "d", "u"}, []string{found.Config.Entrypoint[0], found.Config.Cmd[0], found.Config.User})
}
