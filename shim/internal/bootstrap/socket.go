// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/rootless"
)

const (
	defaultSocketDir = "/run/containerd/s"
	scheme           = "unix://"
	addressFile      = "address"        // in the bundle; containerd 1.6 reloads from it
	containerdsFile  = "bootstrap.json" // in the bundle; later ones reload from it
	// socketPathLimit is sun_path less its NUL.
	socketPathLimit = 107
)

// socketPath names the socket of a group of containers. The runtime is in the
// name: a group may have shims of other runtimes, and each has its own socket.
func socketPath(dir, runtime, containerdAddress, namespace, group string) (string, error) {
	// containerd tells its default where nothing else is configured.
	if dir == "" || dir == defaultSocketDir {
		dir = filepath.Join(rootless.RunDir(), "containerd/s")
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{runtime, containerdAddress, namespace, group}, "\x00")))
	p := filepath.Join(dir, fmt.Sprintf("%x", sum))
	if len(p) > socketPathLimit {
		return "", fmt.Errorf("socket path %s has %d bytes, the kernel takes %d: choose a shorter socket directory", p, len(p), socketPathLimit)
	}
	return p, nil
}

// lockDir serialises those who bind or remove in a directory.
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

// socket is a daemon's listener and the file that names it.
type socket struct {
	*net.UnixListener
	path   string
	file   os.FileInfo
	remove func() // takes the name away, once; after it somebody else may bind there
}

// listen binds a socket; cabi/start.c does it where there is none. If another daemon serves it, the socket is nil: the
// container joins that daemon.
func listen(path string) (*socket, error) {
	unlock, err := lockSockets(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if served, err := isServed(path); served || err != nil {
		return nil, err
	}
	return bindSocket(path)
}

// lockSockets is lockDir of a directory for sockets, which is made if there is none.
func lockSockets(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("socket directory: %w", err)
	}
	if unlock, err = lockDir(dir); err != nil {
		return nil, fmt.Errorf("lock socket directory: %w", err)
	}
	return unlock, nil
}

// isServed says whether a daemon listens at a path. If none does, and the error is nil, the
// path is free: what a dead one has left is removed. The caller has locked the directory.
func isServed(path string) (bool, error) {
	switch use := usePastLastHolder(path); use {
	case served:
		return true, nil
	case held:
		return false, fmt.Errorf("socket %s is %s: %w", path, use, errdefs.ErrUnavailable)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("remove socket of a dead shim: %w", err)
	}
	return false, nil
}

// bindSocket binds at a path that is free. The caller has locked the directory.
func bindSocket(path string) (_ *socket, retErr error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("bind shim socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // it would not look whose file it is
	defer func() {
		if retErr != nil {
			os.Remove(path)
			l.Close()
		}
	}()
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("protect shim socket: %w", err)
	}
	return newSocket(l, path)
}

// adopt takes over what cabi/start.c has bound as listen does.
func adopt(fd int) (*socket, error) {
	f := os.NewFile(uintptr(fd), "shim socket")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over shim socket: %w", err)
	}
	return newSocket(l.(*net.UnixListener), l.Addr().String())
}

func newSocket(l *net.UnixListener, path string) (*socket, error) {
	file, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("look at shim socket: %w", err)
	}
	s := &socket{UnixListener: l, path: path, file: file}
	s.remove = sync.OnceFunc(s.removeFile)
	return s, nil
}

// Close removes the file before the listener ends: until then nobody else binds
// there, afterwards it could be a successor's.
func (s *socket) Close() error {
	s.remove()
	return s.UnixListener.Close()
}

func (s *socket) removeFile() {
	unlock, err := lockDir(filepath.Dir(s.path))
	if err != nil {
		return // without its directory it is gone
	}
	defer unlock()
	if file, err := os.Lstat(s.path); err == nil && os.SameFile(file, s.file) {
		os.Remove(s.path)
	}
}

// socketUse is what there is at a socket's path. cabi/socket.c decides by the
// same rule.
type socketUse int

const (
	absent socketUse = iota // no file
	unused                  // a dead daemon's: nobody listens
	served                  // a daemon listens
	held                    // it can be connected to, or may be, but who listened has ended
)

func (u socketUse) String() string {
	return [...]string{"absent", "unused", "served", "held open by a process that serves nobody"}[u]
}

// useOf looks at a socket. That a connection is taken does not show that it is
// served: a child that a killed daemon had just forked holds the socket, too,
// until it execs. The kernel knows who called listen.
func useOf(path string) socketUse {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return held
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); {
	case err == nil:
		listener, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil || !ended(int(listener.Pid)) {
			return served
		}
	case errors.Is(err, unix.EAGAIN): // a full queue
		return served
	case errors.Is(err, unix.ECONNREFUSED):
		return unused
	case errors.Is(err, unix.ENOENT):
		return absent
	}
	return held
}

// ended says whether a process is gone, or a zombie.
func ended(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n > 0
}

// holdTimeout is how long a socket is looked at whose daemon has ended. What it
// had just forked takes milliseconds to exec.
const holdTimeout = time.Second

// usePastLastHolder is useOf once what a killed daemon had forked is past it.
func usePastLastHolder(path string) socketUse {
	for deadline := time.Now().Add(holdTimeout); ; time.Sleep(time.Millisecond) {
		if use := useOf(path); use != held || time.Now().After(deadline) {
			return use
		}
	}
}

// removeUnused removes the socket that a bundle names if nobody serves it any
// more. A pod-mate's or a successor's stays.
func removeUnused(bundle string) {
	path := namedSocket(bundle)
	if path == "" {
		return
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return
	}
	defer unlock()
	target, err := os.Readlink(path) // of a daemon that serves many pods
	linked := err == nil
	switch use := usePastLastHolder(path); {
	case use == unused || use == absent && linked:
		os.Remove(path)
	default:
		return
	}
	if !linked {
		return
	}
	for _, left := range []string{target, slotOf(target)} {
		if useOf(left) == unused {
			os.Remove(left)
		}
	}
}

// namedSocket is the socket that a bundle names; empty if it names none. For a
// container of a pod containerd writes its own file only, since 2.0.
func namedSocket(bundle string) string {
	address := ""
	if b, err := os.ReadFile(filepath.Join(bundle, addressFile)); err == nil {
		address = strings.TrimSpace(string(b))
	} else if b, err := os.ReadFile(filepath.Join(bundle, containerdsFile)); err == nil {
		var params struct{ Address string }
		_ = json.Unmarshal(b, &params) // or it is empty
		address = params.Address
	}
	path, ok := strings.CutPrefix(address, scheme)
	if !ok {
		return ""
	}
	return path
}
