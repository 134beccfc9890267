// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	types "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// cgroup reads a file of the container's cgroup, by its controller and name on
// version 1, and its name on version 2.
func (c *contract) cgroup(controller, v1, v2 string) string {
	c.Helper()
	if isV2() {
		return file(c, filepath.Join("/sys/fs/cgroup", place.Cgroup(c.ID), v2))
	}
	return file(c, filepath.Join("/sys/fs/cgroup", controller, place.Cgroup(c.ID), v1))
}

func isV2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

func number(c *contract, text string) uint64 {
	c.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(c, err)
	return n
}

func (c *contract) update(resources *specs.LinuxResources) error {
	c.Helper()
	text, err := json.Marshal(resources)
	require.NoError(c, err)
	return c.updateAny(&anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: text})
}

func (c *contract) updateAny(resources *anypb.Any) error {
	_, err := c.Update(c.ctx, &task.UpdateTaskRequest{ID: c.ID, Resources: resources})
	return err
}

func memory(limit int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
}

func (c *contract) memoryLimit() uint64 {
	c.Helper()
	return number(c, c.cgroup("memory", "memory.limit_in_bytes", "memory.max"))
}

var updates = []test{
	{"memory", noExecs, func(c *contract) {
		c.sleeper(limit)
		require.EqualValues(c, 64<<20, c.memoryLimit())
		for _, size := range []int64{96 << 20, 96 << 20, 48 << 20} {
			require.NoError(c, c.update(memory(size)))
			require.EqualValues(c, size, c.memoryLimit())
		}
		c.status("", types.Status_RUNNING)
	}},
	{"cpu and pids", noExecs, func(c *contract) {
		c.sleeper()
		shares, period, quota, pids := uint64(512), uint64(50000), int64(25000), int64(77)
		require.NoError(c, c.update(&specs.LinuxResources{
			CPU:  &specs.LinuxCPU{Shares: &shares, Period: &period, Quota: &quota},
			Pids: &specs.LinuxPids{Limit: &pids},
		}))
		require.Equal(c, "77", c.cgroup("pids", "pids.max", "pids.max"))
		if isV2() {
			require.Equal(c, "25000 50000", c.cgroup("", "", "cpu.max"))
		} else {
			require.Equal(c, []string{"512", "50000", "25000"}, []string{c.cgroup("cpu", "cpu.shares", ""), c.cgroup("cpu", "cpu.cfs_period_us", ""), c.cgroup("cpu", "cpu.cfs_quota_us", "")})
		}
	}},
	{"the second of a pod", noExecs, func(c *contract) {
		c.sleeper(limit)
		pod := c.ByHand
		c.createAs(harness.HandConfig{Args: c.init.sleep, Shim: pod, Opts: []oci.SpecOpts{limit}})
		c.start("")
		require.NoError(c, c.update(memory(80<<20)))
		require.EqualValues(c, 80<<20, c.memoryLimit())
		c.end()
		c.ByHand = pod
		require.EqualValues(c, 64<<20, c.memoryLimit())
		c.end()
	}},
	{"no limit", noExecs, func(c *contract) {
		c.sleeper(limit, pidsLimit)
		quota, pids, none := int64(-1), int64(-1), int64(-1)
		require.NoError(c, c.update(&specs.LinuxResources{
			CPU: &specs.LinuxCPU{Quota: &quota}, Memory: &specs.LinuxMemory{Limit: &none}, Pids: &specs.LinuxPids{Limit: &pids},
		}))
		require.Equal(c, "max", c.cgroup("pids", "pids.max", "pids.max"))
		if isV2() {
			require.Equal(c, "max", c.cgroup("", "", "memory.max"))
		} else {
			require.Equal(c, "-1", c.cgroup("cpu", "cpu.cfs_quota_us", ""))
			require.Greater(c, c.memoryLimit(), uint64(1<<60))
		}
	}},
	{"cpuset", noExecs, func(c *contract) {
		c.sleeper()
		require.NoError(c, c.update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}}))
		require.Equal(c, "0", c.cgroup("cpuset", "cpuset.cpus", "cpuset.cpus"))
	}},
	{"in each state", noExecs, func(c *contract) {
		c.create(c.init.sleep, limit)
		c.same("created", "OK", code(c.update(memory(96<<20))))
		require.EqualValues(c, 96<<20, c.memoryLimit())
		c.start("")
		c.printed(c.Streams, "ready")
		c.pause()
		require.NoError(c, c.update(memory(80<<20)))
		require.EqualValues(c, 80<<20, c.memoryLimit())
		c.status("", types.Status_PAUSED)
		c.kill("", 9)
		c.wait("")
		c.refused("stopped", codes.FailedPrecondition, c.update(memory(64<<20)))
		c.delete("")
		c.refused("deleted", codes.NotFound, c.update(memory(64<<20)))
	}},
	{"a refused value changes nothing", noExecs, func(c *contract) {
		c.sleeper(limit)
		shares := c.cgroup("cpu", "cpu.shares", "cpu.weight")
		otherShares, period, quota := uint64(100), uint64(7), int64(3)
		more := memory(96 << 20)
		more.CPU = &specs.LinuxCPU{Shares: &otherShares, Period: &period, Quota: &quota} // a period of 7 µs
		c.refused("period", codes.InvalidArgument, c.update(more))
		now := c.memoryLimit()
		c.same("memory after it", uint64(64<<20), now)
		c.same("shares after it", shares, c.cgroup("cpu", "cpu.shares", "cpu.weight"))
		tooLittle := memory(4096)
		tooLittle.Memory.CheckBeforeUpdate = new(true) // version 1 always looks, 2 would kill what is too large
		c.refused("memory below what is used", codes.InvalidArgument, c.update(tooLittle))
		require.Equal(c, now, c.memoryLimit())
		c.refused("cpus that there are not", codes.InvalidArgument, c.update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}}))
		c.refused("of another type", codes.InvalidArgument, c.updateAny(&anypb.Any{TypeUrl: "no.such.type", Value: []byte("x")}))
		c.refused("no JSON", codes.InvalidArgument, c.updateAny(&anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: []byte("{")}))
		require.Equal(c, now, c.memoryLimit())
		c.status("", types.Status_RUNNING)
		c.end()
	}},
	{"no resources", noExecs, func(c *contract) {
		if c.cannot("update without resources") {
			return
		}
		c.sleeper()
		c.refused("update", codes.InvalidArgument, c.updateAny(nil))
		c.status("", types.Status_RUNNING)
	}},
}

// metrics are what Stats answers.
func (c *contract) metrics() (v1 *cgroup1.Metrics, v2 *cgroup2.Metrics) {
	c.Helper()
	r, err := c.Stats(c.ctx, &task.StatsRequest{ID: c.ID})
	require.NoError(c, err)
	if isV2() {
		require.Equal(c, "io.containerd.cgroups.v2.Metrics", r.Stats.TypeUrl)
		v2 = &cgroup2.Metrics{}
		require.NoError(c, typeurl.UnmarshalTo(r.Stats, v2))
		return nil, v2
	}
	require.Equal(c, "io.containerd.cgroups.v1.Metrics", r.Stats.TypeUrl)
	v1 = &cgroup1.Metrics{}
	require.NoError(c, typeurl.UnmarshalTo(r.Stats, v1))
	return v1, nil
}

// measured compares a few numbers with the cgroup's own files. Those that grow lie
// between what the files say before and after.
func (c *contract) measured(when string, pids uint64) {
	c.Helper()
	before := c.cpuTime()
	v1, v2 := c.metrics()
	after := c.cpuTime()
	var cpu, current, maximum, memory, usage uint64
	if v2 != nil {
		cpu, current, maximum = v2.CPU.UsageUsec*1000, v2.Pids.Current, v2.Pids.Limit
		memory, usage = v2.Memory.UsageLimit, v2.Memory.Usage
	} else {
		cpu, current, maximum = v1.CPU.Usage.Total, v1.Pids.Current, v1.Pids.Limit
		memory, usage = v1.Memory.Usage.Limit, v1.Memory.Usage.Usage
	}
	require.GreaterOrEqual(c, cpu, before, when)
	require.LessOrEqual(c, cpu, after, when)
	require.Equal(c, pids, current, "%s: pids", when)
	require.EqualValues(c, 99, maximum, "%s: limit of pids", when)
	require.EqualValues(c, 64<<20, memory, "%s: limit of memory", when)
	if pids > 0 {
		require.NotZero(c, usage, when)
		require.Less(c, usage, uint64(64<<20), when)
	}
}

// exact compares numbers of a container that stands still with the cgroup's files. The
// kernel may give back in between what it holds ready for a cgroup on each CPU, once.
func (c *contract) exact() {
	c.Helper()
	var stats, files map[string]uint64
	for range 3 {
		if stats, files = c.numbers(); maps.Equal(stats, files) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.Equal(c, files, stats)
}

// numbers are the same ones, by Stats and by the cgroup's files.
func (c *contract) numbers() (stats, files map[string]uint64) {
	c.Helper()
	v1, v2 := c.metrics()
	if v2 != nil {
		m, stat := v2.Memory, table(c.cgroup("", "", "memory.stat"))
		return map[string]uint64{"anon": m.Anon, "file": m.File, "inactive_file": m.InactiveFile, "pgfault": m.Pgfault},
			map[string]uint64{"anon": stat["anon"], "file": stat["file"], "inactive_file": stat["inactive_file"], "pgfault": stat["pgfault"]}
	}
	m, stat := v1.Memory, table(c.cgroup("memory", "memory.stat", ""))
	stats = map[string]uint64{
		"cache": m.Cache, "rss": m.RSS, "total_inactive_file": m.TotalInactiveFile, "pgfault": m.PgFault,
		"usage": m.Usage.Usage, "max": m.Usage.Max, "failcnt": m.Usage.Failcnt,
		"cpu": v1.CPU.Usage.Total, "periods": v1.CPU.Throttling.Periods,
	}
	files = map[string]uint64{
		"cache": stat["cache"], "rss": stat["rss"], "total_inactive_file": stat["total_inactive_file"], "pgfault": stat["pgfault"],
		"usage": number(c, c.cgroup("memory", "memory.usage_in_bytes", "")), "max": number(c, c.cgroup("memory", "memory.max_usage_in_bytes", "")),
		"failcnt": number(c, c.cgroup("memory", "memory.failcnt", "")),
		"cpu":     number(c, c.cgroup("cpuacct", "cpuacct.usage", "")), "periods": table(c.cgroup("cpu", "cpu.stat", ""))["nr_periods"],
	}
	for i, n := range v1.CPU.Usage.PerCPU {
		stats[fmt.Sprint("cpu ", i)] = n
	}
	for i, text := range strings.Fields(c.cgroup("cpuacct", "cpuacct.usage_percpu", "")) {
		files[fmt.Sprint("cpu ", i)] = number(c, text)
	}
	return stats, files
}

// table reads lines of a name and a number.
func table(text string) map[string]uint64 {
	found := map[string]uint64{}
	for line := range strings.Lines(text) {
		var name string
		var n uint64
		if _, err := fmt.Sscan(line, &name, &n); err == nil {
			found[name] = n
		}
	}
	return found
}

// cpuTime is the cgroup's, in nanoseconds.
func (c *contract) cpuTime() uint64 {
	c.Helper()
	if !isV2() {
		return number(c, c.cgroup("cpuacct", "cpuacct.usage", ""))
	}
	_, text, _ := strings.Cut(c.cgroup("", "", "cpu.stat"), "usage_usec ")
	text, _, _ = strings.Cut(text, "\n")
	return number(c, text) * 1000
}

// oomKills is what Stats says of the kernel's kills.
func (c *contract) oomKills() uint64 {
	c.Helper()
	v1, v2 := c.metrics()
	if v2 != nil {
		return v2.MemoryEvents.OomKill
	}
	return v1.MemoryOomControl.OomKill
}

var pidsLimit = with(func(s *oci.Spec) {
	limit := int64(99)
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit}
})

var stats = []test{
	{"in each state", noExecs, func(c *contract) {
		c.create(c.init.sleep, limit, pidsLimit)
		c.measured("created", number(c, c.cgroup("pids", "pids.current", "pids.current")))
		c.start("")
		c.printed(c.Streams, "ready")
		c.measured("running", number(c, c.cgroup("pids", "pids.current", "pids.current")))
		c.pause()
		c.measured("paused", number(c, c.cgroup("pids", "pids.current", "pids.current")))
		c.exact()
		c.kill("", 9)
		c.wait("")
		if isV2() && harness.Systemd {
			c.metrics() // answers, though systemd removes the cgroup
		} else {
			c.measured("stopped", 0)
		}
		require.Zero(c, c.oomKills())
		c.delete("")
		_, err := c.Stats(c.ctx, &task.StatsRequest{ID: c.ID})
		c.refused("deleted", codes.NotFound, err)
	}},
	{"after an OOM", both, func(c *contract) {
		c.run(hog, limit)
		c.exits("", 137)
		require.EqualValues(c, 1, c.oomKills())
		c.delete("")
	}},
	{"counts execs", none, func(c *contract) {
		c.sleeper(limit, pidsLimit)
		before := number(c, c.cgroup("pids", "pids.current", "pids.current"))
		s := c.exec("e", c.execs.sleep, execConfig{})
		c.printed(s, "ready")
		now := number(c, c.cgroup("pids", "pids.current", "pids.current"))
		require.Greater(c, now, before)
		c.measured("with an exec", now)
		c.end()
	}},
}
