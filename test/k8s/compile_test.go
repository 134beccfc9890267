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
	n.starve()
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

// A kubelet that waits for little longer than a native pod takes (0.2 s of patience are too
// little for one, 0.5 s are enough): a pod whose guest takes many times as long to compile
// becomes ready all the same, around a pause container and without one. containerd ends a
// start that is given up with StartError, and keeps nothing of the container's name; the
// kubelet makes another container, at first at once, then ever later. What the first has
// begun goes on; others wait for it, and a later one finds it.
func TestImpatientKubelet(t *testing.T) {
	t.Parallel()
	n := newCluster(t, setup{version: harness.Containerd24, images: allImages(""), kubelet: "runtimeRequestTimeout: 2s\n"})
	compilers := n.starve()
	n.write("runtimeclasses.yaml", `---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: native}, handler: runc}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: starved}, handler: starved}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: starved-sandboxes}, handler: starved-sandboxes}
`)
	_, err := n.run(time.Minute, "kubectl", "apply", "-f", n.Dir+"/runtimeclasses.yaml")
	require.NoError(t, err)
	native := newKind(t, n, "native")
	native.pod("native", `
containers: [{name: app, image: $app, args: [tick]}]`)
	native.ready("native")

	k := newKind(t, n, "guest")
	classes := []string{"starved", "starved-sandboxes"}
	for _, class := range classes {
		k.apply(strings.ReplaceAll(podManifest(class, `
containers: [{name: app, image: $app, args: [tick]}]`), "$class", class))
	}
	for _, class := range classes {
		k.ready(class)
		require.Equal(t, "StartError", k.field("pod/"+class, ".status.containerStatuses[0].lastState.terminated.reason"), "a start was given up")
		k.logged(class, "tick")
	}
	log := n.logOf(t)
	require.Equal(t, 1, strings.Count(log, "compiled sha256:"), "compilations")
	require.Equal(t, 1, strings.Count(log, "compiling goes on without this container"), "starts that had begun to compile")
	require.NotContains(t, log, "is reserved for", "a container's name, by a create that goes on")
	for _, kind := range []kind{native, k} {
		kind.kubectl("delete", "pod", "--all", "--timeout=100s")
	}
	n.eventually(2*time.Minute, func() error { // the kubelet removes what is left of pods once in a minute
		left := n.left()
		for _, p := range n.Processes(func(args []string) bool { return strings.Contains(strings.Join(args, " "), "containerd-shim-wasmtime") }) {
			left = append(left, p.String())
		}
		if own, err := os.ReadDir(compilers); err == nil {
			for _, e := range own {
				if e.IsDir() {
					left = append(left, filepath.Join(compilers, e.Name()))
				}
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		return nil
	})
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
