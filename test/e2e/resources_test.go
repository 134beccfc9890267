// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

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
				requireStatus(tt, c, client.Paused)
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
				requireStatus(tt, c, client.Running)
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

func pointer[T any](v T) *T { return &v }

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
					{"memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: pointer[int64](100 << 20), Reservation: pointer[int64](50 << 20)}}, map[string]string{
						"memory/memory.limit_in_bytes": "104857600", "memory/memory.soft_limit_in_bytes": "52428800",
					}},
					{"more memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: pointer[int64](200 << 20)}}, map[string]string{"memory/memory.limit_in_bytes": "209715200"}},
					{"cpu", specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: pointer[uint64](333), Quota: pointer[int64](50000), Period: pointer[uint64](100000)}}, map[string]string{
						"cpu/cpu.shares": "333", "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000",
					}},
					{"quota alone", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: pointer[int64](40000)}}, map[string]string{"cpu/cpu.cfs_quota_us": "40000", "cpu/cpu.cfs_period_us": "100000"}},
					{"burst", specs.LinuxResources{CPU: &specs.LinuxCPU{Burst: pointer[uint64](1000)}}, map[string]string{"cpu/cpu.cfs_burst_us": "1000"}},
					{"cpuset", specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Mems: "0"}}, map[string]string{"cpuset/cpuset.cpus": "0", "cpuset/cpuset.mems": "0"}},
					{"pids", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: pointer[int64](77)}}, map[string]string{"pids/pids.max": "77"}},
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
				"no such cpu":       {Memory: &specs.LinuxMemory{Limit: pointer[int64](150 << 20)}, Pids: &specs.LinuxPids{Limit: pointer[int64](55)}, CPU: &specs.LinuxCPU{Cpus: "4711"}},
				"less than is used": {CPU: &specs.LinuxCPU{Shares: pointer[uint64](444), Quota: pointer[int64](30000)}, Memory: &specs.LinuxMemory{Limit: pointer[int64](4096)}},
				"no such period":    {Memory: &specs.LinuxMemory{Limit: pointer[int64](150 << 20)}, CPU: &specs.LinuxCPU{Shares: pointer[uint64](444), Period: pointer[uint64](1)}},
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
			require.NoError(t, second.Task.Update(tt.Ctx, client.WithResources(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: pointer[int64](66)}})))
			requireStatus(tt, second, client.Paused)
			require.Equal(t, "66", cgroupFile(tt, "pids", second.ID(), "pids.max"))
			require.NoError(t, second.Task.Resume(tt.Ctx))
			require.NoError(t, second.Task.Kill(tt.Ctx, syscall.SIGKILL))
			require.NoError(t, second.Wait(tt.Ctx))
			err := second.Task.Update(tt.Ctx, client.WithResources(&specs.LinuxResources{}))
			require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
		})
	}
}

// What is counted is what the cgroup's own files say, as with runc's shim, from the
// create to the delete.
func TestStats(t *testing.T) {
	for runtime, args := range map[string][]string{smoke.Runc: {"/bin/sh", "-c", "echo ready; sleep 1000"}, smoke.Ours: {"/sleep.wasm"}} {
		t.Run(runtime, func(t *testing.T) {
			tt := harness.New(t, runtime)
			limit := harness.WithSpec(func(s *oci.Spec) {
				s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: pointer[int64](300 << 20)}
				s.Linux.Resources.Pids = &specs.LinuxPids{Limit: pointer[int64](88)}
				s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: pointer[uint64](512)}
			})
			c := tt.Create(harness.Config{Image: smoke.Image(tt), Args: args, Opts: []oci.SpecOpts{limit}})
			check := func(when string) *v1.Metrics {
				t.Helper()
				m := metrics(tt, c)
				number := func(controller, file string) uint64 {
					n, err := strconv.ParseUint(cgroupFile(tt, controller, c.ID(), file), 10, 64)
					require.NoError(t, err)
					return n
				}
				require.EqualValues(t, 300<<20, m.Memory.Usage.Limit, when)
				require.InDelta(t, number("memory", "memory.usage_in_bytes"), m.Memory.Usage.Usage, 1<<20, when)
				require.InDelta(t, number("memory", "memory.max_usage_in_bytes"), m.Memory.Usage.Max, 1<<20, when)
				require.EqualValues(t, 88, m.Pids.Limit, when)
				require.Equal(t, number("pids", "pids.current"), m.Pids.Current, when)
				require.InDelta(t, number("cpuacct", "cpuacct.usage"), m.CPU.Usage.Total, 1e8, when)
				require.NotNil(t, m.CPU.Throttling, when)
				require.NotNil(t, m.MemoryOomControl, when)
				require.NotNil(t, m.Blkio, when)
				require.NotZero(t, m.Memory.RSS+m.Memory.TotalRSS+m.Memory.PgFault, when)
				return m
			}
			check("created")
			require.NoError(t, c.Task.Start(tt.Ctx))
			require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
			check("running")
			require.NoError(t, c.Task.Pause(tt.Ctx))
			check("paused")
			require.NoError(t, c.Task.Resume(tt.Ctx))
			require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGKILL))
			require.NoError(t, c.Wait(tt.Ctx))
			m := check("stopped")
			require.Zero(t, m.MemoryOomControl.OomKill)
			require.Zero(t, m.Pids.Current)
		})
	}
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
