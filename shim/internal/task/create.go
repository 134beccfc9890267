// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
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

func (s *Service) create(ctx context.Context, r *api.CreateTaskRequest) (_ *api.CreateTaskResponse, retErr error) {
	t, ctx, err := s.reserve(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	defer func() {
		if retErr != nil {
			t.state = gone
		}
		s.settle(t)
		if retErr != nil {
			s.stopIfForgotten(r.Bundle)
		}
	}()
	if err := s.build(ctx, t, r); err != nil {
		t.log.WithError(err).Error("create container")
		return nil, fmt.Errorf("create container %s: %w", r.ID, err)
	}
	t.state = created
	s.Publish(topicCreate, &events.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Checkpoint: r.Checkpoint, Pid: t.pid,
		IO: &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	go s.await(t)
	return &api.CreateTaskResponse{Pid: t.pid}, nil
}

// build makes the container and fills in the task. On error nothing of it is
// left.
func (s *Service) build(ctx context.Context, t *task, r *api.CreateTaskRequest) (retErr error) {
	if r.Terminal {
		return fmt.Errorf("a terminal was asked for, which this shim does not support yet; run without -t: %w", errdefs.ErrNotImplemented)
	}
	if r.Checkpoint != "" {
		return fmt.Errorf("restore from checkpoint %s is not supported: %w", r.Checkpoint, errdefs.ErrNotImplemented)
	}
	took := steps.New()
	opts, err := options.Parse(r.Options, s.Options, s.Binary)
	if err != nil {
		return err
	}
	spec, err := s.readSpec(r.Bundle)
	if err != nil {
		return err
	}
	if pod := spec.Annotations[podAnnotation]; pod != "" {
		t.log = t.log.WithField("pod", pod)
	}
	engineOptions, err := opts.ForContainer(spec.Annotations, s.Options)
	if err != nil {
		return err
	}
	took.Done("spec")
	rootfs, err := mountRootfs(r, spec)
	if err != nil {
		return err
	}
	defer func() {
		if retErr != nil && rootfs.mounted {
			retErr = errors.Join(retErr, mount.UnmountRecursive(rootfs.path, 0))
		}
	}()
	took.Done("rootfs")
	io, err := openStdio(r.Stdin, r.Stdout, r.Stderr, r.ID, s.Namespace)
	if err != nil {
		return err
	}
	defer func() {
		if retErr != nil {
			io.close()
		}
	}()
	if err := io.chown(opts.IoUID, opts.IoGID); err != nil {
		return fmt.Errorf("runtime options IoUid, IoGid: %w", err)
	}
	took.Done("streams")
	want := image.Request{
		ID: r.ID, Bundle: r.Bundle, Args: spec.Process.Args, Env: spec.Process.Env, ImageName: spec.Annotations[imageAnnotation],
		Options: options.CompilerList(engineOptions, s.Options), KeyOptions: options.KeyList(engineOptions, s.Options),
		LogLevel: status.Level(t.log, opts.LogLevel), Limits: compileLimits(opts), Place: compiler.Place{Cgroup: opts.CompileCgroup, Compilers: opts.Compilers}, Log: t.log,
	}
	entry, guest, err := s.findGuest(ctx, want, spec, r, rootfs.path)
	if err != nil {
		return err
	}
	defer guest.Close()
	took.Done("guest")
	spec.Process.Env = entrypoint.Environment(spec, r.Bundle, rootfs.path, entry.Kind)
	p := container.Process{
		Args: spec.Process.Args, Env: spec.Process.Env, Spec: spec.Process,
		Stdin: io.in, Stdout: io.out, Stderr: io.err,
	}
	if entry.Kind != entrypoint.Native {
		sc := s.context(r.ID, spec, entry, engineOptions)
		spec, sc.Hidden, sc.MustHide = guestProc(spec, opts.GuestProc)
		sc.LogLevel = want.LogLevel
		var files []*os.File
		if guest != nil {
			sc.Layers, files = guest.Stage()
		}
		handed, said, err := s.asRunner(&p, sc, files, r.Bundle, t.log)
		if err != nil {
			return err
		}
		defer handed()
		defer func() {
			if retErr != nil {
				said.Close()
			}
		}()
		if guest != nil {
			said.Refused = func(index int) { s.code.Refuse(want, guest, index) }
		}
		t.status = said
	}
	took.Done("stage")
	c, err := container.Create(container.Config{
		ID: r.ID, Root: filepath.Join(r.Bundle, rootDir), Bundle: r.Bundle, Spec: spec,
		SystemdCgroup: opts.Systemd(spec), NoPivotRoot: opts.NoPivotRoot, NoNewKeyring: opts.NoNewKeyring,
	}, p)
	if err != nil {
		return err
	}
	took.Done("libcontainer")
	took.Log(t.log, "create")
	io.handedOver()
	pid := strconv.Itoa(c.Pid())
	if err := os.WriteFile(filepath.Join(r.Bundle, initPidFile), []byte(pid), 0o644); err != nil {
		return errors.Join(fmt.Errorf("write pid file: %w", err), abandon(c))
	}
	t.c, t.bundle, t.pid, t.io = c, r.Bundle, uint32(c.Pid()), io
	if rootfs.mounted {
		t.rootfs = rootfs.path
	}
	if t.status != nil {
		go t.status.Follow()
	}
	t.streams = streams{stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr}
	return nil
}

// asRunner makes the process the engine's: it executes the sealed binary,
// which finds all that it needs in the context. handed closes what the process
// has inherited, or was to inherit. layers are the files of ctx.Layers, which stay
// the caller's.
func (s *Service) asRunner(p *container.Process, ctx *stage.Context, layers []*os.File, bundle string, logger *log.Entry) (handed func(), _ *status.Status, retErr error) {
	exe, err := s.exe.get(bundle)
	if err != nil {
		return nil, nil, err
	}
	f, err := ctx.File()
	if err != nil {
		return nil, nil, fmt.Errorf("write the runner's context: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	said, err := status.New(logger)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	p.Args = append([]string{stage.Exe}, commandLine(p.Args)...)
	// Without a HOME, libcontainer would read the container's /etc/passwd.
	p.Env = []string{stage.RoleEnv, "HOME=/"}
	p.ExtraFiles = append([]*os.File{exe, f, said.Peer}, layers...)
	return func() { f.Close(); said.HandedOver() }, said, nil
}

// maxCommandLine is how much of a guest's arguments is shown by ps, in bytes.
const maxCommandLine = 32 << 10

// commandLine cuts a guest's arguments to what the kernel takes in any case. The
// guest itself gets them from the context, where they have no limit of the
// kernel's.
func commandLine(args []string) []string {
	left := maxCommandLine
	for i, a := range args {
		if len(a) >= left {
			return append(slices.Clone(args[:i]), a[:left])
		}
		left -= len(a) + 1
	}
	return args
}

func (s *Service) context(id string, spec *specs.Spec, e entrypoint.Entry, engine map[string]string) *stage.Context {
	c := &stage.Context{
		ID: id, Pod: spec.Annotations[podAnnotation], Namespace: s.Namespace,
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

// Prepare does what can be done for the first container before containerd asks
// for it: while containerd connects, the other processor has nothing to do.
// id and config, the text of the bundle's config.json, are that container's.
func (s *Service) Prepare(id, bundle string, config []byte) {
	s.prepared.Lock()
	go func() {
		defer s.prepared.Unlock()
		spec := &specs.Spec{}
		if json.Unmarshal(config, spec) == nil {
			s.prepared.text, s.prepared.spec = config, spec
		}
		s.code.Expect(s.ctx, id)
		_, _ = s.exe.get(bundle) // create meets the error again, and reports it
	}()
}

// prepared is a spec that was parsed ahead, to be taken once.
type prepared struct {
	sync.Mutex
	text []byte      // guarded by Mutex
	spec *specs.Spec // guarded by Mutex
}

func (p *prepared) take(text []byte) *specs.Spec {
	p.Lock()
	defer p.Unlock()
	defer func() { p.text, p.spec = nil, nil }()
	if p.spec == nil || !bytes.Equal(text, p.text) {
		return nil
	}
	return p.spec
}

func (s *Service) readSpec(bundle string) (*specs.Spec, error) {
	if !filepath.IsAbs(bundle) {
		return nil, fmt.Errorf("bundle %q is not an absolute path: %w", bundle, errdefs.ErrInvalidArgument)
	}
	name := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	spec := s.prepared.take(text)
	if spec == nil {
		spec = &specs.Spec{}
		if err := json.Unmarshal(text, spec); err != nil {
			return nil, fmt.Errorf("parse %s: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
	}
	if err := container.Validate(spec); err != nil {
		return nil, err
	}
	return spec, validateStrings(spec.Process)
}

// validateStrings checks what a kernel would refuse or cut off.
func validateStrings(p *specs.Process) error {
	if len(p.Args) == 0 {
		return fmt.Errorf("config.json has no process.args; they must name what to run: %w", errdefs.ErrInvalidArgument)
	}
	for _, a := range p.Args {
		if strings.Contains(a, "\x00") {
			return fmt.Errorf("process.args has %q; an argument cannot hold a NUL byte: %w", a, errdefs.ErrInvalidArgument)
		}
	}
	for _, kv := range p.Env {
		if strings.Contains(kv, "\x00") || strings.IndexByte(kv, '=') < 1 {
			return fmt.Errorf("process.env has %q; it must be NAME=value, without a NUL byte: %w", kv, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

type rootfs struct {
	path    string
	mounted bool
}

// mountRootfs mounts what containerd asks for at the bundle's rootfs. Without
// mounts the root file system is where the spec says.
func mountRootfs(r *api.CreateTaskRequest, spec *specs.Spec) (rootfs, error) {
	if len(r.Rootfs) == 0 {
		p := spec.Root.Path
		if !filepath.IsAbs(p) {
			p = filepath.Join(r.Bundle, p)
		}
		return rootfs{path: p}, nil
	}
	dir := filepath.Join(r.Bundle, "rootfs")
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return rootfs{}, err
	}
	if err := mount.All(mount.FromProto(r.Rootfs), dir); err != nil {
		return rootfs{}, errors.Join(fmt.Errorf("mount root file system: %w", err), mount.UnmountRecursive(dir, 0))
	}
	return rootfs{path: dir, mounted: true}, nil
}

// abandon undoes a create whose container exists already.
func abandon(c *container.Container) error {
	_ = c.Signal(sigkill, true)
	_, err := c.Wait(context.Background())
	return errors.Join(err, c.Delete())
}
