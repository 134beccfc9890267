// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// podTest has pods without pause containers, made by CRI.
type podTest struct {
	*testing.T
	*harness.CRI
	ctx   context.Context
	image string
}

func newPodTest(t *testing.T) *podTest {
	t.Helper()
	tt := harness.New(t, smoke.Ours) // looks for what is left
	c, err := harness.StartPods(tt.Ctx, harness.Containerd24, smoke.Ours)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log:\n%s", c.LogTail(60))
		}
		require.NoError(t, c.Stop())
	})
	r := &podTest{T: t, CRI: c, ctx: tt.Ctx}
	r.image = smoke.Image(&harness.T{T: t, Daemon: c.Inside(), Ctx: c.Inside().In(tt.Ctx)}).Name()
	return r
}

func TestSandboxFirst(t *testing.T) {
	r := newPodTest(t)
	config := r.Pod(harness.FreshID("pod"))
	config.Hostname = "inpod"
	config.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_POD
	var id string
	require.Eventually(t, func() bool {
		pod, err := r.RunPodSandbox(r.ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: "test"})
		id = pod.GetPodSandboxId()
		if err != nil {
			t.Log(err)
		}
		return err == nil
	}, 20*time.Second, 200*time.Millisecond)
	st, err := r.PodSandboxStatus(r.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	require.NoError(t, err)
	t.Log(st)
	_, err = r.StopPodSandbox(r.ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	require.NoError(t, err)
	_, err = r.RemovePodSandbox(r.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	require.NoError(t, err)
}
