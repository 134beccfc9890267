// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// Every limit is in the cgroup's files and, where systemd makes the cgroup, in the
// scope's properties: what is only in the files, systemd may set back.
func TestLimits(t *testing.T) {
	const memory, swap, low, pids = int64(64 << 20), int64(96 << 20), int64(16 << 20), int64(64)
	eachKind(t, kinds, func(t *harness.T, k kind) {
		memory, swap, low, pids := memory, swap, low, pids
		quota, period, shares := int64(20000), uint64(100000), uint64(512)
		c := t.Run(k.container(t, k.sleeper(), harness.WithSpec(func(s *oci.Spec) {
			r := s.Linux.Resources
			r.Memory = &specs.LinuxMemory{Limit: &memory, Swap: &swap, Reservation: &low}
			r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares, Cpus: "0", Mems: "0"}
			r.Pids = &specs.LinuxPids{Limit: &pids}
			disk := specs.LinuxThrottleDevice{Rate: 1 << 20}
			disk.Major, disk.Minor = 254, 0
			r.BlockIO = &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{disk}}
			r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}
			r.Unified = map[string]string{"memory.high": "60000000", "memory.oom.group": "1"}
		})))
		require.NoError(t, c.Stdout.WaitFor("ready", patience))
		dir := groupOf(t, c.Task.Pid())
		for file, want := range map[string]string{
			"memory.max": "67108864", "memory.swap.max": "33554432", "memory.low": "16777216",
			"memory.high": "59998208", "memory.oom.group": "1", "cpu.max": "20000 100000", "cpu.weight": "59",
			"cpuset.cpus": "0", "cpuset.mems": "0", "pids.max": "64",
			"io.max": "254:0 rbps=1048576 wbps=max riops=max wiops=max", "hugetlb.2MB.max": "4194304",
		} {
			require.Equal(t, want, groupFile(t, dir, file), file)
		}
		if !k.systemd {
			return
		}
		scope := filepath.Base(dir)
		require.Equal(t, t.Scope(c.ID()), scope)
		properties := map[string]string{
			"MemoryMax": "67108864", "MemorySwapMax": "33554432", "MemoryLow": "16777216", "MemoryHigh": "60000000",
			"CPUQuotaPerSecUSec": "200ms", "CPUWeight": "59", "AllowedCPUs": "0", "AllowedMemoryNodes": "0", "TasksMax": "64",
			"Delegate": "yes", "Slice": "system.slice", "ActiveState": "active",
		}
		text := "\n" + run(t, "systemctl", "show", scope) + "\n"
		for name, want := range properties {
			require.Contains(t, text, "\n"+name+"="+want+"\n", "%s: %s", name, grep(text, name))
		}
	})
}

// grep are the lines of a text that begin with a word.
func grep(text, word string) string {
	var found []string
	for _, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, word) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "\n")
}

// A container whose spec names no cgroup has one all the same, of its id.
func TestNoPath(t *testing.T) {
	eachKind(t, kinds, func(t *harness.T, k kind) {
		config := k.container(t, k.sleeper(), withPath(""))
		c := t.Run(config)
		require.NoError(t, c.Stdout.WaitFor("ready", patience))
		dir := groupOf(t, c.Task.Pid())
		if k.systemd {
			require.Equal(t, "/sys/fs/cgroup/system.slice/runc-"+c.ID()+".scope", dir)
		} else {
			require.Equal(t, c.ID(), filepath.Base(dir)) // runc's is beside its shim's, ours at the root
		}
		require.NoError(t, t.Remove(t.Ctx, c))
		require.NoDirExists(t, dir)
	})
}

// withPath is where the container's cgroup is to be.
func withPath(path string) oci.SpecOpts {
	return harness.WithSpec(func(s *oci.Spec) { s.Linux.CgroupsPath = path })
}
