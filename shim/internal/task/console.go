// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// console copies between a process's terminal and its standard streams, whose process
// ends it has in the process's place.
type console struct {
	in, out  *os.File      // in is nil where the process has no input
	terminal *os.File      // the daemon's end; nil until there is a process
	done     chan struct{} // closed once nothing is written any more
}

// winsize is the size of a terminal, in characters.
type winsize struct{ width, height uint16 }

// newConsole takes the process's ends of the streams. An input that is nil ends never.
func newConsole(in, out stream) (_ *console, err error) {
	c := &console{done: make(chan struct{})}
	if in != nil {
		if c.in, err = inPoller(in.processEnd()); err != nil {
			return nil, err
		}
	}
	if c.out, err = inPoller(out.processEnd()); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// inPoller returns a descriptor of the same file that is waited for in Go's poller,
// where the file can be: a terminal nobody types at costs no thread.
func inPoller(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate the descriptor of %s: %w", f.Name(), err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// connect begins to copy.
func (c *console) connect(terminal *os.File) {
	c.terminal = terminal
	go c.copyOutput()
	if c.in != nil {
		go c.copyInput()
	}
}

// copyOutput copies until every process has closed the terminal, or it is hung up. A
// stream that is closed does not hold up who writes.
func (c *console) copyOutput() {
	defer close(c.done)
	defer c.out.Close() // its reader sees the end
	lost := false
	copyWhenReady(c.terminal, func(b []byte) bool {
		if !lost {
			_, err := c.out.Write(b)
			lost = err != nil
		}
		return true
	})
}

// copyInput copies until the end of the input, which hangs up the terminal.
func (c *console) copyInput() {
	defer c.in.Close()
	written := true
	copyWhenReady(c.in, func(b []byte) bool {
		_, err := c.terminal.Write(b)
		written = err == nil
		return written
	})
	if written {
		c.terminal.Close()
	}
}

func (c *console) resize(size winsize) error {
	if c.terminal == nil {
		return nil
	}
	conn, err := c.terminal.SyscallConn()
	if err != nil {
		return nil // hung up
	}
	cerr := conn.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), syscall.TIOCSWINSZ, &unix.Winsize{Col: size.width, Row: size.height})
	})
	if cerr != nil && !errors.Is(cerr, os.ErrClosed) {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("resize the terminal: %w", err)
	}
	return nil
}

func (c *console) drain(giveUp <-chan struct{}) {
	if c.terminal == nil {
		return
	}
	select {
	case <-c.done:
	case <-giveUp:
	}
}

func (c *console) close() {
	for _, f := range []*os.File{c.in, c.terminal, c.out} {
		if f != nil {
			f.Close()
		}
	}
}
