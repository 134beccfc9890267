// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// stdio is a process's standard streams. The process reads from and writes to
// containerd's FIFOs itself; nothing is copied.
//
// The daemon holds the other end of each FIFO too, so that the guest meets
// neither EOF nor SIGPIPE when containerd or the client goes away and comes
// back. It holds them by separate descriptors, not by O_RDWR: a write end of
// stdout in the daemon would keep the client from ever seeing EOF.
type stdio struct {
	in, out, err *os.File // the process's ends; closed once it has them
	logger       *logger  // takes the output; nil if none was asked for

	mu      sync.Mutex
	stdinW  *os.File   // keeps stdin open until CloseIO; guarded by mu
	readers []*os.File // read ends of stdout and stderr; guarded by mu
}

// openStdio opens the streams that containerd names for a container. An empty
// name is /dev/null.
func openStdio(stdin, stdout, stderr, id, namespace string) (_ *stdio, retErr error) {
	s := &stdio{}
	defer func() {
		if retErr != nil {
			s.close()
		}
	}()
	var err error
	if s.in, s.stdinW, err = openStdin(stdin); err != nil {
		return nil, fmt.Errorf("stdin %q: %w", stdin, err)
	}
	if isLogger(stdout) {
		if s.logger, s.out, s.err, err = startLogger(stdout, id, namespace); err != nil {
			return nil, fmt.Errorf("stdout %q: %w", stdout, err)
		}
		return s, nil // it takes stderr, too
	}
	var r *os.File
	if s.out, r, err = openOutput(stdout); err != nil {
		return nil, fmt.Errorf("stdout %q: %w", stdout, err)
	}
	s.keep(r)
	if s.err, r, err = openOutput(stderr); err != nil {
		return nil, fmt.Errorf("stderr %q: %w", stderr, err)
	}
	s.keep(r)
	return s, nil
}

func (s *stdio) keep(r *os.File) {
	if r != nil {
		s.readers = append(s.readers, r)
	}
}

func openStdin(name string) (proc, keep *os.File, err error) {
	if name == "" {
		f, err := openFile(os.DevNull, unix.O_RDONLY)
		return f, nil, err
	}
	path, fifo, err := locate(name)
	if err != nil {
		return nil, nil, err
	}
	if !fifo {
		f, err := openFile(path, unix.O_RDONLY)
		return f, nil, err
	}
	return openBoth(path)
}

func openOutput(name string) (proc, keep *os.File, err error) {
	if name == "" {
		f, err := openFile(os.DevNull, unix.O_WRONLY)
		return f, nil, err
	}
	path, fifo, err := locate(name)
	if err != nil {
		return nil, nil, err
	}
	if !fifo {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, nil, err
		}
		f, err := openFile(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT)
		return f, nil, err
	}
	keep, proc, err = openBoth(path)
	return proc, keep, err
}

// openBoth opens a FIFO's read end and then its write end, which in this order
// and with O_NONBLOCK wait for nobody. Both are handed over blocking.
func openBoth(path string) (reader, writer *os.File, err error) {
	var fds [2]int
	for i, mode := range []int{unix.O_RDONLY, unix.O_WRONLY} {
		fds[i], err = unix.Open(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.SetNonblock(fds[i], false)
		}
		if err != nil {
			for _, fd := range fds[:i] {
				unix.Close(fd)
			}
			return nil, nil, fmt.Errorf("open FIFO: %w", err)
		}
	}
	return os.NewFile(uintptr(fds[0]), path), os.NewFile(uintptr(fds[1]), path), nil
}

func openFile(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// locate turns a stream's name into a path and says whether it is a FIFO.
func locate(name string) (path string, fifo bool, err error) {
	path = name
	if strings.Contains(name, "://") {
		u, err := url.Parse(name)
		if err != nil {
			return "", false, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		switch u.Scheme {
		case "fifo":
			path = u.Path
		case "file":
			if !filepath.IsAbs(u.Path) {
				return "", false, fmt.Errorf("%q is not an absolute path, as in file:///var/log/x: %w", u.Path, errdefs.ErrInvalidArgument)
			}
			return u.Path, false, nil
		default:
			return "", false, fmt.Errorf("streams of scheme %s:// are not supported here; accepted: fifo, file, and for stdout binary, binary-v2: %w", u.Scheme, errdefs.ErrNotImplemented)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return "", false, fmt.Errorf("no such FIFO: %w", errdefs.ErrNotFound)
		}
		return "", false, err
	}
	return path, st.Mode&unix.S_IFMT == unix.S_IFIFO, nil
}

// chown gives the process's ends, where they are FIFOs, to a user and a group.
func (s *stdio) chown(uid, gid uint32) error {
	if uid == 0 && gid == 0 {
		return nil
	}
	for _, f := range []*os.File{s.in, s.out, s.err} {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if info.Mode()&os.ModeNamedPipe == 0 {
			continue
		}
		if err := f.Chown(int(uid), int(gid)); err != nil {
			return err
		}
	}
	return nil
}

// handedOver closes the process's ends after the process has inherited them.
func (s *stdio) handedOver() {
	for _, f := range []**os.File{&s.in, &s.out, &s.err} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

// closeStdin lets the process read EOF once the client has closed its end.
func (s *stdio) closeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdinW != nil {
		s.stdinW.Close()
		s.stdinW = nil
	}
}

// close closes every descriptor that is left.
func (s *stdio) close() {
	s.handedOver()
	s.closeStdin()
	if s.logger != nil {
		s.logger.finish()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.readers {
		r.Close()
	}
	s.readers = nil
}
