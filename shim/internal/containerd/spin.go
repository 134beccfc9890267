// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// spin returns the media type by which a manifest is a Spin application's; empty
// if it is none. Its layers may have a type that is an ordinary module's.
func (m Manifest) spin() string {
	types := []string{m.Config.MediaType, m.ArtifactType}
	for _, l := range m.Layers {
		types = append(types, l.MediaType)
	}
	if at := slices.IndexFunc(types, isSpin); at >= 0 {
		return types[at]
	}
	return ""
}

func isSpin(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.fermyon.spin.")
}

func errSpin(image, mediaType string) error {
	return fmt.Errorf("image %s is a Spin application (%s): its components answer requests by Spin's own interfaces, which only Spin's shim serves; a component that exports wasi:cli/run, or a module, runs here: %w",
		image, mediaType, errdefs.ErrNotFound)
}
