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

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
)

// exec adds a process to a container. Nothing of it is made before its start.
func (s *Service) exec(_ context.Context, r *api.ExecProcessRequest) (*emptypb.Empty, error) {
	t, _, err := s.get(r.ID, "")
	if err == nil {
		err = t.notPaused()
	}
	if err != nil {
		return nil, err
	}
	container.HurryMoves()
	if !container.ValidID(r.ExecID) {
		return nil, fmt.Errorf("exec id %q is not a name: %w", r.ExecID, errdefs.ErrInvalidArgument)
	}
	spec := &specs.Process{}
	if err := json.Unmarshal(r.Spec.GetValue(), spec); err != nil {
		return nil, fmt.Errorf("process of exec %s: parse its spec: %w: %w", r.ExecID, err, errdefs.ErrInvalidArgument)
	}
	spec.Terminal = r.Terminal
	if err := validate(spec); err != nil {
		return nil, fmt.Errorf("process of exec %s: %w", r.ExecID, err)
	}
	p := newProcess("process "+r.ExecID+" of container "+t.id, r.ExecID, names{r.Stdin, r.Stdout, r.Stderr, r.Terminal})
	p.spec, p.state = spec, created
	tell := func() { s.Publish(topicExecAdded, &events.TaskExecAdded{ContainerID: t.id, ExecID: r.ExecID}) }
	if err := t.add(p, tell); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// startExec starts what exec has added. Of one that cannot be started nothing is left
// but its name.
func (s *Service) startExec(ctx context.Context, t *task, p *process) error {
	container.HurryMoves()
	e := &execution{preparation: preparation{
		Service: s, made: t.made, id: t.id, execID: p.execID, log: t.log.WithField("exec", p.execID), names: p.names,
		limits: t.container.Limits(), looks: t.looks,
	}, p: p}
	if err := e.make(ctx); err != nil {
		e.log.WithError(err).Warn("exec")
		return fmt.Errorf("exec in container %s: %w", t.id, neverUnimplemented(err))
	}
	s.follow(t, p, e.parts(e.child))
	return nil
}

// execution is the start of one further process.
type execution struct {
	preparation
	p     *process
	child *container.Exec
}

func (e *execution) make(ctx context.Context) error {
	wanted := func(ctx context.Context) error { return ctx.Err() }
	all := append([]step{{"spec", e.readSpecs}}, e.preparationSteps()...)
	return e.take(ctx, "exec", wanted, append(all, step{"libcontainer", e.startChild}))
}

// readSpecs reads the container's spec anew: to keep it would be most of what an idle
// container costs.
func (e *execution) readSpecs(context.Context) (err error) {
	if e.spec, err = e.readSpec("", e.bundle); err != nil {
		return err
	}
	own := *e.p.spec
	if size := e.p.wantedSize(); size != nil {
		own.ConsoleSize = &specs.Box{Width: uint(size.width), Height: uint(size.height)}
	}
	e.run = &own
	return nil
}

func (e *execution) startChild(context.Context) (err error) {
	if e.child, err = e.container.Exec(e.process); err != nil {
		return err
	}
	e.streams.begin(e.child.Terminal())
	return nil
}

func validate(p *specs.Process) error {
	if err := container.ValidateProcess(p); err != nil {
		return err
	}
	return validateStrings(p)
}
