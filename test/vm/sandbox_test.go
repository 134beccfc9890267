// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// A pod without a pause container is in its own cgroup below the pod's, whoever makes
// it, and goes with all that it has, also when its daemon is killed.
func TestSandboxCgroup(t *testing.T) {
	tt := machine(t, smoke.Ours)
	c, err := harness.StartCRI(tt.Ctx, harness.Containerd24, smoke.Ours)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log:\n%s", c.LogTail(40))
		}
		require.NoError(t, c.Stop())
	})
	inside := &harness.T{T: t, Daemon: c.Inside(), Ctx: c.Inside().In(tt.Ctx)}
	image := smoke.Image(inside).Name()
	for name, kill := range map[string]bool{"removed": false, "daemon killed": true} {
		t.Run(name, func(t *testing.T) {
			pod := c.Pod(harness.FreshID("pod"))
			pod.Hostname = "inpod"
			pod.Linux.SecurityContext.NamespaceOptions.Network = criapi.NamespaceMode_POD
			own := "/" + c.Namespace + "/"
			if harness.Systemd {
				pod.Linux.CgroupParent = "/" + harness.Slice
			}
			run, err := c.RunPodSandbox(tt.Ctx, &criapi.RunPodSandboxRequest{Config: pod, RuntimeHandler: "test"})
			require.NoError(t, err)
			id := run.PodSandboxId
			if own += id; harness.Systemd {
				own = "/" + harness.Slice + "/cri-containerd-" + id + ".scope"
			}
			status, err := c.PodSandboxStatus(tt.Ctx, &criapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
			require.NoError(t, err)
			var pid int
			_, after, _ := strings.Cut(status.Info["info"], `"pid":`)
			_, err = fmt.Sscanf(after, "%d", &pid)
			require.NoError(t, err)
			dir := groupOf(tt, uint32(pid))
			require.Equal(t, "/sys/fs/cgroup"+own, dir)
			require.Equal(t, "1", groupFile(tt, dir, "cpu.weight"), "two shares, as a pause container has")
			config := &criapi.ContainerConfig{
				Metadata: &criapi.ContainerMetadata{Name: "c"}, Image: &criapi.ImageSpec{Image: image}, Command: []string{"/sleep.wasm"}, LogPath: id + ".log",
				Linux: &criapi.LinuxContainerConfig{SecurityContext: &criapi.LinuxContainerSecurityContext{NamespaceOptions: pod.Linux.SecurityContext.NamespaceOptions}},
			}
			created, err := c.CreateContainer(tt.Ctx, &criapi.CreateContainerRequest{PodSandboxId: id, Config: config, SandboxConfig: pod})
			require.NoError(t, err)
			_, err = c.StartContainer(tt.Ctx, &criapi.StartContainerRequest{ContainerId: created.ContainerId})
			require.NoError(t, err)
			stats, err := c.PodSandboxStats(tt.Ctx, &criapi.PodSandboxStatsRequest{PodSandboxId: id})
			require.NoError(t, err)
			require.NotZero(t, stats.Stats.Linux.Memory.WorkingSetBytes.GetValue())
			if kill {
				for _, p := range c.Processes(func(args []string) bool { return strings.Contains(strings.Join(args, " "), "-namespace k8s.io") }) {
					require.NoError(t, syscall.Kill(p.Pid, syscall.SIGKILL))
				}
			}
			require.Eventually(t, func() bool { // with a dead daemon containerd needs a moment
				_, err := c.StopPodSandbox(tt.Ctx, &criapi.StopPodSandboxRequest{PodSandboxId: id})
				if err == nil {
					_, err = c.RemovePodSandbox(tt.Ctx, &criapi.RemovePodSandboxRequest{PodSandboxId: id})
				}
				return err == nil
			}, patience, 100*time.Millisecond)
			require.Eventually(t, func() bool {
				_, err := os.Stat(dir)
				left, _ := filepath.Glob("/run/systemd/transient/cri-containerd-" + id + "*")
				return os.IsNotExist(err) && len(left) == 0
			}, patience, 50*time.Millisecond)
			require.Eventually(t, func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH }, patience, 10*time.Millisecond)
		})
	}
}
