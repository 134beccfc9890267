// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
)

// rootDir is the directory in a bundle that holds libcontainer's state, or leads to it.
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
	container.HurryMoves()
	c := &creation{t: t, r: r, preparation: preparation{
		Service: s, id: r.ID, log: t.log, looks: t.looks, made: &made{bundle: r.Bundle},
		names: names{stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr, terminal: r.Terminal},
	}}
	if err := c.make(ctx); err != nil {
		c.log.WithError(err).Error("create container")
		err = fmt.Errorf("create container %s: %w", r.ID, neverUnimplemented(err))
		s.countRefused(err)
		return nil, err
	}
	pid := c.pid()
	s.Publish(topicCreate, &events.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Checkpoint: r.Checkpoint, Pid: pid,
		IO: &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	t.log, t.made, t.init.names = c.log, c.made, c.names
	logFailure(t.log, "note the container in its sandbox", s.noteInSandbox(t.id, t.bundle))
	if err := c.container.WatchOOM(func() { s.Publish(topicOOM, &events.TaskOOM{ContainerID: t.id}) }); err != nil {
		t.log.WithError(err).Debug("a want of memory is seen at the end of a process only")
	}
	s.follow(t, t.init, c.parts(c.container))
	return &api.CreateTaskResponse{Pid: pid}, nil
}

// endCreation ends the turn of a create; a task that was not made is forgotten.
func (s *Service) endCreation(t *task, bundle string) {
	t.abort()
	if t.init.now() == creating {
		s.drop(t)
		// containerd was killed, and started again while the container was created: it
		// has removed the bundle then, and does not know of this daemon.
		if !exists(bundle) {
			s.stopIfEmpty(s.ctx)
		}
	}
	<-t.init.turn
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

// creation is the making of one container, and of its init.
type creation struct {
	preparation
	t *task
	r *api.CreateTaskRequest
}

func (c *creation) make(ctx context.Context) error {
	all := []step{{"spec", c.readSpecAndOptions}, {"rootfs", c.mountRootfs}}
	all = append(all, c.preparationSteps()...)
	all = append(all, step{"libcontainer", c.createContainer}, step{"pidfile", c.writePidFile})
	return c.take(ctx, "create", c.wanted, all)
}

// wanted says whether somebody still waits for the container. A delete of what
// containerd has given up may have come before this create.
func (c *creation) wanted(ctx context.Context) error {
	err := ctx.Err()
	if err == nil && cleanedUpOutside(c.bundle) {
		err = context.Canceled
	}
	if err != nil {
		return fmt.Errorf("it was given up meanwhile: %w", err)
	}
	return nil
}

func (c *creation) readSpecAndOptions(context.Context) (err error) {
	if c.r.Checkpoint != "" {
		return fmt.Errorf("restore from checkpoint %s is not supported: %w", c.r.Checkpoint, errdefs.ErrInvalidArgument)
	}
	if c.opts, err = options.Parse(c.r.Options, c.Options, c.Binary); err != nil {
		return err
	}
	if c.spec, err = c.readSpec(c.id, c.bundle); err != nil {
		return err
	}
	c.attend(c.id, c.spec.Annotations)
	own := *c.spec.Process
	c.run = &own
	if own.Terminal != c.r.Terminal {
		return fmt.Errorf("process.terminal in config.json is %t, and the request says %t; both must say the same: %w", own.Terminal, c.r.Terminal, errdefs.ErrInvalidArgument)
	}
	if pod := c.spec.Annotations[podAnnotation]; pod != "" {
		c.log = c.log.WithField("pod", pod)
	}
	c.limits = container.LimitsOf(c.spec)
	c.engine, err = c.opts.ForContainer(c.spec.Annotations, c.Options)
	return err
}

// mountRootfs mounts what containerd asks for at the bundle's rootfs. Without
// mounts the root file system is where the spec says.
func (c *creation) mountRootfs(context.Context) error {
	if len(c.r.Rootfs) == 0 {
		c.root = c.spec.Root.Path
		if !filepath.IsAbs(c.root) {
			c.root = filepath.Join(c.bundle, c.root)
		}
		return nil
	}
	c.root = filepath.Join(c.bundle, "rootfs")
	if err := os.Mkdir(c.root, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	c.mounts = mount.FromProto(c.r.Rootfs)
	c.undos = append(c.undos, func() error { return unmountRoot(c.root) })
	if err := mount.All(c.mounts, c.root); err != nil {
		return fmt.Errorf("mount root file system: %w", err)
	}
	return nil
}

func (c *creation) createContainer(context.Context) (err error) {
	root, err := c.stateRoot()
	if err != nil {
		return err
	}
	c.spec.Process = c.run
	c.container, err = container.Create(container.Config{
		ID: c.id, Root: root, Bundle: c.bundle, Spec: c.spec,
		SystemdCgroup: c.opts.Systemd(c.spec), NoPivotRoot: c.opts.NoPivotRoot, NoNewKeyring: c.opts.NoNewKeyring,
	}, c.process)
	if err != nil {
		return err
	}
	c.undos = append(c.undos, func() error { return abandon(c.container) })
	c.streams.begin(c.container.Terminal())
	return nil
}

// stateRoot returns the directory for libcontainer's state. With the option Root it is a
// link to where runc's shim has it, and runc finds the container.
func (c *creation) stateRoot() (string, error) {
	root := filepath.Join(c.bundle, rootDir)
	if c.opts.Root == "" {
		return root, nil
	}
	shared := filepath.Join(c.opts.Root, c.Namespace)
	if err := os.MkdirAll(shared, 0o700); err != nil {
		return "", fmt.Errorf("runtime option Root: %w", err)
	}
	_ = os.Remove(root) // of a create that has failed
	return root, os.Symlink(shared, root)
}

func (c *creation) pid() uint32 { return uint32(c.container.Pid()) }

func (c *creation) writePidFile(context.Context) error {
	name := filepath.Join(c.bundle, initPidFile)
	if err := os.WriteFile(name, []byte(strconv.Itoa(c.container.Pid())), 0o644); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	return nil
}

// abandon undoes a create whose container exists already.
func abandon(c *container.Container) error {
	_ = c.Signal(sigkill, true)
	_, err := c.Wait(context.Background())
	return errors.Join(err, c.Delete())
}
