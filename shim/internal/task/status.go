// SPDX-License-Identifier: Apache-2.0

package task

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/options"
)

// runnerStatus is the daemon's end of what a runner says: lines for the log, and in
// the end why it could not run the guest, or what ended it. An engine's mistake
// may write anything here, so what comes is bounded and only ever logged.
type runnerStatus struct {
	conn    *os.File // the daemon's end; non-blocking
	runner  *os.File // the runner's end, until it has inherited it
	context *os.File // the runner's context, closed with the runner's end
	logger  *log.Entry
	budget  budget
	ended   chan struct{} // closed when follow has returned
	stage   string        // where the runner failed; valid once drained
	cause   string        // why; empty if it did not
}

// maxMessage is how long a message can be; cabi/stage.h has the same number.
const maxMessage = 4096

// buffer serves all runners of the daemon: most never say anything, and a
// buffer for each would be most of what they cost.
var buffer struct {
	sync.Mutex
	bytes [maxMessage]byte // guarded by Mutex
}

// newStatus makes the pair of ends. A socket, because a guest that has /proc
// cannot open it by its name there, as it could a pipe.
func newStatus(context *os.File, logger *log.Entry) (*runnerStatus, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make status socket: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, fmt.Errorf("make status socket: %w", err)
	}
	return &runnerStatus{
		conn: os.NewFile(uintptr(fds[0]), "status"), runner: os.NewFile(uintptr(fds[1]), "status"), context: context,
		logger: logger, ended: make(chan struct{}),
	}, nil
}

// handedOver closes what the runner has inherited.
func (s *runnerStatus) handedOver() {
	s.runner.Close()
	s.context.Close()
}

// follow logs what the runner says, until it has ended or drain is called.
func (s *runnerStatus) follow() {
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

// drain takes what is left after the runner's end, without waiting for others
// that hold its end of the socket, and closes.
func (s *runnerStatus) drain() {
	// Ends follow's wait.
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
func (s *runnerStatus) receive(fd int) (open, again bool) {
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

// logLevel is the level of a runner's lines in words that the C side knows: the
// container's own, or the daemon's, beyond which nothing is written anyway.
func logLevel(logger *log.Entry, own string) string {
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

func (s *runnerStatus) take(kind byte, text string) {
	if kind == 0 {
		s.stage, s.cause, _ = strings.Cut(strings.TrimRight(text, "\x00\n"), "\x00")
		return
	}
	level, known := levels[kind]
	if !known || !s.budget.spend(time.Now()) {
		return
	}
	s.logger.Log(level, text)
}

// close gives up both ends, of a runner that was never started.
func (s *runnerStatus) close() {
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
