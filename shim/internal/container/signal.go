// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

func (c *Container) signal(sig syscall.Signal, all bool) error {
	var err error
	if sig == syscall.SIGKILL {
		c.killed.Store(true)
	}
	switch {
	case sig == syscall.SIGKILL && !c.cgroup.PrivatePID:
		err = c.killAll()
	case all && sig != syscall.SIGKILL:
		err = c.signalAll(sig)
	default:
		err = c.signalOne(c.init, sig)
	}
	if err == nil && sig == syscall.SIGKILL {
		err = c.thawV1()
	}
	return err
}

// signalOne sends sig to a process that this one has started. SIGKILL arrives also where
// a security module does not allow it.
func (c *Container) signalOne(p *process, sig syscall.Signal) error {
	err := p.signal(sig)
	if sig == syscall.SIGKILL && forbidden(err) && !p.dead() && c.cgroup.killUnasked(p.pid) == nil {
		return nil
	}
	return err
}

// Pids returns the process ids of the container as the host sees them. A living
// init is one of them, wherever somebody may have moved it.
func (c *Container) Pids() ([]int, error) {
	pids, err := c.cgroup.pids(cgroups.GetAllPids)
	if err != nil {
		return nil, fmt.Errorf("list processes of container %s: %w", c.id, err)
	}
	if !slices.Contains(pids, c.Pid()) && !c.init.dead() {
		pids = append(pids, c.Pid())
	}
	return pids, nil
}

// killAll kills what this process has started by itself, because it may have been
// moved out of the cgroup, and what is in the cgroup.
func (c *Container) killAll() error {
	err := c.signalOne(c.init, syscall.SIGKILL)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	for _, e := range c.runningExecs() {
		_ = e.Signal(syscall.SIGKILL) // or it has finished
	}
	members, merr := c.cgroup.members()
	if merr != nil {
		return join(merr, err)
	}
	if len(members) == 0 {
		return err
	}
	return c.cgroup.kill()
}

// signalAll sends sig to every process of the container. Ids are checked again once
// a pidfd holds them, so that a reused id is not hit.
func (c *Container) signalAll(sig syscall.Signal) error {
	before, err := c.Pids()
	if err != nil {
		return err
	}
	fds := make(map[int]int, len(before))
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, pid := range before {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			fds[pid] = fd
		}
	}
	after, err := c.Pids()
	if err != nil {
		return err
	}
	sent := 0
	var errs []error
	for pid, fd := range fds {
		if !slices.Contains(after, pid) {
			continue
		}
		switch err := unix.PidfdSendSignal(fd, sig, nil, 0); {
		case err == nil:
			sent++
		case !errors.Is(err, unix.ESRCH):
			errs = append(errs, fmt.Errorf("signal process %d: %w", pid, err))
		}
	}
	if sent == 0 && len(errs) == 0 {
		return c.nothingToSignal()
	}
	return join(errs...)
}

// thawV1 lets SIGKILL reach a paused container: a frozen process of cgroup v1
// does not even die.
func (c *Container) thawV1() error {
	if cgroups.IsCgroup2UnifiedMode() {
		return nil
	}
	return c.cgroup.thaw()
}

func (c *Container) nothingToSignal() error {
	return fmt.Errorf("container %s has no process: %w", c.id, errdefs.ErrNotFound)
}
