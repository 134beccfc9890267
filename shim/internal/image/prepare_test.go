// SPDX-License-Identifier: Apache-2.0

package image

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
)

// What is remembered of an image is one engine's, for one key, and compiled or
// not; which limits and which name of the image there were makes no difference.
func TestJobRecord(t *testing.T) {
	job := func(change func(j *Job)) string {
		j := &Job{
			Engine: Engine{Name: "one", Kinds: entrypoint.Module, LayerTypes: []string{"a/b"}, Compiles: true}, Key: "key",
			Limits: compiler.DefaultLimits, Image: &Image{Name: "image", Target: ocispec.Descriptor{Digest: digest.FromString("image")}},
		}
		change(j)
		return j.record()
	}
	same := job(func(*Job) {})
	require.Equal(t, same, job(func(j *Job) { j.Limits.Time = time.Second }))
	require.Equal(t, same, job(func(j *Job) { j.Image.Name = "another name" }))
	off := func(j *Job) { j.Limits.Time = 0 }
	seen := map[string]string{}
	for name, change := range map[string]func(j *Job){
		"that":                  func(*Job) {},
		"another key":           func(j *Job) { j.Key = "other" },
		"another image":         func(j *Job) { j.Image.Target.Digest = digest.FromString("other") },
		"a file":                func(j *Job) { j.Stamp = stamp{Inode: 1} },
		"another file":          func(j *Job) { j.Stamp = stamp{Inode: 2} },
		"off":                   off,
		"off, another engine":   func(j *Job) { off(j); j.Engine.Name = "other" },
		"off, other layers":     func(j *Job) { off(j); j.Engine.LayerTypes = []string{"a/b", "c/d"} },
		"off, another image":    func(j *Job) { off(j); j.Image.Target.Digest = digest.FromString("other") },
		"an engine that cannot": func(j *Job) { j.Engine.Compiles = false },
	} {
		record := job(change)
		require.NotContains(t, seen, record, "%s is %s", name, seen[record])
		seen[record] = name
	}
}
