// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// killShims kills every daemon of the test, which have no time to do anything.
func killShims(t *harness.T) {
	t.Helper()
	shims := t.Shims()
	require.NotEmpty(t, shims)
	for _, p := range shims {
		require.NoError(t, syscall.Kill(p.Pid, syscall.SIGKILL))
	}
}

// gone waits until containerd has found out and removed what was the container's, then
// removes the container.
func gone(t *harness.T, events *harness.Events, c *harness.Container) {
	t.Helper()
	require.Eventually(t, func() bool {
		all := events.Of(c.ID())
		return len(all) > 0 && all[len(all)-1].Topic == "delete"
	}, patience, 50*time.Millisecond, "containerd tells of its delete")
	require.NoError(t, t.Remove(t.Ctx, c))
}

// A daemon that is killed leaves neither cgroup nor scope nor process, in whatever
// state its container is.
func TestDaemonKilled(t *testing.T) {
	states := map[string]func(t *harness.T, c *harness.Container){
		"created": func(*harness.T, *harness.Container) {},
		"running": func(t *harness.T, c *harness.Container) { started(t, c) },
		"paused": func(t *harness.T, c *harness.Container) {
			started(t, c)
			require.NoError(t, c.Task.Pause(t.Ctx))
		},
		"stopped": func(t *harness.T, c *harness.Container) {
			started(t, c)
			require.NoError(t, c.Task.Kill(t.Ctx, syscall.SIGKILL))
			require.NoError(t, c.Wait(t.Ctx))
		},
		"with an exec": func(t *harness.T, c *harness.Container) {
			started(t, c)
			t.Exec(c, harness.ExecConfig{Args: []string{"/bin/sleep", "1000"}}).Discard() // the client's part
		},
	}
	for state, reach := range states {
		t.Run(state, func(t *testing.T) {
			eachKind(t, ours(), func(t *harness.T, k kind) {
				events := t.Subscribe(t.Ctx)
				defer events.Close()
				c := t.Create(k.container(t, k.sleeper()))
				dir := groupOf(t, c.Task.Pid())
				reach(t, c)
				killShims(t)
				gone(t, events, c)
				require.NoDirExists(t, dir)
				t.RequireNothingLeft()
			})
		})
	}
}

func started(t *harness.T, c *harness.Container) {
	t.Helper()
	require.NoError(t, c.Task.Start(t.Ctx))
	require.NoError(t, c.Stdout.WaitFor("ready", patience))
}

// So it is in the middle of a create: at moments that are spread over all of it.
func TestDaemonKilledInCreate(t *testing.T) {
	const moments = 5
	eachKind(t, ours(), func(t *harness.T, k kind) {
		began := time.Now()
		c := t.Create(k.container(t, k.sleeper()))
		whole := time.Since(began)
		require.NoError(t, t.Remove(t.Ctx, c))
		hit := 0
		events := t.Subscribe(t.Ctx)
		defer events.Close()
		for i := range moments {
			config := k.container(t, k.sleeper())
			created := make(chan *harness.Container, 1)
			go func() {
				c, err := t.Daemon.Create(t.Ctx, config)
				if err != nil {
					t.Logf("%d: %v", i, err)
				}
				created <- c
			}()
			// Without an answer of start's, containerd knows of nothing to clean up.
			require.Eventually(t, func() bool {
				shims := t.Shims()
				return len(shims) > 0 && !slices.ContainsFunc(shims, func(p harness.Process) bool { return strings.HasSuffix(p.Args, " start") })
			}, patience, 5*time.Millisecond)
			time.Sleep(whole * time.Duration(i) / (moments + 1))
			killed := false
			for _, p := range t.Shims() {
				killed = syscall.Kill(p.Pid, syscall.SIGKILL) == nil || killed // or it has ended
			}
			switch c := <-created; {
			case c == nil:
				hit++
			case killed: // once all was made
				gone(t, events, c)
			default:
				require.NoError(t, t.Remove(context.WithoutCancel(t.Ctx), c))
			}
			t.RequireNothingLeft()
		}
		require.NotZero(t, hit, "of %d kills in %v", moments, whole)
	})
}

// And in the middle of a compile, whose processes are another cgroup's.
func TestDaemonKilledInCompile(t *testing.T) {
	for _, k := range kinds[:2] {
		t.Run(k.name, func(t *testing.T) {
			tt := machine(t, smoke.Ours)
			module, err := guests.Named("go.wasm", harness.FreshID("killed in compile "+k.name))
			require.NoError(t, err)
			image, err := tt.Daemon.FileImage(tt.Ctx, harness.FreshID("compile"), module)
			require.NoError(t, err)
			config := k.container(tt, nil)
			config.Image = image
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if c, err := tt.Daemon.Run(tt.Ctx, config); err == nil {
					_ = tt.Remove(context.WithoutCancel(tt.Ctx), c)
				}
			}()
			require.Eventually(t, func() bool { return len(tt.Compilers()) > 0 }, patience, 5*time.Millisecond)
			killShims(tt)
			<-ended
			require.Eventually(t, func() bool { return len(tt.Compilers()) == 0 }, patience, 50*time.Millisecond)
			require.Eventually(t, func() bool { return len(compilerGroups()) == 0 }, patience, 50*time.Millisecond, "%v", compilerGroups())
			tt.RequireNothingLeft()
		})
	}
}

// compilerGroups are the cgroups of compilers, wherever they are.
func compilerGroups() []string {
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.Contains(e.Name(), "libwasmshim-compiler") {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// Systemd and its bus begin anew while containers run: they can be updated, paused,
// killed and deleted afterwards.
func TestSystemdRestarts(t *testing.T) {
	for _, command := range [][]string{{"daemon-reexec"}, {"restart", "dbus"}} {
		t.Run(strings.Join(command, " "), func(t *testing.T) {
			eachKind(t, systemdKinds(), func(t *harness.T, k kind) {
				c := t.Run(k.container(t, k.sleeper()))
				require.NoError(t, c.Stdout.WaitFor("ready", patience))
				run(t, "systemctl", command...)
				require.NoError(t, c.Task.Pause(t.Ctx))
				require.NoError(t, c.Task.Resume(t.Ctx))
				result := t.ExecOnce(c, harness.ExecConfig{Args: []string{"/bin/true"}})
				require.Zero(t, result.Code, "%+v", result)
				require.NoError(t, c.Task.Kill(t.Ctx, syscall.SIGKILL))
				ended, err := t.Finish(c)
				require.NoError(t, err)
				require.EqualValues(t, 137, ended.Code)
				t.RequireNothingLeft()
			})
		})
	}
}

func systemdKinds() []kind {
	var some []kind
	for _, k := range kinds {
		if k.systemd {
			some = append(some, k)
		}
	}
	return some
}

// Somebody stops the scope: the container has ended as by that signal.
func TestScopeStopped(t *testing.T) {
	eachKind(t, systemdKinds(), func(t *harness.T, k kind) {
		args := k.sleeper()
		if !k.guest { // an init without a handler is not ended by SIGTERM
			args = []string{"/bin/sh", "-c", "trap 'exit 143' TERM; echo ready; while :; do sleep 0.1; done"}
		}
		c := t.Run(k.container(t, args))
		require.NoError(t, c.Stdout.WaitFor("ready", patience))
		run(t, "systemctl", "stop", t.Scope(c.ID()))
		result, err := t.Finish(c)
		require.NoError(t, err)
		require.EqualValues(t, 143, result.Code)
		t.RequireNothingLeft()
	})
}

// The containers of a pod are in the pod's cgroup, each in one of its own, as a kubelet
// wants them; those of one container leave the others'.
func TestPod(t *testing.T) {
	eachKind(t, kinds, func(t *harness.T, k kind) {
		pod := harness.FreshID("pod")
		slice := "wst" + pod + ".slice"
		in := func(c harness.Config) harness.Config {
			c.Pod = pod
			path := "/" + t.Namespace + "/" + pod + "/" + c.ID
			if k.systemd {
				path = slice + ":" + t.Namespace + ":" + c.ID
			}
			c.Opts = append(c.Opts, withPath(path))
			return c
		}
		first := k.container(t, []string{"/native", "sleep"})
		first.ID = pod
		sandbox := t.Run(in(first))
		require.NoError(t, sandbox.Stdout.WaitFor("ready", patience))
		second := t.Run(in(k.container(t, k.sleeper(), withMemory(64<<20))))
		require.NoError(t, second.Stdout.WaitFor("ready", patience))
		result := t.Once(in(k.container(t, k.hello())))
		require.Zero(t, result.Code, "%+v", result)
		require.Len(t, t.Shims(), 1)
		group, other := groupOf(t, sandbox.Task.Pid()), groupOf(t, second.Task.Pid())
		require.Equal(t, filepath.Dir(group), filepath.Dir(other))
		if k.systemd {
			require.Equal(t, "/sys/fs/cgroup/"+slice, filepath.Dir(group))
		}
		require.Equal(t, fmt.Sprint(64<<20), groupFile(t, other, "memory.max"))
		require.NoError(t, t.Remove(t.Ctx, second))
		require.NoDirExists(t, other)
		t.RequireStatus(sandbox.Task, client.Running)
		require.NoError(t, t.Remove(t.Ctx, sandbox))
		require.NoDirExists(t, group)
		if k.systemd {
			run(t, "systemctl", "stop", slice) // the kubelet's
		} else {
			require.NoError(t, os.Remove(filepath.Dir(group)))
		}
		t.RequireNothingLeft()
	})
}

// A containerd that is killed finds its containers again, in either driver's cgroups.
func TestContainerdKilled(t *testing.T) {
	tt := machine(t, smoke.Ours)
	var all []*harness.Container
	for _, k := range ours() { // not Run: its cleanup would use the client of before
		c, err := tt.Daemon.Run(tt.Ctx, k.container(tt, k.sleeper()))
		require.NoError(t, err)
		require.NoError(t, c.Stdout.WaitFor("ready", patience))
		all = append(all, c)
	}
	require.NoError(t, tt.Kill())
	require.NoError(t, tt.Restart(tt.Ctx))
	for _, c := range all {
		again, err := tt.Client.LoadContainer(tt.Ctx, c.ID())
		require.NoError(t, err)
		task, err := again.Task(tt.Ctx, nil)
		require.NoError(t, err)
		require.Equal(t, c.Task.Pid(), task.Pid())
		dir := groupOf(tt, task.Pid())
		require.NoError(t, task.Pause(tt.Ctx))
		require.NoError(t, task.Resume(tt.Ctx))
		exited, err := task.Wait(tt.Ctx)
		require.NoError(t, err)
		require.NoError(t, task.Kill(tt.Ctx, syscall.SIGKILL))
		exit := <-exited
		require.EqualValues(t, 137, exit.ExitCode())
		_, err = task.Delete(tt.Ctx)
		require.NoError(t, err)
		require.NoError(t, again.Delete(tt.Ctx, client.WithSnapshotCleanup))
		require.NoDirExists(t, dir)
		c.Task.IO().Wait()
		c.Task.IO().Close()
	}
	tt.RequireNothingLeft()
}

// Nothing has failed in all of it, as systemd sees it: it is the last test.
func TestZNoUnitFailed(t *testing.T) {
	tt := machine(t, smoke.Ours)
	require.Empty(t, run(tt, "systemctl", "--failed", "--no-legend", "--plain"))
}
