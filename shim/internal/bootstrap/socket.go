// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultSocketDir = "/run/containerd/s"
	scheme           = "unix://"
	addressFile      = "address" // in the bundle; containerd 1.6 reloads from it
	// socketPathLimit is sun_path less its NUL.
	socketPathLimit = 107
)

// socketPath names the socket of a group of containers. It is the path that
// containerd's own shims would use, so that tools that know it find ours.
func socketPath(dir, containerdAddress, namespace, group string) (string, error) {
	if dir == "" {
		dir = defaultSocketDir
	}
	sum := sha256.Sum256([]byte(filepath.Join(containerdAddress, namespace, group)))
	p := filepath.Join(dir, fmt.Sprintf("%x", sum))
	if len(p) > socketPathLimit {
		return "", fmt.Errorf("socket path %s has %d bytes, the kernel takes %d: choose a shorter socket directory", p, len(p), socketPathLimit)
	}
	return p, nil
}

// lockDir serialises those who bind in a directory with those who remove what
// a dead daemon left there.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		d.Close()
		return nil, os.NewSyscallError("flock "+dir, err)
	}
	return func() { d.Close() }, nil
}

// listen binds a socket. If another daemon serves it, the listener is nil: the
// container joins that daemon.
func listen(path string) (*net.UnixListener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("socket directory: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("lock socket directory: %w", err)
	}
	defer unlock()
	if alive(path) {
		return nil, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove socket of a dead shim: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("bind shim socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		os.Remove(path)
		return nil, fmt.Errorf("protect shim socket: %w", err)
	}
	return l, nil
}

// alive says whether a daemon serves a socket. That a connection is taken does
// not show it: a child that a killed daemon had just forked holds the socket,
// too, until it execs. The kernel knows who called listen.
func alive(path string) bool {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return true
	}
	var listener *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		listener, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil || err != nil {
		return true
	}
	return running(int(listener.Pid))
}

// running says whether a process exists and is more than a zombie.
func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	// "7 (name) S ...", and the name may hold anything.
	_, state, ok := strings.Cut(string(b[max(bytes.LastIndexByte(b, ')'), 0):]), " ")
	return !ok || (state[0] != 'Z' && state[0] != 'X')
}

// removeStale removes the socket that a bundle names if nobody serves it any
// more. A pod-mate's live socket stays.
func removeStale(bundle string) {
	b, err := os.ReadFile(filepath.Join(bundle, addressFile))
	if err != nil {
		return
	}
	path, ok := strings.CutPrefix(strings.TrimSpace(string(b)), scheme)
	if !ok {
		return
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return
	}
	defer unlock()
	if !alive(path) {
		os.Remove(path)
	}
}
