// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// copied is a stream that the daemon copies between a pipe, which the process has,
// and what the process cannot have, or must not: of a file of the host, a descriptor
// that was opened for appending, or for reading, can be opened again for anything by
// its name in /proc.
type copied struct {
	pipe    *os.File      // the process's end; nil once it has it
	ours    *os.File      // the daemon's end of the pipe
	far     far           // where it is copied from, or to
	done    chan struct{} // closed once nothing is copied any more
	isInput bool
}

// far is the other side of what is copied: a file of the host, or a client.
type far interface {
	io.Closer
	end() // called once all is copied
}

// hostFile is a file of the host.
type hostFile struct{ *os.File }

func (f hostFile) end() { f.Close() }

// copyOutput copies what the process writes. It closes to.
func copyOutput(to interface {
	far
	io.Writer
}, l *log.Entry,
) (stream, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		_ = to.Close()
		return nil, err
	}
	c := &copied{pipe: writer, ours: reader, far: to, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer to.end()
		c.write(to, l)
	}()
	return c, nil
}

// copyInput copies to what the process reads. It closes from.
func copyInput(from interface {
	far
	io.WriterTo
},
) (stream, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		_ = from.Close()
		return nil, err
	}
	c := &copied{pipe: reader, ours: writer, far: from, done: make(chan struct{}), isInput: true}
	go func() {
		defer close(c.done)
		defer from.end()
		defer writer.Close()
		_, _ = from.WriteTo(writer) // the process may have ended, or closed its end
	}()
	return c, nil
}

const copyBufferSize = 32 << 10

// copyBuffers are held only while something is copied: a container may say
// nothing for weeks.
var copyBuffers = sync.Pool{New: func() any { return new([copyBufferSize]byte) }}

// write copies until everybody has closed the other end, or this one is closed. A
// file that cannot be written does not hold up the process: what does not fit is
// lost, and the log says so once.
func (c *copied) write(to io.Writer, l *log.Entry) {
	told := false
	copyWhenReady(c.ours, func(b []byte) bool {
		if _, err := to.Write(b); err != nil && !told {
			told = true
			l.WithError(err).Warn("output of the container is lost: where it goes cannot be written")
		}
		return true
	})
}

// copyWhenReady gives write what is read, until it says no, the file ends, or it is
// closed. A buffer is held only while there is something in it.
func copyWhenReady(from *os.File, write func([]byte) bool) {
	conn, err := from.SyscallConn()
	if err != nil {
		return
	}
	for proceed := true; proceed; {
		buffer, n, err := readWhenReady(conn)
		proceed = err == nil && n > 0
		if n > 0 {
			proceed = write(buffer[:n])
		}
		if buffer != nil {
			copyBuffers.Put(buffer)
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

// endInput has no meaning for a file: it ends where the file does.
func (c *copied) endInput() {
	if r, ok := c.far.(*remote); ok {
		r.endInput()
	}
}

func (c *copied) drain(giveUp <-chan struct{}) {
	if c.isInput {
		return
	}
	select {
	case <-c.done:
	case <-giveUp:
	}
}

// settle waits for a client that has not read yet all that the process has written.
func (c *copied) settle(giveUp <-chan struct{}) {
	if r, ok := c.far.(*remote); ok && r.attended() {
		c.drain(giveUp)
	}
}

// lastWriteTime is how long a file may take for the last that was read for it.
const lastWriteTime = time.Second

func (c *copied) close() {
	c.handOver()
	c.ours.Close() // nothing more is read
	if !c.isInput {
		timer := time.NewTimer(lastWriteTime)
		defer timer.Stop()
		select {
		case <-c.done:
		case <-timer.C:
		}
	}
	_ = c.far.Close() // ends what still waits for it, a device or a client
}
