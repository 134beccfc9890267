// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// starts knows which children of this process belong to somebody.
//
// libcontainer's nsexec makes three processes per start, all children of ours.
// When one of them dies half-way (OOM, kill -9), libcontainer does not learn the
// others' ids and never waits for them: a zombie, or a stage that is still
// reading, stays for each. They are known by the name that nsexec gives them, by
// not being waited for, and by not belonging to a start that is under way.
var starts = struct {
	sync.Mutex
	next     uint64
	underWay map[uint64]struct{}
	owned    map[int]*process // children that some process.reap waits for
	suspects []suspect
}{underWay: map[uint64]struct{}{}, owned: map[int]*process{}}

// suspect is a child that belongs either to a start numbered below before, or
// to nobody.
type suspect struct {
	stat
	before uint64
}

// beginStart must be called before libcontainer forks, and endStart when the
// child's fate is known.
func beginStart() uint64 {
	starts.Lock()
	defer starts.Unlock()
	starts.next++
	starts.underWay[starts.next] = struct{}{}
	return starts.next
}

// endStart ends a start that gave child, or that failed if child is nil. Then
// what is left of failed ones is killed and reaped, as soon as no older start
// that may own it is under way.
func endStart(n uint64, child *process) {
	for _, s := range takeOrphans(n, child) {
		s.reap()
	}
}

// takeOrphans ends a start and returns whom no start owns any more.
func takeOrphans(n uint64, child *process) (orphans []suspect) {
	starts.Lock()
	defer starts.Unlock()
	delete(starts.underWay, n)
	if child != nil {
		starts.owned[child.pid] = child
	} else {
		for _, s := range stages() {
			starts.suspects = append(starts.suspects, suspect{s, starts.next + 1})
		}
	}
	oldest := starts.next + 1
	for n := range starts.underWay {
		oldest = min(oldest, n)
	}
	later := starts.suspects[:0]
	for _, s := range starts.suspects {
		switch {
		case s.before > oldest:
			later = append(later, s)
		case starts.owned[s.pid] == nil && s.same():
			orphans = append(orphans, s)
		}
	}
	starts.suspects = later
	return orphans
}

// disown is called when child has been waited for.
func disown(child *process) {
	starts.Lock()
	defer starts.Unlock()
	if starts.owned[child.pid] == child { // else the id is in use again
		delete(starts.owned, child.pid)
	}
}

// reap kills and waits. The bound is for a process in uninterruptible sleep.
func (s suspect) reap() {
	_ = unix.Kill(s.pid, unix.SIGKILL)
	for delay := 50 * time.Microsecond; delay < killTimeout; delay *= 2 {
		pid, err := unix.Wait4(s.pid, nil, unix.WNOHANG, nil)
		if pid != 0 && !errors.Is(err, unix.EINTR) {
			return
		}
		time.Sleep(delay)
	}
}

func (s suspect) same() bool {
	now, err := readStat(s.pid)
	return err == nil && now.start == s.start && now.ppid == os.Getpid()
}

// stages lists the children of this process that have not got past nsexec and
// libcontainer's init.
func stages() []stat {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	var found []stat
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		s, err := readStat(pid)
		if err == nil && s.ppid == os.Getpid() && strings.HasPrefix(s.name, "runc:[") {
			found = append(found, s)
		}
	}
	return found
}
