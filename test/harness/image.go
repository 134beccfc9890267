// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
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

// ImageTar is an OCI layout tar of an image with one layer, which holds the
// given files, and the given configuration.
func ImageTar(name string, files map[string]File, config ocispec.ImageConfig) ([]byte, error) {
	layer, err := layerTar(files)
	if err != nil {
		return nil, err
	}
	blobs := map[string][]byte{}
	add := func(mediaType string, data []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		blobs["blobs/sha256/"+d.Digest.Encoded()] = data
		return d
	}
	addJSON := func(mediaType string, v any) (ocispec.Descriptor, error) {
		data, err := json.Marshal(v)
		return add(mediaType, data), err
	}
	image := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	}
	configDesc, err := addJSON(ocispec.MediaTypeImageConfig, image)
	if err != nil {
		return nil, err
	}
	manifest, err := addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    configDesc,
		Layers:    []ocispec.Descriptor{add(ocispec.MediaTypeImageLayer, layer)},
	})
	if err != nil {
		return nil, err
	}
	manifest.Annotations = map[string]string{"io.containerd.image.name": name, ocispec.AnnotationRefName: name}
	manifest.Platform = &image.Platform
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{manifest},
	})
	if err != nil {
		return nil, err
	}
	blobs["index.json"] = index
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

func layerTar(files map[string]File) ([]byte, error) {
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
	name = "test.invalid/" + name + ":latest"
	data, err := ImageTar(name, files, config)
	if err != nil {
		return nil, fmt.Errorf("make image %s: %w", name, err)
	}
	ctx = d.In(ctx)
	imported, err := d.Client.Import(ctx, bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("import image %s: %w", name, err)
	}
	if len(imported) != 1 {
		return nil, fmt.Errorf("import image %s: %d images", name, len(imported))
	}
	image := client.NewImageWithPlatform(d.Client, imported[0], platforms.Default())
	if err := image.Unpack(ctx, Snapshotter); err != nil {
		return nil, fmt.Errorf("unpack image %s: %w", name, err)
	}
	return image, nil
}

// Snapshotter is the one that images are unpacked in.
const Snapshotter = "overlayfs"

// RootFS writes files as an image would hold them into a new directory.
func (d *Daemon) RootFS(files map[string]File) (string, error) {
	root := filepath.Join(d.Dir, FreshID("rootfs"))
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
