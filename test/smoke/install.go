// SPDX-License-Identifier: Apache-2.0

package smoke

import (
	"os"
	osexec "os/exec"
	"path/filepath"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// install puts the shim into a directory and into the configuration of a containerd that
// runs a container, and takes it away.
func install(t *harness.T) {
	binary, err := t.ShimBinary(t.Runtime)
	require.NoError(t, err)
	dir, config := t.TempDir(), filepath.Join(t.Dir, "config.toml")
	program := filepath.Join(dir, filepath.Base(binary))
	call := func(command ...string) (string, int) {
		cmd := osexec.Command(binary, append(command, "--address", t.Address, "--dir", dir)...)
		cmd.Env = append(t.Env(), "CONTAINERD_NAMESPACE="+t.Namespace) // of the trial
		out, err := cmd.CombinedOutput()
		if err != nil {
			require.ErrorAs(t, err, new(*osexec.ExitError))
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	read := func() string {
		b, err := os.ReadFile(config)
		require.NoError(t, err)
		return string(b)
	}
	before := read()
	out, code := call("install", "--dry-run")
	require.Zero(t, code, out)
	require.Contains(t, out, "would write "+config)
	require.Equal(t, before, read())
	require.NoFileExists(t, program)

	out, code = call("install")
	if t.Version.Is1() {
		// It prints nothing of a plugin that is disabled, as CRI is here: as if it had
		// not understood the file.
		require.Equal(t, 1, code, out)
		require.Contains(t, out, "containerd does not read "+config)
		require.Equal(t, before, read())
		return
	}
	require.Zero(t, code, out)
	require.Contains(t, out, "not restarted: containerd")
	require.NotEqual(t, before, read())
	info, err := os.Stat(program)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode())
	time.Sleep(time.Second) // the start of a process is known to the second
	require.NoError(t, t.Terminate())
	require.NoError(t, t.Restart(t.Ctx))
	out, code = call("install")
	require.Zero(t, code, out)
	require.Contains(t, out, "up to date: "+program)
	require.Contains(t, out, "up to date: "+config)
	require.Contains(t, out, `a guest has said "hello from a container"`)

	user := osexec.Command(program, "run", guest(t, "sleep.wasm"))
	require.NoError(t, user.Start())
	out, code = call("uninstall")
	require.Equal(t, 1, code, out)
	require.Contains(t, out, program+" is in use by 1 process")
	require.FileExists(t, program)
	require.NoError(t, user.Process.Kill())
	_ = user.Wait() // it was killed
	for range 2 {
		out, code = call("uninstall")
		require.Zero(t, code, out)
		require.Equal(t, before, read())
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left)
		require.NoFileExists(t, config+".before-"+filepath.Base(binary))
	}
	t.RequireNothingLeft()
}

// guest writes a guest to a file.
func guest(t *harness.T, name string) string {
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(file, Fresh(t, name), 0o600))
	return file
}
