// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
)

// TestService: components that answer HTTP, behind a Service. No request fails while they
// are replaced by others, and while there are more or fewer of them.
func TestService(t *testing.T) {
	t.Parallel()
	repo, err := harness.Repo()
	require.NoError(t, err)
	full, err := harness.IsFull(filepath.Join(repo, "dist/containerd-shim-wasmtime-v1"))
	require.NoError(t, err)
	if !full {
		t.Skip("the prebuilt wasmtime serves no HTTP (docs/engines.md): make test-k8s builds the other where cargo is")
	}
	n := newCluster(t, setup{version: harness.Containerd24, images: serviceImages})
	n.daemon("kube-proxy", "--kubeconfig="+n.Dir+"/config", "--hostname-override=node1", "--proxy-mode=iptables", "--cluster-cidr=10.88.0.0/16",
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0")
	n.write("runtimeclasses.yaml", runtimeClasses)
	_, err = n.run(time.Minute, "kubectl", "apply", "-f", n.Dir+"/runtimeclasses.yaml")
	require.NoError(t, err)
	k := newKind(t, n, "guest")
	// preStop: a pod is told to end before every node knows that it gets no requests any more.
	k.apply(`
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {of: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {of: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0}}
  template:
    metadata: {labels: {of: web}}
    spec:
      runtimeClassName: $class
      containers:
      - name: app
        image: images.invalid/guest/web:v1
        readinessProbe: {periodSeconds: 1, timeoutSeconds: 30, httpGet: {port: 8080}}
        lifecycle: {preStop: {sleep: {seconds: 5}}}`)
	k.kubectl("rollout", "status", "deployment/web", "--timeout=150s")
	url := "http://" + k.field("service/web", ".spec.clusterIP")
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: n.dial}}
	n.eventually(time.Minute, func() error { return get(client, url) })

	rolled := func(what string, args ...string) {
		t.Helper()
		load := n.load(url)
		k.kubectl(args...)
		k.kubectl("rollout", "status", "deployment/web", "--timeout=240s")
		n.eventually(3*time.Minute, func() error { // the last of those that are too many
			if pods, want := k.field("pod", ".items[*].metadata.name"), k.field("deployment/web", ".spec.replicas"); fmt.Sprint(len(strings.Fields(pods))) != want {
				return fmt.Errorf("not %s: %s", want, pods)
			}
			return nil
		})
		done, failed := load()
		require.Empty(t, failed, "%s: of %d requests", what, done)
		require.Greater(t, done, int64(12), "%s: each of the four clients has sent several requests", what)
		t.Logf("%s: %d requests, none has failed", what, done)
	}
	rolled("new version", "set", "image", "deployment/web", "app=images.invalid/guest/web:v2")
	images := k.field("pod", ".items[*].spec.containers[0].image")
	require.Equal(t, strings.Repeat(" images.invalid/guest/web:v2", 3)[1:], images)
	rolled("more of them", "scale", "deployment/web", "--replicas=50")
	rolled("fewer", "scale", "deployment/web", "--replicas=2")

	k.kubectl("scale", "deployment/web", "--replicas=0")
	k.kubectl("wait", "pod", "-l", "of=web", "--for=delete", "--timeout=150s")
	client.CloseIdleConnections()
	require.Error(t, get(client, url))
	k.kubectl("scale", "deployment/web", "--replicas=1")
	k.kubectl("rollout", "status", "deployment/web", "--timeout=150s")
	n.eventually(time.Minute, func() error { return get(client, url) })
}

// serviceImages are a service by WASI 0.2, its next version, which is one by WASI 0.3, and
// what a node has.
func serviceImages() ([][]byte, error) {
	standin, err := standin()
	if err != nil {
		return nil, err
	}
	archives := [][]byte{}
	add := func(name, program string, data []byte) error {
		v, err := harness.Linux(ocispec.ImageConfig{Entrypoint: []string{"/" + program}}, files{program: {Data: data}})
		if err != nil {
			return err
		}
		archive, err := harness.Archive("any.invalid/"+name, v)
		archives = append(archives, archive)
		return err
	}
	if err := add("pause:3.10", "pause", standin); err != nil {
		return nil, err
	}
	for tag, guest := range map[string]string{"v1": "component-http.wasm", "v2": "component-http3.wasm"} {
		module, err := guests.Read(guest)
		if err == nil {
			err = add("guest/web:"+tag, "app", module)
		}
		if err != nil {
			return nil, err
		}
	}
	return archives, nil
}

// dial connects from the node's network. A socket is of the network in which it was made.
func (n *node) dial(ctx context.Context, network, address string) (net.Conn, error) {
	runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.init))
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if err := unix.Setns(int(theirs.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

func get(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != "hello\n") {
		err = fmt.Errorf("%s: %q", resp.Status, body)
	}
	return err
}

// load sends requests until it is ended, by connections that are kept, and by new ones. It
// says how many were answered, and how others have failed.
func (n *node) load(url string) (end func() (done int64, failed []string)) {
	var (
		stop    = make(chan struct{})
		clients sync.WaitGroup
		count   atomic.Int64
		mu      sync.Mutex
		failed  []string // guarded by mu
	)
	for i := range 4 {
		clients.Go(func() {
			transport := &http.Transport{DialContext: n.dial, DisableKeepAlives: i%2 == 0}
			defer transport.CloseIdleConnections()
			client := &http.Client{Timeout: time.Minute, Transport: transport}
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
				if err := get(client, url); err != nil {
					mu.Lock()
					failed = append(failed, err.Error())
					mu.Unlock()
				}
				count.Add(1)
			}
		})
	}
	return func() (int64, []string) {
		close(stop)
		clients.Wait()
		return count.Load(), failed
	}
}
