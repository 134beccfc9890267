// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// buildShim builds an engine of testdata and returns the shim.
func buildShim(t *testing.T, engine string) string {
	shim, err := buildEngine(engine, t.TempDir())
	require.NoError(t, err)
	return shim
}

// buildEngine builds an engine of testdata into a directory, with more in the
// environment, and returns the shim.
func buildEngine(engine, dir string, env ...string) (string, error) {
	repo, err := harness.Repo()
	if err != nil {
		return "", err
	}
	build := exec.Command(filepath.Join(repo, "scripts/shim.sh"), filepath.Join(repo, "test/e2e/testdata", engine))
	build.Env = append(append(os.Environ(), "OUTDIR="+dir), env...)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", engine, err, out)
	}
	return filepath.Join(dir, "containerd-shim-"+engine+"-v1"), nil
}

// Nothing of the library's is in an engine's way.
func TestAbiFreedom(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	shim := buildShim(t, "wild")
	stack := func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_STACK", Soft: 32 << 20, Hard: 64 << 20})
		return nil
	}
	for verb, stdout := range map[string]string{
		"no-threads": "", "signals": "", "replaced-handler": "", "memory": "", "fork": "", "thread-locals": "", "constructors": "",
		"exceptions": "", "stack": "", "environment": "", "buffered": "buffered\n",
	} {
		t.Run(verb, func(t *testing.T) {
			r, err := tt.Daemon.Once(tt.Ctx, harness.Config{Runtime: shim, Image: smoke.Image(tt), Args: []string{"/hello.wasm", verb}, Opts: []oci.SpecOpts{stack}})
			require.NoError(t, err)
			require.Equal(t, stdout, r.Stdout)
			require.Zero(t, r.Code, r.Stderr)
		})
	}
}

// An engine that breaks the contract costs its own container, and nothing else:
// not the shim's daemon, not the container beside it.
func TestAbiMisbehaving(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	shim := buildShim(t, "wild")
	pod := harness.FreshID("pod")
	sandbox := tt.Run(harness.Config{ID: pod, Pod: pod, Runtime: shim, Image: smoke.Image(tt), Args: []string{"/native", "sleep"}})
	daemon := tt.Shims()
	require.Len(t, daemon, 1)
	for _, test := range []struct {
		verb           string
		code           uint32
		stdout, stderr string
		log            string
	}{
		{"garbage", 125, "", "wild: the engine returned an unknown status\n", "guest failed: the engine returned an unknown status"},
		{"no-exit-code", 0, "", "", ""},
		{"crash", 139, "", "", "guest failed: the engine crashed, by signal 11 (segmentation fault)"},
		{"trap-instruction", 132, "", "", "guest failed: the engine crashed, by signal 4 (illegal instruction)"},
		{"throw", 134, "", "terminate called after throwing an instance of 'std::runtime_error'\n  what():  through the border\n", "guest failed: the engine crashed, by signal 6 (aborted)"},
		{"exit", 7, "", "", ""},
		{"exit-as-if-crashed", 139, "", "", ""},
		{"_exit", 8, "", "", ""},
		{"abort", 134, "", "", "guest failed: the engine crashed, by signal 6 (aborted)"},
		{"write", 0, "written by the engine\n", "", ""},
		{"leak-threads", 9, "", "", ""},
		{"close-all", 125, "", "", ""},
		{"much-log", 0, "", "", "lines of the engine's were too many for the log"},
		{"long-error", 125, "", "wild: " + strings.Repeat("x", 1<<20) + "\n", "guest failed: xxxx"},
		{"nonsense", 125, "", "wild: unknown verb nonsense\n", "guest failed: unknown verb nonsense"},
	} {
		t.Run(test.verb, func(t *testing.T) {
			id := harness.FreshID("c")
			r, err := tt.Daemon.Once(tt.Ctx, harness.Config{ID: id, Pod: pod, Runtime: shim, Image: smoke.Image(tt), Args: []string{"/hello.wasm", test.verb}})
			require.NoError(t, err)
			require.Equal(t, test.code, r.Code, r.Stderr)
			require.Equal(t, test.stdout, r.Stdout)
			require.Equal(t, test.stderr, r.Stderr)
			lines := strings.Join(logLines(tt, id), "\n")
			require.Contains(t, lines, test.log)
			if test.log == "" {
				require.NotContains(t, lines, "guest failed")
			}
		})
	}
	t.Run("exec", func(t *testing.T) {
		// An engine knows which process of its container it is, in a container of either kind.
		id := harness.FreshID("c")
		guest := tt.Run(harness.Config{ID: id, Pod: pod, Runtime: shim, Image: smoke.Image(tt), Args: []string{"/hello.wasm", "ignore"}})
		result := tt.ExecOnce(sandbox, harness.ExecConfig{ID: "first", Args: []string{"/hello.wasm", "which"}})
		require.Equal(t, "container "+pod+", exec first, 0 bytes\n", result.Stdout, "%+v", result)
		result = tt.ExecOnce(guest, harness.ExecConfig{ID: "second", Args: []string{"/hello.wasm", "which"}})
		require.Equal(t, "container "+id+", exec second, 0 bytes\n", result.Stdout, "%+v", result)
		limits := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(200 << 20))}}
		require.NoError(t, guest.Task.Update(tt.Ctx, client.WithResources(limits)))
		result = tt.ExecOnce(guest, harness.ExecConfig{ID: "third", Args: []string{"/hello.wasm", "which"}})
		require.Equal(t, "container "+id+", exec third, 209715200 bytes\n", result.Stdout, "%+v", result)
		crash := tt.ExecOnce(guest, harness.ExecConfig{Args: []string{"/hello.wasm", "crash"}})
		require.EqualValues(t, 139, crash.Code)
		require.Contains(t, strings.Join(logLines(tt, id), "\n"), "the engine crashed, by signal 11")
		tt.RequireStatus(guest.Task, client.Running)
	})
	t.Run("ignores SIGTERM", func(t *testing.T) {
		c := tt.Run(harness.Config{Pod: pod, Runtime: shim, Image: smoke.Image(tt), Args: []string{"/hello.wasm", "ignore"}})
		require.NoError(t, c.Stdout.WaitFor("ready", 10e9))
		require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGTERM))
		require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGKILL))
		r, err := tt.Finish(c)
		require.NoError(t, err)
		require.EqualValues(t, 137, r.Code)
	})
	require.Equal(t, daemon, tt.Shims(), "the daemon is another one")
	s, err := sandbox.Task.Status(tt.Ctx)
	require.NoError(t, err)
	require.Equal(t, client.Running, s.Status)
	require.NoError(t, sandbox.Task.Kill(tt.Ctx, syscall.SIGKILL))
	_, err = tt.Finish(sandbox)
	require.NoError(t, err)
}
