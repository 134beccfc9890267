// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/platforms"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// The image of deploy/, in a container that sees the host as that of its DaemonSet does:
// it installs the shim, stays, and takes it away when it is ended.
func TestInstallerImage(t *testing.T) {
	tt := harness.New(t, smoke.Runc)
	shim, err := tt.ShimBinary(smoke.Ours)
	require.NoError(t, err)
	tar := filepath.Join(tt.TempDir(), "image.tar")
	name := harness.ImageName(harness.FreshID("installer"))
	out, err := exec.Command("go", "run", "../../scripts/image", shim, name, tar).CombinedOutput()
	require.NoError(t, err, "%s", out)
	archive, err := os.ReadFile(tar)
	require.NoError(t, err)
	image, err := tt.Import(tt.Ctx, archive, platforms.DefaultStrict())
	require.NoError(t, err)

	dir, config := tt.TempDir(), filepath.Join(tt.Dir, "config.toml")
	program := filepath.Join(dir, filepath.Base(shim))
	before, err := os.ReadFile(config)
	require.NoError(t, err)
	defer func() { require.NoError(t, os.WriteFile(config, before, 0o600)) }()
	host := specs.Mount{Destination: "/host", Source: "/", Type: "bind", Options: []string{"rbind", "rslave"}}
	c := tt.Run(harness.Config{
		Image: image,
		Args:  []string{"/" + filepath.Base(shim), "install", "--root", "/host", "--stay", "--address", tt.Address, "--dir", dir},
		Opts:  []oci.SpecOpts{oci.WithPrivileged, oci.WithHostNamespace(specs.PIDNamespace), oci.WithMounts([]specs.Mount{host})},
	})
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(config)
		return err == nil && string(text) != string(before)
	}, time.Minute, 10*time.Millisecond)
	require.FileExists(t, program)
	time.Sleep(100 * time.Millisecond) // it stays
	require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGTERM))
	result, err := tt.Finish(c)
	require.NoError(t, err)
	require.Zero(t, result.Code, "%+v", result)
	require.Contains(t, result.Stdout, "then: "+filepath.Base(shim)+" doctor")
	after, err := os.ReadFile(config)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
	require.NoFileExists(t, program)
	tt.RequireNothingLeft()
}
