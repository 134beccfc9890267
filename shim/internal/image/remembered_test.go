// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
)

// newNamespace returns a containerd, which does not answer, and its only namespace,
// of which nothing stays.
func newNamespace(t *testing.T) (address, namespace string) {
	needsRoot(t, runtimeDir+" is written to")
	address, namespace = filepath.Join(t.TempDir(), "containerd.sock"), "test"
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(Dir(address, namespace))) })
	return address, namespace
}

func newWork(t *testing.T, layers ...digest.Digest) *Work {
	w := &Work{Engine: Engine{Name: "test", Compiles: true}, Key: "key", Limits: compiler.DefaultLimits, Log: log.L}
	w.Address, w.Namespace = newNamespace(t)
	for _, d := range layers {
		w.Layers = append(w.Layers, WorkLayer{MediaType: containerd.LayerTypes[0], Digest: d})
	}
	return w
}

// opened is how many descriptors this process has of blobs.
func opened(t *testing.T, blobs ...digest.Digest) (n int) {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, e := range entries {
		name, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err == nil && slices.ContainsFunc(blobs, func(d digest.Digest) bool { return filepath.Base(name) == d.Encoded() }) {
			n++
		}
	}
	return n
}

// What is remembered of artifacts is used if it is whole, and still true.
func TestRecall(t *testing.T) {
	needsRoot(t, "a content store is mounted once more")
	s := newStore(t)
	blob := func(text string) (digest.Digest, stamp) {
		d := s.add([]byte(text)).Digest
		f, err := os.Open(s.path(d))
		require.NoError(t, err)
		defer f.Close()
		at, err := stampOf(f)
		require.NoError(t, err)
		return d, at
	}
	layer, _ := blob("layer")
	one, oneAt := blob("compiled one")
	two, twoAt := blob("compiled two")
	both, none := []string{"compiled one", "compiled two"}, []string{"", ""}
	failed := func(within time.Duration, limits compiler.Limits) func(*Result) {
		return func(r *Result) { r.Compiled, r.Failed = false, newFailure(unix.EIO, within, limits) }
	}
	for name, test := range map[string]struct {
		change func(r *Result)
		want   []string // of the artifacts; nil where nothing is known
	}{
		"both":                      {func(*Result) {}, both},
		"one":                       {func(r *Result) { r.Layers[0].Artifact = "" }, []string{"", "compiled two"}},
		"nothing to compile":        {func(r *Result) { r.Layers = make([]ResultLayer, 2) }, none},
		"no record":                 {nil, nil},
		"not compiled yet":          {func(r *Result) { r.Compiled = false }, nil},
		"failed":                    {failed(time.Hour, compiler.DefaultLimits), none},
		"failed before":             {failed(-time.Hour, compiler.DefaultLimits), nil},
		"failed within less time":   {failed(time.Hour, compiler.Limits{Time: time.Second, Memory: compiler.DefaultLimits.Memory}), nil},
		"failed within less memory": {failed(time.Hour, compiler.Limits{Time: compiler.DefaultLimits.Time, Memory: 1 << 20}), nil},
		"refused":                   {func(r *Result) { r.Failed = newFailure(unix.EIO, time.Hour, compiler.DefaultLimits) }, none},
		"refused before":            {func(r *Result) { r.Failed = newFailure(unix.EIO, -time.Hour, compiler.DefaultLimits) }, nil},
		"not in a directory":        {func(r *Result) { r.Root = "" }, nil},
		"in another directory":      {func(r *Result) { r.Root = os.TempDir() }, nil},
		"artifact changed":          {func(r *Result) { r.Layers[1].ArtifactStamp.Changed++ }, nil},
		"artifact replaced":         {func(r *Result) { r.Layers[1].ArtifactStamp.Inode++ }, nil},
		"artifact cut off":          {func(r *Result) { r.Layers[1].ArtifactStamp.Size++ }, nil},
		"artifact gone":             {func(r *Result) { r.Layers[1].Artifact = digest.FromString("gone") }, nil},
		"artifact elsewhere":        {func(r *Result) { r.Layers[1].Artifact = "sha256:../../../../etc/passwd" }, nil},
		"of fewer layers":           {func(r *Result) { r.Layers = r.Layers[:1] }, nil},
		"of more layers":            {func(r *Result) { r.Layers = append(r.Layers, ResultLayer{}) }, nil},
		"of none":                   {func(r *Result) { r.Layers = nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWork(t, layer, layer)
			if test.change != nil {
				known := Result{Root: s.dir, Compiled: true, Layers: []ResultLayer{{Artifact: one, ArtifactStamp: oneAt}, {Artifact: two, ArtifactStamp: twoAt}}}
				test.change(&known)
				require.NoError(t, w.memory().remember(w.name(), known))
			}
			g := &Guest{Layers: make([]Layer, 2)}
			require.Equal(t, test.want != nil, w.recall(g))
			var got []string
			for _, l := range g.Layers {
				text := ""
				if l.Artifact != nil {
					all, err := io.ReadAll(l.Artifact)
					require.NoError(t, err)
					text = string(all)
				}
				got = append(got, text)
			}
			if test.want == nil {
				require.Equal(t, none, got, "all or nothing")
				require.Zero(t, opened(t, one, two))
				return
			}
			require.Equal(t, test.want, got)
			require.Equal(t, len(strings.Join(test.want, ""))/len("compiled one"), opened(t, one, two))
			g.Close()
			require.Zero(t, opened(t, one, two))
		})
	}
	for _, text := range []string{"", "{", "[]", "\x00", `{"layers":7}`} {
		w := newWork(t, layer)
		require.NoError(t, w.memory().remember(w.name(), 0))
		require.NoError(t, os.WriteFile(filepath.Join(w.memory().dir, w.name()+recordSuffix), []byte(text), 0o600))
		require.False(t, w.recall(&Guest{Layers: make([]Layer, 1)}), text)
	}
}

// A guest whose start is given up while another one has its code compiled is closed;
// where nothing is compiled, nobody is waited for.
func TestWithArtifactsWaits(t *testing.T) {
	w := newWork(t, digest.FromString("layer"))
	f := &Finder{Address: w.Address, Namespace: w.Namespace, Engine: w.Engine}
	holder, err := acquire(t.Context(), w.memory().dir, w.name())
	require.NoError(t, err)
	newGuest := func() *Guest {
		file, err := os.Open("/dev/null")
		require.NoError(t, err)
		return &Guest{Layers: []Layer{{File: file}}}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	g := newGuest()
	_, err = f.withArtifacts(ctx, Request{Log: log.L}, w, g)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = g.Layers[0].File.Stat()
	require.ErrorIs(t, err, os.ErrClosed)

	w.Limits.Time = 0
	g, err = f.withArtifacts(t.Context(), Request{Log: log.L}, w, newGuest())
	require.NoError(t, err)
	require.Nil(t, g.Layers[0].Artifact)
	g.Close()
	holder.release()
	require.Eventually(t, func() bool { return len(names(t, w.memory().dir)) == 0 }, 10*time.Second, time.Millisecond, "the lock's file")
}
