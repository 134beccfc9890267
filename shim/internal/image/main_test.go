// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
)

// roleEnv makes the test binary another process than the one that tests.
const roleEnv = "WASMSHIM_TEST_ROLE"

// roles are what such a process does.
var roles = map[string]func() int{"lock": holdLock, "work": holdWorkDir}

func TestMain(m *testing.M) {
	if role, ok := roles[os.Getenv(roleEnv)]; ok {
		os.Exit(role())
	}
	if slices.Contains(os.Environ(), WorkerEnv) {
		os.Exit(runTestWorker())
	}
	_ = log.SetLevel("error") // a content store says that the file system lacks something
	os.Exit(m.Run())
}

// process is a command of the test binary in a role.
func process(t *testing.T, role string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

func needsRoot(t *testing.T, why string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: " + why)
	}
}

// testStore is a content store in a directory, with a client that looks into it.
type testStore struct {
	*testing.T
	Store
	dir string
}

func newStore(t *testing.T) *testStore {
	dir := t.TempDir()
	inner, err := local.NewStore(dir)
	require.NoError(t, err)
	return &testStore{T: t, dir: dir, Store: Store{&containerd.Client{Namespace: "test", Content: inner}}}
}

func (s *testStore) path(d digest.Digest) string {
	return filepath.Join(s.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

func (s *testStore) add(data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	require.NoError(s, content.WriteBlob(s.Context(), s.Content, "test", bytes.NewReader(data), d))
	return d
}
