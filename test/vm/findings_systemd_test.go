// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// A daemon that has nothing to ask of systemd has no connection to the system bus, of
// which a user may have 256, and is not woken by what others do there.
func TestBusConnections(t *testing.T) {
	tt := machine(t, smoke.Ours)
	k := kinds[1]
	connected := func() (lines []string) {
		for line := range strings.Lines(run(tt, "busctl", "list", "--no-legend")) {
			if strings.Contains(line, "shim") || strings.Contains(line, "wasmtime") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	for range 3 {
		c := tt.Run(k.container(tt, k.sleeper()))
		require.NoError(t, c.Stdout.WaitFor("ready", patience))
	}
	require.Eventually(t, func() bool { return len(connected()) == 0 }, patience, 100*time.Millisecond, "%v", connected)
	switches := func() (n int) {
		for _, p := range tt.Shims() {
			n += contextSwitches(tt, p.Pid)
		}
		return n
	}
	time.Sleep(time.Second) // what a start has left to do
	before := switches()
	for range 5 {
		run(tt, "systemd-run", "--quiet", "--wait", "true")
	}
	require.Less(t, switches()-before, 5, "the daemons are woken by units of others")
}

func contextSwitches(t *harness.T, pid int) (n int) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	require.NoError(t, err)
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			var count int
			if _, err := fmt.Sscanf(line, "voluntary_ctxt_switches: %d", &count); err == nil {
				n += count
			}
		}
	}
	return n
}

// A compiler has a scope of its own, in a slice that is nobody else's, unless the operator
// has named another place.
func TestCompilerScope(t *testing.T) {
	for name, test := range map[string]struct {
		options, dir string
		kinds        []kind
	}{
		"default": {"", "/sys/fs/cgroup/libwasmshim.slice/libwasmshim-compiler-*.scope", kinds[:2]},
		"slice":   {"compile_cgroup = 'wstvm.slice'\n", "/sys/fs/cgroup/wstvm.slice/libwasmshim-compiler-*.scope", kinds[1:2]},
		"path":    {"compile_cgroup = '/wstvm'\n", "/sys/fs/cgroup/wstvm/libwasmshim-compiler-*", kinds[:1]},
	} {
		for _, k := range test.kinds {
			t.Run(name+", "+k.name, func(t *testing.T) {
				tt := machine(t, smoke.Ours)
				image := tt.FileImage(smoke.Fresh(tt, "go.wasm"))
				done := make(chan harness.Result, 1)
				c := k.in(tt, harness.Config{ID: harness.FreshID("c"), Image: image})
				c.RuntimeOptions = table(fmt.Sprintf("SystemdCgroup = %t\n%s[engine]\nopt-level = 'none'\n", k.systemd, test.options))
				go func() { done <- tt.Once(c) }()
				var dir string
				require.Eventually(t, func() bool {
					found, _ := filepath.Glob(test.dir)
					if len(found) == 1 {
						dir = found[0]
					}
					limit, _ := os.ReadFile(filepath.Join(dir, "memory.max"))
					return dir != "" && string(limit) == "2147483648\n"
				}, patience, time.Millisecond)
				if strings.HasSuffix(dir, ".scope") {
					unit := filepath.Base(dir)
					require.Equal(t, "MemoryMax=2147483648\nTasksMax=128", run(tt, "systemctl", "show", "-p", "MemoryMax", "-p", "TasksMax", unit))
				}
				result := <-done
				require.Zero(t, result.Code, "%+v", result)
				left, err := filepath.Glob(test.dir)
				require.NoError(t, err)
				require.Empty(t, left)
				require.Empty(t, run(tt, "systemctl", "list-units", "--all", "--no-legend", "libwasmshim-*.scope"))
			})
		}
	}
}
