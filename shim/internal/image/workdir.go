// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
)

// workPrefix begins the names of the directories of compilers, and of their locks.
const workPrefix = "work-"

// WorkDir makes a directory for a compiler or a mount, which is removed only if it is
// empty. A lock says that its process lives; see Sweep.
func WorkDir(address, namespace string) (dir string, remove func() error, _ error) {
	base := Dir(address, namespace)
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", nil, err
	}
	name := fmt.Sprintf("%s%d-%x", workPrefix, os.Getpid(), time.Now().UnixNano())
	l, err := acquire(context.Background(), base, name)
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(base, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		l.release()
		return "", nil, err
	}
	return dir, func() error {
		defer l.release()
		return os.Remove(dir)
	}, nil
}

// Sweep removes what killed processes have left in a namespace's directory: locks,
// and compilers with their directories.
func Sweep(address, namespace string) {
	base := Dir(address, namespace)
	names, _ := filepath.Glob(filepath.Join(base, "*"+lockSuffix))
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if setLock(f, unix.F_OFD_SETLK) == nil { // nobody holds it
			dir := strings.TrimSuffix(name, lockSuffix)
			if !strings.HasPrefix(filepath.Base(dir), workPrefix) || removeWork(dir) == nil {
				removeHeld(f)
			}
		}
		f.Close()
	}
	_ = os.Remove(base) // if it is empty
}

func removeWork(dir string) error {
	if err := compiler.Cleanup(dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(dir, "rootfs")) // of a view; see containerd.Client.View
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
