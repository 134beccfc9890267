// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	transferapi "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Instead of FIFOs, clients of containerd 2.x may have streams over ttrpc, from the
// streaming service on the daemon's socket (CRI's io_type = "streaming"):
//
//	ttrpc+unix:///run/containerd/s/SOCKET?streaming_id=ID
//
// The client opens the stream with its id, gets an empty message when that is known,
// and then one side sends Data, and the other says in WindowUpdates how many bytes
// more it can take. The client may come before the process or after it, it may leave
// and come back: meanwhile the process has what it would have of a FIFO, a pipe that
// gets full.

// remoteScheme is that of the names of streams over ttrpc.
const remoteScheme = "ttrpc+unix://"

func isRemote(name string) bool { return strings.HasPrefix(name, remoteScheme) }

// remotes are the streams over ttrpc of a daemon. The zero value has none.
type remotes struct {
	mu     sync.Mutex
	byID   map[string]*remote // guarded by mu
	closed bool               // guarded by mu
}

// remote is one stream over ttrpc: a process's or a client's, or where the two meet.
type remote struct {
	users int    // the process and clients; guarded by remotes.mu
	taken bool   // by a process; guarded by remotes.mu
	free  func() // makes the process leave; constant

	mu     sync.Mutex
	change sync.Cond     // of what mu guards
	client *remoteClient // that is served; nil while there is none; guarded by mu
	closed bool          // the process's side has given up; guarded by mu

	// Of an input.
	got       []byte // what the process has not read yet; guarded by mu
	lastInput bool   // the input ends when the client goes; guarded by mu

	ended bool // the process has written all; guarded by mu
}

// remoteClient is a client on its connection.
type remoteClient struct {
	stream streamingapi.TTRPCStreaming_StreamServer
	conn   *connection

	sending sync.Mutex // held until the client has what it is sent

	leave chan struct{} // closed when the client is to be sent away
	ready bool          // it was told that its stream is there
	going bool          // leave is closed
	why   error         // the reason; nil is the end of the stream
	takes int64         // so many bytes more, of an output
	owes  int64         // so many bytes more, of an input: it was told to send them
	pace  time.Time     // see paced
}

// remoteWindow is how much a client may send ahead of the process, in bytes.
const remoteWindow = 64 << 10

// Stream serves one client of one stream, for as long as both are there.
func (r *remotes) Stream(ctx context.Context, stream streamingapi.TTRPCStreaming_StreamServer) (retErr error) {
	defer answer(ctx, &retErr)
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	var init streamingapi.StreamInit
	if err := typeurl.UnmarshalTo(first, &init); err != nil || init.ID == "" {
		return fmt.Errorf("a stream begins with a StreamInit that has an id; found %q: %w", first.GetTypeUrl(), errdefs.ErrInvalidArgument)
	}
	one, err := r.enter(init.ID, false)
	if err != nil {
		return err
	}
	c := &remoteClient{stream: stream, conn: connectionOf(ctx), leave: make(chan struct{})}
	one.join(c)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		one.receive(c)
		one.part()
		r.exit(init.ID, one, false)
	}()
	if err := c.send(&emptypb.Empty{}); err != nil {
		return err
	}
	one.begin(c)
	select {
	case <-gone:
		// A client that closes with this call's answer unread would seem not to have read
		// what came before it.
		c.sending.Lock()
		defer c.sending.Unlock()
	case <-c.leave:
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	return c.why
}

// enter finds the stream with an id, or makes it.
func (r *remotes) enter(id string, process bool) (*remote, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, fmt.Errorf("shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	one := r.byID[id]
	if one == nil {
		one = &remote{}
		one.change.L = &one.mu
		if r.byID == nil {
			r.byID = map[string]*remote{}
		}
		r.byID[id] = one
	}
	if process && one.taken {
		return nil, fmt.Errorf("stream %q belongs to another process: %w", id, errdefs.ErrAlreadyExists)
	}
	one.taken = one.taken || process
	one.users++
	return one, nil
}

// exit is the opposite of enter. Once the process has left, the id is free.
func (r *remotes) exit(id string, one *remote, process bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if one.users--; (process || one.users == 0) && r.byID[id] == one {
		delete(r.byID, id)
	}
}

// close sends every client away, and lets no other in.
func (r *remotes) close() {
	r.mu.Lock()
	r.closed = true
	all := slices.Collect(maps.Values(r.byID))
	r.mu.Unlock()
	for _, one := range all {
		one.giveUp()
	}
}

// open returns the stream that has this name, for a process.
func (r *remotes) open(name string) (*remote, error) {
	u, err := url.Parse(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	id := u.Query().Get("streaming_id")
	if id == "" {
		return nil, fmt.Errorf("no stream is named, as in %s/SOCKET?streaming_id=ID: %w", remoteScheme, errdefs.ErrInvalidArgument)
	}
	one, err := r.enter(id, true)
	if err != nil {
		return nil, err
	}
	one.free = sync.OnceFunc(func() { r.exit(id, one, true) })
	return one, nil
}

// join makes a client the one that is served. One that was there before has lost its
// connection, or is not wanted any more; what it has sent comes first.
func (o *remote) join(c *remoteClient) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.client != nil {
		o.client.dismiss(fmt.Errorf("another client has opened this stream: %w", errdefs.ErrAborted))
		o.change.Wait()
	}
	o.client = c
}

// begin is called once the client knows that its stream is there.
func (o *remote) begin(c *remoteClient) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.ready = true
	if o.closed || o.ended {
		c.dismiss(nil) // it is late
	}
	o.change.Broadcast()
}

// part is the opposite of join.
func (o *remote) part() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.client = nil
	o.change.Broadcast()
}

// dismiss sends a client away. The caller holds mu.
func (c *remoteClient) dismiss(why error) {
	if c != nil && !c.going {
		c.going, c.why = true, why
		close(c.leave)
	}
}

// Close gives the stream up for the process.
func (o *remote) Close() error {
	o.giveUp()
	o.free()
	return nil
}

func (o *remote) giveUp() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.client.dismiss(nil)
	o.change.Broadcast()
}

// receive takes what a client sends, until it sends no more.
func (o *remote) receive(c *remoteClient) {
	for {
		a, err := c.receive()
		if err != nil {
			return
		}
		message, err := typeurl.UnmarshalAny(a)
		if err != nil {
			message = nil
		}
		o.mu.Lock()
		switch m := message.(type) {
		case *transferapi.WindowUpdate:
			c.takes += int64(m.Update)
			c.pace = time.Time{}
		case *transferapi.Data:
			if c.owes -= int64(len(m.Data)); c.owes < 0 {
				c.dismiss(fmt.Errorf("%d bytes more than were asked for: %w", -c.owes, errdefs.ErrInvalidArgument))
			} else {
				o.got = append(o.got, m.Data...)
			}
		default:
			c.dismiss(fmt.Errorf("found %q, accepted containerd.types.transfer.Data and WindowUpdate: %w", a.GetTypeUrl(), errdefs.ErrInvalidArgument))
		}
		o.change.Broadcast()
		o.mu.Unlock()
	}
}

// receive returns the next message. After the end of a connection ttrpc chooses at
// random between saying so and returning what has come before it: all that is there
// is returned sooner or later, so it is asked until it would be a miracle.
func (c *remoteClient) receive() (a *anypb.Any, err error) {
	for range 64 {
		a, err = c.stream.Recv()
		if err == nil || errors.Is(err, io.EOF) {
			return a, err
		}
	}
	return nil, err
}

// frameHeader is what ttrpc puts before a message, in bytes.
const frameHeader = 10

// send sends a message, and waits until the client has it.
func (c *remoteClient) send(message any) error {
	a, err := typeurl.MarshalAnyToProto(message)
	if err != nil {
		return err
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.conn == nil {
		return c.stream.Send(a)
	}
	before, _ := c.conn.count()
	if err := c.stream.Send(a); err != nil {
		return err
	}
	return c.conn.reached(before + frameHeader + int64(proto.Size(a)))
}

// WriteTo gives w what clients send, until the input ends. What w does not take is
// lost: a process that has closed its input must not hold up who writes to it.
func (o *remote) WriteTo(w io.Writer) (n int64, _ error) {
	for {
		b, err := o.read()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return n, err
		}
		written, err := w.Write(b)
		n += int64(written)
		if err != nil {
			w = io.Discard
		}
	}
}

// read returns what clients have sent since the last read.
func (o *remote) read() ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		if b := o.got; len(b) > 0 {
			o.got = nil
			return b, nil
		}
		c := o.client
		switch {
		case o.closed:
			return nil, os.ErrClosed
		case c == nil && o.lastInput:
			return nil, io.EOF
		case c != nil && c.ready && !c.going && c.owes < remoteWindow/2:
			more := remoteWindow - c.owes
			c.owes = remoteWindow
			o.mu.Unlock()
			// If it does not get there, the client has closed; what it has sent before
			// comes all the same.
			_ = c.send(&transferapi.WindowUpdate{Update: int32(more)})
			o.mu.Lock()
			continue // it may have gone meanwhile
		}
		o.change.Wait()
	}
}

// endInput ends the input once the client has closed its side, as with a FIFO.
func (o *remote) endInput() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lastInput = true
	o.change.Broadcast()
}

// Write sends b, to whatever client there is, and waits for one if there is none.
func (o *remote) Write(b []byte) (int, error) {
	for left := b; len(left) > 0; {
		c, room, err := o.writable()
		if err != nil {
			return 0, err
		}
		chunk := left[:min(int64(len(left)), room)]
		err = c.send(&transferapi.Data{Data: chunk})
		o.mu.Lock()
		if err == nil {
			c.takes -= int64(len(chunk))
			left = left[len(chunk):]
		} else {
			c.dismiss(nil) // its connection is closed
		}
		o.mu.Unlock()
	}
	return len(b), nil
}

// writable waits for a client that takes something, and says how much.
func (o *remote) writable() (*remoteClient, int64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		c := o.client
		switch {
		case o.closed:
			return nil, 0, errors.New("no client has read it")
		case c != nil && c.ready && !c.going && c.takes > 0:
			wait := c.paced()
			if wait == 0 {
				return c, c.takes, nil
			}
			time.AfterFunc(wait, o.change.Broadcast)
		}
		o.change.Wait()
	}
}

// A client's ttrpc gives a stream up, for good, when more than 64 messages wait in it
// for a second: its reader may have stopped, on a full disk or a terminal that is
// held. Whether messages that are small are read cannot be known, so not many of them
// are sent in a row; what comes meanwhile becomes a larger one.
const (
	remoteBurst    = 40
	remoteInterval = 200 * time.Millisecond
)

// paced says how long to wait before the next message, and counts it if that is 0.
// An update of the window begins a new burst.
func (c *remoteClient) paced() time.Duration {
	now := time.Now()
	if c.pace.Before(now) {
		c.pace = now
	}
	if wait := c.pace.Sub(now) - remoteBurst*remoteInterval; wait > 0 {
		return wait
	}
	c.pace = c.pace.Add(remoteInterval)
	return 0
}

// lastReadTime is how long a client may take to close its connection after the end of
// an output, which it does when it has read all.
const lastReadTime = time.Second

// end tells the client that the process has written all, and waits until the client
// has read it. A client that comes later is told at once.
func (o *remote) end() {
	o.mu.Lock()
	c := o.client
	o.ended = true
	c.dismiss(nil)
	o.mu.Unlock()
	if c == nil || c.conn == nil {
		return
	}
	c.conn.awaitClose(lastReadTime)
}

// attended says whether there is a client, or was one at the end.
func (o *remote) attended() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.client != nil || o.ended
}
