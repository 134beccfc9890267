// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// profile loads an AppArmor profile of that name.
func profile(t *harness.T, name, text string) oci.SpecOpts {
	t.Helper()
	cmd := exec.Command("apparmor_parser", "-Kr")
	cmd.Stdin = strings.NewReader("profile " + name + " " + text)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return apparmor.WithProfile(name)
}

// A guest's code, and what was compiled of it, are not at any place in the container: no
// profile has to name them.
func TestAppArmorNamesNoCode(t *testing.T) {
	const rest = "capability, network, signal, "
	profiles := map[string]string{
		"no-attach": "{ file, " + rest + "}",
		"no-store":  "flags=(attach_disconnected,mediate_deleted) { file, deny /var/** rw, deny /tmp/** rw, deny /root/** rw, " + rest + "}",
		"strict":    "{ / r, " + rest + "}",
	}
	for name, text := range profiles {
		for from, imageOf := range map[string]func(*harness.T, []byte) client.Image{"layer": (*harness.T).LayerImage, "file": (*harness.T).FileImage} {
			t.Run(name+", "+from, func(t *testing.T) {
				tt := machine(t, smoke.Ours)
				under := profile(tt, "wasmshim-"+name, text)
				module := smoke.Fresh(tt, "hello.wasm")
				image := imageOf(tt, module)
				for range 2 {
					c := harness.Config{ID: harness.FreshID("c"), Image: image, Opts: []oci.SpecOpts{under}, RuntimeOptions: table("log_level = 'debug'")}
					result := tt.Once(c)
					require.Zero(t, result.Code, "%+v", result)
					require.Equal(t, "hello\n", result.Stdout)
					require.Contains(t, linesOf(tt, c.ID), "mapped the artifact of")
					require.NotContains(t, linesOf(tt, c.ID), "does not load")
				}
				require.Equal(t, 1, smoke.Compilations(tt, module))
			})
		}
	}
	t.Run("an engine in Go", func(t *testing.T) {
		tt := machine(t, smoke.Go)
		result := tt.Once(harness.Config{Image: tt.FileImage(smoke.Fresh(tt, "hello.wasm")), Opts: []oci.SpecOpts{profile(tt, "wasmshim-strict", profiles["strict"])}})
		require.Zero(t, result.Code, "%+v", result)
		require.Equal(t, "hello\n", result.Stdout)
	})
}

// linesOf is what the log says of a container.
func linesOf(t *harness.T, id string) string {
	var found []string
	for line := range strings.Lines(t.LogTail(2000)) {
		if strings.Contains(line, "instance="+id) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

// A file that the profile does not let the guest's container read is not run, and the
// message does not leave it at the mode, which allows it.
func TestAppArmorDeniesFile(t *testing.T) {
	for _, runtime := range []string{smoke.Ours, smoke.Go} {
		t.Run(runtime, func(t *testing.T) {
			tt := machine(t, runtime)
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "hello.wasm"), smoke.Fresh(tt, "hello.wasm"), 0o644))
			result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"/mnt/hello.wasm"}, Opts: []oci.SpecOpts{
				profile(tt, "wasmshim-no-mnt", "flags=(attach_disconnected) { file, deny /mnt/** r, capability, network, signal, }"),
				oci.WithMounts([]specs.Mount{{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}}}),
			}})
			require.EqualValues(t, 126, result.Code, "%+v", result)
			require.Contains(t, strings.ToLower(result.Stderr), "permission denied")
			require.Contains(t, result.Stderr, "its mode allows it: the container's AppArmor profile, or another security module, does not")
		})
	}
}

// A profile without a rule for signals keeps SIGKILL away from no process: neither from
// an init, nor from an exec, and of an exec nobody else ends.
func TestAppArmorKill(t *testing.T) {
	const text = "flags=(attach_disconnected) { file, capability, network, }"
	host := harness.WithSpec(func(s *oci.Spec) {
		var rest []specs.LinuxNamespace
		for _, n := range s.Linux.Namespaces {
			if n.Type != specs.PIDNamespace {
				rest = append(rest, n)
			}
		}
		s.Linux.Namespaces = rest
	})
	for name, opts := range map[string][]oci.SpecOpts{"own pids": nil, "host's pids": {host}} {
		t.Run(name, func(t *testing.T) {
			eachKind(t, ours(), func(t *harness.T, k kind) {
				c := t.Run(k.container(t, k.sleeper(), append(opts, profile(t, "wasmshim-no-signal", text))...))
				require.NoError(t, c.Stdout.WaitFor("ready", patience))
				require.ErrorContains(t, c.Task.Kill(t.Ctx, syscall.SIGUSR1), "permission denied", "the profile is of no effect")
				first := t.Exec(c, harness.ExecConfig{Args: []string{"/native", "sleep"}})
				second := t.Exec(c, harness.ExecConfig{Args: []string{"/native", "sleep"}})
				require.NoError(t, second.Stdout.WaitFor("ready", patience))
				require.NoError(t, first.Kill(t.Ctx, syscall.SIGKILL))
				result, err := first.Finish(t.Ctx)
				require.NoError(t, err)
				require.EqualValues(t, 137, result.Code)
				t.RequireStatus(c.Task, client.Running)
				t.RequireStatus(second, client.Running)
				require.NoError(t, c.Task.Kill(t.Ctx, syscall.SIGKILL))
				require.NoError(t, c.Wait(t.Ctx))
				_, err = second.Finish(t.Ctx)
				require.NoError(t, err)
				result, err = t.Finish(c)
				require.NoError(t, err)
				require.EqualValues(t, 137, result.Code)
				t.RequireNothingLeft()
			})
			t.Run("after the daemon's end", func(t *testing.T) {
				tt := machine(t, smoke.Ours)
				k := ours()[0]
				cfg := k.container(tt, k.sleeper(), append(opts, profile(tt, "wasmshim-no-signal", text))...)
				cfg.NoIO = true // a client leaves FIFOs of a task that is gone
				c := tt.Run(cfg)
				pid := int(c.Task.Pid())
				require.Eventually(t, func() bool {
					label, _ := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", pid))
					return strings.HasPrefix(string(label), "wasmshim-no-signal ")
				}, patience, time.Millisecond)
				for _, p := range tt.Shims() {
					require.NoError(t, syscall.Kill(p.Pid, syscall.SIGKILL))
				}
				// containerd's delete of the shim, and then the client's of the task.
				require.Eventually(t, func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH }, patience, 10*time.Millisecond)
				require.Eventually(t, func() bool { return tt.Remove(tt.Ctx, c) == nil }, patience, 10*time.Millisecond)
				tt.RequireNothingLeft()
			})
		})
	}
}
