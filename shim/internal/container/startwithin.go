// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// patience bounds a start that hangs, on a dead network mount for example: how
// long it may take, and how long its end once it is killed.
type patience struct{ start, end time.Duration }

// Shorter than the kubelet's two minutes, so that our reason is what the user
// reads.
var usualPatience = patience{start: 100 * time.Second, end: killTimeout}

// startWithin has libcontainer start lp, with a terminal or without one. If that
// fails, it calls kill, reaps, and calls undo. When it takes too long, it calls kill; if even that does not
// end it, it returns and leaves the rest to a goroutine.
func startWithin(limit patience, lc *libcontainer.Container, lp *libcontainer.Process, terminal bool, kill, undo func() error) (*process, error) {
	type result struct {
		child *process
		err   error
	}
	results := make(chan result, 1)
	late := make(chan struct{})
	go func() {
		defer useBus(lc.Config().Cgroups.Systemd)()
		n := beginStart()
		child, err := startChild(lc, lp, terminal)
		if err == nil && closed(late) {
			child, err = nil, join(context.DeadlineExceeded, endChild(lp))
		}
		if err != nil {
			err = join(err, kill())
		}
		endStart(n, child)
		if err != nil {
			err = join(err, undo())
		}
		results <- result{child, err}
	}()
	timer := time.NewTimer(limit.start)
	defer timer.Stop()
	select {
	case r := <-results:
		return r.child, r.err
	case <-timer.C:
	}
	close(late)
	err := fmt.Errorf("it was not up after %s and is being killed: %w", limit.start, context.DeadlineExceeded)
	err = join(err, kill())
	timer.Reset(limit.end)
	select {
	case r := <-results:
		if r.err == nil { // up in the last moment
			return r.child, nil
		}
		return nil, join(err, r.err)
	case <-timer.C:
		return nil, join(err, errors.New("it still hangs"))
	}
}

func startChild(lc *libcontainer.Container, lp *libcontainer.Process, terminal bool) (*process, error) {
	var socket *os.File
	if terminal {
		var err error
		if socket, lp.ConsoleSocket, err = consoleSocket(); err != nil {
			return nil, err
		}
		defer socket.Close()
		defer lp.ConsoleSocket.Close()
	}
	if err := inBundle(lc, func() error { return lc.Start(lp) }); err != nil {
		// libcontainer has killed and waited, as far as it knows the process; where it
		// has, this does nothing.
		_ = endChild(lp)
		return nil, err
	}
	child, err := newChild(lp)
	if err == nil && terminal {
		err = child.receiveTerminal(socket)
	}
	if err != nil {
		return nil, join(err, endChild(lp))
	}
	return child, nil
}

// endChild kills and reaps a child that nobody else waits for.
func endChild(lp *libcontainer.Process) error {
	if err := lp.Signal(unix.SIGKILL); err != nil {
		return err
	}
	_, _ = lp.Wait() // the error says that it was killed
	return nil
}

// join is errors.Join on one line: the text ends in containerd's answers.
func join(errs ...error) (joined error) {
	for _, err := range errs {
		switch {
		case joined == nil:
			joined = err
		case err != nil:
			joined = fmt.Errorf("%w; %w", joined, err)
		}
	}
	return joined
}
