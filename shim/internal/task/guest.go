// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"strings"

	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
)

// findGuest finds what a container runs: the file that its entrypoint names, or,
// where there is no such file, the layers of its image. The guest is nil for a
// native program, and for a file that is run as it is.
func (s *Service) findGuest(ctx context.Context, want image.Request, spec *specs.Spec, r *api.CreateTaskRequest, rootfs string) (entrypoint.Entry, *image.Guest, error) {
	entry, err := entrypoint.Resolve(spec, r.Bundle, rootfs, s.Engine.Name, s.Engine.Kinds)
	switch {
	case errdefs.IsNotFound(err), errors.Is(err, entrypoint.ErrDirectory):
		entry, guest, err := s.findLayers(ctx, want, spec.Process.Args[0], err)
		if errors.Is(err, entrypoint.ErrUnknown) {
			want.Log.WithError(err).Info("the entrypoint is not seen from here: it is executed as a native program")
			return entrypoint.Entry{Kind: entrypoint.Native}, nil, nil
		}
		return entry, guest, err
	case entry.Starts != "":
		want.Log.Warnf("%s is a native program with the WebAssembly file %s in its arguments: no shell, init or script can start it, only the engine; make %[2]s itself the entrypoint", entry.Path, entry.Starts)
		return entry, nil, nil
	case err != nil, entry.File == nil:
		return entry, nil, err
	}
	defer entry.File.Close()
	// A file in a mount belongs to no image, only an engine knows what it does with
	// a file that the core does not recognise, and what is compiled of a file is for
	// those who may read it.
	if entry.InRoot == "" || entry.Unsure || entry.Kind == entrypoint.Other {
		return entry, nil, nil
	}
	guest, err := s.code.File(ctx, want, entry.File, entry.InRoot, entry.Kind, mount.FromProto(r.Rootfs))
	return entry, guest, err
}

// findLayers finds the layers of an image whose root file system does not have
// the entrypoint, as noFile says.
func (s *Service) findLayers(ctx context.Context, want image.Request, arg string, noFile error) (entrypoint.Entry, *image.Guest, error) {
	guest, err := s.code.Layers(ctx, want)
	if errors.Is(err, image.ErrOrdinary) {
		return entrypoint.Entry{}, nil, noFile
	}
	if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
		return entrypoint.Entry{}, nil, fmt.Errorf("%w (%v)", noFile, err) //nolint:errorlint // its code is the file's
	}
	if err != nil {
		return entrypoint.Entry{}, nil, err
	}
	e := entrypoint.Entry{Kind: guest.Kind}
	name := arg
	if at := strings.LastIndexByte(arg, '#'); at >= 0 {
		name, e.Func = arg[:at], arg[at+1:]
	}
	e.Name = entrypoint.Stem(name)
	return e, guest, nil
}

// compileLimits are what a compilation may take.
func compileLimits(o options.Options) compiler.Limits {
	l := compiler.DefaultLimits
	if o.CompileTimeout != nil {
		l.Time = *o.CompileTimeout
	}
	if o.CompileMemory != 0 {
		l.Memory = o.CompileMemory
	}
	return l
}
