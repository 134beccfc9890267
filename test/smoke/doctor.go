// SPDX-License-Identifier: Apache-2.0

package smoke

import (
	"encoding/json"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// finding is what `doctor --json` says of one thing.
type finding struct{ About, State, Found, Do string }

// doctor runs the command of that name on a containerd without the runtime in its
// configuration, with it, and on none.
func doctor(t *harness.T) {
	binary, err := t.ShimBinary(t.Runtime)
	require.NoError(t, err)
	name := filepath.Base(binary)
	examine := func(address string) (map[string]finding, int) {
		cmd := osexec.Command(binary, "doctor", "--json", "--address", address, "--namespace", t.Namespace)
		cmd.Env = t.Env()
		out, err := cmd.Output()
		if err != nil {
			require.ErrorAs(t, err, new(*osexec.ExitError))
		}
		var said struct{ Findings []finding }
		require.NoError(t, json.Unmarshal(out, &said), "%s", out)
		found := map[string]finding{}
		for _, f := range said.Findings {
			found[f.About] = f
		}
		return found, cmd.ProcessState.ExitCode()
	}

	found, code := examine(t.Address)
	require.Zero(t, code, "%v", found)
	require.Equal(t, finding{"trial", "ok", `a guest has said "hello from a container", in a container`, ""}, found["trial"])
	require.Contains(t, strings.TrimPrefix(found["containerd"].Found, "v"), string(t.Version))
	require.Contains(t, found["snapshotters"].Found, harness.Snapshotter)
	require.Regexp(t, `^\d+ artifacts?, \d`, found["compile cache"].Found)
	config := filepath.Join(t.Dir, "config.toml")
	require.Equal(t, "note", found["configuration"].State)
	require.Contains(t, found["configuration"].Found, config+"; without a runtime")
	require.Equal(t, name+" install", found["configuration"].Do)
	containers, err := t.Client.Containers(t.Ctx)
	require.NoError(t, err)
	require.Empty(t, containers)
	t.RequireNothingLeft()

	found, code = examine(t.Dir + "/nope")
	require.Equal(t, 1, code)
	require.Equal(t, "problem", found["containerd"].State)
	require.Contains(t, found["containerd"].Found, "no such file or directory")

	if t.Version.Is1() {
		return // prints nothing of a plugin that is disabled, as CRI is here
	}
	text, err := osexec.Command(binary, "config").Output()
	require.NoError(t, err)
	_, runtime, ok := strings.Cut(string(text), "[plugins.")
	require.True(t, ok)
	runtime, _, _ = strings.Cut(runtime, "\n# The Transfer Service") // the harness has it as well
	time.Sleep(time.Second)                                          // the start of a process is known to the second
	before, err := os.ReadFile(config)
	require.NoError(t, err)
	defer func() { require.NoError(t, os.WriteFile(config, before, 0o600)) }()
	require.NoError(t, os.WriteFile(config, append(slices.Clone(before), "\n[plugins."+runtime...), 0o600))
	found, code = examine(t.Address)
	require.Equal(t, 1, code)
	require.Equal(t, "problem", found["configuration"].State)
	require.Contains(t, found["configuration"].Found, "it was changed after containerd was started")
	require.NoError(t, t.Terminate())
	time.Sleep(time.Second)
	require.NoError(t, t.Restart(t.Ctx))
	found, code = examine(t.Address)
	require.Zero(t, code, "%v", found)
	require.Equal(t, "ok", found["configuration"].State)
}
