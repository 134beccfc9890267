// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
)

const goodConfig = `{"ociVersion":"1.0.0","root":{"path":"rootfs"},"process":{"args":["/app.wasm#run","x"],"cwd":"/","env":["A=1"]},
"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/m","type":"bind","source":"b","options":["bind"]}],
"linux":{"namespaces":[{"type":"mount"}],"resources":{"memory":{"limit":1048576},"cpu":{"quota":50000,"period":100000}}},
"annotations":{"io.kubernetes.cri.sandbox-id":"p"}}`

// Whatever stands in config.json, it is refused with a code or taken, and what
// was taken can be handed to a runner.
func FuzzBundle(f *testing.F) {
	bundle := f.TempDir()
	rootfs := filepath.Join(bundle, "rootfs")
	require.NoError(f, os.Mkdir(rootfs, 0o755))
	require.NoError(f, os.WriteFile(filepath.Join(rootfs, "app.wasm"), []byte("\x00asm\x01\x00\x00\x00"), 0o644))
	f.Add([]byte(goodConfig))
	f.Add([]byte(`{"process":{"args":[]}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600))
		s := New(context.Background(), Config{})
		spec, err := s.readSpec("id", bundle)
		if err != nil {
			require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
			return
		}
		s.Engine.Name, s.Engine.Kinds = "test", entrypoint.Module
		p := preparationOf(s, spec, bundle)
		p.opts.GuestProc = "hidden"
		found := p.look(spec, rootfs)
		if found.err != nil || found.entry.File == nil {
			return
		}
		found.entry.File.Close()
		p.entry, p.run.Env = found.entry, found.env
		c, _ := p.context()
		_, err = c.Encode()
		require.NoError(t, err)
	})
}

func preparationOf(s *Service, spec *specs.Spec, bundle string) *preparation {
	return &preparation{Service: s, made: &made{bundle: bundle}, id: "id", spec: spec, run: spec.Process, limits: container.LimitsOf(spec)}
}

func TestBundle(t *testing.T) {
	bundle := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte(goodConfig), 0o600))
	s := New(context.Background(), Config{})
	spec, err := s.readSpec("id", bundle)
	require.NoError(t, err)
	c, _ := preparationOf(s, spec, bundle).context()
	require.EqualValues(t, 1<<20, c.Memory)
	require.EqualValues(t, 500, c.CPU)
	require.Equal(t, "p", c.Pod)
}
