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

func (s *Service) start(_ context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	t, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	defer t.mu.Unlock()
	if err := t.may(running, "start"); err != nil {
		return nil, err
	}
	if err := t.c.Start(); err != nil {
		return nil, err
	}
	t.state, t.started = running, time.Now()
	// Published under the lock, which await takes before it tells of the exit:
	// nobody sees an exit before the start.
	s.Publish(topicStart, &events.TaskStart{ContainerID: t.id, Pid: t.pid})
	return &api.StartResponse{Pid: t.pid}, nil
}

// await follows a container to its end.
func (s *Service) await(t *task) {
	exit, err := t.c.Wait(s.ctx)
	if s.ctx.Err() != nil {
		return // the daemon is ending; containerd's delete takes over
	}
	// The status is lost then, not the exit: it is 255.
	logFailure(t.log, "wait for the container", err)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exit = exit
	t.state = stopped
	if t.status != nil {
		t.status.Drain()
		logger := t.log.WithField("status", exit.Status)
		if t.status.Cause != "" {
			logger.WithField("stage", t.status.At).Warnf("guest failed: %s", t.status.Cause)
		} else if isFault(exit.Signal) {
			logger.Warnf("guest failed: the engine crashed, by signal %d (%s)", int(exit.Signal), exit.Signal)
		}
	}
	if err := writeRecord(t.bundle, exitRecord, t.record()); err != nil {
		logFailure(t.log, "keep the exit status", err)
	}
	close(t.exited)
	s.Publish(topicExit, &events.TaskExit{
		ContainerID: t.id, ID: t.id, Pid: t.pid, ExitStatus: uint32(exit.Status), ExitedAt: timestamppb.New(exit.At),
	})
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
	if r.ExecID == "" {
		if err := s.endCreation(ctx, r.ID); err != nil {
			return nil, err
		}
	}
	t, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	defer t.mu.Unlock()
	if t.state == created {
		// Never started, and never will be.
		if err := s.killCreated(t); err != nil {
			return nil, err
		}
	}
	if err := t.may(gone, "delete"); err != nil {
		return nil, err
	}
	took := steps.New()
	if err := t.c.Delete(); err != nil {
		return nil, err
	}
	took.Done("libcontainer")
	t.io.close()
	if t.rootfs != "" {
		if err := mount.UnmountRecursive(t.rootfs, 0); err != nil {
			return nil, fmt.Errorf("unmount root file system %s: %w", t.rootfs, err)
		}
	}
	took.Done("rootfs")
	resp := t.record()
	if err := writeRecord(t.bundle, deletedRecord, resp); err != nil {
		logFailure(t.log, "record that the container is gone", err)
	}
	took.Done("record")
	took.Log(t.log, "delete")
	t.state = gone
	s.drop(t.id)
	s.Publish(topicDelete, &events.TaskDelete{
		ContainerID: t.id, Pid: t.pid, ExitStatus: resp.ExitStatus, ExitedAt: resp.ExitedAt,
	})
	return resp, nil
}

// killCreated ends a container that waits for its start. The task's lock is
// held on entry and on return, and let go between for await to take.
func (s *Service) killCreated(t *task) error {
	if err := t.c.Signal(sigkill, true); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("kill container %s: %w", t.id, err)
	}
	t.mu.Unlock()
	<-t.exited
	t.mu.Lock()
	return nil
}

func (s *Service) kill(_ context.Context, r *api.KillRequest) (*emptypb.Empty, error) {
	t, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	defer t.mu.Unlock()
	if r.Signal > maxSignal {
		return nil, fmt.Errorf("signal %d does not exist; accepted: 0 to %d: %w", r.Signal, maxSignal, errdefs.ErrInvalidArgument)
	}
	if t.state == running && t.status != nil && time.Since(t.started) < time.Second {
		awaitHandlers(int(t.pid))
	}
	err = t.c.Signal(syscall.Signal(r.Signal), r.All)
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
	t.mu.Unlock()
	select {
	case <-t.exited:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return &api.WaitResponse{ExitStatus: uint32(t.exit.Status), ExitedAt: timestamppb.New(t.exit.At)}, nil
}

func (s *Service) state(_ context.Context, r *api.StateRequest) (*api.StateResponse, error) {
	t, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	defer t.mu.Unlock()
	return &api.StateResponse{
		ID: t.id, Bundle: t.bundle, Pid: t.pid, Status: t.state.proto(),
		Stdin: t.stdin, Stdout: t.stdout, Stderr: t.stderr,
		ExitStatus: uint32(t.exit.Status), ExitedAt: timestamppb.New(t.exitTime()),
	}, nil
}

func (s *Service) pids(_ context.Context, r *api.PidsRequest) (*api.PidsResponse, error) {
	t, err := s.get(r.ID, "")
	if err != nil {
		return nil, err
	}
	defer t.mu.Unlock()
	pids, err := t.c.Pids()
	if err != nil {
		return nil, fmt.Errorf("processes of container %s: %w", t.id, err)
	}
	// When it starts, containerd takes a shim without processes for one that was
	// never used, and cleans it up: the exit of a container that ended while
	// containerd was away would be lost. A container that waits for its delete
	// keeps its pid in this list.
	if len(pids) == 0 && t.state == stopped {
		pids = []int{int(t.pid)}
	}
	resp := &api.PidsResponse{}
	for _, pid := range pids {
		resp.Processes = append(resp.Processes, &tasktypes.ProcessInfo{Pid: uint32(pid)})
	}
	return resp, nil
}

func (s *Service) closeIO(_ context.Context, r *api.CloseIORequest) (*emptypb.Empty, error) {
	t, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	defer t.mu.Unlock()
	if r.Stdin {
		t.io.closeStdin()
	}
	return &emptypb.Empty{}, nil
}
