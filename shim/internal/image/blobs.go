// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/memfile"
)

// blobs are the files of a content store that is a local directory, seen through
// a mount of their own that is read-only: a descriptor that was opened for
// reading alone can be opened again for writing, by its name in /proc, by any
// process of a container that has it and whose user may write the file.
type blobs struct {
	dir *os.File
}

// openBlobs fails where the kernel has no mounts of this kind.
func openBlobs(root string) (*blobs, error) {
	path := filepath.Join(root, "blobs")
	fd, err := cloneReadOnly(unix.AT_FDCWD, path, path)
	if err != nil {
		return nil, err
	}
	return &blobs{os.NewFile(uintptr(fd), path)}, nil
}

func (b *blobs) close() {
	if b != nil {
		b.dir.Close()
	}
}

func (b *blobs) open(d digest.Digest) (*os.File, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w: %w", d, err, errdefs.ErrInvalidArgument)
	}
	name := filepath.Join(d.Algorithm().String(), d.Encoded())
	fd, err := unix.Openat2(int(b.dir.Fd()), name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("blob %s is not in containerd's content store: %w", d, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(b.dir.Name(), name), Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// open opens a blob: its file where that is possible, else a sealed copy in
// memory that belongs to no process.
func (c Store) open(ctx context.Context, b *blobs, d digest.Digest) (*os.File, error) {
	if b != nil {
		return b.open(d)
	}
	r, err := c.Content.ReaderAt(c.In(ctx), ocispec.Descriptor{Digest: d})
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	defer r.Close()
	f, _, err := sealedCopy("layer", content.NewReader(r), r.Size())
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	return f, nil
}

// readOnly opens a file once more, in a way that whoever inherits it cannot open
// it for writing: through a mount of its own.
func readOnly(f *os.File) (*os.File, error) {
	from := int(f.Fd())
	var fs unix.Statfs_t
	// In a view of an image it is so already; and no mount is made of one that is
	// at no place.
	if err := unix.Fstatfs(from, &fs); err != nil || fs.Flags&unix.ST_RDONLY == 0 {
		mount, err := cloneReadOnly(from, "", f.Name())
		if err != nil {
			return nil, err
		}
		defer unix.Close(mount)
		from = mount
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", from), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// cloneReadOnly mounts what is at a path once more, read-only and at no place.
// Kernels before 5.12 have no such mounts.
func cloneReadOnly(dir int, path, name string) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	fd, err := unix.OpenTree(dir, path, flags)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: name, Err: err}
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "mount_setattr", Path: name, Err: err}
	}
	return fd, nil
}

// stamp tells a blob's file from every other of the content store, whose directory
// is containerd's alone, and from itself after any change: the kernel sets Changed,
// nobody can.
type stamp struct {
	Device, Inode           uint64
	Size, Modified, Changed int64
}

func stampOf(f *os.File) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return stamp{}, &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	return stamp{st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}, nil
}

// openSame opens a blob if it is the file that it was.
func (b *blobs) openSame(d digest.Digest, want stamp) (*os.File, error) {
	f, err := b.open(d)
	if err != nil {
		return nil, err
	}
	now, err := stampOf(f)
	if err == nil && now != want {
		err = fmt.Errorf("blob %s has changed", d)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openStore opens the content store where it is a directory of this machine, and
// returns its path; else neither.
func (c Store) openStore(ctx context.Context, logger *log.Entry) (b *blobs, root string, _ error) {
	root, err := c.ContentRoot(ctx)
	if err != nil {
		return nil, "", err
	}
	if root != "" {
		b, err = openBlobs(root)
	}
	if b == nil {
		logger.WithError(err).Info("containerd's content store is not used in place; code is copied into memory")
		return nil, "", nil
	}
	return b, root, nil
}

// verify reads a blob and compares.
func verify(f *os.File, d digest.Digest, what string) error {
	found, err := digestOf(f, d.Algorithm())
	if err != nil {
		return err
	}
	if found != d {
		return containerd.Damaged(what, d, found)
	}
	return nil
}

// A daemon never holds more of a blob than a buffer of bufferSize, and less of a
// small one: memory that was never used before costs more than to read into it.
const bufferSize = 256 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// transfer copies what a reader has left, about size bytes.
func transfer(w io.Writer, r io.Reader, size int64) error {
	const small = 16 << 10
	var buffer []byte
	if size < small {
		buffer = make([]byte, size+1)
	} else {
		pooled := buffers.Get().(*[bufferSize]byte)
		defer buffers.Put(pooled)
		buffer = pooled[:]
	}
	// Only Read and Write: not what would choose a buffer of its own.
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buffer)
	return err
}

// digestOf reads a file from its beginning. The file's offset is not used: other
// processes may share it.
func digestOf(f *os.File, algorithm digest.Algorithm) (digest.Digest, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !algorithm.Available() {
		return "", fmt.Errorf("digests of type %q are not supported: %w", algorithm, errdefs.ErrInvalidArgument)
	}
	d := algorithm.Digester()
	if err := transfer(d.Hash(), io.NewSectionReader(f, 0, info.Size()), info.Size()); err != nil {
		return "", fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return d.Digest(), nil
}

// sealedCopy reads everything into a memory file that nobody can change.
func sealedCopy(name string, r io.Reader, size int64) (_ *os.File, _ digest.Digest, retErr error) {
	f, err := memfile.New(name)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if retErr != nil {
			f.Close()
		}
	}()
	d := digest.Canonical.Digester()
	if err := transfer(io.MultiWriter(f, d.Hash()), r, size); err != nil {
		return nil, "", err
	}
	if err := memfile.Seal(f); err != nil {
		return nil, "", err
	}
	return f, d.Digest(), nil
}
