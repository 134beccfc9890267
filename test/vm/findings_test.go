// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// kind is one way to run a container.
type kind struct {
	name, runtime string
	systemd       bool // the cgroup driver
	guest         bool
}

// kinds are all of them; native programs on runc's shim show that a test is right.
var kinds = []kind{
	{"guest, cgroupfs", smoke.Ours, false, true},
	{"guest, systemd", smoke.Ours, true, true},
	{"native, cgroupfs", smoke.Ours, false, false},
	{"native, systemd", smoke.Ours, true, false},
	{"runc, cgroupfs", smoke.Runc, false, false},
	{"runc, systemd", smoke.Runc, true, false},
}

// ours is without runc's shim, where it does worse.
func ours() []kind { return kinds[:4] }

// eachKind runs a test of its own for some kinds.
func eachKind(t *testing.T, some []kind, f func(t *harness.T, k kind)) {
	for _, k := range some {
		t.Run(k.name, func(t *testing.T) { f(machine(t, k.runtime), k) })
	}
}

// machine is harness.New, in the machine of make test-vm alone.
func machine(t *testing.T, runtime string) *harness.T {
	if os.Getenv("WASMSHIM_VM") == "" {
		t.Skip("it runs in the machine of make test-vm, which has cgroup v2, systemd and AppArmor")
	}
	return harness.New(t, runtime)
}

// choose is one of two.
func (k kind) choose(guest, native []string) []string {
	if k.guest {
		return guest
	}
	return native
}

// sleeper prints "ready" and waits.
func (k kind) sleeper() []string {
	return k.choose([]string{"/sleep.wasm"}, []string{"/native", "sleep"})
}

// hello prints "hello" if it is a guest.
func (k kind) hello() []string { return k.choose([]string{"/hello.wasm"}, []string{"/native"}) }

// container is a container of a kind.
func (k kind) container(t *harness.T, args []string, opts ...oci.SpecOpts) harness.Config {
	c := harness.Config{ID: harness.FreshID("c"), Runtime: k.runtime, Image: smoke.Image(t), Args: args, Opts: opts}
	return k.in(t, c)
}

// in has the cgroup made by the kind's driver.
func (k kind) in(t *harness.T, c harness.Config) harness.Config {
	if k.systemd {
		c.Opts = append([]oci.SpecOpts{oci.WithCgroup("system.slice:" + t.Namespace + ":" + c.ID)}, c.Opts...)
		if c.RuntimeOptions == nil {
			c.RuntimeOptions = &options.Options{SystemdCgroup: true}
		}
	}
	return c
}

func table(toml string) *runtimeoptions.Options {
	return &runtimeoptions.Options{ConfigBody: []byte(toml)}
}

func withMemory(limit int64) oci.SpecOpts {
	return harness.WithSpec(func(s *oci.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	})
}

// run is the output of a program of this machine.
func run(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", program, args, out)
	return strings.TrimSpace(string(out))
}

// labelOf is what the machine's security module knows a process as.
func labelOf(t testing.TB, pid uint32) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(int(pid)), "attr/current"))
	require.NoError(t, err)
	return strings.TrimRight(string(text), "\x00\n")
}

// withUsers gives a container users of its own.
func withUsers() oci.SpecOpts {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	return oci.WithUserNamespace(ids, ids)
}

// groupOf is the directory of a process's cgroup.
func groupOf(t *harness.T, pid uint32) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(int(pid)), "cgroup"))
	require.NoError(t, err)
	return filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(strings.TrimSpace(string(text)), "0::"))
}

func groupFile(t *harness.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	return strings.TrimSpace(string(text))
}

// patience is long: an emulated machine is twenty times as slow.
const patience = 2 * time.Minute
