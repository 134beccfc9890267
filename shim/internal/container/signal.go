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
	switch {
	case sig == syscall.SIGKILL && !c.privatePID:
		err = c.killAll()
	case all && sig != syscall.SIGKILL:
		err = c.signalAll(sig)
	default:
		err = c.init.signal(sig)
	}
	if err == nil && sig == syscall.SIGKILL {
		err = c.thaw()
	}
	return err
}

// Pids returns the process ids of the container as the host sees them.
func (c *Container) Pids() ([]int, error) {
	m, err := c.cgroup.manager()
	if err != nil {
		return nil, fmt.Errorf("list processes of container %s: %w", c.id, err)
	}
	pids, err := m.GetAllPids()
	if err != nil && !gone(err) {
		return nil, fmt.Errorf("list processes of container %s: %w", c.id, err)
	}
	return pids, nil
}

func (c *Container) killAll() error {
	pids, err := c.Pids()
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return c.nothingToSignal()
	}
	return c.cgroup.kill()
}

// signalAll sends sig to every process of the cgroup. Ids are checked again once
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
		} else if errors.Is(err, unix.ENOSYS) {
			fds[pid] = -1
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
		if fd < 0 {
			err = unix.Kill(pid, sig)
		} else {
			err = unix.PidfdSendSignal(fd, sig, nil, 0)
		}
		switch {
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

// thaw lets SIGKILL reach a paused container: a frozen process of cgroup v1
// does not even die.
func (c *Container) thaw() error {
	if cgroups.IsCgroup2UnifiedMode() {
		return nil
	}
	m, err := c.cgroup.manager()
	if err != nil {
		return err
	}
	return thaw(m)
}

func (c *Container) nothingToSignal() error {
	return fmt.Errorf("container %s has no process: %w", c.id, errdefs.ErrNotFound)
}
