// SPDX-License-Identifier: Apache-2.0

// Package status is the daemon's end of what a runner or a compiler says: lines
// for the log, and in the end why it could not run the guest.
package status

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/options"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// Status is what one process says. An engine's mistake may write anything here,
// so what comes is bounded and only ever logged.
type Status struct {
	// Peer is the process's end, to be inherited as stage.FDStatus; see HandedOver.
	Peer *os.File

	// Valid after Drain.
	At    string // where the process failed
	Cause string // why; empty if it did not

	// Refused is told the index of a layer whose artifact the engine could not
	// load. Set before Follow; may be nil.
	Refused func(index int)

	refusals int // that were told

	conn   *os.File // the daemon's end; non-blocking
	logger *log.Entry
	budget budget
	ended  chan struct{} // closed when Follow has returned
}

// buffer serves all runners of the daemon: most never say anything, and a
// buffer for each would be most of what they cost.
var buffer struct {
	sync.Mutex
	bytes [stage.MaxMessage]byte // guarded by Mutex
}

// New makes the pair of ends. A socket, because a guest that has /proc cannot
// open it by its name there, as it could a pipe.
func New(logger *log.Entry) (*Status, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make status socket: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, fmt.Errorf("make status socket: %w", err)
	}
	return &Status{
		Peer: os.NewFile(uintptr(fds[1]), "status"), conn: os.NewFile(uintptr(fds[0]), "status"),
		logger: logger, ended: make(chan struct{}),
	}, nil
}

// HandedOver closes what the process has inherited.
func (s *Status) HandedOver() { s.Peer.Close() }

// Follow logs what the runner says, until it has ended or Drain is called.
func (s *Status) Follow() {
	defer close(s.ended)
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return
	}
	for open := true; open; {
		if err := raw.Read(func(fd uintptr) bool {
			var again bool
			open, again = s.receive(int(fd))
			return !again
		}); err != nil {
			return
		}
	}
}

// Drain takes what is left after the runner's end, without waiting for others
// that hold its end of the socket, and closes.
func (s *Status) Drain() {
	// Ends Follow's wait.
	_ = s.conn.SetReadDeadline(time.Now())
	<-s.ended
	for open, again := true, false; open && !again; {
		open, again = s.receive(int(s.conn.Fd()))
	}
	if n := s.budget.dropped; n > 0 {
		s.logger.Warnf("%d lines of the engine's were too many for the log", n)
	}
	s.conn.Close()
}

// receive takes one message. open is false after the last one, again is true
// if there is none yet.
func (s *Status) receive(fd int) (open, again bool) {
	buffer.Lock()
	defer buffer.Unlock()
	n, _, err := unix.Recvfrom(fd, buffer.bytes[:], unix.MSG_DONTWAIT)
	switch {
	case err == unix.EAGAIN:
		return true, true
	case err == unix.EINTR:
		return true, false
	case err != nil || n == 0:
		return false, false
	}
	s.take(buffer.bytes[0], string(buffer.bytes[1:n]))
	return true, false
}

// levels are those of wasm_shim.h.
var levels = map[byte]log.Level{1: log.ErrorLevel, 2: log.WarnLevel, 3: log.InfoLevel, 4: log.DebugLevel, 5: log.TraceLevel}

// Level is the level of a runner's lines in words that the C side knows: the
// container's own, or the daemon's, beyond which nothing is written anyway.
func Level(logger *log.Entry, own string) string {
	if own != "" {
		return own
	}
	for kind, level := range levels {
		if level == logger.Logger.GetLevel() {
			return options.LogLevels[kind-1]
		}
	}
	return "error"
}

func (s *Status) take(kind byte, text string) {
	text = strings.TrimRight(text, "\x00\n")
	switch kind {
	case stage.SayFailed:
		s.At, s.Cause, _ = strings.Cut(text, "\x00")
		return
	case stage.SayRefused:
		number, why, _ := strings.Cut(text, "\x00")
		index, err := strconv.Atoi(number)
		if err != nil || index < 0 || s.refusals == stage.MaxLayers {
			return
		}
		s.refusals++
		s.logger.Warnf("the artifact of layer %d does not load, the layer itself is run: %s", index, why)
		if s.Refused != nil {
			s.Refused(index)
		}
		return
	}
	level, known := levels[kind]
	if !known || !s.budget.spend(time.Now()) {
		return
	}
	message, fields, _ := strings.Cut(text, "\x00")
	s.withFields(fields).Log(level, message)
}

// withFields adds what an engine said with a line: "key=value", a NUL after
// each. It cannot change what the shim itself says of the container.
func (s *Status) withFields(text string) *log.Entry {
	if text == "" {
		return s.logger
	}
	fields := log.Fields{}
	for _, field := range strings.Split(text, "\x00") {
		key, value, _ := strings.Cut(field, "=")
		if _, ours := s.logger.Data[key]; ours {
			key = "engine." + key
		}
		fields[key] = value
	}
	return s.logger.WithFields(fields)
}

// Close gives up both ends, of a runner that was never started.
func (s *Status) Close() {
	s.conn.Close()
}

// budget bounds how many lines of one runner's reach the log.
type budget struct {
	since   time.Time // when the window began
	spent   int       // lines in the window
	dropped int       // since the last line that was let through
}

const (
	budgetLines  = 200
	budgetWindow = 10 * time.Second
)

func (b *budget) spend(now time.Time) bool {
	if now.Sub(b.since) > budgetWindow {
		b.since, b.spent = now, 0
	}
	if b.spent >= budgetLines {
		b.dropped++
		return false
	}
	b.spent++
	return true
}
