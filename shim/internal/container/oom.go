// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	v1 "github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fscommon"
	"golang.org/x/sys/unix"
)

// oomWatch knows how many processes of a container the kernel has killed for want of
// memory.
type oomWatch struct {
	mu    sync.Mutex        // also held while tell is called
	tell  func()            // guarded by mu; nil until WatchOOM, and once all is told
	seen  map[string]uint64 // the kernel's counts, by cgroup; guarded by mu
	total uint64            // of kills since the container was created; guarded by mu
	wake  *os.File          // guarded by mu; nil where the kernel tells nothing
	ended bool              // guarded by mu; the init has
}

// WatchOOM has tell called after the kernel has killed processes of the container for
// want of memory: once for those that it kills at about the same time, and before Wait
// returns for any of them. tell must not block. Whoever waits for the container calls this
// before. After an error kills are seen only when a process ends, and by Stats.
func (c *Container) WatchOOM(tell func()) error {
	c.oom.mu.Lock()
	c.oom.tell = tell
	c.oom.mu.Unlock()
	c.checkOOM()
	wake, err := c.cgroup.oomWake()
	if err != nil {
		return fmt.Errorf("watch memory of container %s: %w", c.id, err)
	}
	c.oom.mu.Lock()
	defer c.oom.mu.Unlock()
	if c.oom.ended {
		return wake.Close()
	}
	c.oom.wake = wake
	go c.followOOM(wake)
	return nil
}

// followOOM looks at the counts when the kernel has something to say of the cgroup's
// memory. In version 1 it says so before it kills.
func (c *Container) followOOM(wake *os.File) {
	b := make([]byte, 4<<10)
	for {
		if _, err := wake.Read(b); err != nil {
			return // closed
		}
		for delay := 5 * time.Millisecond; delay < time.Second; delay *= 2 {
			time.Sleep(delay)
			if c.checkOOM() {
				break
			}
		}
	}
}

// checkOOM says whether there were kills that were not told of before, and has told of
// them when it returns.
func (c *Container) checkOOM() bool {
	w := &c.oom
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tell == nil {
		return false
	}
	var kills uint64
	now := c.cgroup.oomKills()
	for dir, n := range now {
		kills += n - min(n, w.seen[dir])
	}
	w.seen = now
	w.total += kills
	if kills > 0 {
		w.tell()
	}
	return kills > 0
}

// endOOM is called when no process is left. A cgroup of systemd's is gone then.
func (c *Container) endOOM() {
	c.checkOOM()
	c.oom.mu.Lock()
	defer c.oom.mu.Unlock()
	c.oom.ended, c.oom.tell = true, nil
	if c.oom.wake != nil {
		c.oom.wake.Close()
	}
}

// oomKills are the kernel's counts of the processes that it killed for want of memory. In
// version 1 a cgroup's count is without those of the cgroups below it.
func (c cgroup) oomKills() map[string]uint64 {
	kills := map[string]uint64{}
	if cgroups.IsCgroup2UnifiedMode() {
		if n, err := fscommon.GetValueByKey(c.Paths[""], "memory.events", "oom_kill"); err == nil {
			kills[""] = n
		}
		return kills
	}
	if dir := c.Paths["memory"]; dir != "" {
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil //nolint:nilerr // it is gone
			}
			if n, err := v1.OOMKillCount(path); err == nil {
				kills[path] = n
			}
			return nil
		})
	}
	return kills
}

// oomWake opens what can be read from when the counts may have changed.
func (c cgroup) oomWake() (*os.File, error) {
	if cgroups.IsCgroup2UnifiedMode() {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, os.NewSyscallError("inotify_init1", err)
		}
		wake := os.NewFile(uintptr(fd), "inotify")
		if _, err := unix.InotifyAddWatch(fd, filepath.Join(c.Paths[""], "memory.events"), unix.IN_MODIFY); err != nil {
			wake.Close()
			return nil, os.NewSyscallError("inotify_add_watch", err)
		}
		return wake, nil
	}
	control, err := os.Open(filepath.Join(c.Paths["memory"], "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	wake := os.NewFile(uintptr(fd), "eventfd")
	if err := cgroups.WriteFile(c.Paths["memory"], "cgroup.event_control", fmt.Sprintf("%d %d", fd, control.Fd())); err != nil {
		wake.Close()
		return nil, err
	}
	return wake, nil
}

// OutOfMemory says whether the kernel has killed a process of the container for
// want of memory. It is known until Delete.
func (c *Container) OutOfMemory() bool {
	for _, n := range c.cgroup.oomKills() {
		if n > 0 {
			return true
		}
	}
	return false
}
