// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	task3 "github.com/containerd/containerd/api/runtime/task/v3"
	sandbox "github.com/containerd/containerd/api/services/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CRI is a containerd with its CRI plugin, which speaks to shims' streams over ttrpc.
//
// The plugin does so only where a sandbox's controller tells it the shim's address,
// and containerd has such a controller only for shims that serve the sandbox API. So
// this process is the controller, as a proxy plugin: a sandbox is a container by hand.
type CRI struct {
	*Daemon
	cri.RuntimeServiceClient
	conn       *grpc.ClientConn
	inside     *Daemon
	controller *controller
	server     *grpc.Server
}

// criNamespace is where the CRI plugin has all that it has.
const criNamespace = "k8s.io"

const criConfig = `
[proxy_plugins.byhand]
  type = "sandbox"
  address = %q

[plugins.'io.containerd.nri.v1.nri']
  disable = true

[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true # not everybody may lower it
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.test]
    runtime_type = %q
    sandboxer = "byhand"
    io_type = "streaming"
    disable_pause_image_pull = true
`

// StartCRI starts a containerd whose runtime handler "test" is a runtime, with streams
// over ttrpc. sleeper are a program's arguments, in a directory, that only waits.
func StartCRI(ctx context.Context, v Version, name, rootfs string, sleeper ...string) (_ *CRI, retErr error) {
	socket, err := os.MkdirTemp("", "wst-cri")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", filepath.Join(socket, "s"))
	if err != nil {
		return nil, err
	}
	c := &CRI{server: grpc.NewServer(), controller: &controller{dir: socket, runtime: name, rootfs: rootfs, sleeper: sleeper, sandboxes: map[string]*ByHand{}}}
	sandbox.RegisterControllerServer(c.server, c.controller)
	go func() { _ = c.server.Serve(l) }()
	defer func() {
		if retErr != nil {
			_ = c.Stop()
		}
	}()
	if c.Daemon, err = start(ctx, v, "info", fmt.Sprintf(criConfig, l.Addr().String(), name)); err != nil {
		return nil, err
	}
	err = c.connect()
	c.controller.daemon, c.controller.cgroup = c.inside, "/"+c.Namespace
	return c, err
}

// connect connects to the CRI plugin of a containerd that runs.
func (c *CRI) connect() (err error) {
	inside, place := *c.Daemon, *c.Place
	place.Namespace = criNamespace
	inside.Place = &place
	c.inside = &inside
	if c.conn, err = grpc.NewClient("unix://"+c.Address, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return err
	}
	c.RuntimeServiceClient = cri.NewRuntimeServiceClient(c.conn)
	return nil
}

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
    %s
    conf_dir = %q
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.paused]
    runtime_type = %q
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.test]
    runtime_type = %q
    sandboxer = "shim"
    disable_pause_image_pull = true
`

// PauseImage is the name of the image of which StartPods has pause containers. Who uses
// the handler "paused" provides it.
var PauseImage = ImageName("pause")

// network is a CNI plugin of a network that leads nowhere: the machine's own stays as it is.
const network = `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
ADD) echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "'"$CNI_NETNS"'"}], "ips": [{"address": "192.0.2.7/24", "interface": 0}]}' ;;
esac
`

// StartPods starts a containerd with its CRI plugin on which a runtime makes pods in two
// ways: with the handler "paused" around a pause container, with "test" without one.
func StartPods(ctx context.Context, v Version, name string) (_ *CRI, retErr error) {
	dir, err := os.MkdirTemp("", "wst-cni")
	if err != nil {
		return nil, err
	}
	c := &CRI{server: grpc.NewServer(), controller: &controller{dir: dir}}
	defer func() {
		if retErr != nil {
			_ = c.Stop()
		}
	}()
	for file, text := range map[string]string{
		"nowhere": network, "loopback": network, "10-pods.conflist": `{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "nowhere"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o755); err != nil {
			return nil, err
		}
	}
	bin := fmt.Sprintf("bin_dirs = [%q]", dir)
	if v == "2.0.14" {
		bin = fmt.Sprintf("bin_dir = %q", dir)
	}
	if c.Daemon, err = start(ctx, v, "info", fmt.Sprintf(podsConfig, PauseImage, bin, dir, name, name)); err != nil {
		return nil, err
	}
	return c, c.connect()
}

// Stop stops containerd and all that there is.
func (c *CRI) Stop() error {
	var errs []error
	if c.conn != nil {
		errs = append(errs, c.conn.Close())
	}
	for _, h := range c.controller.all() {
		errs = append(errs, h.Close(context.Background()))
	}
	if c.Daemon != nil {
		errs = append(errs, c.Daemon.Stop())
	}
	c.server.Stop()
	return errors.Join(append(errs, os.RemoveAll(c.controller.dir))...)
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

// controller makes sandboxes by hand.
type controller struct {
	sandbox.UnimplementedControllerServer
	dir, cgroup     string
	daemon          *Daemon
	runtime, rootfs string
	sleeper         []string

	mu        sync.Mutex
	sandboxes map[string]*ByHand // guarded by mu
}

func (c *controller) all() (all []*ByHand) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.sandboxes {
		all = append(all, h)
	}
	return all
}

func (c *controller) get(id string) (*ByHand, uint32, error) {
	c.mu.Lock()
	h := c.sandboxes[id]
	c.mu.Unlock()
	if h == nil {
		return nil, 0, errgrpc.ToGRPC(fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound))
	}
	state, err := h.State(context.Background(), &task3.StateRequest{ID: id})
	return h, state.GetPid(), err
}

func (c *controller) Create(_ context.Context, r *sandbox.ControllerCreateRequest) (*sandbox.ControllerCreateResponse, error) {
	return &sandbox.ControllerCreateResponse{SandboxID: r.SandboxID}, nil
}

func (c *controller) Start(ctx context.Context, r *sandbox.ControllerStartRequest) (*sandbox.ControllerStartResponse, error) {
	h, err := c.daemon.ByHand(ctx, HandConfig{
		ID: r.SandboxID, Runtime: c.runtime, RootFS: c.rootfs, Args: c.sleeper, NoIO: true,
		Opts: []oci.SpecOpts{oci.WithCgroup(c.cgroup + "/" + r.SandboxID)},
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.sandboxes[h.ID] = h
	c.mu.Unlock()
	created, err := h.Create(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := h.Start(ctx, &task3.StartRequest{ID: h.ID}); err != nil {
		return nil, err
	}
	spec, err := typeurl.MarshalAnyToProto(&oci.Spec{})
	return &sandbox.ControllerStartResponse{
		SandboxID: h.ID, Pid: created.Pid, CreatedAt: timestamppb.Now(),
		Address: "ttrpc+" + h.Address, Version: 3, Spec: spec,
	}, err
}

func (c *controller) Platform(context.Context, *sandbox.ControllerPlatformRequest) (*sandbox.ControllerPlatformResponse, error) {
	return &sandbox.ControllerPlatformResponse{Platform: &types.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}}, nil
}

func (c *controller) Status(_ context.Context, r *sandbox.ControllerStatusRequest) (*sandbox.ControllerStatusResponse, error) {
	h, pid, err := c.get(r.SandboxID)
	if err != nil {
		return nil, err
	}
	return &sandbox.ControllerStatusResponse{
		SandboxID: h.ID, Pid: pid, State: cri.PodSandboxState_SANDBOX_READY.String(), CreatedAt: timestamppb.Now(),
		Address: "ttrpc+" + h.Address, Version: 3,
	}, nil
}

func (c *controller) Wait(ctx context.Context, r *sandbox.ControllerWaitRequest) (*sandbox.ControllerWaitResponse, error) {
	h, _, err := c.get(r.SandboxID)
	if err != nil {
		return nil, err
	}
	exit, err := h.Wait(ctx, &task3.WaitRequest{ID: h.ID})
	return &sandbox.ControllerWaitResponse{ExitStatus: exit.GetExitStatus(), ExitedAt: exit.GetExitedAt()}, err
}

func (c *controller) Stop(ctx context.Context, r *sandbox.ControllerStopRequest) (*sandbox.ControllerStopResponse, error) {
	h, _, err := c.get(r.SandboxID)
	if err != nil {
		return nil, err
	}
	_, err = h.Kill(ctx, &task3.KillRequest{ID: h.ID, Signal: uint32(syscall.SIGKILL)})
	return &sandbox.ControllerStopResponse{}, err
}

func (c *controller) Shutdown(ctx context.Context, r *sandbox.ControllerShutdownRequest) (*sandbox.ControllerShutdownResponse, error) {
	h, _, err := c.get(r.SandboxID)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	delete(c.sandboxes, h.ID)
	c.mu.Unlock()
	return &sandbox.ControllerShutdownResponse{}, h.Close(ctx)
}
