// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"
)

// change makes a change to a whole container, with its turn, if it takes that call now.
func (s *Service) change(ctx context.Context, id, verb string, do func(*task) error) (*emptypb.Empty, error) {
	t, init, end, err := s.takeTurn(ctx, id, "")
	if err != nil {
		return nil, err
	}
	defer end()
	if err := init.may(verb); err != nil {
		return nil, err
	}
	if err := do(t); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func (s *Service) pause(ctx context.Context, r *api.PauseRequest) (*emptypb.Empty, error) {
	return s.change(ctx, r.ID, "pause", func(t *task) error {
		if err := t.container.Pause(); err != nil {
			return err
		}
		return t.init.turns(running, paused, "pause", func() { s.Publish(topicPaused, &events.TaskPaused{ContainerID: t.id}) })
	})
}

func (s *Service) resume(ctx context.Context, r *api.ResumeRequest) (*emptypb.Empty, error) {
	return s.change(ctx, r.ID, "resume", func(t *task) error {
		if err := t.container.Resume(); err != nil {
			return err
		}
		return t.init.turns(paused, running, "resume", func() { s.Publish(topicResumed, &events.TaskResumed{ContainerID: t.id}) })
	})
}

// notPaused refuses what would wait for a paused container.
func (t *task) notPaused() error {
	if t.init.now() == paused {
		return fmt.Errorf("container %s is paused: %w", t.id, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (s *Service) update(ctx context.Context, r *api.UpdateTaskRequest) (*emptypb.Empty, error) {
	resources := &specs.LinuxResources{}
	if err := json.Unmarshal(r.Resources.GetValue(), resources); err != nil {
		return nil, fmt.Errorf("resources of container %s: parse them: %w: %w", r.ID, err, errdefs.ErrInvalidArgument)
	}
	return s.change(ctx, r.ID, "update", func(t *task) error {
		return t.container.Update(resources)
	})
}

// stats says what the container's cgroup counts, until it is deleted: clients look there
// for why it has ended.
func (s *Service) stats(_ context.Context, r *api.StatsRequest) (*api.StatsResponse, error) {
	t, _, err := s.get(r.ID, "")
	if err != nil {
		return nil, err
	}
	metrics, err := t.container.Stats()
	if err != nil {
		return nil, err
	}
	stats, err := marshalAny(metrics)
	if err != nil {
		return nil, err
	}
	return &api.StatsResponse{Stats: stats}, nil
}

// checkpoint is refused for good.
func (s *Service) checkpoint(_ context.Context, r *api.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("container %s cannot be checkpointed: no engine's state can be saved and restored: %w", r.ID, errdefs.ErrNotImplemented)
}
