// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CRI is a containerd with its CRI plugin, on which a runtime makes pods in several ways,
// each by a handler: "paused" around a pause container, "node" like it in one daemon for all, "nodetest" like "test" in one, "test" without one, and "streams"
// without one and with streams over ttrpc. "runc" is runc's own.
type CRI struct {
	*Daemon
	cri.RuntimeServiceClient
	conn   *grpc.ClientConn
	inside *Daemon
	cni    string // the directory of what makes networks
}

// criNamespace is where the CRI plugin has all that it has.
const criNamespace = "k8s.io"

const podsConfig = `
[plugins.'io.containerd.nri.v1.nri']
  disable = true

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = %q

[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true # not everybody may lower it
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [%q]
    conf_dir = %q
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.paused]
    runtime_type = %q
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.node]
    runtime_type = %q
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.node.options]
      daemon = "node"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nodetest]
    runtime_type = %q
    sandboxer = "shim"
    disable_pause_image_pull = true
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nodetest.options]
      daemon = "node"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.test]
    runtime_type = %q
    sandboxer = "shim"
    disable_pause_image_pull = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.streams]
    runtime_type = %q
    sandboxer = "shim"
    disable_pause_image_pull = true
    io_type = "streaming"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`

// PauseImage is the name of the image of which pause containers are. Who uses the handler
// "paused" provides it.
var PauseImage = ImageName("pause")

// network is a CNI plugin of a network that leads nowhere: the machine's own stays as it is.
const network = `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
ADD) echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "'"$CNI_NETNS"'"}], "ips": [{"address": "192.0.2.7/24", "interface": 0}]}' ;;
esac
`

// StartCRI starts a containerd with its CRI plugin for a runtime, with more in its
// configuration, if there is.
func StartCRI(ctx context.Context, v Version, name string, more ...string) (_ *CRI, retErr error) {
	dir, err := os.MkdirTemp("", "wst-cni")
	if err != nil {
		return nil, err
	}
	c := &CRI{cni: dir}
	defer func() {
		if retErr != nil {
			_ = c.Stop()
		}
	}()
	for file, text := range map[string]string{
		"nowhere": network, "loopback": network,
		"10-pods.conflist": `{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "nowhere"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o755); err != nil {
			return nil, err
		}
	}
	config := fmt.Sprintf(podsConfig, PauseImage, dir, dir, name, name, name, name, name) + strings.Join(more, "\n")
	if c.Daemon, err = start(ctx, v, "info", config); err != nil {
		return nil, err
	}
	inside, place := *c.Daemon, *c.Place
	place.Namespace = criNamespace
	inside.Place = &place
	c.inside = &inside
	if c.conn, err = grpc.NewClient("unix://"+c.Address, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return nil, err
	}
	c.RuntimeServiceClient = cri.NewRuntimeServiceClient(c.conn)
	return c, c.await(ctx)
}

// NetworkBy has a program make the pods' networks, as a CNI plugin.
func (c *CRI) NetworkBy(program string) error {
	plugin := filepath.Join(c.cni, "nowhere")
	return errors.Join(os.Remove(plugin), os.Symlink(program, plugin))
}

// await waits until the plugin answers and has its network.
func (c *CRI) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Slow(20*time.Second))
	defer cancel()
	for {
		status, err := c.Status(ctx, &cri.StatusRequest{})
		ready := err == nil
		for _, condition := range status.GetStatus().GetConditions() {
			ready = ready && (condition.Status || !strings.HasSuffix(condition.Type, "Ready"))
		}
		if ready {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the CRI plugin is not ready: %v, %w", status, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Stop stops containerd and all that there is.
func (c *CRI) Stop() error {
	var errs []error
	if c.conn != nil {
		errs = append(errs, c.conn.Close())
	}
	if c.Daemon != nil {
		errs = append(errs, c.Daemon.Stop())
	}
	return errors.Join(append(errs, os.RemoveAll(c.cni))...)
}

// Inside is the daemon in the namespace of the CRI plugin.
func (c *CRI) Inside() *Daemon { return c.inside }

// Pod is the configuration of a pod in the host's network.
func (c *CRI) Pod(name string) *cri.PodSandboxConfig {
	host := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "test"}, LogDirectory: c.Dir,
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/" + c.Namespace, SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: host}},
	}
}
