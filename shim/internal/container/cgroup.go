// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
)

// killTimeout bounds the wait for killed processes: one in uninterruptible
// sleep may never go.
const killTimeout = 10 * time.Second

// cgroup is where a container's cgroup is, without the resources that were set.
type cgroup struct {
	config cgroups.Cgroup
	paths  map[string]string
}

func newCgroup(config *cgroups.Cgroup) (cgroup, error) {
	m, err := manager.New(config)
	if err != nil {
		return cgroup{}, fmt.Errorf("open cgroup: %w", err)
	}
	c := cgroup{config: *config, paths: maps.Clone(m.GetPaths())}
	c.config.Resources = nil
	c.config.SystemdProps = nil
	return c, nil
}

// manager returns a manager of the caller's own: managers are changed by their
// use, freezing and removing for example.
func (c cgroup) manager() (cgroups.Manager, error) {
	config := c.config
	config.Resources = &cgroups.Resources{}
	m, err := manager.NewWithPaths(&config, maps.Clone(c.paths))
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	return m, nil
}

// kill kills every process until none is left.
func (c cgroup) kill() error {
	m, err := c.manager()
	if err != nil {
		return err
	}
	return killCgroup(m)
}

func (c cgroup) remove() error {
	m, err := c.manager()
	if err != nil {
		return err
	}
	if err := m.Destroy(); err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}

// killCgroup kills every process in m, and those of also that are still the
// same, until none is left.
func killCgroup(m cgroups.Manager, also ...stat) error {
	// A dying process leaves the cgroup before it has let go of its mounts: those
	// once seen are watched until they are zombies or gone.
	seen := map[int]stat{}
	for _, s := range also {
		seen[s.pid] = s
	}
	deadline := time.Now().Add(killTimeout)
	for delay := time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		pids, err := allPids(m)
		if err != nil {
			return err
		}
		if slices.Contains(pids, os.Getpid()) {
			return fmt.Errorf("kill processes of cgroup %v: this process is one of them", m.GetPaths())
		}
		for pid, s := range seen {
			if !slices.Contains(pids, pid) && !s.alive() {
				delete(seen, pid)
			}
		}
		for _, pid := range pids {
			if s, err := readStat(pid); err == nil {
				seen[pid] = s
			}
		}
		if len(seen) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill processes of cgroup: %v survive SIGKILL for %s", slices.Sorted(maps.Keys(seen)), killTimeout)
		}
		if unified := m.Path(""); unified != "" && len(pids) > 0 {
			_ = cgroups.WriteFile(unified, "cgroup.kill", "1") // since Linux 5.14
		}
		for pid := range seen {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if err := thaw(m); err != nil {
			return err
		}
		time.Sleep(delay)
	}
}

// allPids lists the processes of every hierarchy, as a process may be killed
// on its way from one to the next.
func allPids(m cgroups.Manager) ([]int, error) {
	var all []int
	for _, path := range m.GetPaths() {
		pids, err := cgroups.GetAllPids(path)
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("list processes of cgroup: %w", err)
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// thaw ends a freeze of m itself.
func thaw(m cgroups.Manager) error {
	state, err := m.GetFreezerState()
	if err != nil && !gone(err) {
		return fmt.Errorf("read freezer state: %w", err)
	}
	if state != cgroups.Frozen {
		return nil
	}
	if err := m.Freeze(cgroups.Thawed); err != nil && !gone(err) {
		return fmt.Errorf("thaw cgroup: %w", err)
	}
	return nil
}

// gone tells whether a cgroup's file could not be used because the cgroup was
// removed meanwhile.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// OutOfMemory says whether the kernel has killed a process of the container for
// want of memory. It is known until Delete.
func (c *Container) OutOfMemory() bool {
	m, err := c.cgroup.manager()
	if err != nil {
		return false
	}
	n, err := m.OOMKillCount()
	return err == nil && n > 0
}
