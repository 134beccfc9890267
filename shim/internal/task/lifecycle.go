// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v2"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/metrics"
	"github.com/libwasmshim/libwasmshim/shim/internal/steps"
)

// The topics that containerd's clients subscribe to.
const (
	topicCreate      = "/tasks/create"
	topicStart       = "/tasks/start"
	topicExit        = "/tasks/exit"
	topicDelete      = "/tasks/delete"
	topicExecAdded   = "/tasks/exec-added"
	topicExecStarted = "/tasks/exec-started"
	topicPaused      = "/tasks/paused"
	topicResumed     = "/tasks/resumed"
	topicOOM         = "/tasks/oom"
)

const (
	sigkill = syscall.SIGKILL
	// maxSignal is the last real-time signal.
	maxSignal = 64
)

func (s *Service) start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	t, p, end, err := s.takeTurn(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := p.may("start"); err != nil {
		return nil, err
	}
	if err := t.notPaused(); err != nil {
		return nil, err
	}
	ended, err := t.beginStart(p)
	if err != nil {
		return nil, err
	}
	defer ended()
	if p.execID == "" {
		err = t.container.Start()
	} else {
		err = s.startExec(ctx, t, p)
	}
	if err != nil {
		p.neverRuns(exitNotStarted)
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.started = running, time.Now()
	if p.execID == "" {
		s.Publish(topicStart, &events.TaskStart{ContainerID: t.id, Pid: p.pid})
	} else {
		s.Publish(topicExecStarted, &events.TaskExecStarted{ContainerID: t.id, ExecID: p.execID, Pid: p.pid})
	}
	return &api.StartResponse{Pid: p.pid}, nil
}

// follow gives a process what it lives with, and follows it to its end.
func (s *Service) follow(t *task, p *process, has parts) {
	p.has(has)
	if has.status != nil {
		go has.status.Follow()
	}
	go s.await(t, p, has)
}

func (s *Service) await(t *task, p *process, has parts) {
	exit, err := has.child.Wait(s.ctx)
	if s.ctx.Err() != nil {
		return // the daemon is ending; containerd's delete takes over
	}
	// The status is lost then, not the exit: it is 255.
	logFailure(has.log, "wait for the process", err)
	if has.logFailedGuest(exit) {
		s.counters().Count(metrics.Failed(exit.Status))
	}
	// Nobody sees an exit before the start.
	if starting := p.underWay(); starting != nil {
		<-starting
	}
	if p == t.init {
		t.endExecs()
	}
	resp := deleted(has.pid, exit)
	outside := false
	if p == t.init {
		err = writeRecord(t.bundle, exitRecord, resp)
		if outside = cleanedUpOutside(t.bundle); !outside {
			logFailure(has.log, "keep the exit status", err)
		}
	}
	// Whoever sees that a process has stopped knows that its exit was told: a delete
	// tells nothing before it, nor does the end of the container.
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exit, p.state = exit, stopped
	close(p.exited)
	if outside {
		go s.giveUp(t)
		return
	}
	s.Publish(topicExit, &events.TaskExit{ContainerID: t.id, ID: p.idIn(t), Pid: resp.Pid, ExitStatus: resp.ExitStatus, ExitedAt: resp.ExitedAt})
}

// giveUp forgets a container that somebody else cleans up, who removes all that there
// is of it, tells of its exit, and asks this daemon for nothing any more, except
// perhaps for the delete that is under way.
func (s *Service) giveUp(t *task) {
	end, err := t.init.takeTurn(s.ctx)
	if err != nil {
		return
	}
	defer end()
	if t.init.now() == gone {
		return
	}
	t.log.Info("the container is being cleaned up from outside")
	t.finishStreams()
	s.drop(t)
	s.stopIfEmpty(s.ctx)
}

func (s *Service) delete(ctx context.Context, r *api.DeleteRequest) (*api.DeleteResponse, error) {
	if r.ExecID != "" {
		return s.deleteExec(ctx, r)
	}
	t, err := s.entered(r.ID)
	if err != nil {
		return nil, err
	}
	// A creation that is under way is given up.
	t.abort()
	end, err := t.init.takeTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if t.init.now() == created {
		// Never started, and never will be.
		if err := t.killCreated(ctx); err != nil {
			return nil, err
		}
	}
	if err := t.init.may("delete"); err != nil {
		return nil, err
	}
	resp, err := t.removeAll()
	if err != nil {
		return nil, err
	}
	s.drop(t)
	if !cleanedUpOutside(t.bundle) {
		s.Publish(topicDelete, &events.TaskDelete{ContainerID: t.id, Pid: resp.Pid, ExitStatus: resp.ExitStatus, ExitedAt: resp.ExitedAt})
	}
	return resp, nil
}

// deleteExec forgets what exec has added: a process that has ended, or that was never
// started.
func (s *Service) deleteExec(ctx context.Context, r *api.DeleteRequest) (*api.DeleteResponse, error) {
	t, p, end, err := s.takeTurn(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	defer end()
	p.neverRuns(0) // if it was not started; the status is that of runc's shim
	if err := p.may("delete"); err != nil {
		return nil, err
	}
	p.finishStreams()
	p.become(gone)
	t.remove(p)
	return deleted(p.living().pid, p.ended()), nil
}

// removeAll removes all that there is of a container that has ended. After an error it
// can be called again.
func (t *task) removeAll() (*api.DeleteResponse, error) {
	took := steps.New()
	if err := t.container.Delete(); err != nil {
		return nil, err
	}
	took.Done("libcontainer")
	t.finishStreams()
	took.Done("streams")
	if len(t.mounts) > 0 {
		if err := unmountRoot(t.root); err != nil {
			return nil, fmt.Errorf("unmount root file system %s: %w", t.root, err)
		}
	}
	took.Done("rootfs")
	resp := deleted(t.init.living().pid, t.init.ended())
	if err := writeRecord(t.bundle, deletedRecord, resp); err != nil {
		logFailure(t.log, "record that the container is gone", err)
	}
	took.Done("record")
	took.Log(t.log, "delete")
	return resp, nil
}

// finishStreams gives up the streams of all processes of a container that has ended.
func (t *task) finishStreams() {
	for _, p := range append(t.furtherProcesses(), t.init) {
		p.finishStreams()
	}
}

// killCreated ends a container that waits for its start.
func (t *task) killCreated(ctx context.Context) error {
	if err := t.container.Signal(sigkill, true); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("kill container %s: %w", t.id, err)
	}
	select {
	case <-t.init.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of container %s: %w", t.id, ctx.Err())
	}
}

func (s *Service) kill(_ context.Context, r *api.KillRequest) (*emptypb.Empty, error) {
	t, p, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Signal > maxSignal {
		return nil, fmt.Errorf("signal %d does not exist; accepted: 0 to %d: %w", r.Signal, maxSignal, errdefs.ErrInvalidArgument)
	}
	err = t.signal(p, syscall.Signal(r.Signal), r.All)
	switch {
	case errdefs.IsNotFound(err) && r.All && p == t.init:
		return &emptypb.Empty{}, nil // all of none, as runc's shim has it
	case errdefs.IsNotFound(err):
		return nil, fmt.Errorf("%s: process already finished: %w", p.name, errdefs.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("signal %d to %s: %w", r.Signal, p.name, err)
	}
	return &emptypb.Empty{}, nil
}

// signal sends a signal to a process, or with all, to every one of the init's.
func (t *task) signal(p *process, sig syscall.Signal, all bool) error {
	p.mu.Lock()
	has := p.parts
	fresh := p.state == running && p.status != nil && time.Since(p.started) < time.Second
	p.mu.Unlock()
	switch exec := has.child.(type) {
	case *container.Exec:
		return exec.Signal(sig)
	case nil:
		return fmt.Errorf("it was not started: %w", errdefs.ErrFailedPrecondition)
	}
	if fresh {
		awaitHandlers(int(has.pid))
	}
	return t.container.Signal(sig, all)
}

func (s *Service) wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	_, p, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	exit := p.ended()
	return &api.WaitResponse{ExitStatus: uint32(exit.Status), ExitedAt: timestamppb.New(exit.At)}, nil
}

// creationPatience is how long State waits for a container that is being created. containerd
// gives it two seconds.
const creationPatience = time.Second

// state waits a while for a container that is being created: a client whose input is short
// may ask before its create was answered, to close it. (With runc's shim it waits to the end.)
func (s *Service) state(ctx context.Context, r *api.StateRequest) (*api.StateResponse, error) {
	if t, err := s.entered(r.ID); err == nil && t.init.now() == creating {
		ctx, cancel := context.WithTimeout(ctx, creationPatience)
		defer cancel()
		if end, err := t.init.takeTurn(ctx); err == nil {
			end()
		}
	}
	t, p, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if streams := p.living().streams; streams != nil && p.now() == stopped {
		streams.settle()
	}
	container := t.init.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == gone {
		return nil, p.notHere()
	}
	now := p.state
	if container == paused && now == running {
		now = paused
	}
	return &api.StateResponse{
		ID: p.idIn(t), ExecID: p.execID, Bundle: t.bundle, Pid: p.pid, Status: now.proto(),
		Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr, Terminal: p.terminal,
		ExitStatus: uint32(p.exit.Status), ExitedAt: timestamppb.New(p.exit.At),
	}, nil
}

func (s *Service) pids(_ context.Context, r *api.PidsRequest) (*api.PidsResponse, error) {
	t, init, err := s.get(r.ID, "")
	if err != nil {
		return nil, err
	}
	pids, err := t.container.Pids()
	if err != nil {
		return nil, fmt.Errorf("processes of container %s: %w", t.id, err)
	}
	// When it starts, containerd takes a shim without processes for one that was
	// never used, and cleans it up: the exit of a container that ended while
	// containerd was away would be lost. A container that waits for its delete
	// keeps its pid in this list.
	if len(pids) == 0 && init.now() == stopped {
		pids = []int{int(init.living().pid)}
	}
	execs := map[uint32]string{}
	for _, p := range t.furtherProcesses() {
		if p.now() == running {
			execs[p.living().pid] = p.execID
		}
	}
	resp := &api.PidsResponse{}
	for _, pid := range pids {
		info := &tasktypes.ProcessInfo{Pid: uint32(pid)}
		if id, ok := execs[info.Pid]; ok {
			if info.Info, err = marshalAny(&runcoptions.ProcessDetails{ExecID: id}); err != nil {
				return nil, err
			}
		}
		resp.Processes = append(resp.Processes, info)
	}
	return resp, nil
}

func (s *Service) closeIO(_ context.Context, r *api.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Stdin {
		p.endInput()
	}
	return &emptypb.Empty{}, nil
}

func (s *Service) resizePty(_ context.Context, r *api.ResizePtyRequest) (*emptypb.Empty, error) {
	_, p, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Width > math.MaxUint16 || r.Height > math.MaxUint16 {
		return nil, fmt.Errorf("a terminal of %d by %d characters; accepted: 0 to %d each: %w", r.Width, r.Height, math.MaxUint16, errdefs.ErrInvalidArgument)
	}
	if err := p.resize(winsize{uint16(r.Width), uint16(r.Height)}); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
