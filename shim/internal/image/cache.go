// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
)

// Kept is an artifact in containerd's content store, as what was compiled of some
// code: where the same came out of different code, one blob is all of them.
type Kept struct {
	Digest  digest.Digest `json:"digest"`
	Engine  string        `json:"engine"`
	ID      string        `json:"id"`
	Source  digest.Digest `json:"source"` // the layer or module that it was compiled from
	Size    int64         `json:"size"`   // bytes
	Created time.Time     `json:"created"`
	// Blobs are those that keep it: layers, or an image's index or manifest.
	Blobs []digest.Digest `json:"blobs"`
}

// Artifacts are those of all engines in the namespace, the newest first.
func (c Store) Artifacts(ctx context.Context) ([]Kept, error) {
	var all []Kept
	holders := map[string][]digest.Digest{} // by engine/id
	err := c.Content.Walk(c.In(ctx), func(info content.Info) error {
		for key, value := range info.Labels {
			if name, ok := strings.CutPrefix(key, labelArtifact); ok {
				engine, id, _ := strings.Cut(name, "/")
				all = append(all, Kept{
					Digest: info.Digest, Engine: engine, ID: id, Source: digest.Digest(value), Size: info.Size, Created: info.CreatedAt,
				})
			}
			if name, ok := strings.CutPrefix(key, labelReference); ok {
				at := strings.LastIndexByte(name, '-') // an engine's name may have one
				name = name[:max(at, 0)] + "/" + name[at+1:]
				holders[name] = append(holders[name], info.Digest)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list containerd's content: %w", err)
	}
	for i := range all {
		all[i].Blobs = holders[all[i].Engine+"/"+all[i].ID]
		slices.Sort(all[i].Blobs)
	}
	slices.SortFunc(all, func(x, y Kept) int { return cmp.Or(y.Created.Compare(x.Created), strings.Compare(x.ID, y.ID)) })
	return all, nil
}

// RemoveArtifacts removes artifacts. Their disk space is free when it returns, if
// nothing else came out the same. The next start of a container that needs one
// makes it anew.
func (c Store) RemoveArtifacts(ctx context.Context, list []Kept) error {
	for _, k := range list {
		for _, blob := range k.Blobs {
			if err := containerd.IgnoreNotFound(c.Label(ctx, blob, map[string]string{referenceLabel(k.Engine, k.ID): ""})); err != nil {
				return err
			}
		}
		err := c.Label(ctx, k.Digest, map[string]string{artifactLabel(k.Engine, k.ID): ""})
		if err := containerd.IgnoreNotFound(err); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := memoryOf(c.Address, c.Namespace).clear(); err != nil {
		return err
	}
	return c.Collect(ctx)
}

// KeptBy are the artifacts that belong to one of the blobs, or were made of one.
func KeptBy(blobs []digest.Digest, all []Kept) (found []Kept) {
	for _, k := range all {
		if slices.Contains(blobs, k.Source) || slices.ContainsFunc(k.Blobs, func(d digest.Digest) bool { return slices.Contains(blobs, d) }) {
			found = append(found, k)
		}
	}
	return found
}

// Is says whether two are the same artifact of the same code.
func (k Kept) Is(other Kept) bool {
	return k.Digest == other.Digest && k.Engine == other.Engine && k.ID == other.ID
}
