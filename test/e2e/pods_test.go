// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	types "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// namespaceFiles are the names of namespaces in /proc.
var namespaceFiles = map[specs.LinuxNamespaceType]string{
	specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.PIDNamespace: "pid", specs.MountNamespace: "mnt",
}

// sandbox runs the container that a pod begins with, which does nothing.
func sandbox(t *harness.T, opts ...oci.SpecOpts) *harness.Container {
	t.Helper()
	pod := harness.FreshID("pod")
	c := t.Run(harness.Config{ID: pod, Pod: pod, Image: smoke.Image(t), Args: sleepers["native"], Opts: opts})
	require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
	return c
}

// joined gives a container namespaces of another, by the path of its process, as CRI
// does.
func joined(c *harness.Container, names ...specs.LinuxNamespaceType) []oci.SpecOpts {
	var opts []oci.SpecOpts
	for _, n := range names {
		opts = append(opts, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: n, Path: namespaceOf(c.Task.Pid(), n)}))
	}
	return opts
}

func namespaceOf(pid uint32, n specs.LinuxNamespaceType) string {
	return fmt.Sprintf("/proc/%d/ns/%s", pid, namespaceFiles[n])
}

// Containers of a pod have its namespaces, as have their execs, whatever runs in them. The
// end of one ends its own processes, and only those.
func TestPodNamespaces(t *testing.T) {
	usual := []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}
	for name, test := range map[string]struct {
		shared []specs.LinuxNamespaceType
		opts   []oci.SpecOpts // of every container
		pids   bool           // one list of processes
	}{
		"net, ipc, uts":           {shared: usual},
		"and the pod's processes": {shared: append(slices.Clone(usual), specs.PIDNamespace), pids: true},
		"and the host's":          {shared: usual, opts: []oci.SpecOpts{oci.WithHostNamespace(specs.PIDNamespace)}, pids: true},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			pause := sandbox(tt, append(test.opts, oci.WithHostname("inpod"))...)
			image := smoke.Image(tt)
			mates := map[string]*harness.Container{}
			for name, args := range map[string][]string{"native": sleepers["native"], "guest": sleepers["guest"], "component": {"/component-spin.wasm"}} {
				mates[name] = tt.Run(harness.Config{Pod: pause.ID(), Image: image, Args: args, Opts: append(test.opts, joined(pause, test.shared...)...)})
			}
			require.Len(t, tt.Shims(), 1, "one daemon for the pod")
			all := []*harness.Container{pause}
			execs := map[*harness.Container][]*harness.Exec{}
			for _, c := range mates {
				all = append(all, c)
			}
			for _, c := range all {
				for _, args := range [][]string{{"/bin/sleep", "1000"}, {"/sleep.wasm"}} {
					execs[c] = append(execs[c], tt.Exec(c, harness.ExecConfig{Args: args}))
				}
				require.Equal(t, "hello\n", tt.ExecOnce(c, harness.ExecConfig{Args: []string{"/hello.wasm"}}).Stdout)
				require.Equal(t, "inpod\n", tt.ExecOnce(c, harness.ExecConfig{Args: []string{"/bin/busybox", "hostname"}}).Stdout)
				for _, n := range append(test.shared, specs.MountNamespace) {
					want, err := os.Readlink(namespaceOf(pause.Task.Pid(), n))
					require.NoError(t, err)
					own, err := os.Readlink(namespaceOf(c.Task.Pid(), n))
					require.NoError(t, err)
					if c != pause {
						require.Equal(t, n != specs.MountNamespace, want == own, n)
					}
					for _, e := range execs[c] {
						got, err := os.Readlink(namespaceOf(e.Pid(), n))
						require.NoError(t, err)
						require.Equal(t, own, got, n)
					}
				}
				seen := tt.ExecOnce(c, harness.ExecConfig{Args: []string{"/bin/busybox", "ls", "-d", "/proc/" + strconv.Itoa(inner(t, pause.Task.Pid()))}})
				if test.pids {
					require.Zero(t, seen.Code, "%+v", seen)
				}
			}
			for _, how := range []func(c *harness.Container) error{
				func(c *harness.Container) error { return c.Task.Kill(tt.Ctx, syscall.SIGKILL) },
				func(c *harness.Container) error { return syscall.Kill(int(c.Task.Pid()), syscall.SIGKILL) }, // past the shim
				func(c *harness.Container) error { return c.Task.Kill(tt.Ctx, syscall.SIGKILL, client.WithKillAll) },
			} {
				c := all[len(all)-1]
				all = all[:len(all)-1]
				require.NoError(t, how(c))
				require.NoError(t, c.Wait(tt.Ctx))
				for _, e := range execs[c] {
					result, err := e.Finish(tt.Ctx)
					require.NoError(t, err)
					require.EqualValues(t, 137, result.Code)
				}
				result, err := tt.Finish(c)
				require.NoError(t, err)
				require.EqualValues(t, 137, result.Code)
				for _, c := range all {
					tt.RequireStatus(c.Task, client.Running)
					for _, e := range execs[c] {
						status, err := e.Status(tt.Ctx)
						require.NoError(t, err)
						require.Equal(t, client.Running, status.Status)
						require.NoError(t, syscall.Kill(int(e.Pid()), 0))
					}
				}
			}
		})
	}
}

// inner is a process's id in its innermost namespace.
func inner(t *testing.T, pid uint32) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for _, line := range strings.Split(string(text), "\n") {
		if ids := strings.Fields(line); len(ids) > 1 && ids[0] == "NSpid:" {
			n, err := strconv.Atoi(ids[len(ids)-1])
			require.NoError(t, err)
			return n
		}
	}
	t.Fatalf("process %d has no NSpid", pid)
	return 0
}

// Many containers are created in a pod at once, and its sandbox answers all the while.
func TestPodManyCreates(t *testing.T) {
	const many = 50
	tt := harness.New(t, smoke.Ours)
	pause := sandbox(tt)
	image := smoke.Image(tt)
	shim, err := tt.Shim(pause.ID())
	require.NoError(t, err)
	defer shim.Close()

	kinds := [][]string{sleepers["guest"], sleepers["native"], {"/component-spin.wasm"}}
	created := make([]*harness.Container, many)
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			created[i] = tt.Create(harness.Config{Pod: pause.ID(), Image: image, Args: kinds[i%len(kinds)], NoIO: i%2 == 0})
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	var took []time.Duration
	for asking := true; asking; {
		select {
		case <-done:
			asking = false
		case <-time.After(2 * time.Millisecond):
			began := time.Now()
			// containerd gives it this long.
			state, err := shim.State(within(tt, 2*time.Second), &task.StateRequest{ID: pause.ID()})
			require.NoError(t, err)
			require.Equal(t, types.Status_RUNNING, state.Status)
			took = append(took, time.Since(began))
		}
	}
	slices.Sort(took)
	t.Logf("State of the sandbox, %d times: half within %v, 99 of 100 within %v, all within %v", len(took), took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
	require.Greater(t, len(took), 10)
	require.False(t, t.Failed())
	for i, c := range created {
		all.Go(func() {
			assert.NoError(t, c.Task.Start(tt.Ctx))
			e, err := tt.Daemon.AddExec(tt.Ctx, c, harness.ExecConfig{Args: [][]string{{"/exit.wasm", "a", "b"}, {"/bin/sh", "-c", "exit 2"}}[i%2], NoIO: true})
			if !assert.NoError(t, err) || !assert.NoError(t, e.Start(tt.Ctx)) {
				return
			}
			result, err := e.Finish(tt.Ctx)
			assert.NoError(t, err)
			assert.EqualValues(t, 2, result.Code)
		})
	}
	all.Wait()
	require.Len(t, tt.Shims(), 1)
	for _, c := range created { // in parallel, as they were made
		all.Go(func() { assert.NoError(t, tt.Remove(tt.Ctx, c)) })
	}
	all.Wait()
}

// Whatever becomes of one container of a pod, the others go on: the same processes in
// the same states, with their output.
func TestPodFailures(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	pause := sandbox(tt)
	shims := tt.Shims()
	run := func(args []string, opts ...oci.SpecOpts) *harness.Container {
		return tt.Run(harness.Config{Pod: pause.ID(), Image: image, Args: args, Opts: opts})
	}
	ticking := []string{"/bin/sh", "-c", "echo ready; while :; do echo tick; sleep 0.01; done"}
	native, guest, stopped := run(ticking), run(sleepers["guest"]), run([]string{"/bin/sleep", "1000"})
	require.NoError(t, guest.Stdout.WaitFor("ready", 10*time.Second))
	require.NoError(t, stopped.Task.Pause(tt.Ctx))
	inGuest := tt.Exec(guest, harness.ExecConfig{Args: ticking})
	inNative := tt.Exec(native, harness.ExecConfig{Args: sleepers["guest"]})
	waiting := tt.Create(harness.Config{Pod: pause.ID(), Image: image, Args: []string{"/hello.wasm"}})
	pids := func() []uint32 {
		var all []uint32
		for _, c := range []*harness.Container{pause, native, guest, stopped, waiting} {
			state, err := tt.Client.TaskService().Get(tt.Ctx, &tasksapi.GetRequest{ContainerID: c.ID()})
			require.NoError(t, err)
			all = append(all, state.Process.Pid, uint32(state.Process.Status))
		}
		for _, e := range []*harness.Exec{inGuest, inNative} {
			status, err := e.Status(tt.Ctx)
			require.NoError(t, err)
			require.Equal(t, client.Running, status.Status)
			all = append(all, e.Pid())
		}
		return all
	}
	before := pids()

	ends := func(code uint32, args []string, opts ...oci.SpecOpts) func() {
		return func() {
			result, err := tt.Finish(run(args, opts...))
			require.NoError(t, err)
			require.Equal(t, code, result.Code, "%+v", result)
		}
	}
	refused := func(c harness.Config) func() {
		return func() {
			c.Pod, c.Image, c.Runtime = pause.ID(), image, tt.Runtime
			_, err := tt.Daemon.Run(tt.Ctx, c)
			require.Error(t, err)
		}
	}
	exec := func(c *harness.Container, code uint32, args ...string) func() {
		return func() { require.Equal(t, code, tt.ExecOnce(c, harness.ExecConfig{Args: args}).Code) }
	}
	noExec := func(c *harness.Container, args ...string) func() {
		return func() {
			e := tt.AddExec(c, harness.ExecConfig{Args: args})
			require.Error(t, e.Start(tt.Ctx))
			_, err := e.Delete(tt.Ctx)
			require.NoError(t, err)
		}
	}
	for _, test := range []struct {
		name string
		do   func()
	}{
		{"a trap", ends(134, []string{"/trap.wasm"})},
		{"a guest that is no module", ends(126, []string{"/noexport.wasm"})},
		{"a crash", ends(139, []string{"/bin/sh", "-c", "sh -c 'kill -SEGV $$'; exit 139"})},
		{"want of memory", ends(137, []string{"/allocate.wasm"}, littleMemory)},
		{"want of memory in an exec", func() {
			c := run(sleepers["native"], littleMemory)
			exec(c, 137, hog...)()
			require.NoError(t, tt.Remove(tt.Ctx, c))
		}},
		{"no such program", refused(harness.Config{Args: []string{"/nope"}})},
		{"no such module", refused(harness.Config{Args: []string{"/nope.wasm"}})},
		{"no such namespace", refused(harness.Config{Args: sleepers["guest"], Opts: []oci.SpecOpts{oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/self/ns/nope"})}})},
		{"no such option", refused(harness.Config{Args: sleepers["guest"], RuntimeOptions: body("nope = 1")})},
		{"a hook that fails", refused(harness.Config{Args: sleepers["guest"], Opts: []oci.SpecOpts{harness.WithSpec(func(s *oci.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
		})}})},
		{"a create that is given up", func() {
			slow := harness.WithSpec(func(s *oci.Spec) {
				s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1"}}}}
			})
			ctx, cancel := context.WithTimeout(tt.Ctx, 300*time.Millisecond)
			defer cancel()
			container, err := tt.NewContainer(tt.Ctx, harness.Config{Pod: pause.ID(), Runtime: tt.Runtime, Image: image, Args: sleepers["guest"], Opts: []oci.SpecOpts{slow}})
			require.NoError(t, err)
			_, err = container.NewTask(ctx, nullIO)
			require.Error(t, err)
			require.Eventually(t, func() bool { return container.Delete(tt.Ctx, client.WithSnapshotCleanup) == nil }, 10*time.Second, 50*time.Millisecond)
		}},
		{"a kill", func() {
			c := run(ticking)
			require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGKILL, client.WithKillAll))
			_, err := tt.Finish(c)
			require.NoError(t, err)
		}},
		{"a delete of what is created, of what runs, of what is paused", func() {
			require.NoError(t, tt.Remove(tt.Ctx, tt.Create(harness.Config{Pod: pause.ID(), Image: image, Args: sleepers["guest"]})))
			c := run(sleepers["guest"])
			require.NoError(t, tt.Remove(tt.Ctx, c))
			c = run(sleepers["guest"])
			require.NoError(t, c.Task.Pause(tt.Ctx))
			require.NoError(t, tt.Remove(tt.Ctx, c))
		}},
		{"execs that fail", func() {
			for _, c := range []*harness.Container{native, guest} {
				noExec(c, "/nope")()
				noExec(c, "/etc")()
				exec(c, 134, "/trap.wasm")()
				exec(c, 139, "/bin/sh", "-c", "kill -SEGV $$")()
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ticks := []int{native.Stdout.Len(), inGuest.Stdout.Len()}
			test.do()
			require.Contains(t, tt.Shims(), shims[0]) // containerd may be at a delete
			require.Equal(t, before, pids())
			for i, out := range []*harness.Buffer{native.Stdout, inGuest.Stdout} {
				require.Eventually(t, func() bool { return out.Len() > ticks[i] }, 10*time.Second, time.Millisecond, "the output goes on")
			}
			exec(native, 2, "/exit.wasm", "a", "b")()
			exec(guest, 3, "/bin/sh", "-c", "exit 3")()
		})
	}
	require.NoError(t, stopped.Task.Resume(tt.Ctx))
	require.NoError(t, waiting.Task.Start(tt.Ctx))
	result, err := tt.Finish(waiting)
	require.NoError(t, err)
	require.Equal(t, "hello\n", result.Stdout)
}

// containerd asks a daemon to shut down after each of its tasks. It does when none is
// left.
func TestPodShutdown(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	root := rootfs(tt)
	first := tt.ByHand(harness.HandConfig{RootFS: root, Args: sleepers["native"]})
	shutdown := func() {
		_, err := first.Shutdown(tt.Ctx, &task.ShutdownRequest{ID: first.ID, Now: true})
		require.NoError(t, err)
	}
	another := func(args ...string) *harness.ByHand {
		return tt.ByHand(harness.HandConfig{RootFS: root, Args: args, Shim: first})
	}
	_, err := first.Create(tt.Ctx)
	require.NoError(t, err)
	shims := tt.Shims()
	states := map[types.Status]*harness.ByHand{types.Status_CREATED: first}
	for _, want := range []types.Status{types.Status_RUNNING, types.Status_PAUSED, types.Status_STOPPED} {
		h := another("/sleep.wasm")
		_, err := h.Create(tt.Ctx)
		require.NoError(t, err)
		if want == types.Status_STOPPED {
			err = killByHand(tt.Ctx, h)
		} else {
			start(tt, h)
		}
		if want == types.Status_PAUSED {
			_, err = h.Pause(tt.Ctx, &task.PauseRequest{ID: h.ID})
		}
		require.NoError(t, err)
		states[want] = h
	}
	check := func() {
		t.Helper()
		shutdown()
		require.Equal(t, shims, tt.Shims())
		for want, h := range states {
			state, err := h.State(tt.Ctx, &task.StateRequest{ID: h.ID})
			require.NoError(t, err)
			require.Equal(t, want, state.Status)
		}
	}
	check()
	for range 3 {
		h := another("/hello.wasm")
		creating := make(chan error, 1)
		go func() { _, err := h.Create(tt.Ctx); creating <- err }()
		check()
		require.NoError(t, <-creating)
		start(tt, h)
		require.Zero(t, wait(tt, h))
		check()
		require.NoError(t, deleteByHand(tt.Ctx, h))
		check()
	}
	for want, h := range states {
		if want != types.Status_STOPPED && want != types.Status_CREATED {
			_, err := h.Kill(tt.Ctx, &task.KillRequest{ID: h.ID, Signal: uint32(syscall.SIGKILL)})
			require.NoError(t, err)
			require.EqualValues(t, 137, wait(tt, h))
		}
		require.NoError(t, deleteByHand(tt.Ctx, h))
		delete(states, want)
		if len(states) > 0 {
			check()
		}
	}
	shutdown()
	require.Eventually(t, func() bool { return len(tt.Shims()) == 0 }, 10*time.Second, time.Millisecond)
}

// Many daemons at once: WASMSHIM_DAEMONS, or a few.
func TestManyDaemons(t *testing.T) {
	many := 24
	if n, err := strconv.Atoi(os.Getenv("WASMSHIM_DAEMONS")); err == nil {
		many = n
	}
	tt := harness.New(t, smoke.Ours)
	ctx, cancel := context.WithTimeout(tt.In(context.Background()), 10*time.Minute)
	t.Cleanup(cancel)
	tt.Ctx = ctx
	image := smoke.Image(tt)
	all := make([]*harness.Container, many)
	each := func(what string, do func(i int) error) {
		var group sync.WaitGroup
		room := make(chan struct{}, 16) // the machine's, not the daemons'
		began := time.Now()
		for i := range all {
			group.Go(func() {
				room <- struct{}{}
				defer func() { <-room }()
				assert.NoError(t, do(i), "%s %d", what, i)
			})
		}
		group.Wait()
		t.Logf("%s %d: %v", what, many, time.Since(began))
		require.False(t, t.Failed())
	}
	t.Cleanup(func() {
		for _, c := range all {
			if c != nil {
				_ = tt.Remove(context.Background(), c)
			}
		}
	})
	each("run", func(i int) (err error) {
		all[i], err = tt.Daemon.Run(tt.Ctx, harness.Config{Runtime: tt.Runtime, Image: image, Args: []string{"/sleep.wasm"}})
		if err != nil {
			return err
		}
		return all[i].Stdout.WaitFor("ready", time.Minute)
	})
	require.Len(t, tt.Shims(), many)
	each("state", func(i int) error {
		status, err := all[i].Task.Status(tt.Ctx)
		if err == nil && status.Status != client.Running {
			err = errors.New(string(status.Status))
		}
		return err
	})
	each("exec", func(i int) error {
		e, err := tt.Daemon.AddExec(tt.Ctx, all[i], harness.ExecConfig{Args: []string{"/hello.wasm"}, NoIO: true})
		if err != nil {
			return err
		}
		if err := e.Start(tt.Ctx); err != nil {
			return err
		}
		result, err := e.Finish(tt.Ctx)
		if err == nil && result.Code != 0 {
			err = fmt.Errorf("%+v", result)
		}
		return err
	})
	memory := 0
	for _, shim := range tt.Shims() {
		memory += pss(t, shim.Pid)
	}
	t.Logf("a daemon has %d kB", memory/many)
	each("end", func(i int) error {
		if err := all[i].Task.Kill(tt.Ctx, syscall.SIGTERM); err != nil {
			return err
		}
		result, err := tt.Daemon.Finish(tt.Ctx, all[i])
		if err == nil && result.Code != 143 {
			err = fmt.Errorf("%+v", result)
		}
		return err
	})
	require.Eventually(t, func() bool { return len(tt.Shims()) == 0 }, 20*time.Second, 10*time.Millisecond)
	tt.RequireNothingLeft()
}

// pss is a process's memory in kB, its part of what is shared.
func pss(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	require.NoError(t, err)
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "Pss:" {
			n, err := strconv.Atoi(fields[1])
			require.NoError(t, err)
			return n
		}
	}
	t.Fatalf("process %d has no Pss", pid)
	return 0
}
