// SPDX-License-Identifier: Apache-2.0

package entrypoint

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxLinks is the kernel's own limit (MAXSYMLINKS).
const maxLinks = 40

// A view resolves paths as the container will see them, from outside and
// before its mounts exist: symbolic links are followed inside the root, and a
// path below a bind mount's destination is looked up in the mount's source. Given
// the root directory of a living container, and no mounts, it shows what is there.
type view struct {
	root   int // O_PATH descriptor of the root file system
	mounts []mountPoint
	access access
	// rootOnly keeps out of every mount: what is in one may not answer.
	rootOnly bool
}

type mountPoint struct {
	dest    string // resolved path in the container
	source  int    // O_PATH descriptor; -1 if nothing of it exists yet
	content content
	mapped  bool // its owners are not those that it has here
}

// content says where what is in a mount can be seen.
type content int

const (
	inSource content = iota
	below            // what the mount point has before is copied into it
	empty            // nothing in it is ever a program or a file of the image's
	unknown
)

// ErrUnknown is the ErrNotFound of a path that may yet come to be: below a mount
// whose content does not exist before the container, or where a hook may put it.
var ErrUnknown = fmt.Errorf("%w", errdefs.ErrNotFound)

func newView(spec *specs.Spec, bundle, rootfs string) (_ *view, retErr error) {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root file system %s: %w", rootfs, err)
	}
	v := &view{root: root, access: newAccess(spec)}
	defer func() {
		if retErr != nil {
			v.close()
		}
	}()
	for _, m := range spec.Mounts {
		dest, err := v.resolveDest(m.Destination)
		if err != nil {
			return nil, err
		}
		mp := mountPoint{dest: dest, source: -1, content: contentOf(m), mapped: isMapped(m)}
		if mp.content == inSource {
			src := m.Source
			if !filepath.IsAbs(src) {
				src = filepath.Join(bundle, src)
			}
			if mp.source, err = unix.Open(src, unix.O_PATH|unix.O_CLOEXEC, 0); errors.Is(err, unix.ENOENT) {
				return nil, fmt.Errorf("mount at %s: its source %s does not exist: %w", m.Destination, src, errdefs.ErrNotFound)
			} else if err != nil {
				return nil, fmt.Errorf("mount at %s: open its source %s: %w", m.Destination, src, err)
			}
		}
		v.mounts = append(v.mounts, mp)
	}
	return v, nil
}

func (v *view) close() {
	unix.Close(v.root)
	for _, m := range v.mounts {
		if m.source >= 0 {
			unix.Close(m.source)
		}
	}
}

func contentOf(m specs.Mount) content {
	switch {
	case m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind"):
		return inSource
	case slices.Contains([]string{"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"}, m.Type):
		return empty
	case m.Type == "tmpfs" && slices.Contains(m.Options, "tmpcopyup"):
		return below
	}
	return unknown
}

func isMapped(m specs.Mount) bool {
	return len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 || slices.Contains(m.Options, "idmap") || slices.Contains(m.Options, "ridmap")
}

// file is an open node of the container's file system.
type file struct {
	v      *view
	fd     int // O_PATH
	stat   unix.Stat_t
	bound  bool   // it lies in a mount, not in the root file system
	stands bool   // it stands for a node that does not exist yet, or whose owner is not known
	real   string // its path in the container, free of symbolic links; of what open returns
	way    way    // of what open returns
}

func (f *file) close() {
	unix.Close(f.fd)
}

// open walks to a path, following symbolic links, and returns it if it is a
// regular file.
func (v *view) open(name string) (*file, error) {
	f, real, err := v.walk(name, true)
	if err != nil {
		return nil, err
	}
	if kind := f.stat.Mode & unix.S_IFMT; kind != unix.S_IFREG {
		defer f.close()
		var err error = errdefs.ErrInvalidArgument
		if kind == unix.S_IFDIR {
			err = ErrDirectory
		}
		return nil, fmt.Errorf("%s is a %s, not a regular file: %w", real, fileType(kind), err)
	}
	f.real = real
	f.bound = f.bound || !sameMount(v.root, f.fd)
	return f, nil
}

// sameMount says whether a directory and a file are seen through one mount. Kernels
// before 5.8 do not tell.
func sameMount(dir, file int) bool {
	var of [2]unix.Statx_t
	for i, fd := range []int{dir, file} {
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &of[i]); err != nil || of[i].Mask&unix.STATX_MNT_ID == 0 {
			return true
		}
	}
	return of[0].Mnt_id == of[1].Mnt_id
}

// resolveDest resolves the symbolic links in a mount's destination, of which
// the last parts may not exist yet.
func (v *view) resolveDest(dest string) (string, error) {
	_, real, err := v.walk(path.Join("/", dest), false)
	if err != nil {
		return "", fmt.Errorf("mount destination %q: %w", dest, err)
	}
	return real, nil
}

// walk goes to name one component at a time. With must it returns the node,
// else only its resolved path, whose last parts may be missing.
func (v *view) walk(name string, must bool) (*file, string, error) {
	todo := strings.Split(name, "/")
	cur, links := "/", 0
	var node *file
	passed := freeWay
	missing := false
	for {
		if node != nil {
			node.close()
			node = nil
		}
		var next string
		if !missing {
			n, err := v.node(cur)
			switch {
			case err == nil:
				node = n
			case !must && (errors.Is(err, unix.ENOENT) || errors.Is(err, ErrUnknown)):
				missing = true
			case errors.Is(err, unix.ENOENT):
				return nil, "", fmt.Errorf("%s does not exist in the container: %w", cur, errdefs.ErrNotFound)
			default:
				return nil, "", fmt.Errorf("%s: %w", cur, notForRoot(err))
			}
		}
		if node != nil && node.stat.Mode&unix.S_IFMT == unix.S_IFLNK {
			target, err := node.readlink()
			node.close()
			node = nil
			if err != nil {
				return nil, "", fmt.Errorf("read link %s: %w", cur, err)
			}
			if links++; links > maxLinks {
				return nil, "", fmt.Errorf("%s: %w: %w", name, errLoop, errdefs.ErrInvalidArgument)
			}
			cur = path.Dir(cur)
			if path.IsAbs(target) {
				cur = "/"
			}
			todo = append(strings.Split(target, "/"), todo...)
			continue
		}
		for len(todo) > 0 && (todo[0] == "" || todo[0] == ".") {
			todo = todo[1:]
		}
		if len(todo) == 0 {
			if must {
				node.way = passed
				return node, cur, nil
			}
			if node != nil {
				node.close()
			}
			return nil, cur, nil
		}
		next, todo = todo[0], todo[1:]
		if node != nil && must {
			if node.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
				node.close()
				return nil, "", fmt.Errorf("%s is a %s, not a directory: %w", cur, fileType(node.stat.Mode), errdefs.ErrInvalidArgument)
			}
			passed = passed.through(node, cur)
		}
		if next == ".." {
			cur = path.Dir(cur)
		} else {
			cur = path.Join(cur, next)
		}
	}
}

// node opens a path that holds no symbolic link before its last component.
func (v *view) node(p string) (*file, error) {
	base, rest := v.root, strings.TrimPrefix(p, "/")
	bound, stands, above := false, false, 0
	// The last mount on a path hides what was mounted there before.
	for i := len(v.mounts) - 1; i >= 0; i-- {
		m := v.mounts[i]
		if p != m.dest && !strings.HasPrefix(p, strings.TrimSuffix(m.dest, "/")+"/") {
			continue
		}
		if v.rootOnly {
			return nil, unix.EXDEV
		}
		bound, stands, above = true, stands || m.mapped || m.content != inSource, max(above, i+1)
		if m.content == below {
			continue
		}
		if m.content == inSource {
			base, rest = m.source, strings.TrimPrefix(strings.TrimPrefix(p, m.dest), "/")
			break
		}
		rest = "" // a directory, whatever it will have
		if p == m.dest || v.implied(p, above) {
			break
		}
		if m.content == empty {
			return nil, unix.ENOENT
		}
		return nil, fmt.Errorf("not seen before the mount at %s is made: %w", m.dest, ErrUnknown)
	}
	f := &file{v: v, bound: bound, stands: stands}
	var err error
	if rest == "" {
		f.fd, err = unix.FcntlInt(uintptr(base), unix.F_DUPFD_CLOEXEC, 0)
	} else {
		how := unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		}
		if v.rootOnly {
			how.Resolve |= unix.RESOLVE_NO_XDEV
		}
		f.fd, err = unix.Openat2(base, rest, &how)
	}
	if errors.Is(err, unix.ENOENT) && v.implied(p, above) {
		f.stands = true
		f.fd, err = unix.FcntlInt(uintptr(v.root), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Fstat(f.fd, &f.stat); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// implied says whether a path will be made as a mount point or on the way to
// one, for a mount with that index or a later one.
func (v *view) implied(p string, from int) bool {
	return slices.ContainsFunc(v.mounts[from:], func(m mountPoint) bool {
		return m.dest == p || strings.HasPrefix(m.dest, p+"/")
	})
}

func (f *file) readlink() (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(f.fd, "", buf)
	return string(buf[:max(n, 0)]), err
}

// read opens a regular file for reading. The caller closes what it returns.
func (f *file) read() (*os.File, error) {
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(f.fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", f.real, notForRoot(err))
	}
	return os.NewFile(uintptr(fd), f.real), nil
}

// notForRoot makes ErrUnknown of what is forbidden even to root, by a server on
// the network for one: the container's user may be allowed.
func notForRoot(err error) error {
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("not seen by root: %w: %w", err, ErrUnknown)
	}
	return err
}

func fileType(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFREG:
		return "regular file"
	case unix.S_IFIFO:
		return "FIFO"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "device"
	}
	return "special file"
}
