// SPDX-License-Identifier: Apache-2.0

// Package vm holds the tests of what the hosts of users have and those of developers
// may lack: a cgroup v2, systemd, AppArmor. They run in the machine of scripts/vm.sh
// (make test-vm).
package vm

import (
	"os"
	"testing"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

func TestMain(m *testing.M) {
	if os.Getenv("WASMSHIM_VM") == "" {
		os.Exit(m.Run()) // each skips
	}
	harness.Main(m, harness.Containerd24)
}

// The smoke suite runs with cgroups that shims make, and with WASMSHIM_CGROUPS=systemd
// with those that systemd makes.
func TestSmoke(t *testing.T) {
	machine(t, smoke.Ours)
	smoke.Run(t, smoke.Ours)
}

// TestSmokeRunc shows that the suite is right.
func TestSmokeRunc(t *testing.T) {
	machine(t, smoke.Runc)
	smoke.Run(t, smoke.Runc)
}
