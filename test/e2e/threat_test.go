// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// The edges of docs/threat-model.md that no other test crosses.

// as runs something in a thread of another user's, which ends with it.
func as(t *testing.T, uid uintptr, do func()) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread is not used again
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
			done <- errno
			return
		}
		do()
		done <- nil
	}()
	require.NoError(t, <-done)
}

// Nobody but root speaks to a daemon: its socket is not reachable, and where it
// is, whoever connects is asked for.
func TestThreatSocket(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{"/sleep.wasm"}})
	shim, err := tt.Shim(c.ID())
	require.NoError(t, err)
	defer shim.Close()
	_, err = shim.State(tt.Ctx, &task.StateRequest{ID: c.ID()})
	require.NoError(t, err)

	const nobody = 65534
	path := strings.TrimPrefix(shim.Address, "unix://")
	as(t, nobody, func() { _, err = harness.Dial(shim.Address) })
	require.ErrorIs(t, err, unix.EACCES)

	// As a mistake of somebody's would leave it.
	for dir := path; strings.HasPrefix(dir, tt.Dir); dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		require.NoError(t, err)
		require.NoError(t, os.Chmod(dir, 0o777))
		defer func() { require.NoError(t, os.Chmod(dir, info.Mode())) }()
	}
	var others *harness.Shim
	as(t, nobody, func() { others, err = harness.Dial(shim.Address) })
	require.NoError(t, err, "the test is of no use")
	defer others.Close()
	_, err = others.State(tt.Ctx, &task.StateRequest{ID: c.ID()})
	require.Error(t, err)
	_, err = others.Kill(tt.Ctx, &task.KillRequest{ID: c.ID(), Signal: 9})
	require.Error(t, err)
	state, err := shim.State(tt.Ctx, &task.StateRequest{ID: c.ID()})
	require.NoError(t, err)
	require.Equal(t, "RUNNING", state.Status.String())
}

// A daemon knows the containers of its own pod and no others.
func TestThreatOtherPod(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	mine := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{"/sleep.wasm"}})
	other := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{"/sleep.wasm"}})
	shim, err := tt.Shim(mine.ID())
	require.NoError(t, err)
	defer shim.Close()
	id := other.ID()
	for name, call := range map[string]func() error{
		"state":  func() error { _, err := shim.State(tt.Ctx, &task.StateRequest{ID: id}); return err },
		"kill":   func() error { _, err := shim.Kill(tt.Ctx, &task.KillRequest{ID: id, Signal: 9, All: true}); return err },
		"pids":   func() error { _, err := shim.Pids(tt.Ctx, &task.PidsRequest{ID: id}); return err },
		"delete": func() error { _, err := shim.Delete(tt.Ctx, &task.DeleteRequest{ID: id}); return err },
		"start":  func() error { _, err := shim.Start(tt.Ctx, &task.StartRequest{ID: id}); return err },
	} {
		require.Equal(t, codes.NotFound.String(), status.Code(call()).String(), name)
	}
	requireRunning(tt, other)
}

// The variables that make the binary a runner, a compiler or a worker of the
// daemon's are the daemon's to set: in a container's environment they are text.
func TestThreatRoleInEnvironment(t *testing.T) {
	for _, role := range []string{"runner", "compiler", "image"} {
		tt := harness.New(t, smoke.Ours)
		env := []string{"_WASMSHIM_ROLE=" + role, "_LIBCONTAINER_INITPIPE=3", "_LIBCONTAINER_STATEDIR=/"}
		for _, args := range [][]string{{"/go.wasm", "env"}, {"env"}} {
			result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: args, Env: env})
			require.Zero(t, result.Code, "%+v", result)
			for _, kv := range env {
				require.Contains(t, result.Stdout, kv+"\n")
			}
		}
	}
}

// Neither an image nor its user makes a container of the shim's own binary.
func TestThreatEntrypointIsTheShim(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	files := smoke.Files(t)
	for name, target := range map[string]string{"exe": "/proc/self/exe", "fd": "/proc/self/fd/3", "init": "/proc/1/exe"} {
		files[name] = harness.File{Link: target}
	}
	image := tt.Image("shim-itself", files, ocispec.ImageConfig{Env: []string{"PATH=/bin"}})
	for _, program := range []string{"/exe", "/fd", "/init", "/proc/self/exe", "/proc/self/fd/3", "/proc/thread-self/exe"} {
		requireRefused(tt, harness.Config{Image: image, Args: []string{program, "init"}}, codes.NotFound, "does not exist in the container")
	}
}

// Root in a container that shares the guest's pid namespace is what a guest is
// that has left its engine, and more. It cannot change the binary that runners
// are made of, nor write through anything that the runner has inherited but its
// streams: neither a layer nor an artifact, and not to the daemon.
func TestThreatPodMate(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	native := smoke.Image(tt)
	sleeper := smoke.Fresh(t, "sleep.wasm")
	for kind, image := range map[string]client.Image{"layer": tt.LayerImage(sleeper), "file": tt.FileImage(sleeper)} {
		t.Run(kind, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			c := tt.Run(harness.Config{Image: image, Args: []string{"/app.wasm"}})
			require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
			shared := harness.WithSpec(func(s *oci.Spec) {
				for i, n := range s.Linux.Namespaces {
					if n.Type == specs.PIDNamespace {
						s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/pid", c.Task.Pid())
					}
				}
			})
			result := tt.Once(harness.Config{
				Image: native, Opts: []oci.SpecOpts{shared},
				Args: []string{"/bin/sh", "-c", "for f in /proc/1/exe /proc/1/fd/*; do (echo 1 >>$f) && echo $f; done; :"},
			})
			require.Zero(t, result.Code, "%+v", result)
			// All that can be written to are the guest's own.
			require.Equal(t, "/proc/1/fd/0\n/proc/1/fd/1\n/proc/1/fd/2\n", result.Stdout, result.Stderr)
			require.Greater(t, strings.Count(result.Stderr, "can't create"), 2, result.Stderr)
			requireRunning(tt, c)
		})
	}
}

// A compiler has what it was given and nothing else, whatever code runs in it.
func TestThreatCompiler(t *testing.T) {
	tt := newImageTest(t)
	for kind, imageOf := range tt.bothKinds() {
		t.Run(kind, func(t *testing.T) {
			c := harness.Config{ID: harness.FreshID("c"), Image: imageOf(fresh(t)), RuntimeOptions: body("[engine]\ncompile = 'reach'")}
			require.Contains(t, tt.out(c), "original")
			require.Contains(t, strings.Join(logLines(tt.T, c.ID), "\n"), `error="compiling failed: it reaches"`)
		})
	}
}
