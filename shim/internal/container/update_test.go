// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

// TestMerge: what is named is taken, and the rest, with what the old lists hold, stays.
func TestMerge(t *testing.T) {
	const mib = 1 << 20
	dev := specs.LinuxThrottleDevice{Rate: 5}
	dev.Major, dev.Minor = 8, 16
	weight := specs.LinuxWeightDevice{LeafWeight: new(uint16(7))}
	weight.Major = 8
	old := func() cgroups.Resources {
		return cgroups.Resources{
			Memory: 10 * mib, MemorySwap: 20 * mib, CpuShares: 1024, CpuWeight: cgroups.ConvertCPUSharesToCgroupV2Value(1024), CpuQuota: 50000, CpuPeriod: 100000,
			CpusetCpus: "0", PidsLimit: new(int64(5)), MemoryCheckBeforeUpdate: true,
			BlkioWeightDevice:          []*cgroups.WeightDevice{cgroups.NewWeightDevice(8, 0, 3, 4)},
			BlkioThrottleReadBpsDevice: []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 0, 1), cgroups.NewThrottleDevice(8, 16, 2)},
			HugetlbLimit:               []*cgroups.HugepageLimit{{Pagesize: "2MB", Limit: 1}},
			Unified:                    map[string]string{"memory.low": "1"},
		}
	}
	for name, tc := range map[string]struct {
		r    specs.LinuxResources
		want func(*cgroups.Resources)
	}{
		"nothing": {specs.LinuxResources{}, func(*cgroups.Resources) {}},
		"0 is nothing": {specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: new(int64), Swap: new(int64)}, CPU: &specs.LinuxCPU{Shares: new(uint64), Quota: new(int64)},
		}, func(*cgroups.Resources) {}},
		"memory": {specs.LinuxResources{Memory: &specs.LinuxMemory{
			Limit: new(int64(mib)), Reservation: new(int64(2)), CheckBeforeUpdate: new(true),
		}}, func(n *cgroups.Resources) { n.Memory, n.MemoryReservation, n.MemoryCheckBeforeUpdate = mib, 2, true }},
		"no limit": {specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(-1))}}, func(n *cgroups.Resources) { n.Memory, n.MemorySwap = -1, 0 }},
		"cpu": {specs.LinuxResources{CPU: &specs.LinuxCPU{
			Shares: new(uint64(2048)), Quota: new(int64(-1)), Burst: new(uint64(0)), Mems: "1", RealtimePeriod: new(uint64(9)), RealtimeRuntime: new(int64(8)),
		}}, func(n *cgroups.Resources) {
			n.CpuShares, n.CpuWeight, n.CpuQuota, n.CpuBurst, n.CpusetMems = 2048, cgroups.ConvertCPUSharesToCgroupV2Value(2048), -1, new(uint64), "1"
			n.CpuRtPeriod, n.CpuRtRuntime = 9, 8
		}},
		"idle": {specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: new(int64(1))}}, func(n *cgroups.Resources) {
			n.CPUIdle, n.CpuShares, n.CpuWeight = new(int64(1)), 0, 0
		}},
		"pids": {specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(-1))}}, func(n *cgroups.Resources) { n.PidsLimit = new(int64(-1)) }},
		"io": {specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
			Weight: new(uint16(300)), WeightDevice: []specs.LinuxWeightDevice{weight},
			ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{dev}, ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{dev},
		}}, func(n *cgroups.Resources) {
			n.BlkioWeight = 300
			n.BlkioWeightDevice = []*cgroups.WeightDevice{cgroups.NewWeightDevice(8, 0, 3, 7)}
			n.BlkioThrottleReadBpsDevice[1] = cgroups.NewThrottleDevice(8, 16, 5)
			n.BlkioThrottleWriteIOPSDevice = []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 16, 5)}
		}},
		"hugetlb": {specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 7}, {Pagesize: "1GB"}}}, func(n *cgroups.Resources) {
			n.HugetlbLimit = []*cgroups.HugepageLimit{{Pagesize: "2MB", Limit: 7}, {Pagesize: "1GB"}}
		}},
		"unified": {specs.LinuxResources{Unified: map[string]string{"memory.high": "2"}}, func(n *cgroups.Resources) { n.Unified["memory.high"] = "2" }},
	} {
		t.Run(name, func(t *testing.T) {
			before, want := old(), old()
			want.MemoryCheckBeforeUpdate = false
			tc.want(&want)
			once := merge(before, &tc.r)
			require.Equal(t, &want, once)
			require.Equal(t, &want, merge(*once, &tc.r), "twice is as once")
			require.Equal(t, old(), before, "what is undone by")
		})
	}
}

// contents are the files of a container's cgroup that an update may write.
func contents(t *testing.T, c *Container) map[string]string {
	t.Helper()
	found := map[string]string{}
	for file, value := range c.cgroup.settings(nil) {
		found[filepath.Base(file)] = strings.TrimSpace(value)
	}
	require.NotEmpty(t, found)
	return found
}

func limit(n int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &n, Swap: &n}}
}

func TestUpdate(t *testing.T) {
	needRoot(t)
	if cgroups.IsCgroup2UnifiedMode() {
		t.Skip("looks at the files of version 1")
	}
	disk := specs.LinuxThrottleDevice{Rate: 1 << 20}
	disk.Major, disk.Minor = aDisk(t)
	for name, tc := range map[string]struct {
		r    *specs.LinuxResources
		want map[string]string // what is different afterwards
	}{
		"memory": {
			&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(32 << 20)), Swap: new(int64(48 << 20)), Reservation: new(int64(16 << 20))}},
			map[string]string{"memory.limit_in_bytes": "33554432", "memory.memsw.limit_in_bytes": "50331648", "memory.soft_limit_in_bytes": "16777216"},
		},
		"cpu": {
			&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(512)), Quota: new(int64(25000)), Period: new(uint64(50000)), Burst: new(uint64(1000))}},
			map[string]string{"cpu.shares": "512", "cpu.cfs_quota_us": "25000", "cpu.cfs_period_us": "50000", "cpu.cfs_burst_us": "1000"},
		},
		"cpu idle": {&specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: new(int64(1))}}, map[string]string{"cpu.idle": "1", "cpu.shares": "3"}},
		"cpuset":   {&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Mems: "0"}}, map[string]string{"cpuset.cpus": "0"}},
		"pids":     {&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(77))}}, map[string]string{"pids.max": "77"}},
		"io":       {&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{disk}}}, map[string]string{"blkio.throttle.read_bps_device": fmt.Sprintf("%d:%d 1048576", disk.Major, disk.Minor)}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
			c := mustCreate(t, cfg, p)
			want := contents(t, c)
			for file, value := range tc.want {
				want[file] = value
			}
			for range 2 {
				require.NoError(t, c.Update(tc.r))
				require.Equal(t, want, contents(t, c))
			}
			require.NoError(t, c.Start())
			require.NoError(t, c.Update(&specs.LinuxResources{}), "nothing changes nothing")
			require.Equal(t, want, contents(t, c))
			// What comes next starts from libcontainer's state: it is right.
			lc, err := load(c.root, c.id)
			require.NoError(t, err)
			config := lc.Config()
			require.Equal(t, merge(*config.Cgroups.Resources, tc.r), config.Cgroups.Resources)
			e, err := c.Exec(p.with("exit", "4"))
			require.NoError(t, err)
			require.Equal(t, 4, mustWait(t, e))
		})
	}
}

func aDisk(t *testing.T) (major, minor int64) {
	t.Helper()
	disks, err := os.ReadDir("/sys/block")
	require.NoError(t, err)
	require.NotEmpty(t, disks)
	b, err := os.ReadFile(filepath.Join("/sys/block", disks[len(disks)-1].Name(), "dev"))
	require.NoError(t, err)
	_, err = fmt.Sscanf(string(b), "%d:%d", &major, &minor)
	require.NoError(t, err)
	return major, minor
}

// TestUpdateRefused: of what the kernel refuses a part of, it gets nothing.
func TestUpdateRefused(t *testing.T) {
	needRoot(t)
	if cgroups.IsCgroup2UnifiedMode() {
		t.Skip("looks at the files of version 1")
	}
	disk := specs.LinuxThrottleDevice{Rate: 1 << 20}
	disk.Major, disk.Minor = aDisk(t)
	noDisk := specs.LinuxThrottleDevice{Rate: 1}
	noDisk.Major, noDisk.Minor = 4095, 1
	all := func(change func(*specs.LinuxResources)) *specs.LinuxResources {
		r := &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: new(int64(100 << 20)), Swap: new(int64(200 << 20)), Reservation: new(int64(50 << 20))},
			CPU:    &specs.LinuxCPU{Shares: new(uint64(300)), Quota: new(int64(20000)), Period: new(uint64(30000)), Cpus: "0", Mems: "0"},
			Pids:   &specs.LinuxPids{Limit: new(int64(50))},
			BlockIO: &specs.LinuxBlockIO{
				ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{disk}, ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{disk},
			},
		}
		change(r)
		return r
	}
	for name, r := range map[string]*specs.LinuxResources{
		"cpu quota":         all(func(r *specs.LinuxResources) { r.CPU.Quota = new(int64(1)) }),
		"cpu shares":        all(func(r *specs.LinuxResources) { r.CPU.Shares = new(uint64(1)) }),
		"cpus":              all(func(r *specs.LinuxResources) { r.CPU.Cpus = "4000" }),
		"memory":            all(func(r *specs.LinuxResources) { r.Memory.Limit = new(int64(4096)) }),
		"swap below memory": all(func(r *specs.LinuxResources) { r.Memory.Swap = new(int64(1 << 20)) }),
		"a disk of none":    all(func(r *specs.LinuxResources) { r.BlockIO.ThrottleWriteIOPSDevice = []specs.LinuxThrottleDevice{noDisk} }),
		"hugetlb": all(func(r *specs.LinuxResources) {
			r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}}
		}),
		"unified, version 1":  all(func(r *specs.LinuxResources) { r.Unified = map[string]string{"memory.max": "1"} }),
		"unified, not a name": all(func(r *specs.LinuxResources) { r.Unified = map[string]string{"../x": "1"} }),
	} {
		t.Run(name, func(t *testing.T) {
			for _, set := range []bool{false, true} {
				cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
				c := mustRun(t, cfg, p)
				if set {
					require.NoError(t, c.Update(all(func(r *specs.LinuxResources) {
						r.Memory.Limit, r.CPU.Shares, r.Pids.Limit = new(int64(90<<20)), new(uint64(400)), new(int64(60))
						r.BlockIO.ThrottleReadBpsDevice = nil
					})))
				}
				before := contents(t, c)
				state, err := os.ReadFile(filepath.Join(c.stateDir(), "state.json"))
				require.NoError(t, err)
				err = c.Update(r)
				require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
				require.Equal(t, before, contents(t, c))
				after, err := os.ReadFile(filepath.Join(c.stateDir(), "state.json"))
				require.NoError(t, err)
				require.Equal(t, string(state), string(after))
			}
		})
	}
	t.Run("not running", func(t *testing.T) {
		cfg, p := newConfigFor(t.TempDir(), guest("exit")...)
		c := mustRun(t, cfg, p)
		require.Zero(t, mustWait(t, c))
		require.ErrorIs(t, c.Update(limit(64<<20)), errdefs.ErrFailedPrecondition)
	})
}

// TestUpdateBesideExec: an exec reads what an update writes.
func TestUpdateBesideExec(t *testing.T) {
	needRoot(t)
	cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
	c := mustRun(t, cfg, p)
	done := make(chan error)
	go func() {
		for n := range int64(20) {
			if err := c.Update(limit((64 + n) << 20)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 5 {
		e, err := c.Exec(p.with("exit"))
		require.NoError(t, err)
		require.Zero(t, mustWait(t, e))
	}
	require.NoError(t, <-done)
}
