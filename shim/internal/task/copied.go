// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// copied is a stream that the daemon copies between a pipe, which the process has,
// and a file of the host, which it must not have: a descriptor that was opened for
// appending, or for reading, can be opened again for anything by its name in /proc.
type copied struct {
	pipe  *os.File // the process's end; nil once it has it
	ours  *os.File // the daemon's end of the pipe
	done  chan struct{}
	input bool
}

// copyOutput copies what the process writes to a file, which it closes.
func copyOutput(file *os.File) (stream, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		file.Close()
		return nil, err
	}
	c := &copied{pipe: writer, ours: reader, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer file.Close()
		c.writeTo(file)
	}()
	return c, nil
}

// copyInput copies a file, which it closes, to what the process reads.
func copyInput(file *os.File) (stream, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		file.Close()
		return nil, err
	}
	c := &copied{pipe: reader, ours: writer, done: make(chan struct{}), input: true}
	go func() {
		defer close(c.done)
		defer file.Close()
		defer writer.Close()
		_, _ = io.Copy(writer, file) // the process may have ended, or closed its end
	}()
	return c, nil
}

const copyBufferSize = 32 << 10

// copyBuffers are held only while something is copied: a container may say
// nothing for weeks.
var copyBuffers = sync.Pool{New: func() any { return new([copyBufferSize]byte) }}

// writeTo copies until everybody has closed the other end, or this one is closed. A
// file that cannot be written does not hold up the process: what does not fit is
// lost, and the log says so once.
func (c *copied) writeTo(file *os.File) {
	conn, err := c.ours.SyscallConn()
	if err != nil {
		return
	}
	told := false
	for {
		buffer, n, err := readWhenReady(conn)
		if n > 0 {
			if _, werr := file.Write(buffer[:n]); werr != nil && !told {
				told = true
				log.L.WithError(werr).Warn("a container's output is lost: its file cannot be written")
			}
		}
		if buffer != nil {
			copyBuffers.Put(buffer)
		}
		if err != nil || n <= 0 {
			return
		}
	}
}

// readWhenReady waits without a buffer, and reads into one that goes back to
// copyBuffers; it is nil where nothing was tried.
func readWhenReady(conn syscall.RawConn) (buffer *[copyBufferSize]byte, n int, err error) {
	cerr := conn.Read(func(fd uintptr) bool {
		buffer = copyBuffers.Get().(*[copyBufferSize]byte)
		for n, err = unix.Read(int(fd), buffer[:]); errors.Is(err, unix.EINTR); {
			n, err = unix.Read(int(fd), buffer[:])
		}
		if !errors.Is(err, unix.EAGAIN) {
			return true
		}
		copyBuffers.Put(buffer)
		buffer = nil
		return false
	})
	return buffer, n, errors.Join(cerr, err)
}

func (c *copied) processEnd() *os.File { return c.pipe }

func (c *copied) handOver() {
	if c.pipe != nil {
		c.pipe.Close()
		c.pipe = nil
	}
}

func (c *copied) endInput() {} // it ends where the file does

func (c *copied) drain(giveUp <-chan struct{}) {
	if c.input {
		return
	}
	select {
	case <-c.done:
	case <-giveUp:
	}
}

func (c *copied) close() {
	c.handOver()
	c.ours.Close()
	if !c.input { // a read of a device may never come back
		<-c.done
	}
}
