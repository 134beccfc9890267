// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Start lets the init execute the container's program.
//
// libcontainer's own Exec is not used: when the init is dead, it leaves a
// goroutine and its thread in open(2) of the FIFO for ever.
func (c *Container) Start() error {
	c.mu.Lock()
	again := c.started
	c.started = true
	c.mu.Unlock()
	if again {
		return fmt.Errorf("start container %s: it was started before: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if closed(c.init.reaped) {
		return c.deadBeforeStart()
	}
	path := filepath.Join(c.stateDir(), "exec.fifo")
	// Opened for reading and writing, the FIFO never reports an end of file; the
	// init blocks until somebody has it open for reading.
	fifo, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("start container %s: open exec fifo: %w", c.id, err)
	}
	defer fifo.Close()

	started := make(chan struct{})
	defer close(started)
	go func() {
		select {
		case <-c.init.reaped:
			_ = fifo.SetReadDeadline(time.Unix(1, 0))
		case <-started:
		}
	}()
	var b [1]byte
	_, err = fifo.Read(b[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// The init is dead; it may have started and ended before.
		if n, _ := readNow(fifo, b[:]); n != 1 {
			return c.deadBeforeStart()
		}
		err = nil
	}
	if err != nil {
		return fmt.Errorf("start container %s: read exec fifo: %w", c.id, err)
	}
	// Without the FIFO libcontainer takes the container for running; we do not ask it. The
	// program runs, also where the state directory has become read-only.
	_ = os.Remove(path)
	return nil
}

func (c *Container) deadBeforeStart() error {
	return fmt.Errorf("start container %s: init ended before it was started: %w", c.id, errdefs.ErrFailedPrecondition)
}

// readNow reads without regard to deadlines.
func readNow(f *os.File, b []byte) (n int, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := conn.Control(func(fd uintptr) { n, err = unix.Read(int(fd), b) })
	return n, errors.Join(cerr, err)
}
