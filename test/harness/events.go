// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
)

// Event is a task event as a client sees it.
type Event struct {
	Topic string // without its "/tasks/"
	ID    string // of the container
	Body  any
}

// Events collects the daemon's task events in order.
type Events struct {
	mu   sync.Mutex
	all  []Event
	stop context.CancelFunc
	done chan struct{}
}

// Subscribe starts collecting. Stop it with Close.
func (d *Daemon) Subscribe(ctx context.Context) *Events {
	ctx, stop := context.WithCancel(d.In(ctx))
	e := &Events{stop: stop, done: make(chan struct{})}
	received, errs := d.Client.Subscribe(ctx, `namespace==`+d.Namespace+`,topic~="^/tasks/"`)
	go func() {
		defer close(e.done)
		for {
			select {
			case envelope := <-received:
				e.add(envelope)
			case <-errs:
				return
			}
		}
	}()
	return e
}

func (e *Events) add(envelope *events.Envelope) {
	body, err := typeurl.UnmarshalAny(envelope.Event)
	if err != nil {
		body = err
	}
	id := ""
	if v, ok := body.(interface{ GetContainerID() string }); ok {
		id = v.GetContainerID()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, Event{Topic: strings.TrimPrefix(envelope.Topic, "/tasks/"), ID: id, Body: body})
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
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
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
func (e *Events) Close() {
	e.stop()
	<-e.done
}
