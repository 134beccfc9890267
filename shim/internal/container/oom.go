// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OOMKills is how many processes of the container the kernel has killed for want of
// memory, in its cgroup and those below. It raises the number before it kills: who has
// seen the end of such a process finds it counted. It is known until Delete, or until
// systemd removes the cgroup.
func (c *Container) OOMKills() (uint64, error) {
	if unified := c.cgroup.unified(); unified != "" {
		return oomKills(filepath.Join(unified, "memory.events")) // counts those below, too
	}
	root := c.cgroup.Paths["memory"]
	if root == "" {
		return 0, nil
	}
	var sum uint64
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			var n uint64
			n, err = oomKills(filepath.Join(path, "memory.oom_control"))
			sum += n
		}
		if err != nil && gone(err) {
			return nil
		}
		return err
	})
	return sum, err
}

// oomKills reads the number from a file of the kernel's, where the file is there.
func oomKills(file string) (uint64, error) {
	text, err := os.ReadFile(file)
	if err != nil && gone(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the count of OOM kills: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok {
			return strconv.ParseUint(n, 10, 64)
		}
	}
	return 0, nil // a kernel before 4.13
}

// OOMWatch wakes whoever waits for OOMKills to change.
type OOMWatch struct{ events *os.File }

// WatchOOM begins to watch the container's cgroup. It costs a descriptor, not a thread.
func (c *Container) WatchOOM() (*OOMWatch, error) {
	var fd int
	var err error
	if unified := c.cgroup.unified(); unified != "" {
		fd, err = watchFile(filepath.Join(unified, "memory.events"))
	} else {
		fd, err = watchMemory(c.cgroup.Paths["memory"])
	}
	if err != nil {
		return nil, fmt.Errorf("watch for want of memory: %w", err)
	}
	return &OOMWatch{os.NewFile(uintptr(fd), "oom")}, nil
}

// Wait waits for the next change, and says false after Close. With version 1 of cgroups
// the kernel tells of the want of memory, which is before it kills.
func (w *OOMWatch) Wait() bool {
	_, err := w.events.Read(make([]byte, unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	return err == nil
}

// Close ends the watch.
func (w *OOMWatch) Close() { w.events.Close() }

func watchFile(path string) (int, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return -1, err
	}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func watchMemory(cgroup string) (_ int, err error) {
	control, err := os.Open(filepath.Join(cgroup, "memory.oom_control"))
	if err != nil {
		return -1, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, err
	}
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.event_control"), []byte(line), 0); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
