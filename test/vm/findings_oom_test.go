// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"testing"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

func unifiedStats(t *harness.T, c *harness.Container) *stats.Metrics {
	t.Helper()
	metric, err := c.Task.Metrics(t.Ctx)
	require.NoError(t, err)
	m := &stats.Metrics{}
	require.NoError(t, typeurl.UnmarshalTo(metric.Data, m))
	return m
}

// A kill for want of memory is told before the exit, and counted until the delete, also
// where systemd has removed the cgroup when its last process had ended.
func TestOOMIsTold(t *testing.T) {
	const limit = 48 << 20
	for name, args := range map[string]struct {
		guest, native []string
		code          uint32
	}{
		"init":  {[]string{"/allocate.wasm"}, []string{"/bin/busybox", "tail", "/dev/zero"}, 137},
		"child": {nil, []string{"/bin/sh", "-c", "busybox tail /dev/zero; exit 3"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			eachKind(t, kinds, func(t *harness.T, k kind) {
				if k.guest && args.guest == nil {
					t.Skip("a guest has no children")
				}
				events := t.Subscribe(t.Ctx)
				defer events.Close()
				for range 3 {
					c := t.Run(k.container(t, k.choose(args.guest, args.native), withMemory(limit)))
					require.NoError(t, c.Wait(t.Ctx))
					if k.runtime == t.Runtime && k.name[0] != 'r' {
						require.EqualValues(t, 1, unifiedStats(t, c).MemoryEvents.OomKill)
					}
					result, err := t.Finish(c)
					require.NoError(t, err)
					require.Equal(t, args.code, result.Code, "%+v", result)
					want := []string{"create", "start", "oom", "exit", "delete"}
					require.Equal(t, want, events.Topics(c.ID(), want...))
				}
			})
		})
	}
}

// A limit of memory in which nothing can start says that it is the reason; one in which
// it can is enough.
func TestTooLittleMemory(t *testing.T) {
	eachKind(t, ours(), func(t *harness.T, k kind) {
		t.Once(k.container(t, k.hello())) // compiled now
		refused := 0
		for _, mib := range []int64{1, 2, 4, 6, 8, 10, 12, 16, 32} {
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

// A container that may have one process alone runs, or says why not.
func TestOneProcess(t *testing.T) {
	eachKind(t, kinds, func(t *harness.T, k kind) {
		for _, limit := range []int64{1, 2} {
			result := t.Once(k.container(t, k.hello(), harness.WithSpec(func(s *oci.Spec) {
				s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit}
			})))
			t.Logf("%d: %+v", limit, result)
			if result.Code != 0 {
				require.NotEqualValues(t, 134, result.Code, "that would be the guest's own fault")
				require.Contains(t, result.Stderr, "its limit on processes (pids) is too low")
			}
		}
	})
}
