// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
)

// sockets are a daemon's and its worker's end.
func sockets(t *testing.T) (daemon, worker *os.File) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	daemon, worker = os.NewFile(uintptr(fds[0]), "daemon"), os.NewFile(uintptr(fds[1]), "worker")
	t.Cleanup(func() { daemon.Close(); worker.Close() })
	return daemon, worker
}

// packet is a message with files of some texts.
type packet struct {
	text  string
	files []string
}

func say(v any, files ...string) packet {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return packet{string(text), files}
}

func sayLayer(hasArtifact bool, files ...string) packet {
	return say(message{Layer: &layerMessage{LayerTypes[0], digest.FromString("layer"), hasArtifact}}, files...)
}

func (p packet) send(t *testing.T, socket *os.File) {
	var fds []int
	for _, text := range p.files {
		f, _, err := sealedCopy("code", strings.NewReader(text))
		require.NoError(t, err)
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	require.NoError(t, unix.Sendmsg(int(socket.Fd()), []byte(p.text), rights, nil, 0))
}

// descriptors counts those that are open.
func descriptors(t *testing.T) (n int) {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, e := range entries {
		// containerd's content store leaves these to the garbage collector.
		if name, _ := os.Readlink("/proc/self/fd/" + e.Name()); !strings.Contains(name, ".fsverity-check-") {
			n++
		}
	}
	return n
}

func textOf(t *testing.T, f *os.File) string {
	if f == nil {
		return ""
	}
	info, err := f.Stat()
	require.NoError(t, err)
	text, err := io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
	require.NoError(t, err)
	return string(text)
}

// Nothing that a worker says does any harm to its daemon, nor does it leave files
// open there.
func TestReceive(t *testing.T) {
	done := say(message{Kind: entrypoint.Component})
	failed := func(code codes.Code, text string) packet { return say(message{Failed: true, Code: code, Error: text}) }
	died := func(text string) func(*testing.T, error) {
		return func(t *testing.T, err error) {
			require.ErrorIs(t, err, errWorkerDied)
			require.ErrorContains(t, err, text)
		}
	}
	is := func(is func(error) bool, text string) func(*testing.T, error) {
		return func(t *testing.T, err error) {
			require.True(t, is(err), "%v", err)
			require.ErrorContains(t, err, text)
			require.NotErrorIs(t, err, errWorkerDied)
			require.NotErrorIs(t, err, ErrOrdinary)
		}
	}
	for name, test := range map[string]struct {
		says   []packet
		want   []string // layers' and artifacts' texts
		refuse func(*testing.T, error)
	}{
		"layer":         {[]packet{sayLayer(false, "a"), done}, []string{"a", ""}, nil},
		"with artifact": {[]packet{sayLayer(true, "a", "b"), done}, []string{"a", "b"}, nil},
		"several":       {[]packet{sayLayer(false, "a"), sayLayer(true, "b", "c"), sayLayer(true, "d", "e"), done}, []string{"a", "", "b", "c", "d", "e"}, nil},
		"files at last": {[]packet{sayLayer(false, "a"), say(message{Kind: entrypoint.Component}, "b", "c")}, []string{"a", ""}, nil},
		"more after it": {[]packet{sayLayer(false, "a"), done, sayLayer(false, "b")}, []string{"a", ""}, nil},

		"no layers":           {[]packet{done}, nil, died("it sent no layers, and no error")},
		"nothing said":        {[]packet{{"{}", []string{"a"}}}, nil, died("it sent no layers, and no error")},
		"failed for nothing":  {[]packet{sayLayer(false, "a"), failed(codes.OK, "why")}, []string{"a", ""}, died("and no error")},
		"no file":             {[]packet{sayLayer(false), done}, nil, died("it sent 0 files and not 1")},
		"two files":           {[]packet{sayLayer(false, "a", "b"), done}, nil, died("it sent 2 files and not 1")},
		"artifact, no file":   {[]packet{sayLayer(true), done}, nil, died("it sent 0 files and not 2")},
		"artifact, one file":  {[]packet{sayLayer(true, "a"), done}, nil, died("it sent 1 files and not 2")},
		"many files":          {[]packet{sayLayer(false, strings.Split(strings.Repeat("a", 100), "")...), done}, nil, died("files and not 1")},
		"wrong after right":   {[]packet{sayLayer(true, "a", "b"), sayLayer(false), done}, []string{"a", "b"}, died("it sent 0 files and not 1")},
		"end":                 {nil, nil, died("has died")},
		"early end":           {[]packet{sayLayer(true, "a", "b")}, []string{"a", "b"}, died("has died")},
		"garbage":             {[]packet{{"\x00\xff", nil}}, nil, died("it sent what is no message")},
		"garbage with files":  {[]packet{{"hello", []string{"a", "b"}}}, nil, died("it sent what is no message")},
		"text":                {[]packet{{`"Layer"`, nil}}, nil, died("it sent what is no message")},
		"cut":                 {[]packet{{done.text[:len(done.text)-1], nil}}, nil, died("it sent what is no message")},
		"two in one":          {[]packet{{done.text + done.text, nil}}, nil, died("it sent what is no message")},
		"too long":            {[]packet{{`{"Error":"` + strings.Repeat("x", maxMessageSize) + `"}`, []string{"a"}}}, nil, died("it sent what is no message")},
		"as long as possible": {[]packet{{`{"Failed":true,"Code":2,"Error":"` + strings.Repeat("x", maxMessageSize-35) + `"}`, nil}}, nil, is(errdefs.IsUnknown, "xxx")},

		"invalid":         {[]packet{failed(codes.InvalidArgument, "why")}, nil, is(errdefs.IsInvalidArgument, "why")},
		"not found":       {[]packet{failed(codes.NotFound, "why")}, nil, is(errdefs.IsNotFound, "why")},
		"damaged":         {[]packet{sayLayer(false, "a"), failed(codes.DataLoss, "why")}, []string{"a", ""}, is(errdefs.IsDataLoss, "why")},
		"unavailable":     {[]packet{failed(codes.Unavailable, "why")}, nil, is(errdefs.IsUnavailable, "why")},
		"unknown":         {[]packet{failed(codes.Unknown, "why")}, nil, is(errdefs.IsUnknown, "why")},
		"unheard-of":      {[]packet{failed(12345, "why")}, nil, died("invalid code: 12345")},
		"error and files": {[]packet{say(message{Failed: true, Code: codes.NotFound, Error: "why"}, "a", "b")}, nil, is(errdefs.IsNotFound, "why")},
		"ordinary": {[]packet{say(message{Failed: true, None: true, Code: codes.NotFound, Error: "image x: no image"})}, nil, func(t *testing.T, err error) {
			require.ErrorIs(t, err, ErrOrdinary)
			require.True(t, errdefs.IsNotFound(err))
			require.EqualError(t, err, "image x: no image")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			daemon, worker := sockets(t)
			for _, p := range test.says {
				p.send(t, worker)
			}
			require.NoError(t, worker.Close())
			before := descriptors(t)
			g, err := receive(daemon)
			var got []string
			for _, l := range g.Layers {
				require.Equal(t, LayerTypes[0], l.MediaType)
				require.Equal(t, digest.FromString("layer"), l.Digest)
				got = append(got, textOf(t, l.File), textOf(t, l.Artifact))
				for _, f := range []*os.File{l.File, l.Artifact} {
					if f != nil {
						flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
						require.NoError(t, err)
						require.NotZero(t, flags&unix.FD_CLOEXEC, "no other process gets it by chance")
					}
				}
			}
			require.Equal(t, test.want, got)
			if test.refuse != nil {
				test.refuse(t, err)
			} else {
				require.NoError(t, err)
				require.Equal(t, entrypoint.Component, g.Kind)
			}
			g.Close()
			require.Equal(t, before, descriptors(t))
		})
	}
	t.Run("no socket", func(t *testing.T) {
		f, _, err := sealedCopy("none", strings.NewReader(""))
		require.NoError(t, err)
		defer f.Close()
		g, err := receive(f)
		require.ErrorIs(t, err, unix.ENOTSOCK)
		require.Empty(t, g.Layers)
	})
}

// sendThings is a worker that sends what the first argument says.
func sendThings() int {
	var err error
	switch os.Args[1] {
	case "guest":
		g := &Guest{Kind: entrypoint.Module}
		for i := range 100 {
			f, d, err := sealedCopy("layer", strings.NewReader(fmt.Sprint("layer ", i)))
			if err != nil {
				return 1
			}
			l := Layer{MediaType: LayerTypes[1], Digest: d, File: f}
			if i%2 == 1 {
				if l.Artifact, _, err = sealedCopy("artifact", strings.NewReader(fmt.Sprint("artifact ", i))); err != nil {
					return 1
				}
			}
			g.Layers = append(g.Layers, l)
		}
		err = send(g)
	default:
		err = sendOne(message{Failed: true, Code: codes.ResourceExhausted, Error: strings.Repeat(os.Args[1], maxMessageSize)})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// What one end sends arrives at the other.
func TestSend(t *testing.T) {
	// Texts grow in JSON: by a byte of UTF-8 that is cut, a control character.
	for _, text := range []string{"x", "\x01", "\"", "é", "\xff", "<&>", "\u2028"} {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			daemon, worker := sockets(t)
			cmd := process(t, "send", text)
			cmd.ExtraFiles = []*os.File{worker}
			require.NoError(t, cmd.Run())
			g, err := receive(daemon)
			require.Empty(t, g.Layers)
			require.True(t, errdefs.IsResourceExhausted(err), "%v", err)
			require.Greater(t, len(err.Error()), 1000)
		})
	}
	t.Run("guest", func(t *testing.T) {
		daemon, worker := sockets(t)
		cmd := process(t, "send", "guest")
		cmd.ExtraFiles = []*os.File{worker}
		require.NoError(t, cmd.Start())
		require.NoError(t, worker.Close())
		g, err := receive(daemon)
		require.NoError(t, err)
		defer g.Close()
		require.NoError(t, cmd.Wait())
		require.Equal(t, entrypoint.Module, g.Kind)
		require.Len(t, g.Layers, 100)
		for i, l := range g.Layers {
			require.Equal(t, LayerTypes[1], l.MediaType)
			require.Equal(t, fmt.Sprint("layer ", i), textOf(t, l.File))
			require.Equal(t, digest.FromString(fmt.Sprint("layer ", i)), l.Digest)
			require.Equal(t, i%2 == 1, l.Artifact != nil)
		}
		require.Equal(t, "artifact 99", textOf(t, g.Layers[99].Artifact))
	})
}

// A worker says what keeps it from its work.
func TestWorkFails(t *testing.T) {
	job := func(address string) string {
		text, err := json.Marshal(order{Job: &Job{Address: address, Namespace: "test", Image: &Image{}}, LogLevel: "info"})
		require.NoError(t, err)
		return string(text)
	}
	for name, test := range map[string]struct {
		order string
		is    func(error) bool
		text  string
	}{
		"nothing":       {"", errdefs.IsUnknown, "read what is to be done: EOF"},
		"no order":      {"hello", errdefs.IsUnknown, "read what is to be done: invalid character"},
		"cut":           {job("/x")[:10], errdefs.IsUnknown, "read what is to be done: unexpected EOF"},
		"no address":    {job("c.sock"), errdefs.IsInvalidArgument, `containerd's address is "c.sock", accepted: the absolute path of a socket`},
		"no containerd": {job("/no/such/c.sock"), errdefs.IsUnavailable, "/no/such/c.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			daemon, worker := sockets(t)
			cmd := process(t, "worker")
			cmd.Stdin = strings.NewReader(test.order)
			cmd.ExtraFiles = []*os.File{worker}
			require.NoError(t, cmd.Start())
			require.NoError(t, worker.Close())
			g, err := receive(daemon)
			require.Empty(t, g.Layers)
			require.True(t, test.is(err), "%v", err)
			require.ErrorContains(t, err, test.text)
			require.NotErrorIs(t, err, ErrOrdinary)
			daemon.Close()
			require.NoError(t, cmd.Wait())
		})
	}
}

// An error keeps its code on its way, and what was joined to it its text.
func TestErrorsCross(t *testing.T) {
	for _, err := range []error{
		errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrDataLoss, errdefs.ErrUnavailable, errdefs.ErrResourceExhausted, errdefs.ErrFailedPrecondition,
		errors.Join(fmt.Errorf("read: %w", errdefs.ErrDataLoss), errors.New("close")),
	} {
		code := status.Code(errgrpc.ToGRPC(err))
		daemon, worker := sockets(t)
		say(message{Failed: true, Code: code, Error: err.Error()}).send(t, worker)
		_, got := receive(daemon)
		require.Equal(t, errdefs.Resolve(err), errdefs.Resolve(got))
		require.ErrorContains(t, got, err.Error())
	}
}
