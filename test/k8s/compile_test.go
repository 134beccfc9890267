// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// Whoever has less patience than compiling takes, crictl with its two seconds, starts a
// container all the same: what was begun goes on, and a later try finds it.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup{version: harness.Containerd24, images: formImages})
	// A second and a half of work takes more than six.
	compilers := filepath.Join(cgroupFS, "cpu", n.Namespace, "compilers")
	require.NoError(t, os.Mkdir(compilers, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(compilers, "cpu.cfs_quota_us"), []byte("20000"), 0))

	n.forms("plain")
	_, err := n.crictl("pull", "images.invalid/plain:v1")
	require.NoError(t, err)
	pod, err := n.crictl("runp", "--runtime", "starved", n.Dir+"/pod.json")
	require.NoError(t, err)
	tries := 0
	n.eventually(2*time.Minute, func() error {
		tries++
		container, err := n.crictl("create", strings.TrimSpace(pod), n.Dir+"/container.json", n.Dir+"/pod.json")
		require.NoError(t, err)
		_, err = n.run(time.Minute, "crictl", "-r", "unix://"+address, "start", strings.TrimSpace(container))
		if err == nil {
			return nil
		}
		require.ErrorContains(t, err, "DeadlineExceeded")
		n.eventually(10*time.Second, func() error { // containerd may not be done with the start
			_, err := n.crictl("rm", "-f", strings.TrimSpace(container))
			return err
		})
		return err
	})
	require.Greater(t, tries, 1, "the first has waited for less than compiling takes")
	require.Equal(t, 1, strings.Count(n.logOf(t), "compiled sha256:"), "compilations")
}

// precompiled makes of the files in deploy/ what has an image compiled before a pod needs
// it, by a DaemonSet on each node, or by a Job on one.
func (k kind) precompiled(repo, as, image string) {
	k.Helper()
	text, err := os.ReadFile(filepath.Join(repo, "deploy/precompile.yaml"))
	require.NoError(k, err)
	manifest := strings.ReplaceAll(string(text), "registry.example.com/app:v1", k.text(image))
	if as == "job" {
		// As the file's own comment says.
		manifest = strings.NewReplacer("kind: DaemonSet", "kind: Job", "apps/v1", "batch/v1", "initContainers:", "restartPolicy: OnFailure\n      containers:").Replace(manifest)
		selector, end := strings.Index(manifest, "  selector:"), strings.Index(manifest, "  template:")
		manifest = manifest[:selector] + manifest[end:]
		waits, end := strings.Index(manifest, "      containers:\n        - name: wait"), strings.Index(manifest, "      volumes:")
		manifest = manifest[:waits] + manifest[end:]
	}
	k.with(manifest, "-n", "kube-system", "apply", "-f", "-")
	if as == "job" {
		k.kubectl("-n", "kube-system", "wait", "job/precompile", "--for=condition=complete", "--timeout=150s")
	} else {
		k.kubectl("-n", "kube-system", "rollout", "status", "daemonset/precompile", "--timeout=150s")
	}
	said := k.kubectl("-n", "kube-system", "logs", as+"/precompile", "-c", "precompile")
	require.Contains(k, said, k.text(image)+": compiled in ")
	k.kubectl("-n", "kube-system", "delete", as+"/precompile", "--timeout=100s")
}

// found says how often a start has found its code compiled, and how often not.
func (n *node) found(program string) (hits, misses int) {
	n.t.Helper()
	text, err := n.run(time.Minute, program, "doctor", "--metrics")
	require.NoError(n.t, err)
	for result, count := range map[string]*int{"hit": &hits, "miss": &misses} {
		_, rest, _ := strings.Cut(text, `libwasmshim_cache_lookups_total{namespace="k8s.io",engine="wasmtime",result="`+result+`"} `)
		_, err := fmt.Sscan(rest, count)
		require.NoError(n.t, err, text)
	}
	return hits, misses
}
