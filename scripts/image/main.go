// SPDX-License-Identifier: Apache-2.0

// Image makes the image by which a shim installs itself onto the nodes of a cluster
// (deploy/): an OCI layout in a tar file, with the program and nothing else. The same
// program gives the same bytes.
//
//	go run ./scripts/image PROGRAM NAME:TAG FILE.tar
package main

import (
	"archive/tar"
	"bytes"
	_ "crypto/sha256" // for digests
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: image PROGRAM NAME:TAG FILE.tar")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(program, tag, out string) error {
	binary, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	name := filepath.Base(program)
	var layer bytes.Buffer
	if err := pack(&layer, file{name, binary, 0o755}); err != nil {
		return err
	}
	w := writer{}
	rootFS := w.blob(ocispec.MediaTypeImageLayer, layer.Bytes())
	config := w.json(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   ocispec.ImageConfig{Entrypoint: []string{"/" + name}, Cmd: []string{"install", "--root", "/host", "--stay"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{rootFS.Digest}},
	})
	manifest := w.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{rootFS},
	})
	manifest.Annotations = map[string]string{"io.containerd.image.name": tag, ocispec.AnnotationRefName: tag}
	index, err1 := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{manifest}})
	layout, err2 := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err := errors.Join(w.err, err1, err2); err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	files := append([]file{{ocispec.ImageLayoutFile, layout, 0o644}, {ocispec.ImageIndexFile, index, 0o644}}, w.blobs...)
	return errors.Join(pack(f, files...), f.Close())
}

// file is one of a tar file.
type file struct {
	name string
	data []byte
	mode int64
}

func pack(out io.Writer, files ...file) error {
	t := tar.NewWriter(out)
	for _, f := range files {
		if err := t.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
		if _, err := t.Write(f.data); err != nil {
			return err
		}
	}
	return t.Close()
}

// writer collects the blobs of an image.
type writer struct {
	blobs []file
	err   error
}

func (w *writer) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	w.blobs = append(w.blobs, file{"blobs/sha256/" + d.Encoded(), data, 0o644})
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (w *writer) json(mediaType string, v any) ocispec.Descriptor {
	data, err := json.Marshal(v)
	w.err = errors.Join(w.err, err)
	return w.blob(mediaType, data)
}
