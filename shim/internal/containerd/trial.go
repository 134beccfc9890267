// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// specURL is the name under which containerd knows an OCI spec, which is JSON.
const specURL = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// Try runs a container to its end and returns its exit code. Its output goes to the
// files that are named by absolute paths. Nothing of it stays.
func (c *Client) Try(ctx context.Context, id, runtime string, spec *specs.Spec, stdout, stderr string) (code uint32, retErr error) {
	value, err := json.Marshal(spec)
	if err != nil {
		return 0, fmt.Errorf("encode the spec: %w", err)
	}
	containers, tasks := containersapi.NewContainersClient(c.conn), tasksapi.NewTasksClient(c.conn)
	undo := func(what string, do func(context.Context) error) {
		brief, cancel := uninterrupted(c.In(ctx))
		defer cancel()
		if err := IgnoreNotFound(errgrpc.ToNative(do(brief))); err != nil {
			retErr = errors.Join(retErr, fmt.Errorf("%s: %w", what, err))
		}
	}
	_, err = containers.Create(c.In(ctx), &containersapi.CreateContainerRequest{Container: &containersapi.Container{
		ID: id, Runtime: &containersapi.Container_Runtime{Name: runtime}, Spec: &anypb.Any{TypeUrl: specURL, Value: value},
	}})
	if err != nil {
		return 0, fmt.Errorf("create container %s in containerd: %w", id, errgrpc.ToNative(err))
	}
	defer undo("remove the trial's container", func(ctx context.Context) error {
		_, err := containers.Delete(ctx, &containersapi.DeleteContainerRequest{ID: id})
		return err
	})
	_, err = tasks.Create(c.In(ctx), &tasksapi.CreateTaskRequest{ContainerID: id, Stdout: "file://" + stdout, Stderr: "file://" + stderr})
	if err != nil {
		return 0, fmt.Errorf("create the task: %w", errgrpc.ToNative(err))
	}
	defer undo("remove the trial's task", func(ctx context.Context) error {
		if retErr != nil {
			_, _ = tasks.Kill(ctx, &tasksapi.KillRequest{ContainerID: id, Signal: uint32(unix.SIGKILL)})
			_, _ = tasks.Wait(ctx, &tasksapi.WaitRequest{ContainerID: id})
		}
		_, err := tasks.Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: id})
		return err
	})
	if _, err := tasks.Start(c.In(ctx), &tasksapi.StartRequest{ContainerID: id}); err != nil {
		return 0, fmt.Errorf("start the task: %w", errgrpc.ToNative(err))
	}
	ended, err := tasks.Wait(c.In(ctx), &tasksapi.WaitRequest{ContainerID: id})
	if err != nil {
		return 0, fmt.Errorf("wait for the task: %w", errgrpc.ToNative(err))
	}
	return ended.ExitStatus, nil
}
