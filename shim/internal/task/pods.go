// SPDX-License-Identifier: Apache-2.0

package task

import "time"

// What a daemon that serves many pods has besides.

// groupAnnotations name the pod, or another group, that a container is of: the first
// that is set wins. The order is runc's shim's.
var groupAnnotations = []string{"io.containerd.runc.v2.group", podAnnotation}

// GroupOf is the name of the group of a container with these annotations. One without is a
// group of its own.
func GroupOf(id string, annotations map[string]string) string {
	for _, a := range groupAnnotations {
		if group := annotations[a]; group != "" {
			return group
		}
	}
	return id
}

// pods are those of a daemon of many pods, by the name of the container that has begun
// each. They are guarded by the service's mu.
type pods struct {
	places  int // for how many pods there is room; 0 for the daemon of one
	all     map[string]*pod
	emptied time.Time // when the last pod went
}

// pod is a group of containers that come and go, until it has none.
type pod struct {
	members map[string]bool // by container id
	over    func()
}

// has says whether a container is in a pod.
func (p pods) has(name, id string) bool {
	pod := p.all[name]
	return pod != nil && pod.members[id]
}

// admitTimeout is how long a container that was admitted may take to be created.
// containerd asks at once, or has died.
const admitTimeout = 2 * time.Minute

// idleTime is how long a daemon of many pods stays that has none: the next may come soon,
// and has nothing to wait for then.
const idleTime = 10 * time.Second

// ServeMany makes the daemon one for many pods. It is called first.
func (s *Service) ServeMany(places int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods = pods{places: places, all: map[string]*pod{}}
}

// Admit gives a place to a container that is to come, and with it to its pod, and says
// whether there was one: then begin is called, and over once the last container of the pod
// is gone, or has not come.
func (s *Service) Admit(id string, begin, over func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping || len(s.pods.all) >= s.pods.places || s.pods.all[id] != nil {
		return false
	}
	s.pods.all[id] = &pod{members: map[string]bool{id: true}, over: over}
	s.used = true
	begin()
	time.AfterFunc(admitTimeout, func() {
		s.mu.Lock()
		came := s.tasks[id] != nil || s.holders[id] != ""
		s.mu.Unlock()
		if !came {
			s.leave(id)
		}
	})
	return true
}

// attend notes that a container is of a pod.
func (s *Service) attend(id string, annotations map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pods.all[GroupOf(id, annotations)]; p != nil {
		p.members[id] = true
	}
}

// leave takes a container, which is gone or has not come, out of its pod, with what was
// prepared for it, and ends a pod that has no other.
func (s *Service) leave(id string) {
	s.prepared.take(id, nil)
	s.code.Forget(id)
	s.mu.Lock()
	var over []func()
	for name, p := range s.pods.all {
		delete(p.members, id)
		if len(p.members) == 0 {
			over = append(over, p.over)
			delete(s.pods.all, name)
		}
	}
	if len(over) > 0 && len(s.pods.all) == 0 {
		s.pods.emptied = time.Now()
		time.AfterFunc(idleTime, func() { s.stopIfEmpty(s.ctx) })
	}
	s.mu.Unlock()
	for _, end := range over {
		end()
	}
}

// isWaiting says whether a daemon without containers has a reason to stay. It is called
// with mu.
func (s *Service) isWaiting() bool {
	return s.pods.places > 0 && (len(s.pods.all) > 0 || time.Since(s.pods.emptied) < idleTime)
}
