// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// An id is used again while the daemon of its last container ends: the new
// daemon keeps its socket, without which a containerd that is started again
// takes the container for dead.
func TestSameIDWhileItsDaemonEnds(t *testing.T) {
	for _, runtime := range []string{smoke.Ours, smoke.Go} {
		t.Run(runtime, func(t *testing.T) { sameID(harness.New(t, runtime)) })
	}
}

func sameID(t *harness.T) {
	root, id := rootfs(t), harness.FreshID("c")
	var dying int
	for range 4 {
		// Not t.ByHand, whose containers all end with the test.
		h, err := t.Daemon.ByHand(t.Ctx, harness.HandConfig{ID: id, Runtime: t.Runtime, RootFS: root, Args: []string{"/hello.wasm"}})
		require.NoError(t, err)
		socket := strings.TrimPrefix(h.Address, "unix://")
		if dying != 0 {
			require.NoError(t, syscall.Kill(dying, syscall.SIGCONT))
			require.Eventually(t, func() bool { return len(t.Shims()) == 1 }, 10*time.Second, time.Millisecond)
		}
		require.FileExists(t, socket, "a daemon removed its successor's socket")
		_, err = h.Create(t.Ctx)
		require.NoError(t, err)
		start(t, h)
		require.Zero(t, wait(t, h))
		_, err = h.Delete(t.Ctx, &task.DeleteRequest{ID: h.ID})
		require.NoError(t, err)
		shims := t.Shims()
		require.Len(t, shims, 1)
		_, err = h.Shutdown(t.Ctx, &task.ShutdownRequest{ID: h.ID})
		require.NoError(t, err)
		// It gets no further until the next one is there, or has ended.
		dying = shims[0].Pid
		if syscall.Kill(dying, syscall.SIGSTOP) != nil {
			dying = 0
		}
		require.NoError(t, h.Shim.Close())
		h.Shim = nil // the daemon does not answer any more
		require.NoError(t, h.Close(t.Ctx))
	}
	if dying != 0 {
		require.NoError(t, syscall.Kill(dying, syscall.SIGCONT))
	}
}

// Shims of two runtimes in one group: each container is its own runtime's, in
// whichever order they come, and no shim loses its socket.
func TestGroupOfTwoRuntimes(t *testing.T) {
	for name, runtimes := range map[string][]string{
		"runc first": {smoke.Runc, smoke.Ours, smoke.Runc, smoke.Ours},
		"ours first": {smoke.Ours, smoke.Runc, smoke.Ours, smoke.Runc},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			group := harness.FreshID("pod")
			daemons := map[string]map[uint32]bool{smoke.Runc: {}, smoke.Ours: {}}
			var runcs string
			tt.Cleanup(func() { require.NoError(t, os.Remove(runcs), "runc's shim leaves a group's socket") })
			for _, runtime := range runtimes {
				c := tt.Run(harness.Config{
					Runtime: runtime, Image: smoke.Image(tt), Args: []string{"/native", "sleep"},
					Opts: []oci.SpecOpts{oci.WithAnnotations(map[string]string{"io.containerd.runc.v2.group": group})},
				})
				shim, err := tt.Shim(c.ID())
				require.NoError(t, err)
				r, err := shim.Connect(tt.Ctx, &task.ConnectRequest{ID: c.ID()})
				require.NoError(t, err)
				require.NoError(t, shim.Close())
				if runtime == smoke.Runc {
					runcs = strings.TrimPrefix(shim.Address, "unix://")
				}
				require.Equal(t, c.Task.Pid(), r.TaskPid)
				exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(int(r.ShimPid)), "exe"))
				require.NoError(t, err)
				binary, err := tt.ShimBinary(runtime)
				require.NoError(t, err)
				require.Equal(t, binary, exe)
				daemons[runtime][r.ShimPid] = true
			}
			require.Len(t, daemons[smoke.Ours], 1, "one daemon for the group")
			require.Len(t, daemons[smoke.Runc], 1, "one daemon for the group")
		})
	}
}
