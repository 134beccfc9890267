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
	s, err := openStdio(in, out, "")
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
	s, err := openStdio(in, "", "")
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
		s, err := openStdio("", "file://"+file, "file://"+file)
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
	_, err := openStdio("", "binary:///bin/logger", "")
	require.ErrorContains(t, err, "streams of scheme binary:// are not supported; use a FIFO or file://")
	require.True(t, errdefs.IsNotImplemented(err))
	_, err = openStdio("", "", "/no/such/fifo")
	require.ErrorContains(t, err, `stderr "/no/such/fifo": no such FIFO`)
	require.True(t, errdefs.IsNotFound(err))
	_, err = openStdio(t.TempDir(), "", "")
	require.NoError(t, err) // read fails, as it would for any process
}
