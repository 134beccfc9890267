// SPDX-License-Identifier: Apache-2.0

package task

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/status"
)

// state is where a process is in its life. The state of a container is its init's.
type state int

const (
	creating state = iota
	created
	running
	paused // the whole container
	stopped
	gone // deleted, or never came to be
)

var stateNames = [...]string{"creating", "created", "running", "paused", "stopped", "deleted"}

func (s state) String() string { return stateNames[s] }

func (s state) proto() tasktypes.Status {
	return [...]tasktypes.Status{
		tasktypes.Status_UNKNOWN, tasktypes.Status_CREATED, tasktypes.Status_RUNNING, tasktypes.Status_PAUSED, tasktypes.Status_STOPPED, tasktypes.Status_UNKNOWN,
	}[s]
}

// allowed says of a call in which states a process takes it.
var allowed = map[string][]state{
	"start":  {created},
	"pause":  {running},
	"resume": {paused},
	"update": {created, running, paused},
	"delete": {stopped},
}

// process is one process of a container: its init, or one that an exec has added.
//
// Calls that change a process (create, start, delete) come one after the other: each
// has the turn from its beginning to its end, however long that takes. Whoever only
// asks, or sends a signal, does not wait for them, nor for another process: mu is
// held for moments, and nothing outside this daemon is waited for under it.
type process struct {
	execID string        // empty for the init
	name   string        // what errors call it
	names                // of its streams
	turn   chan struct{} // holds a token while somebody has the turn
	exited chan struct{} // closed once the exit is set, recorded and told

	mu       sync.Mutex
	state    state          // guarded by mu
	starting chan struct{}  // closed when the start that is under way has ended; nil if none is; guarded by mu
	started  time.Time      // guarded by mu
	exit     container.Exit // guarded by mu; of a process that has stopped
	parts                   // guarded by mu; set once the process is there

	// What was asked of the streams before they were there.
	inputEnded bool           // guarded by mu
	size       *winsize       // guarded by mu; of its terminal
	spec       *specs.Process // guarded by mu; of an exec that has not started yet
}

// parts are what a living process has.
type parts struct {
	child   child
	pid     uint32
	streams *streams
	status  *status.Status // what the runner says; nil for a native process
	log     *log.Entry
}

// exitNotStarted is the exit status of a process whose start has failed.
const exitNotStarted = 255

// child is a process of libcontainer's.
type child interface {
	Pid() int
	Terminal() *os.File
	Wait(ctx context.Context) (container.Exit, error)
}

func newProcess(name, execID string, n names) *process {
	return &process{execID: execID, name: name, names: n, turn: make(chan struct{}, 1), exited: make(chan struct{})}
}

// idIn is how events and answers name the process of a container, as runc's shim has it.
func (p *process) idIn(t *task) string { return cmp.Or(p.execID, t.id) }

// takeTurn waits for the turn. What it returns ends it.
func (p *process) takeTurn(ctx context.Context) (end func(), _ error) {
	select {
	case p.turn <- struct{}{}:
		return func() { <-p.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another call on %s: %w", p.name, ctx.Err())
	}
}

// now is the process's state.
func (p *process) now() state {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// turns changes the state and calls tell, if the state is still the one that the caller
// has seen: a process may end at any time, and nothing is told of it after its exit.
func (p *process) turns(from, to state, verb string, tell func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != from {
		return p.takes(verb, p.state)
	}
	p.state = to
	tell()
	return nil
}

// become changes the state. The caller has asked may, and has the turn, or is the
// only one that tells of the exit.
func (p *process) become(next state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = next
}

// may says whether the process takes a call now, and if not why.
func (p *process) may(verb string) error { return p.takes(verb, p.now()) }

func (p *process) takes(verb string, now state) error {
	if now == gone {
		return p.notHere()
	}
	if slices.Contains(allowed[verb], now) {
		return nil
	}
	return fmt.Errorf("cannot %s %s: it is %s: %w", verb, p.name, now, errdefs.ErrFailedPrecondition)
}

func (p *process) notHere() error {
	return fmt.Errorf("%s is not in this shim: %w", p.name, errdefs.ErrNotFound)
}

// has gives the process what it lives with, and does what was asked of it before.
func (p *process) has(made parts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parts, p.spec = made, nil
	if p.state == creating {
		p.state = created
	}
	if p.inputEnded {
		made.streams.endInput()
	}
	if p.size != nil {
		_ = made.streams.resize(*p.size) // the process may have ended already
	}
}

// living are the parts of a process, of which nothing is set before it is there.
func (p *process) living() parts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parts
}

// endInput ends the process's input, now or as soon as it has one.
func (p *process) endInput() {
	p.mu.Lock()
	p.inputEnded = true
	s := p.streams
	p.mu.Unlock()
	if s != nil {
		s.endInput()
	}
}

// resize gives the process's terminal a size, now or as soon as there is one. A
// process without a terminal has no use for it.
func (p *process) resize(size winsize) error {
	p.mu.Lock()
	p.size = &size
	now, s := p.state, p.streams
	p.mu.Unlock()
	switch {
	case now == stopped:
		return fmt.Errorf("cannot resize the terminal of %s: it is stopped: %w", p.name, errdefs.ErrFailedPrecondition)
	case s == nil:
		return nil
	}
	return s.resize(size)
}

func (p *process) wantedSize() *winsize {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size
}

// underWay is closed when the start that is under way has ended; nil if none is.
func (p *process) underWay() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.starting
}

// finishStreams gives up the streams of a process that has ended, or never began.
func (p *process) finishStreams() {
	if s := p.living().streams; s != nil {
		s.finish()
	}
}

// neverRuns ends what exec has added and what was not started: whoever waits for it is
// told, and it can be deleted. A container's init has an exit of its own.
func (p *process) neverRuns(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.execID == "" || p.state != created {
		return
	}
	p.state, p.spec = stopped, nil
	p.exit = container.Exit{Status: status, At: time.Now()}
	close(p.exited)
}

// ended is how the process has ended, and when; zero if it has not.
func (p *process) ended() container.Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// logFailedGuest says in the log why a guest could not be run to its end, if it could not.
func (p parts) logFailedGuest(exit container.Exit) (failed bool) {
	if p.status == nil {
		return false
	}
	p.status.Drain()
	logger := p.log.WithField("status", exit.Status)
	if p.status.Cause != "" {
		logger.WithField("stage", p.status.At).Warnf("guest failed: %s", p.status.Cause)
	} else if isFault(exit.Signal) {
		logger.Warnf("guest failed: the engine crashed, by signal %d (%s)", int(exit.Signal), exit.Signal)
	} else {
		return false
	}
	return true
}

// isFault says whether a signal is one that only a process's own mistake raises.
func isFault(sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGILL, syscall.SIGFPE, syscall.SIGABRT, syscall.SIGSYS:
		return true
	}
	return false
}
