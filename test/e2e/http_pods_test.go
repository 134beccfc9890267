// SPDX-License-Identifier: Apache-2.0

package e2e

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
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// The two ends of a pod's network.
const (
	hostIP = "192.0.2.1"
	podIP  = "192.0.2.7"
)

// podNetwork is a CNI plugin: a pair of devices, one in the pod and one with the host. Both
// end with the pod's namespace.
func podNetwork(command string) error {
	switch command {
	case "VERSION":
		fmt.Println(`{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}`)
	case "ADD":
		path := os.Getenv("CNI_NETNS")
		ns, err := os.Open(path)
		if err != nil {
			return err
		}
		defer ns.Close()
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("add devices: %w", err)
		}
		if err := configure("pod0", hostIP); err != nil {
			return err
		}
		runtime.LockOSThread() // which goes no other way any more
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", path, err)
		}
		if err := configure("eth0", podIP); err != nil {
			return err
		}
		fmt.Printf(`{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": %q}], "ips": [{"address": "%s/24", "interface": 0}]}`, path, podIP)
	}
	return nil
}

func configure(device, ip string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("give %s its address: %w", device, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", device, err)
	}
	return nil
}

// A service in a pod that CRI made, with a network of its own, in both ways of making pods:
// it answers at the pod's address and at no other, and ends in order. Its host is a network
// namespace, so that the machine's own network stays as it is.
func TestHTTPInPods(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	ctx, cancel := context.WithTimeout(tt.Ctx, harness.Slow(10*time.Minute))
	t.Cleanup(cancel)
	tt.Ctx = ctx
	n := newNetwork(tt)
	var options strings.Builder
	for _, handler := range []string{"paused", "test"} {
		at := "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes." + handler + ".options"
		fmt.Fprintf(&options, "[%s]\ncompile_timeout = '10m'\n[%s.engine]\nopt-level = 'none'\n", at, at)
	}
	var c *harness.CRI
	n.inside(func() (err error) {
		c, err = harness.StartCRI(ctx, harness.Containerd24, smoke.Ours, options.String())
		return err
	})
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, c.NetworkBy(self))
	r := podsTestOn(tt, c)
	d := r.Inside()

	for language, guest := range map[string]func(testing.TB) []byte{
		"component": func(t testing.TB) []byte { return smoke.Files(t)["component-http.wasm"].Data }, "JavaScript": httpJavaScript, "Python": httpPython,
	} {
		t.Run(language, func(t *testing.T) {
			files := map[string]harness.File{"app.wasm": {Data: guest(t)}, "proc/": {}, "dev/": {}, "sys/": {}}
			image, err := d.Image(d.In(ctx), "pod-"+strings.ToLower(language), files, ocispec.ImageConfig{Env: []string{"PORT=80"}})
			require.NoError(t, err)
			r.image = image.Name()
			for _, handler := range []string{"test", "paused"} {
				t.Run(handler, func(t *testing.T) {
					p := r.runPodBy(t, handler, r.config(nil))
					require.Equal(t, podIP, p.status().Status.Network.Ip)
					p.answersInPod(n, p.container("/app.wasm"), language)
				})
			}
		})
	}
}

func (p *podOf) answersInPod(n *network, id, language string) {
	client := httpClient(p.T)
	client.Transport = &http.Transport{DialContext: n.dial, DisableKeepAlives: true}
	var resp *http.Response
	require.Eventually(p, func() (isThere bool) {
		var err error
		resp, err = client.Post("http://"+podIP+"/a?b=c", "text/plain", strings.NewReader("is sent"))
		return err == nil
	}, harness.Slow(time.Minute), 20*time.Millisecond, p.log(id))
	text, err := io.ReadAll(resp.Body)
	require.NoError(p, err)
	require.NoError(p, resp.Body.Close())
	want := language + " /a?b=c IS SENT"
	if language == "component" {
		want = "hello\n"
	}
	require.Equal(p, want, string(text), p.log(id))
	for _, elsewhere := range []string{"127.0.0.1:80", hostIP + ":80"} {
		_, err := n.dial(p.ctx, "tcp", elsewhere)
		require.ErrorIs(p, err, unix.ECONNREFUSED, "it is the pod's alone")
	}

	// A request that takes its time is answered before the end.
	answered := make(chan error, 1)
	if language == "component" {
		conn, err := n.dial(p.ctx, "tcp", podIP+":80")
		require.NoError(p, err)
		defer conn.Close()
		_, err = io.WriteString(conn, "GET /wait HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
		require.NoError(p, err)
		go func() {
			text, err := io.ReadAll(conn)
			if err == nil && !strings.HasPrefix(string(text), "HTTP/1.1 200 ") {
				err = fmt.Errorf("the answer is %q", text)
			}
			answered <- err
		}()
		time.Sleep(100 * time.Millisecond) // it is with the guest
	} else {
		answered <- nil
	}
	_, err = p.StopContainer(p.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 60})
	require.NoError(p, err)
	require.NoError(p, <-answered)
	status, err := p.ContainerStatus(p.ctx, &cri.ContainerStatusRequest{ContainerId: id})
	require.NoError(p, err)
	require.Equal(p, cri.ContainerState_CONTAINER_EXITED, status.Status.State)
	require.Zero(p, status.Status.ExitCode, p.log(id))
	_, err = n.dial(p.ctx, "tcp", podIP+":80")
	require.ErrorIs(p, err, unix.ECONNREFUSED, "nobody is there any more")
	require.Contains(p, p.log(id), hostIP+` "POST /a?b=c HTTP/1.1" 200 `+fmt.Sprint(len(want)))
}

// log is what a container has printed.
func (p *podOf) log(id string) string {
	p.Helper()
	status, err := p.ContainerStatus(p.ctx, &cri.ContainerStatusRequest{ContainerId: id})
	require.NoError(p, err)
	text, err := os.ReadFile(filepath.Clean(status.Status.LogPath))
	require.NoError(p, err)
	return string(text)
}
