// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// daemon is as much of containerd as takes events.
type daemon struct {
	mu   sync.Mutex
	got  []uint32
	fail int // how many calls to refuse
}

func (d *daemon) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail > 0 {
		d.fail--
		return nil, errors.New("not now")
	}
	var e events.TaskStart
	if err := proto.Unmarshal(r.Envelope.Event.Value, &e); err != nil {
		return nil, err
	}
	d.got = append(d.got, e.Pid)
	return &emptypb.Empty{}, nil
}

func (d *daemon) serve(t *testing.T, path string) (stop func()) {
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	srv, err := ttrpc.NewServer()
	require.NoError(t, err)
	eventsapi.RegisterTTRPCEventsService(srv, d)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(context.Background(), l)
	}()
	return func() {
		require.NoError(t, srv.Close())
		<-done
	}
}

func (d *daemon) pids() []uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]uint32(nil), d.got...)
}

func TestPublisherKeepsOrderAndLosesNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	path := filepath.Join(t.TempDir(), "s")
	p := NewPublisher("unix://"+path, "ns")
	publish := func(from, to uint32) (want []uint32) {
		for i := from; i < to; i++ {
			p.Publish(topicStart, &events.TaskStart{ContainerID: "c", Pid: i})
		}
		for i := range to {
			want = append(want, i)
		}
		return want
	}
	publish(0, 10) // containerd is not there yet

	d := &daemon{fail: 1}
	stop := d.serve(t, path)
	want := publish(10, 20)
	require.Eventually(t, func() bool { return len(d.pids()) == 20 }, 30*time.Second, 10*time.Millisecond)
	require.Equal(t, want, d.pids())

	stop() // containerd is restarted
	publish(20, 25)
	stop = d.serve(t, path)
	want = publish(25, 30)
	p.Close(30 * time.Second)
	// One that was taken when containerd ended, and not answered, comes once more.
	require.Equal(t, want, slices.Compact(d.pids()))
	stop()
}

func TestPublisherGivesUpAtItsEnd(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := NewPublisher(filepath.Join(t.TempDir(), "nobody"), "ns")
	p.Publish(topicStart, &events.TaskStart{})
	p.Close(10 * time.Millisecond)
}
