// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock is held by one process of the machine, and let go by its death, by which
// a waiter wakes at once.
type lock struct{ f *os.File }

const lockSuffix = ".lock"

// acquire waits for the lock of a name. Its file is there only as long as
// somebody holds it or waits for it.
func acquire(ctx context.Context, dir, name string) (*lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name+lockSuffix)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := waitFor(ctx, f); err != nil {
			return nil, err
		}
		// Whoever held it has removed it, and the next may have made a new one.
		same, err := isAt(f, path)
		if err != nil {
			f.Close()
			return nil, err
		}
		if same {
			return &lock{f}, nil
		}
		f.Close()
	}
}

// Sweep removes the locks that killed processes have left. Nobody holds these, and
// they are in nobody's way.
func Sweep(address, namespace string) {
	names, _ := filepath.Glob(filepath.Join(Dir(address, namespace), "*"+lockSuffix))
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		whole := unix.Flock_t{Type: unix.F_WRLCK}
		if unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole) == nil {
			if same, _ := isAt(f, name); same {
				_ = os.Remove(name)
			}
		}
		f.Close()
	}
}

// waitFor locks the file, or closes it. The kernel's wait cannot be ended: who
// gives up leaves it to a goroutine, which lets go as soon as it gets the lock.
func waitFor(ctx context.Context, f *os.File) error {
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
		f.Close()
		return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	locked := make(chan error, 1)
	go func() {
		for {
			whole := unix.Flock_t{Type: unix.F_WRLCK}
			err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &whole)
			if !errors.Is(err, unix.EINTR) {
				locked <- err
				return
			}
		}
	}()
	select {
	case err := <-locked:
		if err != nil {
			f.Close()
			return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
		return nil
	case <-ctx.Done():
		go func() {
			if <-locked == nil {
				if same, _ := isAt(f, f.Name()); same {
					_ = os.Remove(f.Name())
				}
			}
			f.Close()
		}()
		return ctx.Err()
	}
}

func isAt(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(mine, there), nil
}

// release lets go.
func (l *lock) release() {
	_ = os.Remove(l.f.Name())
	l.f.Close()
}
