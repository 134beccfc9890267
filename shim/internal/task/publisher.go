// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// maxQueue bounds the events kept for a containerd that is away. It is the
	// size that containerd's own shims use.
	maxQueue       = 2048
	publishTimeout = 5 * time.Second
	retryPause     = time.Second
)

// Publisher sends events to containerd in the order in which they happened. An
// event is tried again until it is taken, so that a restart of containerd loses
// none.
type Publisher struct {
	address, namespace string

	mu     sync.Mutex
	queue  []*types.Envelope // guarded by mu
	closed bool              // guarded by mu
	wake   chan struct{}     // holds a token when there is news
	done   chan struct{}     // closed when run returned

	stop   context.CancelFunc
	client *ttrpc.Client // used by run alone
}

// NewPublisher returns a publisher to containerd's ttrpc socket.
func NewPublisher(address, namespace string) *Publisher {
	ctx, stop := context.WithCancel(context.Background())
	p := &Publisher{
		address: strings.TrimPrefix(address, "unix://"), namespace: namespace,
		wake: make(chan struct{}, 1), done: make(chan struct{}), stop: stop,
	}
	go p.run(ctx)
	return p
}

// Publish queues an event of topic. It never waits.
func (p *Publisher) Publish(topic string, event proto.Message) {
	a, err := marshalAny(event)
	if err != nil {
		log.L.WithError(err).Errorf("encode event %s", topic)
		return
	}
	env := &types.Envelope{Timestamp: timestamppb.Now(), Namespace: p.namespace, Topic: topic, Event: a}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.queue) >= maxQueue {
		log.L.Errorf("drop event %s: %d events wait for containerd", topic, len(p.queue))
		return
	}
	p.queue = append(p.queue, env)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Close waits until the queued events are delivered, but no longer than
// timeout, and ends the publisher.
func (p *Publisher) Close(timeout time.Duration) {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	select {
	case <-p.done:
	case <-time.After(timeout):
		p.stop()
		<-p.done
	}
}

func (p *Publisher) run(ctx context.Context) {
	defer close(p.done)
	defer p.disconnect()
	for {
		p.mu.Lock()
		var next *types.Envelope
		if len(p.queue) > 0 {
			next = p.queue[0]
		}
		closed := p.closed
		p.mu.Unlock()
		if next == nil {
			if closed {
				return
			}
			select {
			case <-p.wake:
			case <-ctx.Done():
				return
			}
			continue
		}
		if err := p.send(ctx, next); err != nil {
			if ctx.Err() != nil {
				log.L.WithError(err).Errorf("event %s is lost", next.Topic)
				return
			}
			log.L.WithError(err).Debugf("publish %s, trying again", next.Topic)
			p.disconnect()
			select {
			case <-time.After(retryPause):
			case <-ctx.Done():
			}
			continue
		}
		p.mu.Lock()
		p.queue = p.queue[1:]
		p.mu.Unlock()
	}
}

func (p *Publisher) send(ctx context.Context, env *types.Envelope) error {
	fresh := p.client == nil
	for {
		if p.client == nil {
			conn, err := (&net.Dialer{Timeout: publishTimeout}).DialContext(ctx, "unix", p.address)
			if err != nil {
				return fmt.Errorf("connect to containerd: %w", err)
			}
			p.client = ttrpc.NewClient(conn)
		}
		sctx, cancel := context.WithTimeout(ctx, publishTimeout)
		_, err := eventsapi.NewTTRPCEventsClient(p.client).Forward(sctx, &eventsapi.ForwardRequest{Envelope: env})
		cancel()
		if err == nil || fresh {
			return err
		}
		// The connection may have been that of a containerd that has since
		// been restarted.
		fresh = true
		p.disconnect()
	}
}

func (p *Publisher) disconnect() {
	if p.client != nil {
		p.client.Close()
		p.client = nil
	}
}

// marshalAny gives a message the type URL that containerd's typeurl expects:
// the bare full name.
func marshalAny(event proto.Message) (*anypb.Any, error) {
	b, err := proto.Marshal(event)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: string(proto.MessageName(event)), Value: b}, nil
}
