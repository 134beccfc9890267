// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// nodeTest is a containerd whose containers ask for a daemon of the node.
type nodeTest struct {
	*harness.T
	image client.Image
}

func newNodeTest(t *testing.T) *nodeTest {
	tt := harness.New(t, smoke.Ours)
	t.Cleanup(tt.EndIdle)
	return &nodeTest{tt, smoke.Image(tt)}
}

// onNode are the options of containers that are served by one daemon.
func onNode(more string) *runtimeoptions.Options { return body("daemon = 'node'\n" + more) }

// start starts a container that sleeps, with more options.
func (t *nodeTest) start(c harness.Config, more string) *harness.Container {
	if c.Args == nil {
		c.Args = sleepers["guest"]
	}
	c.Image, c.RuntimeOptions = t.image, onNode(more)
	started := t.Run(c)
	require.NoError(t, started.Stdout.WaitFor("ready", 10*time.Second))
	return started
}

// served are the containers by the socket of the daemon that serves them.
func (t *nodeTest) served() map[string][]string {
	found := map[string][]string{}
	files, err := os.ReadDir(t.SocketDir)
	require.NoError(t, err)
	for _, f := range files {
		if target, err := os.Readlink(filepath.Join(t.SocketDir, f.Name())); err == nil {
			found[target] = append(found[target], f.Name())
		}
	}
	return found
}

func (t *nodeTest) requireLives(c *harness.Container) {
	t.Helper()
	result := t.ExecOnce(c, harness.ExecConfig{Args: []string{"/hello.wasm"}})
	require.Equal(t, "hello\n", result.Stdout, "%+v", result)
}

// One daemon serves pods and containers without one, which come and go for themselves.
func TestNodeDaemon(t *testing.T) {
	tt := newNodeTest(t)
	pods := map[string][]*harness.Container{}
	for range 3 {
		id := harness.FreshID("pod")
		pods[id] = []*harness.Container{tt.start(harness.Config{ID: id, Pod: id, Args: []string{"/native", "sleep"}}, "")}
		for _, args := range [][]string{sleepers["native"], sleepers["guest"]} {
			pods[id] = append(pods[id], tt.start(harness.Config{Pod: id, Args: args}, ""))
		}
	}
	alone := tt.start(harness.Config{}, "")
	require.Len(t, tt.Shims(), 1)
	daemon := tt.Shims()[0]
	require.Len(t, tt.served(), 1)
	for _, links := range tt.served() {
		require.Len(t, links, 4)
	}

	for id, pod := range pods {
		for _, c := range pod {
			tt.requireLives(c)
		}
		for i := len(pod) - 1; i >= 0; i-- {
			require.NoError(t, tt.Remove(tt.Ctx, pod[i]))
		}
		delete(pods, id)
		// What is logged comes to containerd by a pod that is there.
		trapped := harness.FreshID("c")
		result := tt.Once(harness.Config{ID: trapped, Image: tt.image, Args: []string{"/trap.wasm"}, RuntimeOptions: onNode("")})
		require.EqualValues(t, 134, result.Code)
		require.Eventually(t, func() bool { return strings.Contains(tt.LogTail(30), "instance="+trapped) }, harness.Slow(5*time.Second), 10*time.Millisecond)
	}
	tt.requireLives(alone)
	require.Equal(t, []harness.Process{daemon}, tt.Shims())
	require.NoError(t, tt.Remove(tt.Ctx, alone))
	require.Empty(t, tt.served())

	// It waits a while for the next.
	tt.requireOne(daemon)
	require.Eventually(t, func() bool { return len(tt.Shims()) == 0 }, harness.Slow(time.Minute), 100*time.Millisecond, "nobody needs it")
	tt.RequireNothingLeft()
}

func (t *nodeTest) requireOne(daemon harness.Process) {
	result := t.Once(harness.Config{Image: t.image, Args: []string{"/hello.wasm"}, RuntimeOptions: onNode("")})
	require.Equal(t, "hello\n", result.Stdout, "%+v", result)
	require.Equal(t, []harness.Process{daemon}, t.Shims())
}

// No daemon has more pods than it may have, however many come at once, and a place that
// is free is taken again.
func TestNodeDaemonPods(t *testing.T) {
	tt := newNodeTest(t)
	const places = "daemon_pods = 2"
	started := make([]*harness.Container, 7)
	var group sync.WaitGroup
	for i := range started {
		group.Go(func() {
			c, err := tt.Daemon.Run(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: tt.image, Args: sleepers["guest"], RuntimeOptions: onNode(places)})
			if err == nil {
				started[i] = c
			}
		})
	}
	group.Wait()
	for _, c := range started {
		require.NotNil(t, c)
	}
	require.Len(t, tt.Shims(), 4)
	for daemon, links := range tt.served() {
		require.LessOrEqual(t, len(links), 2, daemon)
	}
	for _, c := range started[:3] {
		require.NoError(t, tt.Remove(tt.Ctx, c))
	}
	for range 3 {
		tt.start(harness.Config{}, places)
	}
	require.Len(t, tt.Shims(), 4)
	// Other options, another daemon: it may belong elsewhere, or log more.
	tt.start(harness.Config{}, places+"\nlog_level = 'debug'")
	require.Len(t, tt.Shims(), 5)
	for _, c := range started[3:] {
		require.NoError(t, tt.Remove(tt.Ctx, c))
	}
}

// With a daemon that is killed its containers end, as they do with a daemon of their own.
func TestNodeDaemonKilled(t *testing.T) {
	for name, signal := range map[string]unix.Signal{"killed": unix.SIGKILL, "stopped": unix.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			tt := newNodeTest(t)
			events := tt.Subscribe(tt.Ctx)
			defer events.Close()
			var all []*harness.Container
			for range 3 {
				all = append(all, tt.start(harness.Config{}, ""))
			}
			require.NoError(t, unix.Kill(tt.Shims()[0].Pid, signal))
			for _, c := range all {
				lost(tt.T, events, c)
				for _, e := range events.Of(c.ID()) {
					if exit, ok := e.Body.(*apievents.TaskExit); ok {
						require.EqualValues(t, 137, exit.ExitStatus)
					}
				}
			}
			tt.RequireNothingLeft()
			tt.requireLives(tt.start(harness.Config{}, ""))
			require.Len(t, tt.Shims(), 1)
		})
	}
}

// A daemon that does not answer keeps nobody: the next container has another one.
func TestNodeDaemonHangs(t *testing.T) {
	tt := newNodeTest(t)
	first := tt.start(harness.Config{}, "")
	hanging := tt.Shims()[0].Pid
	require.NoError(t, unix.Kill(hanging, unix.SIGSTOP))
	second := tt.start(harness.Config{}, "")
	tt.requireLives(second)
	require.Len(t, tt.Shims(), 2)
	require.NoError(t, unix.Kill(hanging, unix.SIGCONT))
	tt.requireLives(first)
}

// A new binary starts a daemon of its own; the old one ends with its last container.
func TestNodeDaemonUpgrade(t *testing.T) {
	tt := newNodeTest(t)
	path := filepath.Join(t.TempDir(), "containerd-shim-wasmtime-v1")
	install := func() {
		repo, err := harness.Repo()
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(repo, "dist", filepath.Base(path)))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path+".new", b, 0o755))
		require.NoError(t, os.Rename(path+".new", path))
	}
	install()
	first := tt.start(harness.Config{Runtime: path}, "")
	old := tt.Shims()
	install()
	second := tt.start(harness.Config{Runtime: path}, "")
	require.Len(t, old, 1)
	require.Len(t, tt.Shims(), 2)
	tt.requireLives(first)
	require.NoError(t, tt.Remove(tt.Ctx, first))
	tt.requireLives(second)
	require.NoError(t, tt.Remove(tt.Ctx, second))
}

// Many lives at once leave nothing, and take nothing from one another.
func TestNodeDaemonLives(t *testing.T) {
	tt := newNodeTest(t)
	tt.start(harness.Config{}, "")
	daemon := tt.Shims()
	errs := make(chan error, 6)
	var group sync.WaitGroup
	for i := range cap(errs) {
		group.Go(func() {
			for range 15 {
				args, want := []string{"/hello.wasm"}, "hello\n"
				if i%3 == 0 {
					args, want = []string{"/bin/sh", "-c", "echo native"}, "native\n"
				}
				result, err := tt.Daemon.Once(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: tt.image, Args: args, RuntimeOptions: onNode("")})
				if err != nil || result.Stdout != want || result.Code != 0 {
					errs <- fmt.Errorf("%v: %+v: %w", args, result, err)
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-errs:
		t.Error(err)
	default:
	}
	require.Equal(t, daemon, tt.Shims())
	require.Len(t, tt.served(), 1)
	for _, links := range tt.served() {
		require.Len(t, links, 1)
	}
	_, err := tt.Daemon.Create(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: tt.image, Args: []string{"/nothing"}, RuntimeOptions: onNode("")})
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	for _, links := range tt.served() {
		require.Len(t, links, 1, "a create that failed leaves no link")
	}
}
