// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/emptypb"
)

// ArtifactConfig is the media type of the configuration of the CNCF's Wasm OCI
// artifact.
const ArtifactConfig = "application/vnd.wasm.config.v0+json"

// DockerConfig is the media type of the configuration of an image that Docker has
// made.
const DockerConfig = "application/vnd.docker.container.image.v1+json"

// Ping says whether containerd answers within a time.
func (c *Client) Ping(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	// gRPC would say the same in more words.
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.address)
	if err != nil {
		return err
	}
	if err := conn.Close(); err != nil {
		return err
	}
	_, err = introspectionapi.NewIntrospectionClient(c.conn).Server(ctx, &emptypb.Empty{})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("nothing within %s: %w", within, ctx.Err())
	}
	return errgrpc.ToNative(err)
}

// Images are all of the namespace.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	resp, err := imagesapi.NewImagesClient(c.conn).List(c.in(ctx), &imagesapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask containerd for its images: %w", errgrpc.ToNative(err))
	}
	var all []Image
	for _, i := range resp.Images {
		all = append(all, fromProto(i))
	}
	slices.SortFunc(all, func(x, y Image) int { return strings.Compare(x.Name, y.Name) })
	return all, nil
}

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

// hold keeps what is written or made in the returned context until done is
// called, and at most for a time, should this process be killed. What nothing else
// keeps is gone when done returns, if it is told to wait for that. named gives the
// lease its id.
func (c *Client) hold(ctx context.Context, within time.Duration, named leases.Opt) (_ context.Context, id string, done func(wait bool) error, _ error) {
	ctx = c.in(ctx)
	brief, cancel := uninterrupted(ctx)
	defer cancel()
	lease, err := c.leases.Create(brief, named, leases.WithExpiration(within))
	if err != nil {
		return nil, "", nil, fmt.Errorf("create a lease: %w", err)
	}
	return leases.WithLease(ctx, lease.ID), lease.ID, func(wait bool) error {
		var opts []leases.DeleteOpt
		if wait {
			opts = append(opts, leases.SynchronousDelete)
		}
		brief, cancel := uninterrupted(ctx)
		defer cancel()
		if err := ignoreNotFound(c.leases.Delete(brief, lease, opts...)); err != nil {
			return fmt.Errorf("remove lease %s: %w", lease.ID, err)
		}
		return nil
	}, nil
}

// uninterrupted is for what is made or removed: an interruption on the way would
// leave it unknown whether it is there.
func uninterrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
}

// KeptBy are the artifacts that belong to one of the blobs, or were made of one.
func KeptBy(blobs []digest.Digest, all []Kept) (found []Kept) {
	for _, k := range all {
		if slices.Contains(blobs, k.Source) || slices.ContainsFunc(k.Blobs, func(d digest.Digest) bool { return slices.Contains(blobs, d) }) {
			found = append(found, k)
		}
	}
	return found
}

// Is says whether two are the same artifact of the same code.
func (k Kept) Is(other Kept) bool {
	return k.Digest == other.Digest && k.Engine == other.Engine && k.ID == other.ID
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
