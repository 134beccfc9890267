// SPDX-License-Identifier: Apache-2.0

// Package soak does at random what clients do with containers, and looks after each
// step whether everything is as it must be.
//
//	make soak MINUTES=10 SEED=1
package soak

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

var (
	minutes = flag.Float64("minutes", 0.2, "how long to go on")
	seed    = flag.Uint64("seed", 0, "of the random numbers; 0 means one that is drawn")
)

func TestMain(m *testing.M) { harness.Main(m, harness.Containerd24) }

// world is what the test believes there is.
type world struct {
	*harness.T
	*rand.Rand
	image      client.Image
	events     *harness.Events
	containers []*container
	done       map[string]int // steps by name
}

// container is a container with the state that it must have.
type container struct {
	*harness.Container
	kind  string
	pod   string
	want  client.ProcessStatus
	execs []*exec
}

type exec struct {
	*harness.Exec
	want client.ProcessStatus
}

// inits are what containers run: for ever, until they are killed.
var inits = map[string][]string{
	"native": {"/native", "sleep"}, "guest": {"/sleep.wasm"}, "looping guest": {"/spin.wasm"}, "component": {"/component-spin.wasm"},
	"shell": {"/bin/sh", "-c", "echo ready; while :; do sleep 1; done"},
}

// program is what ends by itself, and how.
type program struct {
	args []string
	code uint32
	out  string
}

var programs = []program{
	{[]string{"/native"}, 0, "hello\n"},
	{[]string{"/hello.wasm"}, 0, "hello\n"},
	{[]string{"/component-hello.wasm"}, 0, "hello"},
	{[]string{"/exit.wasm", "a", "b", "c"}, 3, ""},
	{[]string{"/trap.wasm"}, 134, ""},
	{[]string{"/bin/sh", "-c", "echo out; exit 9"}, 9, "out"},
	{[]string{"/bin/sh", "-c", "sleep 100 & exit 4"}, 4, ""},
}

func TestSoak(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("seed %d", *seed)
	tt := harness.New(t, smoke.Ours)
	tt.Ctx = tt.In(context.Background()) // a test's own ends after two minutes
	w := &world{T: tt, Rand: rand.New(rand.NewPCG(*seed, 0)), image: smoke.Image(tt), events: tt.Subscribe(tt.Ctx), done: map[string]int{}}
	defer w.events.Close()
	t.Cleanup(w.clear)
	type step struct {
		name   string
		weight int
		do     func()
	}
	steps := []step{
		{"create", 10, w.create},
		{"start", 10, w.start},
		{"exec", 30, w.exec},
		{"long exec", 12, w.longExec},
		{"failing exec", 4, w.failingExec},
		{"terminal", 6, w.terminal},
		{"kill exec", 10, w.killExec},
		{"pause", 6, w.pause},
		{"resume", 10, w.resume},
		{"update", 6, w.update},
		{"stats", 6, w.stats},
		{"kill", 6, w.kill},
		{"delete", 10, w.delete},
	}
	if !harness.NodeDaemon { // or it would be everybody's
		steps = append(steps, step{"kill daemon", 1, w.killDaemon})
	}
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	for deadline := time.Now().Add(time.Duration(*minutes * float64(time.Minute))); time.Now().Before(deadline); {
		n := w.IntN(total)
		for _, s := range steps {
			if n -= s.weight; n < 0 {
				w.done[s.name]++
				s.do()
				break
			}
		}
		w.check()
		if t.Failed() {
			break
		}
	}
	for len(w.containers) > 0 {
		c := w.containers[len(w.containers)-1] // sandboxes last
		w.end(c)
		w.remove(c)
		w.containers = w.containers[:len(w.containers)-1]
	}
	t.Logf("steps: %v", w.done)
	tt.RequireNothingLeft()
}

// clear removes what a failure has left.
func (w *world) clear() {
	for _, c := range w.containers {
		for _, e := range c.execs {
			e.Discard()
		}
		_ = w.Remove(context.Background(), c.Container)
	}
}

// any returns one of the containers in a state, or nil.
func (w *world) any(states ...client.ProcessStatus) *container {
	var all []*container
	for _, c := range w.containers {
		if slices.Contains(states, c.want) {
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[w.IntN(len(all))]
}

const maxContainers = 12

func (w *world) create() {
	if len(w.containers) >= maxContainers {
		return
	}
	kinds := []string{"native", "guest", "looping guest", "component", "shell"}
	kind := kinds[w.IntN(len(kinds))]
	config := harness.Config{ID: harness.FreshID("c"), Runtime: w.Runtime, Image: w.image, Args: inits[kind]}
	switch w.IntN(3) {
	case 0:
		config.Pod = config.ID
	case 1:
		if c := w.any(client.Running); c != nil && c.pod != "" {
			config.Pod = c.pod
		}
	}
	c, err := w.Daemon.Create(w.Ctx, config)
	require.NoError(w, err, kind)
	w.containers = append(w.containers, &container{Container: c, kind: kind, pod: config.Pod, want: client.Created})
}

func (w *world) start() {
	c := w.any(client.Created)
	if c == nil {
		return
	}
	require.NoError(w, c.Task.Start(w.Ctx))
	c.want = client.Running
	if !strings.Contains(c.kind, "component") { // which says nothing
		require.NoError(w, c.Stdout.WaitFor("ready", 20*time.Second), c.kind)
	}
}

func (w *world) exec() {
	c := w.any(client.Running)
	if c == nil {
		return
	}
	p := programs[w.IntN(len(programs))]
	e, err := w.Daemon.AddExec(w.Ctx, c.Container, harness.ExecConfig{Args: p.args, NoIO: w.IntN(4) == 0})
	require.NoError(w, err)
	require.NoError(w, e.Start(w.Ctx), "%s in %s", p.args, c.kind)
	result, err := e.Finish(w.Ctx)
	require.NoError(w, err)
	require.Equal(w, p.code, result.Code, "%s in %s: %+v", p.args, c.kind, result)
	if result.Stdout != "" || e.IO().Config().Stdout != "" {
		require.Contains(w, result.Stdout, p.out, "%s in %s", p.args, c.kind)
	}
	e.Discard()
}

func (w *world) longExec() {
	c := w.any(client.Running, client.Created)
	if c == nil || len(c.execs) > 5 {
		return
	}
	args := [][]string{{"/sleep.wasm"}, {"/bin/sleep", "1000"}, {"/spin.wasm"}}[w.IntN(3)]
	e, err := w.Daemon.AddExec(w.Ctx, c.Container, harness.ExecConfig{Args: args, Terminal: w.IntN(3) == 0})
	require.NoError(w, err)
	added := &exec{Exec: e, want: client.Created}
	c.execs = append(c.execs, added)
	if w.IntN(5) > 0 {
		require.NoError(w, e.Start(w.Ctx))
		added.want = client.Running
	}
}

func (w *world) failingExec() {
	c := w.any(client.Running)
	if c == nil {
		return
	}
	args := [][]string{{"/nope"}, {"/etc/data"}, {"/etc"}}[w.IntN(3)]
	e, err := w.Daemon.AddExec(w.Ctx, c.Container, harness.ExecConfig{Args: args})
	require.NoError(w, err)
	require.Error(w, e.Start(w.Ctx))
	_, err = e.Delete(w.Ctx)
	require.NoError(w, err)
	e.Discard()
}

func (w *world) terminal() {
	c := w.any(client.Running)
	if c == nil {
		return
	}
	in, typed := io.Pipe()
	e, err := w.Daemon.AddExec(w.Ctx, c.Container, harness.ExecConfig{Args: []string{"/bin/sh"}, Terminal: true, Stdin: in})
	require.NoError(w, err)
	require.NoError(w, e.Resize(w.Ctx, 90, 30))
	require.NoError(w, e.Start(w.Ctx))
	_, err = io.WriteString(typed, "busybox stty size\n")
	require.NoError(w, err)
	require.NoError(w, e.Stdout.WaitFor("30 90", 20*time.Second))
	_, err = io.WriteString(typed, "exit 5\n")
	require.NoError(w, err)
	result, err := e.Finish(w.Ctx)
	require.NoError(w, err)
	require.EqualValues(w, 5, result.Code)
	typed.Close()
	e.Discard()
}

// killExec ends a further process, and forgets it.
func (w *world) killExec() {
	c := w.any(client.Running)
	if c == nil || len(c.execs) == 0 {
		return
	}
	i := w.IntN(len(c.execs))
	e := c.execs[i]
	c.execs = slices.Delete(c.execs, i, i+1)
	want := uint32(0)
	if e.want == client.Running {
		signal := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[w.IntN(2)]
		require.NoError(w, e.Kill(w.Ctx, signal))
		want = 128 + uint32(signal)
		require.NoError(w, e.Exited(w.Ctx))
	}
	status, err := e.Delete(w.Ctx)
	require.NoError(w, err)
	if want != 0 {
		require.Equal(w, want, status.ExitCode())
	}
	e.Discard()
}

func (w *world) pause() {
	c := w.any(client.Running)
	if c == nil {
		return
	}
	require.NoError(w, c.Task.Pause(w.Ctx))
	c.want = client.Paused
	_, err := c.Task.Exec(w.Ctx, harness.FreshID("e"), &specs.Process{Args: []string{"/native"}, Cwd: "/"}, cio.NullIO)
	require.True(w, errdefs.IsFailedPrecondition(err), "%v", err)
}

func (w *world) resume() {
	if c := w.any(client.Paused); c != nil {
		require.NoError(w, c.Task.Resume(w.Ctx))
		c.want = client.Running
	}
}

func (w *world) update() {
	c := w.any(client.Running, client.Paused, client.Created)
	if c == nil {
		return
	}
	limit, pids := int64(64+w.IntN(64))<<20, int64(100+w.IntN(100))
	require.NoError(w, c.Task.Update(w.Ctx, client.WithResources(&specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, Pids: &specs.LinuxPids{Limit: &pids},
	})))
}

func (w *world) stats() {
	if c := w.any(client.Running, client.Paused, client.Created, client.Stopped); c != nil {
		metric, err := c.Task.Metrics(w.Ctx)
		require.NoError(w, err, "%s", c.want)
		require.NotEmpty(w, metric.Data.GetValue())
	}
}

func (w *world) kill() {
	if c := w.any(client.Running, client.Paused); c != nil {
		w.end(c)
	}
}

// end ends a container that runs, whatever else there is in it.
func (w *world) end(c *container) {
	switch c.want {
	case client.Created:
		return
	case client.Running, client.Paused:
		require.NoError(w, c.Task.Kill(w.Ctx, syscall.SIGKILL))
		require.NoError(w, c.Wait(w.Ctx))
		c.want = client.Stopped
	}
	for _, e := range c.execs {
		e.want = client.Stopped // also one that was not started: it never will be
	}
}

func (w *world) delete() {
	c := w.any(client.Stopped, client.Created)
	if c == nil {
		return
	}
	if c.ID() == c.pod && slices.ContainsFunc(w.containers, func(o *container) bool { return o != c && o.pod == c.pod }) {
		return // a pod's sandbox is the last of it
	}
	w.containers = slices.DeleteFunc(w.containers, func(o *container) bool { return o == c })
	w.remove(c)
}

func (w *world) remove(c *container) {
	for _, e := range c.execs {
		e.Discard()
	}
	_, err := c.Task.Delete(w.Ctx)
	if c.want == client.Created && err != nil { // the client wants to have it killed first
		require.True(w, errdefs.IsFailedPrecondition(err), "%v", err)
		_, err = c.Task.Delete(w.Ctx, client.WithProcessKill)
	}
	require.NoError(w, err)
	require.NoError(w, c.Delete(w.Ctx, client.WithSnapshotCleanup))
	w.checkEvents(c)
}

// killDaemon kills the daemon of a container that is alone in it.
func (w *world) killDaemon() {
	c := w.any(client.Running, client.Paused)
	if c == nil || c.pod != "" {
		return
	}
	for _, shim := range w.Shims() {
		if strings.HasSuffix(shim.Args, " -id "+c.ID()) {
			require.NoError(w, syscall.Kill(shim.Pid, syscall.SIGKILL))
			_ = c.Wait(w.Ctx) // the connection that it waits on has ended
			c.want = client.Stopped
			w.containers = slices.DeleteFunc(w.containers, func(o *container) bool { return o == c })
			for _, e := range c.execs {
				e.Discard()
			}
			require.Eventually(w, func() bool { // once containerd has seen the end of the connection
				_, err := c.Task.Delete(w.Ctx)
				return err == nil || errdefs.IsNotFound(err)
			}, 20*time.Second, 10*time.Millisecond)
			c.Task.IO().Cancel()
			c.Task.IO().Close()
			require.NoError(w, c.Delete(w.Ctx, client.WithSnapshotCleanup))
		}
	}
}

// check looks whether everything is as the world has it.
func (w *world) check() {
	for _, c := range w.containers {
		w.checkStatus(c.Task, c.want, c.kind)
		for _, e := range c.execs {
			want := e.want
			if c.want == client.Paused && want != client.Stopped {
				continue // what runc's shim answers there is its own
			}
			w.checkStatus(e, want, "exec in "+c.kind)
		}
	}
	for _, shim := range w.Shims() {
		fds, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(shim.Pid), "fd"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		require.NoError(w, err)
		require.Less(w, len(fds), 300, "descriptors of %s", shim)
	}
}

func (w *world) checkStatus(p client.Process, want client.ProcessStatus, what string) {
	status, err := p.Status(w.Ctx)
	require.NoError(w, err, what)
	require.Equal(w, want, status.Status, "%s %s", what, p.ID())
}

// checkEvents looks whether a container's events came in order, each once.
func (w *world) checkEvents(c *container) {
	var all []harness.Event
	require.Eventually(w, func() bool {
		all = w.events.Of(c.ID())
		return len(all) > 0 && all[len(all)-1].Topic == "delete"
	}, 20*time.Second, time.Millisecond, "%s: %v", c.kind, all)
	require.Equal(w, "create", all[0].Topic)
	state := map[string]string{} // of processes
	for _, e := range all {
		id, from, to := c.ID(), "", e.Topic
		switch body := e.Body.(type) {
		case *apievents.TaskStart:
			from = "create"
		case *apievents.TaskExecAdded:
			id = body.ExecID
		case *apievents.TaskExecStarted:
			id, from = body.ExecID, "exec-added"
		case *apievents.TaskExit:
			if id = body.ID; id == c.ID() {
				for other, now := range state {
					require.NotEqual(w, "exec-started", now, "%s of %s: the init's exit is the last", other, c.ID())
				}
			}
			require.Contains(w, []string{"start", "create", "exec-started"}, state[id], "exit of %s", id)
			from = state[id]
		case *apievents.TaskDelete:
			from = "exit"
		case *apievents.TaskCreate:
		default: // paused, resumed, oom
			continue
		}
		require.Equal(w, from, state[id], fmt.Sprintf("%s of %s", to, id))
		state[id] = to
	}
}
