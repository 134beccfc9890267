// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
)

// What package sandbox, which serves a pod without a pause container in the same daemon,
// needs of this one.

// Method adapts a handler of another service of the daemon.
func Method[Req, Resp any](s *Service, handle func(context.Context, *Req) (*Resp, error)) ttrpc.Method {
	return method(s, handle)
}

// Hold keeps the daemon also while it has no container, until Release.
func (s *Service) Hold() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return fmt.Errorf("shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	s.held, s.used = true, true
	return nil
}

// Release ends what Hold began, and the daemon, if it has no container: once the client of
// a call, whose context it is, has had its answer and has gone. A server of ttrpc that is
// shut down earlier may lose the answer.
func (s *Service) Release(ctx context.Context) {
	c := connectionOf(ctx)
	go func() {
		if c != nil {
			select {
			case <-c.closed:
			case <-time.After(emptyTimeout):
			}
		}
		s.mu.Lock()
		s.held = false
		s.mu.Unlock()
		s.stopIfEmpty()
	}()
}

// KillAll kills the daemon's containers. Their exits are told as ever.
func (s *Service) KillAll() {
	s.mu.Lock()
	all := make([]*task, 0, len(s.tasks))
	for _, t := range s.tasks {
		all = append(all, t)
	}
	s.mu.Unlock()
	for _, t := range all {
		if t, p, err := s.get(t.id, ""); err == nil {
			if err := t.signal(p, sigkill, true); !errdefs.IsNotFound(err) {
				logFailure(t.log, "kill the container with its pod", err)
			}
		}
	}
}

// Executable is a clone of this binary that nothing in a pod can write to.
func (s *Service) Executable(tmpDir string) (*os.File, error) { return s.exe.get(tmpDir) }

// StateRoot is the directory in a bundle in which Cleanup finds a cgroup.
func StateRoot(bundle string) string { return filepath.Join(bundle, rootDir) }

// Exited keeps how the first process of a bundle has ended, for the case that the daemon
// dies; with gone, there is nothing left to clean up, either.
func Exited(bundle string, pid, status int, at time.Time, gone bool) error {
	name := exitRecord
	if gone {
		name = deletedRecord
	}
	return writeRecord(bundle, name, deleted(uint32(pid), container.Exit{Status: status, At: at}))
}

// MarshalAny encodes a message as containerd's clients expect it.
func MarshalAny(m proto.Message) (*anypb.Any, error) { return marshalAny(m) }
