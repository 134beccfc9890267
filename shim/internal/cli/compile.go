// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

func limitsOfFlags(c *cli.Context) (compiler.Limits, error) {
	l := compiler.Limits{Time: c.Duration("compile-timeout")}
	if l.Time <= 0 {
		return l, &usageError{fmt.Sprintf("--compile-timeout: found %q, accepted: a duration above zero, like 90s", c.String("compile-timeout"))}
	}
	var ok bool
	if l.Memory, ok = options.ParseCompileMemory(c.String("compile-memory")); !ok {
		return l, &usageError{fmt.Sprintf("--compile-memory: found %q, accepted: a size of 1MiB or more, like 512MiB", c.String("compile-memory"))}
	}
	return l, nil
}

// compile has the guest's file compiled as the daemon does it, and gives the
// context the result. It returns the files of ctx.Layers. A guest that cannot be
// compiled runs as it is, as in a container. shown are the options that the
// compiler sees.
func (p Program) compile(ctx *stage.Context, shown []string, limits compiler.Limits) (_ []*os.File, retErr error) {
	if !p.Engine.Compiles {
		return nil, &usageError{"--compile: " + p.Engine.Name + " does not compile ahead"}
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("--compile: only root can make the compiler's process, which has no rights; run without")
	}
	logger, err := newLogger(os.Stderr, ctx.LogLevel)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(ctx.Path)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "libwasmshim")
	if err != nil {
		return nil, err
	}
	defer func() { retErr = errors.Join(retErr, os.Remove(dir)) }()
	exe, err := container.SealedSelf(dir)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	interruptible, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	artifacts, err := compiler.Run(interruptible, compiler.Job{
		ID: strconv.Itoa(os.Getpid()), Dir: dir, Exe: exe, Layers: []compiler.Layer{{File: file}},
		Kind: ctx.Kind, Options: shown, LogLevel: ctx.LogLevel, Limits: limits, Log: logger,
	})
	if interruptible.Err() != nil {
		return nil, fmt.Errorf("interrupted while compiling %s", ctx.Path)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: not compiled, the original is run: %v\n", p.name(), err)
		return nil, nil
	}
	if artifact := artifacts[0]; artifact != nil {
		st, err := artifact.Stat()
		if err != nil {
			return nil, err
		}
		logger.Infof("compiled %s: an artifact of %d bytes in %s", ctx.Path, st.Size(), time.Since(begin).Round(time.Millisecond))
	}
	guest := &image.Guest{Layers: []image.Layer{{File: file, Artifact: artifacts[0]}}}
	var files []*os.File
	ctx.Layers, files = guest.Stage()
	return files, nil
}
