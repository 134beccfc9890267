// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
	"github.com/libwasmshim/libwasmshim/shim/internal/status"
)

// findGuest finds the code of what is run: the file that was looked up, or, where
// there is no such file, the layers of the container's image.
func (p *preparation) findGuest(ctx context.Context) error {
	p.code = image.Request{
		ID: p.id, Bundle: p.bundle, Args: p.spec.Process.Args, Env: p.spec.Process.Env, ImageName: p.spec.Annotations[imageAnnotation],
		Options: options.CompilerList(p.engine, p.Options), KeyOptions: options.KeyList(p.engine, p.Options),
		LogLevel: status.Level(p.log, p.opts.LogLevel), Limits: limitsOfOptions(p.opts),
		Place: compiler.Place{Cgroup: p.opts.CompileCgroup, Compilers: p.opts.Compilers}, Log: p.log,
	}
	entry, err := p.entry, p.noEntry
	switch {
	case errdefs.IsNotFound(err), errors.Is(err, entrypoint.ErrDirectory):
		if p.isOwn() {
			err = p.findLayers(ctx, err)
		}
		if errors.Is(err, entrypoint.ErrUnknown) {
			p.log.WithError(err).Info("the entrypoint is not seen from here: it is executed as a native program")
			p.entry = entrypoint.Entry{Kind: entrypoint.Native}
			return nil
		}
		return err
	case err != nil:
		return err
	case entry.Starts != "":
		p.log.Warnf("%s is a native program with the WebAssembly file %s in its arguments: no shell, init or script can start it, only the engine; make %[2]s itself the entrypoint", entry.Path, entry.Starts)
	}
	if entry.File == nil {
		return nil
	}
	// A file in a mount belongs to no image, only an engine knows what it does with
	// a file that the core does not recognise, and what is compiled of a file is for
	// those who may read it.
	if entry.InRoot == "" || entry.Unsure || entry.Kind == entrypoint.Other {
		return nil
	}
	file := entry.File
	if p.execID != "" {
		if file = p.fromOutside(entry); file == nil {
			return nil
		}
		defer file.Close()
	}
	p.guest, err = p.Service.code.File(ctx, p.code, file, entry.InRoot, entry.Kind, p.mounts)
	p.closes = append(p.closes, p.guest.Close)
	return err
}

// isOwn says whether what is run has the name of what the container runs: only then is
// it the container's image where there is no such file.
func (p *preparation) isOwn() bool {
	name := func(args []string) string {
		name, _, _ := strings.Cut(args[0], "#")
		return name
	}
	return name(p.run.Args) == name(p.spec.Process.Args)
}

// fromOutside opens a file of a living container's root file system where this daemon
// sees it: a mount of the container's is of no use to make one that is read-only. It
// is nil where the container has another root directory by now.
func (p *preparation) fromOutside(entry entrypoint.Entry) *os.File {
	root, err := unix.Open(p.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, strings.TrimPrefix(entry.InRoot, "/"), &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil
	}
	file := os.NewFile(uintptr(fd), entry.InRoot)
	inside, err1 := entry.File.Stat()
	outside, err2 := file.Stat()
	if err1 != nil || err2 != nil || !os.SameFile(inside, outside) {
		file.Close()
		return nil
	}
	return file
}

// findLayers finds the layers of an image whose root file system does not have
// the entrypoint, as noFile says.
func (p *preparation) findLayers(ctx context.Context, noFile error) (err error) {
	p.guest, err = p.Service.code.Layers(ctx, p.code)
	if errors.Is(err, containerd.ErrOrdinary) {
		return noFile
	}
	if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
		return fmt.Errorf("%w (%v)", noFile, err) //nolint:errorlint // its code is the file's
	}
	if err != nil {
		return err
	}
	p.closes = append(p.closes, p.guest.Close)
	p.entry = entrypoint.Entry{Kind: p.guest.Kind}
	name := p.run.Args[0]
	if at := strings.LastIndexByte(name, '#'); at >= 0 {
		name, p.entry.Func = name[:at], name[at+1:]
	}
	p.entry.Name = entrypoint.Stem(name)
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
