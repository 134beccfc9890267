// SPDX-License-Identifier: Apache-2.0

// Package sandbox is containerd's Sandbox service: a pod that has no pause container,
// because its daemon makes what a pause container is there for.
package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	api "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
	"github.com/libwasmshim/libwasmshim/shim/internal/task"
)

const serviceName = "containerd.runtime.sandbox.v1.Sandbox"

// The states that CRI knows.
const (
	stateReady    = "SANDBOX_READY"
	stateNotReady = "SANDBOX_NOTREADY"
)

// specURL is the name under which containerd knows an OCI spec, whose value is JSON.
const specURL = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// stopTimeout bounds the wait for the waiting process's end, where the request has no
// time of its own.
const stopTimeout = 10 * time.Second

// Service serves the sandboxes of a daemon: one, or many.
type Service struct {
	tasks   *task.Service
	options options.Options

	mu   sync.Mutex
	pods map[string]*pod // guarded by mu; by their ids
}

// pod is a sandbox.
type pod struct {
	id, bundle string
	config     *config
	spec       *specs.Spec
	place      *container.Pod
	ended      chan struct{} // closed when the waiting process has ended, or there will be none

	turn    sync.Mutex // held by what changes a pod
	files   *files     // guarded by turn
	created time.Time  // guarded by turn; zero before the start
	waiter  *waiter    // guarded by turn; nil before the start
	stopped bool       // guarded by turn
}

// New returns a service without a sandbox.
func New(tasks *task.Service, opts options.Options) *Service {
	return &Service{tasks: tasks, options: opts, pods: map[string]*pod{}}
}

// Register offers the service.
func (s *Service) Register(srv *ttrpc.Server) {
	srv.RegisterService(serviceName, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"CreateSandbox":   task.Method(s.tasks, s.create),
		"StartSandbox":    task.Method(s.tasks, s.start),
		"Platform":        task.Method(s.tasks, s.platform),
		"StopSandbox":     task.Method(s.tasks, s.stop),
		"WaitSandbox":     task.Method(s.tasks, s.wait),
		"SandboxStatus":   task.Method(s.tasks, s.status),
		"PingSandbox":     task.Method(s.tasks, s.ping),
		"ShutdownSandbox": task.Method(s.tasks, s.shutdown),
		"SandboxMetrics":  task.Method(s.tasks, s.metrics),
	}})
}

func (s *Service) get(id string) (*pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pods[id]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("sandbox %s is not in this shim: %w", id, errdefs.ErrNotFound)
}

func (s *Service) create(_ context.Context, r *api.CreateSandboxRequest) (*api.CreateSandboxResponse, error) {
	if !container.ValidID(r.SandboxID) {
		return nil, invalid("sandbox id %q is not a name", r.SandboxID)
	}
	if err := s.tasks.Hold(r.SandboxID, r.BundlePath); err != nil {
		return nil, err
	}
	p, err := newPod(r, s.options)
	if err == nil {
		err = p.files.put()
	}
	if err != nil {
		_ = Cleanup(r.BundlePath)
		s.tasks.Unhold(r.SandboxID)
		return nil, fmt.Errorf("create sandbox %s: %w", r.SandboxID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[p.id] = p
	return &api.CreateSandboxResponse{}, nil
}

func newPod(r *api.CreateSandboxRequest, opts options.Options) (*pod, error) {
	if !filepath.IsAbs(r.BundlePath) {
		return nil, invalid("bundle %q is not an absolute path", r.BundlePath)
	}
	if len(r.Rootfs) > 0 {
		return nil, invalid("the sandbox has a root file system of %d mounts; accepted: none, nothing runs in it", len(r.Rootfs))
	}
	p := &pod{id: r.SandboxID, bundle: r.BundlePath, ended: make(chan struct{})}
	var err error
	if p.config, err = parseConfig(r.Options, r.NetnsPath); err != nil {
		return nil, err
	}
	p.spec = p.config.spec(r.SandboxID)
	systemd := opts.Systemd(p.spec)
	if err := os.Mkdir(p.root(), 0o711); err != nil && !os.IsExist(err) {
		return nil, err
	}
	p.place, err = container.NewPod(container.Config{
		ID: p.id, Root: task.StateRoot(p.bundle), Bundle: p.bundle, Spec: p.spec, SystemdCgroup: systemd, NoPivotRoot: opts.NoPivotRoot,
	})
	if err != nil {
		return nil, err
	}
	p.files, err = newFiles(p.bundle, p.config)
	return p, err
}

// root is where the waiting process has its empty root, of which nobody else sees
// anything.
func (p *pod) root() string { return filepath.Join(p.bundle, "rootfs") }

// spec is the pod in the words of an OCI spec, as far as they apply.
func (c *config) spec(id string) *specs.Spec {
	shares := uint64(2) // CRI's, for a pause container
	spec := &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs", Readonly: true},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}},
			Resources:  &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}},
		},
	}
	if c.cgroupParent != "" {
		spec.Linux.CgroupsPath = container.CgroupsPath(c.cgroupParent, id)
	}
	for _, ns := range []struct {
		host bool
		kind specs.LinuxNamespaceType
		path string
	}{
		{c.hostNetwork, specs.NetworkNamespace, c.network},
		{c.hostNetwork, specs.UTSNamespace, ""},
		{c.hostIPC, specs.IPCNamespace, ""},
		{c.hostPID, specs.PIDNamespace, ""},
	} {
		if !ns.host {
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: ns.kind, Path: ns.path})
		}
	}
	if !c.hostNetwork {
		spec.Hostname = c.hostname
	}
	if len(c.sysctls) > 0 {
		spec.Linux.Sysctl = map[string]string{}
		for _, s := range c.sysctls {
			spec.Linux.Sysctl[s.name] = s.value
		}
	}
	return spec
}

func (s *Service) start(_ context.Context, r *api.StartSandboxRequest) (*api.StartSandboxResponse, error) {
	p, err := s.get(r.SandboxID)
	if err != nil {
		return nil, err
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	if p.waiter != nil || p.stopped {
		return nil, fmt.Errorf("sandbox %s was started, or stopped, before: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	exe, err := s.tasks.Executable(p.bundle)
	if err != nil {
		return nil, err
	}
	container.HurryMoves()
	w, err := startWaiter(exe, p.id, p.root(), p.config)
	if err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", p.id, err)
	}
	if err := p.place.Enter(w.pid); err != nil {
		w.kill()
		<-w.done
		return nil, fmt.Errorf("start sandbox %s: %w", p.id, err)
	}
	spec, err := json.Marshal(p.spec)
	if err != nil {
		return nil, err
	}
	p.waiter, p.created = w, time.Now()
	go p.follow(w)
	return &api.StartSandboxResponse{
		Pid: uint32(w.pid), CreatedAt: timestamppb.New(p.created), Spec: &anypb.Any{TypeUrl: specURL, Value: spec},
	}, nil
}

func (p *pod) follow(w *waiter) {
	<-w.done
	if err := task.Exited(p.bundle, w.pid, w.status, w.at, false); err != nil {
		log.L.WithError(err).WithField("sandbox", p.id).Debug("keep the exit status")
	}
	close(p.ended)
}

func (s *Service) platform(_ context.Context, r *api.PlatformRequest) (*api.PlatformResponse, error) {
	if _, err := s.get(r.SandboxID); err != nil {
		return nil, err
	}
	return &api.PlatformResponse{Platform: &types.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}}, nil
}

func (s *Service) stop(ctx context.Context, r *api.StopSandboxRequest) (*api.StopSandboxResponse, error) {
	p, err := s.get(r.SandboxID)
	if err != nil {
		return nil, err
	}
	limit := stopTimeout
	if r.TimeoutSecs > 0 {
		limit = time.Duration(r.TimeoutSecs) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return &api.StopSandboxResponse{}, p.stop(ctx)
}

// stop ends the waiting process, for which nothing is too early, and takes /dev/shm away.
func (p *pod) stop(ctx context.Context) error {
	p.turn.Lock()
	defer p.turn.Unlock()
	if p.waiter != nil {
		p.waiter.kill()
		select {
		case <-p.ended:
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of the sandbox's process %d: %w", p.waiter.pid, ctx.Err())
		}
	} else if !p.stopped {
		close(p.ended)
	}
	p.stopped = true
	p.files.close()
	return p.files.unmountShm()
}

func (s *Service) wait(ctx context.Context, r *api.WaitSandboxRequest) (*api.WaitSandboxResponse, error) {
	p, err := s.get(r.SandboxID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	status, at := p.exit()
	return &api.WaitSandboxResponse{ExitStatus: uint32(status), ExitedAt: timestamppb.New(at)}, nil
}

// exit is how a pod has ended.
func (p *pod) exit() (status int, at time.Time) {
	if p.waiter == nil {
		return 0, time.Now()
	}
	return p.waiter.status, p.waiter.at
}

func (s *Service) status(_ context.Context, r *api.SandboxStatusRequest) (*api.SandboxStatusResponse, error) {
	p, err := s.get(r.SandboxID)
	if err != nil {
		return nil, err
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	resp := &api.SandboxStatusResponse{SandboxID: p.id, State: stateNotReady}
	if !p.created.IsZero() {
		resp.CreatedAt = timestamppb.New(p.created)
	}
	process := "created"
	select {
	case <-p.ended:
		_, at := p.exit()
		resp.ExitedAt = timestamppb.New(at)
		process = "deleted"
	default:
		if p.waiter != nil {
			resp.State, resp.Pid, process = stateReady, uint32(p.waiter.pid), "running"
		}
		// CRI asks before it makes a container, which needs them.
		if err := p.files.put(); err != nil {
			return nil, err
		}
	}
	if r.Verbose {
		// The names are those of CRI's own controller.
		info, err := json.Marshal(map[string]any{
			"pid": resp.Pid, "processStatus": process, "image": "", "runtimeSpec": p.spec,
		})
		if err != nil {
			return nil, err
		}
		resp.Info = map[string]string{"info": string(info)}
	}
	return resp, nil
}

func (s *Service) ping(_ context.Context, r *api.PingRequest) (*api.PingResponse, error) {
	_, err := s.get(r.SandboxID)
	return &api.PingResponse{}, err
}

// shutdown removes the sandbox, and with it what is left of its containers and of the
// daemon. It may be called again, and for a sandbox that was never made.
func (s *Service) shutdown(ctx context.Context, r *api.ShutdownSandboxRequest) (*api.ShutdownSandboxResponse, error) {
	p, err := s.get(r.SandboxID)
	if errdefs.IsNotFound(err) {
		s.tasks.Forgo(r.SandboxID)
		return &api.ShutdownSandboxResponse{}, nil
	}
	s.tasks.KillAll(p.id)
	stopping, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := p.stop(stopping); err != nil {
		return nil, err
	}
	if err := p.remove(); err != nil {
		return nil, fmt.Errorf("remove sandbox %s: %w", p.id, err)
	}
	s.mu.Lock()
	delete(s.pods, p.id)
	s.mu.Unlock()
	s.tasks.Release(ctx, p.id)
	return &api.ShutdownSandboxResponse{}, nil
}

// remove removes what there is of a pod that has stopped.
func (p *pod) remove() error {
	p.turn.Lock()
	defer p.turn.Unlock()
	if err := Cleanup(p.bundle); err != nil {
		return err
	}
	pid := 0
	if p.waiter != nil {
		pid = p.waiter.pid
	}
	status, at := p.exit()
	if err := task.Exited(p.bundle, pid, status, at, true); err != nil {
		log.L.WithError(err).WithField("sandbox", p.id).Debug("record that the sandbox is gone")
	}
	return nil
}

// metrics are those of the pod's cgroup, its containers' with them.
func (s *Service) metrics(_ context.Context, r *api.SandboxMetricsRequest) (*api.SandboxMetricsResponse, error) {
	p, err := s.get(r.SandboxID)
	if err != nil {
		return nil, err
	}
	if p.config.cgroupParent == "" {
		return nil, fmt.Errorf("sandbox %s has no cgroup_parent, whose statistics are the pod's: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	stats, err := container.StatsOf(p.config.cgroupParent)
	if err != nil {
		return nil, fmt.Errorf("statistics of sandbox %s: %w", p.id, err)
	}
	data, err := task.MarshalAny(stats)
	if err != nil {
		return nil, err
	}
	return &api.SandboxMetricsResponse{Metrics: &types.Metric{Timestamp: timestamppb.Now(), ID: p.id, Data: data}}, nil
}
