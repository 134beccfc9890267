// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	transferapi "github.com/containerd/containerd/api/types/transfer"
	corestreaming "github.com/containerd/containerd/v2/core/streaming"
	"github.com/containerd/containerd/v2/core/streaming/proxy"
	"github.com/containerd/containerd/v2/core/transfer/streaming"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
)

// remoteTest is a daemon's streaming service on a real socket.
type remoteTest struct {
	*testing.T
	remotes remotes
	socket  string
}

func newRemoteTest(t *testing.T) *remoteTest {
	t.Helper()
	r := &remoteTest{T: t, socket: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", r.socket)
	require.NoError(t, err)
	srv, err := NewServer()
	require.NoError(t, err)
	streamingapi.RegisterTTRPCStreamingService(srv, &r.remotes)
	served := make(chan error)
	go func() { served <- Serve(context.Background(), srv, l) }()
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-served, ttrpc.ErrServerClosed)
		require.Eventually(t, func() bool {
			r.remotes.mu.Lock()
			defer r.remotes.mu.Unlock()
			return len(r.remotes.byID) == 0
		}, 10*time.Second, time.Millisecond, "streams are left")
		goleak.VerifyNone(t)
	})
	return r
}

func (r *remoteTest) name(id string) string {
	return "ttrpc+unix://" + r.socket + "?streaming_id=" + id
}

// process opens the streams of a process.
func (r *remoteTest) process(n names) *streams {
	r.Helper()
	s, err := openStreams(n, "id", "ns", &r.remotes, log.L)
	require.NoError(r, err)
	r.Cleanup(s.close)
	return s
}

// remoteEnd is a client's stream on a connection of its own, as containerd has it.
type remoteEnd struct {
	corestreaming.Stream
	client *ttrpc.Client
}

func (e *remoteEnd) Close() error {
	return errors.Join(e.Stream.Close(), e.client.Close())
}

func (r *remoteTest) open(conn net.Conn, id string) *remoteEnd {
	r.Helper()
	c := ttrpc.NewClient(conn)
	r.Cleanup(func() { c.Close() })
	stream, err := proxy.NewStreamCreator(c).Create(r.Context(), id)
	require.NoError(r, err)
	return &remoteEnd{stream, c}
}

func (r *remoteTest) dial() net.Conn {
	r.Helper()
	conn, err := net.Dial("unix", r.socket)
	require.NoError(r, err)
	return conn
}

func (r *remoteTest) reader(id string) io.ReadCloser {
	r.Helper()
	return streaming.ReadByteStream(r.Context(), r.open(r.dial(), id))
}

func (r *remoteTest) writer(id string) io.WriteCloser {
	r.Helper()
	return streaming.WriteByteStream(r.Context(), r.open(r.dial(), id))
}

func (r *remoteTest) write(f *os.File, b []byte) {
	r.Helper()
	_, err := f.Write(b)
	require.NoError(r, err)
}

func (r *remoteTest) read(from io.Reader, want string) {
	r.Helper()
	b := make([]byte, len(want))
	_, err := io.ReadFull(from, b)
	require.NoError(r, err)
	require.Equal(r, want, string(b))
}

func (r *remoteTest) random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// Everything that a process writes arrives, and then the end, whoever comes first.
func TestRemoteOutput(t *testing.T) {
	for name, clientFirst := range map[string]bool{"client first": true, "process first": false} {
		t.Run(name, func(t *testing.T) {
			r := newRemoteTest(t)
			var client io.ReadCloser
			if clientFirst {
				client = r.reader("c-stdout")
			}
			s := r.process(names{stdout: r.name("c-stdout")})
			want := r.random(10 << 20)
			end := s.out.processEnd()
			go func() {
				_, _ = end.Write(want)
				end.Close()
			}()
			if !clientFirst {
				client = r.reader("c-stdout")
			}
			got, err := io.ReadAll(client)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
			// Until its client has closed the connection, it may not have read all.
			out := s.out.(*copied)
			select {
			case <-out.done:
				t.Fatal("nobody was waited for")
			case <-time.After(20 * time.Millisecond):
			}
			require.NoError(t, client.Close())
			<-out.done
		})
	}
}

// Without a client a process can write as much as into a pipe, and then waits. Nothing
// is lost.
func TestRemoteOutputWaits(t *testing.T) {
	r := newRemoteTest(t)
	s := r.process(names{stdout: r.name("o"), stderr: r.name("o")})
	require.Same(t, s.out, s.err, "one stream stays in order")
	end := int(s.out.processEnd().Fd())
	require.NoError(t, unix.SetNonblock(end, true))
	var want []byte
	for full := 0; full < 20; {
		chunk := r.random(4096)
		n, err := unix.Write(end, chunk)
		if err != nil {
			require.ErrorIs(t, err, unix.EAGAIN)
			full++
			time.Sleep(time.Millisecond) // what was in the pipe may still be taken
			continue
		}
		want = append(want, chunk[:n]...)
	}
	require.LessOrEqual(t, len(want), 64<<10+2*copyBufferSize, "the pipe's size and a buffer")
	s.handOver()
	client := r.reader("o")
	got, err := io.ReadAll(client)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.NoError(t, client.Close())
	// Whoever comes after the end is told so.
	again := r.reader("o")
	got, err = io.ReadAll(again)
	require.NoError(t, err)
	require.Empty(t, got)
}

// A client that loses its connection, or is killed, comes back with the same id. Nothing
// is lost, and what one client was sent last the next may get once more.
func TestRemoteOutputClientComesBack(t *testing.T) {
	r := newRemoteTest(t)
	s := r.process(names{stdout: r.name("o")})
	for i := range 20 {
		client := r.open(r.dial(), "o")
		line := fmt.Sprintf("line %02d\n", i)
		r.write(s.out.processEnd(), []byte(line))
		from := streaming.ReadByteStream(t.Context(), client)
		got := make([]byte, len(line))
		_, err := io.ReadFull(from, got)
		require.NoError(t, err)
		if string(got) == fmt.Sprintf("line %02d\n", i-1) { // the client before has gone before it was seen to have read it
			_, err = io.ReadFull(from, got)
			require.NoError(t, err)
		}
		require.Equal(t, line, string(got))
		if i%2 == 0 {
			client.Close()
		} else {
			client.client.Close()
		}
	}
}

// deafConn is the connection of a client that dies while something is sent to it: the
// server's write fails before the server reads that the connection is closed.
type deafConn struct{ *net.UnixConn }

func (deafConn) Close() error { return nil }

// What could not be sent is sent to the next client.
func TestRemoteOutputBrokenConnection(t *testing.T) {
	r := newRemoteTest(t)
	s := r.process(names{stdout: r.name("o")})
	for i := range 5 {
		conn := r.dial().(*net.UnixConn)
		first := r.open(deafConn{conn}, "o")
		reader := streaming.ReadByteStream(t.Context(), first)
		r.write(s.out.processEnd(), []byte("one"))
		r.read(reader, "one")
		require.NoError(t, conn.CloseRead())
		last := fmt.Sprintf("two %d", i)
		r.write(s.out.processEnd(), []byte(last))
		if i == 4 {
			s.handOver()
		}
		second := r.reader("o")
		r.read(second, last)
		require.NoError(t, second.Close())
		require.NoError(t, conn.Close())
	}
}

// What a client has not read from its socket when it dies is for the next one.
func TestRemoteOutputUnread(t *testing.T) {
	r := newRemoteTest(t)
	s := r.process(names{stdout: r.name("o")})
	conn := r.dial()
	stopped := &stoppingConn{Conn: conn, stop: make(chan struct{})}
	first := r.open(stopped, "o")
	reader := streaming.ReadByteStream(t.Context(), first)
	r.write(s.out.processEnd(), []byte("one"))
	r.read(reader, "one")
	close(stopped.stop)
	r.write(s.out.processEnd(), []byte("two"))
	r.read(reader, "two") // its read was under way
	r.write(s.out.processEnd(), []byte("three"))
	time.Sleep(10 * time.Millisecond)
	require.NoError(t, conn.Close())
	s.handOver()
	got, err := io.ReadAll(r.reader("o"))
	require.NoError(t, err)
	require.Equal(t, "three", string(got))
}

// stoppingConn is the connection of a client that reads no more once it is stopped.
type stoppingConn struct {
	net.Conn
	stop chan struct{}
}

func (c *stoppingConn) Read(b []byte) (int, error) {
	select {
	case <-c.stop:
		time.Sleep(100 * time.Millisecond)
		return 0, io.EOF
	default:
		return c.Conn.Read(b)
	}
}

// Of two clients the later one is served.
func TestRemoteTwoClients(t *testing.T) {
	r := newRemoteTest(t)
	s := r.process(names{stdout: r.name("o")})
	first := r.reader("o")
	second := r.reader("o")
	_, err := first.Read(make([]byte, 1))
	require.True(t, errdefs.IsAborted(err), "%v", err)
	r.write(s.out.processEnd(), []byte("x"))
	r.read(second, "x")
	_, err = openStreams(names{stdout: r.name("o")}, "id", "ns", &r.remotes, log.L)
	require.True(t, errdefs.IsAlreadyExists(err), "%v", err)
}

// containerd's ttrpc gives up a stream in which more than 64 messages wait for a second.
func TestRemoteOutputSlowReader(t *testing.T) {
	r := newRemoteTest(t)
	s := r.process(names{stdout: r.name("o")})
	client := r.reader("o")
	r.write(s.out.processEnd(), []byte("."))
	r.read(client, ".")
	for range 500 {
		r.write(s.out.processEnd(), []byte("."))
		time.Sleep(3 * time.Millisecond)
	}
	r.read(client, strings.Repeat(".", 500))
}

// The input goes on with the next client, and ends with CloseIO.
func TestRemoteInput(t *testing.T) {
	r := newRemoteTest(t)
	early := r.writer("i")
	s := r.process(names{stdin: r.name("i")})
	in := s.in.processEnd()
	for i, client := range []io.WriteCloser{early, nil, nil} {
		if client == nil {
			client = r.writer("i")
		}
		want := r.random(1 << 20)
		written := make(chan error, 1)
		go func() {
			_, err := client.Write(want)
			if i == 2 {
				s.endInput() // before the client has closed its side: all arrives
			}
			written <- errors.Join(err, client.Close())
		}()
		got := make([]byte, len(want))
		_, err := io.ReadFull(in, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		require.NoError(t, <-written)
	}
	_, err := in.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = r.open(r.dial(), "i").Recv()
	require.ErrorIs(t, err, io.EOF, "nobody reads any more")
}

// Whoever writes a little, closes and says so at once, is read whole.
func TestRemoteInputAtOnce(t *testing.T) {
	r := newRemoteTest(t)
	for i := range 200 {
		id := fmt.Sprintf("i%d", i)
		client := r.writer(id)
		s := r.process(names{stdin: r.name(id)})
		var want strings.Builder
		for j := range 30 {
			fmt.Fprintf(&want, "%d-%d ", i, j)
			_, err := fmt.Fprintf(client, "%d-%d ", i, j)
			require.NoError(t, err)
		}
		require.NoError(t, client.Close())
		s.endInput()
		got, err := io.ReadAll(s.in.processEnd())
		require.NoError(t, err)
		require.Equal(t, want.String(), string(got))
		s.close()
	}
}

// A client can send small pieces to a process that does not read: they wait in the
// client, and none is lost.
func TestRemoteInputSmallPieces(t *testing.T) {
	r := newRemoteTest(t)
	client := r.writer("i")
	s := r.process(names{stdin: r.name("i")})
	const pieces = 300 << 10 / 100
	go func() {
		for range pieces {
			if _, err := client.Write(bytes.Repeat([]byte("x"), 100)); err != nil {
				r.Error(err)
			}
		}
		s.endInput()
		client.Close()
	}()
	time.Sleep(1200 * time.Millisecond) // longer than ttrpc waits for who receives
	n, err := io.Copy(io.Discard, s.in.processEnd())
	require.NoError(t, err)
	require.EqualValues(t, pieces*100, n)
}

// A process that does not want its input does not hold up who writes it.
func TestRemoteInputUnread(t *testing.T) {
	r := newRemoteTest(t)
	client := r.writer("i")
	s := r.process(names{stdin: r.name("i")})
	s.handOver() // it has ended
	_, err := client.Write(make([]byte, 2<<20))
	require.NoError(t, err)
}

// Clients that wait for a process that never comes end with the daemon.
func TestRemotesClose(t *testing.T) {
	r := newRemoteTest(t)
	s := r.process(names{stdin: r.name("i")})
	waiting := r.reader("nobody")
	r.remotes.close()
	_, err := waiting.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	c := ttrpc.NewClient(r.dial())
	defer c.Close()
	_, err = proxy.NewStreamCreator(c).Create(t.Context(), "o")
	require.True(t, errdefs.IsUnavailable(err), "%v", err)
	s.close()
}

func TestRemoteMistakes(t *testing.T) {
	r := newRemoteTest(t)
	for name, tc := range map[string]struct {
		send []any
		want string
	}{
		"no init":       {[]any{&emptypb.Empty{}}, `a stream begins with a StreamInit that has an id; found "google.protobuf.Empty"`},
		"no id":         {[]any{&streamingapi.StreamInit{}}, `a stream begins with a StreamInit that has an id; found "containerd.services.streaming.v1.StreamInit"`},
		"unasked":       {[]any{&streamingapi.StreamInit{ID: "a"}, &transferapi.Data{Data: []byte("x")}}, "1 bytes more than were asked for"},
		"other message": {[]any{&streamingapi.StreamInit{ID: "a"}, &streamingapi.StreamInit{}}, `found "containerd.services.streaming.v1.StreamInit", accepted containerd.types.transfer.Data and WindowUpdate`},
	} {
		t.Run(name, func(t *testing.T) {
			c := ttrpc.NewClient(r.dial())
			defer c.Close()
			stream, err := streamingapi.NewTTRPCStreamingClient(c).Stream(t.Context())
			require.NoError(t, err)
			for _, m := range tc.send {
				a, err := typeurl.MarshalAnyToProto(m)
				require.NoError(t, err)
				require.NoError(t, stream.Send(a))
			}
			for err == nil {
				_, err = stream.Recv()
			}
			require.True(t, errdefs.IsInvalidArgument(errgrpc.ToNative(err)), "%v", err)
			require.ErrorContains(t, err, tc.want)
		})
	}
	for _, name := range []string{"ttrpc+unix:///s", "ttrpc+unix:///s?streaming_id=", "ttrpc+unix:///%zz?streaming_id=x"} {
		_, err := openStreams(names{stdin: name}, "id", "ns", &r.remotes, log.L)
		require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	}
}
