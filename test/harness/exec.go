// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

// ExecConfig says what to run in a container beside its init.
type ExecConfig struct {
	ID       string // "" means a fresh one
	Args     []string
	Change   func(*specs.Process) // of what is the container's own; nil means nothing
	Stdin    io.Reader            // nil means no stdin
	Stdout   io.Writer            // nil means the process's buffer
	Terminal bool
	NoIO     bool
}

// Exec is a further process of a container.
type Exec struct {
	client.Process
	Stdout, Stderr *Buffer
	d              *Daemon
	container      *Container
	exit           <-chan client.ExitStatus
}

// AddExec adds a process to a container, which is not started yet.
func (d *Daemon) AddExec(ctx context.Context, c *Container, e ExecConfig) (*Exec, error) {
	ctx = d.In(ctx)
	if e.ID == "" {
		e.ID = FreshID("e")
	}
	spec, err := c.Spec(ctx)
	if err != nil {
		return nil, err
	}
	p := *spec.Process
	p.Args, p.Terminal = e.Args, e.Terminal
	if e.Change != nil {
		e.Change(&p)
	}
	added := &Exec{Stdout: &Buffer{}, Stderr: &Buffer{}, d: d, container: c}
	if e.Stdout == nil {
		e.Stdout = added.Stdout
	}
	creator, follow := d.streams(e.Stdin, e.Stdout, added.Stderr, e.Terminal, e.NoIO)
	if added.Process, err = c.Task.Exec(ctx, e.ID, &p, creator); err != nil {
		return nil, err
	}
	follow(ctx, added.Process)
	added.exit, err = added.Wait(ctx)
	return added, err
}

// Exited waits until the process has exited.
func (e *Exec) Exited(ctx context.Context) error {
	select {
	case status := <-e.exit:
		return status.Error()
	case <-ctx.Done():
		return fmt.Errorf("wait for exec %s: %w", e.ID(), ctx.Err())
	}
}

// Finish waits until the process has exited and removes it.
func (e *Exec) Finish(ctx context.Context) (Result, error) {
	if err := e.Exited(ctx); err != nil {
		return Result{}, err
	}
	awaitOutput(e.container, e.IO())
	status, err := e.Delete(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("delete exec %s: %w", e.ID(), err)
	}
	if e.IO() != nil {
		e.IO().Wait()
	}
	return Result{Code: status.ExitCode(), At: status.ExitTime(), Stdout: e.Stdout.String(), Stderr: e.Stderr.String()}, nil
}

// AddExec adds a process to a container, which is not started yet. The end of the test
// removes it.
func (t *T) AddExec(c *Container, e ExecConfig) *Exec {
	t.Helper()
	added, err := t.Daemon.AddExec(t.Ctx, c, e)
	require.NoError(t, err)
	t.Cleanup(added.remove)
	return added
}

// Discard gives up what the client has of the process.
func (e *Exec) Discard() { discard(e) }

func discard(p client.Process) {
	if output := p.IO(); output != nil {
		output.Cancel()
		output.Close()
	}
}

// remove ends a process in whatever state it is, and removes what the client has of it.
func (e *Exec) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), Slow(20*time.Second))
	defer cancel()
	_, _ = e.Delete(e.d.In(ctx), client.WithProcessKill) // or it was deleted
	e.Discard()
}

// Exec starts a further process in a container.
func (t *T) Exec(c *Container, e ExecConfig) *Exec {
	t.Helper()
	added := t.AddExec(c, e)
	require.NoError(t, added.Start(t.Ctx))
	return added
}

// ExecOnce runs a further process to its end.
func (t *T) ExecOnce(c *Container, e ExecConfig) Result {
	t.Helper()
	result, err := t.Exec(c, e).Finish(t.Ctx)
	require.NoError(t, err)
	return result
}
