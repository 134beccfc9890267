// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/memfile"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// Layer is a layer of the guest's code, and what was compiled from it. It does
// not change: of a file, whoever may write to it, it is a copy in memory that is
// made when it is first asked for. Where there is an artifact, an engine need not
// ask.
type Layer struct {
	MediaType string // empty where it is not known: a file has no type
	Digest    string // "sha256:..."; empty where it is not known

	index    int
	fd       int      // 0 for a file that nobody has asked a descriptor of
	code     []byte   // nil until somebody asks
	sealed   *os.File // what fd is of, where the layer is a file
	artifact int      // 0 if there is none
	path     string   // of a file
	refuse   func(index int, why string)
}

// Bytes maps the layer, for reading. It stays in place as long as the process.
func (l *Layer) Bytes() (_ []byte, err error) {
	switch {
	case l.code != nil:
	case l.fd != 0:
		l.code, err = mapped(l.fd)
	default:
		l.code, err = copied(l.path)
	}
	return l.code, err
}

// FD is a descriptor of the layer, for reading. It is the library's: it must
// not be closed.
func (l *Layer) FD() (int, error) {
	if l.fd != 0 {
		return l.fd, nil
	}
	code, err := l.Bytes()
	if err != nil {
		return -1, err
	}
	f, err := seal(code)
	if err != nil {
		return -1, err
	}
	l.sealed, l.fd = f, int(f.Fd())
	return l.fd, nil
}

// copied reads a file into memory that is for reading alone. A file that has
// become shorter meanwhile is what was read; what was added to one is not.
func copied(path string) (_ []byte, retErr error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.EACCES) && unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK, unix.AT_EACCESS) == nil {
		// Only the opening asks AppArmor.
		return nil, fmt.Errorf("%w; its mode allows it: the container's AppArmor profile, or another security module, does not", err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if st.Size() == 0 {
		return []byte{}, nil
	}
	code, err := unix.Mmap(-1, 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("memory for the %d bytes of %s: %w", st.Size(), path, err)
	}
	n, err := io.ReadFull(f, code)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	if err == nil {
		err = unix.Mprotect(code, unix.PROT_READ)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Munmap(code))
	}
	return code[:n], nil
}

// seal makes a file of code that nobody can change.
func seal(code []byte) (*os.File, error) {
	var limit unix.Rlimit
	// Else the write would be told by SIGXFSZ, which ends the process.
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err == nil && limit.Cur < uint64(len(code)) {
		return nil, unix.EFBIG
	}
	return memfile.Sealed("guest", code)
}

// Artifact maps what Compile made of the layer; nil if there is nothing. The
// layer is there as well.
func (l *Layer) Artifact() ([]byte, error) {
	if l.artifact == 0 {
		return nil, nil
	}
	return mapped(l.artifact)
}

// ArtifactFD is a descriptor of the same, as FD is; false if there is none.
func (l *Layer) ArtifactFD() (int, bool) { return l.artifact, l.artifact != 0 }

// RefuseArtifact says that the artifact does not load, so that another one is
// made for the next container: run the layer instead.
func (l *Layer) RefuseArtifact(why error) {
	if l.artifact != 0 {
		l.refuse(l.index, why.Error())
	}
}

func mapped(fd int) ([]byte, error) {
	size, err := sizeOf(fd)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return []byte{}, nil
	}
	return unix.Mmap(fd, 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE)
}

// sizeOf is size_of of cabi/layers.c, which says why it is asked for twice.
func sizeOf(fd int) (int64, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if errors.Is(err, unix.EACCES) {
		offset, err := unix.Seek(fd, 0, io.SeekCurrent)
		if err != nil {
			return 0, err
		}
		size, err := unix.Seek(fd, 0, io.SeekEnd)
		if err != nil {
			return 0, err
		}
		_, err = unix.Seek(fd, offset, io.SeekStart)
		return size, err
	}
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = fmt.Errorf("descriptor %d is not a regular file", fd)
	}
	return st.Size, err
}

// layers are those of a context, or the one file that it names.
func layers(c *stage.Context) []*Layer {
	if len(c.Layers) == 0 {
		return []*Layer{{path: c.Path}}
	}
	list := make([]*Layer, len(c.Layers))
	for i, l := range c.Layers {
		list[i] = &Layer{
			MediaType: l.MediaType, Digest: l.Digest, index: i, fd: int(l.FD), artifact: int(l.Artifact), path: c.Path,
			refuse: func(index int, why string) { send(stage.SayRefused, strconv.Itoa(index)+"\x00"+why) },
		}
	}
	return list
}
