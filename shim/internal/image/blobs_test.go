// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// reopen opens for writing what a descriptor is open on, as a process can that
// has inherited it.
func reopen(f *os.File) error {
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer again.Close()
	_, err = again.WriteString("changed")
	return err
}

// A content store that is no directory here is read once, into memory that nobody
// can change.
func TestOpenRemote(t *testing.T) {
	s := newStore(t)
	d := s.add([]byte("some text"))
	f, err := s.open(t.Context(), nil, d.Digest)
	require.NoError(t, err)
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 100))
	require.NoError(t, err)
	require.Equal(t, "some text", string(text))
	require.ErrorIs(t, reopen(f), unix.EPERM)
	_, err = s.open(t.Context(), nil, digest.FromString("no such"))
	require.True(t, errdefs.IsNotFound(err), "%v", err)
}

// One that is a directory is used in place, and only for reading: not even root
// can write through a descriptor of it.
func TestOpenBlobs(t *testing.T) {
	needsRoot(t, "the blobs are mounted once more")
	s := newStore(t)
	d := s.add([]byte("some text"))
	b, err := openBlobs(s.dir)
	require.NoError(t, err)
	f, err := b.open(d.Digest)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, os.Chmod(s.path(d.Digest), 0o644))
	require.ErrorIs(t, reopen(f), unix.EROFS)
	b.close() // the file does not need it
	found, err := digestOf(f, digest.Canonical)
	require.NoError(t, err)
	require.Equal(t, d.Digest, found)
}

func TestOpenBlobsNot(t *testing.T) {
	needsRoot(t, "the blobs are mounted once more")
	s := newStore(t)
	d := s.add([]byte("some text"))
	b, err := openBlobs(s.dir)
	require.NoError(t, err)
	defer b.close()
	for name, tc := range map[string]struct {
		digest digest.Digest
		is     func(error) bool
	}{
		"not there":   {digest.FromString("no such"), errdefs.IsNotFound},
		"no digest":   {"sha256:short", errdefs.IsInvalidArgument},
		"a path":      {"sha256:../../../../etc/passwd", errdefs.IsInvalidArgument},
		"no value":    {"", errdefs.IsInvalidArgument},
		"a directory": {"../blobs", errdefs.IsInvalidArgument},
	} {
		_, err := b.open(tc.digest)
		require.True(t, tc.is(err), "%s: %v", name, err)
	}
	// Nor what a link leads to.
	elsewhere := digest.FromString("elsewhere")
	require.NoError(t, os.Symlink(s.path(d.Digest), s.path(elsewhere)))
	_, err = b.open(elsewhere)
	require.ErrorIs(t, err, unix.ELOOP)
	_, err = openBlobs(t.TempDir())
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Whatever the size, a blob goes through one buffer.
func TestTransferIsSmall(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/sparse")
	require.NoError(t, err)
	defer f.Close()
	const size = 64 << 20
	require.NoError(t, f.Truncate(size))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	d, err := digestOf(f, digest.SHA256)
	require.NoError(t, err)
	copied, same, err := sealedCopy("copy", io.NewSectionReader(f, 0, size), size)
	require.NoError(t, err)
	defer copied.Close()
	runtime.ReadMemStats(&after)
	require.Equal(t, digest.FromBytes(bytes.Repeat([]byte{0}, size)), d)
	require.Equal(t, d, same)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20))
}

func TestDigestOf(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/file")
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteString("text")
	require.NoError(t, err)
	d, err := digestOf(f, digest.SHA512)
	require.NoError(t, err, "wherever its offset is")
	require.Equal(t, digest.SHA512.FromString("text"), d)
	_, err = digestOf(f, "md5")
	require.ErrorContains(t, err, `digests of type "md5" are not supported`)
}
