// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Event is a task event as a client sees it.
type Event struct {
	Topic string // without its "/tasks/"
	ID    string // of the container
	Body  any
}

// Events collects task events in order.
type Events struct {
	mu  sync.Mutex
	all []Event
	end func()
}

// Subscribe starts collecting. Stop it with Close.
func (d *Daemon) Subscribe(ctx context.Context) *Events {
	ctx, stop := context.WithCancel(d.In(ctx))
	done := make(chan struct{})
	e := &Events{end: func() {
		stop()
		<-done
	}}
	received, errs := d.Client.Subscribe(ctx, `namespace==`+d.Namespace+`,topic~="^/tasks/"`)
	begun := make(chan struct{})
	begin := sync.OnceFunc(func() { close(begun) })
	go func() {
		defer close(done)
		defer begin()
		for {
			select {
			case envelope := <-received:
				if envelope.Topic == probe {
					begin()
					continue
				}
				e.add(envelope.Topic, envelope.Event)
			case <-errs:
				return
			}
		}
	}()
	// containerd says nothing when it has begun to send events: the first could be missed.
	for tick := time.Tick(10 * time.Millisecond); ; {
		_ = d.Client.EventService().Publish(ctx, probe, &apievents.TaskPaused{ContainerID: "probe"})
		select {
		case <-begun:
			return e
		case <-tick:
		}
	}
}

// probe is the topic of events that are sent to see whether they come.
const probe = "/tasks/probe"

// ServeEvents is containerd's part where there is none: it takes the events that
// shims send to the place's address. Close ends it.
func (p *Place) ServeEvents() (*Events, error) {
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", p.Address+".ttrpc")
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	e := &Events{end: func() {
		server.Close()
		<-done
	}}
	eventsapi.RegisterTTRPCEventsService(server, e)
	go func() {
		defer close(done)
		_ = server.Serve(context.Background(), listener)
	}()
	return e, nil
}

// Forward takes an event from a shim.
func (e *Events) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	e.add(r.Envelope.GetTopic(), r.Envelope.GetEvent())
	return &emptypb.Empty{}, nil
}

func (e *Events) add(topic string, event typeurl.Any) {
	body, err := typeurl.UnmarshalAny(event)
	if err != nil {
		body = err
	}
	id := ""
	if v, ok := body.(interface{ GetContainerID() string }); ok {
		id = v.GetContainerID()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, Event{Topic: strings.TrimPrefix(topic, "/tasks/"), ID: id, Body: body})
}

// Of returns the events of one container so far.
func (e *Events) Of(id string) []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []Event
	for _, event := range e.all {
		if event.ID == id {
			found = append(found, event)
		}
	}
	return found
}

// Topics are the topics of a container's events, in order, once the last one
// wanted has come, or what there is after a few seconds.
func (e *Events) Topics(id string, want ...string) []string {
	var topics []string
	for deadline := time.Now().Add(Slow(5 * time.Second)); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		topics = topics[:0]
		for _, event := range e.Of(id) {
			topics = append(topics, event.Topic)
		}
		if slices.Equal(topics, want) {
			// One more look: nothing may follow.
			time.Sleep(20 * time.Millisecond)
			if len(e.Of(id)) == len(want) {
				break
			}
		}
	}
	return topics
}

// Exit is the container's exit event.
func (e *Events) Exit(id string) (*apievents.TaskExit, error) {
	for _, event := range e.Of(id) {
		if exit, ok := event.Body.(*apievents.TaskExit); ok && exit.ID == id {
			return exit, nil
		}
	}
	return nil, fmt.Errorf("no exit event of %s", id)
}

// Close stops collecting.
func (e *Events) Close() { e.end() }
