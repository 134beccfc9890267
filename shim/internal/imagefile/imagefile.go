// SPDX-License-Identifier: Apache-2.0

// Package imagefile writes WebAssembly images as OCI layouts in tar files, which
// containerd imports.
package imagefile

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
)

// Flavour is what kind of thing a tag names.
type Flavour string

// The flavours.
const (
	// FlavourImage has an image's configuration, and so arguments, environment
	// and any layers.
	FlavourImage Flavour = "image"
	// FlavourArtifact is the CNCF's Wasm OCI artifact: a module and no more.
	// See https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/.
	FlavourArtifact Flavour = "artifact"
)

// ModuleType is the media type of a module or component.
const ModuleType = "application/wasm"

// MaxLayers is how many layers an image can have.
const MaxLayers = 255

const (
	// imageName is where containerd looks for the name to import an image by.
	imageName = "io.containerd.image.name"

	bufferSize = 256 << 10 // bytes
)

// Layer is a file that becomes a layer as it is.
type Layer struct {
	MediaType   string
	Path        string
	Annotations map[string]string // besides the title, which is the file's base name
}

// Image is an image to be written. Entrypoint, Cmd, Env and Labels are of
// FlavourImage only.
type Image struct {
	Tag         string // in full, from ParseTag
	Flavour     Flavour
	Layers      []Layer  // the first is the module or component
	Entrypoint  []string // "/" and the module's base name if empty
	Cmd         []string
	Env         []string // NAME=VALUE
	Labels      map[string]string
	Annotations map[string]string // of the manifest
	Created     time.Time         // of the image and all in the tar; the zero value means 1970
}

// Written says what was written.
type Written struct {
	Manifest ocispec.Descriptor
	Layers   []ocispec.Descriptor // in the image's order
	Size     int64                // of the tar, in bytes
}

// blob is a file of the tar: one on disk, or data.
type blob struct {
	file *os.File
	data []byte
	size int64
}

// Write writes the image. The same image gives the same bytes. progress, if not
// nil, is told how many bytes of how many have been read; each file is read
// twice, and a byte counts one half each time. After an error, or when ctx ends,
// what has been written is of no use.
func (i Image) Write(ctx context.Context, out io.Writer, progress func(done, total int64)) (Written, error) {
	if i.Created.IsZero() {
		i.Created = time.Unix(0, 0)
	}
	i.Created = i.Created.UTC()
	files, err := i.open()
	defer func() {
		for _, f := range files {
			f.file.Close()
		}
	}()
	if err != nil {
		return Written{}, err
	}
	r := reader{ctx: ctx, buf: make([]byte, bufferSize), progress: progress}
	for _, f := range files {
		r.total += f.size
	}

	blobs := map[string]blob{}
	var done Written
	for n, f := range files {
		sum, err := r.copy(io.Discard, f)
		if err != nil {
			return Written{}, err
		}
		if _, twice := blobs[blobName(sum)]; twice {
			r.read += f.size // what need not be read again
		}
		blobs[blobName(sum)] = f
		l := i.Layers[n]
		annotations := map[string]string{ocispec.AnnotationTitle: filepath.Base(l.Path)}
		maps.Copy(annotations, l.Annotations)
		done.Layers = append(done.Layers, ocispec.Descriptor{MediaType: l.MediaType, Digest: sum, Size: f.size, Annotations: annotations})
	}
	add := func(mediaType string, v any) (ocispec.Descriptor, error) {
		data, err := json.Marshal(v)
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		blobs[blobName(d.Digest)] = blob{data: data, size: d.Size}
		return d, err
	}
	config, err := add(i.config(files[0].file, done.Layers))
	if err != nil {
		return Written{}, err
	}
	if done.Manifest, err = add(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: done.Layers, Annotations: i.Annotations,
	}); err != nil {
		return Written{}, err
	}
	// It names no platform, the configuration does: "ctr images import" without
	// --platform leaves out what an index says is not for the machine's.
	done.Manifest.Annotations = map[string]string{imageName: i.Tag, ocispec.AnnotationRefName: i.Tag}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{done.Manifest},
	})
	if err != nil {
		return Written{}, err
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return Written{}, err
	}
	blobs[ocispec.ImageIndexFile] = blob{data: index, size: int64(len(index))}
	blobs[ocispec.ImageLayoutFile] = blob{data: layout, size: int64(len(layout))}

	count := counter{Writer: out}
	err = i.pack(&count, blobs, &r)
	done.Size = count.n
	return done, err
}

func blobName(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

// open opens the layers. The caller closes what it returns, with an error also.
func (i Image) open() (files []blob, err error) {
	if n := len(i.Layers); n < 1 || n > MaxLayers || i.Flavour == FlavourArtifact && n > 1 {
		return nil, fmt.Errorf("found %d layers, accepted: 1 to %d, and 1 in an artifact", n, MaxLayers)
	}
	for _, l := range i.Layers {
		// A FIFO would block, and a terminal become this process's own.
		f, err := os.OpenFile(l.Path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return files, err
		}
		info, err := f.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a regular file", l.Path)
		}
		if err != nil {
			f.Close()
			return files, err
		}
		files = append(files, blob{file: f, size: info.Size()})
	}
	return files, checkModule(files[0].file)
}

// checkModule says why a file is no module or component.
func checkModule(f *os.File) error {
	name := f.Name()
	head, err := entrypoint.Head(f)
	if err != nil {
		return err
	}
	const preamble = 8 // magic number and version, in bytes
	switch kind := entrypoint.Classify(head, name); {
	case len(head) == 0:
		return fmt.Errorf("%s is empty, accepted: a WebAssembly module or component", name)
	case kind&(entrypoint.Module|entrypoint.Component) != 0 && len(head) >= preamble:
		return nil
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return fmt.Errorf("%s is an ELF file, which may be code compiled already, accepted: the WebAssembly module or component itself", name)
	case kind == entrypoint.Text:
		return fmt.Errorf("%s is WebAssembly text, which runs from a file in an ordinary image, accepted: a module or component; wat2wasm converts it", name)
	}
	return fmt.Errorf("%s begins with %q, accepted: a WebAssembly module or component, which begins with %q and a version", name, head[:min(len(head), preamble)], "\x00asm")
}

// config is the configuration and its media type.
func (i Image) config(module *os.File, layers []ocispec.Descriptor) (string, any) {
	if i.Flavour == FlavourArtifact {
		c := artifactConfig{Created: i.Created, Architecture: containerd.Platform.Architecture, OS: "wasip1", LayerDigests: []digest.Digest{layers[0].Digest}}
		if head, err := entrypoint.Head(module); err == nil && entrypoint.Classify(head, "") == entrypoint.Component {
			c.OS = "wasip2"
		}
		return containerd.ArtifactConfig, c
	}
	c := ocispec.Image{
		Created: &i.Created, Platform: containerd.Platform,
		Config: ocispec.ImageConfig{Entrypoint: i.Entrypoint, Cmd: i.Cmd, Env: i.Env, Labels: i.Labels},
		// containerd compares these with the layers that it can unpack, which are none.
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	if len(i.Entrypoint) == 0 {
		c.Config.Entrypoint = []string{"/" + filepath.Base(i.Layers[0].Path)}
	}
	containerd.Identify(&c, layers)
	return ocispec.MediaTypeImageConfig, c
}

type artifactConfig struct {
	Created      time.Time       `json:"created"`
	Architecture string          `json:"architecture"`
	OS           string          `json:"os"`
	LayerDigests []digest.Digest `json:"layerDigests"`
}

// pack writes the tar, and reads the files again for it.
func (i Image) pack(out io.Writer, blobs map[string]blob, r *reader) error {
	w := tar.NewWriter(out)
	for _, name := range slices.Sorted(maps.Keys(blobs)) {
		b := blobs[name]
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: b.size, ModTime: i.Created})
		if err != nil {
			return err
		}
		if b.file == nil {
			if _, err := w.Write(b.data); err != nil {
				return err
			}
			continue
		}
		sum, err := r.copy(w, b)
		if err != nil {
			return err
		}
		if blobName(sum) != name {
			return errChanged(b.file)
		}
	}
	return w.Close()
}

func errChanged(f *os.File) error {
	return fmt.Errorf("%s changed while it was being read", f.Name())
}

// reader reads files and reports progress.
type reader struct {
	ctx         context.Context // of one call of Write
	buf         []byte
	progress    func(done, total int64) // may be nil
	read, total int64                   // bytes, in both passes and in one
}

// copy copies a file to w and returns its digest.
func (r *reader) copy(w io.Writer, b blob) (digest.Digest, error) {
	if _, err := b.file.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	sum := sha256.New()
	for left := b.size; ; {
		if err := r.ctx.Err(); err != nil {
			return "", err
		}
		n, err := b.file.Read(r.buf)
		if left -= int64(n); left < 0 || errors.Is(err, io.EOF) && left > 0 {
			return "", errChanged(b.file)
		}
		if errors.Is(err, io.EOF) {
			return digest.NewDigest(digest.SHA256, sum), nil
		}
		if err != nil {
			return "", err
		}
		_, _ = sum.Write(r.buf[:n]) // never fails
		if _, err := w.Write(r.buf[:n]); err != nil {
			return "", err
		}
		if r.read += int64(n); r.progress != nil {
			r.progress(r.read/2, r.total)
		}
	}
}

// counter counts what is written.
type counter struct {
	io.Writer
	n int64 // bytes
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}
