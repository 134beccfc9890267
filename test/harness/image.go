// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// File is one entry of an image's root file system; a name that ends in a slash
// is a directory's.
type File struct {
	Data []byte
	Mode int64  // 0 means 0755
	Link string // a symbolic link to this
	UID  int
}

// NoConfig is the ConfigType of a variant whose manifest names no configuration.
const NoConfig = "none"

// Blob is a layer.
type Blob struct {
	MediaType string
	Data      []byte
}

// Variant is an image for one platform.
type Variant struct {
	Platform ocispec.Platform
	Config   ocispec.ImageConfig
	Layers   []Blob
	// Artifact makes a CNCF Wasm OCI artifact of it, whose configuration is no
	// image's.
	Artifact bool
	// ConfigType makes an image of it whose configuration is of that type.
	ConfigType string
}

// Wasm is a variant with layers of WebAssembly, and no root file system.
func Wasm(entrypoint string, layers ...Blob) Variant {
	return Variant{Platform: ocispec.Platform{OS: "wasi", Architecture: "wasm"}, Config: ocispec.ImageConfig{Entrypoint: []string{entrypoint}}, Layers: layers}
}

// Layered is a variant whose only layer is a module.
func Layered(module []byte) Variant { return Wasm("/app.wasm", Blob{WasmLayer, module}) }

// Artifact is a CNCF Wasm OCI artifact of a module.
func Artifact(module []byte) Variant {
	v := Wasm("", Blob{WasmLayer, module})
	v.Artifact = true
	return v
}

// Linux is a variant for this machine, whose root file system has layers of files.
func Linux(config ocispec.ImageConfig, layers ...map[string]File) (Variant, error) {
	v := Variant{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, Config: config}
	for _, files := range layers {
		layer, err := LayerTar(files)
		if err != nil {
			return v, err
		}
		v.Layers = append(v.Layers, Blob{ocispec.MediaTypeImageLayer, layer})
	}
	return v, nil
}

// Plain is a variant for this machine whose only file is a module.
func Plain(module []byte) (Variant, error) {
	return Linux(ocispec.ImageConfig{Entrypoint: []string{"/app.wasm"}}, map[string]File{"app.wasm": {Data: module, Mode: 0o644}})
}

// The media types of layers that every engine takes.
const (
	WasmLayer      = "application/wasm"
	ComponentLayer = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"
	ContentLayer   = "application/vnd.wasm.content.layer.v1+wasm"
)

// Archive is an OCI layout tar: of more than one variant with an index.
func Archive(name string, variants ...Variant) ([]byte, error) {
	blobs := map[string][]byte{}
	add := func(mediaType string, data []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		blobs["blobs/sha256/"+d.Digest.Encoded()] = data
		return d
	}
	var failed error
	addJSON := func(mediaType string, v any) ocispec.Descriptor {
		data, err := json.Marshal(v)
		failed = errors.Join(failed, err)
		return add(mediaType, data)
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, v := range variants {
		// containerd counts the layers whose types it knows.
		rootfs := ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
		var layers []ocispec.Descriptor
		for _, l := range v.Layers {
			if l.MediaType == ocispec.MediaTypeImageLayer {
				rootfs.DiffIDs = append(rootfs.DiffIDs, digest.FromBytes(l.Data))
			}
			layers = append(layers, add(l.MediaType, l.Data))
		}
		config := addJSON(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: v.Platform, Config: v.Config, RootFS: rootfs})
		if v.Artifact {
			config = addJSON("application/vnd.wasm.config.v0+json", map[string]any{"architecture": "wasm", "os": "wasip1"})
		}
		if v.ConfigType != "" {
			config.MediaType = v.ConfigType
		}
		if v.ConfigType == NoConfig {
			config = ocispec.Descriptor{}
		}
		manifest := addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: layers,
		})
		manifest.Platform = &v.Platform
		index.Manifests = append(index.Manifests, manifest)
	}
	top := &index.Manifests[0]
	if len(variants) > 1 {
		index = ocispec.Index{
			Versioned: index.Versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{addJSON(ocispec.MediaTypeImageIndex, index)},
		}
		top = &index.Manifests[0]
	}
	top.Annotations = map[string]string{"io.containerd.image.name": name, ocispec.AnnotationRefName: name}
	text, err := json.Marshal(index)
	if err := errors.Join(failed, err); err != nil {
		return nil, err
	}
	blobs["index.json"] = text
	blobs["oci-layout"] = []byte(`{"imageLayoutVersion":"1.0.0"}`)

	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range sorted(blobs) {
		header := tar.Header{Name: name, Mode: 0o644, Size: int64(len(blobs[name]))}
		if err := w.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := w.Write(blobs[name]); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

// LayerTar is the layer of an image that holds files.
func LayerTar(files map[string]File) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	dirs := map[string]bool{".": true}
	var mkdir func(string, int64) error
	mkdir = func(dir string, mode int64) error {
		if dirs[dir] {
			return nil
		}
		if err := mkdir(path.Dir(dir), 0o755); err != nil {
			return err
		}
		dirs[dir] = true
		return w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: mode, ModTime: time.Unix(0, 0)})
	}
	for _, name := range sorted(files) {
		f := files[name]
		header := tar.Header{Name: strings.Trim(name, "/"), Mode: f.Mode, Size: int64(len(f.Data)), Uid: f.UID, ModTime: time.Unix(0, 0)}
		if header.Mode == 0 {
			header.Mode = 0o755
		}
		if strings.HasSuffix(name, "/") { // a directory, maybe empty
			if err := mkdir(header.Name, header.Mode); err != nil {
				return nil, err
			}
			continue
		}
		if f.Link != "" {
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.Link
		}
		if err := mkdir(path.Dir(header.Name), 0o755); err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// Image makes an image of the given files, imports and unpacks it.
func (d *Daemon) Image(ctx context.Context, name string, files map[string]File, config ocispec.ImageConfig) (client.Image, error) {
	v, err := Linux(config, files)
	if err != nil {
		return nil, fmt.Errorf("make image %s: %w", name, err)
	}
	return d.ImageFor(ctx, name, NativePlatform, v)
}

// LayerImage makes an image whose only layer is a module, imports and unpacks it.
func (d *Daemon) LayerImage(ctx context.Context, name string, module []byte) (client.Image, error) {
	return d.ImageFor(ctx, name, WasmPlatform, Layered(module))
}

// FileImage makes an ordinary image whose only file is a module, imports and
// unpacks it.
func (d *Daemon) FileImage(ctx context.Context, name string, module []byte) (client.Image, error) {
	v, err := Plain(module)
	if err != nil {
		return nil, fmt.Errorf("make image %s: %w", name, err)
	}
	return d.ImageFor(ctx, name, NativePlatform, v)
}

// ImageName is the full name of an image that Image makes.
func ImageName(name string) string { return "test.invalid/" + name + ":latest" }

// NativePlatform matches images for this machine.
var NativePlatform = platforms.Default()

// WasmPlatform matches images of Wasm.
var WasmPlatform = platforms.Only(ocispec.Platform{OS: "wasi", Architecture: "wasm"})

// ImageFor makes an image of variants, imports and unpacks that for a platform.
func (d *Daemon) ImageFor(ctx context.Context, name string, platform platforms.MatchComparer, variants ...Variant) (client.Image, error) {
	data, err := Archive(ImageName(name), variants...)
	if err != nil {
		return nil, fmt.Errorf("make image %s: %w", name, err)
	}
	return d.Import(ctx, data, platform)
}

// Import imports an archive with one image and unpacks it for a platform.
func (d *Daemon) Import(ctx context.Context, archive []byte, platform platforms.MatchComparer) (client.Image, error) {
	ctx = d.In(ctx)
	imported, err := d.Client.Import(ctx, bytes.NewReader(archive), client.WithImportPlatform(platform))
	if err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	if len(imported) != 1 {
		return nil, fmt.Errorf("import image: %d images", len(imported))
	}
	name := imported[0].Name
	image := client.NewImageWithPlatform(d.Client, imported[0], platform)
	if err := image.Unpack(ctx, Snapshotter); err != nil {
		return nil, fmt.Errorf("unpack image %s: %w", name, err)
	}
	return image, nil
}

// Collect has containerd collect garbage, and waits for it.
func (d *Daemon) Collect(ctx context.Context) error {
	ctx = d.In(ctx)
	manager := d.Client.LeasesService()
	lease, err := manager.Create(ctx, leases.WithRandomID())
	if err != nil {
		return err
	}
	return manager.Delete(ctx, lease, leases.SynchronousDelete)
}

// Snapshotter is the one that images are unpacked in.
const Snapshotter = "overlayfs"

// RootFS writes files as an image would hold them into a new directory.
func (p *Place) RootFS(files map[string]File) (string, error) {
	root := filepath.Join(p.Dir, FreshID("rootfs"))
	for _, name := range sorted(files) {
		f, file := files[name], filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return "", err
		}
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(file, 0o755); err != nil {
				return "", err
			}
			continue
		}
		if f.Link != "" {
			if err := os.Symlink(f.Link, file); err != nil {
				return "", err
			}
			continue
		}
		mode := os.FileMode(f.Mode)
		if mode == 0 {
			mode = 0o755
		}
		if err := os.WriteFile(file, f.Data, mode); err != nil {
			return "", err
		}
		if err := os.Chown(file, f.UID, 0); err != nil {
			return "", err
		}
	}
	return root, nil
}
