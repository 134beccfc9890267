// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
)

// task is one container of the daemon, with its processes: the init, whose turn and
// whose state are the container's, and what execs add.
type task struct {
	id    string
	init  *process
	abort context.CancelFunc // ends the wait for the guest's code
	looks chan struct{}      // holds a token for each thread that is in the container's file systems

	*made // set when the create has succeeded, then constant

	mu    sync.Mutex
	log   *log.Entry          // its lines name the container and its pod; guarded by mu until made
	execs map[string]*process // by exec id; guarded by mu
	over  bool                // the init has ended: nothing starts any more; guarded by mu
}

// made is what a create makes, and what later processes of the container are made of.
type made struct {
	container *container.Container
	bundle    string
	mounts    []mount.Mount // that make the root file system, by us; none: it was there
	root      string        // the root file system from outside
	opts      options.Options
	engine    map[string]string // the values of the engine's options
}

// maxLooks bounds how many threads a container's file systems can hold that do not
// answer.
const maxLooks = 16

func newTask(id string, logger *log.Entry, abort context.CancelFunc) *task {
	return &task{
		id: id, init: newProcess("container "+id, "", names{}), abort: abort, looks: make(chan struct{}, maxLooks),
		log: logger.WithField("instance", id), execs: map[string]*process{},
	}
}

// process returns the init, or what an exec has added.
func (t *task) process(execID string) (*process, error) {
	if execID == "" {
		return t.init, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.execs[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("container %s has no process %s: %w", t.id, execID, errdefs.ErrNotFound)
}

// add enters a further process and tells of it, before the container's exit is told.
func (t *task) add(p *process, tell func()) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return t.notRunning()
	}
	if t.execs[p.execID] != nil {
		return fmt.Errorf("container %s has a process %s already: %w", t.id, p.execID, errdefs.ErrAlreadyExists)
	}
	t.execs[p.execID] = p
	tell()
	return nil
}

func (t *task) remove(p *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.execs, p.execID)
}

// furtherProcesses are what execs have added.
func (t *task) furtherProcesses() []*process {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*process, 0, len(t.execs))
	for _, p := range t.execs {
		all = append(all, p)
	}
	return all
}

// beginStart begins the start of a process, and says how it ends: nobody sees the
// process's exit before that, nor the container's.
func (t *task) beginStart(p *process) (end func(), _ error) {
	starting := make(chan struct{})
	set := func(now chan struct{}) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.starting = now
	}
	end = func() { set(nil); close(starting) }
	// In this order either this call sees that the container is over, or endExecs sees
	// this call.
	set(starting)
	t.mu.Lock()
	over := t.over
	t.mu.Unlock()
	if over {
		end()
		return nil, t.notRunning()
	}
	return end, nil
}

func (t *task) notRunning() error {
	return fmt.Errorf("container %s has ended, nothing more is started in it: %w", t.id, errdefs.ErrFailedPrecondition)
}

// execsTimeout is how long the news of a container's end waits for that of its other
// processes, which have been killed by then.
const execsTimeout = 2 * time.Second

// endExecs lets no process start any more, and waits until the exit of every one that
// has started was told. One that does not end keeps nothing back for ever.
func (t *task) endExecs() {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	timer := time.NewTimer(execsTimeout)
	defer timer.Stop()
	wait := func(done <-chan struct{}) bool {
		select {
		case <-done:
			return true
		case <-timer.C:
			return false
		}
	}
	for _, p := range t.furtherProcesses() {
		starting := p.underWay()
		if starting != nil && !wait(starting) || p.now() == running && !wait(p.exited) {
			t.log.Warnf("%s does not end; the end of its container is told without it", p.name)
			return
		}
		p.neverRuns(exitNotStarted) // if it has not started, it never will
	}
}
