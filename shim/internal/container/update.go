// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Limits are what a container may have of memory, in bytes, and of CPU time, in
// thousandths of a CPU; 0 is no limit.
type Limits struct{ Memory, CPU uint64 }

// LimitsOf are the limits that resources set.
func LimitsOf(r *specs.LinuxResources) (l Limits) {
	if r == nil {
		return l
	}
	if m := r.Memory; m != nil && m.Limit != nil {
		l.Memory = uint64(max(0, *m.Limit))
	}
	if c := r.CPU; c != nil && c.Quota != nil && c.Period != nil {
		l.CPU = thousandths(*c.Quota, *c.Period)
	}
	return l
}

func thousandths(quota int64, period uint64) uint64 {
	if quota <= 0 || period == 0 {
		return 0
	}
	return uint64(quota) * 1000 / period
}

// Update changes resources of a living container, and returns its limits. What is not
// named stays as it is. After an error nothing has changed.
func (c *Container) Update(r *specs.LinuxResources) (Limits, error) {
	if c.init.dead() {
		return Limits{}, c.notRunning()
	}
	lc, err := load(c.root, c.id)
	if err != nil {
		return Limits{}, err
	}
	config := lc.Config()
	// Config shares what it points to with the container, which falls back to it.
	group, resources := *config.Cgroups, *config.Cgroups.Resources
	group.Resources, config.Cgroups = &resources, &group
	change(&resources, r)
	// As runc has it: what something else has set of devices stays.
	resources.SkipDevices = true

	defer useBus(c.cgroup.Config.Systemd)()
	before := c.cgroup.values(r.Unified)
	if err := lc.Set(config); err != nil {
		before.restore()
		if errors.Is(err, libcontainer.ErrNotRunning) {
			return Limits{}, c.notRunning()
		}
		return Limits{}, fmt.Errorf("update the resources of container %s: %w: %w", c.id, err, errdefs.ErrInvalidArgument)
	}
	return Limits{uint64(max(0, resources.Memory)), thousandths(resources.CpuQuota, resources.CpuPeriod)}, nil
}

// change enters what r names, as `runc update` does.
func change(to *cgroups.Resources, r *specs.LinuxResources) {
	if m := r.Memory; m != nil {
		set(&to.Memory, m.Limit)
		set(&to.MemoryReservation, m.Reservation)
		set(&to.MemorySwap, m.Swap)
		set(&to.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
		if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
			to.MemorySwap = 0 // a limit of swap needs one of memory
		}
	}
	if c := r.CPU; c != nil {
		changeCPU(to, c)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		to.PidsLimit = r.Pids.Limit
	}
	if b := r.BlockIO; b != nil {
		changeBlockIO(to, b)
	}
	for _, l := range r.HugepageLimits {
		limit := &cgroups.HugepageLimit{Pagesize: l.Pagesize, Limit: l.Limit}
		to.HugetlbLimit = upsert(to.HugetlbLimit, limit, func(o *cgroups.HugepageLimit) bool { return o.Pagesize == l.Pagesize })
	}
	if r.Unified != nil {
		to.Unified = r.Unified
	}
}

func changeCPU(to *cgroups.Resources, c *specs.LinuxCPU) {
	set(&to.CpuPeriod, c.Period)
	set(&to.CpuQuota, c.Quota)
	set(&to.CpuRtPeriod, c.RealtimePeriod)
	set(&to.CpuRtRuntime, c.RealtimeRuntime)
	if c.Burst != nil {
		to.CpuBurst = c.Burst
	}
	if c.Shares != nil {
		to.CpuShares, to.CpuWeight = *c.Shares, cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
	}
	if c.Idle != nil {
		to.CPUIdle = c.Idle
		if c.Shares == nil {
			to.CpuShares, to.CpuWeight = 0, 0 // an idle cgroup has no weight
		}
	}
	if c.Cpus != "" {
		to.CpusetCpus = c.Cpus
	}
	if c.Mems != "" {
		to.CpusetMems = c.Mems
	}
}

func changeBlockIO(to *cgroups.Resources, b *specs.LinuxBlockIO) {
	set(&to.BlkioWeight, b.Weight)
	set(&to.BlkioLeafWeight, b.LeafWeight)
	for _, d := range b.WeightDevice {
		var weight, leaf uint16
		set(&weight, d.Weight)
		set(&leaf, d.LeafWeight)
		to.BlkioWeightDevice = upsert(to.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, weight, leaf), func(o *cgroups.WeightDevice) bool {
			return o.Major == d.Major && o.Minor == d.Minor
		})
	}
	for _, list := range []struct {
		to   *[]*cgroups.ThrottleDevice
		from []specs.LinuxThrottleDevice
	}{
		{&to.BlkioThrottleReadBpsDevice, b.ThrottleReadBpsDevice},
		{&to.BlkioThrottleWriteBpsDevice, b.ThrottleWriteBpsDevice},
		{&to.BlkioThrottleReadIOPSDevice, b.ThrottleReadIOPSDevice},
		{&to.BlkioThrottleWriteIOPSDevice, b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range list.from {
			*list.to = upsert(*list.to, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate), func(o *cgroups.ThrottleDevice) bool {
				return o.Major == d.Major && o.Minor == d.Minor
			})
		}
	}
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// upsert is a list with one more, or with one replaced. The list itself stays.
func upsert[T any](list []*T, one *T, same func(*T) bool) []*T {
	list = slices.Clone(list)
	if i := slices.IndexFunc(list, same); i >= 0 {
		list[i] = one
		return list
	}
	return append(list, one)
}

// values are what a cgroup's files say of its limits. Of a change that is refused half
// of it may have been made, and libcontainer knows only what it has set itself.
type values []value

type value struct{ file, text string }

// limitFiles are those that Update writes, in the versions of cgroups.
var limitFiles = []string{
	"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes",
	"memory.max", "memory.swap.max", "memory.low",
	"cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.cfs_burst_us", "cpu.rt_period_us", "cpu.rt_runtime_us", "cpu.idle",
	"cpu.weight", "cpu.max", "cpu.max.burst", "cpuset.cpus", "cpuset.mems", "pids.max",
	"blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight",
}

func (c cgroup) values(unified map[string]string) (all values) {
	names := slices.Clone(limitFiles)
	for name := range unified {
		if filepath.Base(name) == name {
			names = append(names, name)
		}
	}
	for _, dir := range c.Paths {
		for _, name := range names {
			file := filepath.Join(dir, name)
			if text, err := os.ReadFile(file); err == nil {
				all = append(all, value{file, strings.TrimSpace(string(text))})
			}
		}
	}
	return all
}

// restore writes back what has changed. Some values bound others, so that the order
// may matter: it goes through them twice.
func (all values) restore() {
	for range 2 {
		for _, v := range all {
			if text, err := os.ReadFile(v.file); err == nil && strings.TrimSpace(string(text)) != v.text {
				_ = os.WriteFile(v.file, []byte(v.text), 0)
			}
		}
	}
}
