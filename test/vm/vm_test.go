// SPDX-License-Identifier: Apache-2.0

// Package vm holds the tests of what the hosts of users have and those of developers
// may lack: a cgroup v2, systemd, AppArmor. They run in the machine of scripts/vm.sh
// (make test-vm), once with cgroups that shims make, once with systemd's
// (WASMSHIM_CGROUPS). Each runs on ours with a guest and with a native program, and on
// runc's shim, which shows that it is right.
package vm

import (
	"os"
	"testing"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

func TestMain(m *testing.M) {
	if os.Getenv("WASMSHIM_VM") == "" {
		os.Stderr.WriteString("tests of the machine that make test-vm boots: skipped, this is another one\n")
		os.Exit(0)
	}
	harness.Main(m, harness.Containerd24)
}

func TestSmoke(t *testing.T) { smoke.Run(t, smoke.Ours) }

func TestSmokeRestart(t *testing.T) { smoke.Restart(t, smoke.Ours) }

func TestSmokeRunc(t *testing.T) { smoke.Run(t, smoke.Runc) }

// A setup is a shim with what its containers run.
type setup struct {
	name, runtime string
	guest         bool
}

var setups = []setup{
	{"ours, guest", smoke.Ours, true},
	{"ours, native", smoke.Ours, false},
	{"runc", smoke.Runc, false},
}

func each(t *testing.T, f func(t *harness.T, s setup)) {
	for _, s := range setups {
		t.Run(s.name, func(t *testing.T) { f(harness.New(t, s.runtime), s) })
	}
}

func onlyOurs(t *testing.T, f func(t *harness.T, s setup)) {
	for _, s := range setups[:2] {
		t.Run(s.name, func(t *testing.T) { f(harness.New(t, s.runtime), s) })
	}
}

// hello ends at once, and prints hello.
func (s setup) hello() []string {
	if s.guest {
		return []string{"/hello.wasm"}
	}
	return []string{"/native"}
}

// sleep prints ready, and stays.
func (s setup) sleep() []string {
	if s.guest {
		return []string{"/sleep.wasm"}
	}
	return []string{"/bin/sh", "-c", "trap 'exit 143' TERM; echo ready; while :; do sleep 0.1; done"}
}

func requireSystemd(t *harness.T) {
	t.Helper()
	if !harness.Systemd {
		t.Skip("of cgroups that systemd makes: WASMSHIM_CGROUPS=systemd")
	}
}
