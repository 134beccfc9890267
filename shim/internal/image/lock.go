// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

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

// release lets go. Of no lock it does nothing.
func (l *lock) release() {
	if l == nil {
		return
	}
	removeHeld(l.f)
	l.f.Close()
}

// leave leaves the lock to a process that has inherited it, whose it is to remove
// its file.
func (l *lock) leave() {
	if l != nil {
		l.f.Close()
	}
}

func (l *lock) file() *os.File {
	if l == nil {
		return nil
	}
	return l.f
}

// slotsDir has a file for each compiler that may run at once on this machine, for
// whatever containerd.
var slotsDir = filepath.Join(runtimeDir, "compilers")

// slotPatience is how long a compilation waits for its turn at least; else as long as it may
// take itself. A start is not held up for ever by what others have to compile.
const slotPatience = 15 * time.Second

var errBusy = errors.New("no compiler is free")

// compilerSlot waits, for a time, until fewer than n compilers run of those that have
// a directory in common, and takes one's place. 0 is half the processors.
func compilerSlot(ctx context.Context, dir string, n int, patience time.Duration) (release func(), _ error) {
	if n == 0 {
		n = max(1, runtime.NumCPU()/2)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(patience); ; {
		for i := range n {
			f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(i)), os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				return nil, err
			}
			if setLock(f, unix.F_OFD_SETLK) == nil {
				return func() { f.Close() }, nil
			}
			f.Close()
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%w: as many as may run at once (%d) have been busy for %s", errBusy, n, patience)
		}
		// No call waits for the first of several locks.
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
