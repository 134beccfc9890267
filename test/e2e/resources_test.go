// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// cgroupFile reads a file of a container's cgroup, version 1.
func cgroupFile(t *harness.T, controller, id, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, t.Namespace, id, name))
	require.NoError(t, err)
	return strings.TrimSpace(string(text))
}

func TestPause(t *testing.T) {
	for _, runtime := range []string{smoke.Runc, smoke.Ours} {
		for name, args := range map[string][]string{
			"native": {"/bin/sh", "-c", "echo ready; while :; do echo tick; sleep 0.01; done"}, "guest": {"/spin.wasm"},
		} {
			if runtime == smoke.Runc && name == "guest" {
				continue
			}
			t.Run(runtime+"/"+name, func(t *testing.T) {
				tt := harness.New(t, runtime)
				events := tt.Subscribe(tt.Ctx)
				defer events.Close()
				c := sleeping(tt, args)
				e := tt.Exec(c, harness.ExecConfig{Args: []string{"/bin/sleep", "1000"}})
				require.Error(t, c.Task.Resume(tt.Ctx))
				require.NoError(t, c.Task.Pause(tt.Ctx))
				tt.RequireStatus(c.Task, client.Paused)
				status, err := e.Status(tt.Ctx)
				require.NoError(t, err)
				require.Equal(t, client.Paused, status.Status)
				used := cgroupFile(tt, "cpuacct", c.ID(), "cpuacct.usage")
				require.Error(t, c.Task.Pause(tt.Ctx))
				if runtime == smoke.Ours { // runc's shim adds the exec, and fails to start it
					_, err = tt.Daemon.AddExec(tt.Ctx, c, harness.ExecConfig{Args: []string{"/native"}})
					require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
					require.ErrorContains(t, err, "is paused")
				}
				pids, err := c.Task.Pids(tt.Ctx)
				require.NoError(t, err)
				require.GreaterOrEqual(t, len(pids), 2)
				require.Equal(t, used, cgroupFile(tt, "cpuacct", c.ID(), "cpuacct.usage"), "nothing runs")
				require.NoError(t, c.Task.Resume(tt.Ctx))
				tt.RequireStatus(c.Task, client.Running)
				require.Eventually(t, func() bool { return used != cgroupFile(tt, "cpuacct", c.ID(), "cpuacct.usage") }, 10*time.Second, time.Millisecond)
				require.NoError(t, c.Task.Pause(tt.Ctx))
				require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGKILL))
				require.NoError(t, c.Wait(tt.Ctx))
				_, err = e.Finish(tt.Ctx)
				require.NoError(t, err)
				result, err := tt.Finish(c)
				require.NoError(t, err)
				require.EqualValues(t, 137, result.Code)
				if runtime == smoke.Ours {
					want := []string{"create", "start", "exec-added", "exec-started", "paused", "resumed", "paused", "exit", "exit", "delete"}
					require.Equal(t, want, events.Topics(c.ID(), want...))
				}
				tt.RequireNothingLeft()
			})
		}
	}
}

// A container that is not started cannot be paused, and one that is paused is not
// started, nor waited for.
func TestPauseStates(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	c := tt.Create(harness.Config{Image: smoke.Image(tt), Args: []string{"/sleep.wasm"}})
	for _, call := range []func() error{func() error { return c.Task.Pause(tt.Ctx) }, func() error { return c.Task.Resume(tt.Ctx) }} {
		err := call()
		require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
		require.ErrorContains(t, err, "it is created")
	}
	require.NoError(t, c.Task.Start(tt.Ctx))
	e := tt.AddExec(c, harness.ExecConfig{Args: []string{"/native"}})
	require.NoError(t, c.Task.Pause(tt.Ctx))
	for _, p := range []client.Process{c.Task, e} {
		err := p.Start(tt.Ctx)
		require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
	}
	require.NoError(t, tt.Remove(tt.Ctx, c))
}

// Each resource that can be changed is read back from the cgroup. What is refused
// changes nothing.
func TestUpdate(t *testing.T) {
	for _, runtime := range []string{smoke.Runc, smoke.Ours} {
		t.Run(runtime, func(t *testing.T) {
			tt := harness.New(t, runtime)
			pod := harness.FreshID("pod")
			args := sleepers["guest"]
			if runtime == smoke.Runc {
				args = sleepers["native"]
			}
			image := smoke.Image(tt)
			first := tt.Run(harness.Config{ID: pod, Pod: pod, Image: image, Args: sleepers["native"]})
			second := tt.Run(harness.Config{Pod: pod, Image: image, Args: args})
			for _, c := range []*harness.Container{first, second} {
				for _, test := range []struct {
					name      string
					resources specs.LinuxResources
					files     map[string]string // controller/file: value
				}{
					{"memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(100 << 20)), Reservation: new(int64(50 << 20))}}, map[string]string{
						"memory/memory.limit_in_bytes": "104857600", "memory/memory.soft_limit_in_bytes": "52428800",
					}},
					{"more memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(200 << 20))}}, map[string]string{"memory/memory.limit_in_bytes": "209715200"}},
					{"cpu", specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(333)), Quota: new(int64(50000)), Period: new(uint64(100000))}}, map[string]string{
						"cpu/cpu.shares": "333", "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000",
					}},
					{"quota alone", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(40000))}}, map[string]string{"cpu/cpu.cfs_quota_us": "40000", "cpu/cpu.cfs_period_us": "100000"}},
					{"burst", specs.LinuxResources{CPU: &specs.LinuxCPU{Burst: new(uint64(1000))}}, map[string]string{"cpu/cpu.cfs_burst_us": "1000"}},
					{"cpuset", specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Mems: "0"}}, map[string]string{"cpuset/cpuset.cpus": "0", "cpuset/cpuset.mems": "0"}},
					{"pids", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(77))}}, map[string]string{"pids/pids.max": "77"}},
				} {
					for range 2 { // the second time changes nothing
						require.NoError(t, c.Task.Update(tt.Ctx, client.WithResources(&test.resources)), test.name)
						for file, want := range test.files {
							controller, name := filepath.Split(file)
							require.Equal(t, want, cgroupFile(tt, controller, c.ID(), name), test.name)
						}
					}
				}
				require.Equal(t, "209715200", cgroupFile(tt, "memory", c.ID(), "memory.limit_in_bytes"), "what is not named stays")
			}
			if runtime == smoke.Runc {
				return // of a value that is refused it keeps what came before in the same request
			}
			for name, bad := range map[string]specs.LinuxResources{
				"no such cpu":       {Memory: &specs.LinuxMemory{Limit: new(int64(150 << 20))}, Pids: &specs.LinuxPids{Limit: new(int64(55))}, CPU: &specs.LinuxCPU{Cpus: "4711"}},
				"less than is used": {CPU: &specs.LinuxCPU{Shares: new(uint64(444)), Quota: new(int64(30000))}, Memory: &specs.LinuxMemory{Limit: new(int64(4096))}},
				"no such period":    {Memory: &specs.LinuxMemory{Limit: new(int64(150 << 20))}, CPU: &specs.LinuxCPU{Shares: new(uint64(444)), Period: new(uint64(1))}},
			} {
				err := second.Task.Update(tt.Ctx, client.WithResources(&bad))
				require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
				for file, want := range map[string]string{
					"memory/memory.limit_in_bytes": "209715200", "pids/pids.max": "77", "cpu/cpu.shares": "333", "cpu/cpu.cfs_quota_us": "40000", "cpu/cpu.cfs_period_us": "100000", "cpuset/cpuset.cpus": "0",
				} {
					controller, file := filepath.Split(file)
					require.Equal(t, want, cgroupFile(tt, controller, second.ID(), file), name)
				}
			}
			// libcontainer's own record is right as well: the next exec and update go by it.
			require.Equal(t, "hello\n", tt.ExecOnce(second, harness.ExecConfig{Args: []string{"/hello.wasm"}}).Stdout)
			require.NoError(t, second.Task.Pause(tt.Ctx))
			require.NoError(t, second.Task.Update(tt.Ctx, client.WithResources(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(66))}})))
			tt.RequireStatus(second.Task, client.Paused)
			require.Equal(t, "66", cgroupFile(tt, "pids", second.ID(), "pids.max"))
			require.NoError(t, second.Task.Resume(tt.Ctx))
			require.NoError(t, second.Task.Kill(tt.Ctx, syscall.SIGKILL))
			require.NoError(t, second.Wait(tt.Ctx))
			err := second.Task.Update(tt.Ctx, client.WithResources(&specs.LinuxResources{}))
			require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
		})
	}
}

// limitFiles are all that an update can change, with their values.
func limitFiles(t *harness.T, id string) string {
	var all []string
	for _, pattern := range []string{
		"*/memory.*limit_in_bytes", "cpu/cpu.shares", "cpu/cpu.*_us", "cpu/cpu.idle", "cpuset/cpuset.cpus", "cpuset/cpuset.mems",
		"pids/pids.max", "blkio/blkio.throttle.*_device", "blkio/blkio.*weight*",
	} {
		controller, file := filepath.Split(pattern)
		files, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", controller, t.Namespace, id, file))
		require.NoError(t, err)
		for _, f := range files {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			all = append(all, filepath.Base(f)+" "+strings.TrimSpace(string(b)))
		}
	}
	require.Greater(t, len(all), 10)
	slices.Sort(all)
	return strings.Join(slices.Compact(all), "; ")
}

func (c *caller) update(when string, resources any) {
	b, err := json.Marshal(resources)
	require.NoError(c, err)
	c.updateRaw(when, &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: b})
}

func (c *caller) updateRaw(when string, resources *anypb.Any) {
	_, err := c.shim.Update(c.ctx(), &task.UpdateTaskRequest{ID: c.id, Resources: resources})
	c.note("update "+when, nil, err)
}

func aDisk(t testing.TB) (major, minor int64) {
	disks, err := filepath.Glob("/sys/block/*/dev")
	require.NoError(t, err)
	require.NotEmpty(t, disks)
	b, err := os.ReadFile(disks[len(disks)-1])
	require.NoError(t, err)
	_, err = fmt.Sscanf(string(b), "%d:%d", &major, &minor)
	require.NoError(t, err)
	return major, minor
}

// Whatever an update names, in each state, leaves the limits that runc's shim leaves.
func TestUpdateLikeRunc(t *testing.T) {
	likeRunc(t, []likeRuncCase{
		{"update", func(c *caller) {
			c.begin(harness.HandConfig{})
			disk := specs.LinuxThrottleDevice{Rate: 1 << 20}
			disk.Major, disk.Minor = aDisk(c)
			const mib = 1 << 20
			updates := []struct {
				name string
				r    specs.LinuxResources
			}{
				{"nothing", specs.LinuxResources{}},
				{"memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(64 * mib)), Swap: new(int64(64 * mib)), Reservation: new(int64(32 * mib))}}},
				{"more memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(128 * mib)), Swap: new(int64(256 * mib))}}},
				{"less memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(32 * mib))}}},
				{"cpu", specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(512)), Quota: new(int64(25000)), Period: new(uint64(50000)), Burst: new(uint64(1000))}}},
				{"quota", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(40000))}}},
				{"no quota", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(-1))}}},
				{"cpuset", specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Mems: "0"}}},
				{"pids", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(77))}}},
				{"pids without limit", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(-1))}}},
				{"disk", specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
					ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{disk}, ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{disk},
				}}},
				{"no memory limit", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(-1))}}},
				{"idle", specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: new(int64(1))}}},
			}
			for _, state := range []string{"created", "running", "paused"} {
				switch state {
				case "running":
					c.start("")
				case "paused":
					_, err := c.shim.Pause(c.ctx(), &task.PauseRequest{ID: c.id})
					c.note("pause", nil, err)
				}
				for _, u := range updates {
					if u.name == "cpu" && state != "created" {
						continue // an idle group refuses weights
					}
					for _, round := range []string{"once", "twice"} {
						when := strings.Join([]string{u.name, state, round}, ", ")
						c.update(when, u.r)
						c.note("limits "+when, limitFiles(c.T, c.id), nil)
					}
				}
			}
			c.state("after updates")
			_, err := c.shim.Resume(c.ctx(), &task.ResumeRequest{ID: c.id})
			c.note("resume", nil, err)
			c.updateRaw("without resources", &anypb.Any{}) // without even that runc's shim dies
			c.updateRaw("with a text", &anypb.Any{TypeUrl: "x", Value: []byte("{")})
			c.kill("", 9, false)
			c.wait("")
			c.update("exited", specs.LinuxResources{})
			c.delete("")
			c.update("deleted", specs.LinuxResources{})
		}},
	}, map[string]otherwise{ // where runc's shim answers without a code
		"update without resources": {codes.InvalidArgument, "parse them"},
		"update with a text":       {codes.InvalidArgument, "parse them"},
		"update exited":            {codes.FailedPrecondition, "it is stopped"},
	})
}

func metrics(t *harness.T, c *harness.Container) *v1.Metrics {
	t.Helper()
	metric, err := c.Task.Metrics(t.Ctx)
	require.NoError(t, err)
	require.Equal(t, "io.containerd.cgroups.v1.Metrics", metric.Data.TypeUrl)
	m, err := typeurl.UnmarshalAny(metric.Data)
	require.NoError(t, err)
	return m.(*v1.Metrics)
}

// from says where a number of the statistics comes from.
type from struct {
	controller, file, key string // without a key it is all that is in the file
	unit                  uint64
}

func (f from) read(t *harness.T, id string) uint64 {
	text := cgroupFile(t, f.controller, id, f.file)
	if f.key != "" {
		for line := range strings.Lines(text) {
			if fields := strings.Fields(line); len(fields) == 2 && fields[0] == f.key {
				text = fields[1]
			}
		}
	}
	if text == "max" {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, "%s in %s", f.key, f.file)
	return n * max(f.unit, 1)
}

// numbersOfVersion1 has every number of the message of cgroup v1, by its name in it.
func numbersOfVersion1() map[string]from {
	const tick = 10_000_000 // nanoseconds of the kernel's clock for users
	all := map[string]from{
		"pids.current":                     {"pids", "pids.current", "", 1},
		"pids.limit":                       {"pids", "pids.max", "", 1},
		"cpu.usage.total":                  {"cpuacct", "cpuacct.usage", "", 1},
		"cpu.usage.user":                   {"cpuacct", "cpuacct.stat", "user", tick},
		"cpu.usage.kernel":                 {"cpuacct", "cpuacct.stat", "system", tick},
		"cpu.throttling.periods":           {"cpu", "cpu.stat", "nr_periods", 1},
		"cpu.throttling.throttled_periods": {"cpu", "cpu.stat", "nr_throttled", 1},
		"cpu.throttling.throttled_time":    {"cpu", "cpu.stat", "throttled_time", 1},

		"memory_oom_control.oom_kill_disable": {"memory", "memory.oom_control", "oom_kill_disable", 1},
		"memory_oom_control.under_oom":        {"memory", "memory.oom_control", "under_oom", 1},
		"memory_oom_control.oom_kill":         {"memory", "memory.oom_control", "oom_kill", 1},

		"memory.hierarchical_memory_limit": {"memory", "memory.stat", "hierarchical_memory_limit", 1},
		"memory.hierarchical_swap_limit":   {"memory", "memory.stat", "hierarchical_memsw_limit", 1},
	}
	for name, key := range map[string]string{
		"cache": "cache", "rss": "rss", "rss_huge": "rss_huge", "mapped_file": "mapped_file", "dirty": "dirty", "writeback": "writeback",
		"pg_pg_in": "pgpgin", "pg_pg_out": "pgpgout", "pg_fault": "pgfault", "pg_maj_fault": "pgmajfault", "inactive_anon": "inactive_anon",
		"active_anon": "active_anon", "inactive_file": "inactive_file", "active_file": "active_file", "unevictable": "unevictable",
	} {
		all["memory."+name] = from{"memory", "memory.stat", key, 1}
		all["memory.total_"+name] = from{"memory", "memory.stat", "total_" + key, 1}
	}
	for name, infix := range map[string]string{"usage": "", "swap": "memsw.", "kernel": "kmem.", "kernel_tcp": "kmem.tcp."} {
		for number, file := range map[string]string{"limit": "limit_in_bytes", "usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"} {
			all["memory."+name+"."+number] = from{"memory", "memory." + infix + file, "", 1}
		}
	}
	return all
}

// numbersIn are the numbers of a message that are not in a list, by their names.
func numbersIn(m protoreflect.Message, prefix string, found map[string]uint64) map[string]uint64 {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := prefix + string(f.Name())
		switch {
		case f.IsList():
		case f.Kind() == protoreflect.MessageKind:
			if m.Has(f) {
				numbersIn(m.Get(f).Message(), name+".", found)
			}
		default:
			found[name] = m.Get(f).Uint()
		}
	}
	return found
}

// Each number of the statistics is what the container's cgroup says, in the unit of the
// message; as with runc's shim.
func TestStats(t *testing.T) {
	type life struct {
		runtime string
		args    []string
	}
	busy := []string{"/bin/sh", "-c", "echo ready; while :; do :; done"}
	numbers := numbersOfVersion1()
	for name, l := range map[string]life{
		"runc": {smoke.Runc, busy}, "native": {smoke.Ours, busy}, "guest": {smoke.Ours, []string{"/spin.wasm"}},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, l.runtime)
			limits := harness.WithSpec(func(s *oci.Spec) {
				s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(256 << 20))}
				s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: new(int64(20000)), Period: new(uint64(100000))}
				s.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(40))}
			})
			c := tt.Create(harness.Config{Image: smoke.Image(tt), Args: l.args, Opts: []oci.SpecOpts{limits}})
			stats := func() *v1.Metrics { return metrics(tt, c) }
			compare := func(state string) {
				t.Helper()
				var got, want map[string]uint64
				var m *v1.Metrics
				// The kernel itself brings its numbers up to date only now and then.
				for range 50 {
					m = stats()
					got, want = numbersIn(m.ProtoReflect(), "", map[string]uint64{}), map[string]uint64{}
					for name, f := range numbers {
						want[name] = f.read(tt, c.ID())
					}
					if maps.Equal(want, got) {
						break
					}
					time.Sleep(20 * time.Millisecond)
				}
				require.Equal(t, want, got, state)
				require.NotZero(t, got["cpu.usage.total"])
				require.NotZero(t, got["memory.usage.max"])
				var each []string
				for _, n := range m.CPU.Usage.PerCPU {
					each = append(each, strconv.FormatUint(n, 10))
				}
				require.Equal(t, cgroupFile(tt, "cpuacct", c.ID(), "cpuacct.usage_percpu"), strings.Join(each, " "))
				require.Equal(t, blkio(cgroupFile(tt, "blkio", c.ID(), "blkio.throttle.io_service_bytes")), entries(m.Blkio.IoServiceBytesRecursive))
				require.Equal(t, blkio(cgroupFile(tt, "blkio", c.ID(), "blkio.throttle.io_serviced")), entries(m.Blkio.IoServicedRecursive))
			}
			compare("created")
			require.NoError(t, c.Task.Start(tt.Ctx))
			require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
			running := stats()
			require.Eventually(t, func() bool { return stats().CPU.Usage.Total > running.CPU.Usage.Total }, 10*time.Second, time.Millisecond)
			require.NoError(t, c.Task.Pause(tt.Ctx))
			compare("paused")
			require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGKILL))
			require.NoError(t, c.Wait(tt.Ctx))
			compare("stopped")
			require.Zero(t, stats().Pids.Current)
			_, err := tt.Finish(c)
			require.NoError(t, err)
		})
	}
}

// blkio are the lines of a file of the block controller but the sum.
func blkio(text string) (lines []string) {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "Total ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func entries(list []*v1.BlkIOEntry) (lines []string) {
	for _, e := range list {
		lines = append(lines, fmt.Sprintf("%d:%d %s %d", e.Major, e.Minor, e.Op, e.Value))
	}
	return lines
}

// A process that waits in the kernel for another one cannot stand still before that is
// over: a pause has the patience.
func TestPauseWaits(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	volume, fuse := silentFileSystem(t)
	args := []string{"/bin/sh", "-c", "cat /volume/silent/x & cat /volume/silent/x & sleep 0.3; echo ready; wait; sleep 1000"}
	c := sleeping(tt, args, oci.WithMounts([]specs.Mount{volume}))
	time.AfterFunc(time.Second, func() { fuse.Close() })
	require.NoError(t, c.Task.Pause(tt.Ctx))
	tt.RequireStatus(c.Task, client.Paused)
	require.Equal(t, "FROZEN", cgroupFile(tt, "freezer", c.ID(), "freezer.state"))
	require.NoError(t, c.Task.Resume(tt.Ctx))
}
