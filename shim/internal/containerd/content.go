// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// LeaseTime is how long what a killed process was writing is kept from
// containerd's garbage collector.
const LeaseTime = 10 * time.Minute

// Write writes a blob, which may be there already, perhaps with other labels. ref
// is what containerd knows it by until it is complete.
func (c *Client) Write(ctx context.Context, ref string, r io.Reader, d ocispec.Descriptor, labels map[string]string) error {
	// What a killed process was writing under this name.
	if err := IgnoreNotFound(c.Content.Abort(ctx, ref)); err != nil {
		return fmt.Errorf("remove a half-written blob: %w", err)
	}
	// The store adds to the options' own map.
	err := content.WriteBlob(ctx, c.Content, ref, r, d, content.WithLabels(maps.Clone(labels)))
	if err != nil {
		return errors.Join(fmt.Errorf("write %d bytes to containerd's content store: %w", d.Size, err), IgnoreNotFound(c.Content.Abort(context.WithoutCancel(ctx), ref)))
	}
	if len(labels) == 0 {
		return nil
	}
	return c.Label(ctx, d.Digest, labels)
}

// Label changes some labels of a blob and leaves all others alone; an empty value
// removes one.
func (c *Client) Label(ctx context.Context, d digest.Digest, labels map[string]string) error {
	var paths []string
	for key := range labels {
		paths = append(paths, "labels."+key)
	}
	if _, err := c.Content.Update(c.In(ctx), content.Info{Digest: d, Labels: labels}, paths...); err != nil {
		return fmt.Errorf("label blob %s: %w", d, err)
	}
	return nil
}

// Collect has containerd collect garbage, and waits for it: the end of a lease
// is the one way to ask for that.
func (c *Client) Collect(ctx context.Context) error {
	_, _, done, err := c.Hold(ctx, LeaseTime, leases.WithRandomID())
	if err == nil {
		err = done(true)
	}
	if err != nil {
		return fmt.Errorf("ask containerd to collect garbage: %w", err)
	}
	return nil
}

// Hold keeps what is written or made in the returned context until done is
// called, and at most for a time, should this process be killed. What nothing else
// keeps is gone when done returns, if it is told to wait for that. named gives the
// lease its id.
func (c *Client) Hold(ctx context.Context, within time.Duration, named leases.Opt) (_ context.Context, id string, done func(wait bool) error, _ error) {
	ctx = c.In(ctx)
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
		return c.Release(ctx, lease.ID, opts...)
	}, nil
}

// Release ends a lease, if there is one.
func (c *Client) Release(ctx context.Context, lease string, opts ...leases.DeleteOpt) error {
	ctx, cancel := uninterrupted(c.In(ctx))
	defer cancel()
	if err := IgnoreNotFound(c.leases.Delete(ctx, leases.Lease{ID: lease}, opts...)); err != nil {
		return fmt.Errorf("remove lease %s: %w", lease, err)
	}
	return nil
}

// uninterrupted is for what is made or removed: an interruption on the way would
// leave it unknown whether it is there.
func uninterrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
}

// IgnoreNotFound is nil for an error that says that what is to go is gone.
func IgnoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Namespaces are the names of all.
func (c *Client) Namespaces(ctx context.Context) ([]string, error) {
	resp, err := namespacesapi.NewNamespacesClient(c.conn).List(ctx, &namespacesapi.ListNamespacesRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask containerd for its namespaces: %w", errgrpc.ToNative(err))
	}
	var all []string
	for _, n := range resp.Namespaces {
		all = append(all, n.Name)
	}
	return all, nil
}
