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
		same, err := inPlace(f)
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
		if setLock(f, unix.F_OFD_SETLK) == nil {
			removeHeld(f)
		}
		f.Close()
	}
}

// waitFor locks the file, or closes it. The kernel's wait cannot be ended: who
// gives up leaves it to a goroutine, which lets go as soon as it gets the lock.
func waitFor(ctx context.Context, f *os.File) error {
	err := setLock(f, unix.F_OFD_SETLK)
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
			err := setLock(f, unix.F_OFD_SETLKW)
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
				removeHeld(f)
			}
			f.Close()
		}()
		return ctx.Err()
	}
}

func setLock(f *os.File, command int) error {
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(f.Fd(), command, &whole)
}

// removeHeld removes a lock's file, which is locked, unless another one has taken
// its place.
func removeHeld(f *os.File) {
	if same, _ := inPlace(f); same {
		_ = os.Remove(f.Name())
	}
}

// inPlace says whether a file still has its name.
func inPlace(f *os.File) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(f.Name())
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
