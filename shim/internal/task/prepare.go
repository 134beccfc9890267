// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
	"github.com/libwasmshim/libwasmshim/shim/internal/status"
	"github.com/libwasmshim/libwasmshim/shim/internal/steps"
)

// preparation makes of a process's spec what libcontainer starts: its streams, its
// code, and the program and descriptors that it is executed with. Each step says how
// it is undone.
type preparation struct {
	*Service
	*made         // of the container; what is known of it so far
	id     string // of the container
	execID string // empty for the init
	log    *log.Entry
	names  names
	spec   *specs.Spec    // of the container
	run    *specs.Process // what is to be run: the spec's process, or an exec's
	limits container.Limits
	looks  chan struct{} // the task's

	undos  []func() error // of what was done, if the preparation fails
	closes []func()       // of what is not needed any more, in any case

	entry   entrypoint.Entry
	noEntry error // why there is none
	code    image.Request
	guest   *image.Guest // nil for a native program, and for a file that is run as it is
	streams *streams
	status  *status.Status
	process container.Process
}

// step is one of several that are taken in order.
type step struct {
	name string
	do   func(context.Context) error
}

// parts are what the process has, once it is there.
func (p *preparation) parts(c child) parts {
	return parts{child: c, pid: uint32(c.Pid()), streams: p.streams, status: p.status, log: p.log}
}

// preparationSteps are those of every process.
func (p *preparation) preparationSteps() []step {
	return []step{
		{"lookup", p.lookUp},
		{"guest", p.findGuest},
		// Late: clients wait for it before they write, and some that have written all look
		// for the container.
		{"streams", p.openStreams},
		{"stage", p.prepareProcess},
	}
}

// take takes all the steps, of which wanted says after each whether there is still a
// reason to. After an error, or a panic, nothing is left of them.
func (p *preparation) take(ctx context.Context, what string, wanted func(context.Context) error, all []step) (retErr error) {
	done := false
	defer func() {
		if !done {
			retErr = errors.Join(retErr, p.undo())
		}
	}()
	defer p.close()
	took := steps.New()
	for _, step := range all {
		if err := step.do(ctx); err != nil {
			return err
		}
		if err := wanted(ctx); err != nil {
			return err
		}
		took.Done(step.name)
	}
	took.Log(p.log, what)
	done = true
	return nil
}

// undo undoes what was done, the last first.
func (p *preparation) undo() error {
	var errs []error
	for _, undo := range slices.Backward(p.undos) {
		errs = append(errs, undo())
	}
	return errors.Join(errs...)
}

func (p *preparation) close() {
	for _, close := range slices.Backward(p.closes) {
		close()
	}
}

func (p *preparation) openStreams(context.Context) (err error) {
	if p.streams, err = openStreams(p.names, p.id, p.Namespace, &p.remotes, p.log); err != nil {
		return err
	}
	p.undos = append(p.undos, func() error { p.streams.close(); return nil })
	if err := p.streams.chown(p.opts.IoUID, p.opts.IoGID); err != nil {
		return fmt.Errorf("runtime options IoUid, IoGid: %w", err)
	}
	return nil
}

// How long file systems may take to answer: those of a living container, which may be its
// own and never do, and those that a container is made of, a volume on a network for one.
const (
	lookTimeout   = 5 * time.Second
	volumeTimeout = 30 * time.Second
)

// lookUp looks in the container's file systems for the program, and for what belongs into
// its environment. A thread that gets no answer stays until it has one, or until the
// container ends.
func (p *preparation) lookUp(ctx context.Context) error {
	look, timeout := p.lookOutside, volumeTimeout
	if p.execID != "" {
		look, timeout = p.lookInside, lookTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	f, err := p.within(ctx, look)
	if err != nil {
		return err
	}
	p.entry, p.noEntry, p.run.Env = f.entry, f.err, f.env
	if f.entry.File != nil {
		p.closes = append(p.closes, func() { f.entry.File.Close() })
	}
	return nil
}

// found is what a container's file systems say of a process.
type found struct {
	entry entrypoint.Entry
	err   error // why there is no entry
	env   []string
}

func (p *preparation) within(ctx context.Context, look func() found) (found, error) {
	silent := fmt.Errorf("the container's file systems do not answer: %w", errdefs.ErrUnavailable)
	select {
	case p.looks <- struct{}{}:
	case <-ctx.Done():
		return found{}, silent
	}
	answer := make(chan found)
	go func() {
		defer func() { <-p.looks }()
		f := look()
		select {
		case answer <- f:
		case <-ctx.Done():
			if f.entry.File != nil {
				f.entry.File.Close()
			}
		}
	}()
	select {
	case f := <-answer:
		return f, nil
	case <-ctx.Done():
		return found{}, silent
	}
}

// lookOutside looks at what the container will see, before there is anything of it.
func (p *preparation) lookOutside() found { return p.look(p.spec, p.root) }

// lookInside looks at what the container's processes see now: whatever is mounted, and
// whatever hooks did.
func (p *preparation) lookInside() found {
	spec := *p.spec
	spec.Process, spec.Mounts, spec.Hooks = p.run, nil, nil
	root, err := p.container.OpenRoot()
	if err != nil {
		return found{err: err}
	}
	defer root.Close()
	return p.look(&spec, fmt.Sprintf("/proc/self/fd/%d", root.Fd()))
}

func (p *preparation) look(spec *specs.Spec, root string) (f found) {
	// This is not the goroutine of a call, which has a barrier of its own.
	defer func() {
		if bug := recover(); bug != nil {
			p.log.Errorf("panic: %v\n%s", bug, debug.Stack())
			f = found{err: fmt.Errorf("shim has a bug: %v; its log has the stack: %w", bug, errdefs.ErrInternal)}
		}
	}()
	f.entry, f.err = entrypoint.Resolve(spec, p.bundle, root, p.Engine.Name, p.Engine.Kinds)
	kind := f.entry.Kind
	if errors.Is(f.err, entrypoint.ErrUnknown) {
		kind = entrypoint.Native
	}
	f.env = entrypoint.Environment(spec, p.bundle, root, kind)
	return f
}

// prepareProcess says what is executed: the program, or for a guest the sealed binary,
// which finds all that it needs in its context.
func (p *preparation) prepareProcess(context.Context) error {
	p.process = container.Process{Args: p.run.Args, Env: p.run.Env, Spec: p.run}
	p.process.Stdin, p.process.Stdout, p.process.Stderr = p.streams.processEnds()
	if p.entry.Kind == entrypoint.Native {
		return nil
	}
	exe, err := p.exe.get(p.bundle)
	if err != nil {
		return err
	}
	args := append([]string{stage.Exe}, commandLine(p.run.Args)...)
	if err := checkLimits(p.run.Rlimits, p.exe.leastLimits(), args); err != nil {
		return err
	}
	context, layers := p.context()
	run := *p.run
	run.Rlimits, context.Rlimits = splitLimits(run.Rlimits)
	f, err := context.File()
	if err != nil {
		return fmt.Errorf("write the runner's context: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	p.closes = append(p.closes, func() { f.Close() })
	says, err := status.New(p.log)
	if err != nil {
		return err
	}
	p.status = says
	p.closes = append(p.closes, says.HandedOver)
	p.undos = append(p.undos, func() error { says.Close(); return nil })
	if guest, code, service := p.guest, p.code, p.Service; guest != nil {
		says.Refused = func(index int) { service.code.Refuse(code, guest, index) }
	}
	p.process.Args, p.process.Spec = args, &run
	// Without a HOME, libcontainer would read the container's /etc/passwd.
	p.process.Env = []string{stage.RoleEnv, "HOME=/"}
	p.process.ExtraFiles = append([]*os.File{exe, f, says.Peer}, layers...)
	return nil
}

// context is what the runner is told, and the files of its layers.
func (p *preparation) context() (*stage.Context, []*os.File) {
	c := &stage.Context{
		ID: p.id, ExecID: p.execID, Pod: p.spec.Annotations[podAnnotation], Namespace: p.Namespace,
		Args: p.run.Args, Env: p.run.Env, Cwd: p.run.Cwd,
		Path: p.entry.Path, Func: p.entry.Func, Name: p.entry.Name, Kind: uint32(p.entry.Kind),
		Options: options.List(p.engine), LogLevel: p.code.LogLevel,
	}
	if value, ok := p.engine[options.Preopens.Key]; ok {
		c.Preopens, _ = options.ParsePreopens(value) // checked when it was read
		c.NoPreopens = len(c.Preopens) == 0
	}
	c.Memory, c.CPU = p.limits.Memory, p.limits.CPU
	p.spec, c.Hidden, c.MustHide = guestProc(p.spec, p.opts.GuestProc)
	var files []*os.File
	if p.guest != nil {
		c.Layers, files = p.guest.Stage()
	}
	return c, files
}

// maxCommandLine is how much of a guest's arguments is shown by ps, in bytes.
const maxCommandLine = 32 << 10

// commandLine cuts a guest's arguments to what the kernel takes in any case. The
// guest itself gets them from the context, where they have no limit of the
// kernel's.
func commandLine(args []string) []string {
	room := maxCommandLine
	for i, a := range args {
		if len(a) >= room {
			return append(slices.Clone(args[:i]), a[:room])
		}
		room -= len(a) + 1
	}
	return args
}
