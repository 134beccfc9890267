// SPDX-License-Identifier: Apache-2.0

package smoke

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// Restart is the suite of what happens when containerd is stopped, or killed,
// and started again while containers run: nothing is lost.
func Restart(t *testing.T, runtime string) {
	// Each prints ready, and ends on SIGTERM: by itself, or by the runner.
	sleepers := map[string]sleeper{
		"native": {[]string{"/bin/sh", "-c", "trap 'echo late; exit 3' TERM; echo ready; while :; do sleep 0.01; done"}, 3, "ready\nlate\n"},
	}
	if runtime == Ours {
		sleepers["module"] = sleeper{[]string{"/sleep.wasm"}, 143, "ready\n"}
		sleepers["component"] = sleeper{[]string{"/component-spin.wasm"}, 143, "ready\n"}
	}
	for how, end := range map[string]func(*harness.T) error{
		"killed":  func(t *harness.T) error { return t.Kill() },
		"stopped": func(t *harness.T) error { return t.Terminate() },
	} {
		t.Run(how, func(t *testing.T) { restart(harness.New(t, runtime), end, sleepers) })
	}
}

// sleeper is a guest with what it has said and exits with after SIGTERM.
type sleeper struct {
	args   []string
	code   uint32
	output string
}

// restart runs each sleeper three times, alone and in a pod: one lives through
// it, one ends while containerd is away, one has ended before.
func restart(t *harness.T, end func(*harness.T) error, sleepers map[string]sleeper) {
	type life struct {
		sleeper
		c         *harness.Container
		pid       uint32
		endedWhen string
	}
	image := Image(t)
	whens := []string{"before", "meanwhile", "after"}
	if t.Runtime == Runc {
		whens = whens[2:] // of others containerd forgets the task, and cleans up
	}
	var lives []life
	// Not t.Run: its cleanup would use the client of before the restart.
	run := func(c harness.Config) *harness.Container {
		c.Runtime, c.Image = t.Runtime, image
		made, err := t.Daemon.Run(t.Ctx, c)
		require.NoError(t, err)
		require.NoError(t, made.Stdout.WaitFor("ready", 10*time.Second))
		return made
	}
	for _, s := range sleepers {
		for _, when := range whens {
			c := run(harness.Config{Args: s.args})
			lives = append(lives, life{s, c, c.Task.Pid(), when})
		}
	}
	pod := harness.FreshID("pod")
	sandbox := run(harness.Config{ID: pod, Pod: pod, Args: []string{"/native", "sleep"}})
	for _, s := range sleepers {
		for _, when := range whens {
			c := run(harness.Config{Pod: pod, Args: s.args})
			lives = append(lives, life{s, c, c.Task.Pid(), when})
		}
	}
	shims := t.Shims()
	for _, l := range lives {
		if l.endedWhen == "before" {
			require.NoError(t, l.c.Task.Kill(t.Ctx, syscall.SIGTERM))
			require.NoError(t, l.c.Wait(t.Ctx))
		}
	}

	require.NoError(t, end(t))
	for _, l := range lives {
		if l.endedWhen == "meanwhile" {
			require.NoError(t, syscall.Kill(int(l.pid), syscall.SIGTERM))
		}
	}
	for _, l := range lives {
		if l.endedWhen == "meanwhile" {
			require.Eventually(t, func() bool { return syscall.Kill(int(l.pid), 0) == syscall.ESRCH }, harness.Slow(10*time.Second), time.Millisecond)
		}
	}
	require.NoError(t, t.Restart(t.Ctx))
	events := t.Subscribe(t.Ctx)
	defer events.Close()

	require.ElementsMatch(t, shims, t.Shims(), "the same shims")
	for _, l := range lives {
		again := load(t, l.c.ID())
		require.Equal(t, l.pid, again.Pid())
		status, err := again.Status(t.Ctx)
		require.NoError(t, err)
		exited, err := again.Wait(t.Ctx)
		require.NoError(t, err)
		if l.endedWhen == "after" {
			require.Equal(t, client.Running, status.Status)
			require.NoError(t, again.Kill(t.Ctx, syscall.SIGTERM))
		} else {
			require.Equal(t, client.Stopped, status.Status)
			require.Equal(t, l.code, status.ExitStatus)
		}
		exit := <-exited
		require.NoError(t, exit.Error())
		require.Equal(t, l.code, exit.ExitCode(), "%s, ended %s", l.args, l.endedWhen)
		remove(t, l.c, again)
		require.Equal(t, l.output, l.c.Stdout.String(), "%s, ended %s", l.args, l.endedWhen)
		if l.endedWhen == "after" && t.Runtime == Ours {
			require.Equal(t, []string{"exit", "delete"}, events.Topics(l.c.ID(), "exit", "delete"))
		}
	}
	again := load(t, sandbox.ID())
	exited, err := again.Wait(t.Ctx)
	require.NoError(t, err)
	require.NoError(t, again.Kill(t.Ctx, syscall.SIGKILL))
	exit := <-exited
	require.EqualValues(t, 137, exit.ExitCode())
	remove(t, sandbox, again)
	t.RequireNothingLeft()
}

// load finds a container's task again, as a client that knows only its id.
func load(t *harness.T, id string) client.Task {
	t.Helper()
	c, err := t.Client.LoadContainer(t.Ctx, id)
	require.NoError(t, err)
	task, err := c.Task(t.Ctx, nil)
	require.NoError(t, err)
	return task
}

// remove deletes a container by its task of after the restart.
func remove(t *harness.T, c *harness.Container, task client.Task) {
	t.Helper()
	_, err := task.Delete(t.Ctx)
	require.NoError(t, err)
	again, err := t.Client.LoadContainer(t.Ctx, c.ID())
	require.NoError(t, err)
	require.NoError(t, again.Delete(context.WithoutCancel(t.Ctx), client.WithSnapshotCleanup))
	c.Task.IO().Wait()
	c.Task.IO().Close()
}
