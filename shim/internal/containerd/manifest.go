// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ArtifactConfig is the media type of the configuration of the CNCF's Wasm OCI
// artifact.
const ArtifactConfig = "application/vnd.wasm.config.v0+json"

// DockerConfig is the media type of the configuration of an image that Docker has
// made.
const DockerConfig = "application/vnd.docker.container.image.v1+json"

// readJSON reads an index or a manifest.
func (c *Client) readJSON(ctx context.Context, d ocispec.Descriptor, v any) error {
	r, err := c.Content.ReaderAt(c.In(ctx), d)
	if err != nil {
		return fmt.Errorf("read %s %s: %w", d.MediaType, d.Digest, err)
	}
	defer r.Close()
	if r.Size() > maxManifest {
		return fmt.Errorf("%s %s has %d bytes, more than %d: %w", d.MediaType, d.Digest, r.Size(), maxManifest, errdefs.ErrInvalidArgument)
	}
	text, err := io.ReadAll(content.NewReader(r))
	if err != nil {
		return fmt.Errorf("read %s %s: %w", d.MediaType, d.Digest, err)
	}
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", d.Digest, err, errdefs.ErrInvalidArgument)
	}
	if found := d.Digest.Algorithm().FromBytes(text); found != d.Digest {
		return Damaged(d.MediaType, d.Digest, found)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("parse %s %s: %w: %w", d.MediaType, d.Digest, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Damaged is the ErrDataLoss of a blob.
func Damaged(what string, want, found digest.Digest) error {
	return fmt.Errorf("%s %s is damaged in containerd's content store, its bytes are %s; remove the image and pull it again: %w", what, want, found, errdefs.ErrDataLoss)
}

// LayerTypes are the media types of layers that every engine takes: the one of today,
// and those of earlier tools, wasm-to-oci the last.
var LayerTypes = []string{
	"application/wasm", "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm", "application/vnd.wasm.content.layer.v1+wasm",
}

// Manifest is an image for one platform.
type Manifest struct {
	Descriptor ocispec.Descriptor
	ocispec.Manifest
}

// Manifests are those of an image whose content is there, in the index's order.
// What is named again counts once: an index could multiply with each level.
func (c *Client) Manifests(ctx context.Context, target ocispec.Descriptor) ([]Manifest, error) {
	return c.manifests(ctx, target, 0, map[digest.Digest]bool{})
}

// maxDepth is how deep indexes may be nested.
const maxDepth = 4

func (c *Client) manifests(ctx context.Context, d ocispec.Descriptor, depth int, seen map[digest.Digest]bool) ([]Manifest, error) {
	// The type of a descriptor may be missing; the content says it again.
	var both struct {
		ocispec.Manifest
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := c.readJSON(ctx, d, &both); err != nil {
		return nil, err
	}
	if len(both.Manifests) == 0 {
		return []Manifest{{d, both.Manifest}}, nil
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("index %s: more than %d indexes in each other: %w", d.Digest, maxDepth, errdefs.ErrInvalidArgument)
	}
	var all []Manifest
	for _, child := range both.Manifests {
		// Attestations are about the others, and nothing that runs.
		if seen[child.Digest] || child.Annotations["vnd.docker.reference.type"] != "" {
			continue
		}
		seen[child.Digest] = true
		list, err := c.manifests(ctx, child, depth+1, seen)
		if errdefs.IsNotFound(err) {
			continue // of a platform that was not pulled
		}
		if err != nil {
			return nil, err
		}
		if len(list) == 1 && child.Platform != nil {
			list[0].Descriptor.Platform = child.Platform
		}
		all = append(all, list...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("index %s: the content of none of its %d manifests is here: %w", d.Digest, len(both.Manifests), errdefs.ErrNotFound)
	}
	return all, nil
}

// LayersOf are those of a manifest that have one of the types, in its order. A Spin
// application has none.
func (m Manifest) LayersOf(types []string) []ocispec.Descriptor {
	if m.spin() != "" {
		return nil
	}
	var list []ocispec.Descriptor
	for _, l := range m.Layers {
		if slices.Contains(types, l.MediaType) {
			list = append(list, l)
		}
	}
	return list
}

// IsRootFS says whether containerd unpacks layers of a type into a root file
// system. (Package images of containerd's says it as well, and brings
// decompressors that every process of a shim would initialise.)
func IsRootFS(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.") || strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.") ||
		mediaType == "application/vnd.erofs.layer.v1"
}

// Platform is what containerd knows images for WebAssembly by.
var Platform = ocispec.Platform{OS: "wasi", Architecture: wasm}

// wasm is the architecture of images for WebAssembly.
const wasm = "wasm"

// Config reads the configuration of a manifest, as far as an image's and a Wasm
// artifact's have the same fields. One of another type is returned empty.
func (c *Client) Config(ctx context.Context, m Manifest) (ocispec.Image, error) {
	var config ocispec.Image
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, DockerConfig, ArtifactConfig:
	default:
		return config, nil
	}
	return config, c.readJSON(ctx, m.Config, &config)
}

// Platform is what a manifest is for, as the index says or else its
// configuration.
func (m Manifest) Platform(config ocispec.Image) ocispec.Platform {
	if m.Descriptor.Platform != nil {
		return *m.Descriptor.Platform
	}
	return config.Platform
}

// Blobs are those of an image that artifacts belong to: its target, and the layers
// of its manifests.
func (i Image) Blobs(manifests []Manifest) []digest.Digest {
	blobs := []digest.Digest{i.Target.Digest}
	for _, m := range manifests {
		for _, l := range m.Layers {
			blobs = append(blobs, l.Digest)
		}
	}
	return blobs
}

// BlobsOf are the Blobs of an image, as far as its manifests are here.
func (c *Client) BlobsOf(ctx context.Context, image Image) ([]digest.Digest, error) {
	all, err := c.Manifests(ctx, image.Target)
	blobs := image.Blobs(all)
	if errdefs.IsNotFound(err) || errors.Is(err, errdefs.ErrInvalidArgument) {
		return blobs, nil // its content was not pulled, or it is no image
	}
	return blobs, err
}
