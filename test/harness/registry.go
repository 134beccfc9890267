// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry serves archives on this machine's loopback, over plain HTTP and for
// reading alone.
type Registry struct {
	*httptest.Server
	blobs map[string][]byte // by digest; manifests by REPOSITORY:TAG, too
}

// NewRegistry starts a registry of what Archive has made. The caller closes it.
func NewRegistry(archives ...[]byte) (*Registry, error) { return NewRegistryOn(nil, archives...) }

// NewRegistryOn is NewRegistry where the listener is the caller's.
func NewRegistryOn(l net.Listener, archives ...[]byte) (*Registry, error) {
	r := &Registry{blobs: map[string][]byte{}}
	for _, archive := range archives {
		if err := r.add(archive); err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
	}
	r.Server = httptest.NewUnstartedServer(r)
	if l != nil {
		r.Listener.Close()
		r.Listener = l
	}
	r.Start()
	return r, nil
}

// ServeHTTP answers /v2/, /v2/REPOSITORY/manifests/REFERENCE and
// /v2/REPOSITORY/blobs/DIGEST. A repository's name may have slashes.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name, reference := path.Split(req.URL.Path)
	repository, kind := path.Split(strings.Trim(strings.TrimPrefix(name, "/v2/"), "/"))
	switch {
	case req.URL.Path == "/v2/":
	case kind == "blobs":
		r.serve(w, req, reference, "application/octet-stream")
	case kind == "manifests":
		if !strings.Contains(reference, ":") {
			reference = strings.TrimSuffix(repository, "/") + ":" + reference
		}
		var manifest struct{ MediaType string }
		_ = json.Unmarshal(r.blobs[reference], &manifest)
		r.serve(w, req, reference, manifest.MediaType)
	default:
		http.NotFound(w, req)
	}
}

// Ref is what an image is called here that Archive was told the name of.
func (r *Registry) Ref(name string) string {
	return strings.TrimPrefix(r.URL, "http://") + "/" + withoutHost(name)
}

func withoutHost(name string) string { return name[strings.Index(name, "/")+1:] }

func (r *Registry) add(archive []byte) error {
	var index ocispec.Index
	rest := bytes.NewReader(archive)
	for files := tar.NewReader(rest); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		begin := len(archive) - rest.Len()
		data := archive[begin : begin+int(header.Size)]
		r.blobs[digest.FromBytes(data).String()] = data
		if header.Name == "index.json" {
			if err := json.Unmarshal(data, &index); err != nil {
				return err
			}
		}
	}
	for _, m := range index.Manifests {
		r.blobs[withoutHost(m.Annotations[ocispec.AnnotationRefName])] = r.blobs[m.Digest.String()]
	}
	return nil
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request, name, mediaType string) {
	data, ok := r.blobs[name]
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(data).String())
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(data)) // its length, and parts
}
