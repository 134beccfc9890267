// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// A zombie is finished, although the kernel takes signals for it.
func TestSignalZombie(t *testing.T) {
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	pidfd, err := openPidfd(cmd.Process.Pid)
	require.NoError(t, err)
	p := &process{pid: cmd.Process.Pid, pidfd: pidfd, reaped: make(chan struct{})}
	defer p.pidfd.Close()
	require.NoError(t, p.signal(0))
	require.False(t, p.dying())
	stdin.Close()
	p.park()
	require.ErrorIs(t, p.signal(syscall.SIGKILL), errdefs.ErrNotFound)
	require.True(t, p.dying())
	require.NoError(t, cmd.Wait())
}

func TestReadStat(t *testing.T) {
	s, err := readStat(os.Getpid())
	require.NoError(t, err)
	require.Equal(t, os.Getppid(), s.ppid)
	require.NotEmpty(t, s.name)
	require.NotZero(t, s.start)
	_, err = readStat(-1)
	require.Error(t, err)
}

func TestStatus(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 255": 255, "kill -9 $$": 137, "kill -15 $$": 143} {
		cmd := exec.Command("/bin/sh", "-c", script)
		_ = cmd.Run() // what it says is in the state
		require.Equal(t, want, status(cmd.ProcessState.Sys().(syscall.WaitStatus)), script)
	}
}
