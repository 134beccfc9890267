// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
)

// PrecompileLayers has the layers of an image compiled, in this process, as the
// first start of a container has it done: a pod that starts at the same time waits.
func (c Store) PrecompileLayers(ctx context.Context, w *Work, e containerd.Entry) (Result, error) {
	g := &Guest{}
	defer func() { g.Close() }()
	for _, l := range e.Layers {
		g.Layers = append(g.Layers, Layer{MediaType: l.MediaType, Digest: l.Digest})
		w.Layers = append(w.Layers, WorkLayer{MediaType: l.MediaType, Digest: l.Digest, Holder: l.Digest})
	}
	if err := w.openLayers(ctx, c, g, e.Layers); err != nil {
		return Result{}, fmt.Errorf("image %s: %w", w.Image, err)
	}
	for _, l := range g.Layers {
		w.files = append(w.files, l.File)
	}
	return w.alone(ctx)
}

// PrecompileFile does the same with a file of an image, which does not change.
func (c Store) PrecompileFile(ctx context.Context, w *Work, image containerd.Image, file *os.File, kind entrypoint.Kind) (Result, error) {
	info, err := file.Stat()
	if err != nil {
		return Result{}, err
	}
	w.progress("read", info.Size())
	d, err := digestOf(file, digest.Canonical)
	if err != nil {
		return Result{}, err
	}
	w.Kind, w.files = kind, []*os.File{file}
	w.Layers = []WorkLayer{{Digest: d, Holder: image.Target.Digest}}
	return w.alone(ctx)
}

// alone does the work when nobody else does.
func (w *Work) alone(ctx context.Context) (Result, error) {
	w.progress("wait", 0)
	l, err := acquire(ctx, w.memory().dir, w.name())
	if err != nil {
		return Result{}, fmt.Errorf("wait for who compiles the same code: %w", err)
	}
	defer l.release()
	return w.Run(ctx)
}

// Artifacts says how many artifacts there are, and how many bytes they have; or why
// there are none.
func (r Result) Artifacts() (n int, size int64, err error) {
	if r.Failed != nil {
		return 0, 0, errors.New(r.Failed.Cause)
	}
	for _, l := range r.Layers {
		if l.Artifact != "" {
			n++
			size += l.ArtifactStamp.Size
		}
	}
	return n, size, nil
}
