// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// oomLimit is room enough for the init and an exec while both are still this test's program.
const oomLimit = 64 << 20

// watched is a created container that may take oomLimit, and how often it was told of kills.
func watched(t *testing.T, share func(Config) Config, args ...string) (*Container, Process, *atomic.Int64) {
	cfg, p := newConfigFor(t.TempDir(), guest(args...)...)
	cfg.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(oomLimit)), Swap: new(int64(oomLimit))}
	c := mustCreate(t, share(cfg), p)
	var told atomic.Int64
	require.NoError(t, c.WatchOOM(func() { told.Add(1) }))
	return c, p, &told
}

func own(c Config) Config { return c }

// TestOOM: kills are told of once, and before the exit of whom they have hit.
func TestOOM(t *testing.T) {
	needRoot(t)
	for name, share := range map[string]func(Config) Config{"own pids": own, "host pids": hostPID} {
		t.Run("init, "+name, func(t *testing.T) {
			c, _, told := watched(t, share, "eat")
			require.NoError(t, c.Start())
			require.Equal(t, 137, mustWait(t, c))
			require.EqualValues(t, 1, told.Load())
			require.True(t, c.OutOfMemory())
			require.NoError(t, c.Delete())
			require.EqualValues(t, 1, told.Load())
		})
		t.Run("exec, "+name, func(t *testing.T) {
			c, p, told := watched(t, share, "sleep")
			require.NoError(t, c.Start())
			for n := range int64(2) {
				e, err := c.Exec(p.with("eat"))
				require.NoError(t, err)
				require.Equal(t, 137, mustWait(t, e))
				require.Equal(t, n+1, told.Load())
			}
		})
	}
	t.Run("neither, told by the kernel", func(t *testing.T) {
		c, _, told := watched(t, own, "eat-child")
		require.NoError(t, c.Start())
		require.Eventually(t, func() bool { return told.Load() == 1 }, 10*time.Second, time.Millisecond)
		require.NoError(t, c.Signal(syscall.SIGKILL, false))
		require.Equal(t, 137, mustWait(t, c))
		require.EqualValues(t, 1, told.Load())
	})
	t.Run("in a cgroup below", func(t *testing.T) {
		c, _, told := watched(t, own, "eat")
		nested := nest(t, c, 8<<20)
		require.NoError(t, c.Start())
		require.Equal(t, 137, mustWait(t, c))
		require.EqualValues(t, 1, told.Load())
		require.NoError(t, os.Remove(nested))
		require.Equal(t, uint64(1), oomKillStat(t, c), "as in version 2, also when it is gone")
	})
	t.Run("killed by hand", func(t *testing.T) {
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
			c, p, told := watched(t, own, "sleep")
			require.NoError(t, c.Start())
			e, err := c.Exec(p.with("sleep"))
			require.NoError(t, err)
			require.NoError(t, e.Signal(sig))
			mustWait(t, e)
			require.NoError(t, syscall.Kill(c.Pid(), syscall.SIGKILL))
			require.Equal(t, 137, mustWait(t, c))
			require.Zero(t, told.Load())
			require.Zero(t, oomKillStat(t, c))
		}
	})
	t.Run("before it was watched", func(t *testing.T) {
		cfg, p := newConfigFor(t.TempDir(), guest("eat")...)
		cfg.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(oomLimit)), Swap: new(int64(oomLimit))}
		c := mustRun(t, cfg, p)
		require.Equal(t, 137, mustWait(t, c))
		told := 0
		require.NoError(t, c.WatchOOM(func() { told++ }))
		require.Equal(t, 1, told)
	})
	t.Run("in a cgroup that has seen some", func(t *testing.T) {
		c, _, _ := watched(t, own, "eat")
		require.NoError(t, c.Start())
		require.Equal(t, 137, mustWait(t, c))
		cfg, p := newConfigFor(t.TempDir(), guest("exit")...)
		cfg.Spec.Linux.CgroupsPath = cgroupParent + "/" + c.id
		again := mustCreate(t, cfg, p)
		told := 0
		require.NoError(t, again.WatchOOM(func() { told++ }))
		require.NoError(t, again.Start())
		require.Zero(t, mustWait(t, again))
		require.Zero(t, told)
	})
}

// nest moves a container's init into a memory cgroup below the container's, with a limit.
func nest(t *testing.T, c *Container, limit int) string {
	t.Helper()
	if cgroups.IsCgroup2UnifiedMode() {
		t.Skip("no processes beside cgroups there: the container itself would have to be nested")
	}
	nested := filepath.Join(c.cgroup.Paths["memory"], "nested")
	require.NoError(t, os.Mkdir(nested, 0o755))
	for file, value := range map[string]int{"memory.limit_in_bytes": limit, "cgroup.procs": c.Pid()} {
		require.NoError(t, os.WriteFile(filepath.Join(nested, file), []byte(strconv.Itoa(value)), 0o600))
	}
	return nested
}

// TestWatchOOMTakesNoThread: nor is anything left of it.
func TestWatchOOMTakesNoThread(t *testing.T) {
	needRoot(t)
	before := openFiles(t)
	threads := len(tasks(t))
	var all []*Container
	for range 20 {
		c, _, _ := watched(t, own, "exit")
		all = append(all, c)
	}
	require.Less(t, len(tasks(t))-threads, 15)
	for _, c := range all {
		require.NoError(t, c.Start())
		mustWait(t, c)
		require.NoError(t, c.Delete())
	}
	require.Eventually(t, func() bool { return len(openFiles(t)) <= len(before) }, 10*time.Second, 10*time.Millisecond)
}

func tasks(t *testing.T) []os.DirEntry {
	entries, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	return entries
}

// The kernel says something at the moment of the container's end. (A pipe says it here: on
// a machine nobody can choose the moment.)
func TestOOMWhileItEnds(t *testing.T) {
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			c := &Container{}
			wake, kernel, err := os.Pipe()
			if !assert.NoError(t, err) {
				return
			}
			defer kernel.Close()
			c.oom.wake = wake
			c.oom.mu.Lock() // both wait for it
			all.Go(func() { c.followOOM(wake) })
			_, err = kernel.WriteString("said")
			assert.NoError(t, err)
			all.Go(c.endOOM)
			time.Sleep(10 * time.Millisecond)
			c.oom.mu.Unlock()
		})
	}
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the end waits for who follows, who waits for the end")
	}
}
