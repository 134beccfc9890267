// SPDX-License-Identifier: Apache-2.0

package image

import (
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/containerd/log"
	"github.com/stretchr/testify/require"
)

// roleEnv makes the test binary another process than the one that tests.
const roleEnv = "WASMSHIM_TEST_ROLE"

// roles are what such a process does.
var roles = map[string]func() int{"lock": holdLock, "work": holdWorkDir}

func TestMain(m *testing.M) {
	if role, ok := roles[os.Getenv(roleEnv)]; ok {
		os.Exit(role())
	}
	if slices.Contains(os.Environ(), WorkerEnv) {
		os.Exit(runTestWorker())
	}
	_ = log.SetLevel("error") // a content store says that the file system lacks something
	os.Exit(m.Run())
}

// process is a command of the test binary in a role.
func process(t *testing.T, role string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

func needsRoot(t *testing.T, why string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: " + why)
	}
}
