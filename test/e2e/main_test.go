// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

const (
	ourRuntime  = "io.containerd.wasmtime.v1"
	runcRuntime = "io.containerd.runc.v2"
)

var nullIO = cio.Creator(cio.NullIO)

func TestMain(m *testing.M) { harness.Main(m, harness.Containerd24) }

// neverEnds is a stdin that stays open and empty.
type neverEnds struct{}

func (neverEnds) Read([]byte) (int, error) { select {} }

// busybox is an image of native programs.
func busybox(t *harness.T) client.Image {
	return t.Image("busybox", busyboxFiles(t), ocispec.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh"}})
}

func busyboxFiles(t *harness.T) map[string]harness.File {
	cache, err := harness.CacheDir()
	require.NoError(t, err)
	program, err := os.ReadFile(filepath.Join(cache, "busybox-static/bin/busybox"))
	require.NoError(t, err)
	files := map[string]harness.File{"bin/busybox": {Data: program}, "tmp/": {}, "proc/": {}, "etc/data": {Data: []byte("just text\n"), Mode: 0o644}}
	for _, name := range []string{"sh", "sleep", "cat", "true", "id", "ls", "kill"} {
		files["bin/"+name] = harness.File{Link: "busybox"}
	}
	return files
}
