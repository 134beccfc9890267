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

// task is one container of the daemon. mu is held for the whole of every call
// that changes the task, so that calls on one container come one after the
// other; nothing that may wait for the guest is done under it.
type task struct {
	id     string
	exited chan struct{} // closed once exit is set and recorded

	made  chan struct{}      // closed once the create has come to its end, whichever
	abort context.CancelFunc // ends the wait for the guest's code

	mu     sync.Mutex
	state  state                // guarded by mu
	c      *container.Container // set when created, then constant
	bundle string               // the same
	rootfs string               // where the root file system was mounted by us; empty if it was not
	pid    uint32               // the same
	io     *stdio               // the same
	status *status.Status       // what the runner says; nil for a native process
	log    *log.Entry           // constant; its lines name the container and its pod
	streams
	started time.Time      // guarded by mu
	exit    container.Exit // guarded by mu; valid once exited is closed
}

// streams is what containerd named for standard input and output.
type streams struct {
	stdin, stdout, stderr string
}

// may says whether the task can go to next, and if not why.
func (t *task) may(next state, verb string) error {
	if slices.Contains(transitions[t.state], next) {
		return nil
	}
	return fmt.Errorf("cannot %s container %s: it is %s: %w", verb, t.id, t.state, errdefs.ErrFailedPrecondition)
}

// isMade says whether the create has come to its end.
func (t *task) isMade() bool {
	select {
	case <-t.made:
		return true
	default:
		return false
	}
}

// exitTime is when the init exited, zero if it has not.
func (t *task) exitTime() time.Time {
	if t.state != stopped {
		return time.Time{}
	}
	return t.exit.At
}
