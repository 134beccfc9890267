// SPDX-License-Identifier: Apache-2.0

package image

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
)

func TestLowerDirs(t *testing.T) {
	overlay := func(options ...string) mount.Mount {
		return mount.Mount{Type: "overlay", Source: "overlay", Options: options}
	}
	for name, test := range map[string]struct {
		rootfs []mount.Mount
		want   []string
	}{
		"none":           {nil, nil},
		"bind":           {[]mount.Mount{{Type: "bind", Source: "/snapshots/1/fs", Options: []string{"ro", "rbind", "lowerdir=/x"}}}, nil},
		"one":            {[]mount.Mount{overlay("workdir=/w", "upperdir=/u", "lowerdir=/1")}, []string{"/1"}},
		"in their order": {[]mount.Mount{overlay("index=off", "lowerdir=/3:/2:/1", "upperdir=/u")}, []string{"/3", "/2", "/1"}},
		"read-only":      {[]mount.Mount{overlay("lowerdir=/2:/1")}, []string{"/2", "/1"}},
		"nothing below":  {[]mount.Mount{overlay("upperdir=/u", "workdir=/w")}, nil},
		"after another":  {[]mount.Mount{{Type: "tmpfs"}, overlay("lowerdir=/1")}, []string{"/1"}},
	} {
		require.Equal(t, test.want, lowerDirs(test.rootfs), name)
	}
}

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
	waitForTick(t, dir)
	o.mounts = []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "workdir=" + work, "upperdir=" + o.upper, "lowerdir=" + strings.Join(o.lower, ":"),
	}}}
	require.NoError(t, mount.All(o.mounts, o.merged))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(o.merged, 0)) })
	return o
}

// waitForTick waits until what is written has a later time than what was written
// before: the kernel's clock for files ticks every few milliseconds. An image is
// unpacked longer before its containers run.
func waitForTick(t *testing.T, dir string) {
	written := func() int64 {
		f, err := os.CreateTemp(dir, "tick")
		require.NoError(t, err)
		defer f.Close()
		s, err := stampOf(f)
		require.NoError(t, err)
		return s.Changed
	}
	before := written()
	require.Eventually(t, func() bool { return written() > before }, 10*time.Second, time.Millisecond)
}

func (o overlay) stamps(t *testing.T, path string) (below, own stamp) {
	f, err := os.Open(filepath.Join(o.merged, path))
	require.NoError(t, err)
	defer f.Close()
	below, err = stampBelow(f, path, o.mounts)
	require.NoError(t, err)
	own, err = stampOf(f)
	require.NoError(t, err)
	return below, own
}

// requireOwn requires that a file is known in its own container only.
func (o overlay) requireOwn(t *testing.T, path string) {
	t.Helper()
	below, own := o.stamps(t, path)
	require.Equal(t, own, below)
	require.Zero(t, o.in(path)[below], "it is none that other containers have")
}

// in are the stamps of a path in the lower layers.
func (o overlay) in(path string) map[stamp]int {
	all := map[stamp]int{}
	for i, dir := range o.lower {
		if s, err := statBelow(dir, strings.TrimPrefix(path, "/")); err == nil {
			all[s] = i + 1
		}
	}
	return all
}

// A file that comes from an image's layer is the same in all containers of the
// image, until the container changes it.
func TestStampBelow(t *testing.T) {
	files := map[string]string{"app": "code", "bin/deep/app": "deep code"}
	o := newOverlay(t, files)
	for _, path := range []string{"/app", "/bin/deep/app"} {
		below, _ := o.stamps(t, path)
		f, err := os.Open(filepath.Join(o.lower[0], path))
		require.NoError(t, err)
		want, err := stampOf(f)
		f.Close()
		require.NoError(t, err)
		require.Equal(t, want, below)
		for range 2 {
			again, _ := o.stamps(t, path)
			require.Equal(t, below, again)
		}
	}

	t.Run("copied up", func(t *testing.T) {
		o := newOverlay(t, files)
		require.NoError(t, os.Chmod(filepath.Join(o.merged, "app"), 0o600))
		require.FileExists(t, filepath.Join(o.upper, "app"))
		o.requireOwn(t, "/app")
		below, _ := o.stamps(t, "/bin/deep/app")
		require.Equal(t, 1, o.in("/bin/deep/app")[below], "another file is not touched")
	})
	t.Run("copied up with the old time", func(t *testing.T) {
		o := newOverlay(t, files)
		path := filepath.Join(o.merged, "app")
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, []byte("evil"), 0o644))
		require.NoError(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
		after, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, []any{info.Size(), info.ModTime()}, []any{after.Size(), after.ModTime()})
		o.requireOwn(t, "/app")
	})
	t.Run("removed and made", func(t *testing.T) {
		o := newOverlay(t, files)
		path := filepath.Join(o.merged, "app")
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.WriteFile(path, []byte("code"), 0o644))
		o.requireOwn(t, "/app")
	})
	t.Run("renamed over", func(t *testing.T) {
		o := newOverlay(t, files)
		require.NoError(t, os.WriteFile(filepath.Join(o.merged, "new"), []byte("code"), 0o644))
		require.NoError(t, os.Rename(filepath.Join(o.merged, "new"), filepath.Join(o.merged, "app")))
		o.requireOwn(t, "/app")
	})
	t.Run("new", func(t *testing.T) {
		o := newOverlay(t, files)
		require.NoError(t, os.WriteFile(filepath.Join(o.merged, "bin/new"), []byte("code"), 0o644))
		o.requireOwn(t, "/bin/new")
	})
	t.Run("below a file", func(t *testing.T) {
		o := newOverlay(t, map[string]string{"bin/": ""}, files)
		require.NoError(t, os.RemoveAll(filepath.Join(o.merged, "app")))
		require.NoError(t, os.Mkdir(filepath.Join(o.merged, "app"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(o.merged, "app/app"), []byte("code"), 0o644))
		o.requireOwn(t, "/app/app")
	})
	t.Run("below a link", func(t *testing.T) {
		o := newOverlay(t, map[string]string{"link": "-> bin"}, files)
		require.NoError(t, os.Remove(filepath.Join(o.merged, "link")))
		require.NoError(t, os.MkdirAll(filepath.Join(o.merged, "link/deep"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(o.merged, "link/deep/app"), []byte("deep code"), 0o644))
		o.requireOwn(t, "/link/deep/app")
	})
	t.Run("uppermost of two", func(t *testing.T) {
		o := newOverlay(t, map[string]string{"app": "new code"}, files)
		below, _ := o.stamps(t, "/app")
		require.Equal(t, 1, o.in("/app")[below])
		below, _ = o.stamps(t, "/bin/deep/app")
		require.Equal(t, 2, o.in("/bin/deep/app")[below])
	})
	t.Run("removed in a layer", func(t *testing.T) {
		o := newOverlay(t, map[string]string{"app": ""}, files)
		require.NoFileExists(t, filepath.Join(o.merged, "app"))
		require.NoError(t, os.WriteFile(filepath.Join(o.merged, "app"), []byte("code"), 0o644))
		o.requireOwn(t, "/app")
	})
	t.Run("not of the root file system", func(t *testing.T) {
		o := newOverlay(t, files)
		for _, mounts := range [][]mount.Mount{nil, {{Type: "bind", Source: o.lower[0]}}, {{Type: "overlay", Options: []string{"lowerdir=/no/such"}}}} {
			o.mounts = mounts
			below, own := o.stamps(t, "/app")
			require.Equal(t, own, below)
		}
	})
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

// A record opens what it is about, as long as that is what it was; any other one
// is as good as none.
func TestRemembered(t *testing.T) {
	needsRoot(t, "a content store is mounted once more")
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "blobs/sha256"), 0o755))
	blob := func(text string) (digest.Digest, stamp) {
		d := digest.FromString(text)
		path := filepath.Join(root, "blobs/sha256", d.Encoded())
		require.NoError(t, os.WriteFile(path, []byte(text), 0o444))
		f, err := os.Open(path)
		require.NoError(t, err)
		defer f.Close()
		s, err := stampOf(f)
		require.NoError(t, err)
		return d, s
	}
	file := filepath.Join(t.TempDir(), "app")
	require.NoError(t, os.WriteFile(file, []byte("file"), 0o644))
	for name, test := range map[string]struct {
		isFile bool
		change func(r *record)
		want   []string // texts, nil where nothing is remembered
	}{
		"layers":                 {false, func(*record) {}, []string{"one", "compiled one", "two", ""}},
		"file":                   {true, func(r *record) { r.Layers = r.Layers[:1] }, []string{"file", "compiled one"}},
		"no record":              {false, nil, nil},
		"not compiled":           {false, func(r *record) { r.NotCompiled = later(unix.EIO, time.Hour, compiler.Limits{}) }, []string{"one", "compiled one", "two", ""}},
		"not compiled, before":   {false, func(r *record) { r.NotCompiled = later(unix.EIO, -time.Hour, compiler.Limits{}) }, nil},
		"refused":                {false, func(r *record) { r.Refused = []digest.Digest{r.Layers[0].Artifact} }, nil},
		"remade":                 {false, func(r *record) { r.Remade = true }, []string{"one", "compiled one", "two", ""}},
		"file of no image":       {true, func(r *record) { *r = record{NotCompiled: later(unix.EIO, time.Hour, compiler.Limits{})} }, []string{"file", ""}},
		"layers in no directory": {false, func(r *record) { r.Root = "" }, nil},
		"other directory":        {false, func(r *record) { r.Root = file }, nil},
		"layer changed":          {false, func(r *record) { r.Layers[1].Blob.Changed++ }, nil},
		"layer replaced":         {false, func(r *record) { r.Layers[1].Blob.Inode++ }, nil},
		"layer gone":             {false, func(r *record) { r.Layers[1].Digest = digest.FromString("gone") }, nil},
		"artifact changed":       {false, func(r *record) { r.Layers[0].Compiled.Size++ }, nil},
		"artifact gone":          {true, func(r *record) { r.Layers = r.Layers[:1]; r.Layers[0].Artifact = digest.FromString("gone") }, nil},
		"no digest":              {false, func(r *record) { r.Layers[0].Digest = "../../etc/passwd" }, nil},
		"foreign, no layers":     {false, func(r *record) { r.Layers = nil }, nil},
		"foreign, of layers":     {true, func(*record) {}, nil},
		"foreign, of no file":    {true, func(r *record) { r.Layers = nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			one, oneAt := blob("one")
			two, twoAt := blob("two")
			compiled, compiledAt := blob("compiled one")
			r := &record{Root: root, Kind: entrypoint.Component, Layers: []knownLayer{
				{MediaType: LayerTypes[0], Digest: one, Blob: oneAt, Artifact: compiled, Compiled: compiledAt},
				{MediaType: LayerTypes[1], Digest: two, Blob: twoAt},
			}}
			if test.change != nil {
				test.change(r)
			} else {
				r = nil
			}
			j := &Job{Log: log.L}
			if test.isFile {
				f, err := os.Open(file)
				require.NoError(t, err)
				defer f.Close()
				j.File = f
			}
			before := descriptors(t)
			g := j.remembered(r)
			if test.want == nil {
				require.Nil(t, g)
				require.Equal(t, before, descriptors(t))
				return
			}
			require.NotNil(t, g)
			require.Equal(t, r.Kind, g.Kind)
			var got []string
			for _, l := range g.Layers {
				got = append(got, textOf(t, l.File), textOf(t, l.Artifact))
			}
			require.Equal(t, test.want, got)
			g.Close()
			require.Equal(t, before, descriptors(t))
		})
	}
}
