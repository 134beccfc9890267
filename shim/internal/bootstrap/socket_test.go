// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("TEST_LISTEN"); path != "" {
		forkAndEnd(path)
	}
	os.Exit(m.Run())
}

// forkAndEnd is a daemon that ends while a child of it holds its socket.
func forkAndEnd(path string) {
	l, err := listen(path)
	if err != nil {
		panic(err)
	}
	f, err := l.File()
	if err != nil {
		panic(err)
	}
	child := exec.Command("sleep", "60")
	child.ExtraFiles = []*os.File{f}
	if err := child.Start(); err != nil {
		panic(err)
	}
	fmt.Fprintln(os.Stdout, "child", child.Process.Pid)
	os.Exit(0)
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d", "sock")
	l, err := listen(path)
	require.NoError(t, err)
	require.NotNil(t, l)
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())

	// A daemon serves it: join.
	second, err := listen(path)
	require.NoError(t, err)
	require.Nil(t, second)

	bundle := bundleOf(t, path)
	removeUnused(bundle)
	require.FileExists(t, path, "a live socket was removed")

	// The daemon died and left its socket.
	require.NoError(t, l.UnixListener.Close())
	require.FileExists(t, path)
	l, err = listen(path)
	require.NoError(t, err)
	require.NotNil(t, l)
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	conn.Close()
	require.NoError(t, l.UnixListener.Close())
	removeUnused(bundle)
	require.NoFileExists(t, path)
}

// bundleOf makes a bundle whose address is that of a socket.
func bundleOf(t *testing.T, socket string) string {
	bundle := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bundle, addressFile), []byte(scheme+socket), 0o600))
	return bundle
}

// A daemon that ends removes its own socket, and never a successor's.
func TestSocketIsRemovedByItsOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	first, err := listen(path)
	require.NoError(t, err)
	first.remove()
	require.NoFileExists(t, path)
	conn, err := net.Dial("unix", path)
	require.ErrorIs(t, err, os.ErrNotExist, conn)

	successor, err := listen(path)
	require.NoError(t, err)
	require.NotNil(t, successor, "it joined the daemon that ends")
	first.remove()
	require.NoError(t, first.Close())
	require.Equal(t, served, useOf(path))

	// Even if somebody else has removed the first one's.
	require.NoError(t, os.Remove(path))
	third, err := listen(path)
	require.NoError(t, err)
	require.NoError(t, successor.Close())
	require.Equal(t, served, useOf(path))
	require.NoError(t, third.Close())
	require.NoFileExists(t, path)
}

// Daemons come and go at one path: whoever has bound is there for those who
// look, until it removes its socket itself.
func TestSocketsOfOnePath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				l, err := listen(path)
				if err != nil {
					t.Errorf("listen: %v", err)
				}
				if l == nil {
					continue
				}
				if st, err := os.Lstat(path); err != nil || !os.SameFile(st, l.file) {
					t.Errorf("the socket of a daemon that lives was removed: %v", err)
				}
				l.Close()
			}
		})
	}
	wg.Wait()
	require.NoFileExists(t, path)
}

// heldSocket makes a socket whose daemon has ended, while a child holds it open
// until the returned function is called.
func heldSocket(t *testing.T) (path string, release func()) {
	path = filepath.Join(t.TempDir(), "sock")
	daemon := exec.Command(os.Args[0])
	daemon.Env = append(os.Environ(), "TEST_LISTEN="+path)
	out, err := daemon.Output()
	require.NoError(t, err)
	var pid int
	_, err = fmt.Sscanf(string(out), "child %d", &pid)
	require.NoError(t, err, "%s", out)
	release = sync.OnceFunc(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	t.Cleanup(release)
	return path, release
}

// A process that a dead daemon forked may hold its socket open for a while.
func TestListenAfterDaemonWhoseChildLives(t *testing.T) {
	path, release := heldSocket(t)
	conn, err := net.Dial("unix", path)
	require.NoError(t, err, "the child holds the socket")
	conn.Close()
	time.AfterFunc(holdTimeout/10, release)
	l, err := listen(path)
	require.NoError(t, err)
	require.NotNil(t, l)
	require.Equal(t, served, useOf(path))
	require.NoError(t, l.Close())
}

// What can be connected to is not removed, whoever it may be: the listener of
// some shims has ended, and another process serves.
func TestListenWhereSomebodyElseListens(t *testing.T) {
	path, _ := heldSocket(t)
	l, err := listen(path)
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	require.ErrorContains(t, err, path)
	require.Nil(t, l)
	removeUnused(bundleOf(t, path))
	require.Equal(t, held, useOf(path))
}

// The delete that answers without Go and the one in Go see the same.
func TestUseOfSocketInGoAndC(t *testing.T) {
	program := filepath.Join(t.TempDir(), "socket")
	cc := exec.Command("gcc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-I../../../include",
		"-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", program, "../../../cabi/socket.c", "../../../cabi/testdata/socket.c")
	out, err := cc.CombinedOutput()
	require.NoError(t, err, "%s", out)

	bound := func(t *testing.T, typ int) (path string, fd int) {
		path = filepath.Join(t.TempDir(), "sock")
		fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
		return path, fd
	}
	for name, tc := range map[string]struct {
		make func(t *testing.T) string
		want socketUse
	}{
		"no file":        {func(t *testing.T) string { return filepath.Join(t.TempDir(), "sock") }, absent},
		"no directory":   {func(t *testing.T) string { return filepath.Join(t.TempDir(), "d", "sock") }, absent},
		"bound only":     {func(t *testing.T) string { path, _ := bound(t, unix.SOCK_STREAM); return path }, unused},
		"another's kind": {func(t *testing.T) string { path, _ := bound(t, unix.SOCK_DGRAM); return path }, held},
		"a file": {func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "sock")
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			return path
		}, unused},
		"listener lives": {func(t *testing.T) string {
			l, err := listen(filepath.Join(t.TempDir(), "sock"))
			require.NoError(t, err)
			t.Cleanup(func() { l.Close() })
			return l.path
		}, served},
		"listener has closed": {func(t *testing.T) string {
			l, err := listen(filepath.Join(t.TempDir(), "sock"))
			require.NoError(t, err)
			require.NoError(t, l.UnixListener.Close())
			return l.path
		}, unused},
		"listener's queue is full": {func(t *testing.T) string {
			path, fd := bound(t, unix.SOCK_STREAM)
			require.NoError(t, unix.Listen(fd, 0))
			conn, err := net.Dial("unix", path)
			require.NoError(t, err)
			t.Cleanup(func() { conn.Close() })
			return path
		}, served},
		"listener is a zombie, its child holds it": {func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "sock")
			daemon := exec.Command(os.Args[0])
			daemon.Env = append(os.Environ(), "TEST_LISTEN="+path)
			r, err := daemon.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, daemon.Start())
			var pid int
			_, err = fmt.Fscanf(r, "child %d\n", &pid)
			require.NoError(t, err)
			t.Cleanup(func() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				_ = daemon.Wait()
			})
			require.Eventually(t, func() bool { return useOf(path) != served }, 10*time.Second, time.Millisecond)
			return path
		}, held},
		"listener has ended, its child holds it": {func(t *testing.T) string { path, _ := heldSocket(t); return path }, held},
	} {
		t.Run(name, func(t *testing.T) {
			path := tc.make(t)
			require.Equal(t, tc.want.String(), useOf(path).String())
			out, err := exec.Command(program, bundleOf(t, path)).CombinedOutput()
			require.NoError(t, err, "%s", out)
			left := tc.want == unused || tc.want == held
			require.Equal(t, map[bool]string{true: "left", false: "nothing left"}[left], strings.TrimSpace(string(out)))
		})
	}
}

func TestSocketPath(t *testing.T) {
	const runtime, address = "io.containerd.x.v1", "/run/containerd/containerd.sock"
	a, err := socketPath("", runtime, address, "k8s.io", "pod")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(a, defaultSocketDir+"/"))
	told, err := socketPath(defaultSocketDir, runtime, address, "k8s.io", "pod")
	require.NoError(t, err)
	require.Equal(t, a, told)
	for _, other := range [][4]string{
		{"io.containerd.y.v1", address, "k8s.io", "pod"},
		{runtime, "/run/other.sock", "k8s.io", "pod"},
		{runtime, address, "default", "pod"},
		{runtime, address, "k8s.io", "pod2"},
		{runtime, address, "k8s.io", "../k8s.io/pod"},
	} {
		b, err := socketPath("", other[0], other[1], other[2], other[3])
		require.NoError(t, err)
		require.NotEqual(t, a, b, other)
	}
	_, err = socketPath("/"+strings.Repeat("d", 80), runtime, "/c.sock", "ns", "pod")
	require.ErrorContains(t, err, "choose a shorter socket directory")
}

func TestNamedSocket(t *testing.T) {
	bundle := t.TempDir()
	for _, step := range []struct{ file, text, want string }{
		{"none", "", ""},
		{containerdsFile, "no JSON", ""},
		{containerdsFile, `{"version":3,"address":"vsock://3:1","protocol":"ttrpc"}`, ""},
		{containerdsFile, `{"version":3,"address":"unix:///pod","protocol":"ttrpc"}`, "/pod"},
		{addressFile, "unix:///own\n", "/own"},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(bundle, step.file), []byte(step.text), 0o600))
		require.Equal(t, step.want, namedSocket(bundle), step.text)
	}
}
