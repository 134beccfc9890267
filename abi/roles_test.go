// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// delete answers from the record that the daemon left, without Go.
func TestDeleteAnswersFromTheRecord(t *testing.T) {
	bundle := t.TempDir()
	record := "\x08\x01\x10\x8f\x01\x00binary"
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "shim.deleted"), []byte(record), 0o600))
	for _, c := range []struct {
		name string
		dir  string
		args []string
	}{
		{"flag", "/", []string{"-namespace", "n", "-id", "c", "-bundle", bundle, "delete"}},
		{"equals", "/", []string{"--bundle=" + bundle, "-debug", "delete"}},
		{"cwd", bundle, []string{"-id", "start", "delete"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(probePath(t), c.args...)
			cmd.Dir = c.dir
			// Go's runtime would print to stderr when it starts.
			cmd.Env = []string{"GODEBUG=inittrace=1"}
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			require.NoError(t, err)
			require.Equal(t, record, string(out))
			require.Empty(t, stderr.String())
		})
	}
}

// Where there is no record, or none that the daemon could have written, the
// cleanup is Go's.
func TestDeleteWithoutRecord(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"none":    func(string) error { return nil },
		"empty":   func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"too big": func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("x", 5000)), 0o600) },
		"link":    func(p string) error { return os.Symlink("/etc/hostname", p) },
		"dir":     func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			bundle := t.TempDir()
			require.NoError(t, make(filepath.Join(bundle, "shim.deleted")))
			cmd := exec.Command(probePath(t), "-bundle", bundle, "delete")
			cmd.Dir = bundle
			cmd.Env = []string{"GODEBUG=inittrace=1"}
			var stderr strings.Builder
			cmd.Stderr = &stderr
			_ = cmd.Run()
			require.Contains(t, stderr.String(), "init runtime @", "Go has not been started")
		})
	}
}

func TestVersionComesFromTheDescriptor(t *testing.T) {
	out, err := exec.Command(probePath(t), "-v").Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "probe")
	require.Contains(t, string(out), "1.2.3")
}

// A daemon that fails answers through the pipe: text on stderr, nothing on
// stdout, which containerd would read as an address.
func TestStartReportsFailure(t *testing.T) {
	cmd := exec.Command(probePath(t), "start")
	cmd.Dir = t.TempDir()
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.Error(t, cmd.Run())
	require.Empty(t, stdout.String())
	require.NotEmpty(t, stderr.String())
	require.NotContains(t, stderr.String(), "died before it answered")
}

// Start answers before Go is up: also where it never is, for want of memory. Then its last
// words are in the log, and the socket is one that nobody serves, for a delete to remove.
func TestStartAnswersWithoutGo(t *testing.T) {
	bundle, params := usualStart(t)
	require.NoError(t, unix.Mkfifo(filepath.Join(bundle, "log"), 0o600))
	log, err := os.OpenFile(filepath.Join(bundle, "log"), os.O_RDWR|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	defer log.Close()

	const tooLittle = "ulimit -v 100000; exec " // kilobytes
	cmd := exec.Command("sh", "-c", tooLittle+probePath(t)+" -namespace n -address /c.sock -id c start")
	path := socketOf(t, cmd, bundle, params)
	require.FileExists(t, path)

	require.NoError(t, log.SetReadDeadline(time.Now().Add(time.Minute)))
	words := make([]byte, 4096)
	n, err := log.Read(words)
	require.NoError(t, err)
	require.Contains(t, string(words[:n]), "fatal error: ")
	cmd = exec.Command(probePath(t), "-namespace", "n", "-address", "/c.sock", "-id", "c", "-bundle", bundle, "delete")
	cmd.Dir = bundle
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoFileExists(t, path)
}

// usualStart is a bundle, and what containerd says of it.
func usualStart(t *testing.T) (bundle string, params []byte) {
	bundle = t.TempDir()
	dir, err := os.MkdirTemp("", "s") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte("{}"), 0o600))
	params, err = proto.Marshal(&bootapi.BootstrapParams{InstanceID: "c", Namespace: "n", SocketDir: &dir})
	require.NoError(t, err)
	return bundle, params
}

// socketOf is the socket that a start has answered.
func socketOf(t *testing.T, start *exec.Cmd, bundle string, params []byte) string {
	start.Dir, start.Stdin = bundle, bytes.NewReader(params)
	out, err := start.CombinedOutput()
	require.NoError(t, err, "%s", out)
	var result bootapi.BootstrapResult
	require.NoError(t, proto.Unmarshal(out, &result))
	return strings.TrimPrefix(result.Address, "unix://")
}

// A daemon's threads have no memory of C's of their own.
func TestDaemonHasOneArena(t *testing.T) {
	bundle, params := usualStart(t)
	path := socketOf(t, exec.Command(probePath(t), "-namespace", "n", "-address", "/c.sock", "-id", "c", "start"), bundle, params)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Connect(fd, &unix.SockaddrUnix{Name: path}))
	daemon, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Kill(int(daemon.Pid), unix.SIGTERM)) }()
	threads := func() int {
		all, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", daemon.Pid))
		require.NoError(t, err)
		return len(all)
	}
	require.Eventually(t, func() bool { return threads() > 4 }, time.Minute, time.Millisecond)
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", daemon.Pid))
	require.NoError(t, err)
	const (
		heapMax = 64 << 20   // of an arena, which is aligned to that; see malloc/arena.c of glibc
		kernels = 0x7f << 40 // from here on the kernel places what is mapped; Go's heap is below
	)
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var perms string
		_, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perms)
		require.NoError(t, err)
		require.False(t, from >= kernels && from%heapMax != 0 && to%heapMax == 0 && to-from > heapMax/2 && perms == "---p", "the end of an arena: %s", line)
	}
}
