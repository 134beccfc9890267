// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/containerd/containerd/v2/pkg/progress"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
)

// imageInspect shows an image as a container's start sees it.
func (p Program) imageInspect() *cli.Command {
	return &cli.Command{
		Name:  "inspect",
		Usage: "show what of an image in containerd would run, and what is compiled of it",
		UsageText: `image inspect [OPTIONS] IMAGE

image inspect docker.io/library/hello:latest
image inspect -n k8s.io --json registry.example.com/app:1.0`,
		Description: `Shown are the manifests whose content is in containerd. A plain image has a root
file system, in which the entrypoint may be a WebAssembly file; a wasm image has
layers of WebAssembly. A Wasm artifact, of the CNCF's kind or as oras and
wasm-to-oci push it, is for registries: clients of containerd refuse to run it,
"image convert" makes an image of it.

An artifact is what the engine has compiled of a layer or of a file.`,
		Flags: containerdFlags(&cli.BoolFlag{Name: "json", Usage: "print one JSON object"}),
		Action: func(c *cli.Context) error {
			name, err := oneImage(c)
			if err != nil {
				return err
			}
			return withContainerd(c, func(ctx context.Context, s *session) error {
				seen, err := p.inspect(ctx, s, name)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, seen)
				}
				return seen.print(c.App.Writer, time.Now())
			})
		},
	}
}

// What a manifest is.
const (
	kindPlain    = "plain"    // an image with a root file system
	kindWasm     = "wasm"     // an image with layers of WebAssembly
	kindArtifact = "artifact" // WebAssembly without an image's configuration: the CNCF's, or what oras makes
	kindOther    = "other"    // something else that a registry holds
)

type inspected struct {
	Name      string              `json:"name"`
	Target    blobRef             `json:"target"`
	Engine    string              `json:"engine"`
	Manifests []inspectedManifest `json:"manifests"`
	Artifacts []image.Kept        `json:"artifacts"`
}

type blobRef struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"` // bytes
}

type inspectedManifest struct {
	blobRef
	Platform   string           `json:"platform"` // os/architecture[/variant]
	Kind       string           `json:"kind"`
	ConfigType string           `json:"configType"`
	Entrypoint []string         `json:"entrypoint"`
	Cmd        []string         `json:"cmd"`
	Layers     []inspectedLayer `json:"layers"`
}

type inspectedLayer struct {
	blobRef
	Runs bool `json:"runs"` // it is of a type that the engine takes
}

func ref(d ocispec.Descriptor) blobRef { return blobRef{d.MediaType, d.Digest, d.Size} }

func (p Program) inspect(ctx context.Context, s *session, name string) (*inspected, error) {
	found, err := s.image(ctx, name)
	if err != nil {
		return nil, err
	}
	manifests, err := s.Manifests(ctx, found.Target)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", found.Name, err)
	}
	seen := &inspected{Name: found.Name, Target: ref(found.Target), Engine: p.Engine.Name, Artifacts: []image.Kept{}}
	for _, m := range manifests {
		config, err := s.Config(ctx, m)
		if err != nil && !errdefs.IsNotFound(err) { // some pulls leave out what is for other platforms
			return nil, fmt.Errorf("image %s: %w", found.Name, err)
		}
		seen.Manifests = append(seen.Manifests, p.manifest(m, config))
	}
	all, err := s.Artifacts(ctx)
	if err != nil {
		return nil, err
	}
	seen.Artifacts = append(seen.Artifacts, image.KeptBy(found.Blobs(manifests), all)...)
	return seen, nil
}

func (p Program) manifest(m containerd.Manifest, config ocispec.Image) inspectedManifest {
	platform := m.Platform(config)
	im := inspectedManifest{
		blobRef: ref(m.Descriptor), Kind: kindOther, ConfigType: m.Config.MediaType,
		Platform:   platform.OS + "/" + platform.Architecture,
		Entrypoint: append([]string{}, config.Config.Entrypoint...),
		Cmd:        append([]string{}, config.Config.Cmd...),
		Layers:     []inspectedLayer{},
	}
	if platform.Variant != "" {
		im.Platform += "/" + platform.Variant
	}
	runs := map[digest.Digest]bool{}
	for _, l := range m.LayersOf(p.Engine.Types()) {
		runs[l.Digest] = true
	}
	for _, l := range m.Layers {
		im.Layers = append(im.Layers, inspectedLayer{ref(l), runs[l.Digest]})
	}
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, containerd.DockerConfig:
		im.Kind = kindPlain
		if len(runs) > 0 || platform.Architecture == "wasm" && len(config.RootFS.DiffIDs) == 0 {
			im.Kind = kindWasm
		}
	default:
		if m.Config.MediaType == containerd.ArtifactConfig || len(runs) > 0 {
			im.Kind = kindArtifact
		}
	}
	return im
}

func (i *inspected) print(out io.Writer, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) } // Flush has the error
	line("Name:\t%s", plain(i.Name))
	line("Target:\t%s\t%s", i.Target.Digest, plain(i.Target.MediaType))
	for _, m := range i.Manifests {
		line("\nManifest:\t%s\t%s", m.Digest, plain(m.Platform))
		line("  Kind:\t%s", map[string]string{
			kindPlain: "plain image", kindWasm: "wasm image", kindOther: "no image",
			kindArtifact: "Wasm artifact, which containerd's clients refuse to run; see image convert",
		}[m.Kind])
		line("  Config:\t%s", plain(m.ConfigType))
		if m.Kind == kindPlain || m.Kind == kindWasm {
			line("  Entrypoint:\t%s", words(m.Entrypoint))
			line("  Arguments:\t%s", words(m.Cmd))
		}
		for n, l := range m.Layers {
			title := ""
			if n == 0 {
				title = "  Layers:"
			}
			runs := ""
			if l.Runs {
				runs = "\trun by " + i.Engine
			}
			line("%s\t%s\t%s\t%s%s", title, l.Digest, progress.Bytes(l.Size), plain(l.MediaType), runs)
		}
	}
	for n, k := range i.Artifacts {
		title := ""
		if n == 0 {
			title = "\nArtifacts:"
		}
		line("%s\t%s\t%s\tby %s %s ago, of %s", title, k.Digest, progress.Bytes(k.Size), plain(k.Engine), age(now, k.Created), shortDigest(string(k.Source)))
	}
	if len(i.Artifacts) == 0 {
		line("\nArtifacts:\tnone")
	}
	return w.Flush()
}

// words is a list of arguments, in which each can be told from the next.
func words(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	text, err := json.Marshal(list)
	if err != nil {
		return "none"
	}
	return string(text)
}
