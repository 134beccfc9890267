// SPDX-License-Identifier: Apache-2.0

package smoke

import (
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// Sandboxes runs pods without pause containers on a containerd of the version that the
// package's is of.
func Sandboxes(t *testing.T, runtime string) {
	tt := harness.New(t, runtime)
	if !tt.Version.HasSocketDir() {
		t.Skip("containerd before 2.3 panics on a pod in the host's network without a pause container, and 1.x has none")
	}
	c, err := harness.StartCRI(tt.Ctx, tt.Version, runtime)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log:\n%s", c.LogTail(40))
		}
		require.NoError(t, c.Stop())
	})
	inside := &harness.T{T: t, Daemon: c.Inside(), Ctx: c.Inside().In(tt.Ctx)}
	image := Image(inside).Name()
	// Before 2.4 CRI wants the pause image also of who does without.
	_, err = c.Inside().Image(inside.Ctx, "pause", map[string]harness.File{"pause": Files(t)["native"]}, ocispec.ImageConfig{Entrypoint: []string{"/pause"}})
	require.NoError(t, err)

	for name, network := range map[string]cri.NamespaceMode{"own network": cri.NamespaceMode_POD, "host network": cri.NamespaceMode_NODE} {
		t.Run(name, func(t *testing.T) {
			pod := c.Pod(harness.FreshID("pod"))
			pod.Hostname = "inpod"
			pod.Linux.SecurityContext.NamespaceOptions.Network = network
			run, err := c.RunPodSandbox(tt.Ctx, &cri.RunPodSandboxRequest{Config: pod, RuntimeHandler: "test"})
			require.NoError(t, err)
			for _, args := range [][]string{{"/bin/sleep", "1000"}, {"/sleep.wasm"}} {
				config := &cri.ContainerConfig{
					Metadata: &cri.ContainerMetadata{Name: harness.FreshID("c")}, Image: &cri.ImageSpec{Image: image}, Command: args, LogPath: harness.FreshID("log"),
					Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: pod.Linux.SecurityContext.NamespaceOptions}},
				}
				created, err := c.CreateContainer(tt.Ctx, &cri.CreateContainerRequest{PodSandboxId: run.PodSandboxId, Config: config, SandboxConfig: pod})
				require.NoError(t, err)
				_, err = c.StartContainer(tt.Ctx, &cri.StartContainerRequest{ContainerId: created.ContainerId})
				require.NoError(t, err)
				out, err := c.ExecSync(tt.Ctx, &cri.ExecSyncRequest{ContainerId: created.ContainerId, Cmd: []string{"/bin/cat", "/etc/hostname", "/proc/1/comm"}, Timeout: 20})
				require.NoError(t, err)
				require.Equal(t, "inpod\nwasmshim-pod\n", string(out.Stdout), string(out.Stderr))
			}
			_, err = c.StopPodSandbox(tt.Ctx, &cri.StopPodSandboxRequest{PodSandboxId: run.PodSandboxId})
			require.NoError(t, err)
			_, err = c.RemovePodSandbox(tt.Ctx, &cri.RemovePodSandboxRequest{PodSandboxId: run.PodSandboxId})
			require.NoError(t, err)
		})
	}
}
