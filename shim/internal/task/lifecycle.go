// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/steps"
)

// The topics that containerd's clients subscribe to.
const (
	topicCreate = "/tasks/create"
	topicStart  = "/tasks/start"
	topicExit   = "/tasks/exit"
	topicDelete = "/tasks/delete"
)

const (
	sigkill = syscall.SIGKILL
	// maxSignal is the last real-time signal.
	maxSignal = 64
)

func (s *Service) start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	t, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	end, err := t.takeTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := t.may(running, "start"); err != nil {
		return nil, err
	}
	starting := make(chan struct{})
	t.mu.Lock()
	t.starting = starting
	t.mu.Unlock()
	err = t.container.Start()
	t.mu.Lock()
	t.starting = nil
	if err == nil {
		t.state, t.started = running, time.Now()
		s.Publish(topicStart, &events.TaskStart{ContainerID: t.id, Pid: t.pid})
	}
	t.mu.Unlock()
	close(starting)
	if err != nil {
		return nil, err
	}
	return &api.StartResponse{Pid: t.pid}, nil
}

// await follows a container to its end.
func (s *Service) await(t *task) {
	exit, err := t.container.Wait(s.ctx)
	if s.ctx.Err() != nil {
		return // the daemon is ending; containerd's delete takes over
	}
	// The status is lost then, not the exit: it is 255.
	logFailure(t.log, "wait for the container", err)
	t.logFailedGuest(exit)
	// Nobody sees an exit before the start.
	t.mu.Lock()
	starting := t.starting
	t.mu.Unlock()
	if starting != nil {
		<-starting
	}
	resp := t.record(exit)
	err = writeRecord(t.bundle, exitRecord, resp)
	t.mu.Lock()
	t.exit, t.state = exit, stopped
	t.mu.Unlock()
	close(t.exited)
	if cleanedUpOutside(t.bundle) {
		s.giveUp(t)
		return
	}
	logFailure(t.log, "keep the exit status", err)
	s.Publish(topicExit, &events.TaskExit{ContainerID: t.id, ID: t.id, Pid: t.pid, ExitStatus: resp.ExitStatus, ExitedAt: resp.ExitedAt})
}

// giveUp forgets a container that somebody else cleans up, who removes all that there
// is of it, tells of its exit, and asks this daemon for nothing any more, except
// perhaps for the delete that is under way.
func (s *Service) giveUp(t *task) {
	end, err := t.takeTurn(s.ctx)
	if err != nil {
		return
	}
	defer end()
	if t.now() == gone {
		return
	}
	t.log.Info("the container is being cleaned up from outside")
	t.streams.finish()
	s.drop(t)
	s.stopIfEmpty()
}

// logFailedGuest says in the log why a guest could not be run to its end.
func (t *task) logFailedGuest(exit container.Exit) {
	if t.status == nil {
		return
	}
	t.status.Drain()
	logger := t.log.WithField("status", exit.Status)
	if t.status.Cause != "" {
		logger.WithField("stage", t.status.At).Warnf("guest failed: %s", t.status.Cause)
	} else if isFault(exit.Signal) {
		logger.Warnf("guest failed: the engine crashed, by signal %d (%s)", int(exit.Signal), exit.Signal)
	}
}

// isFault says whether a signal is one that only a process's own mistake raises.
func isFault(sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGILL, syscall.SIGFPE, syscall.SIGABRT, syscall.SIGSYS:
		return true
	}
	return false
}

func (s *Service) delete(ctx context.Context, r *api.DeleteRequest) (*api.DeleteResponse, error) {
	t, err := s.entered(r.ID)
	if err == nil && r.ExecID != "" {
		t, err = s.get(r.ID, r.ExecID)
	}
	if err != nil {
		return nil, err
	}
	// A creation that is under way is given up.
	t.abort()
	end, err := t.takeTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if t.now() == created {
		// Never started, and never will be.
		if err := t.killCreated(ctx); err != nil {
			return nil, err
		}
	}
	if err := t.may(gone, "delete"); err != nil {
		return nil, err
	}
	resp, err := t.remove()
	if err != nil {
		return nil, err
	}
	s.drop(t)
	if !cleanedUpOutside(t.bundle) {
		s.Publish(topicDelete, &events.TaskDelete{ContainerID: t.id, Pid: t.pid, ExitStatus: resp.ExitStatus, ExitedAt: resp.ExitedAt})
	}
	return resp, nil
}

// remove removes all that there is of a container that has ended. After an error it
// can be called again.
func (t *task) remove() (*api.DeleteResponse, error) {
	took := steps.New()
	if err := t.container.Delete(); err != nil {
		return nil, err
	}
	took.Done("libcontainer")
	t.streams.finish()
	took.Done("streams")
	if t.rootfs != "" {
		if err := mount.UnmountRecursive(t.rootfs, 0); err != nil {
			return nil, fmt.Errorf("unmount root file system %s: %w", t.rootfs, err)
		}
	}
	took.Done("rootfs")
	resp := t.record(t.ended())
	if err := writeRecord(t.bundle, deletedRecord, resp); err != nil {
		logFailure(t.log, "record that the container is gone", err)
	}
	took.Done("record")
	took.Log(t.log, "delete")
	return resp, nil
}

// killCreated ends a container that waits for its start.
func (t *task) killCreated(ctx context.Context) error {
	if err := t.container.Signal(sigkill, true); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("kill container %s: %w", t.id, err)
	}
	select {
	case <-t.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of container %s: %w", t.id, ctx.Err())
	}
}

func (s *Service) kill(_ context.Context, r *api.KillRequest) (*emptypb.Empty, error) {
	t, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Signal > maxSignal {
		return nil, fmt.Errorf("signal %d does not exist; accepted: 0 to %d: %w", r.Signal, maxSignal, errdefs.ErrInvalidArgument)
	}
	t.mu.Lock()
	fresh := t.state == running && t.status != nil && time.Since(t.started) < time.Second
	t.mu.Unlock()
	if fresh {
		awaitHandlers(int(t.pid))
	}
	err = t.container.Signal(syscall.Signal(r.Signal), r.All)
	switch {
	case errdefs.IsNotFound(err) && r.All:
		return &emptypb.Empty{}, nil // all of none, as runc's shim has it
	case errdefs.IsNotFound(err):
		return nil, fmt.Errorf("container %s: process already finished: %w", t.id, errdefs.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("signal %d to container %s: %w", r.Signal, t.id, err)
	}
	return &emptypb.Empty{}, nil
}

func (s *Service) wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	t, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-t.exited:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	exit := t.ended()
	return &api.WaitResponse{ExitStatus: uint32(exit.Status), ExitedAt: timestamppb.New(exit.At)}, nil
}

func (s *Service) state(_ context.Context, r *api.StateRequest) (*api.StateResponse, error) {
	t, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == gone {
		return nil, notHere(r.ID)
	}
	return &api.StateResponse{
		ID: t.id, Bundle: t.bundle, Pid: t.pid, Status: t.state.proto(),
		Stdin: t.streams.stdin, Stdout: t.streams.stdout, Stderr: t.streams.stderr,
		ExitStatus: uint32(t.exit.Status), ExitedAt: timestamppb.New(t.exit.At),
	}, nil
}

func (s *Service) pids(_ context.Context, r *api.PidsRequest) (*api.PidsResponse, error) {
	t, err := s.get(r.ID, "")
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
	if len(pids) == 0 && t.now() == stopped {
		pids = []int{int(t.pid)}
	}
	resp := &api.PidsResponse{}
	for _, pid := range pids {
		resp.Processes = append(resp.Processes, &tasktypes.ProcessInfo{Pid: uint32(pid)})
	}
	return resp, nil
}

// stats has no answer yet. Of all errors NotFound alone is one that containerd, which
// asks every container each second, does not log.
func (s *Service) stats(_ context.Context, r *api.StatsRequest) (*api.StatsResponse, error) {
	return nil, fmt.Errorf("statistics of container %s are not supported by this shim yet: %w", r.ID, errdefs.ErrNotFound)
}

func (s *Service) closeIO(_ context.Context, r *api.CloseIORequest) (*emptypb.Empty, error) {
	t, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Stdin {
		t.streams.in.endInput()
	}
	return &emptypb.Empty{}, nil
}
