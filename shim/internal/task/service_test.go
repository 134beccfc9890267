// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"testing"
	"time"

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
		_, _, err := s.reserve(t.Context(), id)
		require.True(t, errdefs.IsInvalidArgument(err), "%q: %v", id, err)
	}
	first, ctx, err := s.reserve(t.Context(), "one")
	require.NoError(t, err)
	_, _, err = s.reserve(t.Context(), "one")
	require.True(t, errdefs.IsAlreadyExists(err))

	// For others it is not there while it is being created.
	_, err = s.get("one", "")
	require.True(t, errdefs.IsNotFound(err))
	require.ErrorContains(t, err, "is still being created")

	// A delete ends the creation, and waits for that.
	brief, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.endCreation(brief, "one"), context.DeadlineExceeded)
	require.Error(t, ctx.Err())
	done := make(chan error)
	go func() { done <- s.endCreation(t.Context(), "one") }()
	first.state = gone
	s.settle(first)
	require.NoError(t, <-done)
	require.NoError(t, s.endCreation(t.Context(), "one"), "there is none")

	// So does the end of the request.
	request, cancel := context.WithCancel(t.Context())
	second, ctx, err := s.reserve(request, "one")
	require.NoError(t, err)
	require.NoError(t, ctx.Err())
	cancel()
	<-ctx.Done()
	second.state = created
	s.settle(second)
	made, err := s.get("one", "")
	require.NoError(t, err)
	made.mu.Unlock()
}

func TestStopIfUnused(t *testing.T) {
	stopped := 0
	s := New(context.Background(), Config{Shutdown: func() { stopped++ }})
	s.StopIfUnused()
	s.StopIfUnused()
	require.Equal(t, 1, stopped)
	_, _, err := s.reserve(t.Context(), "late")
	require.True(t, errdefs.IsUnavailable(err))

	s = New(context.Background(), Config{Shutdown: func() { stopped++ }})
	_, _, err = s.reserve(t.Context(), "one")
	require.NoError(t, err)
	s.drop("one")
	s.StopIfUnused()
	require.Equal(t, 1, stopped, "a daemon that had a container is containerd's to stop")
}
