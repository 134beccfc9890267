// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

func unifiedStats(t *harness.T, c *harness.Container) *stats.Metrics {
	t.Helper()
	metric, err := c.Task.Metrics(t.Ctx)
	require.NoError(t, err)
	m := &stats.Metrics{}
	require.NoError(t, typeurl.UnmarshalTo(metric.Data, m))
	return m
}

// A kill for want of memory is told before the exit, and counted until the delete. (Runc's
// shim tells it in any order, and with systemd now and then never.)
func TestOOMIsTold(t *testing.T) {
	eachKind(t, ours(), func(t *harness.T, k kind) {
		events := t.Subscribe(t.Ctx)
		defer events.Close()
		c := t.Run(k.container(t, k.choose([]string{"/allocate.wasm"}, eater), withMemory(48<<20)))
		require.NoError(t, c.Wait(t.Ctx))
		require.EqualValues(t, 1, unifiedStats(t, c).MemoryEvents.OomKill)
		result, err := t.Finish(c)
		require.NoError(t, err)
		require.EqualValues(t, 137, result.Code, "%+v", result)
		want := []string{"create", "start", "oom", "exit", "delete"}
		require.Equal(t, want, slices.Compact(events.Topics(c.ID(), want...))) // one that was not answered in time comes twice
	})
}

// eater takes all the memory that there is, and more.
var eater = []string{"/bin/busybox", "tail", "/dev/zero"}

// systemd removes a cgroup, with its count, when its last process has ended. A kill is told
// also where the daemon had no time to look before that; one by hand is told as none.
func TestOOMIsToldLate(t *testing.T) {
	tt := machine(t, smoke.Ours)
	k := kinds[3]
	events := tt.Subscribe(tt.Ctx)
	defer events.Close()
	for _, test := range []struct {
		name, script string
		code         uint32
		topics       []string
	}{
		{"of the init", "echo ready; sleep 3; exec busybox tail /dev/zero", 137, []string{"create", "start", "oom", "exit", "delete"}},
		{"of a child", "echo ready; sleep 3; busybox tail /dev/zero; exit 3", 3, []string{"create", "start", "oom", "exit", "delete"}},
		{"by hand", "echo ready; sleep 1000", 137, []string{"create", "start", "exit", "delete"}},
		{"of nobody", "echo ready; sleep 3; exit 4", 4, []string{"create", "start", "exit", "delete"}},
	} {
		c := tt.Run(k.container(tt, []string{"/bin/sh", "-c", test.script}, withMemory(48<<20)))
		require.NoError(t, c.Stdout.WaitFor("ready", patience))
		group := groupOf(tt, c.Task.Pid())
		for _, p := range tt.Shims() {
			require.NoError(t, syscall.Kill(p.Pid, syscall.SIGSTOP))
		}
		if test.name == "by hand" {
			require.NoError(t, syscall.Kill(int(c.Task.Pid()), syscall.SIGKILL))
		}
		require.Eventually(t, func() bool {
			_, err := os.Stat(group)
			return os.IsNotExist(err)
		}, patience, 10*time.Millisecond)
		for _, p := range tt.Shims() {
			require.NoError(t, syscall.Kill(p.Pid, syscall.SIGCONT))
		}
		require.NoError(t, c.Wait(tt.Ctx))
		require.Equal(t, slices.Contains(test.topics, "oom"), unifiedStats(tt, c).MemoryEvents.OomKill == 1)
		result, err := tt.Finish(c)
		require.NoError(t, err)
		require.Equal(t, test.code, result.Code, "%+v", result)
		require.Equal(t, test.topics, events.Topics(c.ID(), test.topics...), test.name)
	}
}

// A limit of memory in which nothing can start says that it is the reason; one in which
// it can is enough.
func TestTooLittleMemory(t *testing.T) {
	eachKind(t, ours(), func(t *harness.T, k kind) {
		t.Once(k.container(t, k.hello())) // compiled now
		refused := 0
		for _, mib := range []int64{1, 2, 4, 8, 16, 32} {
			c, err := t.Daemon.Create(t.Ctx, k.container(t, k.hello(), withMemory(mib<<20)))
			if err != nil {
				t.Logf("%d MiB: %v", mib, err)
				refused++
				require.ErrorContains(t, err, fmt.Sprintf("the container's memory limit of %d bytes is too low", mib<<20))
				continue
			}
			err = c.Task.Start(t.Ctx)
			require.NoError(t, err)
			result, err := t.Finish(c)
			require.NoError(t, err)
			t.Logf("%d MiB: %+v", mib, result)
			if result.Code == 0 {
				break
			}
			require.EqualValues(t, 137, result.Code)
		}
		require.Positive(t, refused, "the test is to find a limit that is too low")
		t.RequireNothingLeft()
	})
}

// A guest that may have one process alone says why it does not run.
func TestOneProcess(t *testing.T) {
	eachKind(t, ours(), func(t *harness.T, k kind) {
		limit := int64(1)
		result := t.Once(k.container(t, k.hello(), harness.WithSpec(func(s *oci.Spec) {
			s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit}
		})))
		if k.guest {
			require.EqualValues(t, 125, result.Code, "%+v", result)
			require.Contains(t, result.Stderr, "its limit on processes (pids) is too low")
		} else {
			require.Zero(t, result.Code, "%+v", result)
		}
	})
}
