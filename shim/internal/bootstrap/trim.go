// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// trimDelay is how long a daemon must have had nothing to do before it gives
// memory back: long enough that the containers of a pod are created first.
const trimDelay = 500 * time.Millisecond

// worthCollecting is how many bytes must have been allocated since the last time. A create
// takes more; whoever only asks, as containerd does for statistics every second, takes less:
// to collect after each question would cost a node much more than the answer.
const worthCollecting = 512 << 10

// trimmer makes an idle daemon small. A node has one for every pod, and most of
// their life they wait.
type trimmer struct {
	timer *time.Timer
	last  atomic.Uint64 // bytes that had been allocated when garbage was collected
}

// newTrimmer begins. pace says how often garbage is collected from then on.
func newTrimmer(pace func()) *trimmer {
	t := &trimmer{}
	t.timer = time.AfterFunc(trimDelay, func() {
		t.collect(func() { giveBack(pace) })
		dropConstants()
	})
	return t
}

// busy puts the trimming off.
func (t *trimmer) busy() { t.timer.Reset(trimDelay) }

// collect collects garbage, if it is worth it.
func (t *trimmer) collect(giveBack func()) {
	if last := t.last.Load(); last == 0 || allocated()-last >= worthCollecting {
		giveBack()
		t.last.Store(allocated())
	}
}

// allocated is how many bytes this process has allocated so far.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// A daemon that has just been started has a container to create, which takes less time
// than the garbage collector would: it waits until the daemon is idle, or has this
// many bytes.
const lateHeap = 32 << 20

func collectLate() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(lateHeap)
}

// collectEarly has the garbage collector run often: a node has a daemon for every pod.
func collectEarly() {
	debug.SetGCPercent(40)
	debug.SetMemoryLimit(math.MaxInt64)
}

// collectMany is for a daemon that creates containers of many pods: with less garbage than
// this, a moment in which it is idle comes soon.
func collectMany() {
	debug.SetGCPercent(300)
	debug.SetMemoryLimit(math.MaxInt64)
}

// giveBack returns free heap to the kernel.
func giveBack(pace func()) {
	pace()
	debug.FreeOSMemory()
}

// dropConstants unmaps the code and constants of this program, which the kernel maps again
// from the page cache, page by page, as they are used: after a create that is much less than
// before.
func dropConstants() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for _, r := range constantRanges(string(maps), exe) {
		// Nothing is lost: these pages are equal to the file's.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, r[0], r[1]-r[0], unix.MADV_DONTNEED)
	}
}

// constantRanges finds the mappings of a program that were never written: its
// code, and its read-only data but for the part that borders on the writable
// data. That part (RELRO) was writable while the program was loaded.
func constantRanges(maps, exe string) (ranges [][2]uintptr) {
	type mapping struct {
		start, end uintptr
		perms      string
	}
	var own []mapping
	for line := range strings.Lines(maps) {
		f := strings.Fields(line)
		if len(f) < 6 || strings.Join(f[5:], " ") != exe {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil {
			return nil
		}
		own = append(own, mapping{uintptr(start), uintptr(end), f[1]})
	}
	for i, m := range own {
		bordersOnData := i+1 < len(own) && own[i+1].perms[1] == 'w'
		if m.perms[1] == 'w' || bordersOnData {
			continue
		}
		ranges = append(ranges, [2]uintptr{m.start, m.end})
	}
	return ranges
}
