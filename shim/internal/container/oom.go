// SPDX-License-Identifier: Apache-2.0

package container

import (
	"encoding/binary"
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
	above uint64            // the count of the cgroup above, of version 2; guarded by mu
	woken bool              // the kernel has said something since the counts were looked at; guarded by mu
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
	conn, err := wake.SyscallConn()
	if err != nil {
		return // closed
	}
	for {
		err := conn.Read(func(fd uintptr) bool {
			// Read and noted at once: endOOM would find neither.
			c.oom.mu.Lock()
			defer c.oom.mu.Unlock()
			return c.oom.read(fd)
		})
		if err != nil {
			return // closed
		}
		for delay := 5 * time.Millisecond; !c.checkOOM() && delay < time.Second; delay *= 2 {
			time.Sleep(delay)
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
	above, now := c.cgroup.killsAbove(), c.cgroup.oomKills()
	for dir, n := range now {
		kills += n - min(n, w.seen[dir])
	}
	if len(now) > 0 {
		// The kernel counts in the cgroup first, then above.
		w.above = max(above, w.above+kills)
		w.woken = false
	}
	w.seen = now
	w.total += kills
	if kills > 0 {
		w.tell()
	}
	return kills > 0
}

// endOOM is called when no process is left.
func (c *Container) endOOM() {
	c.checkOOM()
	if wake := c.lastOOM(); wake != nil {
		wake.Close() // without the lock: it waits for who reads, who may wait for that
	}
}

// lastOOM tells of a kill that nobody has told of yet, and returns what is not read any
// more.
func (c *Container) lastOOM() (wake *os.File) {
	w := &c.oom
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tell != nil && c.lostOOM() {
		w.total++
		w.tell()
	}
	w.ended, w.tell = true, nil
	return w.wake
}

// lostOOM says whether there was a kill that nothing but this says any more: systemd
// removes a cgroup of version 2, with its count, when its last process ends. The cgroup
// above has counted a kill since it was last looked at, and the kernel has said that
// something changed in this one, or somebody has killed the init. Both may have been
// others, at the same time. It is called with c.oom.mu held.
func (c *Container) lostOOM() bool {
	w := &c.oom
	killed := c.init.exit.Signal == unix.SIGKILL && !c.killed.Load()
	w.readRest()
	return len(c.cgroup.oomKills()) == 0 && (killed || w.woken) && c.cgroup.killsAbove() > w.above
}

// read notes what the kernel has said, and says whether that was anything. It is called
// with w.mu held.
func (w *oomWatch) read(wake uintptr) bool {
	b := make([]byte, 4<<10)
	n, _ := unix.Read(int(wake), b)
	w.woken = w.woken || changed(b[:max(n, 0)])
	return n > 0
}

// readRest reads what nobody has read yet. It is called with w.mu held.
func (w *oomWatch) readRest() {
	if w.wake == nil {
		return
	}
	if conn, err := w.wake.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { w.read(fd) }) // not by Read, for which followOOM is waiting
	}
}

// changed says whether one of inotify's events is that a file has changed. Others come
// when it is removed.
func changed(b []byte) bool {
	for ; len(b) >= unix.SizeofInotifyEvent; b = b[unix.SizeofInotifyEvent:] { // a file's have no names
		if binary.NativeEndian.Uint32(b[4:])&unix.IN_MODIFY != 0 {
			return true
		}
	}
	return false
}

// killsAbove is the count of the cgroup above, with all that are below it. It is 0 where
// there is none: with version 1, and in the root.
func (c cgroup) killsAbove() uint64 {
	if !cgroups.IsCgroup2UnifiedMode() {
		return 0
	}
	n, err := fscommon.GetValueByKey(filepath.Dir(c.Paths[""]), "memory.events", "oom_kill")
	if err != nil {
		return 0
	}
	return n
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

// OutOfMemory says whether WatchOOM has told of kills.
func (c *Container) OutOfMemory() bool {
	c.oom.mu.Lock()
	defer c.oom.mu.Unlock()
	return c.oom.total > 0
}
