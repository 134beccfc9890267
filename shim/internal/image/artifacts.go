// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/libwasmshim/libwasmshim/shim/internal/metrics"
)

// work is what is to be done for a guest's artifacts. Without a key nothing can be
// kept, and so nothing is compiled.
func (f *Finder) work(r Request, g *Guest, holders []digest.Digest) *Work {
	w := &Work{
		Address: f.Address, Namespace: f.Namespace, Engine: f.Engine, Options: r.Options, LogLevel: r.LogLevel, Limits: r.Limits, Place: r.Place,
		Kind: g.Kind, Log: r.Log,
	}
	for i, l := range g.Layers {
		layer := WorkLayer{MediaType: l.MediaType, Digest: l.Digest}
		if holders != nil {
			layer.Holder = holders[i]
		}
		w.Layers = append(w.Layers, layer)
	}
	if !w.compiles() {
		return w
	}
	key, err := f.Engine.Key(r.KeyOptions)
	if err != nil {
		r.Log.WithError(err).Warn("nothing is compiled ahead")
		w.Limits.Time = 0
	}
	w.Key = key
	return w
}

// openLayers opens the layers of an image and says what kind of guest they are.
// Digests are verified of what was not verified before, or is not the same file any
// more.
func (w *Work) openLayers(ctx context.Context, c Store, g *Guest, layers []ocispec.Descriptor) error {
	var known Result
	if w.memory().recall(w.name(), &known) && len(known.Layers) == len(layers) && known.Kind != 0 && w.reopenLayers(known, g) == nil {
		g.Kind, w.Kind = known.Kind, known.Kind
		return nil
	}
	blobs, root, err := c.openStore(ctx, w.Log)
	if err != nil {
		return err
	}
	defer blobs.close()
	known = Result{Root: root, Layers: make([]ResultLayer, len(layers))}
	for i, d := range layers {
		f, err := c.open(ctx, blobs, d.Digest)
		if err != nil {
			return err
		}
		g.Layers[i].File = f
		at, err := stampOf(f)
		if err != nil {
			return err
		}
		if at.Size != d.Size {
			return fmt.Errorf("layer %s has %d bytes in containerd's content store, its manifest says %d: %w", d.Digest, at.Size, d.Size, errdefs.ErrDataLoss)
		}
		w.progress("verify layer", at.Size)
		if err := verify(f, d.Digest, "layer"); err != nil {
			return err
		}
		known.Layers[i].Blob, w.Layers[i].Blob = at, at
	}
	if err := g.classify(w.Engine); err != nil {
		return err
	}
	known.Kind, w.Kind = g.Kind, g.Kind
	if root != "" {
		w.memory().note(w.name(), known, w.Log)
	}
	return nil
}

// reopenLayers opens layers that were verified before.
func (w *Work) reopenLayers(known Result, g *Guest) error {
	blobs, err := openBlobs(known.Root)
	if err != nil {
		return err
	}
	defer blobs.close()
	for i, l := range known.Layers {
		w.Layers[i].Blob = l.Blob
		f, err := blobs.openSame(g.Layers[i].Digest, l.Blob)
		if err != nil {
			g.Close()
			return err
		}
		g.Layers[i].File = f
	}
	return nil
}

// withArtifacts gives a guest its artifacts, if there can be any; of many daemons
// that need the same at once, one has them made.
func (f *Finder) withArtifacts(ctx context.Context, r Request, w *Work, g *Guest) (_ *Guest, retErr error) {
	if !w.compiles() || w.recall(g) {
		return g, nil
	}
	defer func() {
		if retErr != nil {
			g.Close()
		}
	}()
	if w.files == nil {
		for _, l := range g.Layers {
			w.files = append(w.files, l.File)
		}
	}
	l, err := acquire(ctx, w.memory().dir, w.name())
	if ctx.Err() != nil {
		return nil, fmt.Errorf("wait for who compiles the same code: %w", ctx.Err())
	}
	if err != nil { // somebody else may do the same: that costs time
		r.Log.WithError(err).Debug("cannot lock the code")
	}
	defer l.release()
	if w.recall(g) {
		return g, nil
	}
	w.counters().Count(metrics.CacheMiss)
	result, err := f.compile(ctx, r, w, l)
	if err == nil && result.Failed == nil {
		err = w.openArtifacts(ctx, result, g)
	}
	if gone := ctx.Err(); gone != nil {
		if err == nil {
			err = gone
		}
		return nil, err // which says that compiling goes on
	}
	if err != nil {
		r.Log.WithError(err).Warn("the guest's original is run, without an artifact")
	}
	return g, nil
}

// recall opens what is remembered of a guest's artifacts, and says whether that is
// all that there is to know.
func (w *Work) recall(g *Guest) bool {
	var known Result
	if !w.memory().recall(w.name(), &known) || len(known.Layers) != len(g.Layers) {
		return false
	}
	g.code = w.name()
	if known.Failed.holds(w.Limits) {
		w.Log.Debugf("the guest's original is run, as before: %s", known.Failed.Cause)
		w.counters().Count(metrics.CacheKnownToFail)
		return true
	}
	if !known.Compiled || known.Failed != nil || known.Root == "" {
		return false
	}
	if err := w.openArtifacts(context.Background(), known, g); err != nil {
		w.Log.WithError(err).Debug("what is remembered of the guest's artifacts is out of date")
		return false
	}
	w.counters().Count(metrics.CacheHit)
	return true
}

// openArtifacts opens the artifacts that a result names: all of them, or none.
func (w *Work) openArtifacts(ctx context.Context, result Result, g *Guest) (retErr error) {
	g.code = w.name()
	defer func() {
		for i := range g.Layers {
			if retErr != nil && g.Layers[i].Artifact != nil {
				g.Layers[i].Artifact.Close()
				g.Layers[i].Artifact = nil
			}
		}
	}()
	if result.Root == "" {
		return w.copyArtifacts(ctx, result, g)
	}
	blobs, err := openBlobs(result.Root)
	if err != nil {
		return err
	}
	defer blobs.close()
	for i, l := range result.Layers {
		if l.Artifact == "" {
			continue
		}
		if g.Layers[i].Artifact, err = blobs.openSame(l.Artifact, l.ArtifactStamp); err != nil {
			return err
		}
	}
	return nil
}

// copyArtifacts reads artifacts out of a content store that is no directory here.
func (w *Work) copyArtifacts(ctx context.Context, result Result, g *Guest) (retErr error) {
	c, err := Dial(w.Address, w.Namespace)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, c.Close()) }()
	for i, l := range result.Layers {
		if l.Artifact == "" {
			continue
		}
		if g.Layers[i].Artifact, err = c.open(ctx, nil, l.Artifact); err != nil {
			return err
		}
		if err := verify(g.Layers[i].Artifact, l.Artifact, "artifact"); err != nil {
			return err
		}
	}
	return nil
}

// Refuse is told that the engine could not load an artifact: it is discarded, and
// for a while nobody makes another one, which would be the same.
func (f *Finder) Refuse(r Request, g *Guest, index int) {
	var known Result
	if g.code == "" || !f.memory().recall(g.code, &known) || index >= len(known.Layers) || known.Layers[index].Artifact == "" {
		return
	}
	CountersOf(f.Address, f.Namespace, f.Engine.Name).Count(metrics.ArtifactRefused)
	d := known.Layers[index].Artifact
	known.Failed = newFailure(errors.New("the engine does not load what it has compiled"), failedFor, r.Limits)
	known.Layers[index] = ResultLayer{Blob: known.Layers[index].Blob}
	f.memory().note(g.code, known, r.Log)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c, err := Dial(f.Address, f.Namespace)
		if err == nil {
			err = errors.Join(c.discard(ctx, d), c.Close())
		}
		if err != nil {
			r.Log.WithError(err).Warnf("artifact %s, which the engine does not load, is still there", d)
		}
	}()
}
