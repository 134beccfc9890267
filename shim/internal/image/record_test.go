// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
)

// full is a record with everything in it.
func full(cause string) record {
	return record{
		Root: "/var/lib/containerd/content",
		Kind: entrypoint.Component,
		Layers: []knownLayer{
			{MediaType: LayerTypes[0], Digest: digest.FromString("a"), Blob: stamp{1, 2, 3, 4, 5}, Artifact: digest.FromString("b"), Compiled: stamp{6, 7, 8, 9, 1 << 62}},
			{MediaType: LayerTypes[1], Digest: digest.FromString("c"), Blob: stamp{1 << 63, 2, 3, 4, 5}},
		},
		NotCompiled: &failure{cause, time.Now().UTC().Round(0).Add(time.Hour), compiler.DefaultLimits},
		Refused:     []digest.Digest{digest.FromString("d")},
		Remade:      true,
	}
}

func names(t *testing.T, dir string) []string {
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestRecord(t *testing.T) {
	r := records{filepath.Join(t.TempDir(), "made", "for it")}
	require.Nil(t, r.get("a"))
	r.remove("a")
	one, two := full("one"), record{Root: "/"}
	require.NoError(t, r.put("a", one))
	require.NoError(t, r.put("b", two))
	require.Equal(t, &one, r.get("a"))
	require.Equal(t, &two, r.get("b"))
	require.NoError(t, r.put("a", two), "in its place")
	require.Equal(t, &two, r.get("a"))
	require.Equal(t, []string{"a.json", "b.json"}, names(t, r.dir))
	info, err := os.Stat(r.dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	r.remove("a")
	require.Nil(t, r.get("a"))
	require.Equal(t, &two, r.get("b"))

	old(t, r.dir, "x.lock", 0)
	old(t, r.dir, "y.123.new", 0)
	require.NoError(t, r.clear())
	require.Equal(t, []string{"x.lock", "y.123.new"}, names(t, r.dir), "what others are about stays")
	require.NoError(t, r.clear())
	require.NoError(t, records{filepath.Join(r.dir, "none")}.clear())
}

// What cannot be read is as good as not there, and is replaced by the next record.
func TestRecordUnreadable(t *testing.T) {
	whole := `{"root":"/","layers":[{"digest":"sha256:0"}]}`
	for what, text := range map[string]string{
		"empty": "", "zeros": strings.Repeat("\x00", 4096), "text": "hello", "list": "[]", "cut": whole[:len(whole)-1],
		"two": whole + whole, "other type": `{"root":1}`, "other digest": `{"layers":[{"digest":{}}]}`, "too large": `{"kind":4294967296}`,
	} {
		t.Run(what, func(t *testing.T) {
			r := records{t.TempDir()}
			require.NoError(t, os.WriteFile(filepath.Join(r.dir, "a.json"), []byte(text), 0o600))
			require.Nil(t, r.get("a"))
			require.NoError(t, r.put("a", full("x")))
			require.NotNil(t, r.get("a"))
		})
	}
	t.Run("newer", func(t *testing.T) {
		r := records{t.TempDir()}
		require.NoError(t, os.WriteFile(filepath.Join(r.dir, "a.json"), []byte(`{"root":"/","new":{}}`), 0o600))
		require.Equal(t, &record{Root: "/"}, r.get("a"))
	})
	t.Run("directory", func(t *testing.T) {
		r := records{t.TempDir()}
		require.NoError(t, os.Mkdir(filepath.Join(r.dir, "a.json"), 0o700))
		require.Nil(t, r.get("a"))
		require.Error(t, r.put("a", full("x")))
		require.Equal(t, []string{"a.json"}, names(t, r.dir), "nothing half-written is left")
	})
}

// old makes a file that was written some time ago.
func old(t *testing.T, dir, name string, age time.Duration) {
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(`{"root":"/old"}`), 0o600))
	at := time.Now().Add(-age)
	require.NoError(t, os.Chtimes(path, at, at))
}

func TestRecordPrune(t *testing.T) {
	r := records{t.TempDir()}
	for i := range maxRecords + 2 {
		old(t, r.dir, fmt.Sprintf("%d.json", i), time.Hour-time.Duration(i)*time.Second)
	}
	old(t, r.dir, "x.123.new", 2*time.Minute) // a killed writer's
	old(t, r.dir, "y.123.new", 0)             // somebody is writing it
	for _, foreign := range []string{"x.lock", "d1", "text", "json"} {
		old(t, r.dir, foreign, 24*time.Hour)
	}
	require.NoError(t, os.Mkdir(filepath.Join(r.dir, "directory"), 0o700))

	require.NoError(t, r.put("last", full("last")))
	left := names(t, r.dir)
	require.Len(t, left, maxRecords+1+4+1)
	for _, kept := range []string{"last.json", "y.123.new", "x.lock", "d1", "text", "json", "directory", "3.json"} {
		require.Contains(t, left, kept)
	}
	for _, gone := range []string{"0.json", "1.json", "2.json", "x.123.new"} {
		require.NotContains(t, left, gone)
	}

	// To write one again makes it young.
	require.NoError(t, r.put("3", full("again")))
	require.NoError(t, r.put("another", full("another")))
	require.NotNil(t, r.get("3"))
	require.Nil(t, r.get("4"))
	require.Len(t, names(t, r.dir), maxRecords+1+4+1)
}

// Readers see one record or another, never half of one, and writers never fail
// for what others write and remove.
func TestRecordConcurrent(t *testing.T) {
	r := records{t.TempDir()}
	long, short := full(strings.Repeat("long ", 1000)), record{Root: "/"}
	require.NoError(t, r.put("a", short))
	var all sync.WaitGroup
	failed := make(chan error, 100)
	for n := range 4 {
		all.Go(func() {
			for i := range 100 {
				v := short
				if i%2 == 0 {
					v = long
				}
				if err := r.put("a", v); err != nil {
					failed <- err
					return
				}
				own := fmt.Sprint(n)
				if err := r.put(own, v); err != nil {
					failed <- err
					return
				}
				r.remove(own)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		switch got := r.get("a"); {
		case got == nil:
			require.Fail(t, "there is always one")
		case got.NotCompiled == nil:
			require.Equal(t, &short, got)
		default:
			require.Equal(t, &long, got)
		}
	}
	require.Empty(t, failed)
	require.Equal(t, []string{"a.json"}, names(t, r.dir))
}

func TestFailure(t *testing.T) {
	require.False(t, (*failure)(nil).holds(compiler.Limits{}))
	require.False(t, (&failure{}).holds(compiler.Limits{}))
	require.False(t, later(errors.New("why"), 0, compiler.Limits{}).holds(compiler.Limits{}))
	require.False(t, later(errors.New("why"), -time.Hour, compiler.Limits{}).holds(compiler.Limits{}))
	f := later(errors.New("why"), time.Hour, compiler.Limits{})
	require.True(t, f.holds(compiler.Limits{}))
	require.False(t, f.holds(compiler.DefaultLimits), "within other limits it may not fail")
	require.Equal(t, "why", f.Cause)
}

// Each namespace of each containerd has a directory of its own, below one.
func TestDir(t *testing.T) {
	dirs := map[string]bool{}
	for _, address := range []string{"/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"} {
		for _, namespace := range []string{"default", "k8s.io", "default-"} {
			dirs[Dir(address, namespace)] = true
		}
	}
	require.Len(t, dirs, 6)
	for dir := range dirs {
		require.Equal(t, runtimeDir, filepath.Dir(dir))
	}
	require.Equal(t, Dir("/run/containerd/containerd.sock", "x"), Dir("/run//containerd/./containerd.sock", "x"))
	for _, hostile := range []string{"../../etc", "/etc", "a/b"} {
		require.Equal(t, runtimeDir, filepath.Dir(Dir("/run/c.sock", hostile)))
	}
}

func TestStamp(t *testing.T) {
	dir := t.TempDir()
	of := func(path string) stamp {
		f, err := os.Open(path)
		require.NoError(t, err)
		defer f.Close()
		s, err := stampOf(f)
		require.NoError(t, err)
		return s
	}
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	require.NoError(t, os.WriteFile(one, []byte("text"), 0o600))
	require.NoError(t, os.WriteFile(two, []byte("text"), 0o600))
	before := of(one)
	require.EqualValues(t, 4, before.Size)
	require.NotEqual(t, before, of(two))
	require.NoError(t, os.Link(two, filepath.Join(dir, "three")))
	require.Equal(t, of(two), of(filepath.Join(dir, "three")))

	// Who sets its times back cannot set back when that was.
	long := time.Unix(0, 0)
	require.NoError(t, os.Chtimes(one, long, long))
	first := of(one)
	require.EqualValues(t, 0, first.Modified)
	require.Positive(t, first.Changed)
	require.NoError(t, os.Truncate(one, 0))
	require.NoError(t, os.Chtimes(one, long, long))
	require.NotEqual(t, first, of(one))

	closed, err := os.Open(one)
	require.NoError(t, err)
	closed.Close()
	_, err = stampOf(closed)
	require.Error(t, err)

	base := stamp{Device: 1, Inode: 2, Size: 3, Modified: 4, Changed: 5}
	for what, test := range map[string]struct {
		other stamp
		like  bool
	}{
		"itself":        {base, true},
		"other device":  {stamp{9, 2, 3, 4, 5}, true},
		"other inode":   {stamp{1, 9, 3, 4, 5}, true},
		"other size":    {stamp{1, 2, 9, 4, 5}, false},
		"other time":    {stamp{1, 2, 3, 9, 5}, false},
		"other changed": {stamp{1, 2, 3, 4, 9}, false},
		"nothing":       {stamp{}, false},
	} {
		require.Equal(t, test.like, base.like(test.other), what)
		require.Equal(t, test.like, test.other.like(base), what)
		require.Equal(t, what == "itself", base.String() == test.other.String(), what)
	}
	require.NotEqual(t, stamp{1, 23, 4, 5, 6}.String(), stamp{12, 3, 4, 5, 6}.String())

	at := time.Unix(100, 0)
	require.True(t, stamp{Changed: at.UnixNano()}.settledAt(at.Add(time.Second)))
	require.False(t, stamp{Changed: at.UnixNano()}.settledAt(at.Add(time.Millisecond)))
	require.False(t, stamp{Changed: at.UnixNano()}.settledAt(at))
	require.False(t, stamp{Changed: at.UnixNano()}.settledAt(at.Add(-time.Second)), "the clock was set back")
}
