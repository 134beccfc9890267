// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
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

// Store is a containerd, as what keeps artifacts.
type Store struct{ *containerd.Client }

// Dial prepares a connection, which the first call makes. The caller closes it.
func Dial(address, namespace string) (Store, error) {
	c, err := containerd.Dial(address, namespace)
	return Store{c}, err
}

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
func (c Store) stored(ctx context.Context, a artifact) (digest.Digest, error) {
	holder, err := c.Content.Info(c.In(ctx), a.holder)
	if err != nil {
		return "", fmt.Errorf("ask containerd for blob %s: %w", a.holder, err)
	}
	label := referenceLabel(a.engine, a.id)
	d := digest.Digest(holder.Labels[label])
	if d != "" && d != nothing {
		_, err = c.Content.Info(c.In(ctx), d)
	}
	if d != "" && !errdefs.IsNotFound(err) {
		return d, err
	}
	// The same code in another image.
	err = c.Content.Walk(c.In(ctx), func(other content.Info) error {
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
func (c Store) attach(ctx context.Context, a artifact, d digest.Digest) error {
	info, err := c.Content.Info(c.In(ctx), a.holder)
	if err != nil {
		return fmt.Errorf("ask containerd for blob %s: %w", a.holder, err)
	}
	change := map[string]string{referenceLabel(a.engine, a.id): string(d)}
	for _, id := range c.surplus(ctx, info, a) {
		change[referenceLabel(a.engine, id)] = ""
	}
	return c.Label(ctx, a.holder, change)
}

// surplus are the ids of the engine's artifacts that a blob may not keep when
// it gets another one.
func (c Store) surplus(ctx context.Context, blob content.Info, next artifact) []string {
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
		if info, err := c.Content.Info(c.In(ctx), digest.Digest(value)); err == nil {
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
func (c Store) store(ctx context.Context, a artifact, f *os.File) (_ digest.Digest, retErr error) {
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
	ctx, name, done, err := c.Hold(ctx, containerd.LeaseTime, leases.WithID(leaseName(a)))
	if err != nil {
		return "", err
	}
	defer func() { retErr = errors.Join(retErr, done(false)) }()
	labels := map[string]string{artifactLabel(a.engine, a.id): string(a.source)}
	err = c.Write(ctx, name, io.NewSectionReader(f, 0, info.Size()), ocispec.Descriptor{Digest: d, Size: info.Size()}, labels)
	if err != nil {
		return "", err
	}
	return d, c.attach(ctx, a, d)
}

func leaseName(a artifact) string { return "libwasmshim-" + a.engine + "-" + a.id }

// release ends the lease of a process that was killed while it stored an artifact,
// or after that. Left alone, it would end by itself later.
func (c Store) release(ctx context.Context, a artifact) error { return c.Release(ctx, leaseName(a)) }

// discard removes an artifact that cannot be used: in every namespace, because they
// share the file, and containerd takes one that is there for the right one. The file
// goes with containerd's next garbage collection.
func (c Store) discard(ctx context.Context, d digest.Digest) error {
	all, err := c.Namespaces(ctx)
	if err != nil {
		return err
	}
	for _, name := range all {
		if err := containerd.IgnoreNotFound(c.Content.Delete(namespaces.WithNamespace(ctx, name), d)); err != nil {
			return fmt.Errorf("remove artifact %s from namespace %s: %w", d, name, err)
		}
	}
	return nil
}
