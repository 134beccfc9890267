// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"testing"

	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMethodCodes(t *testing.T) {
	busy := 0
	s := New(context.Background(), Config{Busy: func() { busy++ }})
	call := func(handle func() error) error {
		m := method(s, func(context.Context, *api.StateRequest) (*api.StateResponse, error) { return nil, handle() })
		_, err := m(context.Background(), func(any) error { return nil })
		return err
	}
	for want, err := range map[codes.Code]error{
		codes.NotFound:           errdefs.ErrNotFound,
		codes.AlreadyExists:      errdefs.ErrAlreadyExists,
		codes.FailedPrecondition: errdefs.ErrFailedPrecondition,
		codes.InvalidArgument:    errdefs.ErrInvalidArgument,
		codes.Unimplemented:      errdefs.ErrNotImplemented,
		codes.PermissionDenied:   errdefs.ErrPermissionDenied,
	} {
		got := call(func() error { return fmt.Errorf("create container x: %w", err) })
		require.Equal(t, want, status.Code(got))
		require.Contains(t, status.Convert(got).Message(), "create container x")
	}
	err := call(func() error { panic("oops") })
	require.Equal(t, codes.Internal, status.Code(err))
	require.ErrorContains(t, err, "oops")
	require.Equal(t, 7, busy)
}

func TestReserve(t *testing.T) {
	s := New(context.Background(), Config{})
	for _, id := range []string{"", ".", "..", "a/b", "/"} {
		_, err := s.reserve(id)
		require.True(t, errdefs.IsInvalidArgument(err), "%q: %v", id, err)
	}
	first, err := s.reserve("one")
	require.NoError(t, err)
	_, err = s.reserve("one")
	require.True(t, errdefs.IsAlreadyExists(err))

	// Whoever asks while the container is being created waits, and learns that
	// it came to nothing.
	done := make(chan error)
	go func() {
		_, err := s.get("one", "")
		done <- err
	}()
	first.state = gone
	s.drop("one")
	first.mu.Unlock()
	require.True(t, errdefs.IsNotFound(<-done))
	_, err = s.reserve("one")
	require.NoError(t, err)
}

func TestStopIfUnused(t *testing.T) {
	stopped := 0
	s := New(context.Background(), Config{Shutdown: func() { stopped++ }})
	s.StopIfUnused()
	s.StopIfUnused()
	require.Equal(t, 1, stopped)
	_, err := s.reserve("late")
	require.True(t, errdefs.IsUnavailable(err))

	s = New(context.Background(), Config{Shutdown: func() { stopped++ }})
	_, err = s.reserve("one")
	require.NoError(t, err)
	s.drop("one")
	s.StopIfUnused()
	require.Equal(t, 1, stopped, "a daemon that had a container is containerd's to stop")
}
