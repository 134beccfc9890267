// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// A container with containerd's default seccomp and its default AppArmor profile at once,
// as a kubelet makes it, and with a user namespace or without: it is what it was asked to
// be, takes an exec, and can be killed.
func TestConfined(t *testing.T) {
	const profile = "cri-containerd.apparmor.d"
	for _, users := range []struct {
		name, mapping, uid string
		opts               []oci.SpecOpts
	}{
		{"host's users", "0 0 4294967295", "0", nil},
		{"user namespace", "0 100000 65536", "100000", []oci.SpecOpts{withUsers()}},
	} {
		t.Run(users.name, func(t *testing.T) {
			eachKind(t, kinds, func(t *harness.T, k kind) {
				opts := append([]oci.SpecOpts{oci.WithoutRunMount, seccomp.WithDefaultProfile(), apparmor.WithDefaultProfile(profile)}, users.opts...)
				c := t.Run(k.container(t, k.sleeper(), opts...))
				require.NoError(t, c.Stdout.WaitFor("ready", patience))
				proc := func(file string) string {
					text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", c.Task.Pid(), file))
					require.NoError(t, err)
					return strings.TrimSpace(string(text))
				}
				require.Equal(t, users.mapping, strings.Join(strings.Fields(proc("uid_map")), " "))
				require.Equal(t, profile+" (enforce)", labelOf(t, c.Task.Pid()))
				status := proc("status")
				require.Contains(t, status, "\nSeccomp:\t2\n")
				require.Contains(t, status, "\nUid:\t"+users.uid+"\t")
				result := t.ExecOnce(c, harness.ExecConfig{Args: k.hello()})
				require.Zero(t, result.Code, "%+v", result)
				require.Contains(t, result.Stdout, "hello")
				for _, args := range [][]string{{"/native", "sleep"}, k.sleeper()} {
					e := t.Exec(c, harness.ExecConfig{Args: args})
					require.NoError(t, e.Stdout.WaitFor("ready", patience))
					require.Equal(t, profile+" (enforce)", labelOf(t, e.Pid()))
					require.NoError(t, e.Kill(t.Ctx, 9))
					_, err := e.Finish(t.Ctx)
					require.NoError(t, err)
				}
				require.NoError(t, c.Task.Kill(t.Ctx, 9))
				ended, err := t.Finish(c)
				require.NoError(t, err)
				require.EqualValues(t, 137, ended.Code)
			})
		})
	}
}

// Devices are denied and allowed by a program in the kernel: those of the spec, on init
// and on execs, whatever is done to the cgroup by systemd.
func TestDevices(t *testing.T) {
	const null, disk = "busybox mknod /tmp/n c 1 3 && echo x > /tmp/n && echo null", "busybox mknod /tmp/vda b 254 0 && busybox head -c 1 /tmp/vda >/dev/null && echo disk"
	eachKind(t, kinds, func(t *harness.T, k kind) {
		c := t.Run(k.container(t, k.sleeper(), oci.WithAddedCapabilities([]string{"CAP_MKNOD"})))
		require.NoError(t, c.Stdout.WaitFor("ready", patience))
		look := func() {
			t.Helper()
			result := t.ExecOnce(c, harness.ExecConfig{Args: []string{"/bin/sh", "-c", "rm -f /tmp/n /tmp/vda; " + null + "; " + disk}})
			require.Equal(t, "null\n", result.Stdout, "%+v", result)
			require.Contains(t, result.Stderr, "Operation not permitted")
		}
		look()
		if k.systemd { // it sets the properties of all units again
			run(t, "systemctl", "daemon-reload")
			look()
		}
	})
}
