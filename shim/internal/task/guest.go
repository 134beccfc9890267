// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
	"github.com/libwasmshim/libwasmshim/shim/internal/status"
)

// findGuest finds what a container runs: the file that its entrypoint names, or,
// where there is no such file, the layers of its image.
func (c *creation) findGuest(ctx context.Context) error {
	c.code = image.Request{
		ID: c.r.ID, Bundle: c.r.Bundle, Args: c.spec.Process.Args, Env: c.spec.Process.Env, ImageName: c.spec.Annotations[imageAnnotation],
		Options: options.CompilerList(c.engine, c.Options), KeyOptions: options.KeyList(c.engine, c.Options),
		LogLevel: status.Level(c.t.log, c.opts.LogLevel), Limits: limitsOfOptions(c.opts),
		Place: compiler.Place{Cgroup: c.opts.CompileCgroup, Compilers: c.opts.Compilers}, Log: c.t.log,
	}
	entry, err := entrypoint.Resolve(c.spec, c.r.Bundle, c.root, c.Engine.Name, c.Engine.Kinds)
	c.entry = entry
	switch {
	case errdefs.IsNotFound(err), errors.Is(err, entrypoint.ErrDirectory):
		err = c.findLayers(ctx, err)
		if errors.Is(err, entrypoint.ErrUnknown) {
			c.t.log.WithError(err).Info("the entrypoint is not seen from here: it is executed as a native program")
			c.entry = entrypoint.Entry{Kind: entrypoint.Native}
			return nil
		}
		return err
	case err != nil:
		return err
	case entry.Starts != "":
		c.t.log.Warnf("%s is a native program with the WebAssembly file %s in its arguments: no shell, init or script can start it, only the engine; make %[2]s itself the entrypoint", entry.Path, entry.Starts)
	}
	if entry.File == nil {
		return nil
	}
	c.closes = append(c.closes, func() { entry.File.Close() })
	// A file in a mount belongs to no image, only an engine knows what it does with
	// a file that the core does not recognise, and what is compiled of a file is for
	// those who may read it.
	if entry.InRoot == "" || entry.Unsure || entry.Kind == entrypoint.Other {
		return nil
	}
	c.guest, err = c.Service.code.File(ctx, c.code, entry.File, entry.InRoot, entry.Kind, mount.FromProto(c.r.Rootfs))
	c.closes = append(c.closes, c.guest.Close)
	return err
}

// findLayers finds the layers of an image whose root file system does not have
// the entrypoint, as noFile says.
func (c *creation) findLayers(ctx context.Context, noFile error) (err error) {
	c.guest, err = c.Service.code.Layers(ctx, c.code)
	if errors.Is(err, containerd.ErrOrdinary) {
		return noFile
	}
	if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
		return fmt.Errorf("%w (%v)", noFile, err) //nolint:errorlint // its code is the file's
	}
	if err != nil {
		return err
	}
	c.closes = append(c.closes, c.guest.Close)
	c.entry = entrypoint.Entry{Kind: c.guest.Kind}
	name := c.spec.Process.Args[0]
	if at := strings.LastIndexByte(name, '#'); at >= 0 {
		name, c.entry.Func = name[:at], name[at+1:]
	}
	c.entry.Name = entrypoint.Stem(name)
	return nil
}

// limitsOfOptions are what a compilation may take.
func limitsOfOptions(o options.Options) compiler.Limits {
	l := compiler.DefaultLimits
	if o.CompileTimeout != nil {
		l.Time = *o.CompileTimeout
	}
	if o.CompileMemory != 0 {
		l.Memory = o.CompileMemory
	}
	return l
}
