// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// Layer is a layer of the guest's code, and what was compiled from it.
type Layer struct {
	MediaType string // empty where it is not known: a file has no type
	Digest    string // "sha256:..."; empty where it is not known

	index    int
	fd       int    // 0 for a file that is not open yet
	artifact int    // 0 if there is none
	path     string // of a file
	refuse   func(index int, why string)
}

// Bytes maps the layer, for reading. It stays in place as long as the process.
func (l *Layer) Bytes() ([]byte, error) {
	fd, err := l.FD()
	if err != nil {
		return nil, err
	}
	return mapped(fd)
}

// FD is a descriptor of the layer, for reading. It is the library's: it must
// not be closed.
func (l *Layer) FD() (int, error) {
	if l.fd > 0 {
		return l.fd, nil
	}
	fd, err := unix.Open(l.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: l.path, Err: err}
	}
	l.fd = fd
	return fd, nil
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
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("descriptor %d is not a regular file", fd)
	}
	if st.Size == 0 {
		return []byte{}, nil
	}
	return unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ, unix.MAP_PRIVATE)
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
