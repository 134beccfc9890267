// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// LabelLayers is a label in the configurations that this project makes. Its value
// tells the layers of an image from any others, and clients of containerd give it
// to their containers.
const LabelLayers = "libwasmshim.io/layers"

// LabelManifest is a label of a container: the digest of the manifest that it was
// started from first. The name of its image may become another one's.
const LabelManifest = "libwasmshim.io/manifest"

// layersLabel is the value of LabelLayers for layers in a manifest's order.
func layersLabel(layers []ocispec.Descriptor) string {
	var list []string
	for _, l := range layers {
		list = append(list, l.MediaType+" "+string(l.Digest))
	}
	return digest.FromString(strings.Join(list, "\n")).String()
}

// layerWord begins the lines about layers in a configuration's history.
const layerWord = "layer "

// Identify gives a configuration what tells its image from any other: the layers'
// digests, in a label and, to be read, in its history. As diff_ids they would be
// taken for layers of a root file system.
func Identify(config *ocispec.Image, layers []ocispec.Descriptor) {
	config.Config.Labels = maps.Clone(config.Config.Labels)
	if config.Config.Labels == nil {
		config.Config.Labels = map[string]string{}
	}
	config.Config.Labels[LabelLayers] = layersLabel(layers)
	config.History = slices.DeleteFunc(slices.Clone(config.History), func(h ocispec.History) bool { return strings.HasPrefix(h.CreatedBy, layerWord) })
	for _, l := range layers {
		config.History = append(config.History, ocispec.History{Created: config.Created, CreatedBy: layerWord + l.MediaType + " " + string(l.Digest), EmptyLayer: true})
	}
}

// Entry is what an image is for one platform: a manifest, with what of its
// configuration a container has that is made of it.
type Entry struct {
	Manifest, Config digest.Digest
	Platform         ocispec.Platform
	Entrypoint, Cmd  []string
	Env              []string
	WorkingDir       string
	Labels           map[string]string
	Chain            string               // of the root file system that containerd unpacks: its snapshot's name; empty if there is none
	Layers           []ocispec.Descriptor // of the types that were asked for
	Others           []string             // the types of all other layers, each once
}

// Entries are those of an image whose content is here, with their layers of some
// types.
func (c *Client) Entries(ctx context.Context, image Image, types []string) ([]Entry, error) {
	manifests, err := c.Manifests(ctx, image.Target)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", image.Name, err)
	}
	var all []Entry
	for _, m := range manifests {
		config, err := c.Config(ctx, m)
		if errdefs.IsNotFound(err) {
			continue // of a platform that was not pulled: nobody makes a container of it
		}
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", image.Name, err)
		}
		e := Entry{
			Manifest: m.Descriptor.Digest, Config: m.Config.Digest, Platform: m.Platform(config), Layers: m.LayersOf(types),
			Entrypoint: config.Config.Entrypoint, Cmd: config.Config.Cmd, WorkingDir: config.Config.WorkingDir, Env: config.Config.Env, Labels: config.Config.Labels,
		}
		if len(config.RootFS.DiffIDs) > 0 {
			e.Chain = string(identity.ChainID(config.RootFS.DiffIDs))
		}
		if t := m.spin(); t != "" {
			e.Others = []string{t}
		}
		for _, l := range m.Layers {
			if !slices.Contains(types, l.MediaType) && !slices.Contains(e.Others, l.MediaType) {
				e.Others = append(e.Others, l.MediaType)
			}
		}
		all = append(all, e)
	}
	return all, nil
}

// IsWasm says whether an entry is for WebAssembly: builders call that by several
// names, or leave it out.
func (e Entry) IsWasm() bool {
	p := e.Platform
	switch p.OS {
	case "wasi", "wasip1", "wasip2", "linux", "":
		return p.Architecture == wasm || p.Architecture == "wasm32" || p.OS == "" && p.Architecture == ""
	}
	return false
}

// isHere says whether an entry is for this machine.
func (e Entry) isHere() bool {
	return e.Platform.OS == "linux" && e.Platform.Architecture == runtime.GOARCH
}

// withLayers are the entries that have layers of the types that were asked for.
func withLayers(entries []Entry) []Entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e Entry) bool { return len(e.Layers) == 0 })
}

// Runnable are the entries that a container of this runtime can be made of: those
// for WebAssembly, or else those with layers of the types that were asked for, or
// else those for this machine. ErrNotFound says that there is none.
func Runnable(image string, entries []Entry) ([]Entry, error) {
	layered := withLayers(entries)
	for _, of := range []struct {
		list []Entry
		is   func(Entry) bool
	}{
		{layered, Entry.IsWasm}, {layered, func(Entry) bool { return true }}, {entries, Entry.IsWasm}, {entries, Entry.isHere},
	} {
		if found := slices.DeleteFunc(slices.Clone(of.list), func(e Entry) bool { return !of.is(e) }); len(found) > 0 {
			return found, nil
		}
	}
	var found []string
	for _, e := range entries {
		found = append(found, platformName(e.Platform))
	}
	return nil, fmt.Errorf("image %s is for %s, accepted: wasi/wasm, linux/%s: %w", image, list(found), runtime.GOARCH, errdefs.ErrNotFound)
}

func platformName(p ocispec.Platform) string {
	if p.OS == "" && p.Architecture == "" {
		return "no platform"
	}
	return p.OS + "/" + p.Architecture
}

// Origin is what is known of a container that tells which entry of its image it
// was made of.
type Origin struct {
	ID        string
	Args, Env []string // of its process
	Labels    map[string]string
}

// fit says how well a container fits an entry: by the labels, the entrypoint and
// the environment that it has of it, in this order. Users may replace all of
// these, but seldom by another entry's.
func (o Origin) fit(e Entry) (f [3]int) {
	for key, value := range e.Labels {
		if o.Labels[key] == value {
			f[0]++
		}
	}
	if n := len(e.Entrypoint); n > 0 && len(o.Args) >= n && slices.Equal(o.Args[:n], e.Entrypoint) {
		f[1] = n
	}
	for _, kv := range e.Env {
		if slices.Contains(o.Env, kv) {
			f[2]++
		} else {
			f[2]--
		}
	}
	return f
}

// Choose returns the entry with layers that a container was made of. ErrNotFound
// says that there is none.
func (o Origin) Choose(image Image, entries []Entry, types []string) (Entry, error) {
	layered := withLayers(entries)
	if len(layered) == 0 {
		return Entry{}, noLayers(image, entries, types)
	}
	if made := digest.Digest(o.Labels[LabelManifest]); made != "" {
		for _, e := range layered {
			if e.Manifest == made {
				return e, nil
			}
		}
		return Entry{}, fmt.Errorf("image %s has changed since container %s was made: it was made of manifest %s, the image has %s now; make the container anew, or give the image its name back: %w",
			image.Name, o.ID, made, manifestNames(layered), errdefs.ErrFailedPrecondition)
	}
	// The label is as good where there was no start yet that could leave ours.
	if made := o.Labels[LabelLayers]; made != "" {
		layered = slices.DeleteFunc(layered, func(e Entry) bool { return e.Labels[LabelLayers] != made })
		if len(layered) == 0 {
			return Entry{}, fmt.Errorf("image %s has changed since container %s was made: the container's label %s is %s, that of the image, which is %s now, differs; make the container anew, or give the image its name back: %w",
				image.Name, o.ID, LabelLayers, made, image.Target.Digest, errdefs.ErrFailedPrecondition)
		}
	}
	best := slices.MaxFunc(layered, o.compare)
	for _, e := range layered {
		if o.compare(e, best) == 0 && !slices.EqualFunc(e.Layers, best.Layers, SameLayer) {
			return Entry{}, fmt.Errorf("image %s has several entries for WebAssembly that nothing of container %s tells apart: %s; give them entrypoints, variables or labels that differ, or use the name of one manifest, %s@%s: %w",
				image.Name, o.ID, manifestNames([]Entry{best, e}), strings.SplitN(image.Name, "@", 2)[0], best.Manifest, errdefs.ErrFailedPrecondition)
		}
	}
	return best, nil
}

// compare orders entries by how well the container fits, and then by what they
// are for.
func (o Origin) compare(x, y Entry) int {
	fx, fy := o.fit(x), o.fit(y)
	isWasm := func(e Entry) int {
		if e.IsWasm() {
			return 1
		}
		return 0
	}
	return cmp.Or(slices.Compare(fx[:], fy[:]), cmp.Compare(isWasm(x), isWasm(y)))
}

// SameLayer says whether two layers are the same to an engine.
func SameLayer(x, y ocispec.Descriptor) bool {
	return x.MediaType == y.MediaType && x.Digest == y.Digest
}

func noLayers(image Image, entries []Entry, types []string) error {
	var others []string
	for _, e := range entries {
		for _, t := range e.Others {
			if !slices.Contains(others, t) {
				others = append(others, t)
			}
		}
	}
	if at := slices.IndexFunc(others, isSpin); at >= 0 {
		return errSpin(image.Name, others[at])
	}
	if !slices.ContainsFunc(others, func(t string) bool { return !IsRootFS(t) }) {
		return fmt.Errorf("image %s: %w", image.Name, ErrOrdinary)
	}
	return fmt.Errorf("image %s has no layer of a type that the engine takes; found: %s; accepted: %s: %w", image.Name, list(others), list(types), errdefs.ErrNotFound)
}

func manifestNames(entries []Entry) string {
	var names []string
	for _, e := range entries {
		names = append(names, fmt.Sprintf("%s (%s)", e.Manifest, platformName(e.Platform)))
	}
	return strings.Join(names, ", ")
}

// list is a list of words for an error.
func list(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}
