// SPDX-License-Identifier: Apache-2.0

package task

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
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
func TestStdioOutlivesItsClient(t *testing.T) {
	in, out := fifoAt(t, "in"), fifoAt(t, "out")
	s, err := openStdio(in, out, "", "id", "ns")
	require.NoError(t, err)
	_, err = s.out.WriteString("early")
	require.NoError(t, err)

	client, err := os.OpenFile(out, os.O_RDONLY, 0)
	require.NoError(t, err)
	defer client.Close()
	flags, err := unix.FcntlInt(s.out.Fd(), unix.F_GETFL, 0)
	require.NoError(t, err)
	require.Zero(t, flags&unix.O_NONBLOCK, "the guest's descriptor must block")

	s.handedOver() // the process is gone, and the daemon's write end with it
	b, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, "early", string(b))
	s.close()
}

func TestStdinEndsOnlyWithCloseIO(t *testing.T) {
	in := fifoAt(t, "in")
	s, err := openStdio(in, "", "", "id", "ns")
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
	_, err = io.ReadFull(s.in, buf)
	require.NoError(t, err)
	fds := []unix.PollFd{{Fd: int32(s.in.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 50)
	require.NoError(t, err)
	require.Zero(t, n, "end of file before CloseIO")

	s.closeStdin()
	s.closeStdin()
	_, err = s.in.Read(buf)
	require.ErrorIs(t, err, io.EOF)
}

func TestStdioFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	for range 2 {
		s, err := openStdio("", "file://"+file, "file://"+file, "id", "ns")
		require.NoError(t, err)
		_, err = s.out.WriteString("o")
		require.NoError(t, err)
		_, err = s.err.WriteString("e")
		require.NoError(t, err)
		s.close()
	}
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "oeoe", string(b))
}

func TestStdioErrors(t *testing.T) {
	for _, tc := range []struct {
		stdin, stdout, stderr string
		is                    func(error) bool
		want                  string
	}{
		{"", "tcp://1.2.3.4", "", errdefs.IsNotImplemented, `stdout "tcp://1.2.3.4": streams of scheme tcp:// are not supported here; accepted: fifo, file, and for stdout binary, binary-v2: not implemented`},
		{"", "", "binary:///bin/logger", errdefs.IsNotImplemented, `stderr "binary:///bin/logger": streams of scheme binary:// are not supported here`},
		{"", "", "/no/such/fifo", errdefs.IsNotFound, `stderr "/no/such/fifo": no such FIFO`},
		{"", "file://", "", errdefs.IsInvalidArgument, `stdout "file://": "" is not an absolute path, as in file:///var/log/x: invalid argument`},
		{"", "file://%zz", "", errdefs.IsInvalidArgument, `invalid URL escape`},
		{"", "binary://logger", "", errdefs.IsInvalidArgument, `stdout "binary://logger": "" is not the absolute path of a program, as in binary:///usr/bin/logger: invalid argument`},
		{"", "binary://%zz", "", errdefs.IsInvalidArgument, `invalid URL escape`},
		{"", "binary:///no/such/logger", "", errdefs.IsNotFound, `stdout "binary:///no/such/logger": start logger: fork/exec /no/such/logger: no such file or directory: not found`},
		{"", "binary-v2:///bin/true", "", errdefs.IsUnavailable, `stdout "binary-v2:///bin/true": logger /bin/true closed descriptor 5 without writing to it: it has ended, or does not know binary-v2: unavailable`},
	} {
		_, err := openStdio(tc.stdin, tc.stdout, tc.stderr, "id", "ns")
		require.ErrorContains(t, err, tc.want)
		require.True(t, tc.is(err), "%v", err)
	}
	s, err := openStdio(t.TempDir(), "", "", "id", "ns")
	require.NoError(t, err) // read fails, as it would for any process
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
		s, err := openStdio("", scheme+"://"+script+"?to="+out, "", "id", "ns")
		require.NoError(t, err)
		_, err = s.out.WriteString("from stdout\n")
		require.NoError(t, err)
		_, err = s.err.WriteString("from stderr\n")
		require.NoError(t, err)
		s.close()
		text, err := os.ReadFile(out)
		require.NoError(t, err)
		require.Equal(t, "id ns to "+out+"\nfrom stdout\nfrom stderr\n", string(text))
	}
}
