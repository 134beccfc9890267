// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// Create makes the container and its init, which waits for Start. On error
// nothing is left behind.
func Create(cfg Config, p Process) (*Container, error) {
	return create(cfg, p, usualPatience)
}

func create(cfg Config, p Process, limit patience) (*Container, error) {
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
	withHookEnv(config, cfg, p)
	defer useBus(cfg.SystemdCgroup)()
	lc, err := libcontainer.Create(cfg.Root, cfg.ID, config)
	if err != nil {
		_ = os.Remove(cfg.Root)
		return nil, createError(cfg.ID, err)
	}
	c := &Container{id: cfg.ID, root: cfg.Root, lc: lc, execs: map[*Exec]struct{}{}}
	if c.cgroup, err = newCgroup(config); err == nil {
		err = c.cgroup.save(c.stateDir())
	}
	if err != nil {
		return nil, join(err, c.destroy())
	}
	c.oom.above, c.oom.seen = c.cgroup.killsAbove(), c.cgroup.oomKills() // of an older container of this cgroup
	c.init, err = startWithin(limit, lc, lp, p.Spec.Terminal, func() error { return c.cgroup.kill() }, c.destroy)
	if err != nil {
		return nil, c.startError(err, LimitsOf(cfg.Spec).Memory)
	}
	if !config.HasHook(configs.Poststop) && config.IntelRdt == nil {
		c.lc = nil
	}
	limits := LimitsOf(cfg.Spec)
	c.limits.Store(&limits)
	go c.init.reap(c.initExited)
	return c, nil
}

// initExited runs between the init's end and the news of it. One that cannot be
// killed does not keep the news back for ever.
func (c *Container) initExited() {
	defer c.endOOM()
	if !c.cgroup.PrivatePID {
		_ = c.killAll()
	}
	timer := time.NewTimer(killTimeout)
	defer timer.Stop()
	for _, e := range c.runningExecs() {
		select {
		case <-e.done:
		case <-timer.C:
			return
		}
	}
}

// startError says that the kernel has killed the init for want of memory, where the cgroup
// above has counted that. libcontainer reads the count of the container's own cgroup, which
// systemd has removed by then, and says which of its files it did not find.
func (c *Container) startError(err error, limit uint64) error {
	if limit == 0 || c.cgroup.killsAbove() == c.oom.above {
		return err
	}
	return fmt.Errorf("the container's memory limit of %d bytes is too low: the kernel has killed its init: %w (%w)", limit, errdefs.ErrResourceExhausted, err)
}

func createError(id string, err error) error {
	switch {
	case errors.Is(err, libcontainer.ErrExist):
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	case errors.Is(err, libcontainer.ErrInvalidID):
		return invalid("container id %q; it may have letters, digits and _ + - . only", id)
	}
	return err
}
