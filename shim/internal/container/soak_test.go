// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

const soakers = 32

// TestSoak runs many containers at once in this process, kills their inits at
// random moments, and counts what is left: nothing may be.
func TestSoak(t *testing.T) {
	needRoot(t)
	rounds := 100
	if s := os.Getenv("WASMSHIM_SOAK_ROUNDS"); s != "" {
		var err error
		rounds, err = strconv.Atoi(s)
		require.NoError(t, err, "WASMSHIM_SOAK_ROUNDS")
	}
	if testing.Short() {
		rounds = 3
	}
	dir := t.TempDir()
	// What the runtime, libcontainer and the poller open once is not a leak.
	require.NoError(t, soakRound(dir, rand.New(rand.NewPCG(1, 1)), 0))
	runtime.GC()
	files, goroutines := openFiles(t), runtime.NumGoroutine()

	begin := time.Now()
	var wg sync.WaitGroup
	var lives atomic.Int64
	for g := range soakers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), uint64(begin.UnixNano())))
			for range rounds {
				if kind := rng.IntN(len(soakKinds)); !t.Failed() {
					if err := soakRound(dir, rng, kind); err != nil {
						t.Errorf("%s: %v", soakKinds[kind].name, err)
					}
					lives.Add(1)
				}
			}
		})
	}
	wg.Wait()
	spent := time.Since(begin)
	t.Logf("%d lives in %s, %.0f per second", lives.Load(), spent.Round(time.Second), float64(lives.Load())/spent.Seconds())

	require.Empty(t, children(t), "children, zombies or not")
	require.Empty(t, leftCgroups(), "cgroups")
	require.Len(t, mountNamespaces(t), 1, "threads in a container's mount namespace")
	require.Empty(t, mounts(t), "mounts")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "directories")
	if !eventually(func() bool { return runtime.NumGoroutine() <= goroutines }) {
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), goroutines, stacks[:runtime.Stack(stacks, true)])
	}
	if !eventually(func() bool {
		runtime.GC() // libcontainer leaves descriptors of failed starts to the collector
		return len(openFiles(t)) <= len(files)
	}) {
		t.Errorf("descriptors: %v, before: %v", openFiles(t), files)
	}
}

func eventually(ok func() bool) bool {
	for range 100 {
		if ok() {
			return true
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}

var soakKinds = []struct {
	name string
	run  func(Config, Process, *rand.Rand) error
}{
	{"exec, then kill", soakExec},
	{"exit by itself", soakExit},
	{"kill before start", soakKillCreated},
	{"kill during exec", soakKillExec},
	{"kill during create", soakKillCreate},
	{"leave a process behind", soakHostPID},
}

// soakRound is one life. It returns an error for a wrong exit code, an
// unexpected error, a hang, or something left in the bundle.
func soakRound(dir string, rng *rand.Rand, kind int) error {
	cfg, p := newConfigFor(dir, guest("sleep")...)
	done := make(chan error, 1)
	go func() { done <- soakKinds[kind].run(cfg, p, rng) }()
	select {
	case err := <-done:
		if err != nil {
			return err
		}
	case <-time.After(60 * time.Second):
		stacks := make([]byte, 1<<20)
		return fmt.Errorf("hangs:\n%s", stacks[:runtime.Stack(stacks, true)])
	}
	// Nothing but the bundle itself, which is containerd's, may be there.
	return os.Remove(cfg.Bundle)
}

func soakExec(cfg Config, p Process, rng *rand.Rand) error {
	c, err := Create(cfg, p)
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	want := rng.IntN(256)
	e, err := c.Exec(p.with("exit", strconv.Itoa(want)))
	if err != nil {
		return err
	}
	if err := wantExit(e, want); err != nil {
		return err
	}
	if err := c.Signal(syscall.SIGKILL, false); err != nil {
		return err
	}
	return endOfLife(c, cfg, 137)
}

func soakExit(cfg Config, p Process, rng *rand.Rand) error {
	want := rng.IntN(256)
	c, err := Create(cfg, p.with("exit", strconv.Itoa(want)))
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	return endOfLife(c, cfg, want)
}

func soakKillCreated(cfg Config, p Process, rng *rand.Rand) error {
	c, err := Create(cfg, p)
	if err != nil {
		return err
	}
	murdered := murderLater(c, rng, 3*time.Millisecond)
	time.Sleep(time.Duration(rng.Int64N(int64(3 * time.Millisecond))))
	if err := c.Start(); err != nil && !errdefs.IsFailedPrecondition(err) {
		return err
	}
	<-murdered
	return endOfLife(c, cfg, 137)
}

func soakKillExec(cfg Config, p Process, rng *rand.Rand) error {
	c, err := Create(cfg, p)
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	murdered := murderLater(c, rng, 100*time.Millisecond)
	want := rng.IntN(256)
	e, err := c.Exec(p.with("exit", strconv.Itoa(want)))
	<-murdered
	if err == nil {
		err = wantExit(e, want, 137)
	} else if errdefs.IsFailedPrecondition(err) {
		err = nil
	}
	return errors.Join(err, endOfLife(c, cfg, 137))
}

// soakHostPID has an init that leaves a child behind, which the kernel does not
// kill in the host's pid namespace.
func soakHostPID(cfg Config, p Process, rng *rand.Rand) error {
	want := rng.IntN(256)
	c, err := Create(hostPID(cfg), p.with("fork", strconv.Itoa(want)))
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	return endOfLife(c, cfg, want)
}

// soakKillCreate kills whatever it finds in the cgroup while Create runs.
func soakKillCreate(cfg Config, p Process, rng *rand.Rand) error {
	stop, stopped := make(chan struct{}), make(chan struct{})
	path := filepath.Join("/sys/fs/cgroup/devices", cfg.Spec.Linux.CgroupsPath, "cgroup.procs")
	if len(cgroupPaths(cgroupParent)) == 1 {
		path = filepath.Join("/sys/fs/cgroup", cfg.Spec.Linux.CgroupsPath, "cgroup.procs")
	}
	delay := time.Duration(rng.Int64N(int64(400 * time.Millisecond)))
	go func() {
		defer close(stopped)
		time.Sleep(delay)
		for !closed(stop) {
			pids, _ := os.ReadFile(path)
			for _, s := range strings.Fields(string(pids)) {
				if pid, _ := strconv.Atoi(s); pid > 0 {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			time.Sleep(100 * time.Microsecond)
		}
	}()
	c, err := Create(cfg, p)
	close(stop)
	<-stopped
	if err != nil {
		if exists(cfg.Root) {
			return fmt.Errorf("a failed create left %s: %w", cfg.Root, err)
		}
		return nil
	}
	if err := c.Signal(syscall.SIGKILL, false); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return endOfLife(c, cfg, 137)
}

// murderLater kills the init from outside, as the OOM killer would.
func murderLater(c *Container, rng *rand.Rand, within time.Duration) <-chan struct{} {
	done := make(chan struct{})
	delay := time.Duration(rng.Int64N(int64(within)))
	go func() {
		defer close(done)
		time.Sleep(delay)
		_ = syscall.Kill(c.Pid(), syscall.SIGKILL)
	}()
	return done
}

func wantExit(w interface {
	Wait(context.Context) (Exit, error)
}, want ...int,
) error {
	exit, err := w.Wait(context.Background())
	if err != nil {
		return err
	}
	for _, code := range want {
		if exit.Status == code {
			return nil
		}
	}
	return fmt.Errorf("exit status %d, want one of %v", exit.Status, want)
}

// endOfLife waits, deletes twice and cleans up twice.
func endOfLife(c *Container, cfg Config, status int) error {
	if err := wantExit(c, status); err != nil {
		return err
	}
	if err := c.Signal(syscall.SIGTERM, false); !errdefs.IsNotFound(err) {
		return fmt.Errorf("signal after the end: %w, want not found", err)
	}
	for range 2 {
		if err := c.Delete(); err != nil {
			return err
		}
		if err := Cleanup(cfg.ID, cfg.Root); err != nil {
			return err
		}
	}
	return nil
}
