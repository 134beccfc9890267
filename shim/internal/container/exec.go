// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
)

// Exec is a further process in a container.
type Exec struct {
	*process
	c *Container
}

// Pid returns the process id as the host sees it.
func (e *Exec) Pid() int { return e.pid }

// Terminal returns the daemon's end of the process's terminal, as Container.Terminal
// does.
func (e *Exec) Terminal() *os.File { return e.takeTerminal() }

// Wait waits for the process's exit, which is reported after what WatchOOM has told of.
func (e *Exec) Wait(ctx context.Context) (Exit, error) { return e.wait(ctx) }

// Signal sends sig to the process; errdefs.ErrNotFound once it has finished.
func (e *Exec) Signal(sig syscall.Signal) error { return e.c.signalOne(e.process, sig) }

// Exec runs a further process in the container.
func (c *Container) Exec(p Process) (*Exec, error) {
	lp, err := newProcess(p, false)
	if err != nil {
		return nil, err
	}
	if c.init.dead() {
		return nil, c.notRunning()
	}
	labelled, err := c.labelExec(lp)
	if err != nil {
		return nil, err
	}
	defer labelled()
	refused := c.cgroup.refusedForks()
	child, err := c.startExec(lp, p.Spec.Terminal)
	switch {
	case err == nil:
	case c.init.dying():
		return nil, fmt.Errorf("%w (%w)", c.notRunning(), err)
	case c.cgroup.refusedForks() > refused:
		// libcontainer does not say why its stages have ended.
		return nil, fmt.Errorf("its cgroup allows no more processes (pids.max): %w (%w)", errdefs.ErrResourceExhausted, err)
	default:
		return nil, err
	}
	e := &Exec{child, c}
	c.mu.Lock()
	c.execs[e] = struct{}{}
	c.mu.Unlock()
	go e.reap(func() {
		c.checkOOM()
		c.mu.Lock()
		delete(c.execs, e)
		c.mu.Unlock()
	})
	// The init may have ended in between, and if it shares the host's pid
	// namespace nobody has killed what was not yet in the cgroup.
	if c.init.dead() {
		_ = e.Signal(syscall.SIGKILL)
		if terminal := e.Terminal(); terminal != nil {
			terminal.Close()
		}
		<-e.done
		return nil, c.notRunning()
	}
	return e, nil
}

// runningExecs are the processes that Exec started and that are not yet reaped.
func (c *Container) runningExecs() []*Exec {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.execs))
}

func (c *Container) startExec(lp *libcontainer.Process, terminal bool) (*process, error) {
	lc, err := load(c.root, c.id)
	if err != nil {
		return nil, err
	}
	status, err := lc.Status()
	if err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	if status == libcontainer.Paused {
		return nil, fmt.Errorf("it is paused: %w", errdefs.ErrFailedPrecondition)
	}
	nothing := func() error { return nil } // the cgroup is the container's, which goes on
	return startWithin(usualPatience, lc, lp, terminal, nothing, nothing)
}

func (c *Container) notRunning() error {
	return fmt.Errorf("container %s is not running: %w", c.id, errdefs.ErrFailedPrecondition)
}
