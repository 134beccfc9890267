// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/libwasmshim/libwasmshim/shim/internal/rootless"
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
	label := takeLabel(config, cfg.Spec)
	defer useBus(cfg.SystemdCgroup)()
	lc, err := libcontainer.Create(cfg.Root, cfg.ID, config)
	if err != nil {
		_ = os.Remove(cfg.Root)
		return nil, createError(cfg.ID, err)
	}
	c := &Container{id: cfg.ID, root: cfg.Root, lc: lc, label: label, execs: map[*Exec]struct{}{}}
	if c.cgroup, err = newCgroup(config); err == nil {
		err = c.cgroup.save(c.stateDir())
	}
	if err != nil {
		return nil, join(err, c.destroy())
	}
	c.oom.above, c.oom.seen = c.cgroup.killsAbove(), c.cgroup.oomKills() // of an older container of this cgroup
	c.init, err = startWithin(limit, lc, lp, p.Spec.Terminal, func() error { return c.cgroup.kill() }, c.destroy)
	if err != nil {
		return nil, c.startError(err, cfg.Spec)
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

// startError says what libcontainer does not know, or does not say: that the kernel has killed
// the init for want of memory, which the cgroup above has counted, where systemd has removed the
// container's own by then; and that this machine has no such limit.
func (c *Container) startError(err error, spec *specs.Spec) error {
	if limit := LimitsOf(spec).Memory; limit != 0 && c.cgroup.killsAbove() != c.oom.above {
		return fmt.Errorf("the container's memory limit of %d bytes is too low: the kernel has killed its init: %w (%w)", limit, errdefs.ErrResourceExhausted, err)
	}
	if !cgroups.IsCgroup2UnifiedMode() {
		return err
	}
	above := cgroupRoot
	if rootlessCgroups(c.cgroup.Config.Systemd) {
		for above = filepath.Dir(c.cgroup.Paths[""]); above != cgroupRoot && !exists(above); {
			above = filepath.Dir(above)
		}
	}
	has, rerr := os.ReadFile(filepath.Join(above, "cgroup.controllers"))
	lacks := lacking(strings.Fields(string(has)), spec.Linux.Resources)
	switch {
	case rerr != nil || lacks == "":
		return err
	case rootless.Is():
		return fmt.Errorf("the container has a limit, and the cgroup %s, below which this user's containers are, has no controller %s: %w (%w)", above, lacks, errdefs.ErrFailedPrecondition, err)
	}
	return fmt.Errorf("the container has a limit, and this machine's cgroups have no controller %s: %w (%w)", lacks, errdefs.ErrFailedPrecondition, err)
}

// lacking is a controller of cgroups that resources need and that is not among those that
// there are; "" if there is none.
func lacking(controllers []string, r *specs.LinuxResources) string {
	if r == nil {
		return ""
	}
	for _, need := range []struct {
		controller string
		limited    bool
	}{
		{"memory", r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0},
		{"pids", r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit > 0},
		{"cpu", r.CPU != nil && r.CPU.Quota != nil && *r.CPU.Quota > 0},
		{"cpuset", r.CPU != nil && r.CPU.Cpus+r.CPU.Mems != ""},
	} {
		if need.limited && !slices.Contains(controllers, need.controller) {
			return need.controller
		}
	}
	return ""
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
