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
)

// full is a record with something in every field.
func full(cause string) Result {
	return Result{
		Root: "/root", Kind: 1, Layers: []ResultLayer{{Blob: stamp{1, 2, 3, 4, 5}, Artifact: digest.FromString("a"), ArtifactStamp: stamp{5, 4, 3, 2, 1}}},
		Compiled: true, Failed: &failure{Cause: cause, Until: time.Unix(1, 0).UTC(), Limits: compiler.DefaultLimits},
	}
}

// get is what is remembered, nil if nothing is.
func get(m memory, name string) *Result {
	var r Result
	if !m.recall(name, &r) {
		return nil
	}
	return &r
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

func TestMemory(t *testing.T) {
	r := memory{filepath.Join(t.TempDir(), "made", "for it")}
	require.Nil(t, get(r, "a"))
	one, two := full("one"), Result{Root: "/"}
	require.NoError(t, r.remember("a", one))
	require.NoError(t, r.remember("b", two))
	require.Equal(t, &one, get(r, "a"))
	require.Equal(t, &two, get(r, "b"))
	require.NoError(t, r.remember("a", two), "in its place")
	require.Equal(t, &two, get(r, "a"))
	require.Equal(t, []string{"a.json", "b.json"}, names(t, r.dir))
	info, err := os.Stat(r.dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	old(t, r.dir, "x.lock", 0)
	old(t, r.dir, "y.123.new", 0)
	require.NoError(t, r.clear())
	require.Equal(t, []string{"x.lock", "y.123.new"}, names(t, r.dir), "what others are about stays")
	require.NoError(t, r.clear())
	require.NoError(t, memory{filepath.Join(r.dir, "none")}.clear())
}

// What cannot be read is as good as not there, and is replaced by the next record.
func TestMemoryUnreadable(t *testing.T) {
	whole := `{"root":"/","layers":[{"artifact":"sha256:0"}]}`
	for what, text := range map[string]string{
		"empty": "", "zeros": strings.Repeat("\x00", 4096), "text": "hello", "list": "[]", "cut": whole[:len(whole)-1],
		"two": whole + whole, "other type": `{"root":1}`, "other digest": `{"layers":[{"artifact":{}}]}`, "too large": `{"kind":4294967296}`,
	} {
		t.Run(what, func(t *testing.T) {
			r := memory{t.TempDir()}
			require.NoError(t, os.WriteFile(filepath.Join(r.dir, "a.json"), []byte(text), 0o600))
			require.Nil(t, get(r, "a"))
			require.NoError(t, r.remember("a", full("x")))
			require.NotNil(t, get(r, "a"))
		})
	}
	t.Run("newer", func(t *testing.T) {
		r := memory{t.TempDir()}
		require.NoError(t, os.WriteFile(filepath.Join(r.dir, "a.json"), []byte(`{"root":"/","new":{}}`), 0o600))
		require.Equal(t, &Result{Root: "/"}, get(r, "a"))
	})
	t.Run("directory", func(t *testing.T) {
		r := memory{t.TempDir()}
		require.NoError(t, os.Mkdir(filepath.Join(r.dir, "a.json"), 0o700))
		require.Nil(t, get(r, "a"))
		require.Error(t, r.remember("a", full("x")))
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

func TestMemoryPrune(t *testing.T) {
	r := memory{t.TempDir()}
	for i := range maxRecords + 2 {
		old(t, r.dir, fmt.Sprintf("%d.json", i), time.Hour-time.Duration(i)*time.Second)
	}
	old(t, r.dir, "x.123.new", 2*time.Minute) // a killed writer's
	old(t, r.dir, "y.123.new", 0)             // somebody is writing it
	for _, foreign := range []string{"x.lock", "d1", "text", "json"} {
		old(t, r.dir, foreign, 24*time.Hour)
	}
	require.NoError(t, os.Mkdir(filepath.Join(r.dir, "directory"), 0o700))

	require.NoError(t, r.remember("last", full("last")))
	left := names(t, r.dir)
	require.Len(t, left, maxRecords+1+4+1)
	for _, kept := range []string{"last.json", "y.123.new", "x.lock", "d1", "text", "json", "directory", "3.json"} {
		require.Contains(t, left, kept)
	}
	for _, gone := range []string{"0.json", "1.json", "2.json", "x.123.new"} {
		require.NotContains(t, left, gone)
	}

	// To write one again makes it young.
	require.NoError(t, r.remember("3", full("again")))
	require.NoError(t, r.remember("another", full("another")))
	require.NotNil(t, get(r, "3"))
	require.Nil(t, get(r, "4"))
	require.Len(t, names(t, r.dir), maxRecords+1+4+1)
}

// Readers see one record or another, never half of one, and writers never fail
// for what others write and remove.
func TestMemoryConcurrent(t *testing.T) {
	r := memory{t.TempDir()}
	long, short := full(strings.Repeat("long ", 1000)), Result{Root: "/"}
	require.NoError(t, r.remember("a", short))
	var all sync.WaitGroup
	failed := make(chan error, 100)
	for n := range 4 {
		all.Go(func() {
			for i := range 100 {
				v := short
				if i%2 == 0 {
					v = long
				}
				if err := r.remember("a", v); err != nil {
					failed <- err
					return
				}
				own := fmt.Sprint(n)
				if err := r.remember(own, v); err != nil {
					failed <- err
					return
				}
				_ = os.Remove(filepath.Join(r.dir, own+".json"))
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
		switch got := get(r, "a"); {
		case got == nil:
			require.Fail(t, "there is always one")
		case got.Failed == nil:
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
	require.False(t, newFailure(errors.New("why"), 0, compiler.Limits{}).holds(compiler.Limits{}))
	require.False(t, newFailure(errors.New("why"), -time.Hour, compiler.Limits{}).holds(compiler.Limits{}))
	f := newFailure(errors.New("why"), time.Hour, compiler.Limits{})
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

// That somebody had to ask is known for a while, for the same entrypoint.
func TestAsked(t *testing.T) {
	m := memory{filepath.Join(t.TempDir(), "made")}
	require.False(t, m.asksAhead("/app"))
	m.asked("/app")
	require.True(t, m.asksAhead("/app"))
	require.False(t, m.asksAhead("/other"))
	old(t, m.dir, filepath.Base(m.askedFile("/app")), 2*askedFor)
	require.False(t, m.asksAhead("/app"))
	m.asked("/app")
	require.True(t, m.asksAhead("/app"))
	for i := range 1000 {
		m.asked(fmt.Sprint("/app", i))
	}
	require.Len(t, names(t, m.dir), askedFiles)
}
