// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// logs writes log lines to the log FIFO of a bundle, the oldest that there is, without
// ever waiting for its reader. It holds both ends, so that a restart of containerd breaks
// nothing: what is logged meanwhile waits in the pipe, and what does not fit is dropped.
//
// Of a daemon of many pods each bundle has such a FIFO, which containerd waits for; it
// does not matter through which of them a line comes to containerd.
type logs struct {
	mu  sync.Mutex
	all []bundleLog // guarded by mu
}

type bundleLog struct {
	id string
	fd int
}

// add opens the log FIFO of a container's bundle; without one nothing is added. The one in
// use becomes standard error, too, where Go writes when it crashes.
func (l *logs) add(id, bundle string) {
	fd, err := unix.Open(filepath.Join(bundle, "log"), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, bundleLog{id, fd})
	if len(l.all) == 1 {
		_ = unix.Dup2(fd, 2)
	}
}

// remove closes the log of a container that is gone.
func (l *logs) remove(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.all, func(b bundleLog) bool { return b.id == id })
	if i < 0 {
		return
	}
	unix.Close(l.all[i].fd)
	l.all = slices.Delete(l.all, i, i+1)
	switch {
	case i > 0:
	case len(l.all) > 0:
		_ = unix.Dup2(l.all[0].fd, 2)
	default:
		if null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Dup2(null, 2)
			unix.Close(null)
		}
	}
}

// Write reports every line as written: a full log is no caller's error.
func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) > 0 {
		_, _ = unix.Write(l.all[0].fd, p)
	}
	return len(p), nil
}
