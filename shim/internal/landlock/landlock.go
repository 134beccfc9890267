// SPDX-License-Identifier: Apache-2.0

// Package landlock takes files away from a thread by Landlock, for engines that
// are written in Go; cabi/sandbox.c does it for all others, by the same rules.
package landlock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// Everything of version 1 but to execute.
	version1 = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	ofFiles = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE |
		unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
)

type ruleset struct {
	fd      int
	handled uint64
	hidden  []string
}

// Hide makes the calling thread, and what it executes, unable to open, change
// or rename files below the given absolute paths. The caller has locked the
// thread. readable are descriptors whose files stay readable. With an error
// nothing is changed; it is ENOSYS or EOPNOTSUPP where the kernel has no
// Landlock.
func Hide(hidden []string, readable ...int) error {
	err := hide(hidden, readable)
	if err == nil || errors.As(err, new(unlisted)) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// name is how the kernel's mechanism is called in errors.
const name = "Landlock"

// unlisted is a directory on the way to a hidden one that this user may not list.
type unlisted string

func (u unlisted) Error() string {
	return "the container's user may not list " + string(u) + ", where everything else has to be allowed"
}

func hide(hidden []string, readable []int) error {
	r, err := newRuleset()
	if err != nil {
		return err
	}
	defer unix.Close(r.fd)
	r.hidden = hidden
	root, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	if err := r.allow(root, unix.LANDLOCK_ACCESS_FS_READ_DIR); err != nil {
		return err
	}
	if err := r.allowEntries("/"); err != nil {
		return err
	}
	return r.enforce(readable)
}

// HideAll does the same with every path there is.
func HideAll(readable ...int) error {
	r, err := newRuleset()
	if err != nil {
		return err
	}
	defer unix.Close(r.fd)
	return r.enforce(readable)
}

// newRuleset makes a set of rules that allows nothing yet; the caller closes
// its descriptor.
func newRuleset() (*ruleset, error) {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return nil, errno
	}
	r := &ruleset{handled: version1}
	if version >= 2 {
		r.handled |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		r.handled |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 5 {
		r.handled |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: r.handled}
	// Its first member is all that is used, and all that every version knows.
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0)
	if errno != 0 {
		return nil, errno
	}
	r.fd = int(fd)
	return r, nil
}

func (r *ruleset) enforce(readable []int) error {
	for _, fd := range readable {
		// A memory file has no rules.
		if err := r.allow(fd, unix.LANDLOCK_ACCESS_FS_READ_FILE); err != nil && !errors.Is(err, unix.EBADFD) {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(r.fd), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func (r *ruleset) allow(fd int, access uint64) error {
	attr := unix.LandlockPathBeneathAttr{Allowed_access: access & r.handled, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(r.fd), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// allowEntries allows what is in a directory, as far as it is not hidden.
func (r *ruleset) allowEntries(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return cannotList(dir, err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if slices.Contains(r.hidden, path) || e.Type() == os.ModeSymlink {
			continue
		}
		if e.IsDir() && slices.ContainsFunc(r.hidden, func(h string) bool { return strings.HasPrefix(h, path+"/") }) {
			if err := r.allowEntries(path); err != nil {
				return err
			}
			continue
		}
		if err := r.allowEntry(path, e.IsDir()); err != nil {
			return err
		}
	}
	return nil
}

// cannotList: what cannot be listed cannot be allowed. Where this user cannot
// pass through the directory either, nothing is lost by that; else everything in
// it would be, as with "/" of mode 0711.
func cannotList(dir string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil
	case !errors.Is(err, unix.EACCES):
		return err
	case unix.Faccessat(unix.AT_FDCWD, dir, unix.X_OK, unix.AT_EACCESS) != nil:
		return nil
	}
	return unlisted(dir)
}

func (r *ruleset) allowEntry(path string, dir bool) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // the same
	}
	defer unix.Close(fd)
	access := r.handled
	if !dir {
		access = ofFiles
	}
	return r.allow(fd, access)
}
