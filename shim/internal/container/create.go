// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// createTimeout ends a Create that hangs, on a dead network mount for example.
// It is shorter than the kubelet's two minutes, so that our reason is what the
// user reads. A variable for tests.
var createTimeout = 100 * time.Second

// Create makes the container and its init, which waits for Start. On error
// nothing is left behind.
func Create(cfg Config, p Process) (_ *Container, retErr error) {
	if err := Validate(cfg.Spec); err != nil {
		return nil, err
	}
	lp, err := newProcess(p, true)
	if err != nil {
		return nil, err
	}
	config, err := newConfig(cfg)
	if err != nil {
		return nil, err
	}
	lc, err := libcontainer.Create(cfg.Root, cfg.ID, config)
	if err != nil {
		_ = os.Remove(cfg.Root)
		return nil, createError(cfg.ID, err)
	}
	c := &Container{
		id:         cfg.ID,
		root:       cfg.Root,
		lc:         lc,
		privatePID: config.Namespaces.IsPrivate(configs.NEWPID),
		execs:      map[*Exec]struct{}{},
	}
	n := beginStart()
	c.init, err = c.startInit(lp)
	if err != nil {
		err = errors.Join(err, c.killCgroup())
	}
	endStart(n, c.init)
	if err != nil {
		if uerr := c.destroy(); uerr != nil {
			err = fmt.Errorf("%w (and clean up: %w)", err, uerr)
		}
		return nil, fmt.Errorf("create container %s: %w", cfg.ID, err)
	}
	go c.init.reap(c.initExited)
	return c, nil
}

func (c *Container) startInit(lp *libcontainer.Process) (*process, error) {
	stop := time.AfterFunc(createTimeout, func() { _ = c.killCgroup() })
	p, err := startChild(c.lc, lp)
	if !stop.Stop() {
		return nil, fmt.Errorf("init was not up after %s and was killed: %w", createTimeout, errors.Join(context.DeadlineExceeded, err))
	}
	return p, err
}

// startChild has libcontainer start lp.
func startChild(lc *libcontainer.Container, lp *libcontainer.Process) (*process, error) {
	err := lc.Start(lp)
	if err == nil {
		return newChild(lp)
	}
	// libcontainer has killed and waited, as far as it knows the process; where it
	// has, this fails.
	if lp.Signal(unix.SIGKILL) == nil {
		_, _ = lp.Wait()
	}
	return nil, err
}

// initExited runs between the init's end and the news of it.
func (c *Container) initExited() {
	if !c.privatePID {
		_ = c.killCgroup()
	}
	c.mu.Lock()
	execs := make([]*Exec, 0, len(c.execs))
	for e := range c.execs {
		execs = append(execs, e)
	}
	c.mu.Unlock()
	for _, e := range execs {
		<-e.done
	}
}

func createError(id string, err error) error {
	switch {
	case errors.Is(err, libcontainer.ErrExist):
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	case errors.Is(err, libcontainer.ErrInvalidID):
		return invalid("container id %q; it may have letters, digits and _ + - . only", id)
	}
	return fmt.Errorf("create container %s: %w", id, err)
}
