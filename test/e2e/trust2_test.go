// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// wasmSleepers are guests that print ready and go on for ever.
var wasmSleepers = []string{"/sleep.wasm", "/spin.wasm", "/component-spin.wasm"}

// Every signal that terminates by default, which is what an image may choose
// as its STOPSIGNAL, ends a guest with 128 and its number.
func TestTrust2EverySignal(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	signals := []syscall.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGTERM,
		syscall.SIGSTKFLT, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGVTALRM, syscall.SIGPROF, syscall.SIGIO, syscall.SIGPWR, syscall.SIGKILL,
	}
	for s := syscall.Signal(34); s <= 64; s++ {
		signals = append(signals, s)
	}
	// One pod, so that all share a daemon.
	pod := harness.FreshID("pod")
	sandbox := tt.Run(harness.Config{ID: pod, Pod: pod, Image: image, Args: []string{"/native", "sleep"}})
	var lanes sync.WaitGroup
	for lane, guest := range wasmSleepers {
		lanes.Go(func() {
			for i, signal := range signals {
				if i%len(wasmSleepers) != lane && signal > 34 {
					continue // of the real-time signals, a third for each
				}
				code, err := signalled(tt, harness.Config{Runtime: smoke.Ours, Pod: pod, Image: image, Args: []string{guest}}, signal)
				if err != nil || code != 128+uint32(signal) {
					t.Errorf("%s, signal %d: exit %d, %v", guest, signal, code, err)
				}
			}
		})
	}
	lanes.Wait()
	require.NoError(t, tt.Remove(tt.Ctx, sandbox))
}

// signalled is the exit code of a container that gets a signal when it is
// ready.
func signalled(t *harness.T, c harness.Config, signal syscall.Signal, opts ...client.KillOpts) (uint32, error) {
	made, err := t.Daemon.Run(t.Ctx, c)
	if err != nil {
		return 0, err
	}
	if err := made.Stdout.WaitFor("ready", 10*time.Second); err != nil {
		return 0, err
	}
	if err := made.Task.Kill(t.Ctx, signal, opts...); err != nil {
		return 0, err
	}
	result, err := t.Daemon.Finish(t.Ctx, made)
	return result.Code, err
}

// Signals that do not terminate by default leave a guest as it is; a stop
// signal's number is no way to stop a first process, either.
func TestTrust2HarmlessSignals(t *testing.T) {
	for _, program := range append([]string{"/native"}, wasmSleepers...) {
		t.Run(program, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			args := []string{program}
			if program == "/native" {
				args = append(args, "sleep")
			}
			c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: args})
			require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
			for _, signal := range []syscall.Signal{0, syscall.SIGCHLD, syscall.SIGWINCH, syscall.SIGURG, syscall.SIGCONT, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGPIPE} {
				if program == "/native" && signal == syscall.SIGPIPE {
					continue
				}
				require.NoError(t, c.Task.Kill(tt.Ctx, signal))
			}
			requireRunning(tt, c)
			// From outside of its pid namespace SIGSTOP stops even a first process.
			require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGSTOP))
			require.Eventually(t, func() bool { return processState(c.Task.Pid()) == "T" }, 10*time.Second, time.Millisecond)
			require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGCONT))
			require.Eventually(t, func() bool { return processState(c.Task.Pid()) != "T" }, 10*time.Second, time.Millisecond)
			requireRunning(tt, c)
			require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGKILL))
			result, err := tt.Finish(c)
			require.NoError(t, err)
			require.EqualValues(t, 137, result.Code)
		})
	}
}

func requireRunning(t *harness.T, c *harness.Container) {
	t.Helper()
	s, err := c.Task.Status(t.Ctx)
	require.NoError(t, err)
	require.Equal(t, client.Running, s.Status)
}

func processState(pid uint32) string {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/stat")
	_, rest, _ := strings.Cut(string(b), ") ")
	return rest[:min(1, len(rest))]
}

// A client asks the image for its STOPSIGNAL, and that ends the guest.
func TestTrust2StopSignal(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	for name, want := range map[string]uint32{"SIGQUIT": 131, "SIGRTMIN+3": 165, "37": 165, "": 143} {
		image := tt.Image("stopsignal"+strings.ToLower(strings.ReplaceAll(name, "+", "")), smoke.Files(tt), ocispec.ImageConfig{StopSignal: name})
		for _, guest := range wasmSleepers {
			c := tt.Run(harness.Config{Image: image, Args: []string{guest}})
			require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
			signal, err := client.GetOCIStopSignal(tt.Ctx, image, "SIGTERM")
			require.NoError(t, err)
			parsed := map[string]syscall.Signal{"SIGQUIT": syscall.SIGQUIT, "SIGRTMIN+3": 37, "37": 37, "SIGTERM": syscall.SIGTERM}[signal]
			require.NoError(t, c.Task.Kill(tt.Ctx, parsed))
			result, err := tt.Finish(c)
			require.NoError(t, err)
			require.Equal(t, want, result.Code, "%s %s", name, guest)
		}
	}
}

// kill with all reaches every process, of one or of many.
func TestTrust2All(t *testing.T) {
	for _, runtime := range []string{smoke.Ours, smoke.Runc} {
		tt := harness.New(t, runtime)
		image := smoke.Image(tt)
		programs := map[string][]string{"native": {"/bin/sh", "-c", "trap 'exit 9' TERM; (trap 'exit 0' TERM; while :; do sleep 0.01; done) & echo ready; while :; do sleep 0.01; done"}}
		if runtime == smoke.Ours {
			programs["module"], programs["component"] = []string{"/sleep.wasm"}, []string{"/component-spin.wasm"}
		}
		for name, args := range programs {
			code, err := signalled(tt, harness.Config{Runtime: runtime, Image: image, Args: args}, syscall.SIGTERM, client.WithKillAll)
			require.NoError(t, err)
			require.Equal(t, map[string]uint32{"native": 9, "module": 143, "component": 143}[name], code, name)
			code, err = signalled(tt, harness.Config{Runtime: runtime, Image: image, Args: args}, syscall.SIGKILL, client.WithKillAll)
			require.NoError(t, err)
			require.EqualValues(t, 137, code, name)
		}
	}
}

// A container that was created and not started, one that has finished, and one
// that never was.
func TestTrust2States(t *testing.T) {
	for _, program := range []string{"/sleep.wasm", "/component-spin.wasm", "/native"} {
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, 40} {
			t.Run(fmt.Sprintf("created %s %d", program, signal), func(t *testing.T) {
				tt := harness.New(t, smoke.Ours)
				c := tt.Create(harness.Config{Image: smoke.Image(tt), Args: []string{program}})
				require.NoError(t, c.Task.Kill(tt.Ctx, signal))
				result, err := tt.Finish(c)
				require.NoError(t, err)
				require.Equal(t, 128+uint32(signal), result.Code)
			})
		}
		t.Run("finished "+program, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{program}})
			if program != "/native" {
				require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGKILL))
			}
			require.NoError(t, c.Wait(tt.Ctx))
			for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, 0} {
				err := c.Task.Kill(tt.Ctx, signal)
				require.True(t, errdefs.IsNotFound(err), "%v", err)
				require.ErrorContains(t, err, "process already finished")
				require.NoError(t, c.Task.Kill(tt.Ctx, signal, client.WithKillAll), "all of none")
			}
		})
	}
	t.Run("never was", func(t *testing.T) {
		tt := harness.New(t, smoke.Ours)
		h := tt.ByHand(harness.HandConfig{RootFS: rootfs(tt), Args: []string{"/sleep.wasm"}})
		_, err := h.Create(tt.Ctx)
		require.NoError(t, err)
		_, err = h.Kill(tt.Ctx, &task.KillRequest{ID: "nobody", Signal: 15})
		require.Equal(t, codes.NotFound, status.Code(err))
		require.ErrorContains(t, err, "container nobody is not in this shim")
		_, err = h.Kill(tt.Ctx, &task.KillRequest{ID: h.ID, Signal: 65})
		require.Equal(t, codes.InvalidArgument, status.Code(err))
		require.ErrorContains(t, err, "signal 65 does not exist; accepted: 0 to 64")
		_, err = h.Kill(tt.Ctx, &task.KillRequest{ID: h.ID, ExecID: "e", Signal: 15})
		require.Equal(t, codes.NotFound, status.Code(err))
	})
}
