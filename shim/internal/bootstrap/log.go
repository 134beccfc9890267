// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"io"

	"golang.org/x/sys/unix"
)

// fifoLog writes log lines to a FIFO without ever waiting for its reader. It
// holds both ends, so that a restart of containerd breaks nothing: what is
// logged meanwhile waits in the pipe, and what does not fit is dropped.
type fifoLog struct{ fd int }

// openLog opens the log FIFO of a bundle; without one the log goes nowhere. It
// becomes standard error, too, where Go writes when it crashes.
func openLog(path string) io.Writer {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return io.Discard
	}
	_ = unix.Dup2(fd, 2)
	return fifoLog{fd}
}

// Write reports every line as written: a full log is no caller's error.
func (l fifoLog) Write(p []byte) (int, error) {
	_, _ = unix.Write(l.fd, p)
	return len(p), nil
}
