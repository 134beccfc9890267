// SPDX-License-Identifier: Apache-2.0

package container

import (
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/stretchr/testify/require"
)

func frozen(t *testing.T, c *Container) bool {
	t.Helper()
	m, err := c.cgroup.manager()
	require.NoError(t, err)
	state, err := m.GetFreezerState()
	require.NoError(t, err)
	return state == cgroups.Frozen
}

func TestPause(t *testing.T) {
	needRoot(t)
	for name, share := range map[string]func(Config) Config{"own pids": func(c Config) Config { return c }, "host pids": hostPID} {
		t.Run(name, func(t *testing.T) {
			cfg, p := newConfigFor(t.TempDir(), guest("term")...)
			p, ready := announced(t, p)
			c := mustRun(t, share(cfg), p)
			ready()
			for range 2 {
				require.NoError(t, c.Pause())
				require.True(t, frozen(t, c))
				_, err := c.Exec(p.with("exit"))
				require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
				require.NoError(t, c.Resume())
				require.False(t, frozen(t, c))
				e, err := c.Exec(p.with("exit", "3"))
				require.NoError(t, err)
				require.Equal(t, 3, mustWait(t, e))
			}
			// A signal waits for the resume, but for the one that nothing stops.
			require.NoError(t, c.Pause())
			require.NoError(t, c.Signal(syscall.SIGTERM, false))
			require.NoError(t, c.Resume())
			require.Equal(t, 7, mustWait(t, c))
			require.ErrorIs(t, c.Pause(), errdefs.ErrFailedPrecondition)
			require.ErrorIs(t, c.Resume(), errdefs.ErrFailedPrecondition)
			require.False(t, frozen(t, c))
		})
	}
}

func TestKillPaused(t *testing.T) {
	needRoot(t)
	for name, share := range map[string]func(Config) Config{"own pids": func(c Config) Config { return c }, "host pids": hostPID} {
		for _, all := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				cfg, p := newConfigFor(t.TempDir(), guest("fork")...)
				p = p.with("sleep")
				c := mustRun(t, share(cfg), p)
				e, err := c.Exec(p.with("sleep"))
				require.NoError(t, err)
				require.NoError(t, c.Pause())
				require.NoError(t, c.Signal(syscall.SIGKILL, all))
				require.Equal(t, 137, mustWait(t, c))
				require.Equal(t, 137, mustWait(t, e))
				require.NoError(t, c.Delete())
			})
		}
	}
}

// TestCleanupPaused: also what a daemon has paused before it was killed is removed.
func TestCleanupPaused(t *testing.T) {
	needRoot(t)
	cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
	c := mustRun(t, cfg, p)
	require.NoError(t, c.Pause())
	require.NoError(t, Cleanup(c.id, c.root))
	require.Equal(t, 137, mustWait(t, c))
}

// TestPauseBesideKill: whichever comes first, the container ends.
func TestPauseBesideKill(t *testing.T) {
	needRoot(t)
	for n := range 20 {
		cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
		c := mustRun(t, cfg, p)
		paused := make(chan error)
		go func() { paused <- c.Pause() }()
		time.Sleep(time.Duration(n) * 10 * time.Microsecond)
		require.NoError(t, c.Signal(syscall.SIGKILL, false))
		require.Equal(t, 137, mustWait(t, c))
		<-paused
	}
}
