// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/stretchr/testify/require"
)

// What HurryMoves does costs a process nothing but time: it stays where it is.
func TestHurryMoves(t *testing.T) {
	before, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	pids, err := cgroups.GetPids(ownCgroup())
	require.NoError(t, err)
	require.True(t, slices.Contains(pids, os.Getpid()), "the directory is another process's: %s", ownCgroup())

	HurryMoves()
	HurryMoves() // while the first is under way
	require.Eventually(t, func() bool { return !hurrying.Load() }, time.Minute, time.Millisecond)
	after, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
}
