// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// The kernel's process events connector (linux/cn_proc.h): it tells of every
// fork, exec and exit, with a monotonic time, and slows nobody down.
const (
	cnIdxProc   = 1
	eventFork   = 1
	eventExec   = 2
	eventExit   = 0x80000000
	eventHeader = unix.NLMSG_HDRLEN + 20 // netlink's and the connector's headers
)

// event is something that happened at a time: a mark of ours or a process's.
type event struct {
	at   time.Duration // since boot
	text string
}

// watcher follows the descendants of one process.
type watcher struct {
	fd     int
	done   chan struct{}
	mu     sync.Mutex
	names  map[uint32]string // pid -> what it is, of those followed; guarded by mu
	events []event           // guarded by mu
}

func watch(root int) (*watcher, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnIdxProc}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000})
	w := &watcher{fd: fd, done: make(chan struct{}), names: map[uint32]string{uint32(root): "containerd"}}
	if err := w.listen(1); err != nil {
		unix.Close(fd)
		return nil, err
	}
	go w.run()
	return w, nil
}

// listen turns the events on (1) or off (2).
func (w *watcher) listen(op uint32) error {
	message := make([]byte, eventHeader+4)
	e := binary.NativeEndian
	e.PutUint32(message[0:], uint32(len(message)))
	e.PutUint16(message[4:], unix.NLMSG_DONE)
	e.PutUint32(message[16:], cnIdxProc)
	e.PutUint32(message[20:], 1) // CN_VAL_PROC
	e.PutUint16(message[32:], 4) // length of what follows
	e.PutUint32(message[36:], op)
	return unix.Sendto(w.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func (w *watcher) run() {
	defer close(w.done)
	buf := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS):
			continue
		case err != nil:
			return // closed
		case n >= eventHeader+32:
			w.take(buf[eventHeader:n])
		}
	}
}

func (w *watcher) take(b []byte) {
	e := binary.NativeEndian
	what, at := e.Uint32(b), time.Duration(e.Uint64(b[8:]))
	pid, tgid := e.Uint32(b[16:]), e.Uint32(b[20:])
	w.mu.Lock()
	defer w.mu.Unlock()
	switch what {
	case eventFork:
		child, childGroup := e.Uint32(b[24:]), e.Uint32(b[28:])
		// A CLONE_PARENT child, as runc's second stage makes, names its
		// grandparent here; it is followed all the same.
		if parent, ok := w.names[tgid]; ok && child == childGroup {
			w.names[child] = "child of " + strings.TrimPrefix(parent, "child of ")
			if parent != "containerd" { // its fork is told by the exec that follows
				w.events = append(w.events, event{at, "fork by " + parent})
			}
		}
	case eventExec:
		if _, ok := w.names[tgid]; ok {
			w.names[tgid] = program(tgid)
			w.events = append(w.events, event{at, "exec    " + w.names[tgid]})
		}
	case eventExit:
		if name, ok := w.names[tgid]; ok && pid == tgid {
			delete(w.names, tgid)
			w.events = append(w.events, event{at, "exit of " + name})
		}
	}
}

// program names a process by its file and what tells its role.
func program(pid uint32) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
	name := filepath.Base(args[0])
	if strings.HasPrefix(args[0], "/proc/") {
		name = args[0] // a sealed copy of the shim or of runc
	}
	skip := false // the value of a flag
	for _, arg := range args[1:] {
		switch {
		case skip:
			skip = false
		case arg == "-info" || arg == "--version":
			return name + " " + arg
		case strings.HasPrefix(arg, "-"):
			skip = !strings.Contains(arg, "=") && arg != "-debug" && arg != "--systemd-cgroup"
		default:
			return name + " " + arg
		}
	}
	return name
}

func (w *watcher) mark(text string) {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, event{time.Duration(now.Nano()), "-- " + text})
}

// flush returns what has been seen since the last time.
func (w *watcher) flush() []event {
	time.Sleep(100 * time.Millisecond) // for what comes after delete
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.events
	w.events = nil
	sort.SliceStable(all, func(i, j int) bool { return all[i].at < all[j].at })
	return all
}

func (w *watcher) close() {
	_ = w.listen(2)
	unix.Close(w.fd)
	<-w.done
}

// steps shows what runs when in a task's life: medians over some lives.
func (b *bench) steps(subjects []subject) error {
	w, err := watch(b.Pid())
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: without steps: the kernel's process events: %v\n", err)
		return nil
	}
	defer w.close()
	const lives = 15
	for _, s := range subjects {
		seen := map[string][]time.Duration{}
		for range lives {
			w.flush()
			if _, err := b.live(s, w.mark); err != nil {
				return err
			}
			count := map[string]int{}
			var zero time.Duration
			for _, e := range w.flush() {
				if e.text == "-- create called" {
					zero = e.at
				}
				// The third exec of a program is the third in every life.
				count[e.text]++
				key := fmt.Sprintf("%s\x00%d", e.text, count[e.text])
				seen[key] = append(seen[key], e.at-zero)
			}
		}
		type row struct {
			text string
			at   time.Duration
		}
		var all []row
		for key, times := range seen {
			if len(times) <= lives/2 {
				continue
			}
			slices.Sort(times)
			text, _, _ := strings.Cut(key, "\x00")
			all = append(all, row{text, times[len(times)/2]})
		}
		sort.Slice(all, func(i, j int) bool { return all[i].at < all[j].at })
		fmt.Printf("\nSteps of a hello, %s: ms since create was called, and since the step before; medians of %d\n", s.name, lives)
		last := time.Duration(0)
		for _, r := range all {
			fmt.Printf("%8.2f %+7.2f  %s\n", ms(r.at), ms(r.at-last), r.text)
			last = r.at
		}
	}
	return nil
}

// What our shim logs at level debug: `create took spec=1.2ms rootfs=…`.
var (
	tookLine = regexp.MustCompile(`msg="?(\w+) took ([^"]+)`)
	tookStep = regexp.MustCompile(`(\S+)=(\S+)`)
)

// inside shows where our shim's time goes, as it logs it itself. It needs
// another daemon, whose log level is debug.
func (b *bench) inside(subjects []subject) (retErr error) {
	d, err := harness.StartLogging(b.ctx, harness.Containerd24, "debug")
	if err != nil {
		return err
	}
	defer func() {
		if err := d.Stop(); err != nil && retErr == nil {
			retErr = err
		}
	}()
	debug := &bench{Daemon: d, ctx: d.In(b.ctx), n: b.n, files: b.files}
	if debug.image, err = d.Image(b.ctx, "bench", b.files, ocispec.ImageConfig{}); err != nil {
		return err
	}
	const lives = 15
	for _, s := range subjects {
		if s.runtime != ours {
			continue
		}
		seen := map[string][]time.Duration{}
		var order []string
		from := len(d.LogTail(1 << 30))
		for range lives {
			if _, err := debug.live(s, func(string) {}); err != nil {
				return err
			}
		}
		time.Sleep(100 * time.Millisecond) // for the last lines
		for _, line := range tookLine.FindAllStringSubmatch(d.LogTail(1 << 30)[from:], -1) {
			for _, step := range tookStep.FindAllStringSubmatch(line[2], -1) {
				took, err := time.ParseDuration(step[2])
				if err != nil {
					continue
				}
				key := line[1] + "\t" + step[1]
				if seen[key] == nil {
					order = append(order, key)
				}
				seen[key] = append(seen[key], took)
			}
		}
		rows := []string{"call\tstep\tms"}
		for _, key := range order {
			rows = append(rows, fmt.Sprintf("%s\t%.2f", key, ms(quantile(seen[key], 0.5, func(d time.Duration) time.Duration { return d }))))
		}
		table(fmt.Sprintf("Inside our shim, %s: medians of %d", s.name, lives), rows...)
	}
	return nil
}
