// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/opencontainers/cgroups"
	"github.com/stretchr/testify/require"
)

func readCgroup(t *testing.T, c *Container, controller, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.cgroup.Paths[controller], file))
	require.NoError(t, err)
	return string(b)
}

func number(t *testing.T, c *Container, controller, file string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.TrimSpace(readCgroup(t, c, controller, file)), 10, 64)
	require.NoError(t, err)
	return n
}

func oomKillStat(t *testing.T, c *Container) uint64 {
	t.Helper()
	m, err := c.Stats()
	require.NoError(t, err)
	if m, ok := m.(*stats1.Metrics); ok {
		return m.MemoryOomControl.OomKill
	}
	return m.(*stats2.Metrics).MemoryEvents.OomKill
}

// TestStats: in every state, from the container's own cgroup, and in the units that
// the message says. The e2e test compares each number.
func TestStats(t *testing.T) {
	needRoot(t)
	if cgroups.IsCgroup2UnifiedMode() {
		t.Skip("compares with the files of version 1")
	}
	c, _, _ := watched(t, own, "sleep")
	check := func(state string) {
		t.Helper()
		answer, err := c.Stats()
		require.NoError(t, err, state)
		m := answer.(*stats1.Metrics)
		require.Equal(t, number(t, c, "pids", "pids.current"), m.Pids.Current, state)
		require.EqualValues(t, oomLimit, m.Memory.Usage.Limit, state)
		require.Equal(t, number(t, c, "memory", "memory.max_usage_in_bytes"), m.Memory.Usage.Max, state)
		require.NotZero(t, m.CPU.Usage.Total, state)
		require.LessOrEqual(t, m.CPU.Usage.Total, number(t, c, "cpuacct", "cpuacct.usage"), state)
		require.NotNil(t, m.Blkio, state)
		require.Zero(t, m.MemoryOomControl.OomKill, state)
	}
	check("created")
	require.NoError(t, c.Start())
	// The threads of libcontainer's init end when it executes the program.
	require.Eventually(t, func() bool { return number(t, c, "pids", "pids.current") == 1 }, 10*time.Second, time.Millisecond)
	check("running")
	require.NoError(t, c.Pause())
	check("paused")
	require.NoError(t, c.Signal(9, false))
	require.Equal(t, 137, mustWait(t, c))
	check("stopped")

	// With systemd a cgroup is gone with its last process.
	c, _, _ = watched(t, own, "eat")
	require.NoError(t, c.Start())
	require.Equal(t, 137, mustWait(t, c))
	require.EqualValues(t, 1, oomKillStat(t, c))
	require.NoError(t, c.cgroup.remove())
	require.EqualValues(t, 1, oomKillStat(t, c))
}
