// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// clientConfig is everybody's who speaks to the API server.
const clientConfig = `{"apiVersion": "v1", "kind": "Config", "current-context": "c",
"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": true}}],
"users": [{"name": "u", "user": {"token": "test"}}]}`

// kubeletConfig: a disk that others fill must not evict.
const kubeletConfig = `
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix://` + address + `
volumePluginDir: /var/lib/kubelet/plugins
resolvConf: /etc/resolv.conf
evictionHard: {memory.available: 1Mi, nodefs.available: "0%", imagefs.available: "0%", nodefs.inodesFree: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
serializeImagePulls: false
registryPullQPS: 0
nodeStatusUpdateFrequency: 2s
syncFrequency: 10s
containerLogMaxSize: 64Ki
containerLogMonitorInterval: 3s
`

// runtimeClasses: of each kind one, and one that says what its pods need beside their
// containers.
const runtimeClasses = `---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: guest}, handler: wasmtime}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: native}, handler: runc}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: guest-overhead}, handler: wasmtime, overhead: {podFixed: {memory: 16Mi}}}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: native-overhead}, handler: runc, overhead: {podFixed: {memory: 16Mi}}}
`

// newCluster is a cluster of one node.
func newCluster(t *testing.T, s setup) *node {
	t.Helper()
	n := newNode(t, s)
	n.write("config", clientConfig)
	n.write("kubelet.yaml", kubeletConfig+s.kubelet)
	n.write("tokens.csv", `test,admin,1,"system:masters"`+"\n")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	n.write("sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	n.controlPlane()
	n.kubelet()
	return n
}

func (n *node) controlPlane() {
	n.t.Helper()
	n.daemon("etcd", "--data-dir", n.Dir+"/etcd", "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380")
	n.daemon("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--cert-dir="+n.Dir+"/certs", "--secure-port=6443", "--token-auth-file="+n.Dir+"/tokens.csv",
		"--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--service-account-key-file="+n.Dir+"/sa.key", "--service-account-signing-key-file="+n.Dir+"/sa.key",
		"--service-account-issuer=https://kubernetes.default.svc", "--advertise-address=10.87.0.1", "--kubelet-preferred-address-types=InternalIP", "--allow-privileged")
	n.eventually(2*time.Minute, func() error {
		_, err := n.run(10*time.Second, "kubectl", "get", "--raw=/readyz")
		return err
	})
	n.daemon("kube-controller-manager", "--kubeconfig="+n.Dir+"/config", "--service-account-private-key-file="+n.Dir+"/sa.key", "--root-ca-file="+n.Dir+"/certs/apiserver.crt",
		"--leader-elect=false", "--flex-volume-plugin-dir=/var/lib/kubelet/plugins")
	n.daemon("kube-scheduler", "--kubeconfig="+n.Dir+"/config", "--leader-elect=false")
}

// kubelet starts it and waits until the node is ready.
func (n *node) kubelet() {
	n.t.Helper()
	n.daemon("kubelet", "--kubeconfig="+n.Dir+"/config", "--config="+n.Dir+"/kubelet.yaml", "--hostname-override=node1", "--node-ip=10.87.0.1", "-v=2")
	n.eventually(time.Minute, func() error {
		_, err := n.run(10*time.Second, "busybox", "wget", "-qO-", "http://127.0.0.1:10248/healthz")
		return err
	})
	n.eventually(2*time.Minute, func() error {
		_, err := n.run(time.Minute, "kubectl", "wait", "--for=condition=Ready", "node/node1", "--timeout=50s")
		return err
	})
}

// kind is what a pod's program is: a guest on this runtime, or a native program on runc.
// Each has a namespace of its name.
type kind struct {
	*testing.T
	n    *node
	name string
}

// newKind makes the namespace.
func newKind(t *testing.T, n *node, name string) kind {
	t.Helper()
	k := kind{t, n, name}
	_, err := n.run(time.Minute, "kubectl", "create", "namespace", name)
	require.NoError(t, err)
	n.eventually(time.Minute, func() error {
		_, err := k.try("get", "serviceaccount", "default")
		return err
	})
	return k
}

// text replaces what differs between the kinds in a text.
func (k kind) text(text string) string {
	return strings.NewReplacer("$app", "images.invalid/"+k.name+"/app:v1", "$v2", "images.invalid/"+k.name+"/app:v2", "$layer", "images.invalid/"+k.name+"/layer:v1",
		"$sh", "images.invalid/library/busybox:latest", "$class", k.name, "$dir", k.n.Dir+"/"+k.name, "\t", "  ").Replace(text)
}

// try runs kubectl.
func (k kind) try(args ...string) (string, error) {
	return k.n.run(3*time.Minute, append([]string{"kubectl", "-n", k.name}, args...)...)
}

// kubectl runs it; it must succeed.
func (k kind) kubectl(args ...string) string {
	k.Helper()
	out, err := k.try(args...)
	require.NoError(k, err)
	return out
}

// with runs kubectl with a standard input.
func (k kind) with(stdin string, args ...string) string {
	k.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := k.n.command(ctx, append([]string{"kubectl", "-n", k.name}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(k, err, "%s%s", out, stderr.String())
	return string(out)
}

// apply applies a manifest.
func (k kind) apply(manifest string) {
	k.Helper()
	k.with("---\n"+k.text(manifest), "apply", "-f", "-") // what begins with a brace would be JSON
}

// pod makes a pod of a spec, in YAML.
func (k kind) pod(name, spec string) {
	k.Helper()
	k.apply(podManifest(name, spec))
}

func podManifest(name, spec string) string {
	spec = strings.ReplaceAll(strings.Trim(spec, "\n"), "\n", "\n  ")
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec:\n  runtimeClassName: $class\n  terminationGracePeriodSeconds: 1\n  " + spec + "\n"
}

// field asks for a field of an object.
func (k kind) field(object, path string) string {
	k.Helper()
	return k.kubectl("get", object, "-o", "jsonpath={"+path+"}")
}

// becomes waits until a field has a value.
func (k kind) becomes(object, path, want string) {
	k.Helper()
	if _, err := k.try("wait", object, "--for=jsonpath={"+path+"}="+want, "--timeout=150s"); err != nil {
		described, _ := k.try("describe", object)
		require.NoError(k, err, "%s", described)
	}
}

// ready waits until a pod is.
func (k kind) ready(pod string) {
	k.Helper()
	k.becomes("pod/"+pod, `.status.conditions[?(@.type=="Ready")].status`, "True")
}

// ends waits until a pod's containers have ended well; said is the log of its
// container "app".
func (k kind) ends(pod string) (said string) {
	k.Helper()
	k.becomes("pod/"+pod, ".status.phase", "Succeeded")
	return k.kubectl("logs", pod, "-c", "app")
}

// exec runs a program in the container "app" of a pod.
func (k kind) exec(pod string, args ...string) string {
	k.Helper()
	return k.kubectl(append([]string{"exec", pod, "-c", "app", "--"}, args...)...)
}

// logged waits until a container's log has a text.
func (k kind) logged(pod, text string, args ...string) {
	k.Helper()
	k.n.eventually(2*time.Minute, func() error {
		out, err := k.try(append([]string{"logs", pod}, args...)...)
		if err == nil && !strings.Contains(out, text) {
			err = fmt.Errorf("no %q in the log of %s: %s", text, pod, out[max(0, len(out)-500):])
		}
		return err
	})
}

// left is what there is of pods in a node: shims, networks, cgroups.
func (n *node) left() []string {
	var left []string
	for _, p := range n.Processes(func(args []string) bool {
		return strings.Contains(filepath.Base(args[0]), "containerd-shim-")
	}) {
		left = append(left, p.String())
	}
	nets, _ := os.ReadDir(fmt.Sprintf("/proc/%d/root/run/netns", n.init))
	for _, net := range nets {
		left = append(left, "network namespace "+net.Name())
	}
	for _, pattern := range []string{"/kubepods/pod*", "/kubepods/*/pod*"} {
		cgroups, _ := filepath.Glob(filepath.Join(cgroupFS, "*", n.Namespace) + pattern)
		left = append(left, cgroups...)
	}
	return left
}
