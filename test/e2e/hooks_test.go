// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// Hooks see what runc's see: directory, environment and state.
func TestHooksLikeRunc(t *testing.T) {
	// What a hook has said, by its name.
	said := func(t *testing.T, runtime string, args, env []string) map[string]string {
		tt := harness.New(t, runtime)
		root := rootfs(tt)
		out := t.TempDir()
		// In the container, the root file system is all that there is.
		inside := filepath.Join(root, "out")
		require.NoError(t, os.Mkdir(inside, 0o777))
		hook := func(name, dir string) []specs.Hook {
			script := fmt.Sprintf("cat >%[1]s/%[2]s.state; { pwd; env; } >%[1]s/%[2]s", dir, name)
			return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}
		}
		given := hook("given", "/out")
		given[0].Env = []string{"PATH=/bin", "OWN=1"}
		h := tt.ByHand(harness.HandConfig{RootFS: root, Args: args, Opts: []oci.SpecOpts{oci.WithEnv(env), harness.WithSpec(func(s *oci.Spec) {
			s.Process.Cwd = "/work"
			s.Hooks = &specs.Hooks{
				Prestart:        hook("prestart", out), //nolint:staticcheck // still run
				CreateRuntime:   hook("createRuntime", out),
				CreateContainer: hook("createContainer", out),
				StartContainer:  append(hook("startContainer", "/out"), given...),
				Poststart:       hook("poststart", out),
				Poststop:        hook("poststop", out),
			}
		})}})
		_, err := h.Create(tt.Ctx)
		require.NoError(t, err)
		start(tt, h)
		require.Zero(t, wait(tt, h), h.Stderr.String())
		for _, shim := range tt.Shims() {
			cwds, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/cwd", shim.Pid))
			require.NoError(t, err)
			for _, cwd := range cwds {
				if dir, err := os.Readlink(cwd); err == nil && runtime == smoke.Ours {
					require.Equal(t, "/", dir, "a thread of the daemon's stays in a bundle")
				}
			}
		}
		_, err = h.Delete(tt.Ctx, &task.DeleteRequest{ID: h.ID})
		require.NoError(t, err)
		found := map[string]string{}
		for _, dir := range []string{out, inside} {
			files, err := os.ReadDir(dir)
			require.NoError(t, err)
			for _, f := range files {
				text, err := os.ReadFile(filepath.Join(dir, f.Name()))
				require.NoError(t, err)
				// Hooks on the host have their environment from containerd, and so from
				// whoever runs this test.
				lines := strings.Split(strings.NewReplacer(h.Bundle, "BUNDLE", h.ID, "ID").Replace(string(text)), "\n")
				if dir == out {
					lines = slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "=") && !strings.HasPrefix(l, "PWD=") })
				}
				slices.Sort(lines[1:])
				lines[0] = regexp.MustCompile(`"pid":[0-9]{2,}`).ReplaceAllString(lines[0], `"pid":PID`)
				found[f.Name()] = strings.Join(lines, "\n")
			}
		}
		return found
	}
	for name, env := range map[string][]string{
		"HOME from passwd": {"PATH=/bin", "A=1", "A=2"},
		"HOME given":       {"PATH=/bin", "HOME=/given"},
	} {
		t.Run(name, func(t *testing.T) {
			want := said(t, smoke.Runc, []string{"/bin/true"}, env)
			for guest, args := range map[string][]string{"native": {"/bin/true"}, "wasm": {"/hello.wasm"}} {
				got := said(t, smoke.Ours, args, env)
				require.Len(t, want, 14) // seven hooks, each with its state
				require.Equal(t, want, got, guest)
			}
		})
	}
}
