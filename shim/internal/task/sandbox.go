// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
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

// Hold keeps the daemon also while it has no container, for a sandbox, until Release. What
// kills the containers, if this daemon dies, is found beside what kills the sandbox's own
// process.
func (s *Service) Hold(sandbox, bundle string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping:
		return fmt.Errorf("shim is shutting down: %w", errdefs.ErrUnavailable)
	case s.holders[sandbox] != "":
		return fmt.Errorf("this shim has the sandbox %s already: %w", sandbox, errdefs.ErrAlreadyExists)
	case s.pods.places == 0 && len(s.holders) > 0:
		return fmt.Errorf("this shim has the sandbox %s already: %w", slices.Collect(maps.Keys(s.holders))[0], errdefs.ErrAlreadyExists)
	}
	s.holders[sandbox], s.used = bundle, true
	return nil
}

// Unhold is Hold undone: the sandbox was not made.
func (s *Service) Unhold(sandbox string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.holders, sandbox)
	s.used = len(s.tasks) > 0 || len(s.holders) > 0
}

// noteInSandbox notes a container's cgroup in the sandbox's bundle.
func (s *Service) noteInSandbox(id, bundle string) error {
	s.mu.Lock()
	holder := s.holderOf(id)
	s.mu.Unlock()
	if holder == "" {
		return nil
	}
	return container.LinkCgroup(id, StateRoot(bundle), StateRoot(holder))
}

// forgetInSandbox removes what noteInSandbox has noted. It is called with mu.
func (s *Service) forgetInSandbox(id string) {
	if holder := s.holderOf(id); holder != "" {
		_ = os.RemoveAll(filepath.Join(StateRoot(holder), id))
	}
}

// holderOf is the bundle of the sandbox that a container is in; empty if it is in none. It
// is called with mu.
func (s *Service) holderOf(id string) string {
	for sandbox, bundle := range s.holders {
		if s.pods.places == 0 || s.pods.has(sandbox, id) {
			return bundle
		}
	}
	return ""
}

// Release ends what Hold began, and the daemon, if it has nothing more: once the client of
// a call, whose context it is, has had its answer and has gone. A server of ttrpc that is
// shut down earlier may lose the answer.
func (s *Service) Release(ctx context.Context, sandbox string) {
	c := connectionOf(ctx)
	go func() {
		if c != nil {
			c.awaitClose(emptyTimeout)
		}
		s.mu.Lock()
		delete(s.holders, sandbox)
		s.mu.Unlock()
		s.leave(sandbox)
		s.stopIfEmpty(s.ctx)
	}()
}

// Forgo is for a sandbox that does not come, after all.
func (s *Service) Forgo(sandbox string) {
	s.leave(sandbox)
	s.StopIfUnused()
}

// KillAll kills a sandbox's containers. Their exits are told as ever.
func (s *Service) KillAll(sandbox string) {
	s.mu.Lock()
	var all []*task
	for _, t := range s.tasks {
		if s.pods.places == 0 || s.pods.has(sandbox, t.id) {
			all = append(all, t)
		}
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
