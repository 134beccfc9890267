// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
	"github.com/libwasmshim/libwasmshim/shim/internal/status"
	"github.com/libwasmshim/libwasmshim/shim/internal/steps"
)

// rootDir is the directory in a bundle that holds libcontainer's state.
const rootDir = "shim"

// podAnnotation is where CRI names a container's pod.
const podAnnotation = "io.kubernetes.cri.sandbox-id"

// imageAnnotation is where CRI says what the user called a container's image.
const imageAnnotation = "io.kubernetes.cri.image-name"

// initPidFile is where tools look for a container's pid.
const initPidFile = "init.pid"

func (s *Service) create(ctx context.Context, r *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
	t, ctx, err := s.reserve(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	defer s.endCreation(t, r.Bundle) // also after a panic
	c := &creation{Service: s, t: t, r: r, took: steps.New(), made: made{bundle: r.Bundle}}
	if t.made, err = c.run(ctx); err != nil {
		t.log.WithError(err).Error("create container")
		return nil, fmt.Errorf("create container %s: %w", r.ID, neverUnimplemented(err))
	}
	t.become(created)
	s.Publish(topicCreate, &events.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Checkpoint: r.Checkpoint, Pid: t.pid,
		IO: &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	if t.status != nil {
		go t.status.Follow()
	}
	go s.await(t)
	return &api.CreateTaskResponse{Pid: t.pid}, nil
}

// endCreation ends the turn of a create; a task that was not made is forgotten.
func (s *Service) endCreation(t *task, bundle string) {
	t.abort()
	if t.now() == creating {
		s.drop(t)
		// containerd was killed, and started again while the container was created: it
		// has removed the bundle then, and does not know of this daemon.
		if !exists(bundle) {
			s.stopIfEmpty()
		}
	}
	<-t.turn
}

// neverUnimplemented gives an error of a create another code, if it has that one:
// containerd would take this shim for an older one, and try again in the older
// version of the API, for good.
func neverUnimplemented(err error) error {
	if errdefs.IsNotImplemented(err) {
		return fmt.Errorf("%v: %w", err, errdefs.ErrFailedPrecondition) //nolint:errorlint // its code is what must not be seen
	}
	return err
}

// creation is the making of one container, step by step. Each step says how it is
// undone.
type creation struct {
	*Service
	t    *task
	r    *api.CreateTaskRequest
	took *steps.Steps

	undos  []func() error // of what was done, if the creation fails
	closes []func()       // of what is not needed any more, in any case

	spec    *specs.Spec
	opts    options.Options
	engine  map[string]string // the values of the engine's options
	root    string            // of the container's file system
	code    image.Request
	entry   entrypoint.Entry
	guest   *image.Guest // nil for a native program, and for a file that is run as it is
	process container.Process

	made made
}

// run takes all the steps. Of a container that was not made nothing is left.
func (c *creation) run(ctx context.Context) (_ *made, retErr error) {
	isMade := false
	defer func() {
		if !isMade { // also after a panic
			retErr = errors.Join(retErr, c.undo())
		}
	}()
	defer c.close()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"spec", c.readSpecAndOptions},
		{"rootfs", c.mountRootfs},
		{"streams", c.openStreams},
		{"guest", c.findGuest},
		{"stage", c.prepareProcess},
		{"libcontainer", c.createContainer},
		{"pidfile", c.writePidFile},
	} {
		if err := step.do(ctx); err != nil {
			return nil, err
		}
		if err := c.wanted(ctx); err != nil {
			return nil, err
		}
		c.took.Done(step.name)
	}
	c.took.Log(c.t.log, "create")
	isMade = true
	made := c.made // and nothing else of the creation, which is large
	return &made, nil
}

// wanted says whether somebody still waits for the container. A delete of what
// containerd has given up may have come before this create.
func (c *creation) wanted(ctx context.Context) error {
	err := ctx.Err()
	if err == nil && cleanedUpOutside(c.r.Bundle) {
		err = context.Canceled
	}
	if err != nil {
		return fmt.Errorf("it was given up meanwhile: %w", err)
	}
	return nil
}

// undo undoes what was done, the last first.
func (c *creation) undo() error {
	var errs []error
	for _, undo := range slices.Backward(c.undos) {
		errs = append(errs, undo())
	}
	return errors.Join(errs...)
}

func (c *creation) close() {
	for _, close := range slices.Backward(c.closes) {
		close()
	}
}

func (c *creation) readSpecAndOptions(context.Context) (err error) {
	if c.r.Terminal {
		return fmt.Errorf("a terminal was asked for, which this shim does not support yet; run without -t: %w", errdefs.ErrInvalidArgument)
	}
	if c.r.Checkpoint != "" {
		return fmt.Errorf("restore from checkpoint %s is not supported: %w", c.r.Checkpoint, errdefs.ErrInvalidArgument)
	}
	if c.opts, err = options.Parse(c.r.Options, c.Options, c.Binary); err != nil {
		return err
	}
	if c.spec, err = c.readSpec(c.r.Bundle); err != nil {
		return err
	}
	if pod := c.spec.Annotations[podAnnotation]; pod != "" {
		c.t.log = c.t.log.WithField("pod", pod)
	}
	c.engine, err = c.opts.ForContainer(c.spec.Annotations, c.Options)
	return err
}

// mountRootfs mounts what containerd asks for at the bundle's rootfs. Without
// mounts the root file system is where the spec says.
func (c *creation) mountRootfs(context.Context) error {
	if len(c.r.Rootfs) == 0 {
		c.root = c.spec.Root.Path
		if !filepath.IsAbs(c.root) {
			c.root = filepath.Join(c.r.Bundle, c.root)
		}
		return nil
	}
	c.root = filepath.Join(c.r.Bundle, "rootfs")
	if err := os.Mkdir(c.root, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	c.made.rootfs = c.root
	c.undos = append(c.undos, func() error { return mount.UnmountRecursive(c.root, 0) })
	if err := mount.All(mount.FromProto(c.r.Rootfs), c.root); err != nil {
		return fmt.Errorf("mount root file system: %w", err)
	}
	return nil
}

func (c *creation) openStreams(context.Context) (err error) {
	n := names{stdin: c.r.Stdin, stdout: c.r.Stdout, stderr: c.r.Stderr}
	if c.made.streams, err = openStreams(n, c.r.ID, c.Namespace, c.t.log); err != nil {
		return err
	}
	c.undos = append(c.undos, func() error { c.made.streams.close(); return nil })
	if err := c.made.streams.chown(c.opts.IoUID, c.opts.IoGID); err != nil {
		return fmt.Errorf("runtime options IoUid, IoGid: %w", err)
	}
	return nil
}

// prepareProcess says what the container's init is to execute: the program, or for a
// guest the sealed binary, which finds all that it needs in its context.
func (c *creation) prepareProcess(context.Context) error {
	c.spec.Process.Env = entrypoint.Environment(c.spec, c.r.Bundle, c.root, c.entry.Kind)
	s := c.made.streams
	c.process = container.Process{
		Args: c.spec.Process.Args, Env: c.spec.Process.Env, Spec: c.spec.Process,
		Stdin: s.in.processEnd(), Stdout: s.out.processEnd(), Stderr: s.err.processEnd(),
	}
	if c.entry.Kind == entrypoint.Native {
		return nil
	}
	exe, err := c.exe.get(c.r.Bundle)
	if err != nil {
		return err
	}
	context, layers := c.context()
	f, err := context.File()
	if err != nil {
		return fmt.Errorf("write the runner's context: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	c.closes = append(c.closes, func() { f.Close() })
	says, err := status.New(c.t.log)
	if err != nil {
		return err
	}
	c.made.status = says
	c.closes = append(c.closes, says.HandedOver)
	c.undos = append(c.undos, func() error { says.Close(); return nil })
	if guest, code, service := c.guest, c.code, c.Service; guest != nil {
		says.Refused = func(index int) { service.code.Refuse(code, guest, index) }
	}
	c.process.Args = append([]string{stage.Exe}, commandLine(c.process.Args)...)
	// Without a HOME, libcontainer would read the container's /etc/passwd.
	c.process.Env = []string{stage.RoleEnv, "HOME=/"}
	c.process.ExtraFiles = append([]*os.File{exe, f, says.Peer}, layers...)
	return nil
}

func (c *creation) createContainer(context.Context) (err error) {
	c.made.container, err = container.Create(container.Config{
		ID: c.r.ID, Root: filepath.Join(c.r.Bundle, rootDir), Bundle: c.r.Bundle, Spec: c.spec,
		SystemdCgroup: c.opts.Systemd(c.spec), NoPivotRoot: c.opts.NoPivotRoot, NoNewKeyring: c.opts.NoNewKeyring,
	}, c.process)
	if err != nil {
		return err
	}
	c.made.pid = uint32(c.made.container.Pid())
	c.closes = append(c.closes, c.made.streams.handOver)
	c.undos = append(c.undos, func() error { return abandon(c.made.container) })
	return nil
}

func (c *creation) writePidFile(context.Context) error {
	name := filepath.Join(c.r.Bundle, initPidFile)
	if err := os.WriteFile(name, []byte(strconv.Itoa(c.made.container.Pid())), 0o644); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	return nil
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

// context is what the runner is told, and the files of its layers.
func (c *creation) context() (*stage.Context, []*os.File) {
	s := runnerContext(c.Namespace, c.r.ID, c.spec, c.entry, c.engine)
	c.spec, s.Hidden, s.MustHide = guestProc(c.spec, c.opts.GuestProc)
	s.LogLevel = c.code.LogLevel
	var files []*os.File
	if c.guest != nil {
		s.Layers, files = c.guest.Stage()
	}
	return s, files
}

func runnerContext(namespace, id string, spec *specs.Spec, e entrypoint.Entry, engine map[string]string) *stage.Context {
	c := &stage.Context{
		ID: id, Pod: spec.Annotations[podAnnotation], Namespace: namespace,
		Args: spec.Process.Args, Env: spec.Process.Env, Cwd: spec.Process.Cwd,
		Path: e.Path, Func: e.Func, Name: e.Name, Kind: uint32(e.Kind),
		Options: options.List(engine),
	}
	if value, ok := engine[options.Preopens.Key]; ok {
		c.Preopens, _ = options.ParsePreopens(value) // checked when it was read
		c.NoPreopens = len(c.Preopens) == 0
	}
	if spec.Linux != nil && spec.Linux.Resources != nil {
		if m := spec.Linux.Resources.Memory; m != nil && m.Limit != nil && *m.Limit > 0 {
			c.Memory = uint64(*m.Limit)
		}
		if cpu := spec.Linux.Resources.CPU; cpu != nil && cpu.Quota != nil && *cpu.Quota > 0 && cpu.Period != nil && *cpu.Period > 0 {
			c.CPU = uint64(*cpu.Quota) * 1000 / *cpu.Period
		}
	}
	return c
}

// abandon undoes a create whose container exists already.
func abandon(c *container.Container) error {
	_ = c.Signal(sigkill, true)
	_, err := c.Wait(context.Background())
	return errors.Join(err, c.Delete())
}
