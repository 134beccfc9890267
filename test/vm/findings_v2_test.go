// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// What only version 2 has: set at the create, changed by an update, and told by stats.
func TestUnifiedResources(t *testing.T) {
	eachKind(t, kinds, func(t *harness.T, k kind) {
		quota, period, burst := int64(20_000), uint64(100_000), uint64(10_000)
		c := t.Run(k.container(t, k.sleeper(), withMemory(128<<20), harness.WithSpec(func(s *oci.Spec) {
			s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period, Burst: &burst}
			s.Linux.Resources.Unified = map[string]string{"memory.high": "104857600", "memory.oom.group": "1"}
		})))
		require.NoError(t, c.Stdout.WaitFor("ready", patience))
		dir := groupOf(t, c.Task.Pid())
		file := func(name string) string { return groupFile(t, dir, name) }
		require.Equal(t, "104857600", file("memory.high"))
		require.Equal(t, "1", file("memory.oom.group"))
		require.Equal(t, "20000 100000", file("cpu.max"))
		require.Equal(t, "10000", file("cpu.max.burst"))
		if k.systemd {
			require.Equal(t, "MemoryHigh=104857600", run(t, "systemctl", "show", "-p", "MemoryHigh", filepath.Base(dir)))
		}
		m := unifiedStats(t, c)
		require.NotNil(t, m.CPU.PSI.GetSome(), "pressure of CPU")
		require.NotNil(t, m.Memory.PSI.GetFull(), "pressure of memory")
		require.NotNil(t, m.Io.PSI.GetFull(), "pressure of disks")
		more := uint64(5_000)
		require.NoError(t, c.Task.Update(t.Ctx, client.WithResources(&specs.LinuxResources{
			CPU: &specs.LinuxCPU{Burst: &more}, Unified: map[string]string{"memory.high": "83886080"},
		})))
		require.Equal(t, "83886080", file("memory.high"))
		require.Equal(t, "5000", file("cpu.max.burst"))
		require.Equal(t, "20000 100000", file("cpu.max"))
	})
}

// An exec is born in the container's cgroup: nobody is moved.
func TestExecBornInCgroup(t *testing.T) {
	eachKind(t, ours(), func(t *harness.T, k kind) {
		cfg := k.container(t, k.sleeper())
		options := "log_level = 'debug'"
		if k.systemd {
			options += "\nSystemdCgroup = true"
		}
		cfg.RuntimeOptions = table(options)
		c := t.Run(cfg)
		require.NoError(t, c.Stdout.WaitFor("ready", patience))
		result := t.ExecOnce(c, harness.ExecConfig{Args: []string{"/native"}})
		require.Zero(t, result.Code, "%+v", result)
		var said string
		for line := range strings.Lines(t.LogTail(2000)) {
			if strings.Contains(line, "CLONE_INTO_CGROUP") {
				said += line
			}
		}
		require.Contains(t, said, "using CLONE_INTO_CGROUP")
		require.NotContains(t, said, "failed")
	})
}
