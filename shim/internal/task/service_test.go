// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
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
	_, _, err = s.get("one", "")
	require.True(t, errdefs.IsNotFound(err))
	require.ErrorContains(t, err, "is still being created")

	// A delete ends the creation, and waits for that.
	brief, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = s.delete(brief, &api.DeleteRequest{ID: "one"})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Error(t, ctx.Err())
	done := make(chan error)
	go func() {
		_, err := s.delete(t.Context(), &api.DeleteRequest{ID: "one"})
		done <- err
	}()
	s.drop(first)
	<-first.init.turn
	require.True(t, errdefs.IsNotFound(<-done))

	// So does the end of the request.
	request, cancel := context.WithCancel(t.Context())
	second, ctx, err := s.reserve(request, "one")
	require.NoError(t, err)
	require.NoError(t, ctx.Err())
	cancel()
	<-ctx.Done()
	second.init.become(created)
	_, _, err = s.get("one", "")
	require.NoError(t, err)
}

// A bug in a create costs that container, and neither the daemon nor its name.
func TestCreatePanics(t *testing.T) {
	stopped := make(chan struct{})
	s := New(context.Background(), Config{Busy: func() {}, Unlist: func() {}, Shutdown: func() { close(stopped) }})
	call := method(s, s.create)
	for range 2 {
		bundle := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte(goodConfig), 0o600))
		_, err := call(context.Background(), func(req any) error {
			r := req.(*api.CreateTaskRequest)
			r.ID, r.Bundle = "one", bundle
			r.Rootfs = []*types.Mount{nil} // a bug
			return nil
		})
		require.Equal(t, codes.Internal, status.Code(err), "%v", err)
		_, err = s.delete(t.Context(), &api.DeleteRequest{ID: "one"})
		require.True(t, errdefs.IsNotFound(err), "%v", err)
	}
	_, err := s.shutdown(t.Context(), &api.ShutdownRequest{})
	require.NoError(t, err)
	<-stopped
}

// A container that is not there any more, or never was, is not found, also in the
// moment before its name is free.
func TestGone(t *testing.T) {
	s := New(context.Background(), Config{})
	one, _, err := s.reserve(t.Context(), "one")
	require.NoError(t, err)
	one.init.become(gone)
	_, err = s.kill(t.Context(), &api.KillRequest{ID: "one", Signal: 9})
	require.True(t, errdefs.IsNotFound(err), "%v", err)
}

// The end of a daemon waits for the lock on the directory of its socket. Nothing else
// waits with it, but whoever asks for the end as well.
func TestShutdownHoldsUpNobody(t *testing.T) {
	began, proceed := make(chan struct{}), make(chan struct{})
	s := New(context.Background(), Config{Unlist: func() { close(began); <-proceed }, Shutdown: func() {}})
	ended := make(chan error, 2)
	for range cap(ended) {
		go func() {
			_, err := s.shutdown(t.Context(), &api.ShutdownRequest{})
			ended <- err
		}()
	}
	<-began
	_, err := s.state(t.Context(), &api.StateRequest{ID: "one"})
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	require.Empty(t, ended)
	close(proceed)
	for range cap(ended) {
		require.NoError(t, <-ended)
	}
}

// Whoever asks a daemon to end has an answer before it does.
func TestShutdownIsAnswered(t *testing.T) {
	for range 200 {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		require.NoError(t, err)
		srv, err := NewServer()
		require.NoError(t, err)
		stop := make(chan struct{})
		New(t.Context(), Config{Busy: func() {}, Unlist: func() {}, Shutdown: func() { close(stop) }}).Register(srv)
		served := make(chan error)
		go func() { served <- Serve(t.Context(), srv, l) }()
		go func() {
			<-stop
			_ = srv.Shutdown(t.Context())
		}()
		conn, err := net.Dial("unix", l.Addr().String())
		require.NoError(t, err)
		client := ttrpc.NewClient(conn)
		_, err = api.NewTTRPCTaskClient(client).Shutdown(t.Context(), &api.ShutdownRequest{ID: "one"})
		require.NoError(t, err)
		require.NoError(t, client.Close())
		require.Error(t, <-served)
	}
}

func TestNeverUnimplemented(t *testing.T) {
	err := neverUnimplemented(fmt.Errorf("containerd: %w", errdefs.ErrNotImplemented))
	require.True(t, errdefs.IsFailedPrecondition(err))
	require.False(t, errdefs.IsNotImplemented(err))
	require.ErrorContains(t, err, "containerd: not implemented")
	require.ErrorIs(t, neverUnimplemented(os.ErrNotExist), os.ErrNotExist)
}

func TestStopIfUnused(t *testing.T) {
	t.Parallel()
	var stopped atomic.Int32
	s := New(context.Background(), Config{Unlist: func() { stopped.Add(1) }, Shutdown: func() {}})
	s.StopIfUnused()
	s.StopIfUnused()
	require.EqualValues(t, 1, stopped.Load())
	_, _, err := s.reserve(t.Context(), "late")
	require.True(t, errdefs.IsUnavailable(err))

	s = New(context.Background(), Config{Unlist: func() { stopped.Add(1) }, Shutdown: func() {}})
	one, _, err := s.reserve(t.Context(), "one")
	require.NoError(t, err)
	s.drop(one)
	s.StopIfUnused()
	require.EqualValues(t, 1, stopped.Load(), "a daemon that had a container is containerd's to stop")
	require.Eventually(t, func() bool { return stopped.Load() == 2 }, 10*emptyTimeout, time.Millisecond, "or it ends after a while")
}
