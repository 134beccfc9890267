// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	types "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// killShim kills a daemon, which has no time to do anything.
func killShim(t *harness.T, shims []harness.Process) {
	t.Helper()
	require.Len(t, shims, 1)
	require.NoError(t, syscall.Kill(shims[0].Pid, syscall.SIGKILL))
}

// lost removes a container whose daemon was killed, once containerd knows it.
func lost(t *harness.T, events *harness.Events, c *harness.Container) {
	t.Helper()
	awaitDelete(t, events, c.ID())
	require.NoError(t, t.Remove(t.Ctx, c))
}

// awaitDelete waits until the last that is told of a container is its delete.
func awaitDelete(t require.TestingT, events *harness.Events, id string) {
	require.Eventually(t, func() bool {
		all := events.Of(id)
		return len(all) > 0 && all[len(all)-1].Topic == "delete"
	}, 10*time.Second, time.Millisecond, "%s", id)
}

// A daemon that is killed leaves nothing, whatever its containers and their execs are
// at; containerd is told how each has ended.
func TestSurvivalDaemonKilled(t *testing.T) {
	type pod struct {
		*harness.T
		mates []*harness.Container // of either kind
	}
	each := func(do func(p *pod, c *harness.Container)) func(p *pod) {
		return func(p *pod) {
			for _, c := range p.mates {
				do(p, c)
			}
		}
	}
	programs := [][]string{{"/bin/sleep", "1000"}, {"/sleep.wasm"}}
	start := func(p *pod, c *harness.Container) {
		require.NoError(p, c.Task.Start(p.Ctx))
		require.NoError(p, c.Stdout.WaitFor("ready", 10*time.Second))
	}
	execs := func(p *pod, c *harness.Container) {
		for i, args := range programs {
			p.Exec(c, harness.ExecConfig{Args: args, Terminal: i%2 == 0})
			p.Exec(c, harness.ExecConfig{Args: args, Terminal: i%2 == 1, Stdin: neverEnds{}})
			p.AddExec(c, harness.ExecConfig{Args: args}) // not started
		}
	}
	for name, test := range map[string]struct {
		terminal bool
		args     [][]string // instead of those that sleep
		to       func(p *pod)
		exit     uint32 // 0 means 137
	}{
		"created":               {to: func(*pod) {}},
		"created, with execs":   {to: each(execs)},
		"running":               {to: each(start)},
		"running on a terminal": {to: each(start), terminal: true},
		"running, with execs":   {to: each(func(p *pod, c *harness.Container) { start(p, c); execs(p, c) })},
		"on terminals, execs":   {to: each(func(p *pod, c *harness.Container) { start(p, c); execs(p, c) }), terminal: true},
		"paused":                {to: each(func(p *pod, c *harness.Container) { start(p, c); require.NoError(p, c.Task.Pause(p.Ctx)) })},
		"paused, with execs":    {to: each(func(p *pod, c *harness.Container) { start(p, c); execs(p, c); require.NoError(p, c.Task.Pause(p.Ctx)) })},
		"one paused": {to: func(p *pod) {
			start(p, p.mates[0])
			start(p, p.mates[1])
			require.NoError(p, p.mates[0].Task.Pause(p.Ctx))
		}},
		"the host's pids, execs": {to: each(func(p *pod, c *harness.Container) { start(p, c); execs(p, c) })},
		"stopped": {args: [][]string{{"/bin/sh", "-c", "exit 3"}, {"/exit.wasm", "a", "b", "c"}}, exit: 3, to: each(func(p *pod, c *harness.Container) {
			require.NoError(p, c.Task.Start(p.Ctx))
			require.NoError(p, c.Wait(p.Ctx))
		})},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			events := tt.Subscribe(tt.Ctx)
			defer events.Close()
			p := &pod{T: tt}
			pause := sandbox(tt)
			if test.args == nil {
				test.args = [][]string{sleepers["native"], sleepers["guest"]}
			}
			var opts []oci.SpecOpts
			if strings.HasPrefix(name, "the host's") {
				opts = append(opts, oci.WithHostNamespace(specs.PIDNamespace))
			}
			config := func(i int) harness.Config {
				return harness.Config{Pod: pause.ID(), Image: smoke.Image(tt), Args: test.args[i], Terminal: test.terminal, Opts: opts}
			}
			for i := range test.args {
				p.mates = append(p.mates, tt.Create(config(i)))
			}
			test.to(p)
			killShim(tt, tt.Shims())
			if test.exit == 0 {
				test.exit = 137
			}
			for _, c := range append(p.mates, pause) {
				want := test.exit
				if c == pause {
					want = 137
				}
				lost(tt, events, c)
				var exits []uint32
				for _, e := range events.Of(c.ID()) {
					if exit, ok := e.Body.(*apievents.TaskExit); ok {
						require.Equal(t, c.ID(), exit.ID)
						exits = append(exits, exit.ExitStatus)
					}
				}
				require.NotEmpty(t, exits)
				for _, exit := range exits { // containerd tells it again of what had ended
					require.Equal(t, want, exit)
				}
			}
			again := config(1)
			again.ID, again.Pod, again.Args, again.Terminal = p.mates[1].ID(), "", []string{"/hello.wasm"}, false
			require.Equal(t, "hello\n", tt.Once(again).Stdout, "its name is free")
		})
	}
}

// ownCgroup gives a daemon a cgroup, in which everything begins that it starts. The end of
// the test removes it.
func ownCgroup(t *harness.T) (group, dir string) {
	t.Helper()
	// Below the name of the test's containerd, so that what is left in it is found.
	group = filepath.Join(t.Namespace, "shims")
	dir = filepath.Join("/sys/fs/cgroup/pids", group)
	if _, err := os.Stat("/sys/fs/cgroup/pids"); err != nil {
		dir = filepath.Join("/sys/fs/cgroup", group)
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() {
		require.Eventually(t, func() bool { return unix.Rmdir(dir) == nil }, 10*time.Second, 10*time.Millisecond)
		_ = unix.Rmdir(filepath.Dir(dir))
	})
	return "/" + group, dir
}

// So it is in the middle of the start of execs, when their processes are the
// container's and not yet in its cgroup.
func TestSurvivalDaemonKilledInExec(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range rounds(2) {
		after := time.Duration(random.IntN(40000)) * time.Microsecond
		t.Run(after.String(), func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			events := tt.Subscribe(tt.Ctx)
			defer events.Close()
			group, _ := ownCgroup(tt)
			pod := harness.FreshID("pod")
			var mates []*harness.Container
			for _, args := range sleepers {
				c := harness.Config{ID: harness.FreshID("c"), Pod: pod, Image: smoke.Image(tt), Args: args, RuntimeOptions: body("ShimCgroup = '" + group + "'")}
				if len(mates) == 0 {
					c.ID = pod
				}
				mates = append(mates, tt.Run(c))
				require.NoError(t, mates[len(mates)-1].Stdout.WaitFor("ready", 10*time.Second))
			}
			shims := tt.Shims()
			var all sync.WaitGroup
			for i := range 6 {
				e := tt.AddExec(mates[i%2], harness.ExecConfig{Args: [][]string{{"/bin/sleep", "1000"}, {"/sleep.wasm"}}[i/3], Terminal: i%3 == 0})
				all.Go(func() { _ = e.Start(tt.Ctx) })
			}
			time.Sleep(after)
			killShim(tt, shims)
			all.Wait()
			for _, c := range mates {
				lost(tt, events, c)
			}
		})
	}
}

// Who waits for what was never started is answered when its container is deleted.
func TestSurvivalWaitForNothing(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	h := tt.ByHand(harness.HandConfig{RootFS: rootfs(tt), Args: sleepers["guest"]})
	_, err := h.Create(tt.Ctx)
	require.NoError(t, err)
	_, err = h.Exec(tt.Ctx, &task.ExecProcessRequest{ID: h.ID, ExecID: "e", Spec: &anypb.Any{Value: []byte(`{"args":["/sleep.wasm"],"cwd":"/"}`)}})
	require.NoError(t, err)
	waited := make(chan error, 1)
	go func() {
		_, err := h.Wait(within(tt, 10*time.Second), &task.WaitRequest{ID: h.ID, ExecID: "e"})
		waited <- err
	}()
	time.Sleep(50 * time.Millisecond)
	require.NoError(t, killByHand(tt.Ctx, h))
	require.NoError(t, deleteByHand(tt.Ctx, h))
	require.NoError(t, <-waited)
}

// A thousand things are asked of one container at once, of its execs and of it itself:
// each answer is one of those that there are, and the events are those of one life.
func TestSurvivalRaces(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for round := range rounds(6) {
		name := []string{"native", "guest"}[round%2]
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			events := tt.Subscribe(tt.Ctx)
			defer events.Close()
			root := rootfs(tt)
			mate := tt.ByHand(harness.HandConfig{RootFS: root, Args: sleepers["guest"]})
			_, err := mate.Create(tt.Ctx)
			require.NoError(t, err)
			start(tt, mate)
			h := tt.ByHand(harness.HandConfig{RootFS: root, Args: sleepers[name], Shim: mate})
			_, err = h.Create(tt.Ctx)
			require.NoError(t, err)
			race(tt, h, seed+uint64(round), round >= 2)
			_, _ = h.Kill(tt.Ctx, &task.KillRequest{ID: h.ID, Signal: uint32(syscall.SIGKILL), All: true})
			require.Eventually(t, func() bool {
				_, err := h.Delete(tt.Ctx, &task.DeleteRequest{ID: h.ID})
				return err == nil || status.Code(err) == codes.NotFound
			}, 10*time.Second, time.Millisecond)
			_, err = h.State(tt.Ctx, &task.StateRequest{ID: h.ID})
			require.Equal(t, codes.NotFound, status.Code(err), "%v", err)
			state, err := mate.State(tt.Ctx, &task.StateRequest{ID: mate.ID})
			require.NoError(t, err)
			require.Equal(t, types.Status_RUNNING, state.Status)
			require.NotContains(t, mate.Log.String(), "panic")
			requireLegal(t, events, h.ID)
		})
	}
}

// race asks everything of a container, in any order. With early, its end may come at
// once.
func race(t *harness.T, h *harness.ByHand, seed uint64, early bool) {
	ids := []string{"", "", "a", "b", "c", "d"}
	specs := []*anypb.Any{{Value: []byte(`{"args":["/sleep.wasm"],"cwd":"/"}`)}, {Value: []byte(`{"args":["/bin/sleep","0.01"],"cwd":"/","env":["PATH=/bin"]}`)}, {Value: []byte(`{"args":["/nope"],"cwd":"/"}`)}}
	ctx := t.Ctx
	calls := []struct {
		name   string
		weight int
		do     func(r *rand.Rand, exec string) error
		may    []codes.Code
	}{
		{"start", 20, func(_ *rand.Rand, exec string) error {
			_, err := h.Start(ctx, &task.StartRequest{ID: h.ID, ExecID: exec})
			return err
		}, []codes.Code{codes.FailedPrecondition, codes.NotFound}},
		{"exec", 20, func(r *rand.Rand, exec string) error {
			_, err := h.Exec(ctx, &task.ExecProcessRequest{ID: h.ID, ExecID: exec, Spec: specs[r.IntN(len(specs))], Terminal: false})
			return err
		}, []codes.Code{codes.FailedPrecondition, codes.NotFound, codes.AlreadyExists}},
		{"kill", 6, func(r *rand.Rand, exec string) error {
			_, err := h.Kill(ctx, &task.KillRequest{ID: h.ID, ExecID: exec, Signal: uint32(syscall.SIGKILL), All: r.IntN(2) == 0})
			return err
		}, []codes.Code{codes.FailedPrecondition, codes.NotFound}},
		{"delete", 10, func(r *rand.Rand, exec string) error {
			_, err := h.Delete(ctx, &task.DeleteRequest{ID: h.ID, ExecID: exec})
			return err
		}, []codes.Code{codes.FailedPrecondition, codes.NotFound}},
		{"pause", 3, func(*rand.Rand, string) error { _, err := h.Pause(ctx, &task.PauseRequest{ID: h.ID}); return err }, []codes.Code{codes.FailedPrecondition, codes.NotFound}},
		{"resume", 6, func(*rand.Rand, string) error { _, err := h.Resume(ctx, &task.ResumeRequest{ID: h.ID}); return err }, []codes.Code{codes.FailedPrecondition, codes.NotFound}},
		{"update", 3, func(*rand.Rand, string) error {
			_, err := h.Update(ctx, &task.UpdateTaskRequest{ID: h.ID, Resources: &anypb.Any{Value: []byte(`{"pids":{"limit":500}}`)}})
			return err
		}, []codes.Code{codes.FailedPrecondition, codes.NotFound}},
		{"state", 10, func(_ *rand.Rand, exec string) error {
			_, err := h.State(ctx, &task.StateRequest{ID: h.ID, ExecID: exec})
			return err
		}, []codes.Code{codes.NotFound}},
		{"pids", 5, func(*rand.Rand, string) error { _, err := h.Pids(ctx, &task.PidsRequest{ID: h.ID}); return err }, []codes.Code{codes.NotFound}},
		{"stats", 5, func(*rand.Rand, string) error { _, err := h.Stats(ctx, &task.StatsRequest{ID: h.ID}); return err }, []codes.Code{codes.NotFound}},
		{"closeIO", 3, func(_ *rand.Rand, exec string) error {
			_, err := h.CloseIO(ctx, &task.CloseIORequest{ID: h.ID, ExecID: exec, Stdin: true})
			return err
		}, []codes.Code{codes.NotFound}},
		{"resize", 3, func(_ *rand.Rand, exec string) error {
			_, err := h.ResizePty(ctx, &task.ResizePtyRequest{ID: h.ID, ExecID: exec, Width: 9, Height: 9})
			return err
		}, []codes.Code{codes.NotFound, codes.FailedPrecondition}},
	}
	total := 0
	for _, call := range calls {
		total += call.weight
	}
	var mu sync.Mutex
	answers := map[string]int{}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for step := range 40 {
				n := r.IntN(total)
				for _, call := range calls {
					if n -= call.weight; n >= 0 {
						continue
					}
					exec := ids[r.IntN(len(ids))]
					ends := exec == "" && (call.name == "kill" || call.name == "delete")
					if call.name == "exec" && exec == "" || ends && step < 30 && !early {
						exec = "a"
					}
					err := call.do(r, exec)
					code := status.Code(err)
					if err != nil && !slices.Contains(call.may, code) {
						assert.NoError(t, err, "%s of %q", call.name, exec)
					}
					mu.Lock()
					answers[call.name+" "+code.String()]++
					mu.Unlock()
					break
				}
			}
		})
	}
	// The start of an exec that a pause has met goes on when the container does.
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for racing := true; racing; {
		select {
		case <-done:
			racing = false
		case <-time.After(20 * time.Millisecond):
			_, _ = h.Resume(ctx, &task.ResumeRequest{ID: h.ID})
		}
	}
	t.Logf("%v", answers)
}

// requireLegal looks whether a container's events are those of one life, and its execs'
// of as many as there were.
func requireLegal(t *testing.T, events *harness.Events, id string) {
	t.Helper()
	next := map[string]string{"": "create", "create": "start exit delete", "start": "paused exit", "paused": "resumed exit", "resumed": "paused exit", "exit": "delete"}
	nextExec := map[string]string{"": "exec-added", "exec-added": "exec-started exec-added", "exec-started": "exit", "exit": "exec-added"}
	awaitDelete(t, events, id)
	last, execs := "", map[string]string{}
	for _, e := range events.Of(id) {
		exec := ""
		switch body := e.Body.(type) {
		case *apievents.TaskExecAdded:
			exec = body.ExecID
		case *apievents.TaskExecStarted:
			exec = body.ExecID
		case *apievents.TaskExit:
			if body.ID != id {
				exec = body.ID
			}
		}
		if exec != "" {
			require.Contains(t, strings.Fields(nextExec[execs[exec]]), e.Topic, "exec %s after %q: %v", exec, execs[exec], events.Of(id))
			execs[exec] = e.Topic
			continue
		}
		if e.Topic == "exit" {
			for exec, topic := range execs {
				require.NotEqual(t, "exec-started", topic, "exit of exec %s", exec)
			}
		}
		require.Contains(t, strings.Fields(next[last]), e.Topic, "after %q: %v", last, events.Of(id))
		last = e.Topic
	}
	require.Equal(t, "delete", last)
}

// A state directory that is full or read-only refuses what is new with a sentence and
// a code, leaves nothing of that, and ends nothing; with room again all works again.
func TestSurvivalNoRoom(t *testing.T) {
	for name, test := range map[string]struct {
		take func(dir string) error
		give func(dir string) error
		code codes.Code // of a create
		text string
	}{
		"full": {
			func(dir string) error {
				for _, size := range []int{64 << 10, 4 << 10} { // to the last page
					f, err := os.Create(filepath.Join(dir, fmt.Sprint("full-", size)))
					if err != nil {
						return err
					}
					for err == nil {
						_, err = f.Write(make([]byte, size))
					}
					f.Close()
				}
				return nil
			},
			func(dir string) error {
				for _, size := range []int{64 << 10, 4 << 10} {
					if err := os.Remove(filepath.Join(dir, fmt.Sprint("full-", size))); err != nil {
						return err
					}
				}
				return nil
			},
			codes.ResourceExhausted, "no space left on device",
		},
		"no files": {
			func(dir string) error { return unix.Mount("", dir, "", unix.MS_REMOUNT, "nr_inodes="+inodes(dir)) },
			func(dir string) error { return unix.Mount("", dir, "", unix.MS_REMOUNT, "nr_inodes=1000") },
			codes.ResourceExhausted, "no space left on device",
		},
		"read-only": {
			func(dir string) error { return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "") },
			func(dir string) error { return unix.Mount("", dir, "", unix.MS_REMOUNT, "") },
			codes.FailedPrecondition, "read-only file system",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			dir := filepath.Join(tt.State, "byhand")
			require.NoError(t, os.Mkdir(dir, 0o711))
			require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=1000"))
			t.Cleanup(func() {
				require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH))
				require.NoError(t, os.Remove(dir))
			})
			root := rootfs(tt)
			first := tt.ByHand(harness.HandConfig{RootFS: root, Args: []string{"/bin/busybox", "sh", "-c", "echo ready; while :; do echo tick; busybox sleep 0.01; done"}, Opts: []oci.SpecOpts{oci.WithEnv([]string{"PATH=/bin"})}})
			another := func(args []string) *harness.ByHand {
				return tt.ByHand(harness.HandConfig{RootFS: root, Args: args, Shim: first})
			}
			guest, created, ends := another(sleepers["guest"]), another(sleepers["guest"]), another([]string{"/exit.wasm", "a", "b", "c"})
			later := []*harness.ByHand{another(sleepers["guest"]), another(sleepers["native"])}
			for _, h := range []*harness.ByHand{first, guest, created, ends} {
				_, err := h.Create(tt.Ctx)
				require.NoError(t, err)
			}
			start(tt, first)
			start(tt, guest)
			t.Cleanup(func() { _ = test.give(dir) })
			before := tt.Snapshot()
			exec := func(h *harness.ByHand, code uint32, args string) {
				t.Helper()
				id := harness.FreshID("e")
				_, err := h.Exec(tt.Ctx, &task.ExecProcessRequest{ID: h.ID, ExecID: id, Spec: &anypb.Any{Value: []byte(`{"args":` + args + `,"cwd":"/","env":["PATH=/bin"]}`)}})
				require.NoError(t, err)
				_, err = h.Start(tt.Ctx, &task.StartRequest{ID: h.ID, ExecID: id})
				require.NoError(t, err)
				r, err := h.Wait(tt.Ctx, &task.WaitRequest{ID: h.ID, ExecID: id})
				require.NoError(t, err)
				require.Equal(t, code, r.ExitStatus)
				_, err = h.Delete(tt.Ctx, &task.DeleteRequest{ID: h.ID, ExecID: id})
				require.NoError(t, err)
			}
			requireState := func(h *harness.ByHand, want types.Status) {
				t.Helper()
				state, err := h.State(tt.Ctx, &task.StateRequest{ID: h.ID})
				require.NoError(t, err)
				require.Equal(t, want, state.Status)
			}
			goesOn := func() {
				t.Helper()
				n := first.Stdout.Len()
				require.Eventually(t, func() bool { return first.Stdout.Len() > n }, 10*time.Second, time.Millisecond)
				for _, h := range []*harness.ByHand{first, guest} {
					requireState(h, types.Status_RUNNING)
					exec(h, 2, `["/exit.wasm","a","b"]`)
					exec(h, 3, `["/bin/busybox","sh","-c","exit 3"]`)
				}
			}

			require.Eventually(t, func() bool { return test.take(dir) == nil }, 10*time.Second, time.Millisecond) // what was just removed makes it busy
			for _, h := range later {
				_, err := h.Create(tt.Ctx)
				require.Equal(t, test.code, status.Code(err), "%v", err)
				require.ErrorContains(t, err, test.text)
			}
			for thing := range tt.Snapshot() {
				if !before[thing] && !strings.HasPrefix(thing, "process ") && !strings.Contains(thing, "/full-") {
					t.Errorf("left behind: %s", thing)
				}
			}
			goesOn()
			_, err := guest.Pause(tt.Ctx, &task.PauseRequest{ID: guest.ID})
			require.NoError(t, err)
			requireState(guest, types.Status_PAUSED)
			_, err = guest.Resume(tt.Ctx, &task.ResumeRequest{ID: guest.ID})
			require.NoError(t, err)
			_, err = guest.Update(tt.Ctx, &task.UpdateTaskRequest{ID: guest.ID, Resources: &anypb.Any{Value: []byte(`{"pids":{"limit":77}}`)}})
			require.Equal(t, test.code, status.Code(err), "%v", err)
			require.Equal(t, "max", cgroupFile(tt, "pids", guest.ID, "pids.max"), "what is refused changes nothing")
			start(tt, created)
			requireState(created, types.Status_RUNNING)
			start(tt, ends)
			require.EqualValues(t, 3, wait(tt, ends))
			requireState(ends, types.Status_STOPPED)
			err = deleteByHand(tt.Ctx, ends) // not where its state cannot be removed
			if err != nil {
				require.Equal(t, test.code, status.Code(err), "%v", err)
				requireState(ends, types.Status_STOPPED)
			}
			require.Equal(t, name == "read-only", err != nil, "%v", err)
			goesOn()

			require.NoError(t, test.give(dir))
			if err != nil {
				require.NoError(t, deleteByHand(tt.Ctx, ends))
			}
			goesOn()
			for _, h := range later {
				_, err := h.Create(tt.Ctx)
				require.NoError(t, err)
				start(tt, h)
				requireState(h, types.Status_RUNNING)
			}

			// A daemon that is killed then: nothing goes on of what it had.
			require.Eventually(t, func() bool { return test.take(dir) == nil }, 10*time.Second, time.Millisecond) // what was just removed makes it busy
			killShim(tt, tt.Shims())
			for _, h := range append(later, first, guest, created) {
				_, err := h.DeleteCommand(tt.Ctx)
				require.Equal(t, name == "read-only", err != nil, "%v", err)
			}
			for thing := range tt.Snapshot() {
				require.False(t, strings.HasPrefix(thing, "cgroup ") && strings.Contains(thing, "/c"), thing)
			}
			require.NoError(t, test.give(dir))
			for _, h := range append(later, first, guest, created) {
				_, err := h.DeleteCommand(tt.Ctx)
				require.NoError(t, err)
			}
		})
	}
}

// inodes are how many files a file system has now.
func inodes(dir string) string {
	var st unix.Statfs_t
	_ = unix.Statfs(dir, &st)
	return fmt.Sprint(st.Files - st.Ffree)
}

// A container that may have no more processes refuses an exec with a sentence and a
// code, whatever runs it, and nothing else; when there is room it works again.
func TestSurvivalNoProcesses(t *testing.T) {
	eachSleeper(t, func(t *harness.T, c *harness.Container) {
		allow := func(n int64) {
			require.NoError(t, c.Task.Update(t.Ctx, client.WithResources(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &n}})))
		}
		require.Equal(t, "hello\n", t.ExecOnce(c, harness.ExecConfig{Args: []string{"/hello.wasm"}}).Stdout)
		before := cgroupFile(t, "pids", c.ID(), "pids.current")
		now, err := strconv.ParseInt(before, 10, 64)
		require.NoError(t, err)
		refused := 0
		for i := range 10 { // whether it gets as far as to need one more is a matter of luck
			allow(now)
			e := t.AddExec(c, harness.ExecConfig{Args: [][]string{{"/hello.wasm"}, {"/bin/true"}}[i%2]})
			if err := e.Start(t.Ctx); err != nil {
				refused++
				require.Equal(t, codes.ResourceExhausted, status.Code(errgrpc.ToGRPC(err)), "%v", err)
				require.ErrorContains(t, err, "its cgroup allows no more processes")
				_, err = e.Delete(t.Ctx)
				require.NoError(t, err)
			} else {
				_, err = e.Finish(t.Ctx)
				require.NoError(t, err)
			}
			t.RequireStatus(c.Task, client.Running)
			require.Eventually(t, func() bool { return cgroupFile(t, "pids", c.ID(), "pids.current") == before }, 10*time.Second, time.Millisecond, "nothing is left, and nothing has ended")
		}
		require.NotZero(t, refused)
		allow(now + 50)
		require.Equal(t, "hello\n", t.ExecOnce(c, harness.ExecConfig{Args: []string{"/hello.wasm"}}).Stdout)
	})
}

// Where the daemon itself may start nothing more, a create says so. It may also end of
// it: Go's runtime does where it gets no thread. Then, too, nothing is left.
func TestSurvivalNoProcessesForDaemon(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	events := tt.Subscribe(tt.Ctx)
	defer events.Close()
	group, dir := ownCgroup(tt)
	image := smoke.Image(tt)
	pod := harness.FreshID("pod")
	first := tt.Run(harness.Config{ID: pod, Pod: pod, Image: image, Args: sleepers["guest"], RuntimeOptions: body("ShimCgroup = '" + group + "'")})
	require.Equal(t, "hello\n", tt.ExecOnce(first, harness.ExecConfig{Args: []string{"/hello.wasm"}}).Stdout)
	set := func(max string) { require.NoError(t, os.WriteFile(filepath.Join(dir, "pids.max"), []byte(max), 0)) }
	current, err := os.ReadFile(filepath.Join(dir, "pids.current"))
	require.NoError(t, err)
	set(strings.TrimSpace(string(current)))
	config := harness.Config{Pod: pod, Runtime: tt.Runtime, Image: image, Args: []string{"/hello.wasm"}, RuntimeOptions: body("ShimCgroup = '" + group + "'")}
	_, err = tt.Daemon.Create(tt.Ctx, config)
	require.Error(t, err)
	set("max")
	if status.Code(errgrpc.ToGRPC(err)) == codes.ResourceExhausted && len(tt.Shims()) == 1 {
		tt.RequireStatus(first.Task, client.Running)
		require.Equal(t, "hello\n", tt.Once(config).Stdout)
		return
	}
	t.Logf("the daemon has ended: %v", err)
	lost(tt, events, first)
	config.Pod = ""
	require.Equal(t, "hello\n", tt.Once(config).Stdout)
}

// Containers and execs that come and go leave nothing in the daemon of their pod.
func TestSurvivalFlat(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	ctx, cancel := context.WithTimeout(tt.In(context.Background()), 20*time.Minute)
	t.Cleanup(cancel)
	tt.Ctx = ctx
	pause := sandbox(tt)
	image := smoke.Image(tt)
	inits := [][]string{sleepers["native"], sleepers["guest"]}
	cycle := func(i int) {
		c, err := tt.Daemon.Run(tt.Ctx, harness.Config{Pod: pause.ID(), Runtime: tt.Runtime, Image: image, Args: inits[i%2]})
		require.NoError(t, err)
		for _, args := range [][]string{{"/hello.wasm"}, {"/native"}, {"/nope"}} {
			e, err := tt.Daemon.AddExec(tt.Ctx, c, harness.ExecConfig{Args: args, Terminal: i%5 == 0})
			require.NoError(t, err)
			if args[0] == "/nope" {
				require.Error(t, e.Start(tt.Ctx))
				_, err := e.Delete(tt.Ctx)
				require.NoError(t, err)
				e.Discard()
				continue
			}
			require.NoError(t, e.Start(tt.Ctx))
			result, err := e.Finish(tt.Ctx)
			require.NoError(t, err)
			require.Zero(t, result.Code)
			e.Discard()
		}
		require.NoError(t, tt.Remove(tt.Ctx, c))
	}
	look := func() map[string]int {
		require.Eventually(t, func() bool { return len(tt.Shims()) == 1 }, 10*time.Second, time.Millisecond) // containerd may be at a delete
		used := settled(tt)
		used["goroutines"], used["kB"] = goroutines(tt), pss(t, tt.Shims()[0].Pid)
		return used
	}
	for i := range 20 { // whatever grows once has grown
		cycle(i)
	}
	before := look()
	n := rounds(8)
	for i := range n {
		cycle(i)
	}
	after := look()
	t.Logf("before: %v, after %d cycles: %v", before, n, after)
	require.Equal(t, before["children"], after["children"])
	require.LessOrEqual(t, after["fd"], before["fd"]+2)
	require.LessOrEqual(t, after["task"], before["task"]+5)
	require.LessOrEqual(t, after["goroutines"], before["goroutines"]+3)
	require.LessOrEqual(t, after["kB"], before["kB"]+before["kB"]/4)
}

var goroutinesLine = regexp.MustCompile(`([0-9]+) goroutines"`)

// goroutines has the test's only daemon write what it holds to its log, and reads how
// many goroutines it has.
func goroutines(t *harness.T) int {
	t.Helper()
	said := func() [][]string { return goroutinesLine.FindAllStringSubmatch(t.LogTail(1<<20), -1) }
	before := len(said())
	require.NoError(t, syscall.Kill(t.Shims()[0].Pid, syscall.SIGUSR1))
	require.Eventually(t, func() bool { return len(said()) > before }, 10*time.Second, 10*time.Millisecond)
	n, err := strconv.Atoi(said()[before][1])
	require.NoError(t, err)
	return n
}

// Where process ids are soon used again, an exit status is that of its own process.
func TestSurvivalSmallPidMax(t *testing.T) {
	var name unix.Utsname
	require.NoError(t, unix.Uname(&name))
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	require.NoError(t, err)
	if major < 6 || major == 6 && minor < 14 {
		t.Skip("before Linux 6.14 kernel.pid_max is the machine's, and not a namespace's")
	}
	tt := harness.New(t, smoke.Ours)
	out, in, err := os.Pipe()
	require.NoError(t, err)
	defer out.Close()
	place := exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "-c", "echo 400 > /proc/sys/kernel/pid_max && echo ready && exec sleep 1000")
	place.Stdout = in
	require.NoError(t, place.Start())
	in.Close()
	t.Cleanup(func() { _ = place.Process.Kill(); _ = place.Wait() })
	said := make([]byte, 6)
	_, err = io.ReadFull(out, said)
	require.NoError(t, err)
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", place.Process.Pid, place.Process.Pid))
	require.NoError(t, err)
	nsenter, err := exec.LookPath("nsenter")
	require.NoError(t, err)

	id := harness.FreshID("c")
	h := tt.ByHand(harness.HandConfig{
		ID: id, RootFS: rootfs(tt), Args: sleepers["guest"], Opts: []oci.SpecOpts{oci.WithHostNamespace(specs.PIDNamespace)},
		Within: []string{nsenter, "--target", strings.TrimSpace(string(children)), "--pid", "--mount", "sh", "-c", `cd "$0" && exec "$@"`, filepath.Join(tt.State, "byhand", id)},
	})
	_, err = h.Create(tt.Ctx)
	require.NoError(t, err)
	start(tt, h)
	var mu sync.Mutex
	pids := map[uint32]int{}
	n := rounds(40)
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range n {
				code := (i*7 + w*31) % 100
				args := fmt.Sprintf(`["/bin/busybox","sh","-c","exit %d"]`, code)
				if i%4 == 3 {
					code = 3 + w
					args = `["/exit.wasm"` + strings.Repeat(`,"x"`, code) + `]`
				}
				e := fmt.Sprintf("e%d-%d", w, i)
				_, err := h.Exec(tt.Ctx, &task.ExecProcessRequest{ID: id, ExecID: e, Spec: &anypb.Any{Value: []byte(`{"args":` + args + `,"cwd":"/"}`)}})
				if !assert.NoError(t, err) {
					return
				}
				started, err := h.Start(tt.Ctx, &task.StartRequest{ID: id, ExecID: e})
				if !assert.NoError(t, err) {
					return
				}
				r, err := h.Wait(tt.Ctx, &task.WaitRequest{ID: id, ExecID: e})
				if !assert.NoError(t, err) {
					return
				}
				assert.EqualValues(t, code, r.ExitStatus, "%s", e)
				_, err = h.Delete(tt.Ctx, &task.DeleteRequest{ID: id, ExecID: e})
				assert.NoError(t, err)
				mu.Lock()
				pids[started.Pid]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	t.Logf("%d processes had %d ids", 4*n, len(pids))
	require.Less(t, len(pids), 4*n)
	for pid := range pids {
		require.Less(t, pid, uint32(400))
	}
	_, err = h.Kill(tt.Ctx, &task.KillRequest{ID: id, Signal: uint32(syscall.SIGKILL)})
	require.NoError(t, err)
	require.EqualValues(t, 137, wait(tt, h))
}
