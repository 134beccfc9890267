// SPDX-License-Identifier: Apache-2.0

// Package containerd asks containerd for what says what a container's code is:
// containers, snapshots, images with the entries of their indexes, and content; and
// writes content, and images of it.
package containerd

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

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
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// maxMessage is what containerd's own clients take, in bytes.
const maxMessage = 16 << 20

// maxManifest bounds the size of an index or a manifest, in bytes.
const maxManifest = 4 << 20

// Client speaks to one containerd in one of its namespaces. Its methods may be
// called side by side.
type Client struct {
	Address, Namespace string // which they are; not to be changed

	conn    *grpc.ClientConn
	Content content.Store // its methods want In's contexts
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
		Address: address, Namespace: namespace, conn: conn,
		Content: contentproxy.NewContentStore(contentapi.NewContentClient(conn)),
		leases:  leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(conn)),
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// In is a context for calls in the namespace.
func (c *Client) In(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, c.Namespace)
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

// Container returns a container. ErrOrdinary says that there is none.
func (c *Client) Container(ctx context.Context, id string) (Container, error) {
	resp, err := containersapi.NewContainersClient(c.conn).Get(c.In(ctx), &containersapi.GetContainerRequest{ID: id})
	if err := errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		return Container{}, fmt.Errorf("containerd has no container %s: %w", id, ErrOrdinary)
	} else if err != nil {
		return Container{}, fmt.Errorf("ask containerd for container %s: %w", id, err)
	}
	r := resp.Container
	return Container{Image: r.Image, Labels: r.Labels, Snapshotter: r.Snapshotter, Snapshot: r.SnapshotKey}, nil
}

// LabelContainer adds a label to a container.
func (c *Client) LabelContainer(ctx context.Context, id, key, value string) error {
	_, err := containersapi.NewContainersClient(c.conn).Update(c.In(ctx), &containersapi.UpdateContainerRequest{
		Container:  &containersapi.Container{ID: id, Labels: map[string]string{key: value}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels." + key}},
	})
	if err != nil {
		return fmt.Errorf("label container %s: %w", id, errgrpc.ToNative(err))
	}
	return nil
}

// Parent is the committed snapshot that a container's is made of.
func (c *Client) Parent(ctx context.Context, snapshotter, key string) (string, error) {
	resp, err := snapshotsapi.NewSnapshotsClient(c.conn).Stat(c.In(ctx), &snapshotsapi.StatSnapshotRequest{Snapshotter: snapshotter, Key: key})
	if err != nil {
		return "", fmt.Errorf("ask snapshotter %s for snapshot %s: %w", snapshotter, key, errgrpc.ToNative(err))
	}
	return resp.Info.GetParent(), nil
}

// Get returns an image by its name.
func (c *Client) Get(ctx context.Context, name string) (Image, error) {
	resp, err := imagesapi.NewImagesClient(c.conn).Get(c.In(ctx), &imagesapi.GetImageRequest{Name: name})
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

// ContentRoot asks for the directory of the content store; empty if the content is not
// in a directory of this machine.
func (c *Client) ContentRoot(ctx context.Context) (string, error) {
	plugins, err := c.Plugins(ctx, "io.containerd.content.v1")
	if err != nil {
		return "", err
	}
	for _, p := range plugins {
		if p.Failure == "" && p.Exports["root"] != "" {
			return p.Exports["root"], nil
		}
	}
	return "", nil
}

// Ping says whether containerd answers within a time.
func (c *Client) Ping(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	// gRPC would say the same in more words.
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Address)
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
	resp, err := imagesapi.NewImagesClient(c.conn).List(c.In(ctx), &imagesapi.ListImagesRequest{})
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

// FullName completes an image's name as containerd's clients do: "app" is
// "docker.io/library/app:latest". With a digest, the tag does not count.
func FullName(name string) string {
	name, digest, hasDigest := strings.Cut(name, "@")
	host, rest, found := strings.Cut(name, "/")
	if !found || host != "localhost" && !strings.ContainsAny(host, ".:") && strings.ToLower(host) == host {
		host, rest = "docker.io", name
	}
	if host == "index.docker.io" {
		host = "docker.io"
	}
	if host == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	base, tag, hasTag := strings.Cut(rest, ":")
	switch {
	case hasDigest:
		return host + "/" + base + "@" + digest
	case !hasTag:
		tag = "latest"
	}
	return host + "/" + base + ":" + tag
}
