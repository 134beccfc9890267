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
// sleep may never go. A variable for tests.
var killTimeout = 10 * time.Second

// cgroup returns a cgroup manager of our own, as libcontainer's is private and
// behind the lock that its slow calls hold.
func (c *Container) cgroup() (cgroups.Manager, error) {
	config := *c.lc.Config().Cgroups // a copy, because freezing writes to it
	resources := *config.Resources
	config.Resources = &resources
	m, err := manager.New(&config)
	if err != nil {
		return nil, fmt.Errorf("open cgroup of container %s: %w", c.id, err)
	}
	return m, nil
}

func (c *Container) killCgroup() error {
	m, err := c.cgroup()
	if err != nil {
		return err
	}
	return killCgroup(m)
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
