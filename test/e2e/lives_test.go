// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// within is a context for calls that are to be answered, some day.
func within(t *harness.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Ctx, d)
	t.Cleanup(cancel)
	return ctx
}

// A create that its client has given up leaves nothing, in whatever order a daemon
// that was stopped meanwhile meets what has come for it.
func TestLivesStalledCreate(t *testing.T) {
	for _, args := range [][]string{{"/sleep.wasm"}, {"/native", "sleep"}} {
		t.Run(args[0], func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			for range 8 {
				h := tt.ByHand(harness.HandConfig{RootFS: rootfs(tt), Args: args})
				daemon := tt.Shims()[0].Pid
				require.NoError(t, unix.Kill(daemon, unix.SIGSTOP))
				_, err := h.Create(within(tt, 100*time.Millisecond))
				require.Error(t, err)
				_, err = h.Delete(within(tt, 20*time.Millisecond), &task.DeleteRequest{ID: h.ID})
				require.Error(t, err)
				_, err = h.Shutdown(within(tt, 20*time.Millisecond), &task.ShutdownRequest{ID: h.ID})
				require.Error(t, err)
				require.NoError(t, unix.Kill(daemon, unix.SIGCONT))
				_, err = h.DeleteCommand(tt.Ctx) // as containerd does
				require.NoError(t, err)
				require.Eventually(t, func() bool { return len(tt.Shims()) == 0 }, 20*time.Second, time.Millisecond, "nobody needs the daemon")
			}
		})
	}
}

// So it is where the daemon has other containers, for which it goes on.
func TestLivesStalledCreateInPod(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	root := rootfs(tt)
	sandbox := tt.ByHand(harness.HandConfig{RootFS: root, Args: []string{"/native", "sleep"}})
	_, err := sandbox.Create(tt.Ctx)
	require.NoError(t, err)
	daemon := tt.Shims()[0].Pid
	late := tt.ByHand(harness.HandConfig{RootFS: root, Args: []string{"/native", "sleep"}, Shim: sandbox})
	_, err = late.DeleteCommand(tt.Ctx)
	require.NoError(t, err)
	_, err = late.Create(tt.Ctx)
	require.ErrorContains(t, err, "it was given up meanwhile")
	for range 4 {
		h := tt.ByHand(harness.HandConfig{RootFS: root, Args: []string{"/native", "sleep"}, Shim: sandbox})
		// What containerd leaves there for containers of a pod.
		result := fmt.Sprintf(`{"version":3,"address":%q,"protocol":"ttrpc"}`, sandbox.Address)
		require.NoError(t, os.WriteFile(filepath.Join(h.Bundle, "bootstrap.json"), []byte(result), 0o600))
		require.NoError(t, unix.Kill(daemon, unix.SIGSTOP))
		_, err := h.Create(within(tt, 100*time.Millisecond))
		require.Error(t, err)
		_, err = h.Delete(within(tt, 20*time.Millisecond), &task.DeleteRequest{ID: h.ID})
		require.Error(t, err)
		require.NoError(t, unix.Kill(daemon, unix.SIGCONT))
		_, err = h.DeleteCommand(tt.Ctx)
		require.NoError(t, err)
		// However the create went that was on its way, it ends without a container.
		require.Eventually(t, func() bool {
			_, err := h.State(tt.Ctx, &task.StateRequest{ID: h.ID})
			return status.Code(err) == codes.NotFound && strings.Contains(err.Error(), "is not in this shim")
		}, 20*time.Second, 10*time.Millisecond)
		require.NoError(t, os.Rename(h.Bundle, h.Bundle+".deleted")) // as containerd does
		require.NoError(t, os.RemoveAll(h.Bundle+".deleted"))
		require.NoError(t, os.Mkdir(h.Bundle, 0o700))
		_, err = h.State(tt.Ctx, &task.StateRequest{ID: h.ID})
		require.Equal(t, codes.NotFound, status.Code(err))
	}
	_, err = sandbox.State(tt.Ctx, &task.StateRequest{ID: sandbox.ID})
	require.NoError(t, err)
}

// What the command "delete" cleans up while its daemon lives, the daemon gives up:
// it ends, and the exit is told once.
func TestLivesCleanedUpFromOutside(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		ends bool // before it is cleaned up
	}{
		"running guest": {[]string{"/sleep.wasm"}, false}, "running native": {[]string{"/native", "sleep"}, false}, "stopped guest": {[]string{"/hello.wasm"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			events := tt.Subscribe(tt.Ctx)
			defer events.Close()
			c, err := tt.Daemon.Run(tt.Ctx, harness.Config{Runtime: tt.Runtime, Image: smoke.Image(tt), Args: test.args, NoIO: true})
			require.NoError(t, err)
			if test.ends {
				require.NoError(t, c.Wait(tt.Ctx))
			}
			binary, err := tt.ShimBinary(smoke.Ours)
			require.NoError(t, err)
			cmd, err := tt.ShimCommand(tt.Ctx, binary, tt.Bundle(c.ID()), harness.Dialect23, "delete")
			require.NoError(t, err)
			cmd.Stderr = os.Stderr
			require.NoError(t, cmd.Run())
			require.Eventually(t, func() bool { return len(tt.Shims()) == 0 }, 20*time.Second, time.Millisecond, "nobody needs the daemon")
			// containerd takes a while to notice.
			require.Eventually(t, func() bool { return tt.Remove(tt.Ctx, c) == nil }, 20*time.Second, 10*time.Millisecond)
			exits := func() (n int) {
				for _, e := range events.Of(c.ID()) {
					if e.Topic == "exit" {
						n++
					}
				}
				return n
			}
			require.Eventually(t, func() bool { return exits() > 0 }, 10*time.Second, time.Millisecond)
			if !test.ends { // else containerd, which had it told, tells of it once more
				time.Sleep(200 * time.Millisecond)
				require.Equal(t, 1, exits())
			}
		})
	}
}

// A client that goes away while it deletes leaves a daemon that ends by itself, and
// with it what containerd knew of the container: its name is free.
func TestLivesClientGone(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	config := harness.Config{
		Runtime: tt.Runtime, ID: harness.FreshID("c"), Image: smoke.Image(tt), Args: []string{"/hello.wasm"}, NoIO: true,
		Opts: []oci.SpecOpts{harness.WithSpec(func(s *oci.Spec) {
			s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "0.5"}}}}
		})},
	}
	c, err := tt.Daemon.Run(tt.Ctx, config)
	require.NoError(t, err)
	require.NoError(t, c.Wait(tt.Ctx))
	_, err = c.Task.Delete(within(tt, 100*time.Millisecond))
	require.Error(t, err)
	require.Eventually(t, func() bool { return len(tt.Shims()) == 0 }, 20*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { // containerd takes a while to notice
		again, err := tt.RunTask(tt.Ctx, c.Container, config)
		return err == nil && tt.Remove(tt.Ctx, again) == nil
	}, 20*time.Second, 10*time.Millisecond)
}

// Of two deletes at once one deletes, and the other finds nothing; as runc's shim has
// it.
func TestLivesTwoDeletes(t *testing.T) {
	for _, runtime := range []string{smoke.Ours, smoke.Runc} {
		t.Run(runtime, func(t *testing.T) {
			tt := harness.New(t, runtime)
			for range 5 {
				h := tt.ByHand(harness.HandConfig{RootFS: rootfs(tt), Args: []string{"/native", "sleep"}})
				_, err := h.Create(tt.Ctx)
				require.NoError(t, err)
				if runtime == smoke.Runc { // which does not delete what was not killed
					_, err = h.Kill(tt.Ctx, &task.KillRequest{ID: h.ID, Signal: 9})
					require.NoError(t, err)
					_, err = h.Wait(tt.Ctx, &task.WaitRequest{ID: h.ID})
					require.NoError(t, err)
				}
				var both sync.WaitGroup
				got := make([]codes.Code, 2)
				for i := range got {
					both.Go(func() {
						_, err := h.Delete(tt.Ctx, &task.DeleteRequest{ID: h.ID})
						got[i] = status.Code(err)
					})
				}
				both.Wait()
				require.ElementsMatch(t, []codes.Code{codes.OK, codes.NotFound}, got)
			}
		})
	}
}

// State answers soon, whatever else is waited for: at once, but for a container that is
// being created, which is likely to be there a moment later.
func TestLivesStateAnswers(t *testing.T) {
	stubborn := filepath.Join(t.TempDir(), "logger")
	require.NoError(t, os.WriteFile(stubborn, []byte("#!/bin/sh\nexec 5>&-\ntrap '' TERM\nsleep 2\n"), 0o755))
	for name, test := range map[string]struct {
		spec   func(s *oci.Spec)
		stdout string
		least  int // answers meanwhile
		slow   func(ctx context.Context, h *harness.ByHand) error
		before func(ctx context.Context, h *harness.ByHand) error
	}{
		"a hook of the creation": {
			func(s *oci.Spec) {
				s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "3"}}}}
			}, "", 2,
			func(ctx context.Context, h *harness.ByHand) error {
				_, err := h.Create(ctx)
				return err
			}, nil,
		},
		"a hook after the end": {
			func(s *oci.Spec) {
				s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1"}}}}
			}, "", 6, deleteByHand, killByHand,
		},
		"a logger that does not end": {func(*oci.Spec) {}, "binary://" + stubborn, 6, deleteByHand, killByHand},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			h := tt.ByHand(harness.HandConfig{RootFS: rootfs(tt), Args: []string{"/bin/busybox", "sleep", "100"}, Opts: []oci.SpecOpts{harness.WithSpec(test.spec)}})
			r := h.Request()
			if test.stdout != "" {
				r.Stdout, r.Stderr = test.stdout, test.stdout
			}
			if test.before != nil {
				_, err := h.Shim.Create(tt.Ctx, r)
				require.NoError(t, err)
				require.NoError(t, test.before(tt.Ctx, h))
			}
			slow := make(chan error, 1)
			go func() { slow <- test.slow(tt.Ctx, h) }()
			answers := 0
			for done := false; !done; {
				select {
				case err := <-slow:
					require.NoError(t, err)
					done = true
				default:
					// containerd gives it two seconds; the slow call takes longer.
					_, err := h.State(within(tt, 3*time.Second/2), &task.StateRequest{ID: h.ID})
					if status.Code(err) != codes.NotFound { // not yet created, or just deleted
						require.NoError(t, err)
					}
					answers++
					time.Sleep(50 * time.Millisecond)
				}
			}
			require.GreaterOrEqual(t, answers, test.least)
		})
	}
}

func deleteByHand(ctx context.Context, h *harness.ByHand) error {
	_, err := h.Delete(ctx, &task.DeleteRequest{ID: h.ID})
	return err
}

func killByHand(ctx context.Context, h *harness.ByHand) error {
	if _, err := h.Start(ctx, &task.StartRequest{ID: h.ID}); err != nil {
		return err
	}
	if _, err := h.Kill(ctx, &task.KillRequest{ID: h.ID, Signal: 9}); err != nil {
		return err
	}
	_, err := h.Wait(ctx, &task.WaitRequest{ID: h.ID})
	return err
}

// A file of the host's is never a process's: it has a pipe, and the daemon writes.
func TestLivesFilesAreTheDaemons(t *testing.T) {
	for _, args := range [][]string{{"/sleep.wasm"}, {"/native", "sleep"}} {
		for name, scheme := range map[string]string{"uri": "file://", "path": ""} {
			t.Run(args[0]+"/"+name, func(t *testing.T) {
				tt := harness.New(t, smoke.Ours)
				file := filepath.Join(t.TempDir(), "log")
				require.NoError(t, os.WriteFile(file, []byte("before\n"), 0o600))
				container, err := tt.NewContainer(tt.Ctx, harness.Config{Runtime: tt.Runtime, Image: smoke.Image(tt), Args: args})
				require.NoError(t, err)
				defer func() { require.NoError(t, container.Delete(tt.Ctx, client.WithSnapshotCleanup)) }()
				task, err := container.NewTask(tt.Ctx, func(id string) (cio.IO, error) {
					return &namedIO{cio.Config{Stdin: file, Stdout: scheme + file, Stderr: scheme + file}}, nil
				})
				require.NoError(t, err)
				defer func() {
					_, err := task.Delete(tt.Ctx, client.WithProcessKill)
					require.NoError(t, err)
				}()
				require.NoError(t, task.Start(tt.Ctx))
				for fd := range 3 {
					target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", task.Pid(), fd))
					require.NoError(t, err)
					require.True(t, strings.HasPrefix(target, "pipe:"), target)
				}
			})
		}
	}
}

// namedIO are streams that nobody reads here.
type namedIO struct{ config cio.Config }

func (n *namedIO) Config() cio.Config { return n.config }
func (*namedIO) Cancel()              {}
func (*namedIO) Wait()                {}
func (*namedIO) Close() error         { return nil }

// All that a container has written is in the file when it is deleted.
func TestLivesFilesAreComplete(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	for range 5 {
		file := filepath.Join(t.TempDir(), "log")
		for program, want := range outputs {
			require.NoError(t, os.RemoveAll(file))
			require.NoError(t, runWith(tt, harness.FreshID("c"), program, cio.LogFile(file)))
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Contains(t, string(text), want)
		}
	}
}

// What a create refuses does not have containerd speak an older language to the
// shim for good.
func TestLivesNoDowngrade(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	container, err := tt.NewContainer(tt.Ctx, harness.Config{Runtime: tt.Runtime, Image: smoke.Image(tt), Args: []string{"/hello.wasm"}})
	require.NoError(t, err)
	defer func() { require.NoError(t, container.Delete(tt.Ctx, client.WithSnapshotCleanup)) }()
	_, err = container.NewTask(tt.Ctx, func(id string) (cio.IO, error) {
		return &namedIO{cio.Config{Stdout: "nope:///x"}}, nil
	})
	require.ErrorContains(t, err, "streams of scheme nope:// are not supported here")
	require.NotContains(t, tt.LogTail(10), "downgrading")
}
