// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/status"
)

// state is where a task is in its life.
type state int

const (
	creating state = iota
	created
	running
	stopped
	gone // deleted, or never came to be
)

var stateNames = [...]string{"creating", "created", "running", "stopped", "deleted"}

func (s state) String() string { return stateNames[s] }

func (s state) proto() tasktypes.Status {
	return [...]tasktypes.Status{
		tasktypes.Status_UNKNOWN, tasktypes.Status_CREATED, tasktypes.Status_RUNNING, tasktypes.Status_STOPPED, tasktypes.Status_UNKNOWN,
	}[s]
}

// transitions lists which states may follow which.
var transitions = map[state][]state{
	creating: {created, gone},
	created:  {running, stopped},
	running:  {stopped},
	stopped:  {gone},
}

// task is one container of the daemon.
//
// Calls that change a task (create, start, delete) come one after the other: each
// has the turn from its beginning to its end, however long that takes. Whoever only
// asks, or sends a signal, does not wait for them: mu is held for moments, and
// nothing outside this process is waited for under it.
type task struct {
	id   string
	turn chan struct{} // holds a token while somebody has the turn

	exited chan struct{}      // closed once exit is set and recorded
	abort  context.CancelFunc // ends the wait for the guest's code

	*made // set when the create has succeeded, then constant

	mu       sync.Mutex
	log      *log.Entry     // its lines name the container and its pod; guarded by mu until made
	state    state          // guarded by mu
	starting chan struct{}  // closed when the start that is under way has ended; nil if none is; guarded by mu
	started  time.Time      // guarded by mu
	exit     container.Exit // guarded by mu; valid once exited is closed
}

// made is what a create makes.
type made struct {
	container *container.Container
	bundle    string
	rootfs    string // where the root file system was mounted by us; empty if it was not
	pid       uint32
	streams   *streams
	status    *status.Status // what the runner says; nil for a native process
}

func newTask(id string, logger *log.Entry, abort context.CancelFunc) *task {
	return &task{id: id, turn: make(chan struct{}, 1), exited: make(chan struct{}), abort: abort, log: logger.WithField("instance", id)}
}

// takeTurn waits for the turn. What it returns ends it.
func (t *task) takeTurn(ctx context.Context) (end func(), _ error) {
	select {
	case t.turn <- struct{}{}:
		return func() { <-t.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another call on container %s: %w", t.id, ctx.Err())
	}
}

// now is the task's state.
func (t *task) now() state {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state
}

// become changes the state. The caller has asked may, and has the turn, or is the
// only one that tells of the exit.
func (t *task) become(next state) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = next
}

// may says whether the task can go to next, and if not why.
func (t *task) may(next state, verb string) error {
	now := t.now()
	if now == gone {
		return notHere(t.id)
	}
	if slices.Contains(transitions[now], next) {
		return nil
	}
	return fmt.Errorf("cannot %s container %s: it is %s: %w", verb, t.id, now, errdefs.ErrFailedPrecondition)
}

func notHere(id string) error {
	return fmt.Errorf("container %s is not in this shim: %w", id, errdefs.ErrNotFound)
}

// ended is how the init has ended, and when; zero if it has not.
func (t *task) ended() container.Exit {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.exit
}
