// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// TestSELinux is of the boot with Debian's policy, enforcing, to which container.cil adds
// types of containers with what runc's shim needs, and deploy/selinux what guests need
// beside it. What runs in a container has its label: a guest, a native program, an exec.
func TestSELinux(t *testing.T) {
	if os.Getenv("WASMSHIM_BOOT") != "selinux" {
		t.Skip("it is of the machine's boot with SELinux")
	}
	run(t, "semodule", "-i", "container.cil", "../../deploy/selinux/libwasmshim.cil")
	// As docs/operators.md tells an operator.
	run(t, "chcon", "-t", "container_file_t", "../../dist/containerd-shim-wasmtime-v1")
	run(t, "setenforce", "1")
	// A machine has the file system's types from its policy; the harness has them made.
	labelled := func(t *harness.T, label string) oci.SpecOpts {
		run(t, "chcon", "-R", "-t", "container_file_t", t.Dir)
		run(t, "chcon", "-R", "-t", "container_var_lib_t", filepath.Join(t.Dir, "root", "io.containerd.content.v1.content"))
		return harness.WithSpec(func(s *oci.Spec) { s.Process.SelinuxLabel = label })
	}
	const label = "system_u:system_r:container_t:s0"
	life := func(t *harness.T, k kind, more ...oci.SpecOpts) {
		t.Helper()
		opt := oci.Compose(append(more, labelled(t, label))...)
		result := t.Once(k.container(t, k.hello(), opt))
		require.Zero(t, result.Code, "%+v", result)
		c := t.Run(k.container(t, k.sleeper(), opt))
		require.NoError(t, c.Stdout.WaitFor("ready", patience))
		require.Equal(t, label, labelOf(t, c.Task.Pid()))
		for _, args := range [][]string{{"/native", "sleep"}, k.sleeper()} {
			e := t.Exec(c, harness.ExecConfig{Args: args})
			require.NoError(t, e.Stdout.WaitFor("ready", patience))
			require.Equal(t, label, labelOf(t, e.Pid()))
			require.NoError(t, e.Kill(t.Ctx, 9))
			_, err := e.Finish(t.Ctx)
			require.NoError(t, err)
		}
		require.NoError(t, c.Task.Kill(t.Ctx, 9))
		ended, err := t.Finish(c)
		require.NoError(t, err)
		require.EqualValues(t, 137, ended.Code)
		t.RequireNothingLeft()
	}
	eachKind(t, kinds, func(t *harness.T, k kind) { life(t, k) })
	t.Run("user namespace", func(t *testing.T) {
		eachKind(t, []kind{kinds[0], kinds[2], kinds[4]}, func(t *harness.T, k kind) {
			life(t, k, oci.WithoutRunMount, withUsers())
		})
	})
	t.Run("layer", func(t *testing.T) {
		tt := machine(t, smoke.Ours)
		opt := labelled(tt, label)
		image := tt.LayerImage(smoke.Fresh(tt, "hello.wasm"))
		for range 2 {
			result := tt.Once(harness.Config{Image: image, Opts: []oci.SpecOpts{opt}})
			require.Zero(t, result.Code, "%+v", result)
			require.Equal(t, "hello\n", result.Stdout)
		}
	})
	t.Run("without the module", func(t *testing.T) {
		tt := machine(t, smoke.Ours)
		result := tt.Once(kinds[0].container(tt, kinds[0].hello(), labelled(tt, "system_u:system_r:bare_container_t:s0")))
		require.NotZero(t, result.Code)
		require.Contains(t, result.Stderr, "descriptor 4 is not the daemon's file: SELinux may keep it", "%+v", result)
	})
}
