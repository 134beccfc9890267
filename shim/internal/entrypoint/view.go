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
// path below a bind mount's destination is looked up in the mount's source.
type view struct {
	root   int // O_PATH descriptor of the root file system
	mounts []mountPoint
	uid    uint32
	gids   []uint32
	// override is set where the container's user passes every permission
	// check, or where what it may is not ours to compute (user namespaces).
	override bool
}

type mountPoint struct {
	dest   string // resolved path in the container
	source int    // O_PATH descriptor; -1 if nothing of it exists yet
}

func newView(spec *specs.Spec, bundle, rootfs string) (_ *view, retErr error) {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root file system %s: %w", rootfs, err)
	}
	u := spec.Process.User
	v := &view{root: root, uid: u.UID, gids: append([]uint32{u.GID}, u.AdditionalGids...)}
	defer func() {
		if retErr != nil {
			v.close()
		}
	}()
	v.override = bypasses(spec)
	for _, m := range spec.Mounts {
		dest, err := v.resolveDest(m.Destination)
		if err != nil {
			return nil, err
		}
		mp := mountPoint{dest: dest, source: -1}
		if isBind(m) {
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

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func bypasses(spec *specs.Spec) bool {
	if spec.Linux != nil {
		for _, n := range spec.Linux.Namespaces {
			if n.Type == specs.UserNamespace {
				return true
			}
		}
	}
	// Another user's capabilities are gone after exec.
	c := spec.Process.Capabilities
	return spec.Process.User.UID == 0 && c != nil &&
		(slices.Contains(c.Permitted, "CAP_DAC_OVERRIDE") || slices.Contains(c.Permitted, "CAP_DAC_READ_SEARCH"))
}

// file is an open node of the container's file system.
type file struct {
	v     *view
	fd    int // O_PATH
	stat  unix.Stat_t
	bound bool   // it lies in a mount, not in the root file system
	real  string // its path in the container, free of symbolic links; of what open returns
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
	return f, nil
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
			case errors.Is(err, unix.ENOENT) && !must:
				missing = true
			case errors.Is(err, unix.ENOENT):
				return nil, "", fmt.Errorf("%s does not exist in the container: %w", cur, errdefs.ErrNotFound)
			default:
				return nil, "", fmt.Errorf("%s: %w", cur, err)
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
			if !node.allowed(1) {
				node.close()
				return nil, "", fmt.Errorf("%s: the container's user may not search it (mode %04o, user %d): %w",
					cur, node.stat.Mode&0o7777, v.uid, errdefs.ErrPermissionDenied)
			}
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
	// The last mount on a path hides what was mounted there before.
	for i := len(v.mounts) - 1; i >= 0; i-- {
		m := v.mounts[i]
		if p != m.dest && !strings.HasPrefix(p, strings.TrimSuffix(m.dest, "/")+"/") {
			continue
		}
		if m.source < 0 {
			if p != m.dest {
				return nil, unix.ENOENT // what a fresh mount holds is not known here
			}
			break
		}
		base, rest = m.source, strings.TrimPrefix(strings.TrimPrefix(p, m.dest), "/")
		break
	}
	f := &file{v: v, bound: base != v.root}
	var err error
	if rest == "" {
		f.fd, err = unix.FcntlInt(uintptr(base), unix.F_DUPFD_CLOEXEC, 0)
	} else {
		f.fd, err = unix.Openat2(base, rest, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
	}
	if errors.Is(err, unix.ENOENT) && v.implied(p) {
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
// one.
func (v *view) implied(p string) bool {
	return slices.ContainsFunc(v.mounts, func(m mountPoint) bool {
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
		return nil, &os.PathError{Op: "open", Path: f.real, Err: err}
	}
	return os.NewFile(uintptr(fd), f.real), nil
}

// allowed says whether the mode bits give the container's user a permission:
// 4 to read, 1 to execute or search.
func (f *file) allowed(bit uint32) bool {
	mode := f.stat.Mode
	if f.v.override {
		return bit != 1 || mode&unix.S_IFMT == unix.S_IFDIR || mode&0o111 != 0
	}
	switch {
	case f.stat.Uid == f.v.uid:
		mode >>= 6
	case slices.Contains(f.v.gids, f.stat.Gid):
		mode >>= 3
	}
	return mode&bit != 0
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
