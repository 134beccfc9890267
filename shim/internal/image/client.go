// SPDX-License-Identifier: Apache-2.0

// Package image gets the code of containers from containerd: layers in, compiled
// artifacts out and in again.
package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/leases"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// maxMessage is what containerd's own clients take, in bytes.
const maxMessage = 16 << 20

// maxManifest bounds the size of an index or a manifest, in bytes.
const maxManifest = 4 << 20

// Client speaks to one containerd in one of its namespaces. Its methods may be
// called side by side.
type Client struct {
	address, namespace string

	conn    *grpc.ClientConn
	content content.Store
	leases  leases.Manager
}

// Dial prepares a connection, which the first call makes. The caller closes it.
func Dial(address, namespace string) (*Client, error) {
	if !filepath.IsAbs(address) {
		return nil, fmt.Errorf("containerd's address is %q, accepted: the absolute path of a socket: %w", address, errdefs.ErrInvalidArgument)
	}
	conn, err := grpc.NewClient("unix://"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", address, err)
	}
	return &Client{
		address: address, namespace: namespace, conn: conn,
		content: contentproxy.NewContentStore(contentapi.NewContentClient(conn)),
		leases:  leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(conn)),
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

func (c *Client) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, c.namespace)
}

// Image is an image of containerd's.
type Image struct {
	Name   string
	Target ocispec.Descriptor // an index or a manifest
}

// ErrOrdinary is the ErrNotFound of a container that has no image with layers
// for an engine, and was not meant to have one.
var ErrOrdinary = fmt.Errorf("no image with layers of WebAssembly: %w", errdefs.ErrNotFound)

// Container is what containerd knows of a container, as far as it says what its
// code is.
type Container struct {
	Image                 string // its name; empty if it was made without
	Labels                map[string]string
	Snapshotter, Snapshot string
}

// container returns a container. ErrOrdinary says that there is none.
func (c *Client) container(ctx context.Context, id string) (Container, error) {
	resp, err := containersapi.NewContainersClient(c.conn).Get(c.in(ctx), &containersapi.GetContainerRequest{ID: id})
	if err := errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		return Container{}, fmt.Errorf("containerd has no container %s: %w", id, ErrOrdinary)
	} else if err != nil {
		return Container{}, fmt.Errorf("ask containerd for container %s: %w", id, err)
	}
	r := resp.Container
	return Container{Image: r.Image, Labels: r.Labels, Snapshotter: r.Snapshotter, Snapshot: r.SnapshotKey}, nil
}

// labelContainer adds a label to a container.
func (c *Client) labelContainer(ctx context.Context, id, key, value string) error {
	_, err := containersapi.NewContainersClient(c.conn).Update(c.in(ctx), &containersapi.UpdateContainerRequest{
		Container:  &containersapi.Container{ID: id, Labels: map[string]string{key: value}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels." + key}},
	})
	if err != nil {
		return fmt.Errorf("label container %s: %w", id, errgrpc.ToNative(err))
	}
	return nil
}

// parent is the committed snapshot that a container's is made of.
func (c *Client) parent(ctx context.Context, snapshotter, key string) (string, error) {
	resp, err := snapshotsapi.NewSnapshotsClient(c.conn).Stat(c.in(ctx), &snapshotsapi.StatSnapshotRequest{Snapshotter: snapshotter, Key: key})
	if err != nil {
		return "", fmt.Errorf("ask snapshotter %s for snapshot %s: %w", snapshotter, key, errgrpc.ToNative(err))
	}
	return resp.Info.GetParent(), nil
}

// Get returns an image by its name.
func (c *Client) Get(ctx context.Context, name string) (Image, error) {
	resp, err := imagesapi.NewImagesClient(c.conn).Get(c.in(ctx), &imagesapi.GetImageRequest{Name: name})
	if err != nil {
		return Image{}, fmt.Errorf("ask containerd for image %s: %w", name, errgrpc.ToNative(err))
	}
	return fromProto(resp.Image), nil
}

func fromProto(i *imagesapi.Image) Image {
	return Image{Name: i.Name, Target: ocispec.Descriptor{
		MediaType: i.Target.GetMediaType(), Digest: digest.Digest(i.Target.GetDigest()), Size: i.Target.GetSize(),
	}}
}

// root asks for the directory of the content store; empty if the content is not
// in a directory of this machine.
func (c *Client) root(ctx context.Context) (string, error) {
	resp, err := introspectionapi.NewIntrospectionClient(c.conn).Plugins(c.in(ctx),
		&introspectionapi.PluginsRequest{Filters: []string{"type==io.containerd.content.v1"}})
	if err != nil {
		return "", fmt.Errorf("ask containerd for its content store: %w", errgrpc.ToNative(err))
	}
	for _, p := range resp.Plugins {
		if p.InitErr == nil && p.Exports["root"] != "" {
			return p.Exports["root"], nil
		}
	}
	return "", nil
}

// readJSON reads an index or a manifest.
func (c *Client) readJSON(ctx context.Context, d ocispec.Descriptor, v any) error {
	r, err := c.content.ReaderAt(c.in(ctx), d)
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
		return mismatch(d.MediaType, d.Digest, found)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("parse %s %s: %w: %w", d.MediaType, d.Digest, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func mismatch(what string, want, found digest.Digest) error {
	return fmt.Errorf("%s %s is damaged in containerd's content store, its bytes are %s; remove the image and pull it again: %w", what, want, found, errdefs.ErrDataLoss)
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
