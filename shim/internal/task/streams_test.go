// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func fifoAt(t *testing.T, name string) string {
	p := filepath.Join(t.TempDir(), name)
	require.NoError(t, unix.Mkfifo(p, 0o600))
	return p
}

// The client may open its ends late; nothing waits for it, and nothing that
// was written is lost.
func TestStreamsOutlivesItsClient(t *testing.T) {
	in, out := fifoAt(t, "in"), fifoAt(t, "out")
	s, err := openStreams(names{in, out, "", false}, "id", "ns", nil, log.L)
	require.NoError(t, err)
	_, err = s.out.processEnd().WriteString("early")
	require.NoError(t, err)

	client, err := os.OpenFile(out, os.O_RDONLY, 0)
	require.NoError(t, err)
	defer client.Close()
	flags, err := unix.FcntlInt(s.out.processEnd().Fd(), unix.F_GETFL, 0)
	require.NoError(t, err)
	require.Zero(t, flags&unix.O_NONBLOCK, "the guest's descriptor must block")

	s.handOver() // the process is gone, and the daemon's write end with it
	b, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, "early", string(b))
	s.close()
}

// A client that is late to read, or even to open its end, is waited for, as long as there
// is something to read.
func TestStreamsLateClient(t *testing.T) {
	t.Parallel()
	open := func() (*streams, string) {
		out := fifoAt(t, "out")
		s, err := openStreams(names{"", out, "", false}, "id", "ns", nil, log.L)
		require.NoError(t, err)
		t.Cleanup(s.close)
		_, err = s.out.processEnd().WriteString("last words")
		require.NoError(t, err)
		s.handOver()
		return s, out
	}
	s, out := open()
	settled := make(chan struct{})
	go func() {
		s.settle()
		close(settled)
	}()
	client, err := os.OpenFile(out, os.O_RDONLY, 0)
	require.NoError(t, err)
	defer client.Close()
	select {
	case <-settled:
		t.Error("settled with something to read")
	case <-time.After(50 * time.Millisecond):
	}
	b, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, "last words", string(b))
	<-settled
	s.settle() // nothing is left
	require.False(t, s.unread.Load())

	s, _ = open() // its client is gone
	s.settle()
	require.True(t, s.unread.Load())
}

func TestStdinEndsOnlyWithCloseIO(t *testing.T) {
	in := fifoAt(t, "in")
	s, err := openStreams(names{in, "", "", false}, "id", "ns", nil, log.L)
	require.NoError(t, err)
	defer s.close()
	for range 2 { // two clients, one after the other
		w, err := os.OpenFile(in, os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = w.WriteString("x")
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	buf := make([]byte, 2)
	_, err = io.ReadFull(s.in.processEnd(), buf)
	require.NoError(t, err)
	fds := []unix.PollFd{{Fd: int32(s.in.processEnd().Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 50)
	require.NoError(t, err)
	require.Zero(t, n, "end of file before CloseIO")

	s.in.endInput()
	s.in.endInput()
	_, err = s.in.processEnd().Read(buf)
	require.ErrorIs(t, err, io.EOF)
}

// A file is the daemon's: the process has a pipe, and what it writes is in the file,
// behind what was there, when the streams are finished.
func TestStreamsFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "log")
	for range 2 {
		s, err := openStreams(names{"", "file://" + file, "file://" + file + ".err", false}, "id", "ns", nil, log.L)
		require.NoError(t, err)
		for i, one := range []stream{s.out, s.err} {
			info, err := one.processEnd().Stat()
			require.NoError(t, err)
			require.NotZero(t, info.Mode()&os.ModeNamedPipe)
			_, err = one.processEnd().WriteString([]string{"o", "e"}[i])
			require.NoError(t, err)
		}
		s.handOver()
		s.finish()
	}
	for name, want := range map[string]string{file: "oo", file + ".err": "ee"} {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}
}

// What goes to one file stays in order.
func TestStreamsOrder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	s, err := openStreams(names{"", "file://" + file, "file://" + file, false}, "id", "ns", nil, log.L)
	require.NoError(t, err)
	for range 1000 {
		_, err = s.out.processEnd().WriteString("o")
		require.NoError(t, err)
		_, err = s.err.processEnd().WriteString("e")
		require.NoError(t, err)
	}
	s.handOver()
	s.finish()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("oe", 1000), string(b))
}

// A FIFO may be named as a file, too: nobody waits for whoever is to read it.
func TestStreamsFIFOAsFile(t *testing.T) {
	s, err := openStreams(names{"", "file://" + fifoAt(t, "out"), "", false}, "id", "ns", nil, log.L)
	require.NoError(t, err)
	_, err = s.out.processEnd().WriteString("text")
	require.NoError(t, err)
	s.finish()
}

// A file that takes nothing, here a terminal that nobody reads, is waited for, but
// not for ever.
func TestStreamsStuck(t *testing.T) {
	t.Parallel()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	defer master.Close()
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	s, err := openStreams(names{"", fmt.Sprintf("file:///dev/pts/%d", number), "", false}, "id", "ns", nil, log.L)
	require.NoError(t, err)
	_, err = s.out.processEnd().Write(make([]byte, 48<<10))
	require.NoError(t, err)
	s.handOver()
	s.finish()
	<-s.out.(*copied).done
}

// So is one that the process reads: it has no descriptor that it could open again.
func TestStreamsInputFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "in")
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	require.NoError(t, os.WriteFile(file, text, 0o600))
	s, err := openStreams(names{file, "", "", false}, "id", "ns", nil, log.L)
	require.NoError(t, err)
	info, err := s.in.processEnd().Stat()
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeNamedPipe)
	got, err := io.ReadAll(s.in.processEnd())
	require.NoError(t, err)
	require.Equal(t, text, got)
	s.finish()
	s, err = openStreams(names{file, "", "", false}, "id", "ns", nil, log.L)
	require.NoError(t, err)
	s.finish() // of a process that has read nothing
}

// Somebody may keep an end of the output for ever: it is waited for, but not for
// ever. What was written meanwhile is there.
func TestStreamsKeptOpen(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "log")
	s, err := openStreams(names{"", file + "-not-there", "", false}, "id", "ns", nil, log.L)
	require.ErrorContains(t, err, "no such FIFO")
	require.Nil(t, s)
	s, err = openStreams(names{"", "file://" + file, "", false}, "id", "ns", nil, log.L)
	require.NoError(t, err)
	fd, err := unix.Dup(int(s.out.processEnd().Fd()))
	require.NoError(t, err)
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("text"))
	require.NoError(t, err)
	s.handOver()
	s.finish()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "text", string(text))
}

// A file that cannot be written, a full disk for one, holds up no process.
func TestStreamsFull(t *testing.T) {
	s, err := openStreams(names{"", "file:///dev/full", "", false}, "id", "ns", nil, log.L)
	require.NoError(t, err)
	_, err = s.out.processEnd().Write(make([]byte, 1<<20))
	require.NoError(t, err)
	s.handOver()
	s.finish()
}

func TestStreamsErrors(t *testing.T) {
	for _, tc := range []struct {
		stdin, stdout, stderr string
		is                    func(error) bool
		want                  string
	}{
		{"", "tcp://1.2.3.4", "", errdefs.IsInvalidArgument, `stdout "tcp://1.2.3.4": streams of scheme tcp:// are not supported here; accepted: fifo, file, ttrpc+unix, and for stdout binary, binary-v2: invalid argument`},
		{"", "", "binary:///bin/logger", errdefs.IsInvalidArgument, `stderr "binary:///bin/logger": streams of scheme binary:// are not supported here`},
		{"", "", "/no/such/fifo", errdefs.IsNotFound, `stderr "/no/such/fifo": no such FIFO`},
		{"", "file://", "", errdefs.IsInvalidArgument, `stdout "file://": "" is not an absolute path, as in file:///var/log/x: invalid argument`},
		{"", "file://%zz", "", errdefs.IsInvalidArgument, `invalid URL escape`},
		{"", "binary://logger", "", errdefs.IsInvalidArgument, `stdout "binary://logger": "" is not the absolute path of a program, as in binary:///usr/bin/logger: invalid argument`},
		{"", "binary://%zz", "", errdefs.IsInvalidArgument, `invalid URL escape`},
		{"", "binary:///no/such/logger", "", errdefs.IsNotFound, `stdout "binary:///no/such/logger": start logger: fork/exec /no/such/logger: no such file or directory: not found`},
		{"", "binary-v2:///bin/true", "", errdefs.IsUnavailable, `stdout "binary-v2:///bin/true": logger /bin/true closed descriptor 5 without writing to it: it has ended, or does not know binary-v2: unavailable`},
	} {
		_, err := openStreams(names{tc.stdin, tc.stdout, tc.stderr, false}, "id", "ns", nil, log.L)
		require.ErrorContains(t, err, tc.want)
		require.True(t, tc.is(err), "%v", err)
	}
	s, err := openStreams(names{t.TempDir(), "", "", false}, "id", "ns", nil, log.L)
	require.NoError(t, err) // there is nothing to read
	s.close()
}

func TestLoggerArgs(t *testing.T) {
	require.Empty(t, loggerArgs(""))
	require.Equal(t, []string{"--x", "", "b", "1 2", "c", "d=e"}, loggerArgs("--x&b=1%202&b=3&c=d%3De&bad=%zz"))
}

// The logger gets the container's output and its name, and ends with it.
func TestLogger(t *testing.T) {
	for scheme, ready := range map[string]string{"binary": "", "binary-v2": "echo >&5;"} {
		out := filepath.Join(t.TempDir(), "out")
		script := filepath.Join(t.TempDir(), "logger")
		require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\n"+ready+"exec 5>&-\n"+
			`{ echo "$CONTAINER_ID $CONTAINER_NAMESPACE $*"; cat <&3; cat <&4; } >"$2"`+"\n"), 0o755))
		s, err := openStreams(names{"", scheme + "://" + script + "?to=" + out, "", false}, "id", "ns", nil, log.L)
		require.NoError(t, err)
		_, err = s.out.processEnd().WriteString("from stdout\n")
		require.NoError(t, err)
		_, err = s.err.processEnd().WriteString("from stderr\n")
		require.NoError(t, err)
		s.finish()
		text, err := os.ReadFile(out)
		require.NoError(t, err)
		require.Equal(t, "id ns to "+out+"\nfrom stdout\nfrom stderr\n", string(text))
	}
}
