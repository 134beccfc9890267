// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// controllerDir is the name of containerd's directories for what this service makes:
	// <state>/<controllerDir>/<namespace>/<id> is a sandbox's bundle, and its link "work"
	// leads to the same below containerd's root.
	controllerDir = "io.containerd.sandbox.controller.v1.shim"
	// criDir has, beside it, what CRI keeps of pods.
	criDir  = "io.containerd.grpc.v1.cri"
	shmSize = 64 << 20
)

// IsBundle says whether a directory is a sandbox's, and not a container's.
func IsBundle(bundle string) bool {
	return filepath.Base(filepath.Dir(filepath.Dir(bundle))) == controllerDir
}

// files are those of a pod that CRI mounts into its containers where they are. For a
// pod with a pause container it makes them itself.
type files struct {
	dir, stateDir string // for files, and for /dev/shm
	texts         map[string][]byte
	hostShm       bool
	shm           int // a detached copy of the mount, -1 without one
}

// criDirs finds where CRI has a pod's files: the request does not say it, but where the
// bundle is does.
func criDirs(bundle string) (dir, stateDir string, _ error) {
	work, err := os.Readlink(filepath.Join(bundle, "work"))
	if err == nil && (!IsBundle(bundle) || !IsBundle(work)) {
		err = fmt.Errorf("found bundle %s, with work directory %s; accepted: those of containerd's sandboxer \"shim\", below %s", bundle, work, controllerDir)
	}
	if err != nil {
		return "", "", fmt.Errorf("find CRI's directories: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	in := func(path string) string {
		plugins := filepath.Dir(filepath.Dir(filepath.Dir(path)))
		return filepath.Join(plugins, criDir, "sandboxes", filepath.Base(bundle))
	}
	return in(work), in(bundle), nil
}

func newFiles(bundle string, c *config) (_ *files, err error) {
	f := &files{texts: map[string][]byte{}, hostShm: c.hostIPC, shm: -1}
	if !c.files {
		return f, nil
	}
	if f.dir, f.stateDir, err = criDirs(bundle); err != nil {
		return nil, err
	}
	hostname := c.hostname
	if hostname == "" {
		if hostname, err = os.Hostname(); err != nil {
			return nil, err
		}
	}
	f.texts["hostname"] = []byte(hostname + "\n")
	if f.texts["hosts"], err = os.ReadFile("/etc/hosts"); err != nil {
		return nil, fmt.Errorf("copy the host's names: %w", err)
	}
	if c.dns != nil {
		f.texts["resolv.conf"] = c.dns.text()
	} else if f.texts["resolv.conf"], err = os.ReadFile("/etc/resolv.conf"); err != nil {
		return nil, fmt.Errorf("copy the host's resolver: %w", err)
	}
	return f, nil
}

// text is a resolv.conf.
func (d *dns) text() []byte {
	var b strings.Builder
	if len(d.searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.searches, " "))
	}
	for _, s := range d.servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.options, " "))
	}
	return []byte(b.String())
}

// put makes what is not there. When it starts, containerd removes the directories of
// pods without a pause container, which it does not know; a container that the pod gets
// later must find them again, with the same memory behind /dev/shm.
func (f *files) put() error {
	if f.dir == "" {
		return nil
	}
	for name, text := range f.texts {
		path := filepath.Join(f.dir, name)
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		if err := os.MkdirAll(f.dir, 0o755); err != nil {
			return fmt.Errorf("make the pod's files: %w", err)
		}
		if err := writeFile(path, text); err != nil {
			return fmt.Errorf("make the pod's files: %w", err)
		}
	}
	path := filepath.Join(f.stateDir, "shm")
	if _, err := os.Lstat(path); err == nil || f.hostShm {
		return nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make the pod's /dev/shm: %w", err)
	}
	if err := f.mountShm(path); err != nil {
		return fmt.Errorf("make the pod's /dev/shm: %w", err)
	}
	return nil
}

// writeFile writes a file that everybody may read, whatever the umask.
func writeFile(path string, text []byte) error {
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644)
}

func (f *files) mountShm(path string) error {
	if f.shm < 0 {
		if err := unix.Mount("shm", path, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=1777,size=%d", shmSize)); err != nil {
			return os.NewSyscallError("mount", err)
		}
	} else {
		if err := unix.MoveMount(f.shm, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return os.NewSyscallError("move_mount", err)
		}
		unix.Close(f.shm)
		f.shm = -1
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	f.shm = fd
	return nil
}

// close gives up the daemon's own hold of the memory behind /dev/shm.
func (f *files) close() {
	if f.shm >= 0 {
		unix.Close(f.shm)
		f.shm = -1
	}
}

func (f *files) unmountShm() error {
	if f.dir == "" || f.hostShm {
		return nil
	}
	return unmountShm(f.stateDir)
}

func unmountShm(stateDir string) error {
	path := filepath.Join(stateDir, "shm")
	// Nothing is mounted there any more, or nothing is there.
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}
