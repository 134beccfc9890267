// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// connection tells a stream's handler what ttrpc does not say: whether what it has
// sent has reached its client, and when that has closed the connection.
type connection struct {
	*net.UnixConn
	closed chan struct{}
	once   sync.Once
	deaf   chan struct{} // closed when the client reads no more
	deafen sync.Once
	reset  atomic.Bool // the client has closed it before it has read all

	mu      sync.Mutex
	written int64         // bytes; guarded by mu
	more    chan struct{} // closed when more are written; guarded by mu
}

func (c *connection) Read(b []byte) (int, error) {
	n, err := c.UnixConn.Read(b)
	if errors.Is(err, unix.ECONNRESET) {
		c.reset.Store(true)
	}
	return n, err
}

func (c *connection) Write(b []byte) (int, error) {
	n, err := c.UnixConn.Write(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written += int64(n)
	close(c.more)
	c.more = make(chan struct{})
	if errors.Is(err, unix.EPIPE) {
		// ttrpc would give up the connection, and what the client has sent before with
		// it; the end of that comes by itself.
		c.deafen.Do(func() { close(c.deaf) })
		return len(b), nil
	}
	return n, err
}

func (c *connection) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.UnixConn.Close()
}

func (c *connection) count() (int64, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written, c.more
}

// awaitClose waits for so long at most until the client has closed the connection.
func (c *connection) awaitClose(timeout time.Duration) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-c.closed:
	case <-timer.C:
	}
}

// reached waits until the client has read so many bytes, or never will: one that is
// killed may leave some of them in its socket.
func (c *connection) reached(want int64) error {
	for {
		written, more := c.count()
		if written >= want {
			break
		}
		select {
		case <-more:
			continue
		case <-c.deaf:
		case <-c.closed:
		}
		if written, _ = c.count(); written < want {
			return net.ErrClosed
		}
	}
	for wait := 10 * time.Microsecond; ; wait = min(2*wait, 50*time.Millisecond) {
		unread, hungUp := c.unread()
		if unread == 0 && !hungUp {
			return nil
		}
		select {
		case <-c.closed:
			if c.reset.Load() {
				return net.ErrClosed
			}
			return nil
		case <-time.After(wait):
		}
	}
}

// unread says whether there is something that the client has not read, and whether it
// has closed the connection, with which the kernel forgets that.
func (c *connection) unread() (n int, hungUp bool) {
	conn, err := c.SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) {
			n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
			fds := []unix.PollFd{{Fd: int32(fd)}}
			_, _ = unix.Poll(fds, 0)
			hungUp = fds[0].Revents&unix.POLLHUP != 0
		})
	}
	return n, hungUp || err != nil
}

type connectionKey struct{}

// connectionOf is the connection that a handler's context belongs to.
func connectionOf(ctx context.Context) *connection {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	return c
}

// NewServer returns a server for those who run as the same user.
func NewServer() (*ttrpc.Server, error) {
	return ttrpc.NewServer(ttrpc.WithServerHandshaker(sameUser{ttrpc.UnixSocketRequireSameUser()}))
}

// sameUser puts the connection of the context in the place of the one in it.
type sameUser struct{ check ttrpc.UnixCredentialsFunc }

func (s sameUser) Handshake(ctx context.Context, conn net.Conn) (net.Conn, any, error) {
	conn, credentials, err := s.check.Handshake(ctx, conn)
	if c := connectionOf(ctx); c != nil && err == nil {
		c.UnixConn = conn.(*net.UnixConn) //nolint:forcetypeassert // or the check had failed
		conn = c
	}
	return conn, credentials, err
}

// Serve serves a server of NewServer until the listener is closed. Handlers can ask
// their context for the connection.
func Serve(ctx context.Context, srv *ttrpc.Server, l net.Listener) error {
	return srv.Serve(ctx, &listener{Listener: l, ctx: ctx, srv: srv})
}

// listener accepts nothing itself: it has the server serve each connection in a
// context of its own. What goes wrong is for the server, which knows what to try again.
type listener struct {
	net.Listener
	ctx context.Context //nolint:containedctx // Accept has none
	srv *ttrpc.Server
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &connection{closed: make(chan struct{}), deaf: make(chan struct{}), more: make(chan struct{})}
		_ = l.srv.Serve(context.WithValue(l.ctx, connectionKey{}, c), &single{Listener: l.Listener, conn: conn})
	}
}

// single is a listener that has one connection.
type single struct {
	net.Listener
	conn net.Conn
}

func (s *single) Accept() (net.Conn, error) {
	if s.conn == nil {
		return nil, net.ErrClosed
	}
	conn := s.conn
	s.conn = nil
	return conn, nil
}

func (s *single) Close() error { return nil }
