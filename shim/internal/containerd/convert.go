// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Labels by which containerd's garbage collector knows what belongs to a
// manifest.
const (
	labelConfig = "containerd.io/gc.ref.content.config"
	labelLayer  = "containerd.io/gc.ref.content.l." // + number
)

// Conversion says how an image is to be made of another one.
type Conversion struct {
	Name       string   // of the new image, in full
	Types      []string // of layers: an engine's
	Entrypoint string   // empty for what the source has, or its module's name
	Cmd, Env   []string // Cmd replaces the source's if there is any, Env goes after it
	Replace    bool     // the name may be another image's
}

// Convert makes an ordinary wasm image of a Wasm artifact, or of another image
// that has layers of WebAssembly: a configuration and a manifest, which refers to
// the layers of the source. The same source and conversion give the same bytes;
// made is false if exactly this image was there. ErrAlreadyExists says that the
// name is another image's. After an error nothing of it is left.
func (c *Client) Convert(ctx context.Context, source Image, v Conversion) (_ Image, made bool, retErr error) {
	from, err := c.convertible(ctx, source, v.Types)
	if err != nil {
		return Image{}, false, err
	}
	config, err := c.Config(ctx, from)
	if err != nil {
		return Image{}, false, fmt.Errorf("image %s: %w", source.Name, err)
	}
	for _, l := range from.Layers {
		if _, err := c.Content.Info(c.In(ctx), l.Digest); err != nil {
			return Image{}, false, fmt.Errorf("image %s: ask containerd for layer %s: %w", source.Name, l.Digest, err)
		}
	}
	configText, err := json.Marshal(v.config(from, config))
	if err != nil {
		return Image{}, false, err
	}
	configBlob := describe(ocispec.MediaTypeImageConfig, configText)
	manifestText, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configBlob, Layers: from.Layers, Annotations: from.Annotations,
	})
	if err != nil {
		return Image{}, false, err
	}
	manifestBlob := describe(ocispec.MediaTypeImageManifest, manifestText)
	references := map[string]string{labelConfig: string(configBlob.Digest)}
	for i, l := range from.Layers {
		references[labelLayer+strconv.Itoa(i)] = string(l.Digest)
	}

	ctx, _, done, err := c.Hold(ctx, LeaseTime, leases.WithRandomID())
	if err != nil {
		return Image{}, false, err
	}
	defer func() { retErr = errors.Join(retErr, done(retErr != nil)) }()
	if err := c.Write(ctx, ingestName(configBlob), bytes.NewReader(configText), configBlob, nil); err != nil {
		return Image{}, false, err
	}
	if err := c.Write(ctx, ingestName(manifestBlob), bytes.NewReader(manifestText), manifestBlob, references); err != nil {
		return Image{}, false, err
	}
	made, err = c.name(ctx, v.Name, manifestBlob, v.Replace)
	return Image{Name: v.Name, Target: manifestBlob}, made, err
}

// convertible is the manifest of an image that has layers of WebAssembly.
func (c *Client) convertible(ctx context.Context, source Image, types []string) (Manifest, error) {
	entries, err := c.Entries(ctx, source, types)
	if err != nil {
		return Manifest{}, err
	}
	found, err := Runnable(source.Name, entries)
	if err != nil || len(found[0].Layers) == 0 {
		return Manifest{}, errors.Join(err, noLayers(source, entries, types))
	}
	if len(found) > 1 {
		return Manifest{}, fmt.Errorf("image %s has several entries for WebAssembly: %s; name one, as %s@%s: %w", source.Name, manifestNames(found), source.Name, found[0].Manifest, errdefs.ErrInvalidArgument)
	}
	m := Manifest{Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: found[0].Manifest}}
	return m, c.readJSON(ctx, m.Descriptor, &m.Manifest)
}

func describe(mediaType string, text []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
}

// config is the new image's configuration.
func (v Conversion) config(from Manifest, config ocispec.Image) ocispec.Image {
	module := from.LayersOf(v.Types)[0]
	if from.Config.MediaType != ocispec.MediaTypeImageConfig && from.Config.MediaType != DockerConfig {
		// What else such a configuration has is about the module.
		config = ocispec.Image{Created: config.Created, Author: config.Author}
	}
	config.Platform = Platform
	if config.RootFS.Type == "" {
		config.RootFS.Type = "layers"
	}
	if config.RootFS.DiffIDs == nil {
		config.RootFS.DiffIDs = []digest.Digest{} // a list, also in JSON
	}
	switch own := &config.Config; {
	case v.Entrypoint != "":
		own.Entrypoint = []string{v.Entrypoint}
	case len(own.Entrypoint) == 0:
		own.Entrypoint = []string{"/" + moduleName(module.Annotations[ocispec.AnnotationTitle])}
	}
	if len(v.Cmd) > 0 {
		config.Config.Cmd = v.Cmd
	}
	config.Config.Env = environment(config.Config.Env, v.Env)
	Identify(&config, from.Layers)
	return config
}

// moduleName is a file name for a module of which the title is known, or not.
func moduleName(title string) string {
	name := strings.TrimSuffix(path.Base(title), ".wasm")
	// What follows a '#' would be taken for a function's name.
	if name == "" || strings.ContainsAny(name, "#\x00") || strings.Trim(name, "./") == "" {
		name = "app"
	}
	return name + ".wasm"
}

// environment is env with what else is set in it.
func environment(env, more []string) []string {
	all := slices.Clone(env)
	for _, kv := range more {
		name, _, _ := strings.Cut(kv, "=")
		at := slices.IndexFunc(all, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		if at < 0 {
			all = append(all, kv)
		} else {
			all[at] = kv
		}
	}
	return all
}

func ingestName(d ocispec.Descriptor) string { return "libwasmshim-" + string(d.Digest) }

// name gives an image its name. made is false if that is its name already.
func (c *Client) name(ctx context.Context, name string, target ocispec.Descriptor, replace bool) (made bool, _ error) {
	api := imagesapi.NewImagesClient(c.conn)
	record := &imagesapi.Image{
		Name:   name,
		Target: &types.Descriptor{MediaType: target.MediaType, Digest: string(target.Digest), Size: target.Size},
	}
	_, err := api.Create(c.In(ctx), &imagesapi.CreateImageRequest{Image: record})
	if err = errgrpc.ToNative(err); !errdefs.IsAlreadyExists(err) {
		if err != nil {
			err = fmt.Errorf("create image %s: %w", name, err)
		}
		return err == nil, err
	}
	old, err := c.Get(ctx, name)
	if err != nil {
		return false, err
	}
	if old.Target.Digest == target.Digest {
		return false, nil
	}
	if !replace {
		return false, fmt.Errorf("image %s is there already, its digest is %s: %w", name, old.Target.Digest, errdefs.ErrAlreadyExists)
	}
	if _, err := api.Update(c.In(ctx), &imagesapi.UpdateImageRequest{Image: record}); err != nil {
		return false, fmt.Errorf("replace image %s: %w", name, errgrpc.ToNative(err))
	}
	return true, nil
}
