// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// A Spin application has modules as layers, and is no command; beside an image
// that is one it does not matter.
func TestSpin(t *testing.T) {
	const config = "application/vnd.fermyon.spin.application.v1+config"
	s := newStore(t)
	spin := s.addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: s.addJSON(config, map[string]any{}),
		Layers: []ocispec.Descriptor{s.add("application/wasm", []byte("x"))},
	})
	choose := func(target ocispec.Descriptor) (Entry, error) {
		image, types := Image{"docker.io/x:latest", target}, []string{"application/wasm"}
		entries, err := s.Entries(t.Context(), image, types)
		require.NoError(t, err)
		return Origin{}.Choose(image, entries, types)
	}
	_, err := choose(spin)
	require.ErrorContains(t, err, "image docker.io/x:latest is a Spin application ("+config+"): ")
	require.True(t, errdefs.IsNotFound(err))
	require.NotErrorIs(t, err, ErrOrdinary)

	command := s.manifest("application/wasm")
	e, err := choose(s.index(spin, command))
	require.NoError(t, err)
	require.Equal(t, command.Digest, e.Manifest)
}
