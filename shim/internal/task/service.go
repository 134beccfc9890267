// SPDX-License-Identifier: Apache-2.0

// Package task is containerd's Task service: what a daemon does for the
// containers of its pod.
package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v2"
	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/metrics"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
)

// The service's names. Version 3 has the messages of version 2, byte for byte,
// so one implementation with one set of types serves both.
var serviceNames = []string{"containerd.task.v2.Task", "containerd.task.v3.Task"}

// Config is what the service needs from the daemon around it.
type Config struct {
	Engine    image.Engine
	Options   []options.Declaration                   // the engine's
	Binary    string                                  // the name of this shim's file
	Address   string                                  // of containerd
	Namespace string                                  // containerd's
	Publish   func(topic string, event proto.Message) // must not block
	Busy      func()                                  // called at the end of every call
	Unlist    func()                                  // called once, when containerd is done with the daemon: takes its socket's name away
	Shutdown  func()                                  // called once, after that: ends the daemon
}

// Service serves the containers of one daemon.
type Service struct {
	Config
	ctx context.Context //nolint:containedctx // the daemon's life, for work that outlives a request

	mu       sync.Mutex
	tasks    map[string]*task  // guarded by mu
	stopping bool              // guarded by mu
	used     bool              // guarded by mu; a container was asked for
	holders  map[string]string // guarded by mu; the bundles of sandboxes by their ids; see Hold
	pods     pods              // guarded by mu

	end sync.Once // of the daemon

	exe      sealedExe
	code     image.Finder
	prepared prepared
	remotes  remotes
}

// New returns a service without containers.
func New(ctx context.Context, c Config) *Service {
	s := &Service{Config: c, ctx: ctx, tasks: map[string]*task{}, holders: map[string]string{}}
	s.code = image.Finder{Address: c.Address, Namespace: c.Namespace, Engine: c.Engine, Exe: s.exe.get}
	return s
}

// Register offers the service under both of its names.
func (s *Service) Register(srv *ttrpc.Server) {
	methods := map[string]ttrpc.Method{
		"Create":    method(s, s.create),
		"Exec":      method(s, s.exec),
		"Start":     method(s, s.start),
		"State":     method(s, s.state),
		"Wait":      method(s, s.wait),
		"Kill":      method(s, s.kill),
		"Delete":    method(s, s.delete),
		"Pids":      method(s, s.pids),
		"CloseIO":   method(s, s.closeIO),
		"ResizePty": method(s, s.resizePty),
		"Connect":   method(s, s.connect),
		"Shutdown":  method(s, s.shutdown),

		"Pause":      method(s, s.pause),
		"Resume":     method(s, s.resume),
		"Update":     method(s, s.update),
		"Stats":      method(s, s.stats),
		"Checkpoint": method(s, s.checkpoint),
	}
	for _, name := range serviceNames {
		srv.RegisterService(name, &ttrpc.ServiceDesc{Methods: methods})
	}
	streamingapi.RegisterTTRPCStreamingService(srv, &s.remotes)
}

// method adapts a handler to ttrpc. Here, and only here, errors get their gRPC
// codes.
func method[Req, Resp any](s *Service, handle func(context.Context, *Req) (*Resp, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (_ any, retErr error) {
		var req Req
		if err := unmarshal(&req); err != nil {
			return nil, err
		}
		defer s.Busy()
		defer answer(s.ctx, &retErr)
		resp, err := handle(ctx, &req)
		if err != nil {
			return nil, err
		}
		return resp, nil
	}
}

// answer gives a call's error its code. It is deferred: one call's bug must not take
// down a pod.
func answer(ctx context.Context, err *error) {
	if p := recover(); p != nil {
		log.G(ctx).Errorf("panic: %v\n%s", p, debug.Stack())
		*err = fmt.Errorf("shim has a bug: %v; its log has the stack: %w", p, errdefs.ErrInternal)
	}
	*err = errgrpc.ToGRPC(withCode(*err))
}

// withCode gives an error of the kernel's, that nobody has given a code, the one of what
// the machine is short of: the same call may succeed later.
func withCode(err error) error {
	if err == nil || errdefs.Resolve(err) != errdefs.ErrUnknown { //nolint:errorlint // it is that very value
		return err
	}
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case slices.ContainsFunc([]error{syscall.ENOSPC, syscall.EDQUOT, syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE}, is):
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	case is(syscall.EROFS):
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return err
}

// counters are those of this service's engine.
func (s *Service) counters() metrics.File {
	return image.CountersOf(s.Address, s.Namespace, s.Engine.Name)
}

// countRefused counts a create that was not done.
func (s *Service) countRefused(err error) {
	s.counters().Count(metrics.Refused(uint32(status.Code(errgrpc.ToGRPC(withCode(err))))))
}

// reserve enters a new task, which does not exist for other calls until it was made,
// with the turn taken. The context is for what the creation waits for: it ends with
// the request, and with a delete.
func (s *Service) reserve(request context.Context, id string) (*task, context.Context, error) {
	if !container.ValidID(id) {
		return nil, nil, fmt.Errorf("container id %q is not a name: %w", id, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, nil, fmt.Errorf("shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	if _, ok := s.tasks[id]; ok {
		return nil, nil, fmt.Errorf("container %s exists in this shim already: %w", id, errdefs.ErrAlreadyExists)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	stop := context.AfterFunc(request, cancel)
	t := newTask(id, log.G(s.ctx), func() { stop(); cancel() })
	t.init.turn <- struct{}{}
	s.tasks[id] = t
	s.used = true
	return t, ctx, nil
}

// drop takes a task out of the service. A daemon that has none any more ends after a
// while also if nobody asks it to: whoever deleted its last container may be gone.
func (s *Service) drop(t *task) {
	t.init.become(gone)
	defer s.leave(t.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, t.id)
	s.forgetInSandbox(t.id)
	if len(s.tasks) == 0 {
		time.AfterFunc(emptyTimeout, func() { s.stopIfEmpty(s.ctx) })
	}
}

// emptyTimeout is how long a daemon stays that has lost its last container.
// containerd ends it at once, or has given up the call that would have led to it.
const emptyTimeout = 3 * time.Second

// entered returns a task, whether it was made or not.
func (s *Service) entered(id string) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[id]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("container %s is not in this shim: %w", id, errdefs.ErrNotFound)
}

// get returns a task that was made, and the process of it that is named.
func (s *Service) get(id, execID string) (*task, *process, error) {
	t, err := s.entered(id)
	if err != nil {
		return nil, nil, err
	}
	switch t.init.now() {
	case creating:
		return nil, nil, fmt.Errorf("container %s is still being created: %w", id, errdefs.ErrNotFound)
	case gone:
		return nil, nil, t.init.notHere()
	}
	p, err := t.process(execID)
	return t, p, err
}

// takeTurn is get, and waits for the process's turn. end ends it.
func (s *Service) takeTurn(ctx context.Context, id, execID string) (t *task, p *process, end func(), err error) {
	if t, p, err = s.get(id, execID); err == nil {
		end, err = p.takeTurn(ctx)
	}
	return t, p, end, err
}

func (s *Service) connect(_ context.Context, r *api.ConnectRequest) (*api.ConnectResponse, error) {
	resp := &api.ConnectResponse{ShimPid: uint32(os.Getpid()), Version: "v3"}
	if _, init, err := s.get(r.ID, ""); err == nil {
		resp.TaskPid = init.living().pid
	}
	return resp, nil
}

// shutdown ends the daemon unless it still has containers: containerd calls it
// after every container of a pod.
func (s *Service) shutdown(ctx context.Context, _ *api.ShutdownRequest) (*emptypb.Empty, error) {
	s.stopIfEmpty(ctx)
	return &emptypb.Empty{}, nil
}

// StopIfUnused ends a daemon that was never asked for a container: containerd
// died between starting it and using it, and will not come back for it.
func (s *Service) StopIfUnused() {
	s.mu.Lock()
	used := s.used
	s.mu.Unlock()
	if !used {
		s.stopIfEmpty(s.ctx)
	}
}

// goodbyeTime is how long a client may take to close its connection after the answer to
// the call that ends the daemon.
const goodbyeTime = 200 * time.Millisecond

// stopIfEmpty ends a daemon that has no container, and returns when its socket is
// gone, whoever ends it. If that is a client's call, the client has its answer before the
// end: ttrpc's server closes connections on which a call is under way, and its client
// may forget an answer that comes shortly before the connection is closed.
func (s *Service) stopIfEmpty(ctx context.Context) {
	s.mu.Lock()
	s.stopping = s.stopping || len(s.tasks) == 0 && len(s.holders) == 0 && !s.isWaiting()
	stopping := s.stopping
	s.mu.Unlock()
	if stopping {
		s.end.Do(func() {
			s.remotes.close()
			s.exe.close()
			s.Unlist()
			c := connectionOf(ctx)
			go func() {
				if c != nil {
					c.awaitClose(goodbyeTime)
				}
				s.Shutdown()
			}()
		})
	}
}

func logFailure(logger *log.Entry, what string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		logger.WithError(err).Error(what)
	}
}
