// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// TestBoot is what any machine must do, however its kernel was started: WASMSHIM_BOOT
// names it as scripts/test.sh does. A container of every kind runs, takes an exec, is
// killed and leaves nothing, and a limit is kept, or refused where the kernel cannot.
func TestBoot(t *testing.T) {
	boot := os.Getenv("WASMSHIM_BOOT")
	if boot == "" {
		t.Skip("it is of the machine's further boots; the other tests show more in the first")
	}
	eachKind(t, kinds, func(t *harness.T, k kind) {
		if boot == "v1" {
			require.NoFileExists(t, "/sys/fs/cgroup/cgroup.controllers")
		} else {
			require.FileExists(t, "/sys/fs/cgroup/cgroup.controllers")
		}
		result := t.Once(k.container(t, k.hello()))
		require.Zero(t, result.Code, "%+v", result)
		c := t.Run(k.container(t, k.sleeper()))
		require.NoError(t, c.Stdout.WaitFor("ready", patience))
		executed := t.ExecOnce(c, harness.ExecConfig{Args: k.hello()})
		require.Contains(t, executed.Stdout, "hello", "%+v", executed)
		require.NoError(t, c.Task.Pause(t.Ctx))
		require.NoError(t, c.Task.Resume(t.Ctx))
		require.NoError(t, c.Task.Kill(t.Ctx, 9))
		ended, err := t.Finish(c)
		require.NoError(t, err)
		require.EqualValues(t, 137, ended.Code)
		t.RequireNothingLeft()

		limited, err := t.Daemon.Create(t.Ctx, k.container(t, k.sleeper(), withMemory(64<<20)))
		if boot == "no-controllers" {
			require.ErrorContains(t, err, "memory.max")
			if k.runtime == smoke.Ours {
				require.ErrorContains(t, err, "this machine's cgroups have no controller memory")
			}
			t.RequireNothingLeft()
			return
		}
		require.NoError(t, err)
		require.NoError(t, t.Remove(t.Ctx, limited))
	})
}
