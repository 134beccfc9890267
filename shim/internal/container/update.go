// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Update changes the resources that r names and leaves the others. It takes what
// runc's update takes, and hugetlb. Where a value is refused, nothing is changed.
func (c *Container) Update(r *specs.LinuxResources) error {
	c.updates.Lock()
	defer c.updates.Unlock()
	if c.init.dead() {
		return c.notAlive("update")
	}
	defer useBus(c.cgroup.Config.Systemd)()
	lc, err := load(c.root, c.id)
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	config := lc.Config()
	// As runc has it: rules that a plugin has added for a device stay.
	config.Cgroups.SkipDevices = true
	// What is undone by is not to be changed.
	changed := *config.Cgroups
	changed.Resources = merge(*config.Cgroups.Resources, r)
	config.Cgroups = &changed

	before := c.cgroup.settings(slices.Collect(maps.Keys(r.Unified)))
	err = lc.Set(config)
	if err == nil {
		limits := limitsOf(changed.Resources)
		c.limits.Store(&limits)
		return nil
	}
	// libcontainer sets the values again that it knows of; the kernel's own ones it
	// does not know.
	err = join(err, before.restore())
	if errors.Is(err, libcontainer.ErrNotRunning) || c.init.dead() {
		return fmt.Errorf("%w (%w)", c.notAlive("update"), err)
	}
	if file := (*os.PathError)(nil); errors.As(err, &file) && strings.HasPrefix(file.Path, c.root+"/") {
		return fmt.Errorf("update container %s: %w", c.id, err) // its state cannot be written; no value is wrong
	}
	return invalid("update container %s: %w", c.id, err)
}

// merge is old with what r names. old's own lists are not changed.
func merge(old cgroups.Resources, r *specs.LinuxResources) *cgroups.Resources {
	n := &old
	if m := r.Memory; m != nil {
		set(&n.Memory, m.Limit)
		set(&n.MemoryReservation, m.Reservation)
		set(&n.MemorySwap, m.Swap)
		if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
			n.MemorySwap = 0 // a limit for swap needs one for memory; this has both removed
		}
	}
	// Of this update only.
	n.MemoryCheckBeforeUpdate = r.Memory != nil && r.Memory.CheckBeforeUpdate != nil && *r.Memory.CheckBeforeUpdate
	if cpu := r.CPU; cpu != nil {
		mergeCPU(n, cpu)
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		n.PidsLimit = p.Limit
	}
	if io := r.BlockIO; io != nil {
		mergeIO(n, io)
	}
	for _, h := range r.HugepageLimits {
		n.HugetlbLimit = put(n.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit},
			func(o *cgroups.HugepageLimit) bool { return o.Pagesize == h.Pagesize })
	}
	if len(r.Unified) > 0 {
		n.Unified = maps.Clone(n.Unified)
		if n.Unified == nil {
			n.Unified = map[string]string{}
		}
		maps.Copy(n.Unified, r.Unified)
	}
	return n
}

func mergeCPU(n *cgroups.Resources, cpu *specs.LinuxCPU) {
	if cpu.Idle != nil {
		n.CPUIdle = cpu.Idle
		n.CpuShares = 0 // an idle group has no weight, and refuses one
	}
	set(&n.CpuShares, cpu.Shares)
	n.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(n.CpuShares)
	set(&n.CpuQuota, cpu.Quota)
	set(&n.CpuPeriod, cpu.Period)
	if cpu.Burst != nil {
		n.CpuBurst = cpu.Burst
	}
	set(&n.CpuRtRuntime, cpu.RealtimeRuntime)
	set(&n.CpuRtPeriod, cpu.RealtimePeriod)
	if cpu.Cpus != "" {
		n.CpusetCpus = cpu.Cpus
	}
	if cpu.Mems != "" {
		n.CpusetMems = cpu.Mems
	}
}

func mergeIO(n *cgroups.Resources, io *specs.LinuxBlockIO) {
	set(&n.BlkioWeight, io.Weight)
	set(&n.BlkioLeafWeight, io.LeafWeight)
	for _, d := range io.WeightDevice {
		same := func(o *cgroups.WeightDevice) bool { return o.Major == d.Major && o.Minor == d.Minor }
		w := cgroups.NewWeightDevice(d.Major, d.Minor, 0, 0)
		if i := slices.IndexFunc(n.BlkioWeightDevice, same); i >= 0 {
			*w = *n.BlkioWeightDevice[i]
		}
		set(&w.Weight, d.Weight)
		set(&w.LeafWeight, d.LeafWeight)
		n.BlkioWeightDevice = put(n.BlkioWeightDevice, w, same)
	}
	for _, t := range []struct {
		list *[]*cgroups.ThrottleDevice
		with []specs.LinuxThrottleDevice
	}{
		{&n.BlkioThrottleReadBpsDevice, io.ThrottleReadBpsDevice},
		{&n.BlkioThrottleWriteBpsDevice, io.ThrottleWriteBpsDevice},
		{&n.BlkioThrottleReadIOPSDevice, io.ThrottleReadIOPSDevice},
		{&n.BlkioThrottleWriteIOPSDevice, io.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.with {
			*t.list = put(*t.list, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate),
				func(o *cgroups.ThrottleDevice) bool { return o.Major == d.Major && o.Minor == d.Minor })
		}
	}
}

// set takes what is named. 0 is as good as not named, as runc has it.
func set[T uint16 | int64 | uint64](to, from *T) {
	if from != nil && *from != 0 {
		*to = *from
	}
}

// put returns a list with e in the place of what is the same.
func put[E any](list []E, e E, same func(E) bool) []E {
	return append(slices.DeleteFunc(slices.Clone(list), same), e)
}

// settingFiles are the files that an update may write, of both versions of cgroups.
var settingFiles = []string{
	"cpuset.cpus", "cpuset.mems", "pids.max",
	"memory.*limit_in_bytes", "memory.max", "memory.low", "memory.high", "memory.swap.max",
	"cpu.shares", "cpu.idle", "cpu.cfs_*_us", "cpu.rt_*_us", "cpu.weight", "cpu.max", "cpu.max.burst",
	"blkio.*weight*", "blkio.throttle.*_device", "io.weight", "io.bfq.weight", "io.max",
	"hugetlb.*limit_in_bytes", "hugetlb.*.max",
}

// settings are the contents of files of a cgroup.
type settings map[string]string

// settings reads what an update may change.
func (c cgroup) settings(more []string) settings {
	s := settings{}
	for _, dir := range c.Paths {
		for _, pattern := range append(more, settingFiles...) {
			files, _ := filepath.Glob(filepath.Join(dir, filepath.Base(pattern)))
			for _, f := range files {
				if b, err := os.ReadFile(f); err == nil {
					s[f] = string(b)
				}
			}
		}
	}
	return s
}

// restore writes what was changed since. What the kernel takes in a certain order only,
// as the limits of memory and of memory with swap, is right after some rounds.
func (s settings) restore() error {
	for range 3 {
		for file, value := range s {
			_ = restoreFile(file, value)
		}
	}
	for file, value := range s {
		if now, err := os.ReadFile(file); err == nil && string(now) != value {
			return fmt.Errorf("%s cannot be set back to %q", file, strings.TrimSpace(value))
		}
	}
	return nil
}

// ofDevice is a line that is a device's.
var ofDevice = regexp.MustCompile(`(?m)^\d+:\d+ `)

func restoreFile(file, value string) error {
	now, err := os.ReadFile(file)
	if err != nil || string(now) == value {
		return err
	}
	dir, name := filepath.Split(file)
	if !ofDevice.MatchString(value) && !ofDevice.Match(now) {
		return cgroups.WriteFile(dir, name, strings.TrimSpace(value))
	}
	// Such a file is written line by line, and a device that it did not have is taken out.
	for _, device := range ofDevice.FindAllString(string(now), -1) {
		err = errors.Join(err, cgroups.WriteFile(dir, name, device+unset(name)))
	}
	for line := range strings.Lines(value) {
		err = errors.Join(err, cgroups.WriteFile(dir, name, strings.TrimSpace(line)))
	}
	return err
}

// unset is how a device has no value of its own any more.
func unset(name string) string {
	switch name {
	case "io.max":
		return "rbps=max wbps=max riops=max wiops=max"
	case "io.weight", "io.bfq.weight":
		return "default"
	}
	return "0"
}
