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

// Hold keeps the daemon also while it has no container, until Release. What kills the
// containers, if this daemon dies, is found beside what kills the sandbox's own process.
func (s *Service) Hold(bundle string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return fmt.Errorf("shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	s.holder, s.used = bundle, true
	return nil
}

// noteInSandbox notes a container's cgroup in the sandbox's bundle.
func (s *Service) noteInSandbox(id, bundle string) error {
	s.mu.Lock()
	holder := s.holder
	s.mu.Unlock()
	if holder == "" {
		return nil
	}
	return container.LinkCgroup(id, StateRoot(bundle), StateRoot(holder))
}

// forgetInSandbox removes what noteInSandbox has noted. It is called with mu.
func (s *Service) forgetInSandbox(id string) {
	if s.holder != "" {
		_ = os.RemoveAll(filepath.Join(StateRoot(s.holder), id))
	}
}

// Release ends what Hold began, and the daemon, if it has no container: once the client of
// a call, whose context it is, has had its answer and has gone. A server of ttrpc that is
// shut down earlier may lose the answer.
func (s *Service) Release(ctx context.Context) {
	c := connectionOf(ctx)
	go func() {
		if c != nil {
			c.awaitClose(emptyTimeout)
		}
		s.mu.Lock()
		s.holder = ""
		s.mu.Unlock()
		s.stopIfEmpty(s.ctx)
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
