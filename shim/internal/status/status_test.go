// SPDX-License-Identifier: Apache-2.0

package status

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// newStatus gives a status with its log, and the runner's end.
func newStatus(t *testing.T) (*Status, *bytes.Buffer, int) {
	var out bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&out)
	logger.SetLevel(logrus.DebugLevel)
	s, err := New(logrus.NewEntry(logger).WithField("instance", "c1"))
	require.NoError(t, err)
	runner, err := unix.Dup(int(s.Peer.Fd()))
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(runner) })
	s.HandedOver()
	go s.Follow()
	return s, &out, runner
}

func TestStatus(t *testing.T) {
	s, out, runner := newStatus(t)
	var refused []int
	s.Refused = func(index int) { refused = append(refused, index) }
	for _, message := range []string{"\x06x\x00", "\x06-1\x00", "\x03loaded", "\x05too fine", "\x09no such level", "\x01a\nb\x1b[31m", "\x04with\x00size=3\x00instance=c2", "\x061\x00cut", "\x00trap\x00unreachable\n"} {
		require.NoError(t, unix.Send(runner, []byte(message), 0))
	}
	s.Drain() // while the other end is still open
	require.Equal(t, "trap", s.At)
	require.Equal(t, "unreachable", s.Cause)
	require.Contains(t, out.String(), "level=info msg=loaded instance=c1\n")
	require.Contains(t, out.String(), `level=error msg="a\nb\x1b[31m" instance=c1`)
	require.Contains(t, out.String(), "level=debug msg=with engine.instance=c2 instance=c1 size=3\n")
	require.Equal(t, []int{1}, refused)
	require.Contains(t, out.String(), "the artifact of layer 1 does not load, the layer itself is run: cut")
	require.Equal(t, 4, strings.Count(out.String(), "\n"))
	_, err := s.conn.Read(nil)
	require.ErrorIs(t, err, os.ErrClosed)
}

// A line is logged when it is said, not when the guest ends.
func TestStatusFollows(t *testing.T) {
	s, out, runner := newStatus(t)
	require.NoError(t, unix.Send(runner, []byte("\x02early"), 0))
	require.Eventually(t, func() bool {
		buffer.Lock() // under which the line is written
		defer buffer.Unlock()
		return strings.Contains(out.String(), "early")
	}, 10*time.Second, time.Millisecond)
	s.Drain()
}

func TestStatusIsBounded(t *testing.T) {
	s, out, runner := newStatus(t)
	for range budgetLines + 17 {
		require.NoError(t, unix.Send(runner, append([]byte{3}, bytes.Repeat([]byte("x"), 5000)...), 0))
	}
	s.Drain()
	require.Equal(t, budgetLines+1, strings.Count(out.String(), "\n"))
	require.Contains(t, out.String(), `17 lines of the engine's were too many for the log`)
	require.NotContains(t, out.String(), strings.Repeat("x", stage.MaxMessage))
}

func TestLogLevel(t *testing.T) {
	logger := logrus.New()
	for level, want := range map[log.Level]string{
		log.FatalLevel: "error", log.ErrorLevel: "error", log.WarnLevel: "warn", log.InfoLevel: "info", log.DebugLevel: "debug", log.TraceLevel: "trace",
	} {
		logger.SetLevel(level)
		require.Equal(t, want, Level(logrus.NewEntry(logger), ""))
		require.Equal(t, "info", Level(logrus.NewEntry(logger), "info"))
	}
}
