// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The labels. A blob that code belongs to refers to the artifacts that were made of
// it: as long as it is there, containerd's garbage collector keeps them. An artifact
// names its code; of different code the same may come out.
const (
	labelReference = "containerd.io/gc.ref.content.libwasmshim-" // + engine + "-" + id: the artifact's digest, or nothing
	labelArtifact  = "libwasmshim.io/artifact/"                  // + engine + "/" + id: the code's digest

	// nothing is the value of labelReference where the engine leaves it at the
	// original.
	nothing = "nothing"
)

func referenceLabel(engine, id string) string { return labelReference + engine + "-" + id }
func artifactLabel(engine, id string) string  { return labelArtifact + engine + "/" + id }

// How many artifacts of one engine are kept: of one layer or module, and on one
// blob, whose modules may be many. The oldest go. Whoever may choose an engine's
// options fills no disk.
const (
	maxPerSource = 4
	maxPerBlob   = 64
)

// leaseTime is how long what a killed process was writing is kept from
// containerd's garbage collector.
const leaseTime = 10 * time.Minute

// artifact names what is compiled of one piece of code.
type artifact struct {
	engine string
	id     string        // see artifactID
	source digest.Digest // the code
	holder digest.Digest // the blob in containerd's content store that it belongs to
}

// stored returns the digest of an artifact, or nothing if the engine makes none of
// this code. ErrNotFound says that it was not asked yet, or that what it made is not
// there any more.
func (c *Client) stored(ctx context.Context, a artifact) (digest.Digest, error) {
	holder, err := c.content.Info(c.in(ctx), a.holder)
	if err != nil {
		return "", fmt.Errorf("ask containerd for blob %s: %w", a.holder, err)
	}
	label := referenceLabel(a.engine, a.id)
	d := digest.Digest(holder.Labels[label])
	if d != "" && d != nothing {
		_, err = c.content.Info(c.in(ctx), d)
	}
	if d != "" && !errdefs.IsNotFound(err) {
		return d, err
	}
	// The same code in another image.
	err = c.content.Walk(c.in(ctx), func(other content.Info) error {
		d = other.Digest
		return nil
	}, fmt.Sprintf("labels.%q==%q", artifactLabel(a.engine, a.id), a.source))
	if err != nil {
		return "", fmt.Errorf("look for an artifact of %s: %w", a.source, err)
	}
	if d == "" || d == digest.Digest(holder.Labels[label]) {
		return "", errdefs.ErrNotFound
	}
	return d, c.attach(ctx, a, d)
}

// attach makes an artifact that of its blob, or says that there is none, and drops
// older ones.
func (c *Client) attach(ctx context.Context, a artifact, d digest.Digest) error {
	info, err := c.content.Info(c.in(ctx), a.holder)
	if err != nil {
		return fmt.Errorf("ask containerd for blob %s: %w", a.holder, err)
	}
	change := map[string]string{referenceLabel(a.engine, a.id): string(d)}
	for _, id := range c.surplus(ctx, info, a) {
		change[referenceLabel(a.engine, id)] = ""
	}
	return c.label(ctx, a.holder, change)
}

// label changes some labels of a blob and leaves all others alone; an empty value
// removes one.
func (c *Client) label(ctx context.Context, d digest.Digest, labels map[string]string) error {
	var paths []string
	for key := range labels {
		paths = append(paths, "labels."+key)
	}
	if _, err := c.content.Update(c.in(ctx), content.Info{Digest: d, Labels: labels}, paths...); err != nil {
		return fmt.Errorf("label blob %s: %w", d, err)
	}
	return nil
}

// surplus are the ids of the engine's artifacts that a blob may not keep when
// it gets another one.
func (c *Client) surplus(ctx context.Context, blob content.Info, next artifact) []string {
	type kept struct {
		id, source string
		made       time.Time
	}
	var all []kept
	for key, value := range blob.Labels {
		id, ok := strings.CutPrefix(key, referenceLabel(next.engine, ""))
		if !ok || id == next.id {
			continue
		}
		k := kept{id: id}
		// What is not there any more is the oldest.
		if info, err := c.content.Info(c.in(ctx), digest.Digest(value)); err == nil {
			k.source, k.made = info.Labels[artifactLabel(next.engine, id)], info.CreatedAt
		}
		all = append(all, k)
	}
	slices.SortFunc(all, func(x, y kept) int { return cmp.Or(y.made.Compare(x.made), strings.Compare(x.id, y.id)) })
	var drop []string
	same := 1
	for i, k := range all {
		if k.source == string(next.source) {
			same++
		}
		if i+1 >= maxPerBlob || k.source == string(next.source) && same > maxPerSource {
			drop = append(drop, k.id)
		}
	}
	return drop
}

// store stores an artifact, for this image and as long as it is there, and returns
// its digest. f is a sealed file.
func (c *Client) store(ctx context.Context, a artifact, f *os.File) (_ digest.Digest, retErr error) {
	d, err := digestOf(f, digest.Canonical)
	if err != nil {
		return "", err
	}
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if err := c.release(ctx, a); err != nil {
		return "", err
	}
	ctx, name, done, err := c.hold(ctx, leaseTime, leases.WithID(leaseName(a)))
	if err != nil {
		return "", err
	}
	defer func() { retErr = errors.Join(retErr, done(false)) }()
	labels := map[string]string{artifactLabel(a.engine, a.id): string(a.source)}
	err = c.write(ctx, name, io.NewSectionReader(f, 0, info.Size()), ocispec.Descriptor{Digest: d, Size: info.Size()}, labels)
	if err != nil {
		return "", err
	}
	return d, c.attach(ctx, a, d)
}

// write writes a blob, which may be there already, perhaps with other labels. ref
// is what containerd knows it by until it is complete.
func (c *Client) write(ctx context.Context, ref string, r io.Reader, d ocispec.Descriptor, labels map[string]string) error {
	// What a killed process was writing under this name.
	if err := ignoreNotFound(c.content.Abort(ctx, ref)); err != nil {
		return fmt.Errorf("remove a half-written blob: %w", err)
	}
	// The store adds to the options' own map.
	err := content.WriteBlob(ctx, c.content, ref, r, d, content.WithLabels(maps.Clone(labels)))
	if err != nil {
		return errors.Join(fmt.Errorf("write %d bytes to containerd's content store: %w", d.Size, err), ignoreNotFound(c.content.Abort(context.WithoutCancel(ctx), ref)))
	}
	if len(labels) == 0 {
		return nil
	}
	return c.label(ctx, d.Digest, labels)
}

func leaseName(a artifact) string { return "libwasmshim-" + a.engine + "-" + a.id }

// release ends the lease of a process that was killed while it stored an artifact,
// or after that. Left alone, it would end by itself later.
func (c *Client) release(ctx context.Context, a artifact) error {
	brief, cancel := uninterrupted(c.in(ctx))
	defer cancel()
	if err := ignoreNotFound(c.leases.Delete(brief, leases.Lease{ID: leaseName(a)})); err != nil {
		return fmt.Errorf("remove lease %s: %w", leaseName(a), err)
	}
	return nil
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// discard removes an artifact that cannot be used: in every namespace, because they
// share the file, and containerd takes one that is there for the right one. The file
// goes with containerd's next garbage collection.
func (c *Client) discard(ctx context.Context, d digest.Digest) error {
	resp, err := namespacesapi.NewNamespacesClient(c.conn).List(ctx, &namespacesapi.ListNamespacesRequest{})
	if err != nil {
		return fmt.Errorf("ask containerd for its namespaces: %w", errgrpc.ToNative(err))
	}
	for _, n := range resp.Namespaces {
		if err := ignoreNotFound(c.content.Delete(namespaces.WithNamespace(ctx, n.Name), d)); err != nil {
			return fmt.Errorf("remove artifact %s from namespace %s: %w", d, n.Name, err)
		}
	}
	return nil
}

// collect has containerd collect garbage, and waits for it: the end of a lease
// is the one way to ask for that.
func (c *Client) collect(ctx context.Context) error {
	_, _, done, err := c.hold(ctx, leaseTime, leases.WithRandomID())
	if err == nil {
		err = done(true)
	}
	if err != nil {
		return fmt.Errorf("ask containerd to collect garbage: %w", err)
	}
	return nil
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
