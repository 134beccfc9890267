// SPDX-License-Identifier: Apache-2.0

// Package image gets the code of containers from containerd: layers in, compiled
// artifacts out and in again.
//
// A daemon's Finder (finder.go, unchanged.go) finds out what a container's code is,
// and opens it; what is known of it from before is in memory.go. If there are no
// artifacts of it yet (artifacts.go), it starts a worker (worker.go), a process that
// has a compiler make them and keeps them in containerd's content store (work.go,
// store.go). Only commands need precompile.go and cache.go.
package image

import (
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// Engine is what of an engine decides which code it gets and what is compiled of
// it.
type Engine struct {
	Name       string
	Kinds      entrypoint.Kind
	LayerTypes []string // beside containerd.LayerTypes
	CacheKey   string
	Compiles   bool
}

// Types are all media types of layers that the engine takes.
func (e Engine) Types() []string { return append(slices.Clone(containerd.LayerTypes), e.LayerTypes...) }

// compilesWithin says whether anything is to be compiled ahead within limits.
func (e Engine) compilesWithin(l compiler.Limits) bool { return e.Compiles && l.Time > 0 }

// Guest is a guest's code. Its files belong to whoever gets it; see Close.
type Guest struct {
	Kind   entrypoint.Kind
	Layers []Layer

	code string // the name under which its artifacts are remembered; empty if there are to be none
}

// Layer is one of a guest's layers, or its file.
type Layer struct {
	MediaType string        // empty for a file
	Digest    digest.Digest // empty where it is not known
	// File is open for reading alone, does not change, and is not to be opened
	// otherwise by who inherits it. It is nil for a file that may change: the
	// runner reads it by its path.
	File     *os.File
	Artifact *os.File // the same; nil if there is none
}

// Close closes all files.
func (g *Guest) Close() {
	if g == nil {
		return
	}
	for _, l := range g.Layers {
		compiler.CloseAll([]*os.File{l.File, l.Artifact})
	}
}

// Stage is the guest for a runner's or compiler's context, with the files that
// the process is to inherit as descriptors from stage.FDLayers on.
func (g *Guest) Stage() (layers []stage.Layer, files []*os.File) {
	inherit := func(f *os.File) uint32 {
		if f == nil {
			return 0
		}
		files = append(files, f)
		return uint32(stage.FDLayers + len(files) - 1)
	}
	for _, l := range g.Layers {
		layers = append(layers, stage.Layer{
			MediaType: l.MediaType, Digest: string(l.Digest), FD: inherit(l.File), Artifact: inherit(l.Artifact),
		})
	}
	return layers, files
}

// classify says what a guest of layers is, by the first that is WebAssembly, and
// refuses what the engine does not run.
func (g *Guest) classify(e Engine) error {
	g.Kind = entrypoint.Other
	for _, l := range g.Layers {
		head, err := entrypoint.Head(l.File)
		if err != nil {
			return fmt.Errorf("read layer %s: %w", l.Digest, err)
		}
		core := slices.Contains(containerd.LayerTypes, l.MediaType)
		switch kind := entrypoint.Classify(head, ""); {
		case len(head) == 0 && core:
			return fmt.Errorf("layer %s of type %s is empty: %w", l.Digest, l.MediaType, errdefs.ErrInvalidArgument)
		case kind == entrypoint.Native && core:
			return fmt.Errorf("layer %s of type %s is not WebAssembly but a native program, or code that was compiled elsewhere, which is not run; make the image of the original .wasm: %w",
				l.Digest, l.MediaType, errdefs.ErrInvalidArgument)
		case kind&(entrypoint.Module|entrypoint.Component|entrypoint.Text) != 0 && g.Kind == entrypoint.Other:
			g.Kind = kind
		}
	}
	if g.Kind&e.Kinds == 0 {
		what := "a " + g.Kind.String()
		if g.Kind == entrypoint.Other {
			what = "not WebAssembly"
		}
		return fmt.Errorf("the image's code is %s; %s runs only: %s: %w", what, e.Name, e.Kinds, errdefs.ErrInvalidArgument)
	}
	return nil
}
