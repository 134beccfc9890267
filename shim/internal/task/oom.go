// SPDX-License-Identifier: Apache-2.0

package task

import (
	"time"

	"github.com/containerd/containerd/api/events"
)

// watchOOM tells of processes that the kernel kills for want of memory while the
// container runs. Where that cannot be watched, the ends of the processes that are
// known tell of it.
func (s *Service) watchOOM(t *task) {
	watch, err := t.container.WatchOOM()
	if err != nil {
		t.log.WithError(err).Debug("want of memory is not watched")
		return
	}
	t.watch = watch
	go func() {
		for watch.Wait() {
			s.awaitOOM(t)
		}
	}()
}

// killDelay is how long the kernel may take from the want of memory to the kill.
const killDelay = 500 * time.Millisecond

// awaitOOM waits for the kill that was announced.
func (s *Service) awaitOOM(t *task) {
	for delay := time.Millisecond; delay < killDelay && !s.tellOOM(t); delay *= 2 {
		time.Sleep(delay)
	}
}

// tellOOM publishes that processes of the container were killed for want of memory, if
// that was not told yet. It is asked before each exit is told.
func (s *Service) tellOOM(t *task) bool {
	kills, err := t.container.OOMKills()
	if err != nil {
		t.log.WithError(err).Debug("how many processes were killed for want of memory")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if kills <= t.oomKills {
		return false
	}
	t.oomKills = kills
	s.Publish(topicOOM, &events.TaskOOM{ContainerID: t.id}) // under mu, or the exit could be told before
	return true
}
