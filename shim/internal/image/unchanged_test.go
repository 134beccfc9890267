// SPDX-License-Identifier: Apache-2.0

package image

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// overlay is a root file system as a container has it.
type overlay struct {
	merged, upper string
	lower         []string // the uppermost first
	mounts        []mount.Mount
}

// newOverlay mounts layers of files, the uppermost first. A name that ends in a
// slash is a directory's, an empty text removes what is below, and "-> X" is a link.
func newOverlay(t *testing.T, layers ...map[string]string) overlay {
	needsRoot(t, "an overlay file system is mounted")
	dir := t.TempDir()
	o := overlay{merged: filepath.Join(dir, "merged"), upper: filepath.Join(dir, "upper")}
	work := filepath.Join(dir, "work")
	for _, d := range []string{o.merged, o.upper, work} {
		require.NoError(t, os.Mkdir(d, 0o755))
	}
	for i, files := range layers {
		lower := filepath.Join(dir, strconv.Itoa(i))
		o.lower = append(o.lower, lower)
		for name, text := range files {
			path := filepath.Join(lower, name)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			switch {
			case strings.HasSuffix(name, "/"):
				require.NoError(t, os.MkdirAll(path, 0o755))
			case text == "":
				require.NoError(t, unix.Mknod(path, unix.S_IFCHR, 0))
			case strings.HasPrefix(text, "-> "):
				require.NoError(t, os.Symlink(strings.TrimPrefix(text, "-> "), path))
			default:
				require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
			}
		}
	}
	o.mounts = []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "workdir=" + work, "upperdir=" + o.upper, "lowerdir=" + strings.Join(o.lower, ":"),
	}}}
	require.NoError(t, mount.All(o.mounts, o.merged))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(o.merged, 0)) })
	return o
}

// A file is the image's as long as the container's own directory has nothing to say.
func TestUnchanged(t *testing.T) {
	image := map[string]string{"app": "lower", "dir/app": "lower", "dir/sub/app": "lower", "other/x": "x"}
	for name, test := range map[string]struct {
		change func(t *testing.T, o overlay)
		path   string
		want   bool
	}{
		"untouched":               {nil, "/app", true},
		"untouched deep":          {nil, "/dir/sub/app", true},
		"written":                 {func(t *testing.T, o overlay) { o.write(t, "app") }, "/app", false},
		"a neighbour was written": {func(t *testing.T, o overlay) { o.write(t, "dir/new") }, "/dir/app", true},
		"times changed": {func(t *testing.T, o overlay) {
			require.NoError(t, os.Chmod(filepath.Join(o.merged, "app"), 0o755))
		}, "/app", false},
		"removed and made again": {func(t *testing.T, o overlay) {
			require.NoError(t, os.Remove(filepath.Join(o.merged, "app")))
			o.write(t, "app")
		}, "/app", false},
		"removed": {func(t *testing.T, o overlay) { require.NoError(t, os.Remove(filepath.Join(o.merged, "app"))) }, "/app", false},
		"its directory made again": {func(t *testing.T, o overlay) {
			require.NoError(t, os.RemoveAll(filepath.Join(o.merged, "dir")))
			o.write(t, "dir/app")
		}, "/dir/app", false},
		"its directory is opaque": {func(t *testing.T, o overlay) {
			require.NoError(t, os.RemoveAll(filepath.Join(o.merged, "dir")))
			require.NoError(t, os.Mkdir(filepath.Join(o.merged, "dir"), 0o755))
		}, "/dir/sub/app", false},
		"its directory is a link": {func(t *testing.T, o overlay) {
			require.NoError(t, os.RemoveAll(filepath.Join(o.merged, "dir")))
			require.NoError(t, os.Symlink("other", filepath.Join(o.merged, "dir")))
		}, "/dir/app", false},
		"replaced by a directory": {func(t *testing.T, o overlay) {
			require.NoError(t, os.Remove(filepath.Join(o.merged, "app")))
			require.NoError(t, os.Mkdir(filepath.Join(o.merged, "app"), 0o755))
		}, "/app", false},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOverlay(t, image)
			if test.change != nil {
				test.change(t, o)
			}
			require.Equal(t, test.want, unchanged(o.mounts, test.path))
		})
	}
	t.Run("renamed directory", func(t *testing.T) {
		o := newOverlay(t, image)
		// As the kernel leaves it where it follows redirects.
		require.NoError(t, os.Mkdir(filepath.Join(o.upper, "moved"), 0o755))
		require.NoError(t, unix.Setxattr(filepath.Join(o.upper, "moved"), "trusted.overlay.redirect", []byte("/dir"), 0))
		require.False(t, unchanged(o.mounts, "/moved/app"))
	})
	for name, mounts := range map[string][]mount.Mount{
		"none":          nil,
		"bind":          {{Type: "bind", Source: "/", Options: []string{"rbind", "lowerdir=/x"}}},
		"nothing below": {{Type: "overlay", Options: []string{"upperdir=/u", "workdir=/w"}}},
		"no directory":  {{Type: "overlay", Options: []string{"upperdir=/no/such", "lowerdir=/l"}}},
		"bind on it":    {{Type: "overlay", Options: []string{"lowerdir=/l"}}, {Type: "bind", Source: "/"}},
	} {
		require.False(t, unchanged(mounts, "/app"), name)
	}
	require.True(t, unchanged([]mount.Mount{{Type: "overlay", Options: []string{"lowerdir=/2:/1"}}}, "/app"), "there is nothing to write to")
}

func (o overlay) write(t *testing.T, name string) {
	path := filepath.Join(o.merged, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte("upper"), 0o644))
}

// Whoever inherits a file that was opened so cannot open it for writing.
func TestReadOnly(t *testing.T) {
	needsRoot(t, "a file is mounted once more")
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte("text"), 0o666))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	own, err := readOnly(f)
	require.NoError(t, err)
	defer own.Close()
	a, err := stampOf(f)
	require.NoError(t, err)
	b, err := stampOf(own)
	require.NoError(t, err)
	require.Equal(t, a, b, "it is the same file")
	again := "/proc/self/fd/" + strconv.Itoa(int(own.Fd()))
	text, err := os.ReadFile(again)
	require.NoError(t, err)
	require.Equal(t, "text", string(text))
	for _, flags := range []int{os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC} {
		_, err = os.OpenFile(again, flags, 0)
		require.ErrorIs(t, err, unix.EROFS)
	}
	require.ErrorIs(t, own.Chmod(0o777), unix.EROFS)
}
