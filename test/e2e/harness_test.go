// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// The leak check sees what it is there to see.
func TestHarnessSeesLeaks(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	before := tt.Snapshot()
	dir := filepath.Join(tt.State, "leak")
	require.NoError(t, os.Mkdir(dir, 0o700))
	defer os.RemoveAll(dir)
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	mounted := filepath.Join(dir, "mounted")
	require.NoError(t, os.Mkdir(mounted, 0o700))
	require.NoError(t, unix.Mount("tmpfs", mounted, "tmpfs", 0, ""))
	defer func() { require.NoError(t, unix.Unmount(mounted, 0)) }()
	groups, err := filepath.Glob("/sys/fs/cgroup/*")
	require.NoError(t, err)
	require.NotEmpty(t, groups)
	group := "/sys/fs/cgroup/" + tt.Namespace + "-leak" // version 2
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err != nil {
		group = "/sys/fs/cgroup/pids/" + tt.Namespace + "-leak"
	}
	require.NoError(t, os.Mkdir(group, 0o700))
	defer func() { require.NoError(t, os.Remove(group)) }()
	// Not a child of this process, as a shim is none: a grandchild.
	cmd := exec.Command("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
	cmd.Dir = dir
	out, err := cmd.Output()
	require.NoError(t, err)
	pid := strings.TrimSpace(string(out))
	defer func() { require.NoError(t, exec.Command("kill", "-9", pid).Run()) }()

	left := strings.Join(tt.Leaks(before), "\n")
	require.Contains(t, left, "cgroup "+group)
	require.Contains(t, left, "mount "+mounted)
	require.Contains(t, left, "process "+pid+" S sleep 1000")
	require.Contains(t, left, "file p--------- "+dir+"/fifo")
}
