// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// TestInstall: deploy/ brings this runtime to a node that does not have it, and takes it
// away again.
func TestInstall(t *testing.T) {
	t.Parallel()
	repo, err := harness.Repo()
	require.NoError(t, err)
	n := newCluster(t, setup{version: harness.Containerd24, bare: true, images: func() ([][]byte, error) {
		archives, err := allImages("")()
		if err != nil {
			return nil, err
		}
		file := filepath.Join(t.TempDir(), "image.tar")
		out, err := exec.Command("go", "run", "../../scripts/image", filepath.Join(repo, "dist/containerd-shim-wasmtime-v1"), "localhost/libwasmshim/wasmtime:latest", file).CombinedOutput()
		require.NoError(t, err, "%s", out)
		installer, err := os.ReadFile(file)
		return append(archives, installer), err
	}})
	config := func() string {
		text, err := os.ReadFile(n.Dir + "/config.toml")
		require.NoError(t, err)
		return string(text)
	}
	before := config()
	program := n.Dir + "/own/usr/local/bin/containerd-shim-wasmtime-v1"
	deploy := filepath.Join(repo, "deploy")

	k := newKind(t, n, "guest")
	k.kubectl("-n", "kube-system", "apply", "-k", deploy)
	k.kubectl("-n", "kube-system", "rollout", "status", "daemonset/libwasmshim-wasmtime", "--timeout=100s")
	n.eventually(time.Minute, func() error {
		_, err := os.Stat(program)
		return err
	})
	// Where there is systemd, the installer restarts containerd.
	k.logged("daemonset/libwasmshim-wasmtime", "doctor", "-n", "kube-system")
	n.kill("containerd")
	n.containerd()
	pod := func(name, image, args string) {
		k.apply(`
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `}
spec:
  runtimeClassName: wasmtime
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: ` + image + `, args: [` + args + `]}]`)
	}
	pod("guest", "$layer", "echo=installed")
	require.Equal(t, "installed\n", k.ends("guest"))
	require.Equal(t, "8Mi", k.field("pod/guest", ".spec.overhead.memory"))
	k.kubectl("delete", "pod", "guest")

	for _, as := range []struct{ kind, image string }{{"daemonset", "$app"}, {"job", "$v2"}} {
		k.precompiled(repo, as.kind, as.image)
		hits, misses := n.found("/usr/local/bin/containerd-shim-wasmtime-v1")
		pod("precompiled", as.image, "echo=at once")
		require.Equal(t, "at once\n", k.ends("precompiled"))
		nowHits, nowMisses := n.found("/usr/local/bin/containerd-shim-wasmtime-v1")
		require.Equal(t, []int{hits + 1, misses}, []int{nowHits, nowMisses}, "%s: hits and misses", as.kind)
		k.kubectl("delete", "pod", "precompiled")
	}

	// Another version: what runs goes on, and what comes later starts.
	pod("before", "$app", "tick")
	k.ready("before")
	k.kubectl("-n", "kube-system", "rollout", "restart", "daemonset/libwasmshim-wasmtime")
	k.kubectl("-n", "kube-system", "rollout", "status", "daemonset/libwasmshim-wasmtime", "--timeout=150s")
	pod("after", "$app", "echo=again")
	require.Equal(t, "again\n", k.ends("after"))
	require.Equal(t, "Running", k.field("pod/before", ".status.phase"))
	k.kubectl("delete", "pod", "before", "after")

	k.kubectl("-n", "kube-system", "delete", "-k", deploy, "--timeout=100s")
	k.kubectl("wait", "pod", "-n", "kube-system", "-l", "app.kubernetes.io/name=libwasmshim", "--for=delete", "--timeout=100s")
	require.NoFileExists(t, program)
	require.Equal(t, before, config())
}
